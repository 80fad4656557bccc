// SPDX-License-Identifier: GPL-2.0-only

//! How the matrix looks at one node: its states, and what it has done since.

use super::{layout, node, Rig};
use crate::host::Act;
use weft_engine::event::Op;
use weft_uapi::ondisk::{Generation, AL_BLOCKS};
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Sector, Term};
use weft_uapi::wire::{FullStateBody, PacketKind, StateBody};

/// Role, disk, connection, replication, the peer's role and its disk, as people see them.
pub(crate) type Shape = [&'static str; 6];

impl Rig {
    /// The node's states, towards a peer where there is one.
    pub(crate) fn shape(&self, number: usize, peer: usize) -> Shape {
        let (engine, peer) = (&self.nodes[number].engine, node(peer));
        let volume = engine.volume_info(self.volume, self.now);
        let session = engine.peer_info(peer, self.now);
        let replica = engine.peer_volume_info(peer, self.volume, self.now);
        let disk = |number| DiskState::from_number(number).map(DiskState::name);
        let connection = |number| ConnectionState::from_number(number).map(ConnectionState::name);
        let role = |number| Role::from_number(number).map(Role::name);
        let replication =
            |number| ReplicationState::from_number(number).map(ReplicationState::name);
        [
            Some(self.role(number).name()),
            volume.and_then(|info| disk(info.disk_state)),
            session.and_then(|info| connection(info.connection)),
            replica.and_then(|info| replication(info.replication)),
            session.and_then(|info| role(info.role)),
            replica.and_then(|info| disk(info.peer_disk_state)),
        ]
        .map(|name| name.unwrap_or("gone"))
    }

    /// How many effects of the node wait to be carried out.
    pub(crate) fn backlog(&self, number: usize) -> usize {
        self.nodes[number].queue.len()
    }

    /// The kinds of the effects that have joined a backlog of the given length, each once.
    pub(crate) fn effects_since(&self, number: usize, backlog: usize) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        for act in self.nodes[number].queue.iter().skip(backlog) {
            let kind = self.kind(act);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// What the node is about to tell of its disk.
    pub(crate) fn state_underway(&self, number: usize) -> Option<StateBody> {
        let bytes = self.state_bytes_underway(number)?;
        Some(FullStateBody::parse(&bytes).unwrap().state)
    }

    /// As [`Self::state_underway`], as it is sent.
    pub(crate) fn state_bytes_underway(&self, number: usize) -> Option<Vec<u8>> {
        self.nodes[number].queue.iter().find_map(|act| match act {
            Act::Send(_, parcel) if parcel.header.kind == PacketKind::State => {
                Some(parcel.body.clone())
            }
            _ => None,
        })
    }

    /// Number of the verify that the node is about to begin.
    pub(crate) fn run_underway(&self, number: usize) -> u64 {
        let mut acts = self.nodes[number].queue.iter();
        let run = acts.find_map(|act| match act {
            Act::Send(_, parcel) if parcel.header.kind == PacketKind::VerifyBegin => {
                Some(parcel.header.seq.0)
            }
            _ => None,
        });
        run.expect("a run")
    }

    fn kind(&self, act: &Act) -> &'static str {
        match act {
            Act::Disk(_, _, io, _) => match io.op {
                Op::Read => "reads",
                Op::Digest => "digests",
                Op::Flush => "flushes",
                Op::Write | Op::Discard | Op::WriteZeroes { .. } => "writes",
            },
            Act::Meta(_, _, sector, ..) => self.block_name(*sector),
            Act::Measure(..) => "looks how large the disk is",
            Act::Send(_, parcel) => parcel.header.kind.name(),
            Act::Offer(..) => "offers a session",
            Act::EndSession(..) => "ends the session",
            Act::Recall(_) => "has something handed back",
            Act::Keep(..) => "has something kept",
            Act::Fence(..) => "has the peer fenced",
        }
    }

    fn block_name(&self, sector: Sector) -> &'static str {
        let layout = layout(self.sectors);
        if [0, 1].map(|copy| layout.superblock(copy)).contains(&sector) {
            "superblock"
        } else if (0..AL_BLOCKS.into()).any(|index| layout.al_block(index) == sector) {
            "log"
        } else {
            "bitmap"
        }
    }

    /// A record that the peer could make next, if the node has a disk.
    pub(crate) fn next_record(&self, number: usize, writer: NodeId) -> Option<Generation> {
        let info = self.nodes[number].engine.generation_info(self.volume)?;
        Some(Generation {
            id: GenerationId(u64::MAX),
            parent: GenerationId(info.current),
            term: Term(info.term),
            writer: Some(writer),
            members: NodeSet(info.members),
            left: NodeSet::EMPTY,
        })
    }
}
