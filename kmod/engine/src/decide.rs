// SPDX-License-Identifier: GPL-2.0-only

//! Who is right when two disks meet: the one decision for attach, connect and reconnect.
//!
//! A pure function of what both sides tell in their state packets, so both sides run it and come to mirrored results
//! without another word. The first rule of [`RULES`] that applies decides; its name is logged and shown.
//!
//! Three things hold whatever the rule: an inconsistent or blank disk is never a source; the disk that a running
//! application reads and writes is never a target; a fork is overwritten only when somebody said so, a person or the
//! policies of both nodes ([`crate::recovery`]), or when one of its ends is a generation that never came into force.

use crate::ancestry::Ancestry;
use weft_uapi::limits::ATTACHES_MAX;
use weft_uapi::units::{GenerationId, Incarnation, NodeId};

/// What one side knows of its disk and of the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// The node.
    pub node: NodeId,
    /// Its line of generations.
    pub ancestry: Ancestry,
    /// How often its disk was attached.
    pub incarnation: Incarnation,
    /// Random id of this attach.
    pub attach_id: u64,
    /// Highest incarnation of the other side's disk that it saw.
    pub seen_incarnation: Incarnation,
    /// Ids of the attaches of its disk before this one, the newest first; 0: none.
    pub former_attaches: [u64; ATTACHES_MAX],
    /// The age that its disk reached in each of them, see [`weft_uapi::wire::AgeBody`]; 0: not known.
    pub former_ages: [u64; ATTACHES_MAX],
    /// The age of its disk.
    pub age: u64,
    /// Attach id of the other side's disk that it saw last; 0: none that counts.
    pub seen_attach_id: u64,
    /// The highest age of the other side's disk that it saw in that attach; 0: none.
    pub seen_age: u64,
    /// The newest generation that the other side acknowledged to it as durable; always in its own line, and so
    /// forgotten when it takes over a line without it.
    pub since: GenerationId,
    /// The bitmap towards the other side has bits, or extents may be unequal (`U`).
    pub is_dirty: bool,
    /// An unfinished sync target.
    pub is_inconsistent: bool,
    /// Primary, and its application works on this disk's data.
    pub is_writer: bool,
    /// Primary, perhaps one that must not write for now: whatever was written in its generation it has.
    pub is_primary: bool,
    /// Was attached after a crash, so writes may be lost that it acknowledged without a flush.
    pub has_crashed: bool,
    /// A person gave this side's data up.
    pub discards: bool,
    /// Its disk took the place of another one: nobody counts on what it knows.
    pub is_newcomer: bool,
    /// A person wants this disk to fetch everything from the other one.
    pub is_invalidated: bool,
    /// A person wants the other disk to fetch everything from this one.
    pub invalidates: bool,
    /// What a person wants of this side is about the blocks that the bitmaps name only.
    pub repairs: bool,
    /// A verify has found where its disk differs from the other one.
    pub has_found: bool,
    /// Sequence number of the last write received in order.
    pub tail_seq: u64,
}

/// Name of the rule that decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A disk is an older image of itself than the peer has seen.
    RolledBack,
    /// A disk never held data.
    JustCreated,
    /// Both disks are unfinished sync targets.
    BothInconsistent,
    /// One disk is an unfinished sync target.
    Unfinished,
    /// A person gave one disk up, although it may be as good as the other one.
    Invalidated,
    /// A person gave up what differs on one disk, although it may be as good as the other one.
    Repair,
    /// Nothing happened since they met last.
    SameGeneration,
    /// Same generation, but the last writes may not have reached both.
    Tails,
    /// Generations differ, but nobody could write in what only one side knows.
    SameData,
    /// This side's data are of the past.
    Behind,
    /// The peer's data are of the past.
    Ahead,
    /// Both went on from a common past, and wrote.
    Forked,
    /// Nothing in common.
    Unrelated,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 13] = [
        Self::RolledBack,
        Self::JustCreated,
        Self::BothInconsistent,
        Self::Unfinished,
        Self::Invalidated,
        Self::Repair,
        Self::SameGeneration,
        Self::Tails,
        Self::SameData,
        Self::Behind,
        Self::Ahead,
        Self::Forked,
        Self::Unrelated,
    ];

    /// The name in logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled-back",
            Self::JustCreated => "just-created",
            Self::BothInconsistent => "both-inconsistent",
            Self::Unfinished => "unfinished",
            Self::Invalidated => "invalidated",
            Self::Repair => "repair",
            Self::SameGeneration => "same-generation",
            Self::Tails => "tails",
            Self::SameData => "same-data",
            Self::Behind => "behind",
            Self::Ahead => "ahead",
            Self::Forked => "forked",
            Self::Unrelated => "unrelated",
        }
    }
}

