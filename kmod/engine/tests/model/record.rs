// SPDX-License-Identifier: GPL-2.0-only

//! Generation records: made, known, in force (G1, G2, G3).

use crate::io::is_open;
use crate::role::Refusal;
use crate::scope::{Broken, Scope};
use crate::set::Set;
use crate::state::{
    Body, Change, Phase, Promotion, Reason, Record, RecordId, Stage, State, Transition, NODES,
};

impl Scope {
    /// Whether a node can make a record at all.
    fn may_change(&self, s: &State, node: usize) -> bool {
        let is_source = self.peers(node).any(|peer| {
            matches!(s.phase(node, peer), Phase::Sync { target, stage: Stage::Adopted }
                if usize::from(target) == peer)
        });
        let it = &s.nodes[node];
        it.is_up && it.change.is_none() && !self.is_negotiating(s, node) && !is_source
    }

    /// Makes the record that is wanted, if any and if it can be; whether it did.
    pub(crate) fn begin_wanted_change(&self, s: &mut State, node: usize) -> bool {
        if !self.may_change(s, node) {
            return false;
        }
        let wants_shrink = std::mem::take(&mut s.nodes[node].wants_shrink);
        let is_wanted = wants_shrink || self.has_quorum || self.has_open_writes(s, node);
        let reason = if self.is_unsure(s, node) || (is_wanted && self.has_lost(s, node)) {
            Some(Reason::Shrink)
        } else {
            self.wanted_growth(s, node)
        };
        if let Some(reason) = reason {
            self.begin_change(s, node, reason);
        }
        reason.is_some()
    }

    /// Whether a primary lacks a member.
    fn has_lost(&self, s: &State, node: usize) -> bool {
        let members = s.current(node).map_or(Set::EMPTY, |record| record.members);
        s.nodes[node].is_primary && !self.lost(s, node).and(members).is_empty()
    }

    /// Whether a primary's record was given up before it was in force, since a member that is back was lost.
    fn is_unsure(&self, s: &State, node: usize) -> bool {
        let it = &s.nodes[node];
        let is_own = s
            .current(node)
            .is_some_and(|record| record.writer == Some(node as u8));
        it.is_primary && is_own && it.disk.written != 0 && it.stalled.is_none()
    }

    /// Whether a write that the application may want waits for a record without a lost member.
    pub(crate) fn may_want_shrink(&self, s: &State, node: usize) -> bool {
        let is_wanted = s.nodes[node].wants_shrink;
        !is_wanted && self.wants_to_write(s, node) && self.has_lost(s, node)
    }

    /// A promotion or a target that is to join.
    fn wanted_growth(&self, s: &State, node: usize) -> Option<Reason> {
        if let Some(promotion) = s.nodes[node].wants_promotion {
            if self.may_begin(s, node, promotion) {
                return Some(Reason::Promotion(promotion));
            }
        }
        let is_led = self.leader(s, node).is_some_and(|leader| leader != node);
        let joining = self.finished(s, node);
        (!joining.is_empty() && !is_led).then_some(Reason::Grow(joining))
    }

    /// Sync targets that owe nothing any more.
    fn finished(&self, s: &State, node: usize) -> Set {
        if s.disk(node).is_inconsistent {
            // What this disk fetches itself they would lack.
            return Set::EMPTY;
        }
        let finished = self
            .peers(node)
            .filter(|&peer| self.may_join(s, node, peer));
        finished.fold(Set::EMPTY, Set::with)
    }

    fn may_begin(&self, s: &State, node: usize, promotion: Promotion) -> bool {
        let disk = s.disk(node);
        let is_bad = disk.is_inconsistent || disk.current == 0;
        self.disk_refusal(s, node, promotion.is_forced) == Refusal::None
            && is_bad == promotion.is_anew
    }

    fn may_join(&self, s: &State, node: usize, peer: usize) -> bool {
        let is_done = |stage| match stage {
            Stage::Done | Stage::Joined => true,
            Stage::Running => self.breaks(Broken::GrowBeforeEqual),
            _ => false,
        };
        matches!(s.phase(node, peer), Phase::Sync { target, stage }
            if usize::from(target) == peer && is_done(stage))
            && (s.disk(node).bits[peer].is_empty() || self.breaks(Broken::GrowBeforeEqual))
    }

    /// Peers that fetch from this node and may lack something.
    pub(crate) fn targets(&self, s: &State, node: usize) -> Set {
        let is_target = |peer: &usize| {
            matches!(s.phase(node, *peer), Phase::Sync { target, stage }
                if usize::from(target) == *peer && stage != Stage::Whole)
        };
        self.peers(node)
            .filter(is_target)
            .fold(Set::EMPTY, Set::with)
    }

