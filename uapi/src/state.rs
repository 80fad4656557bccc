// SPDX-License-Identifier: GPL-2.0-only

//! Roles and states with their names, as they stand in packets, netlink records and status output.

/// Defines an enumeration with fixed numbers and the names that people see.
macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant = $number,)+
        }

        impl $name {
            /// All values in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value with this number, or `None` when there is none.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The fixed number.
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The name that people see and type.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// All values as numbers and names.
            pub const CHOICES: &'static [(u32, &'static str)] = &[$(($number, $text)),+];

            /// The value with this name, or `None` when there is none.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use states;

states! {
    /// What a node may do with the devices of a resource.
    Role {
        /// Not known (of a peer that is not connected).
        Unknown = 0 "unknown",
        /// Devices cannot be opened.
        Secondary = 1 "secondary",
        /// Devices may be opened and written.
        Primary = 2 "primary",
    }
}

states! {
    /// What is known of the data on one node's disk; the order matters, "better" is larger. 3 was never used.
    DiskState {
        /// No disk attached.
        Diskless = 0 "diskless",
        /// The metadata is being read.
        Attaching = 1 "attaching",
        /// The disk reported an error and is being let go.
        Failed = 2 "failed",
        /// Parts are older than others: an unfinished sync target.
        Inconsistent = 4 "inconsistent",
        /// One point in time, but known to be of the past.
        Outdated = 5 "outdated",
        /// Not known (of a peer that is not connected).
        Unknown = 6 "unknown",
        /// One point in time; whether the newest one shows at the next contact.
        Consistent = 7 "consistent",
        /// The newest data.
        UpToDate = 8 "uptodate",
    }
}

states! {
    /// State of the connection to one peer of a resource.
    ConnectionState {
        /// Not wanted: never connected, disconnected by command, or refused for a reason that needs a person.
        StandAlone = 0 "standalone",
        /// Wanted; no daemon serves `/dev/weft`.
        Unserved = 1 "unserved",
        /// Wanted; the daemon has the offer and tries to reach the peer.
        Connecting = 2 "connecting",
        /// Both links are there; hellos and states are being exchanged.
        Handshake = 3 "handshake",
        /// A session is running.
        Connected = 4 "connected",
    }
}

states! {
    /// What happens between one volume and the same volume of a connected peer.
    ReplicationState {
        /// No session.
        Off = 0 "off",
        /// Writes are mirrored, nothing is owed.
        Established = 1 "established",
        /// Bitmaps are being exchanged; this side will be the source.
        BitmapSource = 2 "bitmap-source",
        /// Bitmaps are being exchanged; this side will be the target.
        BitmapTarget = 3 "bitmap-target",
        /// The peer fetches blocks from here.
        SyncSource = 4 "sync-source",
        /// Blocks are fetched from the peer.
        SyncTarget = 5 "sync-target",
        /// The peer lacks data of this disk, and waits for another source.
        PausedSource = 6 "paused-sync-source",
        /// This disk lacks data of the peer's, and waits for another source.
        PausedTarget = 7 "paused-sync-target",
        /// As established; the peer compares its disk with digests of this one.
        VerifySource = 8 "verify-source",
        /// As established; this disk is compared with digests of the peer's.
        VerifyTarget = 9 "verify-target",
        /// The peer does not keep up: it gets no writes before it has answered for those that it was sent.
        Ahead = 10 "ahead",
        /// This disk does not keep up with the writes of the peer, and lacks some.
        Behind = 11 "behind",
    }
}

states! {
    /// What became of the last comparison of two disks.
    #[derive(Default)]
    VerifyState {
        /// There was none.
        #[default]
        Never = 0 "never",
        /// It is under way.
        Running = 1 "running",
        /// It came to its end.
        Finished = 2 "finished",
        /// A person ended it.
        Stopped = 3 "stopped",
        /// The connection was lost.
        Disconnected = 4 "disconnected",
        /// A disk or a role changed.
        Interrupted = 5 "interrupted",
        /// What it found is being repaired, or was.
        Repaired = 6 "repaired",
    }
}

impl VerifyState {
    /// Whether it can go on from where it ended.
    pub const fn is_resumable(self) -> bool {
        matches!(self, Self::Stopped | Self::Disconnected | Self::Interrupted)
    }
}

states! {
    /// When a write is complete for the application.
    Protocol {
        /// When it is on the local disk and handed to the connection.
        A = 1 "A",
        /// When it is on the local disk and in the peer's memory.
        B = 2 "B",
        /// When it is on the local disk and on every connected up-to-date peer's.
        C = 3 "C",
    }
}

states! {
    /// What becomes of requests while no majority of the voters knows the current generation.
    #[derive(Default)]
    OnNoQuorum {
        /// They wait.
        #[default]
        Suspend = 1 "suspend-io",
        /// They fail.
        Fail = 2 "io-error",
    }
}

states! {
    /// What is done about a peer out of reach that may go on by itself.
    #[derive(Default)]
    Fencing {
        /// Nothing.
        #[default]
        DontCare = 1 "dont-care",
        /// It is fenced; a primary goes on meanwhile.
        ResourceOnly = 2 "resource-only",
        /// It is fenced before a primary goes on.
        ResourceAndStonith = 3 "resource-and-stonith",
    }
}

states! {
    /// Whether two nodes may be primary at the same time.
    #[derive(Default)]
    TwoPrimaries {
        /// They may not.
        #[default]
        Refused = 1 "refused",
        /// They may.
        Allowed = 2 "allowed",
    }
}

states! {
    /// Whether opening a device for writing makes a node primary until the last close.
    #[derive(Default)]
    AutoPromote {
        /// It does not.
        No = 1 "no",
        /// It does, but without quorum and fencing only while no member of the data's current record is out of reach: nobody
        /// else says that such a one is not primary.
        #[default]
        Guarded = 2 "guarded",
        /// It does whenever a command would.
        Yes = 3 "yes",
    }
}

states! {
    /// What a fence-peer handler says of the peer; the numbers are its exit codes, but for the first.
    FenceOutcome {
        /// It says nothing: it failed, was killed, took too long, or there is none.
        Failed = 1 "failed",
        /// The peer's disk was made inconsistent, or is.
        Inconsistent = 3 "inconsistent",
        /// The peer's disk was made outdated, or is.
        Outdated = 4 "outdated",
        /// The peer is down: it cannot be reached in any other way either.
        Unreachable = 5 "unreachable",
        /// The peer refused: it is primary.
        Primary = 6 "primary",
        /// The peer was shot.
        Stonithed = 7 "stonithed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back_to_the_state() {
        for &state in DiskState::ALL {
            assert_eq!(DiskState::from_number(state.number()), Some(state));
            assert_eq!(DiskState::from_name(state.name()), Some(state));
        }
        assert_eq!(DiskState::from_number(99), None);
    }
}
