// SPDX-License-Identifier: GPL-2.0-only

//! Peers that do not keep up with the writes of this primary: writes wait for them, or go on without them.
//!
//! ```text
//! Together --too much is not answered--> Asked --the peer's disk is on record as outdated--> Ahead
//!    ^ ^                                   |  by now it is little, or there is no majority     | all that was sent is answered
//!    | +-----------------------------------+                                                  v
//!    +-- little is left <-- SyncOnly <--------------------------------------- a new round, and a resync
//!    +-- too much is not answered, in a resync --> SyncOnly
//! ```
//! A peer that this node is ahead of is as good as lost: bits take the place of what it is not sent, and a record without
//! it comes into force before anything is complete that it lacks. What is different is that it can be told.
//!
//! INVARIANT (I2): a write that a member lacks is complete only when that member's disk says that it is outdated, and a record
//! without it is in force. So it is not promoted, also where votes do not count, before it has met newer data; where votes do not
//! count, that is not so if it is source of an older disk meanwhile, by which any outdated disk becomes good (see README).
//!
//! No endless loop: the resync gets the link for itself until so little is left that the writes fit in beside it. Each of
//! its rounds brings everything that was owed when it began, so it ends when the writes get fewer than the link carries. And a
//! peer that is synced has to keep up for a while before it is a member again: each coming and going is a record, of which
//! disks remember so many only.

use super::context::{ensure, Context, Facts, Fault};
use super::replica::Replica;
use super::volume::Volume;
use crate::effect::{Level, Object};
use crate::host::{Host, Output, Time};
use weft_uapi::congestion::{Pace, FILL_MAX};
use weft_uapi::limits::{BITMAP_BLOCK_BYTES, IO_BYTES_MAX};
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{NodeId, NodeSet, Seq};
use weft_uapi::wire::{Header, PacketKind, FLAG_YES};

/// Packets that are too many whatever their size: half of what is remembered of writes.
const PACKETS_MAX: u32 = 1024;

/// How old what is not answered has to be at least, in milliseconds: an application may well have much under way.
const LATE_MS: u64 = 100;

/// For how long a peer has to keep up, after it did not, before it is a member again, in milliseconds.
const KEEPS_UP_MS: u64 = 10_000;

/// Bytes sent to one peer and not acknowledged at which writes begin to wait.
pub(super) const UNACKED_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(FILL_MAX + (2 << 20) <= UNACKED_BYTES_MAX);

/// How far this node is from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Step {
    /// It gets every write, if it gets any.
    #[default]
    Together,
    /// It was told to put on record that it will lack some.
    Asked,
    /// It gets none. So many packets that were sent before are not answered.
    Ahead(u32),
    /// A sync target that is not sent the writes. As before.
    SyncOnly(u32),
}

/// How a peer keeps up.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Keeping {
    step: Step,
    /// Weight of the writes that were sent and not answered.
    bytes: u64,
    /// A write whose answer is waited for, and when it was sent.
    sample: Option<(Seq, Time)>,
    /// How long the last such answer took, in milliseconds.
    took_ms: u64,
    /// Since when it lacks writes.
    since: Option<Time>,
    /// When it has kept up for long enough to be a member.
    proven: Option<Time>,
    /// Much is not answered, and by then it is late.
    late: Option<Time>,
    /// What listeners were told last.
    told: Pace,
}

/// What a secondary was told by a primary that it does not keep up with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Outrun {
    /// Nothing.
    #[default]
    No,
    /// It will be, after this round.
    Told(u32),
    /// The superblock with this number says so.
    Noting(u64),
    /// The primary knows that it is on record.
    Noted,
}

/// What a write counts for: one that carries no data is not long for the link.
fn weight(bytes: u32) -> u64 {
    bytes.min(IO_BYTES_MAX).into()
}

impl Keeping {
    /// A write was sent.
    pub(super) fn on_sent(&mut self, seq: Seq, bytes: u32, now: Time) {
        self.bytes = self.bytes.saturating_add(weight(bytes));
        self.sample.get_or_insert((seq, now));
    }

