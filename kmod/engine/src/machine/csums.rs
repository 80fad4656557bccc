// SPDX-License-Identifier: GPL-2.0-only

//! Ranges that are compared before they are sent: a target asks by the digest of what it has.
//!
//! ```text
//! target                                                source
//!   range digested --resync-digest-->  (its turn) held and digested
//!                  <--resync-equal--   the same: nothing to write, stable with the next flush
//!                  <--resync-data--    another one
//! ```
//! INVARIANT: `resync-equal` stands where the data would, between the writes that the source had sent and those that it sends
//! later. Let it be made at a point P, and the target's digest at Q before. What was written between Q and P came over the same
//! link, and is the same on both sides. The rest of the range is on the target what it was at Q, and that is what the source
//! has at P, since the digests are equal. So the target has at P what the source has, however much was written meanwhile.
//! A target that was not sent all of that gets the data in any case (`Source::has_skipped`).

use super::compare::span_of_header;
use super::context::{ensure, Context, Facts, Fault};
use super::peer_op::{Kind, PeerOp};
use super::received::Entry;
use super::request::span_of;
use super::volume::Volume;
use crate::host::{Host, Output};
use weft_uapi::units::NodeId;
use weft_uapi::wire::{Digest, Header, PacketKind};

impl<H: Host> Volume<H> {
    /// Whether the next ranges are asked for by digest. Without room for that they are simply asked for.
    pub(super) fn asks_by_digest(&self, facts: &Facts, peer: NodeId) -> bool {
        let knows = self.replica(peer).is_some_and(|it| it.round.knows_csums);
        facts.csums && knows && self.has_room_for_digests()
    }

    /// Has a range digested that is to be asked for.
    pub(super) fn prepare_to_ask<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) {
        if self.insert_digest(cx, peer, Kind::Ask, header).is_err() {
            self.break_down(cx, "no room for a digest");
        }
    }

    /// That is done; without a digest this disk cannot read what it has there, and is about to get anyway.
    pub(super) fn ask_by_digest<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        digest: Option<Digest>,
    ) {
        let span = span_of(&op.io);
        let is_wanted = self.replica(op.peer).is_some_and(|replica| {
            let target = replica.target.as_ref();
            // Behind a state it would come to a source that has decided anew.
            let is_asked = replica.round.decided == op.round && !replica.round.is_told();
            is_asked && target.is_some_and(|it| it.is_outstanding(span))
        });
        let Some(line) = self.line(op.peer).filter(|_| is_wanted) else {
            return;
        };
        let kind = match digest {
            Some(_) => PacketKind::ResyncDigest,
            None => PacketKind::ResyncRequest,
        };
        let mut header = Header::new(kind, Some(self.id));
        (header.sector, header.bytes, header.arg) = (span.sector, span.bytes, op.arg);
        cx.send(line, header, digest.as_ref().map_or(&[], |digest| digest));
    }

    /// The peer, a sync target, wants a range unless it has this digest.
    #[inline(never)]
    pub(super) fn on_resync_digest<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let digest =
            Digest::try_from(body).map_err(|_| Fault("the peer sent a malformed digest"))?;
        self.on_resync_request(cx, peer, header, Some(digest))
    }

    /// The source has in a range what this disk has.
    #[inline(never)]
    pub(super) fn on_resync_equal<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let span = span_of_header(header);
        let replica = self
            .replica_mut(peer)
            .ok_or(Fault("the peer is not known"))?;
        let target = replica.target.as_mut();
        let target = target.filter(|target| target.is_asked_by_digest(span));
        let target = target.ok_or(Fault("the peer found equal what it was not told"))?;
        let entry = Entry {
            seq: header.seq,
            sector: span.sector,
            bytes: span.bytes,
            is_resync: true,
            is_done: false,
            has_log: false,
        };
        ensure(
            replica.received.push(entry),
            "the peer's sequence numbers are out of order",
        )?;
        // Nothing is to be written; it counts once all before it is on disk, and stable with the next flush.
        replica.received.on_done(header.seq);
        target.on_done(span);
        replica.progress.count_equal(span.bytes);
        self.acknowledge(cx, peer, PacketKind::Written, header.seq);
        self.recheck = true;
        Ok(())
    }
}
