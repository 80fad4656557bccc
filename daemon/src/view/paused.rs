// SPDX-License-Identifier: GPL-2.0-only

//! Why a resync waits.

use weft_uapi::status::{PAUSED_HERE, PAUSED_SOURCE, PAUSED_THERE};

const REASONS: &[(u32, &str)] = &[
    (PAUSED_HERE, "here"),
    (PAUSED_THERE, "peer"),
    (PAUSED_SOURCE, "source"),
];

/// The reasons that these bits stand for, as the JSON of `weft status` names them.
pub(super) fn reasons(bits: u32) -> Vec<String> {
    let set = REASONS.iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// The reasons in words, with the way out; `None`: nothing waits.
pub(super) fn why(reasons: &[String]) -> Option<&'static str> {
    let has = |name: &str| reasons.iter().any(|reason| reason == name);
    match (has("here"), has("peer"), has("source")) {
        (true, true, _) => Some("waits: resume-sync is due here and on the peer"),
        (true, false, _) => Some("waits: resume-sync is due here"),
        (false, true, _) => Some("waits: resume-sync is due on the peer"),
        (false, false, true) => Some("waits: another node is the one to fetch from"),
        (false, false, false) => None,
    }
}
