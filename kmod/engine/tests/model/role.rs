// SPDX-License-Identifier: GPL-2.0-only

//! Promotion as an election, and demotion (G6).

use crate::scope::{Broken, Scope};
use crate::set::Set;
use crate::state::{Phase, Promotion, Stage, State, Transition, Wrong};

impl Scope {
    /// Whether a person's wish to make this node primary is not refused at once.
    pub(crate) fn may_elect(&self, s: &State, node: usize, is_forced: bool) -> bool {
        let it = &s.nodes[node];
        // A forced one is of interest only where another would be refused.
        it.is_up
            && !it.is_primary
            && it.transition.is_none()
            && is_forced != self.is_good(s, node)
            && self.refusal(s, node, is_forced) != Refusal::Final
    }

    /// Whether the disk is good enough for a primary.
    fn is_good(&self, s: &State, node: usize) -> bool {
        // Who is no member may lack what the members have.
        let is_member = s
            .current(node)
            .is_some_and(|record| record.members.contains(node));
        is_member && self.has_data(s, node) && !s.nodes[node].is_outdated()
    }

    /// Whether, and for how long, the disk or a peer speak against a promotion.
    fn refusal(&self, s: &State, node: usize, is_forced: bool) -> Refusal {
        let sees_primary = self
            .sessions(s, node)
            .iter()
            .any(|peer| s.nodes[peer].is_primary);
        if sees_primary {
            Refusal::Final
        } else if !s.nodes[node].promised_to.is_empty() {
            Refusal::Passing
        } else {
            self.disk_refusal(s, node, is_forced)
        }
    }

    pub(crate) fn disk_refusal(&self, s: &State, node: usize, is_forced: bool) -> Refusal {
        let is_syncing = self.peers(node).any(|peer| match s.phase(node, peer) {
            Phase::Sync { target, stage } => match stage {
                Stage::Decided { .. } => true,
                Stage::Adopted => usize::from(target) == peer,
                _ => is_forced && usize::from(target) == node && stage != Stage::Joined,
            },
            _ => false,
        });
        if is_syncing || self.is_negotiating(s, node) {
            Refusal::Passing
        } else if self.is_good(s, node) || is_forced {
            Refusal::None
        } else {
            Refusal::Final
        }
    }

    /// What the connected peers have is compared before anybody is asked.
    pub(crate) fn elect(&self, s: &mut State, node: usize, is_forced: bool) {
        for peer in self.sessions(s, node).iter() {
            self.reopen(s, node, peer);
        }
        s.nodes[node].transition = Some(Transition::Comparing { is_forced });
    }

    /// Asks once every peer was met; whether something was done.
    fn compare(&self, s: &mut State, node: usize, is_forced: bool) -> bool {
        let refusal = self.refusal(s, node, is_forced);
        match refusal {
            Refusal::Passing => return false,
            Refusal::Final => self.give_up(s, node),
            Refusal::None => {
                let past = s.current(node).map_or(0, |record| record.term);
                let term = s.disk(node).promised.max(past) + 1;
                s.disk_mut(node).promised = term;
                let waits = self.sessions(s, node);
                s.nodes[node].transition = Some(Transition::Asking {
                    is_forced,
                    term,
                    waits,
                    yes: Set::of(node),
                });
            }
        }
        true
    }

    /// Those who have to be asked and have not answered.
    pub(crate) fn unasked(&self, s: &State, node: usize) -> Set {
        match s.nodes[node].transition {
            Some(Transition::Asking { waits, .. }) => waits,
            _ => Set::EMPTY,
        }
    }

    /// A voter promises, or refuses and so ends the election.
    pub(crate) fn vote(&self, s: &mut State, node: usize, voter: usize) {
        let Some(Transition::Asking {
            is_forced,
            term,
            waits,
            yes,
        }) = s.nodes[node].transition
        else {
            return;
        };
        if self.refuses(s, node, voter, term) {
            let promised = s.disk(voter).promised;
            let disk = s.disk_mut(node);
            disk.promised = disk.promised.max(promised);
            self.give_up(s, node);
            return;
        }
        let it = &mut s.nodes[voter];
        it.disk.promised = it.disk.promised.max(term);
        it.promised_to = it.promised_to.with(node);
        s.nodes[node].transition = Some(Transition::Asking {
            is_forced,
            term,
            waits: waits.without(voter),
            yes: yes.with(voter),
        });
    }

    fn refuses(&self, s: &State, node: usize, voter: usize, term: u8) -> bool {
        let it = &s.nodes[voter];
        let is_behind = match s.phase(node, voter) {
            Phase::Waiting { behind, .. } => behind == Some(node as u8),
            Phase::Sync { target, .. } => usize::from(target) == node,
            _ => false,
        };
        let others = self.sessions(s, voter).without(node);
        it.is_primary
            || others.iter().any(|other| s.nodes[other].is_primary)
            || it.transition.is_some()
            || !it.promised_to.is_empty()
            || self.is_negotiating(s, voter)
            || it.change.is_some()
            || term < it.disk.promised
            || (self.has_quorum && is_behind)
    }