    /// A write was answered.
    pub(super) fn on_answered(&mut self, seq: Seq, bytes: u32, now: Time) {
        self.bytes = self.bytes.saturating_sub(weight(bytes));
        if let Some((_, sent)) = self.sample.take_if(|(of, _)| *of == seq) {
            self.took_ms = now.ms_since(sent);
        }
        if self.bytes == 0 {
            self.took_ms = 0;
        }
    }

    /// Something was answered that did not count any more.
    pub(super) fn on_void_answered(&mut self) {
        if let Step::Ahead(open) | Step::SyncOnly(open) = &mut self.step {
            *open = open.saturating_sub(1);
        }
    }

    /// What was sent does not count any more.
    pub(super) fn forget_sent(&mut self) {
        (self.bytes, self.sample, self.took_ms) = (0, None, 0);
    }

    /// A new decision, and perhaps a resync, which has the link for itself at first if there was too much before.
    pub(super) fn on_decision(&mut self) {
        self.step = match self.step {
            Step::Together | Step::Asked => Step::Together,
            Step::Ahead(_) | Step::SyncOnly(_) => Step::SyncOnly(0),
        };
    }

    /// The session is over. What the peer lacks it still does.
    pub(super) fn on_session_over(&mut self) {
        let since = self.since;
        *self = Self {
            since,
            ..Self::default()
        };
    }

    /// Whether the peer, a sync target, is not sent the writes.
    pub(super) fn is_sync_only(&self) -> bool {
        matches!(self.step, Step::SyncOnly(_))
    }

    /// Whether so much is on its way to it that nothing is to wait for an answer from behind that.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.step, Step::SyncOnly(open) if open > 0)
    }

    /// When it is to be looked at, although nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.proven.into_iter().chain(self.late).min()
    }

    /// When the answer that is waited for is late; at once if the last one was.
    fn late_at(&self) -> Option<Time> {
        match self.sample {
            _ if self.took_ms >= LATE_MS => Some(Time(0)),
            sample => sample.map(|(_, sent)| sent.after_ms(LATE_MS)),
        }
    }

    pub(super) fn is_ahead(&self) -> bool {
        matches!(self.step, Step::Ahead(_))
    }

    fn lack(&mut self, now: Time) {
        let first = self.sample.map_or(now, |(_, sent)| sent);
        self.since.get_or_insert(first);
    }

    fn lag_ms(&self, now: Time) -> u64 {
        let open = self.since.or(self.sample.map(|(_, sent)| sent));
        let open = open.map_or(0, |since| now.ms_since(since));
        match self.bytes {
            0 => open,
            _ => open.max(self.took_ms),
        }
    }
}

impl<H: Host> Replica<H> {
    /// Whether this node was told that it is left behind.
    fn is_outrun(&self) -> bool {
        matches!(self.outrun, Outrun::Noting(_) | Outrun::Noted)
    }

    /// What people see of a replication that is established, if one side does not keep up.
    pub(super) fn distance(&self) -> Option<ReplicationState> {
        if self.keeping.is_ahead() {
            Some(ReplicationState::Ahead)
        } else if self.is_outrun() {
            Some(ReplicationState::Behind)
        } else {
            None
        }
    }

    /// Whether it is a sync target that is not sent the writes.
    pub(super) fn is_skipped(&self) -> bool {
        self.source.is_some() && self.keeping.is_sync_only()
    }

    /// Whether it is a sync target that has yet to show that it keeps up.
    pub(super) fn is_on_trial(&self) -> bool {
        self.is_skipped() || self.keeping.proven.is_some()
    }

    /// Since when, or from when on, too much has not been answered for too long; `None`: it is not too much.
    fn congested_at(&self, fill: u64) -> Option<Time> {
        let is_much = self.keeping.bytes >= fill || self.unacked >= PACKETS_MAX;
        self.keeping.late_at().filter(|_| self.receives && is_much)
    }