/// What follows for this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Both disks are equal and the newest: nothing to do.
    None,
    /// Neither side has data to give: stay connected, both disks keep their state.
    NoSource,
    /// Nothing for now: another node is the one to fetch from, or has to be met first.
    Wait,
    /// Fetch from the peer what either bitmap or `U` names, or everything.
    SyncTarget {
        /// Everything.
        full: bool,
    },
    /// Let the peer fetch.
    SyncSource {
        /// Everything.
        full: bool,
    },
    /// A person has to choose a victim.
    SplitBrain,
    /// These disks must not meet.
    Refuse,
}

impl Outcome {
    /// What the other side concludes.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::SyncTarget { full } => Self::SyncSource { full },
            Self::SyncSource { full } => Self::SyncTarget { full },
            same => same,
        }
    }
}

/// Rule and outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The rule that applied.
    pub rule: Rule,
    /// What follows.
    pub outcome: Outcome,
}

/// A row of the table: the rule's decision for the first side, or `None` when it does not apply.
type Row = fn(&Side, &Side) -> Option<Decision>;

/// The table; the first row that applies decides.
const RULES: [Row; 9] = [
    rolled_back,
    just_created,
    inconsistent,
    invalidated,
    same_generation,
    same_data,
    behind,
    ahead,
    forked,
];

/// What one side is busy with: whether a sync may begin at once depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stance {
    /// The node.
    pub node: NodeId,
    /// The primary with a disk whose writes it gets, or that it is itself.
    pub leader: Option<NodeId>,
    /// The node that it fetches from.
    pub source: Option<NodeId>,
    /// The leader is primary and not only about to be; without leader, the source is.
    pub is_led: bool,
}

/// What becomes of a decision in a cluster of more than two: a target has one source at a time, and while somebody is
/// primary it is the primary, since only it knows which writes are under way. Who does not get the primary's writes
/// counts as equal to nobody who does.
///
/// Two that get every write of the same primary are equal but for what is under way to them, whatever their bits say:
/// that is the primary's to see to, and theirs when it is gone.
pub fn arrange(decision: Decision, own: &Stance, peer: &Stance) -> Outcome {
    let outcome = decision.outcome;
    let leader = own
        .leader
        .filter(|leader| ![own.node, peer.node].contains(leader));
    if decision.rule == Rule::Tails && leader.is_some() && own.leader == peer.leader {
        return Outcome::None;
    }
    let may_go = match outcome {
        Outcome::None => is_near(own, peer),
        Outcome::SyncTarget { .. } => may_fetch(own, peer),
        Outcome::SyncSource { .. } => may_fetch(peer, own),
        _ => true,
    };
    if may_go {
        outcome
    } else {
        Outcome::Wait
    }
}

/// Whether both follow the same primary, or nobody, or one follows the other.
fn is_near(own: &Stance, peer: &Stance) -> bool {
    own.leader == peer.leader || own.leader == Some(own.node) || peer.leader == Some(peer.node)
}

fn may_fetch(target: &Stance, source: &Stance) -> bool {
    if source.source.is_some() {
        // It is about to be unfinished itself.
        return false;
    }
    match (target.leader, source.leader) {
        (Some(one), Some(other)) if one != other => false,
        // It would change to and fro between two primaries that do not know of each other.
        (None, Some(_)) if target.is_led && target.source != Some(source.node) => false,
        (Some(leader), _) | (_, Some(leader)) => leader == source.node || leader == target.node,
        (None, None) => target.source.is_none_or(|other| other == source.node),
    }
}

/// Decides for `own`; with the sides swapped it gives the mirrored outcome.
pub fn decide(own: &Side, peer: &Side) -> Decision {
    let unrelated = Decision {
        rule: Rule::Unrelated,
        outcome: Outcome::Refuse,
    };
    RULES
        .iter()
        .find_map(|row| row(own, peer))
        .unwrap_or(unrelated)
}

fn decided(rule: Rule, outcome: Outcome) -> Option<Decision> {
    Some(Decision { rule, outcome })
}

