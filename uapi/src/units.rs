// SPDX-License-Identifier: GPL-2.0-only

//! Newtypes for numbers that must not be mixed.

use crate::limits::NODES_MAX;
use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// Number of a volume within its resource, `0..VOLUMES_MAX`.
    VolumeId(u16)
);
number!(
    /// Minor number of a device: `Minor(0)` is `/dev/weft0`.
    Minor(u32)
);
number!(
    /// Address on a device, in sectors of 512 bytes.
    Sector(u64)
);
number!(
    /// Sequence number of a packet that changes data; per volume and sender, starts at 1.
    Seq(u64)
);
number!(
    /// Election term of a writer; grows along a chain of generations.
    Term(u64)
);
number!(
    /// How often a disk was attached; kept in its superblock.
    Incarnation(u64)
);
number!(
    /// Random id of one life of a connection between two nodes; 0 is none.
    SessionId(u64)
);

/// Random id of a data history; 0 is none (a disk that never held data).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GenerationId(pub u64);

impl GenerationId {
    /// No generation: a disk that was just created.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Id of a node, `0..NODES_MAX`.
///
/// # Invariants
/// The number is below [`NODES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(u8);

impl NodeId {
    /// The node with this number, or `None` when it is out of range.
    pub const fn new(id: u32) -> Option<Self> {
        if (id as usize) < NODES_MAX {
            // INVARIANT: checked in the line above.
            Some(Self(id as u8))
        } else {
            None
        }
    }

    /// The number, always below [`NODES_MAX`].
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index into an array of [`NODES_MAX`] entries.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All ids in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..NODES_MAX as u32).filter_map(Self::new)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of nodes, bit `n` for node `n`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSet(pub u32);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// The set of one node.
    pub const fn of(node: NodeId) -> Self {
        Self(1 << node.0)
    }

    /// Whether `node` is in the set.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// The set with `node`.
    #[must_use]
    pub const fn with(self, node: NodeId) -> Self {
        Self(self.0 | (1 << node.0))
    }

    /// The set without `node`.
    #[must_use]
    pub const fn without(self, node: NodeId) -> Self {
        Self(self.0 & !(1 << node.0))
    }

    /// Nodes of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Nodes of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether no node is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of nodes in the set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let node = NodeId::new(left.trailing_zeros())?;
            left &= left.wrapping_sub(1);
            Some(node)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_past_the_limit_does_not_exist() {
        assert!(NodeId::new(31).is_some());
        assert!(NodeId::new(32).is_none());
    }

    #[test]
    fn a_node_set_lists_what_was_put_in() {
        let (a, b) = (NodeId::new(0).unwrap(), NodeId::new(31).unwrap());
        let set = NodeSet::of(a).with(b);
        assert!(set.iter().eq([a, b]));
        assert!(set.without(a).iter().eq([b]));
    }
}