    fn is_congested(&self, fill: u64, now: Time) -> bool {
        self.congested_at(fill).is_some_and(|at| at <= now)
    }
}

impl<H: Host> Volume<H> {
    /// Peers that are sent the writes of this node.
    pub(super) fn mirrors(&self) -> NodeSet {
        self.peers_that(|_, replica| replica.receives && !replica.is_skipped())
    }

    /// Whether a primary goes on without this disk, or is about to.
    pub(super) fn is_outrun(&self) -> bool {
        self.each_replica().any(|(_, replica)| replica.is_outrun())
    }

    /// Sees which peers keep up, and whether this node does.
    #[inline(never)]
    pub(super) fn run_congestion<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for peer in self.sessions().iter() {
            self.run_outrun(cx, peer);
            self.end_trial(cx, peer);
            self.keep_pace(cx, peer);
        }
    }

    fn end_trial<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, peer: NodeId) {
        let needs_none = !cx.facts.is_primary() || !cx.facts.congestion.pull_ahead.contains(peer);
        let now = cx.now;
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        let is_over = |proven: Time| needs_none || replica.source.is_none() || proven <= now;
        if replica.keeping.proven.is_some_and(is_over) {
            replica.keeping.proven = None;
            self.recheck = true;
        }
    }

    fn keep_pace<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(replica) = self.replica(peer) else {
            return;
        };
        let policy = cx.facts.congestion;
        let may_skip = cx.facts.is_primary() && policy.pull_ahead.contains(peer);
        let is_settled = !replica.round.is_open() && replica.verdict.is_none();
        match replica.keeping.step {
            Step::Together if !may_skip || !replica.is_congested(policy.fill, cx.now) => {}
            Step::Together if is_settled && self.change.is_none() => self.pull_ahead(cx, peer),
            Step::Asked if is_settled && !may_skip => self.end_distance(cx, peer),
            Step::Ahead(0) if is_settled => self.end_distance(cx, peer),
            Step::SyncOnly(_) if !may_skip => self.set_step(cx, peer, Step::Together),
            Step::SyncOnly(0) if self.has_caught_up(cx, peer) => {
                self.set_step(cx, peer, Step::Together);
                self.put_on_trial(cx, peer);
            }
            Step::Together | Step::Asked | Step::Ahead(_) | Step::SyncOnly(_) => {}
        }
        self.note_late(cx, peer, may_skip);
        self.tell_pace(cx, peer);
    }

    /// Sees to it that a peer is looked at when its answer is late.
    fn note_late<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, peer: NodeId, may_skip: bool) {
        let (now, fill) = (cx.now, cx.facts.congestion.fill);
        if let Some(replica) = self.replica_mut(peer) {
            let late = replica.congested_at(fill).filter(|&at| at > now);
            replica.keeping.late = late.filter(|_| may_skip);
        }
    }

    /// What comes of it is decided anew: the peer is as good as this disk, or fetches what it lacks.
    fn end_distance<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, peer: NodeId) {
        self.meet_again(peer, cx.now);
        self.recheck = true;
    }

    /// Whether a sync target lacks so little that it can be sent the writes as well.
    fn has_caught_up<O: Output<H>>(&self, cx: &Context<'_, H, O>, peer: NodeId) -> bool {
        let replica = self.replica(peer);
        match replica.map(|replica| (replica.replication, replica.source)) {
            Some((ReplicationState::SyncSource, _)) => {
                let marked = self.disk.as_ref().map_or(0, |disk| disk.marked(peer));
                let owed = marked.saturating_mul(BITMAP_BLOCK_BYTES.into());
                owed <= cx.facts.congestion.fill / 2
            }
            Some((_, source)) => source.is_none(),
            None => true,
        }
    }

    /// Too much that was sent to a peer is not answered.
    fn pull_ahead<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(replica) = self.replica(peer) else {
            return;
        };
        let (id, open, round) = (self.id, replica.unacked, replica.round.decided);
        if let Some(source) = replica.source {
            if replica.replication == ReplicationState::SyncSource && !source.has_joined {
                self.void_sent(peer);
                self.lack(peer, cx.now);
                if let Some(replica) = self.replica_mut(peer) {
                    replica.keeping.proven = None;
                    if let Some(source) = replica.source.as_mut() {
                        source.has_skipped = true;
                    }
                }
                self.set_step(cx, peer, Step::SyncOnly(open));
            }
        } else if self.pace(&cx.facts, peer, cx.now) == Pace::Together {
            let Some(line) = self.line(peer) else {
                return;
            };
            let mut header = Header::new(PacketKind::Outrun, Some(id));
            header.arg = round.into();
            cx.send(line, header, &[]);
            self.set_step(cx, peer, Step::Asked);
        }
    }

    /// A sync target gets the writes again: it is a member once it has kept up with them.
    fn put_on_trial<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, peer: NodeId) {
        if let Some(replica) = self.replica_mut(peer).filter(|it| it.source.is_some()) {
            replica.keeping.proven = Some(cx.now.after_ms(KEEPS_UP_MS));
        }
    }

    fn lack(&mut self, peer: NodeId, now: Time) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.keeping.lack(now);
        }
    }

    fn set_step<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId, step: Step) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.keeping.step = step;
            self.recheck = true;
        }
        let sentence = match step {
            Step::Together => "gets the writes again",
            Step::Asked => "does not keep up with the writes",
            Step::Ahead(_) => "is left behind",
            Step::SyncOnly(_) => "does not keep up with the writes, and is synced first",
        };
        cx.log(
            Level::Warn,
            format_args!("volume {}, peer {peer}: {sentence}", self.id),
        );
    }

    /// Whether a record without this peer comes into force, should it be left behind.
    fn has_votes_without(&self, facts: &Facts, peer: NodeId) -> bool {
        let stays = |_, replica: &Replica<H>| {
            replica.receives && replica.keeping.step != Step::Asked && !replica.is_leaving
        };
        let others = self
            .peers_that(stays)
            .union(self.witnesses(facts.quorum.voters));
        self.has_votes(facts, others.with(facts.node).without(peer))
    }

    /// How a peer keeps up, for the status.
    pub(super) fn pace(&self, facts: &Facts, peer: NodeId, now: Time) -> Pace {
        let Some(replica) = self.replica(peer) else {
            return Pace::Together;
        };
        let is_named = facts.congestion.pull_ahead.contains(peer);
        let is_full = replica.receives && replica.unacked_bytes >= UNACKED_BYTES_MAX;
        match replica.keeping.step {
            Step::Asked => Pace::Asked,
            Step::Ahead(_) => Pace::Ahead,
            Step::SyncOnly(_) => Pace::SyncOnly,
            Step::Together if !facts.is_primary() => Pace::Together,
            Step::Together if !is_named && is_full => Pace::Blocks,
            Step::Together if !is_named || !replica.is_congested(facts.congestion.fill, now) => {
                Pace::Together
            }
            Step::Together if facts.clients.contains(peer) => Pace::Served,
            Step::Together if !replica.round.knows_congestion => Pace::TooOld,
            Step::Together
                if self.stalled.is_some()
                    || self.disk_state() != DiskState::UpToDate
                    || !self.has_votes_without(facts, peer) =>
            {
                Pace::NoQuorum
            }
            Step::Together => Pace::Together,
        }
    }

    /// Tells listeners when that changes. A peer that holds writes up does so many times a second.
    fn tell_pace<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let pace = match self.pace(&cx.facts, peer, cx.now) {
            Pace::Blocks => Pace::Together,
            pace => pace,
        };
        let id = self.id;
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        if pace == Pace::Together && replica.is_whole() {
            replica.keeping.since = None;
        }
        if core::mem::replace(&mut replica.keeping.told, pace) != pace {
            cx.notify(Object::PeerVolume(peer, id));
        }
    }

    /// How much of the writes a peer may lack, in bytes, and for how long, in milliseconds.
    pub(super) fn lag(&self, peer: NodeId, now: Time) -> (u64, u64) {
        let marked = self.disk.as_ref().map_or(0, |disk| disk.marked(peer));
        let owed = marked.saturating_mul(BITMAP_BLOCK_BYTES.into());
        let keeping = self.replica(peer).map(|replica| replica.keeping);
        let keeping = keeping.unwrap_or_default();
        (owed.saturating_add(keeping.bytes), keeping.lag_ms(now))
    }

    /// A primary says that it will go on without this disk, or a secondary that it has that on record.
    #[inline(never)]
    pub(super) fn on_outrun<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let round = u32::try_from(header.arg);
        let round = round.map_err(|_| Fault("the peer named a round that there is not"))?;
        let replica = self
            .replica_mut(peer)
            .ok_or(Fault("the peer is not known"))?;
        if header.flags & FLAG_YES == 0 {
            // It may have decided what is still on its way to this node, but not more than that.
            ensure(
                round <= replica.round.wanted.saturating_add(1),
                "the peer named a round that there is not",
            )?;
            replica.outrun = Outrun::Told(round);
            self.recheck = true;
            return Ok(());
        }
        if replica.round.decided != round || replica.round.is_open() {
            // Whatever was said is taken back by the decision that is under way.
            return Ok(());
        }
        let (step, fill) = (replica.keeping.step, cx.facts.congestion.fill);
        let is_worth_it = replica.is_congested(fill / 2, cx.now);
        match step {
            Step::Ahead(_) => {}
            Step::Asked if is_worth_it && self.may_go_on_without(&cx.facts, peer) => {
                self.go_ahead(cx, peer);
            }
            // The next decision is that it is as good as this disk.
            _ => self.end_distance(cx, peer),
        }
        Ok(())
    }

    /// Whether what was so when the peer was asked still is.
    fn may_go_on_without(&self, facts: &Facts, peer: NodeId) -> bool {
        facts.is_primary()
            && !facts.is_client
            && !facts.clients.contains(peer)
            && self.stalled.is_none()
            && self.disk_state() == DiskState::UpToDate
            && self.has_votes_without(facts, peer)
    }

    /// From now on bits take the place of what the peer is not sent.
    fn go_ahead<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        let open = replica.unacked;
        replica.peer_disk = DiskState::Outdated;
        replica.keeping.lack(cx.now);
        replica.forget_decision();
        self.stop_mirroring(peer);
        self.set_step(cx, peer, Step::Ahead(open));
        self.wants_shrink = true;
        cx.notify(Object::PeerVolume(peer, self.id));
    }

    /// Puts on record that a primary will go on without this disk, and says so.
    fn run_outrun<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let (Some(line), Some(replica)) = (self.line(peer), self.replica(peer)) else {
            return;
        };
        let (round, is_open) = (replica.round.decided, replica.round.is_open());
        let follows = replica.receives && cx.facts.primaries.contains(peer);
        let (outrun, id) = (replica.outrun, self.id);
        let next = match (outrun, self.disk.as_ref()) {
            (Outrun::Told(asked), _) if asked < round => Outrun::No,
            (Outrun::Told(asked), Some(_))
                if asked == round && !is_open && follows && !cx.facts.is_primary() =>
            {
                self.outdate(cx);
                cx.log(
                    Level::Warn,
                    format_args!("volume {id}, peer {peer}: goes on without this disk"),
                );
                let number = self.disk.as_mut().map(|disk| disk.touch());
                number.map_or(Outrun::No, Outrun::Noting)
            }
            (Outrun::Noting(number), Some(disk)) if disk.is_durable(number) => {
                let mut header = Header::new(PacketKind::Outrun, Some(id));
                (header.arg, header.flags) = (round.into(), FLAG_YES);
                cx.send(line, header, &[]);
                Outrun::Noted
            }
            (outrun, _) => outrun,
        };
        if next == outrun {
            return;
        }
        if let Some(replica) = self.replica_mut(peer) {
            replica.outrun = next;
        }
        self.recheck = true;
        cx.notify(Object::PeerVolume(peer, id));
    }
}