impl Side {
    /// Whether `peer` saw another image of this disk than this one came from (G7): a newer one, or another disk in its
    /// place. An attach of long ago is forgotten: then only the number can tell.
    pub(crate) fn is_rolled_back(&self, peer: &Self) -> bool {
        if self
            .age_reached_as(peer.seen_attach_id)
            .is_some_and(|age| age < peer.seen_age)
        {
            // It came from an image that was taken in that attach.
            return true;
        }
        let oldest_known = self.incarnation.0.saturating_sub(ATTACHES_MAX as u64);
        !self.was_attached_as(peer.seen_attach_id) && peer.seen_incarnation.0 >= oldest_known.max(1)
    }

    /// Whether this or a former attach of the disk, as far as it remembers, had this id.
    pub(crate) fn was_attached_as(&self, id: u64) -> bool {
        id != 0 && (self.attach_id == id || self.former_attaches.contains(&id))
    }

    /// The age that the disk reached in a former attach; `None`: not known.
    fn age_reached_as(&self, id: u64) -> Option<u64> {
        let attaches = self.former_attaches.iter().zip(&self.former_ages);
        let mut ages = attaches.filter(|(attach, _)| **attach == id);
        let (_, age) = ages.next().filter(|_| id != 0 && id != self.attach_id)?;
        Some(*age).filter(|&age| age != 0)
    }

    /// Whether everything on this disk was also on `peer`'s once. A peer that is far ahead has forgotten the generation
    /// itself, but not that it was acknowledged.
    fn precedes(&self, peer: &Self) -> bool {
        let acknowledged = [self.ancestry.current().id, self.ancestry.written()];
        self.ancestry.precedes(&peer.ancestry)
            || (peer.since != GenerationId::NONE && acknowledged.contains(&peer.since))
    }

    /// Whether the current generation never came into force: `peer` had to acknowledge it first, and never knew it.
    fn is_abandoned(&self, peer: &Self) -> bool {
        let current = self.ancestry.current();
        current.members.contains(peer.node)
            && !peer.ancestry.knows(current.id)
            && peer.ancestry.contains(current.parent)
            && self.since != current.id
    }

    /// Whether this side would forget a record that it has acknowledged and that may be in force, for nothing that was
    /// written since: `peer` knows neither. Whoever counted on this side's knowledge may have had the only copy. Its maker
    /// knows whether it came into force: also when that is this side, or has it no more.
    pub(crate) fn would_forget(&self, peer: &Self) -> bool {
        let current = self.ancestry.current();
        let is_known = peer.ancestry.contains(current.id) || peer.since == current.id;
        let makers = [self.node, peer.node];
        current
            .writer
            .is_some_and(|writer| !makers.contains(&writer))
            && self.ancestry.contains(peer.ancestry.written())
            && !is_known
            && !self.is_newcomer
            && !self.is_abandoned(peer)
    }

    /// How much of what may be in force this side knows and `other` does not, of two that hold the same data. What an
    /// application writes and what a crash took count for more than that.
    fn knowledge_beside(&self, other: &Self) -> u8 {
        if other.is_writer || (self.has_crashed && !other.has_crashed) {
            0
        } else if self.would_forget(other) {
            // Who was elected later has the record in its line, if it came into force: then the term decides.
            let is_later = other.ancestry.current().term > self.ancestry.current().term;
            let is_outvoted = is_later && other.ancestry.goes_beyond(&self.ancestry);
            if is_outvoted {
                1
            } else {
                2
            }
        } else {
            // Nobody remembers whether the records in between had a writer.
            let may_know = !other.is_primary && self.ancestry.goes_beyond(&other.ancestry);
            u8::from(may_know)
        }
    }

    /// Whether the bitmaps name every difference once `self` becomes target of `source`.
    fn bits_reach_back_to(&self, source: &Self) -> bool {
        self.ancestry.contains(source.since)
    }
}

/// `own` is target: refused when that would harm a running application or when `peer` has nothing to give.
fn target(rule: Rule, own: &Side, peer: &Side, full: bool) -> Decision {
    let outcome = if peer.is_inconsistent || peer.ancestry.is_blank() {
        Outcome::NoSource
    } else if own.is_writer {
        return overtaken(rule, own, peer);
    } else {
        Outcome::SyncTarget { full }
    };
    Decision { rule, outcome }
}

