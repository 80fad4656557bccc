// SPDX-License-Identifier: GPL-2.0-only

//! Who votes, and what happens without a majority.

use super::check::{fault, Checked};
use super::file::Resource;
use weft_uapi::state::OnNoQuorum;
use weft_uapi::units::NodeSet;

/// Votes count by themselves from so many voters on: of two, neither could lose the other and go on.
const VOTERS_DEFAULT: u32 = 3;

/// The nodes that vote, none when votes do not count: all with a disk, and one tie-breaker when they are even in number.
pub(super) fn voters(raw: &Resource, disks: NodeSet, tie_breakers: NodeSet) -> Checked<NodeSet> {
    let odd = tie_breakers.iter().next().filter(|_| disks.len() % 2 == 0);
    let voters = odd.map_or(disks, |tie_breaker| disks.with(tie_breaker));
    let is_on = match &raw.quorum {
        None => voters.len() >= VOTERS_DEFAULT,
        Some(value) => match value.get_ref().as_str() {
            "off" => false,
            "majority" if voters.len() < 2 => {
                return Err(fault(
                    value,
                    "quorum = \"majority\" needs two voters at least, better three; say quorum = \"off\"",
                ))
            }
            "majority" => true,
            _ => return Err(fault(value, "quorum is \"majority\" or \"off\"")),
        },
    };
    Ok(if is_on { voters } else { NodeSet::EMPTY })
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
