// SPDX-License-Identifier: GPL-2.0-only

//! The network between the nodes: connections with two links each, delays, cuts and deaths that only one side sees.

use crate::host::Content;
use std::collections::{BTreeMap, VecDeque};
use weft_uapi::units::SessionId;
use weft_uapi::wire::{Header, LinkKind};

pub(crate) struct Packet {
    pub header: Header,
    pub body: Vec<u8>,
    pub data: Option<Content>,
    /// When it reaches the other side.
    pub due: u64,
}

/// One direction of one link.
#[derive(Default)]
pub(crate) struct Channel {
    pub queue: VecDeque<Packet>,
    /// Nothing arrives, though both sides believe in the connection.
    pub is_stalled: bool,
    /// The sender is gone: nothing follows behind the queue.
    pub is_finished: bool,
    /// Something was lost: nothing that is sent later arrives.
    pub is_broken: bool,
    pub last_due: u64,
    pub is_polled: bool,
}

/// One side of a connection.
pub(crate) struct End {
    pub node: usize,
    pub life: u32,
    pub peer: usize,
    pub session: SessionId,
    /// The engine was told that it is there.
    pub is_up: bool,
    /// The engine was told that it is gone, or has ended it.
    pub is_closed: bool,
    /// A death is on its way to the engine.
    pub is_dying: bool,
}

/// One life of a connection. `channels[side][link]` carries what `ends[side]` sends.
pub(crate) struct Connection {
    pub ends: [End; 2],
    pub channels: [[Channel; 2]; 2],
}

impl Connection {
    pub(crate) fn new(ends: [End; 2]) -> Self {
        Self {
            ends,
            channels: Default::default(),
        }
    }

    pub(crate) fn has(&self, node: usize) -> bool {
        self.ends.iter().any(|end| end.node == node)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.is_closed)
    }

    /// Both sides are there, and nothing that was sent is lost.
    pub(crate) fn is_whole(&self) -> bool {
        let has_lost = |channel: &Channel| channel.is_broken || channel.is_finished;
        let is_gone = |end: &End| end.is_closed;
        !self.ends.iter().any(is_gone) && !self.channels.iter().flatten().any(has_lost)
    }

    /// Nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.channels
            .iter()
            .flatten()
            .all(|channel| channel.queue.is_empty())
    }
}

pub(crate) fn index_of(link: LinkKind) -> usize {
    match link {
        LinkKind::Data => 0,
        LinkKind::Meta => 1,
    }
}

/// What the cables between two nodes do, by direction: `blocked[from < to]`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cable {
    pub blocked: [bool; 2],
    /// Extra delay of every packet, in nanoseconds.
    pub slow: u64,
}

impl Cable {
    pub(crate) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked[usize::from(from < to)]
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.blocked == [false, false]
    }
}

/// A pair of nodes, the smaller number first.
pub(crate) fn pair(a: usize, b: usize) -> [usize; 2] {
    [a.min(b), a.max(b)]
}

/// The cables of all pairs; those that are not named do nothing to the packets.
#[derive(Default)]
pub(crate) struct Cables(BTreeMap<[usize; 2], Cable>);

impl Cables {
    pub(crate) fn between(&self, a: usize, b: usize) -> Cable {
        self.0.get(&pair(a, b)).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, nodes: [usize; 2], cable: Cable) {
        if cable.is_whole() && cable.slow == 0 {
            self.0.remove(&nodes);
        } else {
            self.0.insert(nodes, cable);
        }
    }

    /// The pairs whose cables do something to the packets.
    pub(crate) fn disturbed(&self) -> Vec<[usize; 2]> {
        self.0.keys().copied().collect()
    }
}
