// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of writes after they were sent: acknowledgements, flushes, and when they are forgotten.
//!
//! A write stays in the tail until it is stable on this disk and on every peer that got it; until then its extents are
//! hot, and the loss of a peer turns it into bits (G2, G4).

use super::congestion::UNACKED_BYTES_MAX;
use super::context::{ensure, Context, Fault};
use super::cookie::Work;
use super::hold::Hold;
use super::request::{Request, Stage};
use super::volume::Volume;
use crate::effect::{Data, Effect, IoError};
use crate::event::{DiskError, Io, Op};
use crate::host::{Host, Output, Time};
use crate::ranges::Span;
use crate::tail::{Entry, Kind};
use weft_uapi::state::Protocol;
use weft_uapi::units::{NodeId, NodeSet, Sector, Seq};
use weft_uapi::wire::{Header, PacketKind};
use zerocopy::IntoBytes;

/// Entries finished before peers are told to forget them.
const TRIM_ENTRIES: u64 = 64;
/// A tail that got no new writes for so long is flushed, in milliseconds.
const TAIL_IDLE_MS: u64 = 1000;

/// A flush of everything.
pub(super) const FLUSH: Io = Io {
    op: Op::Flush,
    sector: Sector(0),
    bytes: 0,
    fua: false,
    preflush: false,
};

fn span(entry: &Entry) -> Span {
    Span {
        sector: entry.sector,
        bytes: entry.bytes,
    }
}

impl<H: Host> Volume<H> {
    /// A peer lacks nothing now: writes under way that it did not get began before its session, and the resync has
    /// carried them.
    pub(super) fn note_carried(&mut self, peer: NodeId) {
        let is_under_way = |request: &&mut Request<H>| request.stage == Stage::Writing;
        for request in self.requests.iter_mut().filter(is_under_way) {
            if !request.sent.contains(peer) {
                request.acked = request.acked.with(peer);
            }
        }
        self.recheck = true;
    }

