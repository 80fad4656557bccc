// SPDX-License-Identifier: GPL-2.0-only

//! A secondary leaves in order: the primary goes on without it, and nobody has to wonder what it may do meanwhile.
//!
//! ```text
//! leaver:  Asked --granted--> Noting: on record as one that left --durable--> Told --record without it in force--> gone
//!            | refused: it stays     | out of time, or the session is lost: gone as one that was not heard of again
//! primary: granted --told--> record without it, which names it as left --in force--> answered
//! ```
//! INVARIANT (I3): a record names as left only who had that on its own disk before, and whose newest record its maker knows.
//! A node that left has no vote, however the rest of its leave went, before a record takes it in that came later than all
//! that it knew when it left ([`Volume::settle_in`]).
//!
//! Without a primary nobody leaves: nothing is written that who goes could lack, and nobody makes records that a majority
//! has to know. A tie-breaker does not leave either: it is there to be asked.

use super::context::{ensure, Context, Facts, Fault};
use super::disk::Disk;
use super::session::Peer;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::event::Token;
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::{FLAG_LEFT, FLAG_OUTDATED};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet};
use weft_uapi::wire::{Header, PacketKind, FLAG_FORCE, FLAG_YES};

/// A leave that takes longer than this, in milliseconds, ends as a plain disconnect.
const LEAVE_TIMEOUT_MS: u64 = 10_000;

const LEFT: &str = "left in order";
const NOBODY: &str = "disconnected by command; there is no primary to leave by";
const LATE: &str = "disconnected by command; the primary made no record of it in time";

/// How far this node's leave is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The primary was asked.
    Asked,
    /// It is being put on record here.
    Noting,
    /// The primary is making a record without this node.
    Told,
}

/// This node is leaving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leave {
    token: Token,
    /// The primary.
    peer: NodeId,
    since: Time,
    step: Step,
}

/// What a primary knows of a peer that is leaving in this session.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Departure {
    /// It may.
    is_granted: bool,
    /// It has told for all its volumes that it has it on record.
    is_told: bool,
}

impl<H: Host> Engine<H> {
    /// Whether giving up the connection to a peer is a matter of the cluster: that peer is primary and makes a record of it.
    pub(super) fn may_leave_by(&self, id: NodeId) -> bool {
        let is_leader = |peer: &Peer| {
            peer.connection() == ConnectionState::Connected
                && peer.role == Role::Primary
                && peer.knows_leave
        };
        self.role == Role::Secondary
            && self.client.is_none()
            && self.transition.is_none()
            && self.peer(id).is_some_and(is_leader)
            && !self.is_led_beside(id)
            && self.each_volume().any(|volume| volume.may_leave())
    }

    /// Whether another peer is primary or promised to be. It may count this node's vote without knowing that it leaves.
    fn is_led_beside(&self, id: NodeId) -> bool {
        let leads = |other: NodeId| other != id && self.peer(other).is_some_and(Peer::leads);
        NodeId::all().any(leads)
    }

