// SPDX-License-Identifier: GPL-2.0-only

//! What can happen next, and what then is.

use crate::scope::Scope;
use crate::set::Set;
use crate::state::{Budget, Phase, Stage, State, Wrong};

/// Turns in which everything that follows from a step without a further one has happened.
const TURNS_MAX: usize = 16;

/// A step. Numbers are nodes, but for the last one of `Write` and `Carry`, which is a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    // What the nodes do by themselves, in the order of preference when faults have stopped.
    Deliver(usize, usize),
    Boot(usize),
    Connect(usize, usize),
    Decide(usize, usize),
    Adopt(usize, usize),
    Carry(usize, usize, usize),
    Finish(usize, usize),
    Vote(usize, usize),
    /// A promotion has taken too long.
    TimeOut(usize),
    // What applications and people do.
    Write(usize, usize),
    /// A write waits for a record without a lost member.
    Shrink(usize),
    Flush(usize),
    Elect(usize),
    Force(usize),
    Demote(usize),
    /// The first one's data are given up in favour of the second one's.
    Discard(usize, usize),
    // What happens to them.
    Lose(usize, usize),
    /// With the blocks that the cache kept.
    Crash(usize, Set),
    TakeImage,
    PutImageBack,
}

impl Scope {
    /// What the nodes do by themselves.
    pub(crate) fn own_actions(&self, s: &State, actions: &mut Vec<Action>) {
        let mut last = None;
        for packet in &s.packets {
            let ends = (usize::from(packet.from), usize::from(packet.to));
            if last.replace(ends) != Some(ends) {
                actions.push(Action::Deliver(ends.0, ends.1));
            }
        }
        let down = self.all().filter(|&node| !s.nodes[node].is_up);
        actions.extend(down.map(Action::Boot));
        let is_apart = |&(a, b): &(usize, usize)| {
            s.phase(a, b) == Phase::None && s.nodes[a].is_up && s.nodes[b].is_up
        };
        let apart = self.pairs().filter(is_apart);
        actions.extend(apart.map(|(a, b)| Action::Connect(a, b)));
        for (a, b) in self.pairs() {
            self.actions_of_pair(s, a, b, actions);
        }
        for node in self.all() {
            let unasked = self.unasked(s, node).iter();
            actions.extend(unasked.map(|voter| Action::Vote(node, voter)));
            if self.may_time_out(s, node) {
                actions.push(Action::TimeOut(node));
            }
        }
    }

    fn actions_of_pair(&self, s: &State, a: usize, b: usize, actions: &mut Vec<Action>) {
        if self.may_decide(s, a, b) {
            actions.push(Action::Decide(a, b));
        }
        let Phase::Sync { target, stage } = s.phase(a, b) else {
            return;
        };
        let target = usize::from(target);
        let source = if target == a { b } else { a };
        match stage {
            Stage::Decided { .. } => actions.push(Action::Adopt(source, target)),
            Stage::Running => {
                let missing = s.disk(target).bits[source];
                let carries = missing
                    .iter()
                    .map(|block| Action::Carry(source, target, block));
                actions.extend(carries);
                if missing.is_empty() {
                    actions.push(Action::Finish(source, target));
                }
            }
            Stage::Adopted | Stage::Done | Stage::Joined | Stage::Whole => {}
        }
    }

    /// What applications and people do.
    fn wishes(&self, s: &State, actions: &mut Vec<Action>) {
        for node in self.all() {
            if self.may_write(s, node) {
                actions.extend((0..self.choices(s)).map(|block| Action::Write(node, block)));
            }
            if self.may_want_shrink(s, node) {
                actions.push(Action::Shrink(node));
            }
            if self.may_flush(s, node) {
                actions.push(Action::Flush(node));
            }
            if s.left.promotions > 0 && self.may_elect(s, node, false) {
                actions.push(Action::Elect(node));
            }
            if s.left.forces > 0 && self.may_elect(s, node, true) {
                actions.push(Action::Force(node));
            }
            if self.may_demote(s, node) && s.left.promotions > 0 {
                actions.push(Action::Demote(node));
            }
        }
        for (a, b) in self.pairs() {
            if s.left.discards > 0 && s.phase(a, b) == Phase::Alone {
                actions.push(Action::Discard(a, b));
                actions.push(Action::Discard(b, a));
            }
        }
    }