    /// The peer has a write in memory.
    #[inline(never)]
    pub(super) fn on_received<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        if self.is_void(peer, header.seq) {
            return Ok(());
        }
        let entry = self.tail.entry(header.seq).copied();
        let entry = entry.filter(|entry| entry.waits_written.contains(peer));
        let entry = entry.ok_or(Fault("the peer acknowledged what it was not sent"))?;
        let suffices = |number: &u32| {
            let is_fua = self
                .requests
                .get(*number)
                .is_none_or(|request| request.io.fua);
            cx.facts.protocol == Protocol::B && !is_fua
        };
        if let Some(request) = entry.request.filter(suffices) {
            self.on_request_acked(cx, request, entry.seq, peer);
        }
        Ok(())
    }

    /// The peer has a write on disk.
    #[inline(never)]
    pub(super) fn on_written<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        if self.is_void(peer, header.seq) {
            if let Some(replica) = self.replica_mut(peer) {
                replica.keeping.on_void_answered();
            }
            return Ok(());
        }
        let unexpected = Fault("the peer acknowledged what it was not sent");
        let entry = self
            .tail
            .on_written(peer, header.seq, false)
            .map_err(|_| unexpected)?;
        if let Some(replica) = self.replica_mut(peer) {
            let was_full = replica.unacked_bytes >= UNACKED_BYTES_MAX;
            replica.count_acked(entry.bytes);
            if entry.kind == Kind::Write {
                replica.keeping.on_answered(entry.seq, entry.bytes, cx.now);
            }
            self.recheck |= was_full;
        }
        if let Some(request) = entry.request {
            self.on_request_acked(cx, request, entry.seq, peer);
        }
        self.trim_tail();
        Ok(())
    }

    /// Everything up to a number is stable at the peer.
    #[inline(never)]
    pub(super) fn on_stable<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let upto = header.seq;
        // INVARIANT: before what the peer had to make stable is forgotten.
        self.on_ages(body, NodeSet::of(peer), cx.now)?;
        ensure(
            self.tail.may_be_stable(peer, upto),
            "the peer called stable what it did not write",
        )?;
        while let Some(entry) = self.tail.next_stable(peer, upto) {
            if entry.kind == Kind::Resync {
                // INVARIANT: stable there, sent in this session; a newer write of the range is in the tail itself, or has
                // made the entry one that is overtaken (G4).
                self.on_resync_stable(peer, &entry);
            }
        }
        if let Some(replica) = self.replica_mut(peer) {
            replica.stable = replica.stable.max(upto);
        }
        self.trim_tail();
        self.wake_flushes(cx);
        Ok(())
    }

    #[inline(never)]
    fn on_resync_stable(&mut self, peer: NodeId, entry: &Entry) {
        if let Some(disk) = self.disk.as_mut() {
            disk.unmark(peer, span(entry));
        }
    }

    fn wake_flushes<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for number in self.requests.numbers() {
            if self
                .requests
                .get(number)
                .is_some_and(|request| request.stage == Stage::Flushing)
            {
                self.advance_request(cx, number);
            }
        }
    }

    /// Removes what waits for nothing any more, and gives its extents free.
    pub(super) fn trim_tail(&mut self) {
        while let Some(entry) = self.tail.pop_finished() {
            self.feed_starved();
            if entry.kind == Kind::Write {
                self.cool(
                    span(&entry),
                    &mut Hold {
                        is_held: true,
                        transaction: 0,
                    },
                );
            }
        }
    }

    /// A peer is lost: what is not known to be stable there becomes bits.
    pub(super) fn lose_tail(&mut self, peer: NodeId) {
        while let Some(entry) = self.tail.next_lost(peer) {
            // Other members hold what this one lacks, and have to learn by a record that it does.
            self.wants_shrink |= self.required.contains(peer);
            if let Some(disk) = self.disk.as_mut() {
                disk.mark(peer, span(&entry));
            }
        }
        for request in self.requests.iter_mut() {
            request.sent = request.sent.without(peer);
        }
    }

    /// What is on its way to a connected peer does not count any more, whether it is acknowledged or not.
    pub(super) fn void_sent(&mut self, peer: NodeId) {
        self.lose_tail(peer);
        self.trim_tail();
        let next = self.tail.next_seq();
        if let Some(replica) = self.replica_mut(peer) {
            replica.void_before = next;
            replica.unacked = 0;
            replica.unacked_bytes = 0;
            replica.keeping.forget_sent();
        }
    }

    fn is_void(&self, peer: NodeId, seq: Seq) -> bool {
        self.replica(peer)
            .is_some_and(|replica| seq < replica.void_before)
    }

    /// A connected peer has no use for writes any more.
    pub(super) fn stop_mirroring(&mut self, peer: NodeId) {
        self.void_sent(peer);
        self.lose_received(peer);
        self.drop_held_ops(peer);
        self.trim_tail();
        self.note_loss();
    }

    /// A peer that got writes does not get them any more: writes under way may depend on a record without it.
    pub(super) fn note_loss(&mut self) {
        let depends = |stage| matches!(stage, Stage::Writing | Stage::Flushing);
        if self
            .requests
            .iter()
            .any(|(_, request)| depends(request.stage))
        {
            self.wants_shrink = true;
        }
        self.recheck = true;
    }

    /// How far a flush of this disk that starts now covers the tail.
    fn covered_here(&self, node: NodeId) -> Seq {
        let open = self
            .tail
            .entries()
            .find(|entry| entry.waits_written.contains(node));
        let end = open.map_or(self.tail.next_seq(), |entry| entry.seq);
        Seq(end.0.saturating_sub(1))
    }

    /// A flush of this disk covered the tail up to a number.
    #[inline(never)]
    pub(super) fn on_stable_here<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, upto: Seq) {
        while self.tail.next_stable(cx.facts.node, upto).is_some() {}
        self.trim_tail();
    }

    /// Starts a flush for the application, here and at every receiver.
    pub(super) fn start_flush<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let (volume, node) = (self.id, cx.facts.node);
        let (local_upto, seq) = (self.covered_here(node), self.tail.last_seq());
        let (Some(disk), Some(request)) = (self.disk.as_mut(), self.requests.get_mut(number))
        else {
            return;
        };
        request.stage = Stage::Flushing;
        request.flush_upto = seq;
        request.local_upto = local_upto;
        request.is_local_done = false;
        disk.io_pending = disk.io_pending.saturating_add(1);
        let cookie = Work::Request(number).cookie(volume);
        cx.emit(Effect::Disk {
            volume,
            cookie,
            io: FLUSH,
            data: Data::None,
        });
        self.send_flushes(cx, seq);
    }

    /// Asks every receiver to make everything up to `seq` stable, unless it did or was asked.
    fn send_flushes<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, seq: Seq) {
        for peer in self.receivers().iter() {
            let Some(line) = self.line(peer) else {
                continue;
            };
            let id = self.id;
            let Some(replica) = self.replica_mut(peer) else {
                continue;
            };
            if replica.stable < seq && replica.flush_sent < seq {
                replica.flush_sent = seq;
                cx.send(
                    line,
                    Header {
                        seq,
                        ..Header::new(PacketKind::Flush, Some(id))
                    },
                    &[],
                );
            }
        }
    }

    /// Looks whether a flush is done: here, and at every member.
    pub(super) fn advance_flushing<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
    ) {
        let Some(request) = self
            .requests
            .get(number)
            .filter(|request| request.is_local_done)
        else {
            return;
        };
        if self.is_orphan(request) {
            return self.forget_request(number);
        }
        if request.has_failed || cx.facts.is_client {
            return self.fail_request(cx, number);
        }
        let (io, seq) = (request.io, request.flush_upto);
        if self.is_doomed(cx) {
            self.complete(cx, number, Err(IoError::NoQuorum), None);
            return;
        }
        let stable = self.peers_that(|_, replica| replica.is_whole() && replica.stable >= seq);
        let stable = stable.with(cx.facts.node);
        if self.required.0 & !stable.0 != 0 || self.is_broken {
            self.send_flushes(cx, seq);
            if !self.lost_members(cx.facts.node).is_empty() && !self.wants_shrink {
                self.wants_shrink = true;
                self.recheck = true;
            }
        } else if io.op == Op::Flush {
            self.complete(cx, number, Ok(()), None);
        } else if let Some(request) = self.requests.get_mut(number) {
            request.stage = Stage::Held;
            request.io.preflush = false;
            request.is_local_done = false;
        }
    }

    /// Flushes the tail when it is time, and tells peers what they may forget.
    #[inline(never)]
    pub(super) fn run_tail<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.tail_flush.is_wanted |= self
            .tail_deadline()
            .is_some_and(|deadline| deadline <= cx.now);
        if self.tail_flush.is_wanted && !self.tail.is_empty() && self.tail_flush.local.is_none() {
            self.start_tail_flush(cx);
        }
        for peer in self.receivers().iter() {
            let trimmed = self.trimmed(cx, peer);
            let sent = self
                .replica(peer)
                .map_or(trimmed, |replica| replica.trim_sent);
            let behind = trimmed.0.saturating_sub(sent.0);
            if behind >= TRIM_ENTRIES || (behind > 0 && self.tail.is_empty()) {
                self.send_trim(cx, peer, trimmed);
            }
        }
    }

    /// What a peer may forget. Nothing while a lost member is in force: what it lacks and others have would be known
    /// to this node alone. Nothing that is not stable there either: what was sent before it was turned away from is in
    /// the tail no more.
    fn trimmed<O: Output<H>>(&self, cx: &Context<'_, H, O>, peer: NodeId) -> Seq {
        let stable = self.replica(peer).map_or(Seq(0), |replica| replica.stable);
        if self.lost_members(cx.facts.node).is_empty() {
            self.tail.trimmed().min(stable)
        } else {
            Seq(0)
        }
    }

    fn send_trim<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId, seq: Seq) {
        let ages = self.tells_ages(peer).then(|| self.ages_for(peer));
        if let Some(line) = self.line(peer) {
            cx.send(
                line,
                Header {
                    seq,
                    ..Header::new(PacketKind::Trim, Some(self.id))
                },
                ages.as_ref().map_or(&[], |ages| ages.bodies().as_bytes()),
            );
        }
        if let Some(replica) = self.replica_mut(peer) {
            replica.trim_sent = seq;
        }
    }

    fn start_tail_flush<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let covered = self.covered_here(cx.facts.node);
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        let last = self.tail.last_seq();
        self.tail_flush.is_wanted = false;
        self.tail_flush.local = Some(covered);
        self.tail_flush.asked = last;
        self.tail_flush.last_write = cx.now;
        disk.io_pending = disk.io_pending.saturating_add(1);
        let cookie = Work::TailFlush.cookie(self.id);
        cx.emit(Effect::Disk {
            volume: self.id,
            cookie,
            io: FLUSH,
            data: Data::None,
        });
        self.send_flushes(cx, last);
        // A peer whose log is full waits for this.
        for peer in self.receivers().iter() {
            let trimmed = self.trimmed(cx, peer);
            if self
                .replica(peer)
                .is_some_and(|replica| replica.trim_sent < trimmed)
            {
                self.send_trim(cx, peer, trimmed);
            }
        }
    }

    /// The flush of this node's own is done.
    #[inline(never)]
    pub(super) fn on_tail_flushed<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        result: Result<(), DiskError>,
    ) {
        let covered = self.tail_flush.local.take();
        match (result, covered) {
            (Ok(()), Some(upto)) => self.on_stable_here(cx, upto),
            (Ok(()), None) => {}
            (Err(DiskError), _) => self.fail_disk(cx, "the disk reported an error"),
        }
        self.recheck = true;
    }

    /// When the tail has been idle for long enough.
    pub(super) fn tail_deadline(&self) -> Option<Time> {
        let is_due = !self.tail.is_empty() && self.tail_flush.local.is_none();
        is_due.then(|| self.tail_flush.last_write.after_ms(TAIL_IDLE_MS))
    }
}
