// SPDX-License-Identifier: GPL-2.0-only

//! A tie-breaker: a node without disk that votes. What it promised and the newest record that it knows have to outlive
//! it, so the host keeps both for it.
//!
//! ```text
//! Recalling --what was kept--> Known --promise, record--> told to be kept --kept--> answered
//! ```
//! Before it knows what it said in an earlier life it talks to nobody ([`Engine::is_recalled`]).
//!
//! INVARIANT (I3): a record that it has acknowledged may be in force, and it is told of no fork by that: it goes on only to a
//! record that comes after that one, and promises nothing to a node that does not know it. It is taken
//! back by its maker, who knows that it never came into force, by others who are enough and have given it up
//! ([`Witness::overrule`], [`Witness::concede`]), and by a person's word that it is lost, a forced promotion.

use super::context::{Context, Facts, Fault};
use super::replica::Replica;
use super::said::Said;
use super::volume::Volume;
use super::Engine;
use crate::ancestry::Ancestry;
use crate::effect::{Effect, Object};
use crate::event::Kept;
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::Generation;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term, VolumeId};
use weft_uapi::wire::{GenerationBody, Header};
use zerocopy::FromBytes;

/// The host is asked again after so long, in milliseconds: what it was told before may be lost.
const ASK_AGAIN_MS: u64 = 2_000;

/// What a tie-breaker knows of one volume.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Witness {
    /// `None`: the host has not handed back what it keeps.
    known: Option<Kept>,
    /// The newest generation in the line of the record that is known in which data may have been written; not kept, and
    /// [`GenerationId::NONE`] while it is not known.
    written: GenerationId,
    /// Number of what is known; one more with each change.
    wanted: u64,
    /// The last number that the host was told.
    told: u64,
    /// The host keeps what had this number.
    done: u64,
    /// When the host was told or asked last.
    since: Option<Time>,
    /// Peers to be told that the record is durable.
    owed: NodeSet,
    /// Peers that have told what they have since the record was learnt.
    told_since: NodeSet,
}

impl Witness {
    /// Whether all that is known is kept.
    pub(super) fn is_settled(&self) -> bool {
        self.known.is_some() && self.done >= self.wanted
    }

    fn known(&self) -> Kept {
        self.known.unwrap_or_default()
    }

    /// The highest term promised to anybody.
    pub(super) fn promised(&self) -> Term {
        self.known().promised
    }

    /// Refuses lower terms from now on.
    pub(super) fn promise(&mut self, term: Term) {
        if let Some(known) = self.known.as_mut().filter(|known| known.promised < term) {
            known.promised = term;
            self.wanted = self.wanted.saturating_add(1);
        }
    }

    /// Whether whoever has this line may not know of what counts.
    fn is_ahead_of(&self, line: &Ancestry) -> bool {
        let id = self.known().generation.id;
        id != GenerationId::NONE && !line.contains(id) && line.written() != id
    }

    /// A person takes it that the record which is known is lost.
    fn forget(&mut self) {
        if let Some(known) = self.known.as_mut() {
            known.generation = Generation::default();
            self.wanted = self.wanted.saturating_add(1);
            self.owed = NodeSet::EMPTY;
        }
    }

    /// The maker of the record at the end of this line says that it never came into force, and that it has given it up:
    /// nothing was ever written in it.
    fn take_back(&mut self, line: &Ancestry) {
        let is_it = |known: &Kept| known.generation.id == line.current().id;
        if self.known.as_ref().is_some_and(is_it) {
            self.fall_back(line);
        }
    }

    /// Goes back to what was written before the record that is known; nothing was in that one.
    fn fall_back(&mut self, line: &Ancestry) {
        if let Some(known) = self.known.as_mut() {
            known.generation = Generation {
                id: line.written(),
                term: known.generation.term,
                ..Generation::default()
            };
            self.written = line.written();
            self.wanted = self.wanted.saturating_add(1);
            self.owed = NodeSet::EMPTY;
        }
    }

