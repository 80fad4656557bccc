// SPDX-License-Identifier: GPL-2.0-only

//! Promotion and demotion of this node.
//!
//! ```text
//! Secondary --primary--> Comparing: every peer is met anew --> Asking: peers promise the term --> Recording: every volume's record in force --> Primary
//! Primary --secondary--> Draining: nothing in flight, tails stable, records say "no writer" --> Secondary
//! ```

use super::change::Promotion;
use super::context::{ensure, Asker, Context, Fault};
use super::disk::{Disk, Stage};
use super::fencing::Absent;
use super::session::Peer;
use super::transitions;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::FLAG_WRITER_ACTIVE;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term};
use weft_uapi::wire::{Header, PacketKind, PromoteBody, FLAG_FORCE, FLAG_YES};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How long a promotion may take, in milliseconds.
pub(super) const PROMOTION_TIMEOUT_MS: u64 = 20_000;

/// How far a peer's refusal may raise the term of the next attempt: a term has no end otherwise.
const TERMS_MAX: u64 = 1 << 20;

/// A change of the role that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transition {
    /// What the connected peers have is being compared, so that nobody promises anything to a node that is behind.
    Comparing {
        asker: Asker,
        force: bool,
        since: Time,
    },
    /// These peers have not answered yet.
    Asking {
        asker: Asker,
        force: bool,
        term: Term,
        waits: NodeSet,
        /// Who promised.
        yes: NodeSet,
        since: Time,
    },
    /// The records are being made durable.
    Recording {
        asker: Asker,
        term: Term,
        since: Time,
        /// They declare this node's data to be the right ones, whatever others have.
        forks: bool,
    },
    /// First records of disks that are equal are being made durable.
    Uniting { asker: Asker, since: Time },
    /// The last writes are being made stable.
    Draining { asker: Asker },
}

impl Transition {
    /// Who waits for its end.
    pub(super) fn asker_mut(&mut self) -> &mut Asker {
        match self {
            Self::Comparing { asker, .. }
            | Self::Asking { asker, .. }
            | Self::Recording { asker, .. }
            | Self::Uniting { asker, .. }
            | Self::Draining { asker } => asker,
        }
    }
}

