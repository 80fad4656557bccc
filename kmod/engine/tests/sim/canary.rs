// SPDX-License-Identifier: GPL-2.0-only

//! Rules broken on purpose, by a host that does not do what the engine was promised. Each one stands for a mistake in
//! the engine that would have the same consequence; the checkers have to see every one of them.

use crate::heal::LOSSES_FROM;
use crate::verify::VERIFIES_FROM;
use crate::world::BRISK_FROM;

/// A way to cheat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Canary {
    /// Metadata are written without making the data before them stable.
    MetaWithoutFlush,
    /// Transactions of the activity log are answered, but not written.
    SwallowLog,
    /// Superblocks are answered, but not written.
    SwallowSuperblock,
    /// Blocks of the bitmap are answered, but not written.
    SwallowBitmap,
    /// A sync target does not record that it is inconsistent.
    DropInconsistent,
    /// A flush is answered, but not done.
    FakeStable,
    /// A write of the peer is acknowledged while it is still on its way to the disk.
    FakeWritten,
    /// Pages of the bitmap get lost on the way to the peer.
    DropBitmapPages,
    /// Two packets with data change places on the link.
    ReorderSends,
    /// The peer says that a generation is durable as soon as it hears of it.
    FakeDurable,
    /// A write does not reach the peer's disk.
    LoseWrite,
    /// Data sent for a resync are not written.
    LoseResync,
    /// An older image of a disk looks as if it were a new one.
    HideRollback,
    /// An image of a disk looks as old as the disk was when it was put back.
    HideAge,
    /// Of two nodes that meet, one gives its data up although nobody said so.
    MergeForks,
    /// Some acknowledgements of writes get lost.
    LoseAcks,
    /// Nobody waits for a majority.
    NoMajority,
    /// A record is said to be with all nodes as soon as it is in force.
    ClaimHolders,
    /// Voters that vanished are on record as if they had left in order.
    CountVanished,
    /// Digests are of what a power cut would leave, and not of what was written last.
    StaleDigest,
    /// Digests do not show that a disk went bad.
    BlindDigest,
    /// Who cannot read a block is told what is in another one.
    WrongBlock,
}

impl Canary {
    pub(crate) const ALL: [Self; 22] = [
        Self::MetaWithoutFlush,
        Self::SwallowLog,
        Self::SwallowSuperblock,
        Self::SwallowBitmap,
        Self::DropInconsistent,
        Self::FakeStable,
        Self::FakeWritten,
        Self::DropBitmapPages,
        Self::ReorderSends,
        Self::FakeDurable,
        Self::LoseWrite,
        Self::LoseResync,
        Self::HideRollback,
        Self::HideAge,
        Self::MergeForks,
        Self::LoseAcks,
        Self::NoMajority,
        Self::ClaimHolders,
        Self::CountVanished,
        Self::StaleDigest,
        Self::BlindDigest,
        Self::WrongBlock,
    ];

    /// The checker that has to see it; others may see it, too.
    pub(crate) fn seen_by(self) -> &'static str {
        match self {
            Self::MetaWithoutFlush | Self::SwallowLog | Self::SwallowBitmap => "coverage",
            Self::FakeStable | Self::FakeWritten | Self::LoseWrite => "durability",
            Self::SwallowSuperblock | Self::NoMajority | Self::CountVanished => "chain",
            Self::FakeDurable | Self::MergeForks => "forks",
            Self::LoseResync | Self::WrongBlock => "equality",
            Self::DropInconsistent => "claims",
            Self::DropBitmapPages | Self::ReorderSends | Self::LoseAcks => "progress",
            Self::ClaimHolders | Self::HideAge => "coverage",
            Self::HideRollback => "rollback",
            Self::StaleDigest | Self::BlindDigest => "verify",
        }
    }

    /// The first seed whose history may show it.
    pub(crate) fn first_seed(self) -> u64 {
        match self {
            Self::StaleDigest | Self::BlindDigest => VERIFIES_FROM,
            Self::WrongBlock => LOSSES_FROM,
            _ => BRISK_FROM,
        }
    }

    /// Whether it takes disks that are rolled back.
    pub(crate) fn rolls_back(self) -> bool {
        matches!(self, Self::HideRollback | Self::HideAge)
    }

    /// Nodes that it takes to see it.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::NoMajority | Self::ClaimHolders | Self::CountVanished => 3,
            _ => 2,
        }
    }
}
