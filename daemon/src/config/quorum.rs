// SPDX-License-Identifier: GPL-2.0-only

//! Who votes, and what happens without a majority.

use super::check::{fault, Checked};
use super::file::Resource;
use weft_uapi::state::OnNoQuorum;
use weft_uapi::units::NodeSet;

/// Votes count by themselves from so many voters on: of two, neither could lose the other and go on.
const VOTERS_DEFAULT: u32 = 3;

/// The nodes that vote; none when votes do not count.
pub(super) fn voters(raw: &Resource, disks: NodeSet) -> Checked<NodeSet> {
    let is_on = match &raw.quorum {
        None => disks.len() >= VOTERS_DEFAULT,
        Some(value) => match value.get_ref().as_str() {
            "off" => false,
            "majority" if disks.len() < 2 => {
                return Err(fault(
                    value,
                    "quorum = \"majority\" needs two voters at least, better three; say quorum = \"off\"",
                ))
            }
            "majority" => true,
            _ => return Err(fault(value, "quorum is \"majority\" or \"off\"")),
        },
    };
    Ok(if is_on { disks } else { NodeSet::EMPTY })
}

/// What becomes of requests without quorum.
pub(super) fn on_no_quorum(raw: &Resource, voters: NodeSet) -> Checked<OnNoQuorum> {
    let Some(value) = &raw.on_no_quorum else {
        return Ok(OnNoQuorum::default());
    };
    if voters.is_empty() {
        return Err(fault(
            value,
            "on-no-quorum means nothing without quorum: say quorum = \"majority\", or leave it out",
        ));
    }
    OnNoQuorum::from_name(value.get_ref())
        .ok_or_else(|| fault(value, "on-no-quorum is \"suspend-io\" or \"io-error\""))
}
