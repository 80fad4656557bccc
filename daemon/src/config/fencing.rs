// SPDX-License-Identifier: GPL-2.0-only

//! What is done about a peer out of reach, and by which program.

use super::check::{fault, path, within, Checked};
use super::file::Resource;
use super::FencePeer;
use std::ops::RangeInclusive;
use std::time::Duration;
use weft_uapi::state::Fencing;

const TIMEOUT_S: RangeInclusive<u64> = 1..=3600;
const TIMEOUT_S_DEFAULT: u64 = 60;

/// The policy.
pub(super) fn policy(raw: &Resource) -> Checked<Fencing> {
    let Some(value) = &raw.fencing else {
        return Ok(Fencing::default());
    };
    let policy = Fencing::from_name(value.get_ref()).ok_or_else(|| {
        fault(
            value,
            "fencing is \"dont-care\", \"resource-only\" or \"resource-and-stonith\"",
        )
    })?;
    if policy != Fencing::DontCare && raw.handlers.fence_peer.is_none() {
        return Err(fault(
            value,
            "fencing needs a program that does it: say fence-peer = \"/path\" in [resource.handlers]",
        ));
    }
    Ok(policy)
}

/// The program, if there is one.
pub(super) fn program(raw: &Resource) -> Checked<Option<FencePeer>> {
    let handlers = &raw.handlers;
    let seconds = within(
        "fence-peer-timeout",
        handlers.fence_peer_timeout.as_ref(),
        TIMEOUT_S,
        TIMEOUT_S_DEFAULT,
    )?;
    let program = handlers.fence_peer.as_ref().map(path).transpose()?;
    Ok(program.map(|program| FencePeer {
        program,
        timeout: Duration::from_secs(seconds),
    }))
}