    /// Takes a promotion as far as it goes without a step of its own.
    pub(crate) fn run_role(&self, s: &mut State, node: usize) -> bool {
        let Some(transition) = s.nodes[node].transition else {
            return false;
        };
        let peers = self.sessions(s, node);
        if peers.iter().any(|peer| s.nodes[peer].is_primary) {
            self.yield_to_primary(s, node);
            return true;
        }
        match transition {
            Transition::Comparing { is_forced } => self.compare(s, node, is_forced),
            Transition::Asking {
                is_forced,
                term,
                waits,
                yes,
            } => {
                if !waits.and(peers).is_empty() {
                    let waits = waits.and(peers);
                    s.nodes[node].transition = Some(Transition::Asking {
                        is_forced,
                        term,
                        waits,
                        yes,
                    });
                    return false;
                }
                if self.is_majority(yes) || self.breaks(Broken::PromoteWithoutMajority) {
                    let disk = s.disk(node);
                    let is_anew = is_forced && (disk.is_inconsistent || disk.current == 0);
                    s.nodes[node].wants_promotion = Some(Promotion {
                        term,
                        is_forced,
                        is_anew,
                    });
                    s.nodes[node].transition = Some(Transition::Recording { term });
                } else {
                    self.give_up(s, node);
                }
                true
            }
            Transition::Recording { term } => self.run_recording(s, node, term),
        }
    }

    fn run_recording(&self, s: &mut State, node: usize, term: u8) -> bool {
        let it = &s.nodes[node];
        if let Some(promotion) = it.wants_promotion {
            let is_changed = promotion.is_anew == self.has_data(s, node);
            let refusal = self.disk_refusal(s, node, promotion.is_forced);
            let is_over = refusal == Refusal::Final || (refusal == Refusal::None && is_changed);
            if is_over {
                self.yield_to_primary(s, node);
            }
            return is_over;
        }
        let is_recorded = it.change.is_none() && it.stalled.is_none();
        let is_of_it = s
            .current(node)
            .is_some_and(|record| (record.writer, record.term) == (Some(node as u8), term));
        if is_recorded && is_of_it {
            self.become_primary(s, node);
        } else if is_recorded {
            // The disk took another line over.
            self.yield_to_primary(s, node);
        }
        is_recorded
    }

    fn has_data(&self, s: &State, node: usize) -> bool {
        let disk = s.disk(node);
        !disk.is_inconsistent && disk.current != 0
    }

    fn become_primary(&self, s: &mut State, node: usize) {
        if !self.is_good(s, node) {
            s.wrong = Some(Wrong::UnfitPrimary);
        }
        let it = &mut s.nodes[node];
        it.transition = None;
        it.is_primary = true;
        let sessions = self.sessions(s, node);
        for peer in sessions.iter() {
            let promised_to = &mut s.nodes[peer].promised_to;
            *promised_to = promised_to.without(node);
        }
        if !self.receivers(s, node).covers(sessions) {
            for peer in sessions.iter() {
                self.reopen(s, node, peer);
            }
        }
    }

    /// The promotion has failed: nobody needs to keep the promise.
    pub(crate) fn give_up(&self, s: &mut State, node: usize) {
        s.nodes[node].transition = None;
        s.nodes[node].stalled = None;
        for peer in self.peers(node) {
            let promised_to = &mut s.nodes[peer].promised_to;
            *promised_to = promised_to.without(node);
        }
    }

    /// A promotion that was granted cannot come to its end any more.
    fn yield_to_primary(&self, s: &mut State, node: usize) {
        s.nodes[node].wants_promotion = None;
        self.give_up(s, node);
    }

    /// Whether a promotion may have taken too long.
    pub(crate) fn may_time_out(&self, s: &State, node: usize) -> bool {
        let it = &s.nodes[node];
        let is_waiting = it.stalled.is_some() || it.wants_promotion.is_some();
        matches!(it.transition, Some(Transition::Recording { .. }))
            && it.change.is_none()
            && is_waiting
    }

    pub(crate) fn time_out(&self, s: &mut State, node: usize) {
        self.yield_to_primary(s, node);
    }

    pub(crate) fn may_demote(&self, s: &State, node: usize) -> bool {
        let it = &s.nodes[node];
        let is_drained = !self.has_open_writes(s, node) && it.disk.hot[node].is_empty();
        it.is_primary && it.change.is_none() && is_drained
    }

    pub(crate) fn demote(&self, s: &mut State, node: usize) {
        let it = &mut s.nodes[node];
        it.is_primary = false;
        it.disk.is_unclean = false;
    }

    /// A majority went on without this primary: all that it was asked for since fails.
    pub(crate) fn step_down(&self, s: &mut State, node: usize) {
        if s.nodes[node].is_primary {
            s.nodes[node].is_primary = false;
            s.nodes[node].stalled = None;
            self.give_up_writes(s, node);
        }
    }
}

/// Why a promotion may not begin or go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    None,
    /// It may look otherwise soon.
    Passing,
    Final,
}
