// SPDX-License-Identifier: GPL-2.0-only

//! Who gets which writes, what the application does, and what packets do where they arrive.

use crate::check::{goes_on_from, in_force};
use crate::scope::{Broken, Scope};
use crate::set::Set;
use crate::state::{Body, Packet, Phase, Stage, State, Transition, Write, WriteId, BLOCKS, NODES};

impl Scope {
    /// Whether `peer` gets what `node` writes, as far as `node` knows.
    pub(crate) fn receives(&self, s: &State, node: usize, peer: usize) -> bool {
        match s.phase(node, peer) {
            Phase::Equal { .. } => true,
            Phase::Open { were_equal } => were_equal,
            Phase::Sync { target, stage } if usize::from(target) == peer => {
                !matches!(stage, Stage::Decided { .. })
            }
            Phase::Sync { stage, .. } => matches!(stage, Stage::Joined | Stage::Whole),
            _ => false,
        }
    }

    pub(crate) fn receivers(&self, s: &State, node: usize) -> Set {
        self.peers(node)
            .filter(|&peer| self.receives(s, node, peer))
            .fold(Set::EMPTY, Set::with)
    }

    /// Peers that get every write and lack no earlier one, as far as a node knows.
    pub(crate) fn equals(&self, s: &State, node: usize) -> Set {
        self.receivers(s, node).minus(self.targets(s, node))
    }

    /// Those without whom nothing is complete, and who do not get writes or lack earlier ones.
    pub(crate) fn lost(&self, s: &State, node: usize) -> Set {
        let present = self.equals(s, node).with(node);
        s.nodes[node].required.minus(present)
    }

    pub(crate) fn sessions(&self, s: &State, node: usize) -> Set {
        self.peers(node)
            .filter(|&peer| s.has_session(node, peer))
            .fold(Set::EMPTY, Set::with)
    }

    /// Whether a round is open or bitmaps are under way: no new writes, no changes.
    pub(crate) fn is_negotiating(&self, s: &State, node: usize) -> bool {
        self.peers(node).any(|peer| {
            matches!(
                s.phase(node, peer),
                Phase::Open { .. }
                    | Phase::Sync {
                        stage: Stage::Decided { .. },
                        ..
                    }
            )
        })
    }

    /// Who is primary or about to be, as far as a node sees.
    pub(crate) fn leaders(&self, s: &State, node: usize) -> Set {
        let it = &s.nodes[node];
        let peers = self.sessions(s, node).iter();
        let leads = |peer: &usize| s.nodes[*peer].is_primary || it.promised_to.contains(*peer);
        let leaders = peers.filter(leads).fold(Set::EMPTY, Set::with);
        if it.is_primary || matches!(it.transition, Some(Transition::Recording { .. })) {
            leaders.with(node)
        } else {
            leaders
        }
    }

    /// The primary all of whose writes a node gets.
    pub(crate) fn leader(&self, s: &State, node: usize) -> Option<usize> {
        let it = &s.nodes[node];
        let leads = |&other: &usize| {
            if other == node {
                it.stalled.is_none() && self.source(s, node).is_none()
            } else {
                self.receives(s, node, other) && !it.stalled_peers.contains(other)
            }
        };
        self.leaders(s, node).iter().find(leads)
    }

    /// The node that a node fetches from.
    pub(crate) fn source(&self, s: &State, node: usize) -> Option<usize> {
        self.peers(node).find(|&peer| {
            matches!(s.phase(node, peer), Phase::Sync { target, stage }
                if usize::from(target) == node && !matches!(stage, Stage::Joined | Stage::Whole))
        })
    }

