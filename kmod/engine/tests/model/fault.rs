// SPDX-License-Identifier: GPL-2.0-only

//! What happens to nodes and sessions from outside.

use crate::io::is_open;
use crate::scope::Scope;
use crate::set::Set;
use crate::state::{Disk, Node, Phase, RecordId, State, Write, NODES};

impl Scope {
    /// A session ends, and with it everything that was on its way.
    pub(crate) fn lose(&self, s: &mut State, a: usize, b: usize) {
        if !s.has_session(a, b) {
            return;
        }
        s.set_phase(a, b, Phase::None);
        let ends = Set::of(a).with(b);
        s.packets
            .retain(|packet| !ends.covers(Set::of(packet.from.into()).with(packet.to.into())));
        for (node, peer) in [(a, b), (b, a)] {
            self.void_sent(s, node, peer);
            self.lose_received(s, node, peer);
            let it = &mut s.nodes[node];
            it.promised_to = it.promised_to.without(peer);
            it.stalled_peers = it.stalled_peers.without(peer);
            it.awaits_force = it.awaits_force.without(peer);
        }
    }

    /// What is not known to be stable at a peer becomes bits.
    pub(crate) fn void_sent(&self, s: &mut State, node: usize, peer: usize) {
        let disk = s.disk_mut(node);
        disk.bits[peer] = disk.bits[peer].or(disk.hot[node]);
    }

    /// What came from a peer and is not known to be stable everywhere becomes bits towards everybody.
    pub(crate) fn lose_received(&self, s: &mut State, node: usize, peer: usize) {
        let disk = s.disk_mut(node);
        let received = std::mem::take(&mut disk.hot[peer]);
        for other in self.peers(node) {
            disk.bits[other] = disk.bits[other].or(received);
        }
    }

    /// Blocks that a power cut may lose.
    pub(crate) fn unstable(&self, s: &State, node: usize) -> Set {
        let disk = s.disk(node);
        (0..self.blocks)
            .filter(|&block| disk.cache[block] != disk.stable[block])
            .fold(Set::EMPTY, Set::with)
    }

    /// The power of a node is cut; of what its cache held, these blocks are kept.
    pub(crate) fn crash(&self, s: &mut State, node: usize, kept: Set) {
        let logged = s.disk(node).logged();
        let is_unclean = !logged.is_empty() || !self.unstable(s, node).is_empty();
        s.disk_mut(node).is_unclean |= is_unclean;
        for peer in self.peers(node) {
            self.lose(s, node, peer);
        }
        self.give_up_writes(s, node);
        let it = &mut s.nodes[node];
        let disk = &mut it.disk;
        for block in kept.iter() {
            disk.stable[block] = disk.cache[block];
        }
        disk.cache = disk.stable;
        disk.hot = [Set::EMPTY; NODES];
        for other in self.peers(node) {
            disk.bits[other] = disk.bits[other].or(logged);
        }
        if let Some(current) = it.unsaved {
            disk.current = current;
        }
        let disk = std::mem::take(disk);
        *it = Node {
            disk,
            ..Node::default()
        };
        self.excuse(s, node);
    }

    /// Without a flush, a power cut of every good member of the newest generation may lose a write.
    fn excuse(&self, s: &mut State, node: usize) {
        let unfinished = self.all().filter(|&peer| s.disk(peer).is_inconsistent);
        let cut = unfinished.fold(Set::of(node), Set::with);
        for number in 0..s.writes.len() {
            let Write {
                done,
                excused,
                is_orphan,
                ..
            } = s.writes[number];
            if is_orphan {
                continue;
            }
            let heir = (1..=s.records.len() as RecordId)
                .rev()
                .find(|&id| s.record(id).was_in_force && done != 0 && s.precedes(done, id));
            let is_lost = heir.is_some_and(|heir| excused.or(cut).covers(s.record(heir).members));
            s.writes[number].excused = if is_lost {
                Set::below(NODES)
            } else {
                excused.with(node)
            };
        }
    }

    pub(crate) fn give_up_writes(&self, s: &mut State, node: usize) {
        for write in &mut s.writes {
            if is_open(write) && usize::from(write.writer) == node {
                write.is_orphan = true;
                write.acked = Set::EMPTY;
                write.excused = Set::EMPTY;
            }
        }
    }

    pub(crate) fn boot(&self, s: &mut State, node: usize) {
        s.attaches += u8::from(self.left.rollbacks > 0);
        let number = s.attaches;
        let required = s.current(node).map_or(Set::EMPTY, |record| record.members);
        let it = &mut s.nodes[node];
        it.is_up = true;
        it.required = required;
        if self.left.rollbacks > 0 {
            let (attaches, last) = it.disk.incarnation;
            it.disk.former.rotate_right(1);
            it.disk.former[0] = last;
            it.disk.incarnation = (attaches + 1, number);
        }
    }

    pub(crate) fn take_image(&self, s: &mut State) {
        let image: Disk = s.disk(0).clone();
        s.image = Some(Box::new(image));
    }

    pub(crate) fn put_image_back(&self, s: &mut State) {
        if let Some(image) = s.image.take() {
            *s.disk_mut(0) = *image;
            s.disk_mut(0).is_old_image = true;
        }
    }
}
