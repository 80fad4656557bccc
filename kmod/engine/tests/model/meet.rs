// SPDX-License-Identifier: GPL-2.0-only

//! Two nodes meet: the real decision function of the engine, and what follows from it.

use crate::scope::{Broken, Scope};
use crate::set::Set;
use crate::state::{Disk, Gist, Phase, RecordId, Stage, State, Transition, Wrong};
use weft_engine::ancestry::Ancestry;
use weft_engine::decide::{arrange, decide, Decision, Outcome, Rule, Side, Stance};
use weft_uapi::limits::{ANCESTRY_MAX, ATTACHES_MAX};
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{GenerationId, Incarnation, NodeId, NodeSet, Term};

/// What is never seen again: every image is too old.
const TOO_OLD: (u8, u8) = (u8::MAX, 0);

impl Scope {
    /// Whether the two can decide: what they tell stays true, and nothing is on its way.
    pub(crate) fn may_decide(&self, s: &State, a: usize, b: usize) -> bool {
        matches!(s.phase(a, b), Phase::Open { .. })
            && !s.has_packets(a, b)
            && is_calm(s, a, b)
            && is_calm(s, b, a)
    }

    /// A new round is due; a resync between the two is over until it is decided.
    pub(crate) fn reopen(&self, s: &mut State, a: usize, b: usize) {
        let were_equal = match s.phase(a, b) {
            Phase::Open { were_equal } => were_equal,
            Phase::Equal { .. } => true,
            Phase::Sync { target, .. } => {
                let target = usize::from(target);
                self.void_sent(s, if target == a { b } else { a }, target);
                false
            }
            _ => false,
        };
        s.set_phase(a, b, Phase::Open { were_equal });
    }

    /// What `node` tells `peer` of its disk.
    pub(crate) fn side(&self, s: &State, node: usize, peer: usize, discards: bool) -> Side {
        let it = &s.nodes[node];
        let Disk {
            incarnation, seen, ..
        } = it.disk;
        let number = |number: u8| match number {
            u8::MAX => Incarnation(u64::MAX),
            number => Incarnation(number.into()),
        };
        let mut former_attaches = [0; ATTACHES_MAX];
        for (to, &attach) in former_attaches.iter_mut().zip(&it.disk.former) {
            *to = attach.into();
        }
        Side {
            node: node_id(node),
            former_attaches,
            former_ages: [0; ATTACHES_MAX],
            age: 0,
            ancestry: ancestry(s, &it.disk),
            incarnation: number(incarnation.0),
            attach_id: incarnation.1.into(),
            seen_incarnation: number(seen[peer].0),
            seen_attach_id: seen[peer].1.into(),
            seen_age: 0,
            since: GenerationId(it.disk.since[peer].into()),
            is_dirty: !it.disk.bits[peer].is_empty(),
            is_inconsistent: it.disk.is_inconsistent,
            is_writer: it.is_primary && it.is_uptodate && it.stalled.is_none(),
            is_primary: it.is_primary && it.is_uptodate,
            has_crashed: it.disk.is_unclean && !it.is_primary,
            discards,
            is_newcomer: false,
            is_invalidated: false,
            invalidates: false,
            repairs: false,
            has_found: false,
            tail_seq: it.disk.tail.into(),
        }
    }

    fn stance(&self, s: &State, node: usize) -> Stance {
        let (leader, source) = (self.leader(s, node), self.source(s, node));
        let leads = |source: usize| self.leader(s, source) == Some(source);
        Stance {
            node: node_id(node),
            leader: leader.map(node_id),
            source: source.map(node_id),
            is_led: leader.is_some() || source.is_some_and(leads),
        }
    }

    fn gist(&self, s: &State, node: usize, peer: usize) -> Gist {
        let side = self.side(s, node, peer, false);
        Gist {
            leader: self.leader(s, node).map(|leader| leader as u8),
            source: self.source(s, node).map(|source| source as u8),
            current: s.disk(node).current,
            is_inconsistent: side.is_inconsistent,
            is_dirty: side.is_dirty,
            is_writer: side.is_writer,
        }
    }

    /// Whether the last decision no longer fits.
    pub(crate) fn has_news(&self, s: &State, a: usize, b: usize) -> bool {
        match s.phase(a, b) {
            Phase::Waiting { told, .. } => {
                [self.gist(s, a, b), self.gist(s, b, a)]
                    != if a < b { told } else { [told[1], told[0]] }
            }
            Phase::Equal {
                told,
                were_outdated,
            } => [(a, b), (b, a)].into_iter().any(|(node, peer)| {
                let is_better = were_outdated && s.nodes[node].is_uptodate;
                is_better || self.has_slipped(s, node, peer, told)
            }),
            _ => false,
        }
    }