    /// Asks the primary for leave.
    #[inline(never)]
    pub(super) fn begin_leave<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: NodeId,
        force: bool,
    ) {
        self.leave = Some(Leave {
            token,
            peer: id,
            since: cx.now,
            step: Step::Asked,
        });
        let flags = if force { FLAG_FORCE } else { 0 };
        self.say_leave(cx, id, Header::new(PacketKind::Leave, None), flags);
    }

    fn say_leave<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        to: NodeId,
        header: Header,
        flags: u16,
    ) {
        if let Some(line) = self.line_to(to) {
            cx.send(line, Header { flags, ..header }, &[]);
        }
    }

    /// The primary answers.
    #[inline(never)]
    pub(super) fn on_leave_reply<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let is_by = |leave: &Leave| leave.peer == id;
        let Some(leave) = self.leave.filter(is_by) else {
            return Err(Fault("the peer answered a leave that nobody asked for"));
        };
        let refusal = u32::try_from(header.arg).ok();
        let refusal = refusal.and_then(Refusal::from_number);
        match (leave.step, refusal) {
            (Step::Told, None) if header.flags & FLAG_YES != 0 => {
                self.end_session(cx, id, LEFT, true);
            }
            (Step::Asked, None) if self.is_led_beside(id) => {
                self.end_session(cx, id, NOBODY, true);
            }
            (Step::Asked, None) if header.flags & FLAG_YES == 0 => {
                for volume in self.each_volume_mut() {
                    volume.note_leave();
                }
                let step = Step::Noting;
                self.leave = Some(Leave { step, ..leave });
            }
            (Step::Asked, Some(refusal @ (Refusal::LastCopy | Refusal::LastVote))) => {
                self.leave = None;
                cx.refuse(leave.token, refusal, format_args!("primary is node {id}"));
            }
            (_, Some(_)) => self.end_session(cx, id, NOBODY, true),
            _ => return Err(Fault("the peer answered a leave out of turn")),
        }
        Ok(())
    }

    /// A peer wants to leave, or has it on record that it does.
    #[inline(never)]
    pub(super) fn on_leave<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        if header.flags & FLAG_YES != 0 {
            return self.on_leave_noted(cx, id, header);
        }
        let mut reply = Header::new(PacketKind::LeaveReply, None);
        if let Err(refusal) = self.may_let_go(id, header.flags & FLAG_FORCE != 0) {
            reply.arg = refusal.number().into();
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.departure = Departure {
                is_granted: reply.arg == 0,
                is_told: false,
            };
        }
        self.say_leave(cx, id, reply, 0);
        Ok(())
    }

    fn on_leave_noted<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let peer = self.peer_mut(id).ok_or(Fault("the peer is not known"))?;
        ensure(
            peer.departure.is_granted,
            "the peer left without having asked",
        )?;
        match header.volume {
            None => peer.departure.is_told = true,
            Some(volume) => {
                if let Some(volume) = self.volume_mut(volume) {
                    volume.on_leave_noted(id, GenerationId(header.arg))?;
                }
            }
        }
        cx.log(Level::Info, format_args!("peer {id}: is leaving"));
        Ok(())
    }

    /// Whether a record without this peer can be made, and the primary goes on with it.
    fn may_let_go(&self, id: NodeId, is_forced: bool) -> Result<(), Refusal> {
        if self.role != Role::Primary || self.transition.is_some() {
            return Err(Refusal::NotPrimary);
        }
        let is_going = |other: &NodeId| {
            let peer = self.peer(*other);
            *other == id || peer.is_some_and(|peer| peer.departure.is_granted)
        };
        let going = self.connected().iter().filter(is_going);
        let going = going.fold(NodeSet::EMPTY, NodeSet::with);
        let facts = self.facts();
        self.each_volume()
            .try_for_each(|volume| volume.may_let_go(&facts, going, is_forced))
    }

    /// Takes leaves as far as they go, this node's and those of peers.
    #[inline(never)]
    pub(super) fn run_leave<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.run_own_leave(cx);
        for id in NodeId::all() {
            let departs = |peer: &Peer| peer.has_session() && peer.departure.is_granted;
            let Some(departure) = self
                .peer(id)
                .filter(|it| departs(it))
                .map(|it| it.departure)
            else {
                continue;
            };
            let mut reply = Header::new(PacketKind::LeaveReply, None);
            let is_primary = self.role == Role::Primary;
            let is_gone = |volume: &Volume<H>| volume.has_let_go(id);
            let is_done = departure.is_told && self.each_volume().all(is_gone);
            if is_primary && !is_done {
                continue;
            }
            if !is_done {
                reply.arg = Refusal::NotPrimary.number().into();
            }
            if let Some(peer) = self.peer_mut(id) {
                peer.departure = Departure::default();
            }
            self.say_leave(cx, id, reply, if is_done { FLAG_YES } else { 0 });
            cx.notify(Object::Peer(id));
        }
    }

    fn run_own_leave<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(leave) = self.leave else {
            return;
        };
        if leave.since.after_ms(LEAVE_TIMEOUT_MS) <= cx.now {
            return self.end_session(cx, leave.peer, LATE, true);
        }
        let is_settled = |volume: &Volume<H>| volume.disk.as_ref().is_none_or(Disk::is_settled);
        if leave.step != Step::Noting || !self.each_volume().all(is_settled) {
            return;
        }
        for volume in self.each_volume().filter(|volume| volume.is_leaving) {
            let mut header = Header::new(PacketKind::Leave, Some(volume.id));
            header.arg = volume.left_at().0;
            self.say_leave(cx, leave.peer, header, FLAG_YES);
        }
        let end = Header::new(PacketKind::Leave, None);
        self.say_leave(cx, leave.peer, end, FLAG_YES);
        let step = Step::Told;
        self.leave = Some(Leave { step, ..leave });
    }

    /// Whether this node is leaving by this peer.
    pub(super) fn is_leaving_by(&self, id: NodeId) -> bool {
        self.leave.is_some_and(|leave| leave.peer == id)
    }

    /// The session with a peer is over: so is the leave, however far it came.
    pub(super) fn end_leave<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let Some(leave) = self.leave.filter(|leave| leave.peer == id) else {
            return;
        };
        self.leave = None;
        for volume in self.each_volume_mut() {
            if core::mem::take(&mut volume.is_leaving) {
                volume.outdate(cx);
            }
        }
        cx.reply(leave.token, Ok(()));
    }

    /// Voters whose votes are not asked for, by the records of this node's disks.
    pub(super) fn voters_left(&self) -> NodeSet {
        let left = self
            .each_volume()
            .fold(NodeSet::EMPTY, |all, volume| all.union(volume.left()));
        left.intersection(self.quorum.voters)
    }

    /// When this node's leave has taken too long.
    pub(super) fn leave_deadline(&self) -> Option<Time> {
        let leave = self.leave?;
        Some(leave.since.after_ms(LEAVE_TIMEOUT_MS))
    }
}

