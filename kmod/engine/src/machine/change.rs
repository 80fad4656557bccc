// SPDX-License-Identifier: GPL-2.0-only

//! New generation records: made by the writer (or the source of a resync), durable here first, then at every peer that
//! receives writes, and only then in force.
//!
//! ```text
//! (wanted) -> Local: in the superblock -> Remote: sent, waiting for the peers -> in force
//! ```
//! While a change is under way no new write starts, and a write that is under way is complete only when the members of
//! both records have it ([`Volume::required`]).

use super::context::{ensure, Context, Facts, Fault};
use super::disk::{Disk, Stage as DiskStage};
use super::negotiate::Round;
use super::peer_op::Kind;
use super::replica::Replica;
use super::volume::Volume;
use crate::effect::{Level, Object};
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::{Generation, FLAG_INCONSISTENT, FLAG_OUTDATED};
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term};
use weft_uapi::wire::{GenerationBody, Header, InForceBody, PacketKind, FLAG_YES};
use zerocopy::{FromZeros, IntoBytes};

/// How long a voter that gets no writes may take to answer for a record, in milliseconds. One without disk that knows of
/// another record does not answer at all.
const VOTE_TIMEOUT_MS: u64 = 2_000;

/// Why a record is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// A node becomes primary.
    Promotion {
        /// Everything that peers acknowledged is forgotten: this disk's data are declared to be the right ones.
        anew: bool,
        /// A person accepts the loss of newer data.
        force: bool,
    },
    /// A member was lost.
    Shrink,
    /// These sync targets are equal now.
    Grow(NodeSet),
    /// A person says that these disks, which were just created, are equal.
    Union(NodeSet),
}

/// A promotion that this volume has to make durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promotion {
    /// See [`Reason::Promotion`].
    pub(super) anew: bool,
    /// A person accepts the loss of newer data.
    pub(super) force: bool,
    pub(super) term: Term,
}

/// How far a change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// The superblock with this number has it.
    Local(u64),
    /// These peers have not answered; told at that time.
    Remote(NodeSet, Time),
    /// It is in force; the superblock that says so is on its way.
    Confirming,
}

/// A record being made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    record: Generation,
    reason: Reason,
    progress: Progress,
    /// Peers that have it durable.
    knowers: NodeSet,
    /// Those of them that have all data.
    holders: NodeSet,
}

