// SPDX-License-Identifier: GPL-2.0-only

//! The legal changes of every state, as tables. A change that is not listed is a bug and stops the volume.
//!
//! | state | lives in |
//! |---|---|
//! | [`Role`] | the engine, one per resource |
//! | [`DiskState`] | a volume |
//! | [`ConnectionState`] | a peer |
//! | [`ReplicationState`] | a volume towards a peer |

use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};

use ConnectionState as C;
use DiskState as D;
use ReplicationState as R;

const ROLE: &[(Role, Role)] = &[
    (Role::Secondary, Role::Primary), // promoted
    (Role::Primary, Role::Secondary), // demoted
];

const DISK: &[(D, D)] = &[
    (D::Diskless, D::Attaching),     // a disk was handed over
    (D::Attaching, D::Inconsistent), // attached: blank, or an unfinished target
    (D::Attaching, D::Outdated),     // attached: known to be of the past
    (D::Attaching, D::Consistent),   // attached: perhaps the newest
    (D::Attaching, D::Failed),       // the first metadata write failed
    (D::Attaching, D::Diskless),     // detached before the attach was durable
    (D::Consistent, D::UpToDate),    // a peer agreed, or promoted
    (D::Consistent, D::Outdated),    // a primary writes on without it
    (D::UpToDate, D::Outdated),
    (D::Outdated, D::UpToDate),     // a peer agreed, or promoted by force
    (D::Inconsistent, D::UpToDate), // sync finished, or promoted by force
    (D::Consistent, D::Inconsistent), // sync target
    (D::Outdated, D::Inconsistent), // sync target
    (D::UpToDate, D::Inconsistent), // sync target
    (D::Inconsistent, D::Failed),   // the disk reported an error
    (D::Outdated, D::Failed),
    (D::Consistent, D::Failed),
    (D::UpToDate, D::Failed),
    (D::Inconsistent, D::Diskless), // detached
    (D::Outdated, D::Diskless),
    (D::Consistent, D::Diskless),
    (D::UpToDate, D::Diskless),
    (D::Failed, D::Diskless), // let go
];

const CONNECTION: &[(C, C)] = &[
    (C::StandAlone, C::Connecting), // connect
    (C::Connecting, C::Handshake),  // both links are there
    (C::Handshake, C::Connected),   // every volume is decided
    (C::Handshake, C::Connecting),  // lost: tried again
    (C::Connected, C::Connecting),
    (C::Connecting, C::StandAlone), // disconnect, or a reason that needs a person
    (C::Handshake, C::StandAlone),
    (C::Connected, C::StandAlone),
];

/// What a round of the negotiation may lead to, from whatever state.
const DECIDED: &[R] = &[
    R::Established,  // equal, or nothing to be had
    R::BitmapSource, // one fetches from the other
    R::BitmapTarget,
    R::PausedSource, // one lacks data, but fetches from somebody else
    R::PausedTarget,
];

const REPLICATION: &[(R, R)] = &[
    (R::BitmapSource, R::SyncSource), // the target took the generation over
    (R::BitmapTarget, R::SyncTarget), // inconsistency is on record
    (R::SyncSource, R::Established),  // the target is a member
    (R::SyncTarget, R::Established),
];

/// Whether the role may change so.
pub fn role_may_change(old: Role, new: Role) -> bool {
    ROLE.contains(&(old, new))
}

/// Whether a disk's state may change so.
pub fn disk_may_change(old: DiskState, new: DiskState) -> bool {
    DISK.contains(&(old, new))
}

/// Whether a connection's state may change so.
pub fn connection_may_change(old: ConnectionState, new: ConnectionState) -> bool {
    CONNECTION.contains(&(old, new))
}

/// Whether a replication state may change so.
pub fn replication_may_change(old: ReplicationState, new: ReplicationState) -> bool {
    let has_ended = new == R::Off;
    has_ended || DECIDED.contains(&new) || REPLICATION.contains(&(old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_is_listed_twice_or_leads_nowhere() {
        fn assert_proper<S: Copy + PartialEq + core::fmt::Debug>(table: &[(S, S)]) {
            for (at, change) in table.iter().enumerate() {
                assert_ne!(change.0, change.1);
                assert!(!table[..at].contains(change), "{change:?}");
            }
        }
        assert_proper(ROLE);
        assert_proper(DISK);
        assert_proper(CONNECTION);
        assert_proper(REPLICATION);
    }

    #[test]
    fn an_inconsistent_disk_never_becomes_consistent_by_itself() {
        assert!(!disk_may_change(D::Inconsistent, D::Consistent));
        assert!(!disk_may_change(D::Inconsistent, D::Outdated));
    }
}
