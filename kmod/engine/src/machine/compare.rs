// SPDX-License-Identifier: GPL-2.0-only

//! What two nodes say to each other in a verify, and the digests that they make of their disks for it.

use super::context::{ensure, Context, Fault};
use super::peer_op::{Kind, PeerOp};
use super::request::span_of;
use super::verify_run::{Part, Reach, Verify};
use super::volume::{Volume, PEER_OPS};
use crate::bitmap::SECTORS_PER_BIT;
use crate::effect::Data;
use crate::event::{Io, Op};
use crate::host::{Host, Output};
use crate::ranges::Span;
use weft_uapi::limits::BITMAP_BLOCK_BYTES;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::VerifyState;
use weft_uapi::status::SectorRange;
use weft_uapi::units::{NodeId, Seq};
use weft_uapi::wire::{Digest, Header, PacketKind, FLAG_YES};

const MALFORMED: &str = "the peer named a range to be compared that is none";

impl<H: Host> Volume<H> {
    /// Whether there is room beside what the peers send.
    pub(super) fn has_room_for_digests(&self) -> bool {
        self.ops.room() > PEER_OPS as usize / 2
    }

    /// Has a range digested that is to be told, once nobody changes it.
    pub(super) fn digest<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        run: Seq,
        span: Span,
    ) {
        let mut header = Header::new(PacketKind::VerifyDigest, Some(self.id));
        (header.seq, header.sector, header.bytes) = (run, span.sector, span.bytes);
        if self.insert_digest(cx, peer, Kind::Tell, &header).is_err() {
            self.break_down(cx, "no room for a digest");
        }
    }

    pub(super) fn insert_digest<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: Kind,
        header: &Header,
    ) -> Result<(), Fault> {
        let io = Io {
            op: Op::Digest,
            sector: header.sector,
            bytes: header.bytes,
            fua: false,
            preflush: false,
        };
        self.insert_op(cx, peer, kind, io, header, Data::None)
    }

    /// Whether a digest is of no use any more.
    pub(super) fn is_void_digest(&self, peer: NodeId, kind: Kind, run: Seq) -> bool {
        let part = match kind {
            Kind::Tell => Part::Teller,
            Kind::Compare => Part::Comparer,
            Kind::Write
            | Kind::ResyncWrite
            | Kind::ResyncRead
            | Kind::ResyncCheck(_)
            | Kind::Ask
            | Kind::Heal => return false,
        };
        !self.verify(peer).is_some_and(|it| it.is_run(part, run))
    }

    /// A range was digested, and is still held.
    pub(super) fn on_range_digested<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        (digest, data): (Digest, H::Buffer),
    ) {
        if self.is_void_digest(op.peer, op.kind, op.seq) {
            return;
        }
        match op.kind {
            Kind::Tell => self.tell(cx, op, digest),
            Kind::Compare => self.compare(cx, op, digest),
            Kind::Ask => self.ask_by_digest(cx, op, Some(digest)),
            Kind::ResyncCheck(told) if told == digest && !self.has_skipped(op.peer) => {
                self.send_resync_equal(cx, op);
            }
            Kind::ResyncCheck(_) => self.send_resync_data(cx, op, Some(data)),
            Kind::Write | Kind::ResyncWrite | Kind::ResyncRead | Kind::Heal => {
                self.break_down(cx, "a digest came for no range");
            }
        }
    }

    fn tell<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, op: &PeerOp<H>, digest: Digest) {
        let (line, id) = (self.line(op.peer), self.id);
        let verify = self.verify_mut(op.peer);
        let (Some(line), Some(verify)) = (line, verify) else {
            return;
        };
        if verify.on_told(span_of(&op.io)) {
            let mut header = Header::new(PacketKind::VerifyDigest, Some(id));
            (header.seq, header.arg) = (op.seq, verify.upto);
            (header.sector, header.bytes) = (op.io.sector, op.io.bytes);
            cx.send(line, header, &digest);
        }
    }

    fn compare<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, op: &PeerOp<H>, own: Digest) {
        let (line, id, span) = (self.line(op.peer), self.id, span_of(&op.io));
        let told = self.verify_mut(op.peer).and_then(|it| it.take_told(span));
        let (Some(line), Some(told)) = (line, told) else {
            return;
        };
        let mut header = Header::new(PacketKind::VerifyResult, Some(id));
        (header.seq, header.sector, header.bytes) = (op.seq, op.io.sector, op.io.bytes);
        header.flags = if told == own { FLAG_YES } else { 0 };
        cx.send(line, header, &[]);
        if told != own && is_block(span) {
            self.note_difference(cx, op.peer, span);
        }
    }

    /// A packet of a verify.
    #[inline(never)]
    pub(super) fn on_verify_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        match header.kind {
            PacketKind::VerifyOrder => self.on_verify_order(cx, peer, header),
            PacketKind::VerifyRefused => {
                let refusal = u32::try_from(header.arg)
                    .ok()
                    .and_then(Refusal::from_number);
                self.refuse_asker(cx, peer, refusal.unwrap_or(Refusal::NotAgreed));
                Ok(())
            }
            PacketKind::VerifyBegin => self.on_verify_begin(cx, peer, header),
            PacketKind::VerifyDigest => self.on_verify_digest(cx, peer, header, body),
            PacketKind::VerifyResult => self.on_verify_result(cx, peer, header),
            _ => {
                self.on_verify_end(cx, peer, header);
                Ok(())
            }
        }
    }

    /// What is to be compared, as the peer says.
    fn told_reach(&self, header: &Header) -> Result<Reach, Fault> {
        let (start, end) = (header.sector.0, header.arg);
        let is_whole = start % SECTORS_PER_BIT == 0;
        ensure(
            is_whole && start < end && end <= self.disk_sectors(),
            MALFORMED,
        )?;
        let resumes = header.flags & FLAG_YES != 0;
        let range = SectorRange { start, end };
        Ok(Reach { range, resumes })
    }

    /// A person asked the peer, which does not order the writes.
    fn on_verify_order<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let reach = self.told_reach(header)?;
        let refusal = match self.may_verify(&cx.facts, peer) {
            Ok(Part::Teller) => {
                self.begin_telling(cx, peer, reach);
                return Ok(());
            }
            Ok(Part::Comparer) => Refusal::NotAgreed,
            Err((refusal, _)) => refusal,
        };
        if let Some(line) = self.line(peer) {
            let mut header = Header::new(PacketKind::VerifyRefused, Some(self.id));
            header.arg = refusal.number().into();
            cx.send(line, header, &[]);
        }
        Ok(())
    }

    fn on_verify_begin<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let reach = self.told_reach(header)?;
        // What was found last is to be repaired first: it must not be forgotten for a new run.
        let may_begin =
            self.invalidation.is_none() && self.may_go_on(&cx.facts, peer, Part::Comparer);
        match self.line(peer).filter(|_| !may_begin) {
            Some(line) => self.send_verify_end(cx, line, header.seq, VerifyState::Interrupted),
            None => self.begin_verify(cx, peer, Part::Comparer, header.seq, reach),
        }
        Ok(())
    }

    fn on_verify_digest<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        if self.is_void_digest(peer, Kind::Compare, header.seq) {
            // Of a run that has ended here.
            return Ok(());
        }
        let span = span_of_header(header);
        let is_whole = span.sector.0 % SECTORS_PER_BIT == 0 && span.bytes % BITMAP_BLOCK_BYTES == 0;
        ensure(
            is_whole && self.is_on_disk(span.sector, span.bytes),
            MALFORMED,
        )?;
        let digest =
            Digest::try_from(body).map_err(|_| Fault("the peer sent a malformed digest"))?;
        let is_kept = self
            .verify_mut(peer)
            .is_some_and(|verify| verify.keep_told(span, digest, header.arg));
        ensure(
            is_kept,
            "the peer sent a digest of what is not to be compared",
        )?;
        self.insert_digest(cx, peer, Kind::Compare, header)
    }

    fn on_verify_result<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let (span, differs) = (span_of_header(header), header.flags & FLAG_YES == 0);
        let is_current = |verify: &&mut Verify| verify.is_run(Part::Teller, header.seq);
        let Some(verify) = self.verify_mut(peer).filter(is_current) else {
            return Ok(());
        };
        ensure(
            verify.on_compared(span, differs),
            "the peer compared what it was not told",
        )?;
        if differs && is_block(span) {
            self.note_difference(cx, peer, span);
        }
        self.recheck = true;
        Ok(())
    }

    /// The peer has ended a run.
    fn on_verify_end<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) {
        let is_run = |part| {
            self.verify(peer)
                .is_some_and(|it| it.is_run(part, header.seq))
        };
        let told = u32::try_from(header.arg)
            .ok()
            .and_then(VerifyState::from_number);
        let state = match told {
            // Only who tells the digests knows that there are no more.
            Some(VerifyState::Finished) if is_run(Part::Comparer) => VerifyState::Finished,
            Some(VerifyState::Stopped) => VerifyState::Stopped,
            _ => VerifyState::Interrupted,
        };
        if is_run(Part::Teller) || is_run(Part::Comparer) {
            self.close_verify(cx, peer, state);
        }
    }
}

pub(super) fn span_of_header(header: &Header) -> Span {
    Span {
        sector: header.sector,
        bytes: header.bytes,
    }
}

/// Whether a range is not told again in pieces.
fn is_block(span: Span) -> bool {
    span.bytes <= BITMAP_BLOCK_BYTES
}
