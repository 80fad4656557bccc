// SPDX-License-Identifier: GPL-2.0-only

//! What must hold in every state: the invariants I1 to I7.

use crate::action::Action;
use crate::io::{differences, is_open};
use crate::scope::Scope;
use crate::state::{Phase, RecordId, State, Write, Wrong};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

/// Steps after which a state that does not come to rest counts as turning in circles.
const STEPS_MAX: usize = 400;

/// More records than any history of a scope needs.
const RECORDS_MAX: usize = 9;

/// States that are known to come to a good end.
pub(crate) type Known = Mutex<HashSet<u64>>;

/// I1: if two related disks differ in a block, its bit is set or it is hot.
pub(crate) fn differences_are_known(scope: &Scope, s: &State) -> bool {
    scope
        .pairs()
        .all(|(a, b)| scope.hidden_differences(s, a, b).is_empty())
}

/// I2: what the application was told to be done is on every disk that goes on from there.
pub(crate) fn done_writes_are_kept(scope: &Scope, s: &State) -> bool {
    s.wrong != Some(Wrong::GivenUp)
        && scope.all().all(|node| {
            let disk = s.disk(node);
            disk.is_inconsistent
                || s.writes
                    .iter()
                    .enumerate()
                    .all(|(number, write)| !counts(s, write, node) || has(s, number, write, node))
        })
}

/// Whether a disk has to hold a write.
pub(crate) fn counts(s: &State, write: &Write, node: usize) -> bool {
    let current = in_force(s, node);
    let is_past = |id: RecordId| id != 0 && goes_on_from(s, id, current);
    let is_excused = write.excused.contains(node) && !write.kept.contains(node);
    !s.disk(node).is_old_image && (is_past(write.flushed) || (is_past(write.done) && !is_excused))
}

/// Whether a record goes on from an older one, with no forced promotion between: that gave up whatever its disk lacked.
pub(crate) fn goes_on_from(s: &State, old: RecordId, new: RecordId) -> bool {
    for id in s.line(new) {
        if id == old {
            return true;
        }
        if s.record(id).is_forced {
            return false;
        }
    }
    false
}

/// The newest record of a node's line in which somebody could write.
pub(crate) fn in_force(s: &State, node: usize) -> RecordId {
    let counts = |id: &RecordId| {
        let record = s.record(*id);
        record.was_in_force && record.writer.is_some()
    };
    s.line(s.disk(node).current).find(counts).unwrap_or(0)
}

/// Whether a disk holds a write, or a later one of the same line.
pub(crate) fn has(s: &State, number: usize, write: &Write, node: usize) -> bool {
    let content = s.disk(node).cache[usize::from(write.block)];
    // What was under way when its writer stopped may be there or not.
    let is_of_line =
        |later: &Write| later.done == 0 || s.precedes(later.issued, s.disk(node).current);
    usize::from(content) > number && s.write(content).is_some_and(is_of_line)
}

/// I3: with quorum, the records that were ever in force are one chain.
pub(crate) fn there_is_one_chain(scope: &Scope, s: &State) -> bool {
    let counts = |&id: &RecordId| s.record(id).was_in_force && s.record(id).writer.is_some();
    let ids: Vec<RecordId> = (1..=s.records.len() as RecordId).filter(counts).collect();
    !scope.has_quorum || ids.windows(2).all(|pair| s.precedes(pair[0], pair[1]))
}

/// I4: nothing that counts is overwritten without a person's word.
pub(crate) fn nothing_is_overwritten(s: &State) -> bool {
    !matches!(
        s.wrong,
        Some(Wrong::Overwritten | Wrong::WriterIsTarget | Wrong::UnfitPrimary)
    )
}

/// A split brain is reported only where there is one.
pub(crate) fn alarms_are_true(s: &State) -> bool {
    s.wrong != Some(Wrong::FalseAlarm)
}

/// Both sides of a meeting come to the same conclusion.
pub(crate) fn decisions_are_mirrored(s: &State) -> bool {
    s.wrong != Some(Wrong::NotMirrored)
}

/// I5: connected, equal and idle means equal.
pub(crate) fn idle_disks_are_equal(scope: &Scope, s: &State) -> bool {
    let is_idle = s.packets.is_empty() && !s.writes.iter().any(is_open);
    !is_idle
        || scope.pairs().all(|(a, b)| {
            let are_equal = matches!(s.phase(a, b), Phase::Equal { .. });
            !are_equal || differences(s, a, b).is_empty()
        })
}

/// I7: when faults have stopped, everything becomes uptodate and equal, unless a person has to choose.
pub(crate) fn comes_to_rest(scope: &Scope, known: &Known, s: &State) -> bool {
    let (mut state, mut path, mut actions) = (s.clone(), Vec::new(), Vec::new());
    loop {
        let print = print_of(&state);
        if known.lock().is_ok_and(|known| known.contains(&print)) {
            break;
        }
        path.push(print);
        match next_own_action(scope, &state, &mut actions) {
            Some(_) if path.len() > STEPS_MAX => return false,
            Some(action) => state = scope.after(&state, action),
            None if is_good_end(scope, &state) => break,
            None => return false,
        }
    }
    if let Ok(mut known) = known.lock() {
        known.extend(path);
    }
    true
}

/// No circle of the nodes makes records or rounds without end.
pub(crate) fn circles_end(s: &State) -> bool {
    s.records.len() <= RECORDS_MAX && s.wrong != Some(Wrong::Restless)
}

/// A quick 64-bit hash: the states are many, and nobody chooses them to collide.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u8(byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

fn print_of(s: &State) -> u64 {
    let mut mixer = Mixer::default();
    s.hash(&mut mixer);
    mixer.finish()
}

/// What is done first when nothing but the nodes' own steps is left.
pub(crate) fn next_own_action(
    scope: &Scope,
    s: &State,
    actions: &mut Vec<Action>,
) -> Option<Action> {
    actions.clear();
    scope.own_actions(s, actions);
    actions.first().copied()
}

fn is_good_end(scope: &Scope, s: &State) -> bool {
    let is_alone = scope.pairs().any(|(a, b)| s.phase(a, b) == Phase::Alone);
    let are_blank = scope.all().all(|node| s.disk(node).current == 0);
    let is_good = |node: usize| {
        let it = &s.nodes[node];
        let is_busy = it.transition.is_some() || it.change.is_some() || it.stalled.is_some();
        it.is_up && it.is_uptodate && !is_busy && (!it.is_primary || it.disk.written == 0)
    };
    let are_equal = |(a, b)| differences(s, a, b).is_empty();
    let is_too_old = scope.all().any(|node| s.disk(node).is_old_image);
    is_alone
        || is_too_old
        || are_blank
        || (scope.all().all(is_good)
            && !s.writes.iter().any(is_open)
            && scope.pairs().all(are_equal))
}
