// SPDX-License-Identifier: GPL-2.0-only

//! Requests that one node has and another one carries out.
//!
//! On the client a request is *carried* from the moment it was sent until the server answers, or is lost; then it is held
//! again, for the next server. On the server it is a request like those of its own applications, but for where its data
//! are and whom it is answered to. What was begun for a client that is gone is finished for nobody: until all members have
//! it, it could disappear again, so no other application may be shown it before ([`Volume::may_show`]).

use super::context::{ensure, Context, Fault, Line};
use super::disk::Disk;
use super::request::{span_of, Origin, Request, Stage};
use super::volume::Volume;
use crate::effect::{Data, IoError};
use crate::event::{Io, Op};
use crate::host::{Host, Output};
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{GenerationId, NodeId, Sector, Seq};
use weft_uapi::wire::{Header, PacketKind, RequestError, FLAG_FUA, FLAG_NO_UNMAP, FLAG_PREFLUSH};

/// Requests of one client's volume that are carried at the same time.
pub(super) const CARRIED_MAX: u32 = 64;

/// The packet that carries a request.
fn header_of(op: Op) -> PacketKind {
    match op {
        // No application asks for a digest.
        Op::Read | Op::Digest => PacketKind::ReadRequest,
        Op::Write => PacketKind::ClientWrite,
        Op::Flush => PacketKind::ClientFlush,
        Op::Discard => PacketKind::ClientDiscard,
        Op::WriteZeroes { .. } => PacketKind::ClientWriteZeroes,
    }
}