    fn open_writes<'a>(&self, s: &'a State, writer: usize) -> impl Iterator<Item = &'a Write> {
        s.writes
            .iter()
            .filter(move |write| is_open(write) && usize::from(write.writer) == writer)
    }

    pub(crate) fn has_open_writes(&self, s: &State, writer: usize) -> bool {
        self.open_writes(s, writer).next().is_some()
    }

    /// Whether the application may write once no member is lost.
    pub(crate) fn wants_to_write(&self, s: &State, node: usize) -> bool {
        s.nodes[node].is_primary
            && s.writes.len() < self.writes
            && self.open_writes(s, node).count() < self.open_writes
    }

    pub(crate) fn may_write(&self, s: &State, node: usize) -> bool {
        let it = &s.nodes[node];
        let is_known = it.disk.written == 0;
        self.wants_to_write(s, node)
            && it.is_uptodate
            && it.change.is_none()
            && is_known
            && !self.is_negotiating(s, node)
            && (self.lost(s, node).is_empty() || self.breaks(Broken::AcknowledgeBeforeShrink))
    }

    /// Blocks that an application may write: of those that nobody wrote yet, one is as good as another.
    pub(crate) fn choices(&self, s: &State) -> usize {
        let last = s.writes.iter().map(|write| usize::from(write.block));
        last.max().map_or(0, |last| last + 1).min(self.blocks - 1) + 1
    }

    /// The application writes a block.
    pub(crate) fn issue(&self, s: &mut State, node: usize, block: usize) {
        let id = s.writes.len() as WriteId + 1;
        s.writes.push(Write {
            block: block as u8,
            writer: node as u8,
            issued: s.disk(node).current,
            acked: Set::of(node),
            done: 0,
            flushed: 0,
            is_orphan: false,
            excused: Set::EMPTY,
            kept: Set::EMPTY,
        });
        let receivers = self.receivers(s, node);
        let lacking = self.all_nodes().without(node).minus(receivers);
        for peer in receivers.iter() {
            s.send(node, peer, Body::Data(id));
        }
        self.put(s, node, node, id, lacking);
        self.complete(s, node);
    }

    /// A write reaches a disk's cache; before it, its block became hot, and those who lack it got a bit.
    fn put(&self, s: &mut State, node: usize, writer: usize, id: WriteId, lacking: Set) {
        let block = s.write(id).map_or(0, |write| write.block.into());
        let disk = s.disk_mut(node);
        disk.cache[block] = id;
        if node == writer || !self.breaks(Broken::PeersKeepNoTail) {
            disk.hot[writer] = disk.hot[writer].with(block);
        }
        if node != writer {
            disk.tail = id;
        }
        if node == writer || !self.breaks(Broken::MembersSetNoBits) {
            for other in lacking.iter() {
                disk.bits[other] = disk.bits[other].with(block);
            }
        }
    }

    /// Tells the application of every write that is where it has to be.
    pub(crate) fn complete(&self, s: &mut State, node: usize) {
        let mut required = s.nodes[node].required;
        if self.breaks(Broken::AcknowledgeBeforeShrink) {
            required = required.and(self.receivers(s, node).with(node));
        }
        let generation = in_force(s, node);
        for write in &mut s.writes {
            let is_own = is_open(write) && usize::from(write.writer) == node;
            if is_own && write.acked.covers(required) {
                write.done = generation;
                write.acked = Set::EMPTY;
            }
        }
    }

    /// Whether a flush can be done here and everywhere at once.
    pub(crate) fn may_flush(&self, s: &State, node: usize) -> bool {
        let mut receivers = self.receivers(s, node).iter();
        s.nodes[node].is_primary
            && s.nodes[node].change.is_none()
            && s.nodes[node].stalled.is_none()
            && !s.disk(node).hot[node].is_empty()
            && !self.has_open_writes(s, node)
            && self.lost(s, node).is_empty()
            && receivers.all(|peer| !s.has_packets(node, peer))
    }

    /// The application flushes: what is done is stable on every member from now on.
    pub(crate) fn flush(&self, s: &mut State, node: usize) {
        let current = in_force(s, node);
        let receivers = self.receivers(s, node);
        for peer in receivers.with(node).iter() {
            s.disk_mut(peer).stable = s.disk(peer).cache;
        }
        self.trim(s, node);
        for number in 0..s.writes.len() {
            let Write {
                done,
                flushed,
                excused,
                ..
            } = s.writes[number];
            let is_lost = excused.covers(Set::below(NODES));
            if flushed == 0 && !is_lost && done != 0 && goes_on_from(s, done, current) {
                s.writes[number].flushed = current;
            }
        }
    }

    /// Nothing that a node wrote is hot any more.
    fn trim(&self, s: &mut State, node: usize) {
        let hot = std::mem::take(&mut s.disk_mut(node).hot[node]);
        for peer in self.receivers(s, node).iter() {
            s.send(node, peer, Body::Trim(hot));
        }
    }

    /// The first packet from one node to another arrives; `None`: there is none.
    pub(crate) fn deliver(&self, s: &mut State, from: usize, to: usize) -> Option<()> {
        let at = s
            .packets
            .iter()
            .position(|packet| (usize::from(packet.from), usize::from(packet.to)) == (from, to))?;
        let Packet { body, .. } = s.packets.remove(at);
        match body {
            Body::Data(id) => self.on_data(s, from, to, id),
            Body::Written(id) => {
                let write = &mut s.writes[usize::from(id) - 1];
                if is_open(write) {
                    write.acked = write.acked.with(from);
                }
                self.complete(s, to);
                if self.breaks(Broken::TrimBeforeStable) && !self.has_open_writes(s, to) {
                    self.trim(s, to);
                }
            }
            Body::Trim(blocks) => {
                let hot = &mut s.disk_mut(to).hot[from];
                *hot = hot.minus(blocks);
            }
            Body::Record(id) => self.on_record(s, from, to, id),
            Body::Durable(id, is_whole) => self.on_durable(s, from, to, id, is_whole),
            Body::InForce(id, holders) => self.on_in_force(s, from, to, id, holders),
        }
        Some(())
    }

    fn on_data(&self, s: &mut State, from: usize, to: usize, id: WriteId) {
        let Some(record) = s.current(to) else {
            return;
        };
        let is_known = s.disk(to).written == 0;
        if record.writer != Some(from as u8) || !is_known {
            self.lose(s, from, to);
            return;
        }
        let lacking = self.all_nodes().minus(record.members);
        self.put(s, to, from, id, lacking.without(from).without(to));
        s.send(to, from, Body::Written(id));
    }
}

/// Whether the application waits for it.
pub(crate) fn is_open(write: &Write) -> bool {
    write.done == 0 && !write.is_orphan
}

/// Blocks that are not the same on both disks.
pub(crate) fn differences(s: &State, a: usize, b: usize) -> Set {
    (0..BLOCKS)
        .filter(|&block| s.disk(a).cache[block] != s.disk(b).cache[block])
        .fold(Set::EMPTY, Set::with)
}