impl<H: Host> Disk<H> {
    /// Puts it on record that this node left, and which record it knows.
    pub(super) fn leave(&mut self) {
        self.set_flag(FLAG_LEFT, true);
        let id = self.superblock.generation.id;
        if core::mem::replace(&mut self.superblock.left_at, id) != id {
            self.touch();
        }
    }

    /// This node has been taken in again.
    pub(super) fn stay(&mut self) {
        self.set_flag(FLAG_LEFT, false);
        self.superblock.left_at = GenerationId::NONE;
    }
}

impl<H: Host> Volume<H> {
    /// Whether there is something here to leave with: data, of whatever age.
    fn may_leave(&self) -> bool {
        self.has_running_disk() && self.left_of_disk().is_some()
    }

    /// Puts it on record that this node leaves. It tells so when that is durable.
    fn note_leave(&mut self) {
        if !self.may_leave() {
            return;
        }
        self.is_leaving = true;
        if let Some(disk) = self.disk.as_mut() {
            disk.leave();
            disk.set_flag(FLAG_OUTDATED, true);
            self.recheck = true;
        }
    }

    /// The newest record that this node knew when it left.
    fn left_at(&self) -> GenerationId {
        self.disk
            .as_ref()
            .map(|disk| disk.superblock.left_at)
            .unwrap_or_default()
    }

    /// A peer has it on record that it leaves, and `known` is the newest record that it has.
    fn on_leave_noted(&mut self, peer: NodeId, known: GenerationId) -> Result<(), Fault> {
        let is_known = |disk: &Disk<H>| disk.ancestry().contains(known);
        let is_of_line = self.disk.as_ref().is_some_and(is_known);
        ensure(is_of_line, "the peer left with a record of another line")?;
        if let Some(replica) = self.replica_mut(peer) {
            replica.is_leaving = true;
        }
        self.wants_vote = true;
        self.recheck = true;
        Ok(())
    }

