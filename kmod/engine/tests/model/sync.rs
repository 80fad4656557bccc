// SPDX-License-Identifier: GPL-2.0-only

//! A resync, from the exchange of bitmaps to the target's last block (G4).

use crate::check::{counts, has, in_force};
use crate::io::differences;
use crate::scope::{Broken, Scope};
use crate::set::Set;
use crate::state::{Body, Phase, Stage, State, Wrong};
use weft_engine::decide::Outcome;

impl Scope {
    /// Both know every block that may differ; the source's disk is stable; the target takes over the source's line and is
    /// inconsistent from now on.
    pub(crate) fn adopt(&self, s: &mut State, source: usize, target: usize) {
        let Phase::Sync {
            stage: Stage::Decided { written },
            ..
        } = s.phase(source, target)
        else {
            return;
        };
        if !self.breaks(Broken::SourceIsUnstable) {
            let disk = s.disk_mut(source);
            disk.stable = disk.cache;
        }
        let blocks = s.disk(source).bits[target].or(s.disk(target).bits[source]);
        s.disk_mut(source).bits[target] = blocks;
        s.disk_mut(target).bits[source] = blocks;
        self.entrust(s, source, target);
        let (current, tail) = (s.disk(source).current, s.disk(source).tail);
        let line: Vec<_> = s.had(current).collect();
        let members = s.record(current).members;
        let disk = s.disk_mut(target);
        (disk.current, disk.written) = (current, written);
        disk.tail = tail;
        disk.is_inconsistent = true;
        disk.is_outdated = false;
        disk.is_old_image = false;
        for since in &mut disk.since {
            if !line.contains(since) {
                *since = 0;
            }
        }
        disk.since[source] = current;
        let it = &mut s.nodes[target];
        it.required = members;
        it.is_uptodate = false;
        self.set_stage(s, source, target, Stage::Adopted);
        s.send(target, source, Body::Durable(current, false));
    }

    fn set_stage(&self, s: &mut State, source: usize, target: usize, stage: Stage) {
        let target = target as u8;
        s.set_phase(source, target.into(), Phase::Sync { target, stage });
    }

    /// What the target gives up now, and was a copy until now, the source must not lose any more.
    fn entrust(&self, s: &mut State, source: usize, target: usize) {
        let newest = in_force(s, source);
        let is_member = newest != 0 && s.record(newest).members.contains(target);
        for number in 0..s.writes.len() {
            let write = s.writes[number];
            let is_good = !s.disk(target).is_inconsistent;
            let is_copy = counts(s, &write, target) && has(s, number, &write, target);
            let mut kept = write.kept.without(target);
            if is_copy && is_good && has(s, number, &write, source) {
                kept = kept.with(source);
            } else if is_copy && is_good && is_member && s.precedes(write.done, newest) {
                s.wrong = Some(Wrong::GivenUp);
            }
            s.writes[number].kept = kept;
        }
    }

    /// Whether on one side of a split brain nothing can have been done: its records never came into force.
    pub(crate) fn is_false_alarm(&self, s: &State, a: usize, b: usize) -> bool {
        let went_on = |node: usize, other: usize| {
            let known: Vec<_> = s.had(s.disk(other).current).collect();
            let mut line = s.line(s.disk(node).current);
            line.any(|id| !known.contains(&id) && s.record(id).was_in_force)
        };
        let counts = |node: usize, other: usize| s.nodes[node].is_primary || went_on(node, other);
        !(counts(a, b) && counts(b, a))
    }

    /// Whether the target has an acknowledged write in a generation that the source does not go on from.
    pub(crate) fn would_overwrite(&self, s: &State, source: usize, target: usize) -> bool {
        let (old, new) = (s.disk(target), s.disk(source));
        !old.is_inconsistent
            && s.writes.iter().any(|write| {
                let counts = write.done != 0
                    && (write.flushed != 0 || !write.excused.contains(target))
                    && s.precedes(write.done, old.current);
                counts && !s.precedes(write.done, new.current)
            })
    }

    /// One block is fetched and made stable, and then its bits are cleared.
    pub(crate) fn carry(&self, s: &mut State, source: usize, target: usize, block: usize) {
        let content = s.disk(source).cache[block];
        let third = self.all_nodes().without(source).without(target);
        let disk = s.disk_mut(source);
        disk.bits[target] = disk.bits[target].without(block);
        let disk = s.disk_mut(target);
        disk.bits[source] = disk.bits[source].without(block);
        disk.cache[block] = content;
        if !self.breaks(Broken::ClearBeforeStable) {
            disk.stable[block] = content;
        }
        if !self.breaks(Broken::ResyncSetsNoBits) {
            for other in third.iter() {
                disk.bits[other] = disk.bits[other].with(block);
            }
        }
    }

    /// Whether a source has noted more since its target fetched everything.
    pub(crate) fn has_late_bits(&self, s: &State, a: usize, b: usize) -> bool {
        let Phase::Sync {
            target,
            stage: Stage::Done,
        } = s.phase(a, b)
        else {
            return false;
        };
        let target = usize::from(target);
        let source = if target == a { b } else { a };
        !s.disk(source).bits[target].is_empty()
    }

    /// The target tells that it has everything that it knew of.
    pub(crate) fn finish(&self, s: &mut State, source: usize, target: usize) {
        self.set_stage(s, source, target, Stage::Done);
    }

    /// Blocks that differ although a meeting of the two would take them for equal (I1).
    pub(crate) fn hidden_differences(&self, s: &State, a: usize, b: usize) -> Set {
        let known = |node: usize, peer: usize| s.disk(node).bits[peer].or(s.disk(node).logged());
        let hidden = differences(s, a, b).minus(known(a, b)).minus(known(b, a));
        if hidden.is_empty() {
            return hidden;
        }
        let trusts_bits = |victim| {
            matches!(
                self.decision(s, a, b, victim).outcome,
                Outcome::None
                    | Outcome::SyncTarget { full: false }
                    | Outcome::SyncSource { full: false }
            )
        };
        // A running resync was decided upon by what was true then.
        let is_running = matches!(s.phase(a, b), Phase::Sync { .. });
        if is_running || [None, Some(a), Some(b)].into_iter().any(trusts_bits) {
            hidden
        } else {
            Set::EMPTY
        }
    }
}
