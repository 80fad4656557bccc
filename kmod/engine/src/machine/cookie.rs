// SPDX-License-Identifier: GPL-2.0-only

//! What a disk or metadata operation belongs to, packed into the number that comes back with its answer.

use crate::event::Cookie;
use weft_uapi::units::VolumeId;

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// A request of the application.
    Request(u32),
    /// Something that a peer asked for.
    PeerOp(u32),
    /// A flush that makes the last writes of this node stable.
    TailFlush,
    /// A flush that makes a peer's writes stable.
    ReceivedFlush(u32),
    /// The superblock.
    Superblock,
    /// A transaction of the activity log.
    Log,
    /// A block of a bitmap, by its place among those in flight.
    Bitmap(u32),
    /// A block of the metadata's copy on a larger disk.
    Copy,
    /// Zeros where the metadata were before.
    Erase,
    /// A block that could not be read.
    Heal,
}

impl Work {
    /// The cookie of this work on a volume.
    pub(super) fn cookie(self, volume: VolumeId) -> Cookie {
        let (kind, index) = match self {
            Self::Request(index) => (1, index),
            Self::PeerOp(index) => (2, index),
            Self::TailFlush => (3, 0),
            Self::ReceivedFlush(peer) => (4, peer),
            Self::Superblock => (5, 0),
            Self::Log => (6, 0),
            Self::Bitmap(place) => (7, place),
            Self::Copy => (8, 0),
            Self::Erase => (9, 0),
            Self::Heal => (10, 0),
        };
        Cookie((u64::from(volume.0) << 48) | (kind << 32) | u64::from(index))
    }

    /// Volume and work of a cookie; `None`: not one of the engine's.
    pub(super) fn of(cookie: Cookie) -> Option<(VolumeId, Self)> {
        let index = (cookie.0 & u64::from(u32::MAX)) as u32;
        let work = match (cookie.0 >> 32) & 0xffff {
            1 => Self::Request(index),
            2 => Self::PeerOp(index),
            3 => Self::TailFlush,
            4 => Self::ReceivedFlush(index),
            5 => Self::Superblock,
            6 => Self::Log,
            7 => Self::Bitmap(index),
            8 => Self::Copy,
            9 => Self::Erase,
            10 => Self::Heal,
            _ => return None,
        };
        Some((VolumeId((cookie.0 >> 48) as u16), work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_leads_back_to_its_work() {
        for work in [
            Work::Request(7),
            Work::PeerOp(u32::MAX),
            Work::TailFlush,
            Work::ReceivedFlush(31),
            Work::Log,
            Work::Copy,
            Work::Erase,
            Work::Heal,
        ] {
            assert_eq!(
                Work::of(work.cookie(VolumeId(254))),
                Some((VolumeId(254), work))
            );
        }
        assert_eq!(Work::of(Cookie(0)), None);
    }
}