    /// What happens to the nodes.
    fn faults(&self, s: &State, actions: &mut Vec<Action>) {
        if s.left.faults > 0 {
            let lost = self.pairs().filter(|&(a, b)| s.has_session(a, b));
            actions.extend(lost.map(|(a, b)| Action::Lose(a, b)));
            for node in self.all().filter(|&node| s.nodes[node].is_up) {
                let unstable = self.unstable(s, node);
                let subsets = (0..=unstable.0)
                    .map(Set)
                    .filter(|&kept| unstable.covers(kept));
                actions.extend(subsets.map(|kept| Action::Crash(node, kept)));
            }
        }
        if s.left.rollbacks > 0 && !s.nodes[0].is_up {
            actions.push(if s.image.is_none() {
                Action::TakeImage
            } else {
                Action::PutImageBack
            });
        }
    }

    pub(crate) fn all_actions(&self, s: &State, actions: &mut Vec<Action>) {
        self.own_actions(s, actions);
        self.wishes(s, actions);
        self.faults(s, actions);
    }

    /// The state after a step.
    pub(crate) fn after(&self, s: &State, action: Action) -> State {
        let mut next = s.clone();
        self.spend(&mut next.left, action);
        let s = &mut next;
        match action {
            Action::Deliver(from, to) => self.deliver(s, from, to).unwrap_or_default(),
            Action::Boot(node) => self.boot(s, node),
            Action::Connect(a, b) => s.set_phase(a, b, Phase::Open { were_equal: false }),
            Action::Decide(a, b) => self.meet(s, a, b, None),
            Action::Adopt(source, target) => self.adopt(s, source, target),
            Action::Carry(source, target, block) => self.carry(s, source, target, block),
            Action::Finish(source, target) => self.finish(s, source, target),
            Action::Vote(node, voter) => self.vote(s, node, voter),
            Action::TimeOut(node) => self.time_out(s, node),
            Action::Write(node, block) => self.issue(s, node, block),
            Action::Shrink(node) => s.nodes[node].wants_shrink = true,
            Action::Flush(node) => self.flush(s, node),
            Action::Elect(node) => self.elect(s, node, false),
            Action::Force(node) => self.elect(s, node, true),
            Action::Demote(node) => self.demote(s, node),
            Action::Discard(victim, winner) => self.meet(s, victim, winner, Some(victim)),
            Action::Lose(a, b) => self.lose(s, a, b),
            Action::Crash(node, kept) => self.crash(s, node, kept),
            Action::TakeImage => self.take_image(s),
            Action::PutImageBack => self.put_image_back(s),
        }
        self.settle(s);
        next
    }

    /// Does all that follows without a step of its own.
    fn settle(&self, s: &mut State) {
        for _ in 0..TURNS_MAX {
            let mut has_moved = false;
            for node in self.all() {
                has_moved |= self.run_change(s, node) || self.begin_wanted_change(s, node);
            }
            for (a, b) in self.pairs() {
                if self.has_news(s, a, b) || self.has_late_bits(s, a, b) {
                    self.reopen(s, a, b);
                    has_moved = true;
                }
            }
            for node in self.all() {
                has_moved |= self.run_role(s, node);
            }
            if !has_moved {
                return;
            }
        }
        s.wrong = Some(Wrong::Restless);
    }

    fn spend(&self, left: &mut Budget, action: Action) {
        let account = match action {
            Action::Elect(_) => &mut left.promotions,
            Action::Force(_) => &mut left.forces,
            Action::Discard(..) => &mut left.discards,
            Action::Lose(..) | Action::Crash(..) => &mut left.faults,
            Action::PutImageBack => &mut left.rollbacks,
            _ => return,
        };
        *account -= 1;
    }
}
