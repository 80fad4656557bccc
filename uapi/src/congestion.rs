// SPDX-License-Identifier: GPL-2.0-only

//! What is done about a peer that does not keep up with the writes, and how that stands.

use crate::limits::BITMAP_BLOCK_BYTES;
use crate::state::states;
use crate::units::NodeSet;

/// Smallest number of bytes that can be called too many.
pub const FILL_MIN: u64 = BITMAP_BLOCK_BYTES as u64;

/// Largest one: a little later writes wait anyway.
pub const FILL_MAX: u64 = 6 << 20;

/// What a primary does about a peer to which it has sent too much that is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Congestion {
    /// The peers that it goes ahead of; those that are not named hold writes up.
    pub pull_ahead: NodeSet,
    /// So many bytes of writes that are not answered are too many.
    pub fill: u64,
}

impl Default for Congestion {
    fn default() -> Self {
        Self {
            pull_ahead: NodeSet::EMPTY,
            fill: 2 << 20,
        }
    }
}

impl Congestion {
    /// Whether the bound is in its range.
    pub const fn is_valid(self) -> bool {
        FILL_MIN <= self.fill && self.fill <= FILL_MAX
    }
}

states! {
    /// What a primary does about a peer that does not keep up.
    #[derive(Default)]
    OnCongestion {
        /// Writes wait for it.
        #[default]
        Block = 1 "block",
        /// Writes go on without it; it is synced afterwards.
        PullAhead = 2 "pull-ahead",
    }
}

states! {
    /// How a peer keeps up with the writes of this node.
    #[derive(Default)]
    Pace {
        /// It does.
        #[default]
        Together = 0 "together",
        /// It does not, and writes wait for it.
        Blocks = 1 "blocks",
        /// As before, although it is to be left behind: without it there is no majority.
        NoQuorum = 2 "blocks-no-quorum",
        /// As before, although it is to be left behind: it has an application of its own that this node serves.
        Served = 3 "blocks-primary",
        /// As before, although it is to be left behind: it does not know how to be.
        TooOld = 4 "blocks-old-peer",
        /// It is to be left behind, and puts on record that it is.
        Asked = 5 "asked",
        /// It gets no writes.
        Ahead = 6 "ahead",
        /// It is synced, and gets no writes before little is left.
        SyncOnly = 7 "sync-only",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_in_its_range() {
        let congestion = Congestion::default();
        assert!(congestion.is_valid());
        for (fill, is_valid) in [
            (FILL_MIN, true),
            (FILL_MIN - 1, false),
            (FILL_MAX, true),
            (FILL_MAX + 1, false),
        ] {
            let congestion = Congestion { fill, ..congestion };
            assert_eq!(congestion.is_valid(), is_valid, "{fill}");
        }
    }
}