    /// Writes a child of the current record and sends it to those who have to know it.
    pub(crate) fn begin_change(&self, s: &mut State, node: usize, reason: Reason) {
        let receivers = self.receivers(s, node);
        let present = receivers.with(node);
        let had = s.nodes[node]
            .required
            .with(node)
            .minus(self.targets(s, node));
        let is_written =
            self.leaders(s, node).contains(node) || matches!(reason, Reason::Promotion(_));
        let members = match reason {
            Reason::Promotion(promotion) if promotion.is_anew => Set::of(node),
            Reason::Promotion(_) | Reason::Shrink => had.and(present),
            Reason::Grow(peers) if is_written => had.or(peers).and(present),
            Reason::Grow(peers) => had.or(peers),
        };
        let past = s.current(node).map_or(0, |record| record.term);
        let (term, is_forced) = match reason {
            Reason::Promotion(promotion) => (promotion.term, promotion.is_forced),
            _ => (past, false),
        };
        let parent = s.disk(node).current;
        s.records.push(Record {
            parent,
            term,
            writer: is_written.then_some(node as u8),
            members,
            is_apart: matches!(reason, Reason::Promotion(promotion) if promotion.is_anew),
            was_in_force: false,
            is_forced,
        });
        let id = s.records.len() as RecordId;
        self.go_on(s, node, id);
        if let Reason::Promotion(promotion) = reason {
            let disk = s.disk_mut(node);
            disk.is_unclean = true;
            disk.is_outdated = false;
            if promotion.is_anew {
                disk.is_inconsistent = false;
                disk.since = [0; NODES];
                self.confirm(s, node);
                s.record_mut(id).was_in_force = true;
            }
            if promotion.is_forced {
                excuse_all(s);
            }
            s.nodes[node].wants_promotion = None;
        }
        for peer in receivers.iter() {
            s.send(node, peer, Body::Record(id));
        }
        let it = &mut s.nodes[node];
        it.required = it.required.or(members);
        it.stalled = None;
        it.change = Some(Change {
            id,
            reason,
            waits: receivers,
            knowers: Set::EMPTY,
            holders: Set::EMPTY,
        });
    }

    /// A record becomes the current one of a node's superblock.
    fn go_on(&self, s: &mut State, node: usize, id: RecordId) {
        let (new, old) = (s.record(id), s.current(node));
        let disk = s.disk_mut(node);
        if old.is_some_and(|old| (old.writer, old.term) != (new.writer, new.term)) {
            disk.tail = 0;
        }
        if disk.written == 0 {
            disk.written = disk.current;
        }
        disk.current = id;
    }

    /// Notes that the current record is in force.
    pub(crate) fn confirm(&self, s: &mut State, node: usize) {
        if s.current(node)
            .is_some_and(|record| record.writer.is_some())
        {
            s.disk_mut(node).written = 0;
        }
    }

    /// Takes a record on its way as far as it goes without a step of its own.
    pub(crate) fn run_change(&self, s: &mut State, node: usize) -> bool {
        let receivers = self.receivers(s, node);
        let it = &mut s.nodes[node];
        let current = it.disk.current;
        it.stalled = it.stalled.filter(|change| change.id == current);
        it.change = it.change.filter(|change| change.id == current);
        if let Some(change) = &mut it.change {
            change.waits = change.waits.and(receivers);
            if change.waits.is_empty() {
                it.stalled = it.change.take();
            }
        }
        self.run_stalled(s, node)
    }

    /// A record that every member has is in force once a majority of the voters knows it.
    fn run_stalled(&self, s: &mut State, node: usize) -> bool {
        let it = &mut s.nodes[node];
        let Some(change) = it.stalled else {
            return false;
        };
        let record = s.records[usize::from(change.id) - 1];
        let knowers = change.knowers.with(node);
        let is_known = knowers.covers(record.members);
        if record.writer.is_some() && !is_known {
            it.stalled = None;
            match change.reason {
                Reason::Promotion(promotion) => it.wants_promotion = Some(promotion),
                Reason::Shrink | Reason::Grow(_) => it.wants_shrink = true,
            }
            return true;
        }
        // Nothing is written in a record without writer, so it forks nothing.
        let needs_majority =
            record.writer.is_some() && !self.breaks(Broken::PromoteWithoutMajority);
        if needs_majority && !self.is_majority(knowers) {
            return false;
        }
        it.stalled = None;
        self.confirm(s, node);
        self.on_change_done(s, node, change);
        true
    }

