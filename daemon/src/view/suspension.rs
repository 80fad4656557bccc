// SPDX-License-Identifier: GPL-2.0-only

//! Why I/O waits, and what ends it.

use super::model::Quorum;
use weft_uapi::status::{
    SUSPENDED_BROKEN, SUSPENDED_COMMAND, SUSPENDED_FENCING, SUSPENDED_FREEZE, SUSPENDED_NO_DATA,
    SUSPENDED_NO_SERVER, SUSPENDED_QUORUM, SUSPENDED_TRANSITION,
};

const REASONS: &[(u32, &str)] = &[
    (SUSPENDED_TRANSITION, "transition"),
    (SUSPENDED_NO_DATA, "no-data"),
    (SUSPENDED_BROKEN, "broken"),
    (SUSPENDED_QUORUM, "quorum"),
    (SUSPENDED_FENCING, "fencing"),
    (SUSPENDED_NO_SERVER, "no-server"),
    (SUSPENDED_COMMAND, "command"),
    (SUSPENDED_FREEZE, "freeze"),
];

/// The reasons that these bits stand for, as the JSON of `weft status` names them.
pub(super) fn reasons(bits: u32) -> Vec<&'static str> {
    let set = REASONS.iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| *name).collect()
}

/// A reason in words.
pub(super) fn why(reason: &str) -> &'static str {
    match reason {
        "transition" => "a handshake or a new generation has to be recorded first",
        "no-data" => "no up-to-date data can be reached",
        "broken" => "an internal rule was broken and the resource stopped to protect the data",
        "quorum" => "no majority of the voters knows which data this node goes on with",
        "fencing" => "a peer was lost and may go on by itself until it is fenced",
        "no-server" => {
            "this node has no good data of its own, and no connected peer that has all that was shown to its users"
        }
        "command" => "a person suspended it",
        "freeze" => "a person had its file systems frozen",
        _ => "for a reason that this version does not know",
    }
}

/// What to try.
pub(super) fn way_out(reason: &str, resource: &str, quorum: &Quorum) -> String {
    match reason {
        "transition" => format!("it goes on by itself; weft status {resource} --watch"),
        "no-data" => format!(
            "connect a peer that has them: weft up {resource} there, weft wait-connect {resource} here"
        ),
        "broken" => {
            format!("dmesg | grep weft, then weft down {resource} and weft up {resource}")
        }
        "quorum" => {
            let missing: Vec<_> = quorum.missing().iter().map(u8::to_string).collect();
            format!(
                "start the missing voters (node {}) or repair the network, and weft wait-connect {resource}; \
                 to have the requests fail instead: weftsetup options {resource} --on-no-quorum io-error",
                missing.join(", ")
            )
        }
        "fencing" => format!(
            "the fence-peer handler is run until it works (journalctl -u weftd); or weft wait-connect {resource}; \
             if you know that the peer is down: weftsetup options {resource} --fencing dont-care"
        ),
        "no-server" => format!(
            "start the nodes that carried out its requests, or repair the network, and weft wait-connect {resource}; \
             weft status {resource} there tells whether they are up to date; \
             to have the requests fail instead: weft secondary {resource} --force"
        ),
        "command" | "freeze" => format!("weft resume-io {resource}"),
        _ => "dmesg | grep weft".to_owned(),
    }
}