/// `own` would be target, but an application works on its data: unless the peer gives its own ones up, a person has to
/// choose.
fn overtaken(rule: Rule, own: &Side, peer: &Side) -> Decision {
    let outcome = match fork_needs_full(own, peer) {
        Some(full) if peer.discards && !peer.is_writer && !own.is_inconsistent => {
            Outcome::SyncSource { full }
        }
        _ => Outcome::SplitBrain,
    };
    Decision { rule, outcome }
}

/// `own` is source: the mirror image of [`target`].
fn source(rule: Rule, own: &Side, peer: &Side, full: bool) -> Decision {
    let mirror = target(rule, peer, own, full);
    Decision {
        rule,
        outcome: mirror.outcome.mirrored(),
    }
}

/// The side that gives its data up is target; otherwise a person has to choose.
fn victim(rule: Rule, own: &Side, peer: &Side, full: bool) -> Decision {
    match (own.discards, peer.discards) {
        (true, false) => target(rule, own, peer, full),
        (false, true) => source(rule, own, peer, full),
        _ => Decision {
            rule,
            outcome: Outcome::SplitBrain,
        },
    }
}

/// The better source of two equally new sides: the running writer, also one that waits for votes, the one that lost no cache, the one whose application
/// made the writes (under the protocols A and B the other may lack some that are complete), the one with more writes.
fn is_better_source(own: &Side, peer: &Side) -> bool {
    let rank = |side: &Side| {
        (
            side.is_writer,
            side.is_primary,
            !side.has_crashed,
            side.ancestry.current().writer == Some(side.node),
            side.tail_seq,
            core::cmp::Reverse(side.node),
        )
    };
    rank(own) > rank(peer)
}

fn rolled_back(own: &Side, peer: &Side) -> Option<Decision> {
    let is_blank = [own, peer].map(|side| side.ancestry.is_blank());
    match (own.is_rolled_back(peer), peer.is_rolled_back(own)) {
        (false, false) => None,
        // Whatever the other one is, a blank disk claims nothing.
        (true, true) if is_blank.contains(&true) => None,
        (true, false) if is_blank == [false, true] => None,
        (false, true) if is_blank == [true, false] => None,
        // Neither can be trusted: a person has to choose.
        (true, true) if own.ancestry.common(&peer.ancestry).is_some() => {
            Some(victim(Rule::RolledBack, own, peer, true))
        }
        (true, true) => decided(Rule::RolledBack, Outcome::Refuse),
        (true, false) => Some(older_image(own, peer)),
        (false, true) => {
            let mirror = older_image(peer, own);
            decided(Rule::RolledBack, mirror.outcome.mirrored())
        }
    }
}

/// `own` is an older image: its bitmaps say nothing of what it lost, and it may have gone on from there.
fn older_image(own: &Side, peer: &Side) -> Decision {
    if peer.is_inconsistent && peer.discards && !own.is_inconsistent && peer.precedes(own) {
        // Nobody can have from it what the image lost.
        source(Rule::RolledBack, own, peer, true)
    } else if own.ancestry.is_blank() || own.precedes(peer) {
        target(Rule::RolledBack, own, peer, true)
    } else if own.ancestry.common(&peer.ancestry).is_some() {
        victim(Rule::RolledBack, own, peer, true)
    } else {
        Decision {
            rule: Rule::RolledBack,
            outcome: Outcome::Refuse,
        }
    }
}

fn just_created(own: &Side, peer: &Side) -> Option<Decision> {
    match (own.ancestry.is_blank(), peer.ancestry.is_blank()) {
        (false, false) => None,
        (true, true) => decided(Rule::JustCreated, Outcome::NoSource),
        (true, false) => Some(target(Rule::JustCreated, own, peer, true)),
        (false, true) => Some(source(Rule::JustCreated, own, peer, true)),
    }
}

fn inconsistent(own: &Side, peer: &Side) -> Option<Decision> {
    match (own.is_inconsistent, peer.is_inconsistent) {
        (false, false) => None,
        (true, true) => decided(Rule::BothInconsistent, Outcome::NoSource),
        (true, false) => unfinished(own, peer),
        (false, true) => {
            let mirror = unfinished(peer, own)?;
            decided(mirror.rule, mirror.outcome.mirrored())
        }
    }
}

/// `own` goes on as target, unless it owes data that `peer` never had.
fn unfinished(own: &Side, peer: &Side) -> Option<Decision> {
    if own.would_forget(peer) {
        // Somebody else has it, or will tell that it was given up by what is written next.
        decided(Rule::Unfinished, Outcome::NoSource)
    } else if own.precedes(peer) {
        Some(target(
            Rule::Unfinished,
            own,
            peer,
            !own.bits_reach_back_to(peer),
        ))
    } else if peer.precedes(own) {
        // Somebody else has what both lack.
        decided(Rule::Unfinished, Outcome::NoSource)
    } else {
        None
    }
}

