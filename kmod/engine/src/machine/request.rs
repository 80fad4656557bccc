// SPDX-License-Identifier: GPL-2.0-only

//! Requests of the application on the primary.
//!
//! ```text
//!          flush, preflush        enough members are stable
//! Held --------------------> Flushing ---------------------> (flush: complete) (write: Held again)
//!   |  gate open, range free, extents hot                 local disk and enough members have it
//!   +--------------------------------------------> Writing --------------------------------> complete
//!   |  read                        local disk, else a peer, has answered
//!   +----------------------------> Reading --------------------------------> complete
//!   ^                                 | the disk cannot read it
//!   +--------------------------- Healing
//! ```

use super::congestion::UNACKED_BYTES_MAX;
use super::context::{Context, Line};
use super::cookie::Work;
use super::disk::Disk;
use super::hold::Hold;
use super::replica::Replica;
use super::volume::{Owner, Volume, PEER_OPS};
use crate::effect::{Data, Effect, IoError};
use crate::event::{DiskError, Io, Op};
use crate::host::{Host, Output, Time};
use crate::quorum::OnNoQuorum;
use crate::ranges::{RangeId, Span};
use crate::tail::Kind;
use weft_uapi::state::{DiskState, Protocol};
use weft_uapi::units::{NodeId, NodeSet, Seq};
use weft_uapi::wire::{Header, PacketKind, FLAG_FUA, FLAG_NO_UNMAP};

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// A write or flush that has not begun.
    Held,
    /// The flush is under way.
    Flushing,
    /// The data are under way.
    Writing,
    /// The read is under way.
    Reading,
    /// The disk could not read it, and is being given what a peer has (see `heal`).
    Healing,
    /// The server has it.
    Carried,
}

/// Whose request it is.
pub(super) enum Origin<H: Host> {
    /// An application on this node.
    Own(H::Request),
    /// An application on a peer that is served here.
    Client {
        /// Where it came from.
        line: Line,
        /// The peer's number of it.
        number: Seq,
        /// What is to be written.
        data: Option<H::Buffer>,
    },
}

impl<H: Host> Origin<H> {
    /// Where the data of a write are.
    fn data(&self) -> Data<H> {
        match self {
            Self::Own(handle) => Data::Request(handle.clone()),
            Self::Client { data, .. } => data.clone().map_or(Data::None, Data::Buffer),
        }
    }
}

/// A request of the application.
pub(super) struct Request<H: Host> {
    pub(super) origin: Origin<H>,
    pub(super) io: Io,
    /// When it came.
    pub(super) since: Time,
    pub(super) stage: Stage,
    pub(super) range: Option<RangeId>,
    pub(super) is_range_free: bool,
    /// Its range is among those of a client ([`Volume::client_ranges`]).
    pub(super) is_clients: bool,
    pub(super) log: Hold,
    /// Its number in the tail; 0: no peer got it.
    pub(super) seq: Seq,
    /// The flush demands that everything up to here is stable on every member.
    pub(super) flush_upto: Seq,
    /// The local flush covers the tail up to here.
    pub(super) local_upto: Seq,
    /// The local disk is done with it.
    pub(super) is_local_done: bool,
    /// Peers that it was sent to in their current session.
    pub(super) sent: NodeSet,
    /// Peers that have it, as far as the protocol demands.
    pub(super) acked: NodeSet,
    /// An error of the disk, or the disk was given up meanwhile.
    pub(super) has_failed: bool,
    /// What the disk read for a client.
    pub(super) buffer: Option<H::Buffer>,
}

impl<H: Host> Request<H> {
    fn new(origin: Origin<H>, io: Io, since: Time) -> Self {
        Self {
            origin,
            io,
            since,
            stage: Stage::Held,
            range: None,
            is_range_free: false,
            is_clients: false,
            log: Hold::default(),
            seq: Seq(0),
            flush_upto: Seq(0),
            local_upto: Seq(0),
            is_local_done: false,
            sent: NodeSet::EMPTY,
            acked: NodeSet::EMPTY,
            has_failed: false,
            buffer: None,
        }
    }