    /// Whether a primary goes on without these.
    fn may_let_go(&self, facts: &Facts, going: NodeSet, is_forced: bool) -> Result<(), Refusal> {
        let here = self.receivers().union(self.witnesses(facts.quorum.voters));
        let here = here.with(facts.node);
        if self.stalled.is_some() || !self.has_votes(facts, here) {
            // No record comes into force anyway.
            return Err(Refusal::NoQuorum);
        }
        if is_forced {
            return Ok(());
        }
        let is_good = |state: DiskState| state == DiskState::UpToDate;
        let good = self.peers_that(|_, replica| replica.receives && is_good(replica.peer_disk));
        if !is_good(self.disk_state()) && good.0 & !going.0 == 0 {
            return Err(Refusal::LastCopy);
        }
        let mut ballot = self.ballot(facts, NodeSet(here.0 & !going.0));
        ballot.left = ballot.left.union(going);
        if !facts.quorum.is_won(&ballot) {
            return Err(Refusal::LastVote);
        }
        Ok(())
    }

    /// Whether the record in force says that a peer left, if it is leaving.
    fn has_let_go(&self, peer: NodeId) -> bool {
        let is_leaving = self.leaving().contains(peer);
        let is_in_force = self.change.is_none() && self.stalled.is_none() && !self.wants_vote;
        !is_leaving || (is_in_force && self.left().contains(peer))
    }

    /// Peers that are leaving, and have that on record.
    pub(super) fn leaving(&self) -> NodeSet {
        self.peers_that(|_, replica| replica.is_leaving)
    }

    /// They get no writes any more: a record that they do not know is in force.
    pub(super) fn let_go<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, left: NodeSet) {
        for peer in self.leaving().intersection(left).iter() {
            if let Some(replica) = self.replica_mut(peer) {
                replica.forget_decision();
            }
            self.set_replication(cx, peer, ReplicationState::Established);
            self.stop_mirroring(peer);
        }
    }

    /// Who had left when the current record was made. A tie-breaker takes it from those whom it sees.
    pub(super) fn left(&self) -> NodeSet {
        self.left_of_disk().unwrap_or_else(|| {
            let said = self
                .each_replica()
                .filter_map(|(_, replica)| replica.round.peer);
            let newest = said.max_by_key(|said| said.side.ancestry.current().term);
            newest.map_or(NodeSet::EMPTY, |said| said.side.ancestry.current().left)
        })
    }

    /// The newest record that a peer knew when it left, if this disk has it on record that it did.
    pub(super) fn left_with(&self, peer: NodeId) -> GenerationId {
        let disk = self.disk.as_ref();
        let disk = disk.filter(|disk| disk.superblock.generation.left.contains(peer));
        disk.map(|disk| disk.since(peer)).unwrap_or_default()
    }

    fn left_of_disk(&self) -> Option<NodeSet> {
        let record = self.disk.as_ref()?.superblock.generation;
        (record.id != GenerationId::NONE).then_some(record.left)
    }

    /// Nodes, perhaps this one, that left by their own word and were not taken in since.
    pub(super) fn leavers(&self, facts: &Facts) -> NodeSet {
        let peers = self.peers_that(|_, replica| replica.has_left);
        let has_left = |disk: &Disk<H>| disk.has_flag(FLAG_LEFT);
        if self.disk.as_ref().is_some_and(has_left) {
            return peers.with(facts.node);
        }
        peers
    }

    /// Whether a member is there that left and came back: a record has to take it in.
    pub(super) fn has_returned(&self) -> bool {
        // A record that waits for its majority takes in whom it names: one more like it would wait, too.
        let is_pending = self.stalled.is_some();
        let is_back = |_, replica: &super::replica::Replica<H>| {
            replica.has_left && !replica.is_leaving && !(is_pending && replica.is_rejoining)
        };
        let members = self
            .disk
            .as_ref()
            .map_or(NodeSet::EMPTY, |disk| disk.superblock.generation.members);
        let back = self.peers_that(is_back).intersection(self.whole());
        !back.intersection(members).is_empty()
    }
}
