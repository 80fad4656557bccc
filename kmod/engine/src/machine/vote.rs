// SPDX-License-Identifier: GPL-2.0-only

//! What a peer is told that wants to be primary.
//!
//! It is promised to one peer at a time. A question that comes while somebody else is about to be primary, this node or
//! one that it was promised to, or while something is being negotiated, waits for its answer until that has passed. Of
//! two that have asked each other the one with the lower number goes first; so of several promotions at once one comes
//! to its end.

use super::context::{ensure, Context, Fault};
use super::disk::Disk;
use super::role::Transition;
use super::volume::Volume;
use super::witness::Witness;
use super::Engine;
use crate::host::{Host, Output};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::units::{NodeId, Term};
use weft_uapi::wire::{Header, PacketKind, PromoteBody, FLAG_FORCE, FLAG_YES};
use zerocopy::{FromBytes, IntoBytes};

/// A peer wants to be primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// In this term.
    term: Term,
    /// A person takes it that what no connected disk has is lost.
    force: bool,
    /// For whose application, if not the peer's own.
    client: Option<NodeId>,
}

/// What is said to a question.
enum Vote {
    Yes,
    No(Refusal),
    /// Nothing yet.
    Later,
}

impl<H: Host> Engine<H> {
    /// A peer wants to be primary.
    #[inline(never)]
    pub(super) fn on_promote_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let body = PromoteBody::read_from_bytes(body)
            .map_err(|_| Fault("the peer sent a malformed promotion"))?;
        let term = Term(body.term.get());
        if body.voters.get() != self.quorum.voters.0 {
            self.object(cx, id, term, Refusal::VotersDiffer);
            return Ok(());
        }
        let peer = self.peer_mut(id).ok_or(Fault("the peer is not known"))?;
        ensure(
            peer.granting.is_none() && peer.asked.is_none(),
            "the peer asked twice for a promotion",
        )?;
        let force = header.flags & FLAG_FORCE != 0;
        let client = header
            .arg
            .checked_sub(1)
            .and_then(|id| NodeId::new(u32::try_from(id).ok()?));
        peer.asked = Some(Question {
            term,
            force,
            client,
        });
        Ok(())
    }

    /// The highest term that this node promised to anybody.
    fn promised(&self) -> Term {
        let of_volume = |volume: &Volume<H>| match (volume.disk.as_ref(), volume.witness.as_ref()) {
            (Some(disk), _) => disk.superblock.promised_term,
            (None, Some(witness)) => witness.promised(),
            (None, None) => Term::default(),
        };
        let promised = self.each_volume().map(of_volume);
        promised.max().unwrap_or_default()
    }

    /// Whether what this node promises outlives it.
    fn keeps_promises(&self) -> bool {
        let has_memory = |volume: &Volume<H>| volume.has_running_disk() || volume.witness.is_some();
        self.each_volume().all(has_memory)
    }

    /// What to say to a peer's question.
    fn vote(&self, id: NodeId, question: Question) -> Vote {
        let others = || self.each_peer();
        let is_client = self.is_served_once();
        let is_rival = (is_client && question.client != Some(self.config.node))
            || self.other_clients(question.client).any(|other| other != id);
        // Without majority nothing else shows that it lacks what this node's application was shown.
        let keeps_ours = !is_client || self.each_volume().all(|volume| volume.may_serve(id));
        let has_place = keeps_ours && self.has_place(question.client.unwrap_or(id));
        let has_primary = self.role == Role::Primary
            || others().any(|peer| peer.role == Role::Primary)
            || (is_rival && !has_place);
        let is_own_turn = match self.transition {
            None | Some(Transition::Comparing { .. }) => false,
            Some(Transition::Asking { .. }) => self.config.node < id,
            Some(
                Transition::Recording { .. }
                | Transition::Uniting { .. }
                | Transition::Draining { .. },
            ) => true,
        };
        let is_promised = others().any(|peer| peer.is_promised);
        let is_busy = !self.is_recalled() || self.each_volume().any(|volume| volume.is_busy(id));
        let is_ahead = |volume: &Volume<H>| {
            volume.is_ahead_of(id) || (!question.force && volume.has_witnessed_more(id))
        };
        if has_primary {
            Vote::No(Refusal::PeerPrimary)
        } else if is_own_turn || is_promised || is_busy {
            Vote::Later
        } else if question.term < self.promised() {
            Vote::No(Refusal::ElectionLost)
        } else if self.quorum.is_on() && self.each_volume().any(is_ahead) {
            Vote::No(Refusal::NoUpToDateDisk)
        } else {
            Vote::Yes
        }
    }

    /// Answers what can be answered by now.
    #[inline(never)]
    pub(super) fn run_votes<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for id in self.peers() {
            let Some(question) = self.peer(id).and_then(|peer| peer.asked) else {
                continue;
            };
            match self.vote(id, question) {
                Vote::Yes => self.grant(cx, id, question),
                Vote::No(refusal) => {
                    self.object(cx, id, question.term, refusal);
                    if let Some(peer) = self.peer_mut(id) {
                        peer.asked = None;
                    }
                }
                // What this node is busy with may wait for the end of its own election.
                Vote::Later => self.yield_to(cx, id),
            }
        }
        self.run_promises(cx);
    }

    /// Of two that have asked each other this one lets the peer go first, if that is the peer's turn.
    fn yield_to<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let Some(Transition::Asking { asker, .. }) = self.transition else {
            return;
        };
        if id < self.config.node {
            self.give_up(cx);
            cx.refuse(
                asker,
                Refusal::ElectionLost,
                format_args!("node {id} goes first"),
            );
        }
    }

    /// Promises a peer to be the next primary; it hears of it when that is durable.
    fn grant<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId, question: Question) {
        self.yield_to(cx, id);
        if let Some(peer) = self.peer_mut(id) {
            peer.asked = None;
            peer.granting = Some(question);
            peer.is_promised = true;
        }
        self.promise(question.term);
        for volume in self.each_volume_mut().filter(|_| question.force) {
            volume.forget_witnessed(id);
        }
    }

    /// Grants promotions whose promise is durable.
    fn run_promises<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_kept = |volume: &Volume<H>| {
            let disk = volume.disk.as_ref();
            let witness = volume.witness.as_ref();
            disk.is_none_or(Disk::is_settled) && witness.is_none_or(Witness::is_settled)
        };
        if !self.each_volume().all(is_kept) {
            return;
        }
        for id in self.peers() {
            if let Some(question) = self.peer_mut(id).and_then(|peer| peer.granting.take()) {
                let term = question.term;
                let abstains = self.abstention(id, question.force);
                self.answer_promotion(cx, id, [term, term], true, abstains);
            }
        }
    }

    /// Why this node has no vote, although it does not object: it cannot keep what it promises, or it knows of a record that
    /// the peer does not, and has not all data itself to be the one that leads.
    fn abstention(&self, id: NodeId, is_forced: bool) -> Option<Refusal> {
        let knows_less = |volume: &Volume<H>| {
            let replica = volume.replica(id);
            replica.is_some_and(|replica| replica.knows_less)
        };
        if !self.keeps_promises() {
            Some(Refusal::NoDisk)
        } else if self.quorum.is_on() && !is_forced && self.each_volume().any(knows_less) {
            Some(Refusal::NoUpToDateDisk)
        } else {
            None
        }
    }

    fn answer_promotion<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        [asked, term]: [Term; 2],
        is_granted: bool,
        refusal: Option<Refusal>,
    ) {
        let Some(line) = self.line_to(id) else {
            return;
        };
        let mut header = Header::new(PacketKind::PromoteReply, None);
        header.flags = if is_granted { FLAG_YES } else { 0 };
        header.term = asked;
        let body = PromoteBody {
            term: term.0.into(),
            refusal: refusal.map_or(0, Refusal::number).into(),
            voters: self.quorum.voters.0.into(),
        };
        cx.send(line, header, body.as_bytes());
    }

    /// Says no, and which term would have to be higher.
    fn object<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        asked: Term,
        refusal: Refusal,
    ) {
        self.answer_promotion(cx, id, [asked, self.promised()], false, Some(refusal));
    }
}

impl<H: Host> Volume<H> {
    /// Whether something is being recorded, or negotiated with another node than the one that asks: who asks answers no
    /// state before it knows.
    fn is_busy(&self, asks: NodeId) -> bool {
        self.change.is_some() || self.is_negotiating_beside(asks)
    }
}