impl<H: Host> Engine<H> {
    /// Wants this node to be primary.
    #[inline(never)]
    pub(super) fn on_primary<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
    ) {
        if self.client.is_some() {
            return self.insist_on_client(cx, asker, force);
        }
        if self.role == Role::Primary && self.transition.is_none() {
            return self.lead_for(cx, asker, force);
        }
        if self.transition.is_some() || self.leave.is_some() {
            cx.reply(asker, Err(Refusal::InTransition));
            return;
        }
        match self.may_promote(force, asker.client()) {
            // What passes is waited for.
            Ok(()) | Err((Refusal::InTransition, _)) => {}
            Err((Refusal::NoUpToDateDisk, _)) if self.may_be_served(asker, force) => {
                return self.seek(cx, asker, force);
            }
            Err((Refusal::PeerPrimary, Some(first))) if self.may_be_second(asker, first) => {
                return self.seek(cx, asker, false);
            }
            Err(denial) => return cx.deny(asker, denial),
        }
        self.begin_promotion(cx, asker, force);
    }

    /// Has every peer met anew, and goes on from there.
    pub(super) fn begin_promotion<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
    ) {
        self.forget_free();
        for volume in self.each_volume_mut() {
            volume.negotiate_all(cx.now);
        }
        self.transition = Some(Transition::Comparing {
            asker,
            force,
            since: cx.now,
        });
    }

    /// Whether this node is about to be primary, or to be none any more.
    pub(super) fn is_in_transition(&self) -> bool {
        self.transition.is_some()
    }

    /// Asks the connected peers for their promise.
    fn ask<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker, force: bool) {
        let promised = self
            .each_volume()
            .filter_map(|volume| volume.disk.as_ref())
            .map(|disk| {
                disk.superblock
                    .promised_term
                    .max(disk.superblock.generation.term)
            });
        let term = Term(promised.max().unwrap_or_default().0.saturating_add(1));
        self.promise(term);
        let mut waits = NodeSet::EMPTY;
        for peer in self.peers() {
            if let Some(line) = self.line_to(peer) {
                let body = PromoteBody {
                    term: term.0.into(),
                    voters: self.quorum.voters.0.into(),
                    ..PromoteBody::new_zeroed()
                };
                let mut header = Header::new(PacketKind::PromoteRequest, None);
                header.flags = if force { FLAG_FORCE } else { 0 };
                header.arg = asker
                    .client()
                    .map_or(0, |client| u64::from(client.get()).saturating_add(1));
                cx.send(line, header, body.as_bytes());
                waits = waits.with(peer);
            }
        }
        self.transition = Some(Transition::Asking {
            asker,
            force,
            term,
            waits,
            yes: NodeSet::of(self.config.node),
            since: cx.now,
        });
    }

    /// Whether a promotion may begin, for the application of this node or of a client; the refusal may be about a peer.
    pub(super) fn may_promote(
        &self,
        force: bool,
        client: Option<NodeId>,
    ) -> Result<(), (Refusal, Option<NodeId>)> {
        if self.volumes().next().is_none() {
            return Err((Refusal::NoVolume, None));
        }
        let is_open = |volume: &Volume<H>| volume.open_count > 0;
        if self.client.is_none() && self.each_volume().any(is_open) {
            // An application that is left over from an earlier time must not write over newer data.
            return Err((Refusal::DeviceOpen, None));
        }
        let has_place = self.has_place(client.unwrap_or(self.config.node));
        for id in self.peers() {
            let Some(peer) = self.peer(id) else {
                continue;
            };
            let is_rival = peer.is_client && client != Some(id) && !has_place;
            if peer.role == Role::Primary || is_rival {
                return Err((Refusal::PeerPrimary, Some(id)));
            }
            if peer.connection() == ConnectionState::Handshake || peer.is_promised {
                return Err((Refusal::InTransition, Some(id)));
            }
        }
        self.each_volume()
            .try_for_each(|volume| volume.may_promote(force).map_err(|refusal| (refusal, None)))
    }

    /// Refuses lower terms from now on.
    pub(super) fn promise(&mut self, term: Term) {
        for volume in self.each_volume_mut() {
            if let Some(disk) = volume.disk.as_mut() {
                disk.superblock.promised_term = term.max(disk.superblock.promised_term);
                disk.touch();
            }
            if let Some(witness) = volume.witness.as_mut() {
                witness.promise(term);
            }
            volume.recheck = true;
        }
    }

    /// A peer answered the wish to be primary.
    #[inline(never)]
    pub(super) fn on_promote_reply<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let body = PromoteBody::read_from_bytes(body)
            .map_err(|_| Fault("the peer sent a malformed promotion"))?;
        let Some(Transition::Asking {
            asker,
            force,
            term,
            waits,
            yes,
            since,
        }) = self.transition
        else {
            // It gave up meanwhile.
            return Ok(());
        };
        if header.term != term {
            // An answer to an earlier question, which was given up.
            return Ok(());
        }
        ensure(waits.contains(id), "the peer answered a promotion twice")?;
        if header.flags & FLAG_YES != 0 {
            self.transition = Some(Transition::Asking {
                asker,
                force,
                term,
                waits: waits.without(id),
                yes: match body.refusal.get() {
                    0 => yes.with(id),
                    _ => yes,
                },
                since,
            });
        } else {
            let refusal = Refusal::from_number(body.refusal.get()).unwrap_or(Refusal::ElectionLost);
            let (facts, others) = (self.facts(), yes.union(waits.without(id)));
            let has_no_disk = |volume: &Volume<H>| volume.is_diskless(id);
            let has_votes = |volume: &Volume<H>| volume.has_votes_for(&facts, others, force);
            let is_forgotten = refusal == Refusal::NoUpToDateDisk
                && self.quorum.is_on()
                && self.each_volume().all(has_no_disk)
                && self.each_volume().all(has_votes);
            if is_forgotten {
                // What this tie-breaker knows was given up if a majority of the others does not know it.
                self.transition = Some(Transition::Asking {
                    asker,
                    force,
                    term,
                    waits: waits.without(id),
                    yes,
                    since,
                });
                return Ok(());
            }
            self.promise(Term(body.term.get().min(term.0.saturating_add(TERMS_MAX))));
            self.give_up(cx);
            cx.refuse(asker, refusal, format_args!("node {id} refused"));
        }
        Ok(())
    }

    /// Takes a change of the role as far as it goes.
    #[inline(never)]
    pub(super) fn run_role<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.run_votes(cx);
        self.release(cx);
        self.yield_to_primary(cx);
        match self.transition {
            None => {}
            Some(Transition::Comparing {
                asker,
                force,
                since,
            }) => self.compare(cx, asker, force, since),
            Some(Transition::Asking {
                asker,
                force,
                term,
                waits,
                yes,
                since,
            }) => {
                let waits = waits.intersection(self.connected());
                let is_late = since.after_ms(PROMOTION_TIMEOUT_MS) <= cx.now;
                let facts = self.facts();
                let has_votes = |volume: &Volume<H>| volume.has_votes_for(&facts, yes, force);
                let barrier = self.unguarded().iter().next();
                if let Some(peer) = barrier.filter(|_| asker == Asker::Open) {
                    self.give_up(cx);
                    cx.deny(asker, (Refusal::PeerOutOfReach, Some(peer)));
                } else if waits.is_empty() && self.each_volume().all(has_votes) && self.unites {
                    self.record_union(cx, asker);
                } else if waits.is_empty() && self.each_volume().all(has_votes) {
                    self.record_promotion(cx.now, asker, force, term);
                } else if waits.is_empty() {
                    self.give_up(cx);
                    self.refuse_without_votes(cx, asker, yes);
                } else if is_late {
                    self.give_up(cx);
                    cx.reply(asker, Err(Refusal::ElectionLost));
                }
            }
            Some(Transition::Recording {
                asker, term, since, ..
            }) => {
                let is_recorded = |volume: &Volume<H>| {
                    volume.change.is_none()
                        && volume.stalled.is_none()
                        && volume.wants_promotion.is_none()
                };
                let refusal = self
                    .each_volume()
                    .find_map(|volume| volume.promotion_refusal(self.config.node, term));
                let is_late = since.after_ms(PROMOTION_TIMEOUT_MS) <= cx.now;
                if let Some(refusal) = refusal.or(is_late.then_some(Refusal::NoQuorum)) {
                    self.each_volume_mut()
                        .for_each(|volume| volume.wants_promotion = None);
                    self.give_up(cx);
                    cx.reply(asker, Err(refusal));
                } else if self.each_volume().all(is_recorded) {
                    self.become_primary(cx, asker);
                }
            }
            Some(Transition::Uniting { asker, since }) => self.unite(cx, asker, since),
            Some(Transition::Draining { asker }) => self.drain(cx, asker),
        }
    }

    /// These nodes are not enough to elect anybody.
    fn refuse_without_votes<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        yes: NodeSet,
    ) {
        match self.newcomers().intersection(yes).iter().next() {
            Some(id) => cx.refuse(
                asker,
                Refusal::NoQuorum,
                format_args!("the disk of node {id} is new, its vote does not count yet"),
            ),
            None => cx.reply(asker, Err(Refusal::NoQuorum)),
        }
    }

    /// The promotion has failed: nobody needs to keep the promise.
    pub(super) fn give_up<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.transition = None;
        self.unites = false;
        for volume in self.each_volume_mut() {
            volume.stalled = None;
            volume.insists = false;
            volume.wants_union = false;
            volume.withdraw_mark();
        }
        self.tell_peers(cx, PacketKind::Demoted, 0);
    }

    /// Asks once every peer was met.
    fn compare<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
        since: Time,
    ) {
        let allowed = match self.unites {
            true => self.may_unite(),
            false => self.may_promote(force, asker.client()),
        };
        let denial = match allowed {
            // It passes, or takes too long.
            Err((Refusal::InTransition, _)) if since.after_ms(PROMOTION_TIMEOUT_MS) > cx.now => {
                return;
            }
            Ok(()) if force => return self.ask(cx, asker, force),
            Ok(()) => match self.fence_absent(cx) {
                Absent::Fenced => return self.ask(cx, asker, force),
                Absent::Open => {
                    // Whoever fences has a time limit of its own.
                    let since = cx.now;
                    self.transition = Some(Transition::Comparing {
                        asker,
                        force,
                        since,
                    });
                    return;
                }
                Absent::Free(peer, outcome) => {
                    self.give_up(cx);
                    return cx.refuse(
                        asker,
                        Refusal::PeerNotFenced,
                        format_args!("node {peer}, fence-peer: {outcome}"),
                    );
                }
            },
            Err((Refusal::NoUpToDateDisk, _)) if self.may_be_served(asker, force) => {
                self.give_up(cx);
                // Since the open began this disk may have learnt of a member that may be primary.
                let barrier = self.unguarded().iter().next();
                return match barrier.filter(|_| asker == Asker::Open) {
                    Some(peer) => cx.deny(asker, (Refusal::PeerOutOfReach, Some(peer))),
                    None => self.seek(cx, asker, force),
                };
            }
            Err(denial) => denial,
        };
        self.give_up(cx);
        cx.deny(asker, denial);
    }

    /// A primary came into reach while this node was about to become one.
    fn yield_to_primary<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let asker = match self.transition {
            Some(
                Transition::Comparing { asker, .. }
                | Transition::Asking { asker, .. }
                | Transition::Recording { asker, .. },
            ) => asker,
            Some(Transition::Uniting { .. } | Transition::Draining { .. }) | None => return,
        };
        let forks = matches!(
            self.transition,
            Some(Transition::Recording { forks: true, .. })
        );
        let has_begun = |volume: &Volume<H>| volume.wants_promotion.is_none();
        if forks && self.each_volume().any(has_begun) {
            // It cannot be taken back any more: both have to hear of it.
            return;
        }
        let is_primary = |peer: &Peer| peer.has_session() && peer.role == Role::Primary;
        let primary = self
            .peers()
            .find(|&id| self.peer(id).is_some_and(is_primary));
        if let Some(id) = primary {
            for volume in self.each_volume_mut() {
                volume.wants_promotion = None;
            }
            self.give_up(cx);
            cx.refuse(asker, Refusal::PeerPrimary, format_args!("node {id}"));
        }
    }

    /// A majority went on without this primary: all that it was asked for since has to fail.
    pub(super) fn run_overtaken<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_overtaken = self.each_volume().any(|volume| volume.is_overtaken);
        if is_overtaken && self.role == Role::Primary {
            self.step_down(cx, "a majority went on without this node");
        } else if is_overtaken {
            for volume in self.each_volume_mut() {
                volume.is_overtaken &= volume.requests.used() > 0;
            }
        }
    }

    /// Becomes secondary without waiting for anything.
    pub(super) fn step_down<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, why: &str) {
        cx.log(
            Level::Error,
            format_args!("{why}: it is primary no more, and its requests fail"),
        );
        if let Some(Transition::Draining { asker }) = self.transition {
            self.transition = None;
            cx.reply(asker, Ok(()));
        }
        for volume in self.each_volume_mut() {
            volume.is_overtaken = true;
            volume.stalled = None;
            volume.recheck = true;
            volume.leave_tail();
        }
        self.set_role(cx, Role::Secondary);
        self.tell_peers(cx, PacketKind::Demoted, 0);
        self.dismiss_clients(cx);
    }

    fn record_promotion(&mut self, now: Time, asker: Asker, force: bool, term: Term) {
        let mut forks = false;
        for volume in self.each_volume_mut() {
            // Data that only force makes good ones: what peers have is no longer comparable.
            let anew = force && volume.disk_state() == DiskState::Inconsistent;
            forks |= anew;
            volume.wants_promotion = Some(Promotion { anew, force, term });
            volume.recheck = true;
        }
        self.transition = Some(Transition::Recording {
            asker,
            term,
            since: now,
            forks,
        });
    }

    fn become_primary<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        self.transition = None;
        self.claim(cx, asker);
        self.set_role(cx, Role::Primary);
        self.tell_leading(cx);
        for volume in self.each_volume_mut() {
            volume.is_mark_new = false;
            // Peers that did not count as equal are looked at anew.
            if volume
                .each_replica()
                .any(|(_, replica)| replica.session.is_some() && !replica.receives)
            {
                volume.negotiate_all(cx.now);
            }
        }
        self.expose(cx);
        cx.reply(asker, Ok(()));
    }

    pub(super) fn set_role<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, role: Role) {
        let old = core::mem::replace(&mut self.role, role);
        if !transitions::role_may_change(old, role) {
            self.break_down(cx, "illegal change of the role");
        }
        cx.facts = self.facts();
        for volume in self.each_volume_mut() {
            volume.insists &= role == Role::Primary;
            volume.recheck = true;
        }
        cx.log(Level::Info, format_args!("role {old} -> {role}"));
        cx.notify(Object::Resource);
    }

    pub(super) fn tell_peers<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        kind: PacketKind,
        arg: u64,
    ) {
        let mut header = Header::new(kind, None);
        header.arg = arg;
        for peer in self.connected().iter() {
            if let Some(line) = self.line_to(peer) {
                cx.send(line, header, &[]);
            }
        }
    }

    /// A peer changed its role.
    #[inline(never)]
    pub(super) fn on_peer_role<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        role: Role,
        leads_for: NodeSet,
    ) -> Result<(), Fault> {
        // One that said hello as primary only says for whom: which of the two may be it is for the negotiation.
        let is_known = self.peer(id).is_some_and(|peer| peer.role == Role::Primary);
        ensure(
            role != Role::Primary || self.role != Role::Primary || is_known,
            "the peer became primary beside this node",
        )?;
        if let Some(peer) = self.peer_mut(id) {
            peer.role = role;
            peer.leads_for = leads_for;
            peer.is_promised = false;
            peer.asked = None;
            peer.granting = None;
        }
        cx.notify(Object::Peer(id));
        Ok(())
    }

    /// When a promotion has taken too long.
    pub(super) fn role_deadline(&self) -> Option<Time> {
        match self.transition {
            Some(
                Transition::Comparing { since, .. }
                | Transition::Asking { since, .. }
                | Transition::Recording { since, .. }
                | Transition::Uniting { since, .. },
            ) => Some(since.after_ms(PROMOTION_TIMEOUT_MS)),
            Some(Transition::Draining { .. }) | None => None,
        }
    }
}