/// A person's order, unless the other disk lacks something that the one to be given up has, or an application works on
/// that one.
fn invalidated(own: &Side, peer: &Side) -> Option<Decision> {
    let is_spare = |victim: &Side, source: &Side| {
        victim.precedes(source) && !victim.is_primary && !victim.is_writer
    };
    match (given_up(own, peer), given_up(peer, own)) {
        (Some((rule, full)), None) if is_spare(own, peer) => Some(target(rule, own, peer, full)),
        (None, Some((rule, full))) if is_spare(peer, own) => Some(source(rule, own, peer, full)),
        _ => None,
    }
}

/// By which rule a person gives `victim` up, and whether it fetches everything; `None`: nobody does. Without need it
/// fetches only what differs, if that is all that was ordered.
fn given_up(victim: &Side, source: &Side) -> Option<(Rule, bool)> {
    let orders = [
        (victim.is_invalidated, victim.repairs),
        (source.invalidates, source.repairs),
    ];
    let mut meant = orders.iter().filter(|(is_meant, _)| *is_meant);
    let is_repair = meant.clone().all(|(_, repairs)| *repairs);
    meant.next()?;
    match is_repair {
        false => Some((Rule::Invalidated, true)),
        true if !victim.has_found => None,
        true if !victim.bits_reach_back_to(source) => Some((Rule::Invalidated, true)),
        true => Some((Rule::Repair, false)),
    }
}

fn same_generation(own: &Side, peer: &Side) -> Option<Decision> {
    if own.ancestry.current().id != peer.ancestry.current().id {
        return None;
    }
    if !own.is_dirty && !peer.is_dirty {
        return decided(Rule::SameGeneration, Outcome::None);
    }
    Some(if is_better_source(own, peer) {
        source(Rule::Tails, own, peer, false)
    } else {
        target(Rule::Tails, own, peer, false)
    })
}

/// Each has all that was ever written on the other: who would forget a record that may be in force is source, unless an
/// application writes on the other one; else the one whose line goes on.
fn same_data(own: &Side, peer: &Side) -> Option<Decision> {
    if !(own.precedes(peer) && peer.precedes(own)) {
        return None;
    }
    let rank = |side: &Side, other: &Side| {
        let current = side.ancestry.current();
        let goes_on = side.ancestry.contains(other.ancestry.current().id);
        // A primary that waits for votes has what was written, and an application that need not hear of it.
        (
            side.knowledge_beside(other),
            side.is_writer,
            side.is_primary,
            !side.has_crashed,
            goes_on,
            current.term,
            current.id,
        )
    };
    Some(if rank(own, peer) > rank(peer, own) {
        source(Rule::SameData, own, peer, !peer.bits_reach_back_to(own))
    } else {
        target(Rule::SameData, own, peer, !own.bits_reach_back_to(peer))
    })
}

fn behind(own: &Side, peer: &Side) -> Option<Decision> {
    let applies = own.precedes(peer) && !peer.precedes(own);
    applies.then(|| target(Rule::Behind, own, peer, !own.bits_reach_back_to(peer)))
}

fn ahead(own: &Side, peer: &Side) -> Option<Decision> {
    let applies = peer.precedes(own) && !own.precedes(peer);
    applies.then(|| source(Rule::Ahead, own, peer, !peer.bits_reach_back_to(own)))
}

fn forked(own: &Side, peer: &Side) -> Option<Decision> {
    let full = fork_needs_full(own, peer)?;
    Some(victim(Rule::Forked, own, peer, full))
}

/// Whether both bitmaps of a fork have every change since the common past.
pub(crate) fn bits_reach_back_to_fork(own: &Side, peer: &Side) -> bool {
    fork_needs_full(own, peer) == Some(false)
}

/// Whether the bitmaps of a fork do not reach back to the common past; `None` when there is none.
fn fork_needs_full(own: &Side, peer: &Side) -> Option<bool> {
    own.ancestry.common(&peer.ancestry)?;
    let shared = |id: GenerationId| own.ancestry.contains(id) && peer.ancestry.contains(id);
    Some(!(shared(own.since) && shared(peer.since)))
}

#[cfg(test)]
mod tests;