    /// The record is in force.
    fn on_change_done(&self, s: &mut State, node: usize, change: Change) {
        s.record_mut(change.id).was_in_force = true;
        let members = s.record(change.id).members;
        s.nodes[node].required = members;
        let receivers = self.receivers(s, node);
        let holders = if self.breaks(Broken::DropBitsEarly) {
            members
        } else {
            change.holders.and(members).and(receivers).with(node)
        };
        for peer in change.knowers.and(receivers).iter() {
            s.send(node, peer, Body::InForce(change.id, holders));
        }
        if matches!(change.reason, Reason::Promotion(_)) {
            s.nodes[node].is_uptodate = true;
            excuse_lost(s, node);
        }
        for peer in members.without(node).iter() {
            self.on_member(s, node, peer);
        }
        self.complete(s, node);
    }

    /// A sync target has become a member.
    fn on_member(&self, s: &mut State, node: usize, peer: usize) {
        let whole = Phase::Sync {
            target: peer as u8,
            stage: Stage::Whole,
        };
        if s.phase(node, peer) != whole {
            return;
        }
        s.set_phase(
            node,
            peer,
            Phase::Equal {
                told: 0,
                were_outdated: false,
            },
        );
        // The resync carried what writes from before the session made.
        for write in &mut s.writes {
            if is_open(write) && usize::from(write.writer) == node {
                write.acked = write.acked.with(peer);
            }
        }
        self.reconciled(s, node);
    }

    /// A crash of this disk's node does not matter any more once every member agreed on what counts.
    pub(crate) fn reconciled(&self, s: &mut State, node: usize) {
        let whole = self.equals(s, node).with(node);
        let members = s.current(node).map_or(Set::EMPTY, |record| record.members);
        let is_agreed = whole.covers(members) || self.breaks(Broken::ForgetCrash);
        let it = &mut s.nodes[node];
        let is_becoming = !matches!(it.transition, None | Some(Transition::Comparing { .. }));
        if !it.is_primary && !is_becoming && is_agreed {
            it.disk.is_unclean = false;
        }
    }

    /// A peer has a record durable.
    pub(crate) fn on_durable(
        &self,
        s: &mut State,
        from: usize,
        to: usize,
        id: RecordId,
        is_whole: bool,
    ) {
        if s.disk(to).current != id {
            self.lose(s, from, to);
            return;
        }
        let incarnation = s.disk(from).incarnation;
        let disk = s.disk_mut(to);
        disk.since[from] = id;
        if let Phase::Sync { target, stage } = s.phase(from, to) {
            if usize::from(target) == from {
                s.disk_mut(to).seen[from] = incarnation;
                let stage = match stage {
                    Stage::Adopted => Stage::Running,
                    Stage::Joined if is_whole => Stage::Whole,
                    stage => stage,
                };
                s.set_phase(from, to, Phase::Sync { target, stage });
            }
        }
        let it = &mut s.nodes[to];
        if let Some(change) = it.change.as_mut().or(it.stalled.as_mut()) {
            change.waits = change.waits.without(from);
            change.knowers = change.knowers.with(from);
            if is_whole {
                change.holders = change.holders.with(from);
            }
        }
    }

    /// A peer turns out to have a record that waits for a majority.
    pub(crate) fn on_known(&self, s: &mut State, node: usize, peer: usize) {
        let it = &mut s.nodes[node];
        let current = it.disk.current;
        if let Some(change) = it.stalled.as_mut().filter(|change| change.id == current) {
            change.knowers = change.knowers.with(peer);
            change.holders = change.holders.with(peer);
        }
    }

    /// A record arrives at a peer.
    pub(crate) fn on_record(&self, s: &mut State, from: usize, to: usize, id: RecordId) {
        let record = s.record(id);
        let it = &s.nodes[to];
        let is_own_matter = it.is_primary || it.change.is_some();
        let is_makers = record
            .writer
            .is_none_or(|writer| usize::from(writer) == from);
        if is_own_matter || !is_makers {
            self.lose(s, from, to);
            return;
        }
        if it.disk.current == id {
            // It came by way of a third node.
            let is_whole = !it.disk.is_inconsistent;
            s.send(to, from, Body::Durable(id, is_whole));
            return;
        }
        let current = s.current(to);
        let follows = record.parent == it.disk.current
            && current.is_none_or(|current| record.term >= current.term);
        let (accepts, is_done) = match s.phase(from, to) {
            Phase::Equal { .. } => (true, false),
            Phase::Open { were_equal } => (were_equal, false),
            Phase::Sync { target, stage } if usize::from(target) == to => {
                let is_done = stage == Stage::Done || self.breaks(Broken::GrowBeforeEqual);
                (!matches!(stage, Stage::Decided { .. }), is_done)
            }
            _ => (false, false),
        };
        if !follows || !accepts {
            self.lose(s, from, to);
            return;
        }
        let joins = record.members.contains(to) && is_done && it.disk.is_inconsistent;
        if record.writer.is_some() || !self.breaks(Broken::KeepTargets) {
            self.stop_sources(s, to);
        }
        self.take_record(s, from, to, id, joins);
    }