impl<H: Host> Volume<H> {
    /// Begins a change that is wanted, or goes on with the one under way.
    #[inline(never)]
    pub(super) fn run_change<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let current = self.disk.as_ref().map(|disk| disk.superblock.generation.id);
        // This disk took another line over meanwhile.
        self.stalled = self
            .stalled
            .filter(|change| Some(change.record.id) == current);
        self.change = self
            .change
            .filter(|change| Some(change.record.id) == current);
        match self.change.map(|change| (change, change.progress)) {
            None => self.begin_wanted_change(cx),
            Some((change, Progress::Local(number))) => {
                if self
                    .disk
                    .as_ref()
                    .is_some_and(|disk| disk.is_durable(number))
                {
                    self.on_change_local(cx, change);
                }
            }
            Some((change, Progress::Confirming)) => {
                // INVARIANT: what is complete without a lost member, this disk says so; else that member, promoted,
                // would take this side for one that never went on.
                let is_nobodys = change.record.writer.is_none();
                if is_nobodys || self.disk.as_ref().is_some_and(Disk::may_hold_data) {
                    self.on_change_done(cx, change);
                }
            }
            Some((change, Progress::Remote(waits, since))) => {
                let receivers = self.receivers();
                let hearers = self.hearers(&cx.facts);
                let waits = NodeSet(waits.intersection(hearers).0 & !self.departing().0);
                // Only their votes are of use, so they are not waited for once there are enough.
                let knowers = change.knowers.with(cx.facts.node);
                let is_known = change.record.writer.is_none() || self.has_votes(&cx.facts, knowers);
                let is_late = since.after_ms(VOTE_TIMEOUT_MS) <= cx.now;
                let is_done = waits.is_empty()
                    || ((is_known || is_late) && waits.intersection(receivers).is_empty());
                self.change = Some(Change {
                    progress: Progress::Remote(waits, since),
                    ..change
                });
                if is_done {
                    self.change = None;
                    self.stalled = Some(change);
                    self.recheck = true;
                }
            }
        }
        self.run_stalled(cx);
        self.take_in(cx);
    }

    /// When voters that have not answered are waited for no longer.
    pub(super) fn change_deadline(&self) -> Option<Time> {
        match self.change?.progress {
            Progress::Remote(waits, since) if waits.intersection(self.receivers()).is_empty() => {
                Some(since.after_ms(VOTE_TIMEOUT_MS))
            }
            _ => None,
        }
    }

    /// A record that every member has is in force once a majority of the voters knows it. One without writer needs
    /// none: nothing is written in it, so it forks nothing.
    fn run_stalled<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(change) = self.stalled else {
            return;
        };
        let knowers = change.knowers.with(cx.facts.node);
        let missing = NodeSet(change.record.members.0 & !knowers.0);
        if change.record.writer.is_some() && !missing.is_empty() {
            // It was lost before it knew: what it does not know of cannot leave it out.
            self.stalled = None;
            self.recheck = true;
            match change.reason {
                Reason::Promotion { anew, force } => {
                    let term = change.record.term;
                    self.wants_promotion = Some(Promotion { anew, force, term });
                }
                Reason::Shrink | Reason::Grow(_) | Reason::Union(_) => self.wants_shrink = true,
            }
        } else if change.record.writer.is_none() || self.has_votes(&cx.facts, knowers) {
            self.stalled = None;
            // One that was given up meanwhile, because of another volume perhaps, marks nothing.
            let is_promotion = matches!(change.reason, Reason::Promotion { .. })
                && cx.facts.leaders.contains(cx.facts.node);
            match self.disk.as_mut() {
                Some(disk) if is_promotion => self.is_mark_new |= disk.begin_writing(),
                Some(disk) => disk.confirm(),
                None => {}
            }
            self.change = Some(Change {
                progress: Progress::Confirming,
                ..change
            });
            self.recheck = true;
        }
    }

    fn begin_wanted_change<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if !self.may_change() || !cx.facts.held_by.is_empty() {
            return;
        }
        let node = cx.facts.node;
        let joining = self.finished_targets();
        let superblock = self.disk.as_ref().map(|disk| &disk.superblock);
        let recorded =
            superblock.map_or(NodeSet::EMPTY, |superblock| superblock.generation.members);
        // Its own record was given up, for a member was lost and is there again: nobody else puts it in force.
        let is_unsure = self.stalled.is_none()
            && superblock.is_some_and(|superblock| {
                superblock.generation.writer == Some(node)
                    && superblock.written != GenerationId::NONE
            });
        let has_lost = !self.lost_members(node).intersection(recorded).is_empty();
        // With quorum nobody reads before a majority knows that the lost member is one.
        let wants_shrink = core::mem::take(&mut self.wants_shrink) || cx.facts.quorum.is_on();
        let wants_record = is_unsure
            || (wants_shrink && has_lost)
            || self.has_returned()
            || core::mem::take(&mut self.wants_vote);
        if wants_record && cx.facts.is_primary() {
            self.begin_change(cx, Reason::Shrink, self.term());
        } else if let Some(promotion) = self
            .wants_promotion
            .filter(|promotion| self.may_begin(promotion))
        {
            self.wants_promotion = None;
            self.begin_change(
                cx,
                Reason::Promotion {
                    anew: promotion.anew,
                    force: promotion.force,
                },
                promotion.term,
            );
        } else if core::mem::take(&mut self.wants_union) {
            self.begin_union(cx);
        } else if !joining.is_empty() && self.leader(&cx.facts).is_none_or(|leader| leader == node)
        {
            self.begin_change(cx, Reason::Grow(joining), self.term());
        }
    }

    /// Sync targets that owe nothing any more.
    fn finished_targets(&self) -> NodeSet {
        let Some(disk) = self
            .disk
            .as_ref()
            .filter(|disk| !disk.has_flag(FLAG_INCONSISTENT))
        else {
            // What this disk fetches itself they would lack.
            return NodeSet::EMPTY;
        };
        self.peers_that(|peer, replica| {
            replica.wants_member
                && !replica.is_leaving
                && !replica.is_on_trial()
                && !replica.is_whole()
                && replica.replication == ReplicationState::SyncSource
                && disk.marked(peer) == 0
        })
    }

    /// Peers whose disk is going: they answer for no record any more, and the round that they asked for waits for this
    /// change.
    fn departing(&self) -> NodeSet {
        let has_left = |round: &Round| {
            let disk = round.peer.as_ref().map(|said| said.disk);
            round.is_open() && disk == Some(DiskState::Diskless)
        };
        self.peers_that(|_, replica| has_left(&replica.round))
    }

    /// Whether the disk is still as good as it was when the promotion was granted, and nothing that a peer wrote is
    /// still on its way to it, for the application's reads do not wait for that.
    fn may_begin(&self, promotion: &Promotion) -> bool {
        self.may_promote(promotion.force).is_ok()
            && self
                .ops
                .iter()
                .all(|(_, op)| op.kind.is_fetched() || op.kind == Kind::Ask)
            && (self.disk_state() == DiskState::Inconsistent) == promotion.anew
    }

    /// Whether a change may begin.
    pub(super) fn may_change(&self) -> bool {
        let is_running = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.stage == DiskStage::Running);
        let is_exchanging = self.each_replica().any(|(_, replica)| {
            let state = replica.replication;
            matches!(
                state,
                ReplicationState::BitmapSource | ReplicationState::BitmapTarget
            ) || replica.adopting.is_some()
        });
        is_running
            && self.change.is_none()
            && !self.is_negotiating()
            && !is_exchanging
            && !self.is_broken
    }

    /// Writes a new record, child of the current one.
    #[inline(never)]
    pub(super) fn begin_change<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        reason: Reason,
        term: Term,
    ) {
        let (node, id) = (cx.facts.node, GenerationId(cx.random_id()));
        let unfinished =
            self.peers_that(|_, replica| replica.source.is_some() && !replica.is_whole());
        // One that is leaving answers for no record, so it is in none.
        let leaving = self.leaving();
        let present = NodeSet(self.receivers().0 & !self.departing().union(leaving).0).with(node);
        let had = NodeSet(self.required.with(node).0 & !unfinished.0);
        // Without a writer nothing is written that an absent member could lack.
        let is_written =
            cx.facts.leaders.contains(node) || matches!(reason, Reason::Promotion { .. });
        let members = match reason {
            Reason::Promotion { anew: true, .. } => NodeSet::of(node),
            Reason::Promotion { anew: false, .. } | Reason::Shrink => had.intersection(present),
            Reason::Grow(peers) if is_written => had.union(peers).intersection(present),
            Reason::Grow(peers) => had.union(peers),
            Reason::Union(peers) => peers.with(node),
        };
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        let before = disk.superblock.generation;
        let record = Generation {
            id,
            parent: before.id,
            term,
            writer: is_written.then_some(node),
            members,
            left: NodeSet(before.left.union(leaving).0 & !members.0),
        };
        match reason {
            Reason::Promotion { anew: true, .. } => disk.go_apart(record),
            _ => disk.go_on(record),
        }
        if let Reason::Promotion { force, .. } = reason {
            self.insists = force;
            disk.set_flag(FLAG_OUTDATED, false);
        }
        let number = disk.touch();
        for peer in members.without(node).iter() {
            if let Some(replica) = self.replica_mut(peer) {
                replica.is_rejoining = replica.has_left;
            }
        }
        self.required = self.required.union(members);
        self.stalled = None;
        self.change = Some(Change {
            record,
            reason,
            progress: Progress::Local(number),
            knowers: NodeSet::EMPTY,
            holders: NodeSet::EMPTY,
        });
        self.recheck = true;
        cx.log(
            Level::Info,
            format_args!(
                "volume {}: generation {} (parent {}), members {:#x}, left {:#x}",
                self.id, id, record.parent, members.0, record.left.0
            ),
        );
        cx.notify(Object::Volume(self.id));
    }

    /// Who is told of a new record. One that is leaving shall not know the one without it: it will lack what is written there.
    fn hearers(&self, facts: &Facts) -> NodeSet {
        let hearers = self.receivers().union(self.witnesses(facts.quorum.voters));
        NodeSet(hearers.0 & !self.leaving().0)
    }

    /// The record is durable here.
    #[inline(never)]
    fn on_change_local<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, change: Change) {
        let hearers = self.hearers(&cx.facts);
        let body = GenerationBody {
            generation: change.record.into(),
        };
        let mut header = Header::new(PacketKind::Generation, Some(self.id));
        header.arg = change.record.left.0.into();
        for peer in hearers.iter() {
            if let Some(line) = self.line(peer) {
                cx.send(line, header, body.as_bytes());
            }
        }
        self.change = Some(Change {
            progress: Progress::Remote(hearers, cx.now),
            ..change
        });
        self.recheck = true;
    }

    /// The record is durable wherever it has to be.
    #[inline(never)]
    fn on_change_done<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, change: Change) {
        self.change = None;
        self.required = change.record.members;
        self.let_go(cx, change.record.left);
        self.tell_in_force(cx, &change);
        match change.reason {
            // A disk that failed meanwhile makes no primary.
            Reason::Promotion { .. } if self.has_running_disk() => {
                self.set_disk_state(cx, DiskState::UpToDate);
            }
            Reason::Union(_) => self.on_united(cx),
            Reason::Promotion { .. } | Reason::Shrink | Reason::Grow(_) => {}
        }
        for peer in change.record.members.without(cx.facts.node).iter() {
            self.on_member(cx, peer);
        }
        self.expose(cx);
        self.recheck = true;
    }

    /// Tells everybody who has the record that it is in force, and the members that they are equal.
    fn tell_in_force<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, change: &Change) {
        let holders = change.holders.intersection(change.record.members);
        // One that was lost since may have lost more than that.
        let holders = holders.intersection(self.receivers());
        // Where nobody writes, every bit stands for a difference, such as what a writer that was lost had under way.
        let is_equal = |peer: &NodeId| {
            let is_marked = |disk: &Disk<H>| disk.marked(*peer) > 0;
            change.record.writer.is_some() || !self.disk.as_ref().is_some_and(is_marked)
        };
        let holders = holders.iter().filter(is_equal);
        let holders = holders.fold(NodeSet::EMPTY, NodeSet::with);
        let knowers = change.knowers.with(cx.facts.node);
        let is_elected = self.has_votes(&cx.facts, knowers);
        if is_elected {
            // From the first record on that needs no person any more none is asked.
            self.insists &= !self.has_votes_for(&cx.facts, knowers, false);
            self.settle_in();
        }
        let hearers = change.knowers.intersection(self.receivers());
        self.send_in_force(cx, change.record.id, holders, hearers, is_elected);
        for peer in holders.iter().filter(|_| is_elected) {
            // It said so before this record was made.
            if let Some(replica) = self.replica_mut(peer) {
                replica.has_left = false;
            }
        }
    }

    /// Says that the record is in force; `holders`: those of the members that lack nothing.
    pub(super) fn send_in_force<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: GenerationId,
        holders: NodeSet,
        hearers: NodeSet,
        is_elected: bool,
    ) {
        let mut body = InForceBody::new_zeroed();
        body.generation = id.0.into();
        body.holders = holders.with(cx.facts.node).0.into();
        for (peer, place) in NodeId::all().zip(&mut body.disks) {
            let holder = self.replica(peer).filter(|_| holders.contains(peer));
            if let Some(said) = holder.and_then(|replica| replica.round.peer) {
                place.incarnation = said.side.incarnation.0.into();
                place.attach_id = said.side.attach_id.into();
            }
        }
        let mut header = Header::new(PacketKind::InForce, Some(self.id));
        header.flags = if is_elected { FLAG_YES } else { 0 };
        for peer in hearers.iter() {
            if let Some(line) = self.line(peer) {
                cx.send(line, header, body.as_bytes());
            }
            if let Some(replica) = self.replica_mut(peer) {
                // What it says after this it says as one that was taken in.
                replica.is_newcomer &= !is_elected || !holders.contains(peer);
            }
        }
    }

    /// A sync target has become a member.
    #[inline(never)]
    fn on_member<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let now = cx.now;
        let is_target = |replica: &&mut Replica<H>| replica.source.is_some() && replica.is_whole();
        let Some(replica) = self.replica_mut(peer).filter(is_target) else {
            return;
        };
        replica.wants_member = false;
        replica.accepts = true;
        replica.source = None;
        replica.stop_fetching();
        replica.peer_disk = DiskState::UpToDate;
        replica.progress.ended = Some(now);
        self.note_carried(peer);
        if let Some(disk) = self.disk.as_mut() {
            disk.wants_bitmaps = true;
        }
        self.reconciled(cx);
        cx.log(
            Level::Info,
            format_args!("volume {}, peer {}: resync done", self.id, peer),
        );
        self.set_replication(cx, peer, ReplicationState::Established);
    }

    /// A peer has a record durable.
    #[inline(never)]
    pub(super) fn on_generation_durable(
        &mut self,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let (id, is_complete) = (GenerationId(header.arg), header.flags & FLAG_YES != 0);
        let is_witness = self.witnesses(NodeSet::of(peer)).contains(peer);
        let Some(disk) = self.disk.as_mut() else {
            return Ok(());
        };
        let replica = self.replicas.get(peer.index()).and_then(Option::as_ref);
        let is_left = replica.is_some_and(|it| !it.receives && it.source.is_none());
        if (is_witness || is_left) && disk.superblock.generation.id != id {
            // It was not waited for, or is not any more.
            return Ok(());
        }
        ensure(
            disk.superblock.generation.id == id,
            "the peer acknowledged a generation that is not current",
        )?;
        disk.set_since(peer, id);
        if let Some(replica) = self.replicas.get_mut(peer.index()).and_then(Option::as_mut) {
            if let (Some(source), Some(said)) = (replica.source.as_mut(), replica.round.peer) {
                source.is_peer_ready = true;
                source.has_joined |= is_complete && replica.wants_member;
                // Its disk says what it lacks: this image may be met again.
                disk.set_seen(peer, said.side.incarnation, said.side.attach_id);
            }
        }
        if let Some(change) = self.change.as_mut().or(self.stalled.as_mut()) {
            if let Progress::Remote(waits, _) = &mut change.progress {
                *waits = waits.without(peer);
            }
            change.knowers = change.knowers.with(peer);
            if is_complete {
                change.holders = change.holders.with(peer);
            }
            if matches!(change.reason, Reason::Union(_)) {
                self.note_united(peer);
            }
        }
        self.recheck = true;
        Ok(())
    }

    /// A peer turns out to have a record that waits for a majority.
    pub(super) fn on_known(&mut self, peer: NodeId, id: GenerationId) {
        if let Some(change) = self
            .stalled
            .as_mut()
            .filter(|change| change.record.id == id)
        {
            change.knowers = change.knowers.with(peer);
            change.holders = change.holders.with(peer);
            self.recheck = true;
        }
    }
}
