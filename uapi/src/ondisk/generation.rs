// SPDX-License-Identifier: GPL-2.0-only

//! Record of one generation of data, on disk and on the wire.

use crate::units::{GenerationId, NodeId, NodeSet, Term};
use zerocopy::little_endian::{U32, U64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NO_WRITER: u32 = u32::MAX;

/// [`Generation`] as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawGeneration {
    id: U64,
    parent: U64,
    term: U64,
    writer: U32,
    members: U32,
}

/// One generation of data: who writes, and who receives every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Generation {
    /// Random id; [`GenerationId::NONE`]: the disk never held data.
    pub id: GenerationId,
    /// The generation before this one.
    pub parent: GenerationId,
    /// Election term; grows along a chain.
    pub term: Term,
    /// The node that writes in it; `None`: nobody does, it was recorded because its members have become equal.
    pub writer: Option<NodeId>,
    /// Nodes with a disk that receive every write made in it, and had every earlier one when it began.
    pub members: NodeSet,
    /// Nodes that left in order before it, and have it on record that they did: their votes are not asked for. No member is
    /// among them. Not part of [`RawGeneration`]: it stands in the superblock and in the header of a packet.
    pub left: NodeSet,
}

impl From<Generation> for RawGeneration {
    fn from(generation: Generation) -> Self {
        Self {
            id: U64::new(generation.id.0),
            parent: U64::new(generation.parent.0),
            term: U64::new(generation.term.0),
            writer: U32::new(
                generation
                    .writer
                    .map_or(NO_WRITER, |node| node.get().into()),
            ),
            members: U32::new(generation.members.0),
        }
    }
}

impl Generation {
    /// The record with the nodes that left before it, as a packet's header tells them; `None` when these are no set of nodes,
    /// or one of them is a member.
    pub fn with_left(self, left: u64) -> Option<Self> {
        let left = NodeSet(u32::try_from(left).ok()?);
        let is_sound = left.intersection(self.members).is_empty();
        is_sound.then_some(Self { left, ..self })
    }
}

impl RawGeneration {
    /// The record without those who left, or `None` when the writer is not a node id.
    pub fn decode(&self) -> Option<Generation> {
        let writer = match self.writer.get() {
            NO_WRITER => None,
            number => Some(NodeId::new(number)?),
        };
        Some(Generation {
            id: GenerationId(self.id.get()),
            parent: GenerationId(self.parent.get()),
            term: Term(self.term.get()),
            writer,
            members: NodeSet(self.members.get()),
            left: NodeSet::EMPTY,
        })
    }
}