    /// Whether a peer that was equal is not any more.
    fn has_slipped(&self, s: &State, node: usize, peer: usize, told: RecordId) -> bool {
        if self.breaks(Broken::SecondariesGoOn) {
            return false;
        }
        let disk = s.disk(node);
        let is_left_out = s.current(node).is_some_and(|record| {
            !record.members.contains(peer)
                && disk.current != told
                && record
                    .writer
                    .is_some_and(|writer| usize::from(writer) != node)
        });
        let is_alone = self.leader(s, node).is_none();
        is_left_out || disk.is_inconsistent || (is_alone && !disk.bits[peer].is_empty())
    }

    pub(crate) fn decision(
        &self,
        s: &State,
        a: usize,
        b: usize,
        victim: Option<usize>,
    ) -> Decision {
        let own = self.side(s, a, b, victim == Some(a));
        let peer = self.side(s, b, a, victim == Some(b));
        if self.breaks(Broken::TrustOldImages) {
            let trusting = |side: Side| Side {
                seen_incarnation: Incarnation(0),
                ..side
            };
            return decide(&trusting(own), &trusting(peer));
        }
        decide(&own, &peer)
    }

    /// What becomes of a decision where there are more than two.
    fn arranged(&self, s: &State, decision: Decision, node: usize, peer: usize) -> Outcome {
        if self.breaks(Broken::FollowTwoWriters) {
            return decision.outcome;
        }
        arrange(decision, &self.stance(s, node), &self.stance(s, peer))
    }

    /// Both decide on what both said; with `victim` a person gave its data up.
    pub(crate) fn meet(&self, s: &mut State, a: usize, b: usize, victim: Option<usize>) {
        let told = s.clone();
        if [a, b].iter().all(|&node| writes(&told, node)) {
            self.stand_alone(s, a, b);
            return;
        }
        let decision = self.decision(&told, a, b, victim);
        let mirrored = self.decision(&told, b, a, victim);
        let outcome = self.arranged(&told, decision, a, b);
        if outcome != self.arranged(&told, mirrored, b, a).mirrored() {
            s.wrong = Some(Wrong::NotMirrored);
        }
        for (node, peer) in [(a, b), (b, a)] {
            let own = if node == a { decision } else { mirrored };
            self.note_met(&told, s, node, peer, own);
        }
        match outcome {
            Outcome::None => self.on_equal(&told, s, a, b),
            Outcome::NoSource | Outcome::Wait => self.wait(&told, s, a, b, decision, outcome),
            Outcome::SyncTarget { full } => self.begin_sync(&told, s, b, a, full, victim),
            Outcome::SyncSource { full } => self.begin_sync(&told, s, a, b, full, victim),
            Outcome::SplitBrain | Outcome::Refuse => {
                if decision.rule != Rule::RolledBack && self.is_false_alarm(s, a, b) {
                    s.wrong = Some(Wrong::FalseAlarm);
                }
                self.stand_alone(s, a, b);
            }
        }
    }

    /// What a node notes of a peer whatever comes of the meeting.
    fn note_met(&self, told: &State, s: &mut State, node: usize, peer: usize, own: Decision) {
        let (mine, theirs) = (told.disk(node), told.disk(peer));
        if mine.current == theirs.current && theirs.written == 0 {
            self.confirm(s, node);
        }
        let is_fetching = matches!(own.outcome, Outcome::SyncTarget { .. });
        let seen = mine.seen[peer];
        let is_new = theirs.was_attached_as(seen.1) || seen.0 == 0;
        let is_stalled = told.nodes[peer].stalled.is_some() || self.source(told, peer).is_some();
        let it = &mut s.nodes[node];
        it.awaits_force = it.awaits_force.without(peer);
        it.stalled_peers = match is_stalled {
            true => it.stalled_peers.with(peer),
            false => it.stalled_peers.without(peer),
        };
        let disk = &mut it.disk;
        disk.seen[peer] = if is_new || is_fetching {
            theirs.incarnation
        } else {
            TOO_OLD
        };
        if own.rule == Rule::RolledBack || theirs.current == 0 {
            disk.since[peer] = 0;
        }
    }

    fn stand_alone(&self, s: &mut State, a: usize, b: usize) {
        self.lose(s, a, b);
        s.set_phase(a, b, Phase::Alone);
    }

    /// The disks are equal.
    fn on_equal(&self, told: &State, s: &mut State, a: usize, b: usize) {
        let were_outdated = [a, b].iter().all(|&node| told.nodes[node].is_outdated());
        for (node, peer) in [(a, b), (b, a)] {
            let current = told.disk(node).current;
            s.disk_mut(node).since[peer] = current;
            self.on_known(s, node, peer);
            if !were_outdated {
                s.disk_mut(node).is_outdated = false;
                s.nodes[node].is_uptodate = true;
            }
        }
        let told = told.disk(a).current;
        s.set_phase(
            a,
            b,
            Phase::Equal {
                told,
                were_outdated,
            },
        );
        self.reconciled(s, a);
        self.reconciled(s, b);
    }

