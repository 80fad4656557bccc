// SPDX-License-Identifier: GPL-2.0-only

//! Why a resync waits.

use weft_uapi::status::{
    PAUSED_AFTER, PAUSED_AFTER_THERE, PAUSED_HERE, PAUSED_SOURCE, PAUSED_THERE,
};

const REASONS: &[(u32, &str)] = &[
    (PAUSED_HERE, "here"),
    (PAUSED_THERE, "peer"),
    (PAUSED_SOURCE, "source"),
    (PAUSED_AFTER, "after"),
    (PAUSED_AFTER_THERE, "peer-after"),
];

/// The reasons that these bits stand for, as the JSON of `weft status` names them.
pub(super) fn reasons(bits: u32) -> Vec<String> {
    let set = REASONS.iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// The reasons in words, with the way out; `None`: nothing waits. `first` is the resource whose resyncs come first here.
pub(super) fn why(reasons: &[String], first: Option<&str>) -> Option<String> {
    let has = |name: &str| reasons.iter().any(|reason| reason == name);
    let person = match (has("here"), has("peer")) {
        (true, true) => Some("resume-sync is due here and on the peer"),
        (true, false) => Some("resume-sync is due here"),
        (false, true) => Some("resume-sync is due on the peer"),
        (false, false) => None,
    };
    let first = first.unwrap_or("another resource");
    let turn = match (has("after"), has("peer-after")) {
        (true, _) => Some(format!("the resyncs of {first} come first (resync-after)")),
        (false, true) => {
            Some("those of another resource come first on the peer (resync-after)".to_owned())
        }
        (false, false) => None,
    };
    let source = has("source").then(|| "another node is the one to fetch from".to_owned());
    let why = person.map(str::to_owned).or(turn).or(source)?;
    Some(format!("waits: {why}"))
}