    fn take_record(&self, s: &mut State, from: usize, to: usize, id: RecordId, joins: bool) {
        let (members, current) = (s.record(id).members, s.disk(to).current);
        let dropped = s.current(to).map_or(Set::EMPTY, |old| old.members);
        let source_lost = s.disk(from).is_unclean && !self.breaks(Broken::ForgetCrash);
        if self.breaks(Broken::RecordInMemory) && s.nodes[to].unsaved.is_none() {
            s.nodes[to].unsaved = Some(current);
        }
        self.go_on(s, to, id);
        let disk = s.disk_mut(to);
        disk.since[from] = id;
        if !self.breaks(Broken::RecordDropsTail) {
            for other in dropped.minus(members).without(to).iter() {
                disk.bits[other] = disk.bits[other].or(disk.hot[from]);
            }
        } else {
            disk.hot[from] = Set::EMPTY;
        }
        if joins {
            disk.is_inconsistent = false;
            disk.is_unclean = source_lost;
            disk.stable = disk.cache;
            inherit_excuses(s, from, to);
            let (target, stage) = (to as u8, Stage::Joined);
            s.set_phase(from, to, Phase::Sync { target, stage });
        }
        let is_whole = !s.disk(to).is_inconsistent;
        let has_writer = s.record(id).writer.is_some();
        let it = &mut s.nodes[to];
        // What a writer's disk has is what counts.
        it.disk.is_unclean &= !(has_writer && is_whole);
        it.awaits_force = match has_writer || self.breaks(Broken::TellEarly) {
            true => it.awaits_force.without(from),
            false => it.awaits_force.with(from),
        };
        it.required = members;
        it.is_uptodate |= is_whole;
        s.send(to, from, Body::Durable(id, is_whole));
    }

    /// The maker of a record says which members have all data: they were all equal then, but for what is hot.
    pub(crate) fn on_in_force(
        &self,
        s: &mut State,
        from: usize,
        to: usize,
        id: RecordId,
        holders: Set,
    ) {
        let it = &mut s.nodes[to];
        it.stalled_peers = it.stalled_peers.without(from);
        it.awaits_force = it.awaits_force.without(from);
        if it.disk.current != id {
            if let Phase::Sync {
                target,
                stage: Stage::Decided { .. },
            } = s.phase(from, to)
            {
                if usize::from(target) == to && s.disk(from).current == id {
                    let stage = Stage::Decided { written: 0 };
                    s.set_phase(from, to, Phase::Sync { target, stage });
                }
            }
            return;
        }
        self.confirm(s, to);
        let holders = holders.and(s.record(id).members);
        if !holders.contains(to) || s.disk(to).is_inconsistent {
            return;
        }
        let met = self.sessions(s, to);
        let disk = s.disk_mut(to);
        for other in holders.without(to).without(from).iter() {
            if !met.contains(other) {
                disk.seen[other] = (0, 0);
            }
            disk.since[other] = id;
            disk.bits[other] = Set::EMPTY;
        }
        for other in holders.without(to).without(from).iter() {
            if matches!(s.phase(to, other), Phase::Waiting { .. }) {
                self.reopen(s, to, other);
            }
        }
    }
}

/// A person gave up whatever the disk lacks.
pub(crate) fn excuse_all(s: &mut State) {
    for write in &mut s.writes {
        write.excused = Set::below(NODES);
        write.flushed = 0;
    }
}

/// A copy has no more than its source.
fn inherit_excuses(s: &mut State, source: usize, target: usize) {
    for write in &mut s.writes {
        if write.excused.contains(source) && !write.kept.contains(source) {
            write.excused = write.excused.with(target);
        }
    }
}

/// A node whose power was cut goes on without what its cache lost: it is lost for all.
fn excuse_lost(s: &mut State, node: usize) {
    let cache = s.disk(node).cache;
    for (number, write) in s.writes.iter_mut().enumerate() {
        let has_it = usize::from(cache[usize::from(write.block)]) > number;
        if write.excused.contains(node) && !has_it && write.flushed == 0 {
            write.excused = Set::below(NODES);
        }
    }
}