impl<H: Host> Volume<H> {
    /// This node writes no more, and not all peers may have got the last writes. While its sessions last nobody takes them for
    /// lost: those who have them and those who have not would call each other equal.
    pub(super) fn leave_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        for peer in self.sessions().iter() {
            self.condemn(peer, "it was primary, and its last writes are under way");
        }
    }

    /// The promotion came to nothing, so nobody has written: the disk is no crashed writer's.
    fn withdraw_mark(&mut self) {
        if core::mem::take(&mut self.is_mark_new) {
            if let Some(disk) = self.disk.as_mut() {
                disk.set_flag(FLAG_WRITER_ACTIVE, false);
            }
            self.recheck = true;
        }
    }

    pub(super) fn has_running_disk(&self) -> bool {
        self.disk
            .as_ref()
            .is_some_and(|disk| disk.stage == Stage::Running)
    }

    /// Whether a peer's data are of the past.
    pub(super) fn is_ahead_of(&self, peer: NodeId) -> bool {
        self.replica(peer).is_some_and(|replica| replica.is_behind)
    }

    /// Why a promotion that was granted cannot come to its end any more.
    fn promotion_refusal(&self, node: NodeId, term: Term) -> Option<Refusal> {
        if !self.has_running_disk() {
            return Some(Refusal::NoUpToDateDisk);
        }
        let is_under_way =
            self.wants_promotion.is_some() || self.change.is_some() || self.stalled.is_some();
        let is_of_it = |disk: &Disk<H>| {
            let generation = disk.superblock.generation;
            (generation.writer, generation.term) == (Some(node), term)
        };
        let is_kept = self.disk.as_ref().is_some_and(is_of_it) && self.source_node().is_none();
        if !is_under_way && !is_kept {
            // The disk took another line over, or is about to.
            return Some(Refusal::ElectionLost);
        }
        let promotion = self.wants_promotion?;
        match self.may_promote(promotion.force) {
            // Something passes: it is looked at again.
            Err(Refusal::InTransition) => None,
            Ok(()) if promotion.anew != (self.disk_state() == DiskState::Inconsistent) => {
                Some(Refusal::InTransition)
            }
            result => result.err(),
        }
    }

    /// Whether the disk is good enough for a primary.
    pub(super) fn may_promote(&self, force: bool) -> Result<(), Refusal> {
        if !self.has_running_disk() {
            return Err(Refusal::NoUpToDateDisk);
        }
        let is_syncing = self.each_replica().any(|(_, replica)| {
            let state = replica.replication;
            matches!(
                state,
                ReplicationState::BitmapSource | ReplicationState::BitmapTarget
            ) || (state == ReplicationState::SyncTarget && force)
        });
        if is_syncing || self.is_negotiating() {
            return Err(Refusal::InTransition);
        }
        let is_member = |disk: &Disk<H>| {
            let generation = disk.superblock.generation;
            generation.id == GenerationId::NONE || generation.members.contains(disk.superblock.node)
        };
        if !force && !self.disk.as_ref().is_some_and(is_member) {
            // It may lack what the members have.
            return Err(Refusal::NoUpToDateDisk);
        }
        match self.disk_state() {
            DiskState::UpToDate | DiskState::Consistent => Ok(()),
            DiskState::Inconsistent | DiskState::Outdated if force => Ok(()),
            _ => Err(Refusal::NoUpToDateDisk),
        }
    }
}