    /// Whether the maker of the record that is known is one of these, who do not know it: it has given it up, so nothing was
    /// ever written in it.
    fn is_given_up_by(&self, agree: NodeSet) -> bool {
        let maker = self.known().generation.writer;
        maker.is_some_and(|maker| agree.contains(maker))
    }

    /// These peers, a majority of the voters, agree on a line in which the record that is known does not occur, its maker as
    /// well.
    fn overrule(&mut self, line: &Ancestry, agree: NodeSet) {
        let is_given_up = self.is_given_up_by(agree);
        if is_given_up && agree.0 & !self.told_since.0 == 0 && self.is_ahead_of(line) {
            self.fall_back(line);
        }
    }

    /// All other voters, new disks as well, agree on a line in which the record that is known does not occur, and which has
    /// all that was written: the line reaches back to that, or the maker is one of those whose disks are not new.
    fn concede(&mut self, line: &Ancestry, others: NodeSet, agree: NodeSet) {
        let has_all = line.contains(self.written) || self.is_given_up_by(agree);
        if has_all && others.0 & !self.told_since.0 == 0 && self.is_ahead_of(line) {
            self.fall_back(line);
        }
    }

    /// A peer has a record: goes on to it if it comes after the one that is known. `is_certain`: it is in force.
    fn learn(&mut self, peer: NodeId, record: Generation, line: &Ancestry, is_certain: bool) {
        let is_ahead = self.is_ahead_of(line);
        let Some(known) = self.known.as_mut() else {
            return;
        };
        let id = known.generation.id;
        let follows = record.parent == id || !is_ahead || is_certain;
        if record.id == id {
            self.owed = self.owed.with(peer);
        } else if record.id != GenerationId::NONE && follows && record.term >= known.generation.term
        {
            known.generation = record;
            self.written = match record.writer {
                Some(_) => record.id,
                None => line.written(),
            };
            self.told_since = NodeSet::EMPTY;
            self.wanted = self.wanted.saturating_add(1);
            self.owed = NodeSet::of(peer);
        }
    }

    /// When the host has to be asked again.
    pub(super) fn deadline(&self) -> Option<Time> {
        let since = self.since.filter(|_| !self.is_settled())?;
        Some(since.after_ms(ASK_AGAIN_MS))
    }
}

impl<H: Host> Engine<H> {
    /// Whether this node knows what it said in an earlier life, as far as it has to.
    pub(super) fn is_recalled(&self) -> bool {
        let mut witnesses = self.each_volume().filter_map(|it| it.witness.as_ref());
        witnesses.all(|witness| witness.known.is_some())
    }

    /// The host hands back what it kept for a volume.
    #[inline(never)]
    pub(super) fn on_recalled(&mut self, id: VolumeId, kept: Kept) {
        let witness = self.volume_mut(id).and_then(|it| it.witness.as_mut());
        if let Some(witness) = witness.filter(|witness| witness.known.is_none()) {
            witness.known = Some(kept);
            witness.since = None;
        }
    }

    /// The host keeps what it was told with this number.
    #[inline(never)]
    pub(super) fn on_kept(&mut self, id: VolumeId, number: u64) {
        let witness = self.volume_mut(id).and_then(|it| it.witness.as_mut());
        if let Some(witness) = witness.filter(|witness| number <= witness.told) {
            witness.done = witness.done.max(number);
        }
    }
}

impl<H: Host> Volume<H> {
    /// Whether a peer says that it has no disk.
    pub(super) fn is_diskless(&self, id: NodeId) -> bool {
        self.replica(id)
            .is_some_and(|it| it.peer_disk == DiskState::Diskless)
    }

    /// Voters without disk: they hear of every record, and of nothing else.
    pub(super) fn witnesses(&self, voters: NodeSet) -> NodeSet {
        let witnesses = voters
            .iter()
            .filter(|&id| self.line(id).is_some() && self.is_diskless(id));
        witnesses.fold(NodeSet::EMPTY, NodeSet::with)
    }

    /// Whether this tie-breaker knows of something that a peer has not shown to know.
    pub(super) fn has_witnessed_more(&self, peer: NodeId) -> bool {
        let said = self.replica(peer).and_then(|replica| replica.round.peer);
        self.witness
            .is_some_and(|witness| said.is_none_or(|said| witness.is_ahead_of(&said.side.ancestry)))
    }