    /// As if it had not begun. What a read found out of this disk stays known.
    pub(super) fn ask_again(&mut self) {
        self.stage = Stage::Held;
        self.seq = Seq(0);
        self.is_local_done = false;
        (self.sent, self.acked) = (NodeSet::EMPTY, NodeSet::EMPTY);
        self.has_failed &= self.io.op == Op::Read;
    }

    /// Whether it is of an application on this peer.
    pub(super) fn is_of(&self, peer: NodeId) -> bool {
        matches!(&self.origin, Origin::Client { line, .. } if line.peer == peer)
    }
}

/// A discard is carried out as zeroing, so that replicas on different disks stay equal.
pub(super) fn on_disk(op: Op) -> Op {
    match op {
        Op::Discard => Op::WriteZeroes { no_unmap: false },
        op => op,
    }
}

pub(super) fn span_of(io: &Io) -> Span {
    Span {
        sector: io.sector,
        bytes: io.bytes,
    }
}

impl<H: Host> Volume<H> {
    /// Takes a request of the application.
    #[inline(never)]
    pub(super) fn on_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        handle: H::Request,
        io: Io,
    ) {
        self.take_request(cx, Origin::Own(handle), io);
    }

    /// Takes a request of this node's application or a client's.
    pub(super) fn take_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        origin: Origin<H>,
        io: Io,
    ) {
        // A promotion may yet be refused, and then nobody would fail what had come before it.
        let is_serving = cx.facts.is_primary() || cx.facts.is_served_once;
        let refused = if !is_serving || self.sectors() == 0 {
            Some(IoError::NoData)
        } else if io.op != Op::Flush && !self.is_on_device(io.sector, io.bytes) {
            Some(IoError::Range)
        } else {
            None
        };
        if let Some(error) = refused {
            self.answer(cx, origin, io, Err(error), None);
            return;
        }
        let theirs = u32::from(matches!(origin, Origin::Client { .. }));
        match self.requests.insert(Request::new(origin, io, cx.now)) {
            Ok(number) => {
                self.theirs = self.theirs.saturating_add(theirs);
                self.enter_range(cx, number, io);
                self.advance_request(cx, number);
            }
            Err(request) => {
                self.break_down(cx, "a request came without room for it");
                self.answer(cx, request.origin, io, Err(IoError::NoData), None);
            }
        }
    }

    /// Queues a write behind everything that overlaps it.
    pub(super) fn enter_range<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        io: Io,
    ) {
        if !io.op.changes_data() {
            return;
        }
        let is_clients = cx.facts.is_client;
        let ranges = match is_clients {
            true => &mut self.client_ranges,
            false => &mut self.ranges,
        };
        let entered = ranges.enter(span_of(&io), Owner::Request(number));
        match (entered, self.requests.get_mut(number)) {
            (Some(entered), Some(request)) => {
                request.is_clients = is_clients;
                request.range = Some(entered.id);
                request.is_range_free = entered.is_ready;
            }
            _ => self.break_down(cx, "no room for a range"),
        }
    }

    /// Looks at all requests that wait.
    #[inline(never)]
    pub(super) fn run_requests<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for number in self.requests.numbers() {
            self.advance_request(cx, number);
        }
    }

    /// Takes one request as far as it goes.
    pub(super) fn advance_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
    ) {
        // Flushing leads back to Held once.
        for _ in 0..3 {
            let Some(request) = self.requests.get(number) else {
                return;
            };
            let before = request.stage;
            match before {
                Stage::Held => self.advance_held(cx, number),
                Stage::Flushing => self.advance_flushing(cx, number),
                Stage::Writing => self.advance_writing(cx, number),
                Stage::Reading => self.advance_reading(cx, number),
                Stage::Healing | Stage::Carried => {}
            }
            if self
                .requests
                .get(number)
                .is_none_or(|request| request.stage == before)
            {
                return;
            }
        }
    }

    fn advance_held<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(request) = self.requests.get(number) else {
            return;
        };
        let io = request.io;
        if self.is_broken {
            return;
        }
        if self.is_orphan(request) {
            return self.forget_request(number);
        }
        if cx.facts.is_client {
            return self.advance_client(cx, number);
        }
        if self.hands_over {
            return;
        }
        if self.is_doomed(cx) {
            self.complete(cx, number, Err(IoError::NoQuorum), None);
            return;
        }
        if matches!(self.disk_state(), DiskState::Failed | DiskState::Diskless) {
            self.fail_request(cx, number);
        } else if cx.facts.is_suspended {
            // A person said so.
        } else if self.lacks_quorum(cx) {
            // Another majority may have written meanwhile.
        } else if io.op == Op::Read {
            if self.may_show(number) {
                self.start_read(cx, number);
            }
        } else if io.op == Op::Flush || io.preflush {
            self.start_flush(cx, number);
        } else if self.may_write(cx, number) {
            self.start_write(cx, number, io);
        }
    }

    pub(super) fn start_read<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        if self.disk_state() != DiskState::UpToDate {
            self.complete(cx, number, Err(IoError::NoData), None);
            return;
        }
        let volume = self.id;
        let (Some(disk), Some(request)) = (self.disk.as_mut(), self.requests.get_mut(number))
        else {
            return;
        };
        request.stage = Stage::Reading;
        self.read_sectors = self
            .read_sectors
            .saturating_add(u64::from(request.io.bytes / 512));
        disk.io_pending = disk.io_pending.saturating_add(1);
        (request.is_local_done, request.has_failed) = (false, false);
        let data = match &request.origin {
            Origin::Own(handle) => Data::Request(handle.clone()),
            Origin::Client { .. } => Data::None,
        };
        cx.emit(Effect::Disk {
            volume,
            cookie: Work::Request(number).cookie(volume),
            io: request.io,
            data,
        });
    }

    fn advance_reading<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(request) = self
            .requests
            .get_mut(number)
            .filter(|request| request.is_local_done)
        else {
            return;
        };
        let buffer = request.buffer.take();
        if !request.has_failed {
            self.complete(cx, number, Ok(()), buffer);
        } else {
            self.fail_request(cx, number);
        }
    }

    /// Whether it is not known by a majority of the voters that this node goes on without the members that it lost, or those
    /// are yet to be fenced.
    pub(super) fn lacks_quorum<O: Output<H>>(&self, cx: &Context<'_, H, O>) -> bool {
        let is_unsure = self.stalled.is_some()
            || self.wants_vote
            || !self.lost_members(cx.facts.node).is_empty();
        !cx.facts.held_by.is_empty() || (cx.facts.quorum.is_on() && is_unsure)
    }

    /// Whether requests that wait are to fail.
    pub(super) fn is_doomed<O: Output<H>>(&self, cx: &Context<'_, H, O>) -> bool {
        let has_no_quorum = self.stalled.is_some() && cx.facts.quorum.on_lost == OnNoQuorum::Fail;
        self.is_overtaken || has_no_quorum
    }

    /// Members that get no writes: no write or flush is complete before a record without them is durable (G2).
    ///
    /// One that gets writes but lacks earlier ones, an unfinished target, is as good as lost.
    pub(super) fn lost_members(&self, node: NodeId) -> NodeSet {
        NodeSet(self.required.without(node).0 & !self.whole().0)
    }

    /// Whether nothing but the request itself keeps a write from starting; sees to what does.
    fn may_write<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) -> bool {
        if !self.is_writable(cx) {
            return false;
        }
        let is_free = self
            .requests
            .get(number)
            .is_some_and(|request| request.is_range_free);
        is_free && !self.is_lent(number) && self.heat_request(number) && self.has_tail_room()
    }

    /// Whether the state of the volume lets writes start at all.
    fn is_writable<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) -> bool {
        let may_hold_data = self.disk.as_ref().is_some_and(Disk::may_hold_data);
        if self.disk_state() != DiskState::UpToDate
            || self.change.is_some()
            || !may_hold_data
            || self.is_negotiating()
        {
            return false;
        }
        if !self.lost_members(cx.facts.node).is_empty() {
            self.wants_shrink = true;
            self.recheck = true;
            return false;
        }
        let is_congested = |bytes: u64| bytes >= UNACKED_BYTES_MAX;
        let is_sent = |replica: &Replica<H>| replica.receives && !replica.is_skipped();
        !self
            .each_replica()
            .any(|(_, replica)| is_sent(replica) && is_congested(replica.unacked_bytes))
    }

    pub(super) fn has_tail_room(&mut self) -> bool {
        if self.tail.is_nearly_full() {
            self.tail_flush.is_wanted = true;
        }
        // Ranges being read for a resync need a place each when they are sent.
        let has_room = self.tail.len().saturating_add(PEER_OPS as usize) < self.tail.capacity();
        self.is_starved |= !has_room;
        has_room
    }

    fn heat_request(&mut self, number: u32) -> bool {
        let Some(request) = self.requests.get(number) else {
            return false;
        };
        let (span, mut hold) = (span_of(&request.io), request.log);
        let is_hot = self.heat(span, &mut hold);
        if let Some(request) = self.requests.get_mut(number) {
            request.log = hold;
        }
        is_hot
    }

    /// Starts a write whose extents are hot: bits first, then the packets, then the local disk.
    fn start_write<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32, io: Io) {
        let (node, volume, span) = (cx.facts.node, self.id, span_of(&io));
        let receivers = self.mirrors();
        // INVARIANT: whoever does not get this write has a bit for it before it can differ (G4).
        self.mark_others(receivers.with(node), span);
        if receivers != self.receivers() {
            self.tail.overtake(span);
        }
        let mut seq = Seq(0);
        if !receivers.is_empty() {
            // A second reference for the tail, which may outlive the request.
            self.heat(span, &mut Hold::default());
            seq = self
                .tail
                .push(
                    Kind::Write,
                    io.sector,
                    io.bytes,
                    receivers.with(node),
                    Some(number),
                )
                .unwrap_or_default();
        }
        self.tail_flush.last_write = cx.now;
        self.written_sectors = self
            .written_sectors
            .saturating_add(u64::from(io.bytes / 512));
        let Some(data) = self.requests.get_mut(number).map(|request| {
            request.stage = Stage::Writing;
            request.seq = seq;
            request.sent = receivers;
            // What has to be stable waits for the peers whatever the protocol.
            if cx.facts.protocol == Protocol::A && !io.fua {
                request.acked = receivers;
            }
            match io.op {
                Op::Write => request.origin.data(),
                _ => Data::None,
            }
        }) else {
            return;
        };
        self.send_write(cx, receivers, io, seq, &data);
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        disk.io_pending = disk.io_pending.saturating_add(1);
        let io = Io {
            op: on_disk(io.op),
            preflush: false,
            ..io
        };
        cx.emit(Effect::Disk {
            volume,
            cookie: Work::Request(number).cookie(volume),
            io,
            data,
        });
    }

    fn send_write<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        receivers: NodeSet,
        io: Io,
        seq: Seq,
        data: &Data<H>,
    ) {
        let kind = match io.op {
            Op::Discard => PacketKind::Discard,
            Op::WriteZeroes { .. } => PacketKind::WriteZeroes,
            _ => PacketKind::Write,
        };
        let mut header = Header::new(kind, Some(self.id));
        (header.seq, header.sector, header.bytes) = (seq, io.sector, io.bytes);
        header.arg = cx.facts.protocol.number().into();
        header.term = self.term();
        if io.fua {
            header.flags |= FLAG_FUA;
        }
        if (io.op == Op::WriteZeroes { no_unmap: true }) {
            header.flags |= FLAG_NO_UNMAP;
        }
        for peer in receivers.iter() {
            if let Some(line) = self.line(peer) {
                cx.send_data(line, header, data.clone());
            }
            if let Some(replica) = self.replica_mut(peer) {
                replica.count_sent(io.bytes);
                replica.keeping.on_sent(seq, io.bytes, cx.now);
            }
        }
    }

    /// The local disk is done with a request.
    #[inline(never)]
    pub(super) fn on_request_done<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        result: Result<Option<H::Buffer>, DiskError>,
    ) {
        if result.is_err() && self.heal_request(cx, number) {
            return;
        }
        let Some(request) = self.requests.get_mut(number) else {
            self.break_down(cx, "the disk answered for no request");
            return;
        };
        let (result, buffer) = match result {
            Ok(buffer) => (Ok(()), buffer),
            Err(error) => (Err(error), None),
        };
        request.is_local_done = true;
        request.buffer = buffer;
        request.has_failed |= result.is_err();
        let (io, stage, seq) = (request.io, request.stage, request.seq);
        if result.is_err() {
            self.fail_disk(cx, "the disk reported an error");
        }
        match stage {
            Stage::Writing => {
                let range = self
                    .requests
                    .get_mut(number)
                    .and_then(|request| request.range.take());
                self.leave(range);
                self.recheck |= self.healing.lends();
                if seq != Seq(0) && result.is_ok() {
                    let stable = io.fua;
                    // Not in the tail any more: every peer was lost meanwhile.
                    let _ = self.tail.on_written(cx.facts.node, seq, stable);
                }
                let mut hold = self
                    .requests
                    .get_mut(number)
                    .map(|request| core::mem::take(&mut request.log))
                    .unwrap_or_default();
                self.cool(span_of(&io), &mut hold);
            }
            Stage::Flushing if result.is_ok() => {
                let upto = self
                    .requests
                    .get(number)
                    .map_or(Seq(0), |request| request.local_upto);
                self.on_stable_here(cx, upto);
            }
            _ => {}
        }
        self.advance_request(cx, number);
    }

    fn advance_writing<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(request) = self
            .requests
            .get(number)
            .filter(|request| request.is_local_done)
        else {
            return;
        };
        // Once others are to carry the requests out, this node does not count who has them.
        if request.has_failed || cx.facts.is_client {
            return self.fail_request(cx, number);
        }
        if self.is_doomed(cx) {
            self.complete(cx, number, Err(IoError::NoQuorum), None);
            return;
        }
        let missing = NodeSet(self.required.without(cx.facts.node).0 & !request.acked.0);
        if missing.is_empty() && !self.is_broken {
            self.complete(cx, number, Ok(()), None);
        } else if !self.lost_members(cx.facts.node).is_empty() && !self.wants_shrink {
            self.wants_shrink = true;
            self.recheck = true;
        }
    }

    /// The disk is gone: what waits for it, or for a record that it cannot carry any more, is not complete. A client asks
    /// again elsewhere.
    pub(super) fn fail_requests<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if cx.facts.is_client {
            return;
        }
        for number in self.requests.numbers() {
            self.fail_request(cx, number);
        }
    }

    /// This disk cannot do what a request asks for. A client asks again elsewhere.
    pub(super) fn fail_request<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        match self.requests.get(number).map(|request| &request.origin) {
            Some(Origin::Own(_)) if cx.facts.is_client || self.hands_over => {
                self.ask_elsewhere(cx, number);
            }
            Some(Origin::Own(_)) => self.complete(cx, number, Err(IoError::Disk), None),
            Some(Origin::Client { .. }) => self.forget_request(number),
            None => {}
        }
    }

    /// Completes a request and forgets it.
    pub(super) fn complete<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        result: Result<(), IoError>,
        data: Option<H::Buffer>,
    ) {
        if let Some(request) = self.take_out(number) {
            self.load.count(request.since, cx.now);
            self.answer(cx, request.origin, request.io, result, data);
        }
    }

    /// Forgets a request that nobody waits for.
    pub(super) fn forget_request(&mut self, number: u32) {
        self.take_out(number);
    }

    fn take_out(&mut self, number: u32) -> Option<Request<H>> {
        let mut request = self.requests.remove(number)?;
        if let Some(range) = request.range.take_if(|_| request.is_clients) {
            self.client_ranges.leave(range);
        }
        if matches!(request.origin, Origin::Client { .. }) {
            self.theirs = self.theirs.saturating_sub(1);
        }
        self.leave(request.range.take());
        self.cool(span_of(&request.io), &mut request.log);
        self.feed_starved();
        Some(request)
    }

    fn answer<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        origin: Origin<H>,
        io: Io,
        result: Result<(), IoError>,
        data: Option<H::Buffer>,
    ) {
        match origin {
            Origin::Own(request) => cx.emit(Effect::Complete {
                request,
                result,
                data,
            }),
            Origin::Client { line, number, .. } => {
                self.answer_client(cx, line, (number, io), result, data);
            }
        }
    }

    /// A peer has a write, as far as the protocol demands.
    #[inline(never)]
    pub(super) fn on_request_acked<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        number: u32,
        seq: Seq,
        peer: NodeId,
    ) {
        // The slot may have been given to another request since.
        if let Some(request) = self
            .requests
            .get_mut(number)
            .filter(|request| request.seq == seq)
        {
            request.acked = request.acked.with(peer);
            self.advance_request(cx, number);
        }
    }
}
