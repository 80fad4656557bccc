// SPDX-License-Identifier: GPL-2.0-only

//! Blocks that are read for a peer whose disk cannot (see `heal`).
//!
//! The peer keeps its block from changing until it has the answer, so writes that it was sent wait there, and their
//! acknowledgements with them. INVARIANT: who orders the writes waits for none of those. It lets those end on its own disk
//! that have begun, begins no other one before the answer is on the link, and has no need of a range, which would come
//! behind writes that cannot begin yet. Everybody else answers in the order in which the writes came.

use super::compare::span_of_header;
use super::context::{ensure, Context, Facts, Fault, Line};
use super::heal::Healing;
use super::peer_op::{Kind, PeerOp};
use super::request::{span_of, Request, Stage};
use super::volume::Volume;
use crate::bitmap::SECTORS_PER_BIT;
use crate::effect::Data;
use crate::event::{Io, Op};
use crate::host::{Host, Output};
use crate::ranges::Span;
use weft_uapi::limits::BITMAP_BLOCK_BYTES;
use weft_uapi::units::{NodeId, Seq};
use weft_uapi::wire::{Header, PacketKind, RequestError};

impl Healing {
    /// Whether a peer waits for a block that is not to change meanwhile.
    pub(super) fn lends(&self) -> bool {
        self.lent > 0
    }

    /// What a peer asked for is over.
    pub(super) fn take_back<H: Host>(&mut self, op: &PeerOp<H>) {
        if op.is_lent() {
            self.lent = self.lent.saturating_sub(1);
        }
    }
}

impl<H: Host> PeerOp<H> {
    /// Whether it is read without a range of its own.
    pub(super) fn is_lent(&self) -> bool {
        self.kind == Kind::Heal && self.range.is_none()
    }
}

impl<H: Host> Volume<H> {
    /// Whether nobody needs what a peer asked for any more.
    pub(super) fn is_op_void(&self, op: &PeerOp<H>) -> bool {
        let is_current = |line: Line| line.session == op.session;
        !self.line(op.peer).is_some_and(is_current)
            || self.is_void_digest(op.peer, op.kind, op.seq)
            || self.is_void_read(op)
    }

    /// Whether no other node's writes come to this disk.
    pub(super) fn orders_writes(&self, facts: &Facts) -> bool {
        facts.leaders.without(facts.node).is_empty()
    }

    /// A peer cannot read a block.
    #[inline(never)]
    pub(super) fn on_heal_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let span = span_of_header(header);
        let is_block = span.sector.0 % SECTORS_PER_BIT == 0 && span.bytes <= BITMAP_BLOCK_BYTES;
        ensure(
            is_block && self.is_on_disk(span.sector, span.bytes),
            "the peer asked for a block that is none",
        )?;
        if !self.is_in_lockstep(&cx.facts, peer, span) {
            if let Some(line) = self.line(peer) {
                self.send_block(cx, line, (header.seq, span), Err(RequestError::NoData));
            }
            return Ok(());
        }
        let io = Io {
            op: Op::Read,
            sector: span.sector,
            bytes: span.bytes,
            fua: false,
            preflush: false,
        };
        self.insert_op(cx, peer, Kind::Heal, io, header, Data::None)
    }

    /// Reads a block as soon as nothing changes it.
    pub(super) fn lend<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        self.healing.lent = self.healing.lent.saturating_add(1);
        self.advance_op(cx, number);
    }

    /// Whether a request has to wait for a block to be read for a peer.
    pub(super) fn is_lent(&self, number: u32) -> bool {
        let request = self.requests.get(number).filter(|_| self.healing.lends());
        request.is_some_and(|request| {
            let span = span_of(&request.io);
            let overlaps = |op: &PeerOp<H>| op.is_lent() && span_of(&op.io).overlaps(span);
            self.ops.iter().any(|(_, op)| overlaps(op))
        })
    }

    /// Whether the disk is changing a part of a range.
    pub(super) fn is_being_written(&self, span: Span) -> bool {
        let is_write = |request: &Request<H>| {
            request.stage == Stage::Writing
                && !request.is_local_done
                && span_of(&request.io).overlaps(span)
        };
        let is_change = |op: &PeerOp<H>| {
            op.is_running && op.io.op.changes_data() && span_of(&op.io).overlaps(span)
        };
        self.requests.iter().any(|(_, request)| is_write(request))
            || self.ops.iter().any(|(_, op)| is_change(op))
    }

    /// A block was read for a peer, or could not be.
    pub(super) fn answer_heal<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        buffer: Option<H::Buffer>,
    ) {
        let span = span_of(&op.io);
        let is_current = |line: &Line| line.session == op.session;
        if let Some(line) = self.line(op.peer).filter(is_current) {
            let content = match self.is_in_lockstep(&cx.facts, op.peer, span) {
                true => buffer.ok_or(RequestError::Disk),
                false => Err(RequestError::NoData),
            };
            self.send_block(cx, line, (op.seq, span), content);
        }
    }

    fn send_block<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        line: Line,
        (question, block): (Seq, Span),
        content: Result<H::Buffer, RequestError>,
    ) {
        let mut header = Header::new(PacketKind::HealData, Some(self.id));
        header.seq = question;
        (header.sector, header.bytes) = (block.sector, block.bytes);
        let data = match content {
            Ok(buffer) => Data::Buffer(buffer),
            Err(error) => {
                header.arg = error.number().into();
                Data::None
            }
        };
        cx.send_data(line, header, data);
    }
}