    /// A peer that does not know what this tie-breaker knows is promoted all the same.
    pub(super) fn forget_witnessed(&mut self, peer: NodeId) {
        let knows_more = self.has_witnessed_more(peer);
        if let Some(witness) = self.witness.as_mut().filter(|_| knows_more) {
            witness.forget();
        }
    }

    /// A peer told what it has.
    pub(super) fn witness_state(&mut self, facts: &Facts, peer: NodeId) {
        let is_same = |one: &Said, other: &Said| {
            one.side.ancestry.current().id == other.side.ancestry.current().id
        };
        let said = self.replica(peer).and_then(|replica| replica.round.peer);
        let Some(said) = said else {
            return;
        };
        let alike =
            self.peers_that(|_, replica| replica.told().is_some_and(|it| is_same(it, &said)));
        let voters = facts.quorum.voters.without(facts.node);
        // A disk that took the place of another one has forgotten what its node knew.
        let is_new = |_, replica: &Replica<H>| replica.told().is_some_and(|it| it.side.is_newcomer);
        let agree = NodeSet(alike.0 & !self.peers_that(is_new).0);
        let Some(witness) = self.witness.as_mut() else {
            return;
        };
        witness.told_since = witness.told_since.with(peer);
        let line = said.side.ancestry;
        let is_in_force = line.written_before() == GenerationId::NONE;
        // What nobody writes in adds no data: who does not know it is as good.
        let is_written = is_in_force && line.current().writer.is_some();
        if is_written || said.is_stalled {
            // Also when this tie-breaker was away for longer than their lines reach back.
            let is_certain = said.side.is_writer || facts.quorum.has_majority(agree);
            let is_certain = is_certain && is_in_force;
            witness.learn(peer, line.current(), &line, is_certain);
        } else if said.role != Role::Primary && line.current().writer == Some(peer) {
            witness.take_back(&line);
        } else if facts.quorum.is_on() {
            if facts.quorum.has_majority(agree) {
                witness.overrule(&line, agree);
            }
            if voters.0 & !alike.0 == 0 {
                witness.concede(&line, alike, agree);
            }
        }
        self.recheck = true;
    }

    /// A peer made a new record.
    #[inline(never)]
    pub(super) fn witness_record(
        &mut self,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let malformed = Fault("the peer sent a malformed generation");
        let body = GenerationBody::read_from_bytes(body).map_err(|_| malformed)?;
        let record = body.record(header).ok_or(malformed)?;
        let replica = self.replicas.get_mut(peer.index()).and_then(Option::as_mut);
        let said = replica.and_then(|replica| replica.round.peer.as_mut());
        if let (Some(witness), Some(said)) = (self.witness.as_mut(), said) {
            let line = &mut said.side.ancestry;
            witness.learn(peer, record, line, false);
            line.push(record);
            self.recheck = true;
        }
        Ok(())
    }

    /// Has the host keep what is known, and answers those who wait for that.
    #[inline(never)]
    pub(super) fn run_witness<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let volume = self.id;
        let Some(witness) = self.witness.as_mut() else {
            return;
        };
        let is_due = witness.deadline().is_none_or(|deadline| deadline <= cx.now);
        match witness.known {
            None if is_due => {
                witness.since = Some(cx.now);
                cx.emit(Effect::Recall { volume });
            }
            Some(kept)
                if witness.wanted > witness.done && (is_due || witness.wanted > witness.told) =>
            {
                (witness.since, witness.told) = (Some(cx.now), witness.wanted);
                let number = witness.wanted;
                cx.emit(Effect::Keep {
                    volume,
                    number,
                    kept,
                });
            }
            _ => {}
        }
        if witness.is_settled() && !witness.owed.is_empty() {
            let owed = core::mem::take(&mut witness.owed);
            let id = witness.known().generation.id;
            for peer in owed.iter() {
                self.acknowledge_generation(cx, peer, id);
            }
            cx.notify(Object::Volume(volume));
        }
    }
}
