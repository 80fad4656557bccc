// SPDX-License-Identifier: GPL-2.0-only

//! What a peer asked this disk to do.
//!
//! ```text
//! Held -> (generation durable, range free, extents hot) -> Running -> acknowledged
//! ```
//! One whose session ended before it ran is dropped; one that runs is finished, but nobody is told.

use super::context::{ensure, Context, Fault};
use super::cookie::Work;
use super::hold::Hold;
use super::mirror::FLUSH;
use super::received::{Entry, RECEIVED_MAX};
use super::replica::Replica;
use super::request::{on_disk, span_of};
use super::volume::{Owner, Volume};
use crate::effect::{Data, Effect};
use crate::event::{DiskError, Io, Op};
use crate::host::{Host, Output};
use crate::ranges::RangeId;
use weft_uapi::state::{DiskState, Protocol, ReplicationState};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Seq, SessionId};
use weft_uapi::wire::{Digest, Header, PacketKind, FLAG_FUA, FLAG_NO_UNMAP};
use zerocopy::IntoBytes;

/// What the operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A change that the peer's application made.
    Write,
    /// Resync data from the peer.
    ResyncWrite,
    /// A range that the peer fetches.
    ResyncRead,
    /// As before, unless it has this digest.
    ResyncCheck(Digest),
    /// A range that this node fetches, unless the peer's has the same digest.
    Ask,
    /// A range whose digest the peer is told.
    Tell,
    /// A range to be compared with what the peer told.
    Compare,
    /// A block that the peer's disk cannot read any more.
    Heal,
}

impl Kind {
    /// Whether the peer fetches a range.
    pub(super) fn is_fetched(self) -> bool {
        matches!(self, Self::ResyncRead | Self::ResyncCheck(_))
    }

    /// Whether nothing is changed.
    fn is_read(self) -> bool {
        !matches!(self, Self::Write | Self::ResyncWrite)
    }
}

/// Something a peer asked for.
pub(super) struct PeerOp<H: Host> {
    pub(super) peer: NodeId,
    pub(super) session: SessionId,
    /// The round of the negotiation that was decided last when it came.
    pub(super) round: u32,
    pub(super) kind: Kind,
    pub(super) io: Io,
    pub(super) seq: Seq,
    pub(super) arg: u64,
    pub(super) data: Data<H>,
    pub(super) is_running: bool,
    /// The disk could not read it, and is being given what a peer has (see `heal`).
    pub(super) is_healing: bool,
    pub(super) range: Option<RangeId>,
    pub(super) is_range_free: bool,
    pub(super) log: Hold,
}