    /// Nothing to do with each other for now.
    fn wait(
        &self,
        told: &State,
        s: &mut State,
        a: usize,
        b: usize,
        decision: Decision,
        outcome: Outcome,
    ) {
        for (node, peer) in [(a, b), (b, a)] {
            self.void_sent(s, node, peer);
            self.lose_received(s, node, peer);
            let (mine, theirs) = (told.disk(node), told.disk(peer));
            let is_late = if outcome == Outcome::Wait {
                self.leader(told, node).is_none() && self.leader(told, peer).is_some()
            } else {
                theirs.is_inconsistent && written(theirs) != written(mine)
            };
            let it = &mut s.nodes[node];
            if is_late && !it.is_primary && !it.disk.is_inconsistent && it.disk.current != 0 {
                it.disk.is_outdated = true;
                it.is_uptodate = false;
            }
        }
        let behind = match decision.outcome {
            Outcome::SyncSource { .. } => Some(b as u8),
            Outcome::SyncTarget { .. } => Some(a as u8),
            _ => None,
        };
        let (low, high) = (a.min(b), a.max(b));
        let told = [self.gist(told, low, high), self.gist(told, high, low)];
        s.set_phase(a, b, Phase::Waiting { told, behind });
    }

    fn begin_sync(
        &self,
        told: &State,
        s: &mut State,
        source: usize,
        target: usize,
        full: bool,
        victim: Option<usize>,
    ) {
        if writes(told, target) {
            s.wrong = Some(Wrong::WriterIsTarget);
        }
        if victim.is_none() && self.would_overwrite(s, source, target) {
            s.wrong = Some(Wrong::Overwritten);
        }
        let all = Set::below(self.blocks);
        s.nodes[source].is_uptodate = true;
        if full {
            s.disk_mut(source).bits[target] = all;
        }
        if let Some(other) = self.source(told, target) {
            let is_leader = self.leader(told, source) == Some(source);
            let dropped = if is_leader { other } else { source };
            self.reopen(s, target, dropped);
            if !is_leader {
                s.set_phase(source, target, Phase::Open { were_equal: false });
                return;
            }
        }
        if full {
            for other in self.peers(target) {
                s.disk_mut(target).bits[other] = all;
            }
        }
        self.stop_sources(s, target);
        let written = told.disk(source).written;
        let stage = Stage::Decided { written };
        let phase = Phase::Sync {
            target: target as u8,
            stage,
        };
        s.set_phase(source, target, phase);
        self.step_down(s, target);
    }

    /// What is fetched here would lack something: a leader's writes, or what this node fetches itself from now on.
    pub(crate) fn stop_sources(&self, s: &mut State, node: usize) {
        for target in self.targets(s, node).iter() {
            self.reopen(s, node, target);
        }
    }
}

/// Whether what a node tells stays true until it is decided upon.
fn is_calm(s: &State, node: usize, peer: usize) -> bool {
    let it = &s.nodes[node];
    let is_promoting = matches!(
        it.transition,
        Some(Transition::Asking { .. } | Transition::Recording { .. })
    );
    let is_on_record = it.wants_promotion.is_some() || it.stalled.is_some();
    // A peer that tells its state is not in the middle of a change.
    let is_told = it.awaits_force.without(peer).is_empty();
    it.change.is_none() && is_told && (!is_promoting || is_on_record)
}

/// Whether an application can write.
fn writes(s: &State, node: usize) -> bool {
    s.nodes[node].is_primary && s.nodes[node].stalled.is_none()
}

/// The newest generation in which somebody could write.
fn written(disk: &Disk) -> RecordId {
    match disk.written {
        0 => disk.current,
        id => id,
    }
}

fn node_id(node: usize) -> NodeId {
    NodeId::new(node as u32).expect("few nodes")
}

/// The engine's own line of generations.
fn ancestry(s: &State, disk: &Disk) -> Ancestry {
    let Some(&record) = usize::from(disk.current)
        .checked_sub(1)
        .and_then(|at| s.records.get(at))
    else {
        return Ancestry::default();
    };
    let mut former = [GenerationId::NONE; ANCESTRY_MAX];
    for (to, (id, is_whole)) in former.iter_mut().zip(s.past(disk.current).skip(1)) {
        let id = u64::from(id);
        *to = GenerationId(if is_whole { id } else { !id });
    }
    let current = Generation {
        id: GenerationId(disk.current.into()),
        parent: GenerationId(record.parent.into()),
        term: Term(record.term.into()),
        writer: record.writer.and_then(|writer| NodeId::new(writer.into())),
        members: NodeSet(record.members.0.into()),
        left: NodeSet::EMPTY,
    };
    Ancestry::new(current, former, GenerationId(disk.written.into()))
}