fn flags_of(io: &Io) -> u16 {
    let flags = [
        (io.fua, FLAG_FUA),
        (io.preflush, FLAG_PREFLUSH),
        (io.op == Op::WriteZeroes { no_unmap: true }, FLAG_NO_UNMAP),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    set.fold(0, |all, (_, flag)| all | flag)
}

/// What a client asks for; `None`: the packet carries no request.
fn io_of(header: &Header) -> Option<Io> {
    let has = |flag: u16| header.flags & flag != 0;
    let op = match header.kind {
        PacketKind::ReadRequest => Op::Read,
        PacketKind::ClientWrite => Op::Write,
        PacketKind::ClientFlush => Op::Flush,
        PacketKind::ClientDiscard => Op::Discard,
        PacketKind::ClientWriteZeroes => Op::WriteZeroes {
            no_unmap: has(FLAG_NO_UNMAP),
        },
        _ => return None,
    };
    let is_flush = op == Op::Flush;
    Some(Io {
        op,
        sector: if is_flush { Sector(0) } else { header.sector },
        bytes: if is_flush { 0 } else { header.bytes },
        fua: has(FLAG_FUA),
        preflush: has(FLAG_PREFLUSH),
    })
}

impl<H: Host> Request<H> {
    /// On which peer its application is; none: on this node.
    fn client(&self) -> Option<NodeId> {
        match &self.origin {
            Origin::Own(_) => None,
            Origin::Client { line, .. } => Some(line.peer),
        }
    }
}

impl<H: Host> Volume<H> {
    /// Takes a request of this client's application as far as it goes.
    pub(super) fn advance_client<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        // A person may have said that nothing is to begin.
        let server = cx.facts.server.filter(|_| !cx.facts.is_suspended);
        let Some(line) = server.and_then(|server| self.line(server)) else {
            return;
        };
        let Some(request) = self.requests.get(number) else {
            return;
        };
        let io = request.io;
        if io.op == Op::Read && !request.has_failed && self.reads_here(line.peer) {
            return self.start_read(cx, number);
        }
        let is_blocked = io.op.changes_data() && !request.is_range_free;
        let is_full = self.carried >= CARRIED_MAX;
        self.is_starved |= is_full;
        if !is_blocked && !is_full {
            self.carry(cx, line, number);
        }
    }

    /// Whether this disk has what the server has, and all of that may be shown: what a server without majority has it may
    /// show to nobody.
    pub(super) fn reads_here(&self, server: NodeId) -> bool {
        let is_in_force = |disk: &Disk<H>| disk.ancestry().written_before() == GenerationId::NONE;
        let is_equal = self.replica(server).is_some_and(|replica| {
            replica.replication == ReplicationState::Established && replica.accepts
        });
        is_equal
            && self.has_running_disk()
            && self.disk.as_ref().is_some_and(is_in_force)
            && self.disk_state() == DiskState::UpToDate
            && !self.is_negotiating()
    }

    fn carry<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, line: Line, number: u32) {
        let answered = Seq(self.exposure.answered);
        let Some(request) = self.requests.get_mut(number) else {
            return;
        };
        let Origin::Own(handle) = &request.origin else {
            return;
        };
        request.stage = Stage::Carried;
        request.flush_upto = answered;
        self.carried = self.carried.saturating_add(1);
        let io = request.io;
        let mut header = Header::new(header_of(io.op), Some(self.id));
        header.flags = flags_of(&io);
        header.seq = Seq(number.into());
        (header.sector, header.bytes) = (io.sector, io.bytes);
        let data = match io.op {
            Op::Write => Data::Request(handle.clone()),
            _ => Data::None,
        };
        let sectors = u64::from(io.bytes / 512);
        if io.op == Op::Read {
            self.read_sectors = self.read_sectors.saturating_add(sectors);
        } else {
            self.written_sectors = self.written_sectors.saturating_add(sectors);
        }
        cx.send_data(line, header, data);
    }

    /// The server answers a request.
    #[inline(never)]
    pub(super) fn on_carried<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        if cx.facts.server != Some(peer) {
            // It serves no more, and the request is on its way to somebody else.
            return Ok(());
        }
        let unknown = Fault("the peer answered what it was not asked");
        let number = u32::try_from(header.seq.0).map_err(|_| unknown)?;
        let request = self
            .requests
            .get(number)
            .filter(|request| request.stage == Stage::Carried)
            .ok_or(unknown)?;
        let (io, mark) = (request.io, request.flush_upto.0);
        let is_read = header.kind == PacketKind::ReadReply;
        ensure(
            (io.op == Op::Read) == is_read,
            "the peer answered another request",
        )?;
        let result = match u32::try_from(header.arg).map_err(|_| unknown)? {
            0 => Ok(()),
            error => Err(RequestError::from_number(error).ok_or(unknown)?.into()),
        };
        if is_read && result.is_ok() {
            ensure(
                data.is_some() && header.bytes == io.bytes,
                "the peer answered a read with less than was asked for",
            )?;
        }
        if result.is_ok() && io.op.changes_data() {
            self.exposure.answered = self.exposure.answered.saturating_add(1);
        }
        if result.is_ok() && (io.op == Op::Flush || io.preflush) {
            self.exposure.flushed = self.exposure.flushed.max(mark);
        }
        self.carried = self.carried.saturating_sub(1);
        self.complete(cx, number, result, data);
        Ok(())
    }

    /// Nobody carries anything out now: all is to be asked again.
    pub(super) fn end_service(&mut self) {
        self.server = None;
        self.carried = 0;
        for request in self.requests.iter_mut() {
            if request.stage == Stage::Carried {
                request.stage = Stage::Held;
            }
        }
        self.recheck = true;
    }

    /// The ranges of requests that wait go over to those of a client, or back. Requests that were not answered may come to
    /// the disks in any order; those that are under way here keep their place.
    pub(super) fn move_ranges<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for number in self.requests.numbers() {
            let request = self.requests.get_mut(number);
            let Some(request) = request.filter(|request| request.stage == Stage::Held) else {
                continue;
            };
            let Some(range) = request.range.take() else {
                continue;
            };
            let io = request.io;
            match request.is_clients {
                true => self.client_ranges.leave(range),
                false => self.ranges.leave(range),
            };
            self.enter_range(cx, number, io);
        }
        self.recheck = true;
    }

    /// The application has to end: nothing that it asked for will be done.
    pub(super) fn fail_carried<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.end_service();
        for number in self.requests.numbers() {
            let is_held = |request: &Request<H>| request.stage == Stage::Held;
            if self.requests.get(number).is_some_and(is_held) {
                self.complete(cx, number, Err(IoError::NoData), None);
            }
        }
    }

    /// A client asks for something.
    #[inline(never)]
    pub(super) fn on_client_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        if !cx.facts.clients.contains(peer) {
            // It was sent before the end of the service was heard of, and is asked again of the next server.
            return Ok(());
        }
        let line = self.line(peer).ok_or(Fault("the peer has no session"))?;
        let io = io_of(header).ok_or(Fault("the peer asked for nothing"))?;
        ensure(
            (io.op == Op::Write) == data.is_some(),
            "the peer sent a write without data, or data without a write",
        )?;
        let is_theirs = |request: &Request<H>| request.is_of(peer);
        let theirs = self
            .requests
            .iter()
            .filter(|(_, request)| is_theirs(request));
        ensure(
            theirs.count() < CARRIED_MAX as usize,
            "the peer asked for more at once than there is room for",
        )?;
        let origin = Origin::Client {
            line,
            number: header.seq,
            data,
        };
        self.take_request(cx, origin, io);
        Ok(())
    }

    /// Answers a client's request that is done.
    pub(super) fn answer_client<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        line: Line,
        (number, io): (Seq, Io),
        result: Result<(), IoError>,
        data: Option<H::Buffer>,
    ) {
        if self.line(line.peer) != Some(line) {
            return;
        }
        let kind = match io.op {
            Op::Read => PacketKind::ReadReply,
            _ => PacketKind::ClientDone,
        };
        let mut header = Header::new(kind, Some(self.id));
        header.seq = number;
        match result {
            Ok(()) if io.op == Op::Read => (header.sector, header.bytes) = (io.sector, io.bytes),
            Ok(()) => {}
            Err(error) => header.arg = RequestError::from(error).number().into(),
        }
        let data = data.filter(|_| result.is_ok());
        cx.send_data(line, header, data.map_or(Data::None, Data::Buffer));
    }

    /// A client is gone: what was not begun for it never will be, and the rest is finished for nobody.
    pub(super) fn drop_carried(&mut self, peer: NodeId) {
        for number in self.requests.numbers() {
            let is_idle =
                |request: &Request<H>| request.is_of(peer) && request.stage == Stage::Held;
            if self.requests.get(number).is_some_and(is_idle) {
                self.forget_request(number);
            }
        }
        self.recheck = true;
    }

    /// Whether something that a peer asked for as a client is not finished.
    pub(super) fn works_for(&self, peer: NodeId) -> bool {
        self.requests.iter().any(|(_, request)| request.is_of(peer))
    }

    /// Whether a read would show nothing that another application has under way.
    pub(super) fn may_show(&mut self, number: u32) -> bool {
        let Some(read) = self.requests.get(number).filter(|_| self.theirs > 0) else {
            return true;
        };
        let is_shown = |write: &Request<H>| {
            write.stage == Stage::Writing
                && write.client() != read.client()
                && span_of(&write.io).overlaps(span_of(&read.io))
        };
        let may_show = !self.requests.iter().any(|(_, write)| is_shown(write));
        self.is_starved |= !may_show;
        may_show
    }

    /// Whether a request is of a client that is gone.
    pub(super) fn is_orphan(&self, request: &Request<H>) -> bool {
        match &request.origin {
            Origin::Own(_) => false,
            Origin::Client { line, .. } => self.line(line.peer) != Some(*line),
        }
    }
}