impl<H: Host> Volume<H> {
    /// The peer's application changed something.
    #[inline(never)]
    pub(super) fn on_peer_write<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        let op = match header.kind {
            PacketKind::Write => Op::Write,
            PacketKind::Discard => Op::Discard,
            _ => Op::WriteZeroes {
                no_unmap: header.flags & FLAG_NO_UNMAP != 0,
            },
        };
        let replication = self.replica(peer).map(|replica| replica.replication);
        let is_mirrored = matches!(
            replication,
            Some(
                ReplicationState::Established
                    | ReplicationState::BitmapTarget
                    | ReplicationState::SyncTarget
            )
        );
        ensure(
            is_mirrored && !cx.facts.is_primary(),
            "the peer sent a write out of turn",
        )?;
        let io = Io {
            op,
            sector: header.sector,
            bytes: header.bytes,
            fua: header.flags & FLAG_FUA != 0,
            preflush: false,
        };
        self.take_data(cx, peer, Kind::Write, io, header, data)
    }

    /// The peer sent a range that was asked for.
    #[inline(never)]
    pub(super) fn on_resync_data<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        let knows_zeroes = |replica: &Replica<H>| replica.round.knows_zeroes;
        let are_zeros = data.is_none() && self.replica(peer).is_some_and(knows_zeroes);
        let io = Io {
            op: match are_zeros {
                true => Op::WriteZeroes { no_unmap: false },
                false => Op::Write,
            },
            sector: header.sector,
            bytes: header.bytes,
            fua: false,
            preflush: false,
        };
        let target = self
            .replica(peer)
            .and_then(|replica| replica.target.as_ref());
        let is_asked_for = target.is_some_and(|target| target.is_outstanding(span_of(&io)));
        ensure(
            is_asked_for,
            "the peer sent resync data that were not asked for",
        )?;
        self.take_data(cx, peer, Kind::ResyncWrite, io, header, data)
    }

    /// Queues data behind everything before it that overlaps.
    fn take_data<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: Kind,
        io: Io,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        ensure(
            self.is_on_disk(io.sector, io.bytes),
            "the peer named a range outside of the device, or not of whole blocks",
        )?;
        ensure(
            data.is_some() == (io.op == Op::Write),
            "the peer sent data of the wrong length",
        )?;
        let entry = Entry {
            seq: header.seq,
            sector: io.sector,
            bytes: io.bytes,
            is_resync: kind == Kind::ResyncWrite,
            is_done: false,
            has_log: false,
        };
        let Some(replica) = self.replica_mut(peer) else {
            return Err(Fault("the peer is not known"));
        };
        ensure(
            replica.received.push(entry),
            "the peer's sequence numbers are out of order",
        )?;
        replica.received_sectors = replica
            .received_sectors
            .saturating_add(u64::from(io.bytes / 512));
        if let Some(disk) = self.disk.as_mut().filter(|_| kind == Kind::Write) {
            disk.superblock.tail_seq = header.seq.0;
        }
        let data = data.map_or(Data::None, Data::Buffer);
        self.insert_op(cx, peer, kind, io, header, data)
    }

    /// The peer, a sync target, wants a range, perhaps unless it has a digest.
    #[inline(never)]
    pub(super) fn on_resync_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        unless: Option<Digest>,
    ) -> Result<(), Fault> {
        let replica = self.replica(peer).ok_or(Fault("the peer is not known"))?;
        let is_source = replica
            .source
            .as_ref()
            .is_some_and(|source| source.pages.is_received);
        ensure(is_source, "the peer asked for resync data out of turn")?;
        let is_aligned = header.sector.0 % 8 == 0 && header.bytes % 4096 == 0;
        let is_on_disk = self.is_on_disk(header.sector, header.bytes);
        ensure(
            is_aligned && is_on_disk,
            "the peer asked for a range outside of the device",
        )?;
        let (kind, op) = match unless {
            None => (Kind::ResyncRead, Op::Read),
            Some(digest) => (Kind::ResyncCheck(digest), Op::Digest),
        };
        let io = Io {
            op,
            sector: header.sector,
            bytes: header.bytes,
            fua: false,
            preflush: false,
        };
        self.insert_op(cx, peer, kind, io, header, Data::None)
    }

    pub(super) fn insert_op<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: Kind,
        io: Io,
        header: &Header,
        data: Data<H>,
    ) -> Result<(), Fault> {
        let line = self.line(peer).ok_or(Fault("the peer has no session"))?;
        let op = PeerOp {
            peer,
            session: line.session,
            round: self
                .replica(peer)
                .map_or(0, |replica| replica.round.decided),
            kind,
            io,
            seq: header.seq,
            arg: header.arg,
            data,
            is_running: false,
            is_healing: false,
            range: None,
            is_range_free: false,
            log: Hold::default(),
        };
        let number = self
            .ops
            .insert(op)
            .map_err(|_| Fault("the peer sent more than there is room for"))?;
        self.recheck |= self.room_for(peer) == 0;
        match kind {
            // Once it is its turn: an application must not wait for what waits for applications.
            kind if kind.is_fetched() => self.serve(cx, peer),
            Kind::Heal if self.orders_writes(&cx.facts) => self.lend(cx, number),
            _ => self.enter_op(cx, number),
        }
        Ok(())
    }

    /// Queues an operation for its range.
    pub(super) fn enter_op<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(op) = self.ops.get_mut(number) else {
            return;
        };
        match self.ranges.enter(span_of(&op.io), Owner::Op(number)) {
            Some(entered) => {
                op.range = Some(entered.id);
                op.is_range_free = entered.is_ready;
            }
            None => self.break_down(cx, "no room for a range"),
        }
        self.advance_op(cx, number);
    }

    /// Looks at everything that waits.
    #[inline(never)]
    pub(super) fn run_ops<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for number in self.ops.numbers() {
            self.advance_op(cx, number);
        }
    }

    /// Starts an operation if nothing is in its way any more.
    pub(super) fn advance_op<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(op) = self.ops.get(number).filter(|op| !op.is_running) else {
            return;
        };
        let (peer, kind, io, seq) = (op.peer, op.kind, op.io, op.seq);
        let is_void = self.is_op_void(op);
        let is_free = match op.is_lent() {
            true => !self.is_being_written(span_of(&io)),
            false => op.is_range_free,
        };
        if is_void || self.disk.is_none() || self.disk_state() == DiskState::Failed {
            self.drop_op(number);
            return;
        }
        let may_run = is_free
            && !self.is_broken
            && match kind {
                Kind::Write => self.may_run_write(number, peer),
                Kind::ResyncWrite | Kind::Ask | Kind::Tell | Kind::Compare | Kind::Heal => true,
                Kind::ResyncRead | Kind::ResyncCheck(_) => self.has_tail_room(),
            };
        if !may_run {
            return;
        }
        match kind {
            Kind::Write => self.prepare_write(cx, peer, &io, seq),
            // Nobody else gets this (G4); a record that makes all equal clears these bits again.
            Kind::ResyncWrite => self.mark_others(NodeSet::of(peer), span_of(&io)),
            Kind::ResyncRead
            | Kind::ResyncCheck(_)
            | Kind::Ask
            | Kind::Tell
            | Kind::Compare
            | Kind::Heal => {}
        }
        let volume = self.id;
        let (Some(disk), Some(op)) = (self.disk.as_mut(), self.ops.get_mut(number)) else {
            return;
        };
        op.is_running = true;
        let is_awaited = kind == Kind::Write && op.arg == u64::from(Protocol::B.number());
        disk.io_pending = disk.io_pending.saturating_add(1);
        let cookie = Work::PeerOp(number).cookie(volume);
        cx.emit(Effect::Disk {
            volume,
            cookie,
            io: Io {
                op: on_disk(io.op),
                ..io
            },
            data: op.data.clone(),
        });
        // INVARIANT: not earlier, since what has not begun is dropped with its session, and the peer may call the write
        // complete (protocol B).
        if is_awaited {
            self.acknowledge(cx, peer, PacketKind::Received, seq);
        }
    }

    /// Whether a peer's write may go to disk: its generation is durable here, and its extents are hot.
    fn may_run_write(&mut self, number: u32, peer: NodeId) -> bool {
        if !self.replica(peer).is_some_and(|replica| replica.accepts) {
            return false;
        }
        let Some(disk) = self.disk.as_ref() else {
            return false;
        };
        if disk.superblock.generation.writer != Some(peer)
            || disk.superblock.written != GenerationId::NONE
        {
            self.condemn(peer, "the peer wrote without a generation of its own");
            return false;
        }
        if !disk.may_hold_data() {
            return false;
        }
        let Some(op) = self.ops.get(number) else {
            return false;
        };
        let (span, mut hold) = (span_of(&op.io), op.log);
        let is_hot = self.heat(span, &mut hold);
        if let Some(op) = self.ops.get_mut(number) {
            op.log = hold;
        }
        is_hot
    }

    /// What has to be noted before a peer's write goes to disk.
    fn prepare_write<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        io: &Io,
        seq: Seq,
    ) {
        let members = self
            .disk
            .as_ref()
            .map(|disk| disk.superblock.generation.members)
            .unwrap_or_default();
        self.mark_others(members.with(peer).with(cx.facts.node), span_of(io));
        self.tail.overtake(span_of(io));
        // A reference for what is remembered of the write, which outlives the operation.
        let is_hot = self.heat(span_of(io), &mut Hold::default());
        if let Some(entry) = self
            .replica_mut(peer)
            .and_then(|replica| replica.received.find(seq))
        {
            entry.has_log = is_hot;
        }
    }

    /// Forgets an operation that never ran.
    pub(super) fn drop_op(&mut self, number: u32) {
        if let Some(op) = self.ops.remove(number) {
            self.end_op(op);
            self.recheck = true;
        }
    }

    fn end_op(&mut self, mut op: PeerOp<H>) {
        self.recheck |= self.healing.lends();
        self.healing.take_back(&op);
        self.leave(op.range.take());
        self.cool(span_of(&op.io), &mut op.log);
    }

    /// Forgets everything of a peer that has not begun and never will: nothing may wait for it.
    pub(super) fn drop_held_ops(&mut self, peer: NodeId) {
        for number in self.ops.numbers() {
            let op = self.ops.get(number);
            if op.is_some_and(|op| op.peer == peer && !op.is_running) {
                self.drop_op(number);
            }
        }
    }

    /// The disk is done with an operation.
    #[inline(never)]
    pub(super) fn on_op_done<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        result: Result<Option<H::Buffer>, DiskError>,
    ) {
        self.finish_op(cx, number, result, Self::answer_op);
    }

    /// A range was digested.
    #[inline(never)]
    pub(super) fn on_op_digested<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        digested: (Digest, H::Buffer),
    ) {
        self.finish_op(cx, number, Ok(digested), Self::on_range_digested);
    }

    fn finish_op<O: Output<H>, T>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        result: Result<T, DiskError>,
        answer: impl FnOnce(&mut Self, &mut Context<'_, H, O>, &PeerOp<H>, T),
    ) {
        if result.is_err() && self.heal_op(cx, number) {
            return;
        }
        let Some(op) = self.ops.remove(number) else {
            self.break_down(cx, "the disk answered for no operation");
            return;
        };
        let is_current = self
            .line(op.peer)
            .is_some_and(|line| line.session == op.session);
        match result {
            Err(DiskError) if op.kind.is_read() && self.is_op_void(&op) => {}
            Err(DiskError) if op.kind == Kind::Heal => self.answer_heal(cx, &op, None),
            Err(DiskError) if op.kind == Kind::Ask && self.may_pass_over(cx.now) => {
                self.ask_by_digest(cx, &op, None);
            }
            Err(DiskError) => self.fail_disk(cx, "the disk reported an error"),
            Ok(_) if !is_current => {}
            Ok(yielded) => answer(self, cx, &op, yielded),
        }
        self.end_op(op);
    }

    fn answer_op<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        buffer: Option<H::Buffer>,
    ) {
        match op.kind {
            Kind::ResyncRead => return self.send_resync_data(cx, op, buffer),
            Kind::Heal => return self.answer_heal(cx, op, buffer),
            _ => {}
        }
        if let Some(replica) = self.replica_mut(op.peer) {
            replica.received.on_done(op.seq);
            // What was fetched before the last decision may be asked for once more.
            let is_asked = op.kind == Kind::ResyncWrite && op.round == replica.round.decided;
            if let Some(target) = replica.target.as_mut().filter(|_| is_asked) {
                target.on_done(span_of(&op.io));
            }
        }
        self.acknowledge(cx, op.peer, PacketKind::Written, op.seq);
    }

    pub(super) fn acknowledge<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: PacketKind,
        seq: Seq,
    ) {
        self.acknowledge_with(cx, peer, kind, seq, &[]);
    }

    fn acknowledge_with<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: PacketKind,
        seq: Seq,
        body: &[u8],
    ) {
        if let Some(line) = self.line(peer) {
            cx.send(
                line,
                Header {
                    seq,
                    ..Header::new(kind, Some(self.id))
                },
                body,
            );
        }
    }

    /// The peer wants everything up to a number to be stable.
    #[inline(never)]
    pub(super) fn on_flush(&mut self, peer: NodeId, seq: Seq) -> Result<(), Fault> {
        let replica = self
            .replica_mut(peer)
            .ok_or(Fault("the peer is not known"))?;
        ensure(
            seq >= replica.received.last(),
            "the peer's sequence numbers are out of order",
        )?;
        replica.received.skip_to(seq);
        replica.flush_wanted = replica.flush_wanted.max(seq);
        self.recheck = true;
        Ok(())
    }

    /// Everything up to a number is stable on all members.
    #[inline(never)]
    pub(super) fn on_trim<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let seq = header.seq;
        let others = NodeId::all().fold(NodeSet::EMPTY, NodeSet::with);
        self.on_ages(body, others.without(cx.facts.node), cx.now)?;
        let stable = self
            .replica(peer)
            .map_or(Seq(0), |replica| replica.received.stable());
        while let Some(entry) = self
            .replica_mut(peer)
            .and_then(|replica| replica.received.pop(seq.min(stable)))
        {
            self.forget_entry(&entry);
        }
        let next = self
            .replica(peer)
            .and_then(|replica| replica.received.first());
        // What is not stable stays, for the end of the session to make bits of it.
        ensure(
            next.is_none_or(|next| next > seq),
            "the peer forgot what is not stable here",
        )
    }

    pub(super) fn forget_entry(&mut self, entry: &Entry) {
        self.cool(
            entry.span(),
            &mut Hold {
                is_held: entry.has_log,
                transaction: 0,
            },
        );
    }

    /// The peer is lost: what is not known to be stable everywhere becomes bits.
    pub(super) fn lose_received(&mut self, peer: NodeId) {
        while let Some(entry) = self
            .replica_mut(peer)
            .and_then(|replica| replica.received.pop(Seq(u64::MAX)))
        {
            let stable = self
                .replica(peer)
                .map_or(Seq(0), |replica| replica.received.stable());
            let span = entry.span();
            if !entry.is_resync {
                // Other survivors may have it or lack it (G5).
                self.mark_others(NodeSet::EMPTY, span);
            } else if entry.seq > stable {
                // The bits of resync data that are stable here were cleared for good.
                if let Some(disk) = self.disk.as_mut() {
                    disk.mark(peer, span);
                }
            }
            self.forget_entry(&entry);
        }
    }

    /// Starts flushes for peers, where it is time.
    #[inline(never)]
    pub(super) fn run_received<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        // Also on a primary, which may have what a former one wrote and never told to forget.
        let needs_log = self.is_starved;
        for peer in self.sessions().iter() {
            if needs_log {
                self.yield_log(peer);
            }
            self.run_adopted(cx, peer);
            let Some(replica) = self.replicas.get_mut(peer.index()).and_then(Option::as_mut) else {
                continue;
            };
            let (done, stable) = (replica.received.done_upto(), replica.received.stable());
            let is_asked = replica.flush_wanted > stable && done >= replica.flush_wanted;
            let is_full = replica.received.len() > RECEIVED_MAX / 2;
            let is_due = is_asked
                || is_full
                || replica
                    .target
                    .as_ref()
                    .is_some_and(|target| target.wants_flush());
            if !is_due || done <= stable || replica.is_flush_running {
                continue;
            }
            let Some(disk) = self.disk.as_mut() else {
                continue;
            };
            replica.is_flush_running = true;
            replica.flushing = Some(done);
            if let Some(target) = &mut replica.target {
                target.on_flush_started();
            }
            disk.io_pending = disk.io_pending.saturating_add(1);
            let cookie = Work::ReceivedFlush(u32::from(peer.get())).cookie(self.id);
            cx.emit(Effect::Disk {
                volume: self.id,
                cookie,
                io: FLUSH,
                data: Data::None,
            });
        }
    }

    /// A flush for a peer is done.
    #[inline(never)]
    pub(super) fn on_received_flushed<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: u32,
        result: Result<(), DiskError>,
    ) {
        self.recheck = true;
        let Some(peer) = NodeId::new(peer) else {
            return;
        };
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        replica.is_flush_running = false;
        let Some(upto) = replica.flushing.take() else {
            return;
        };
        if result.is_err() {
            self.fail_disk(cx, "the disk reported an error");
            return;
        }
        for entry in replica.received.became_stable(upto) {
            if entry.is_resync {
                // INVARIANT: equal to the source's block in this session, and stable (G4).
                disk.unmark(peer, entry.span());
            }
        }
        let ages = self.tells_ages(peer).then(|| self.own_age());
        let body = ages
            .as_ref()
            .map_or(&[][..], |ages| ages.bodies().as_bytes());
        self.acknowledge_with(cx, peer, PacketKind::Stable, upto, body);
    }
}
