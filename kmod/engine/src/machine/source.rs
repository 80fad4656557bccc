// SPDX-License-Identifier: GPL-2.0-only

//! The source of a resync: reads what the target asks for.
//!
//! A range is held from before it is read until it is on the link, so that no write of the application gets between;
//! whatever is written later comes later over the same link. Zeros travel as such, so that thin disks stay thin.

use super::context::{ensure, Context, Fault, Line};
use super::exchange::Pages;
use super::peer_op::PeerOp;
use super::speed::Pace;
use super::volume::Volume;
use crate::effect::Data;
use crate::host::{Host, Output, Time};
use crate::tail::Kind;
use weft_uapi::state::ReplicationState;
use weft_uapi::units::{NodeId, NodeSet, Seq};
use weft_uapi::wire::{Header, PacketKind};

/// The source's side of a resync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) pages: Pages,
    /// Number of the superblock whose flush makes stable what this disk has at the beginning: the target stops counting
    /// as a copy, so this one must not lose to a power cut what the target has already.
    pub(super) stable_by: Option<u64>,
    /// The target's record is durable.
    pub(super) is_peer_ready: bool,
    /// How fast it gets what it asks for.
    pub(super) pace: Pace,
    /// The target has a record durable that names it as a member. It is one for good when such a record is in force.
    pub(super) has_joined: bool,
    /// The target was not sent writes after it was sent others: a range may have been there and back again meanwhile.
    pub(super) has_skipped: bool,
}

impl<H: Host> Volume<H> {
    /// Whether a digest of the target's may be older than what it is about to write: see [`Source::has_skipped`].
    pub(super) fn has_skipped(&self, peer: NodeId) -> bool {
        let source = self.replica(peer).and_then(|replica| replica.source);
        source.is_some_and(|source| source.has_skipped)
    }

    /// A range was read for the target.
    pub(super) fn send_resync_data<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        buffer: Option<H::Buffer>,
    ) {
        let Some(buffer) = buffer else {
            return;
        };
        if let Some((line, header)) = self.number_for_target(cx, op, PacketKind::ResyncData) {
            let replica = self.replica(op.peer);
            let knows_zeroes = replica.is_some_and(|replica| replica.round.knows_zeroes);
            let data = match knows_zeroes && H::is_zero(&buffer) {
                true => Data::None,
                false => Data::Buffer(buffer),
            };
            cx.send_data(line, header, data);
            if let Some(replica) = self.replica_mut(op.peer) {
                replica.count_sent(op.io.bytes);
            }
        }
    }

    /// A range is what the target has.
    pub(super) fn send_resync_equal<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
    ) {
        if let Some((line, header)) = self.number_for_target(cx, op, PacketKind::ResyncEqual) {
            cx.send(line, header, &[]);
            if let Some(replica) = self.replica_mut(op.peer) {
                replica.count_equal(op.io.bytes);
            }
        }
    }

    /// Gives an answer its place among the writes; `None`: the target does not wait for it any more.
    fn number_for_target<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        op: &PeerOp<H>,
        kind: PacketKind,
    ) -> Option<(Line, Header)> {
        // After a new decision the target asks anew, and takes this for something that it did not ask for.
        let replica = self.replica(op.peer)?;
        let is_asked = replica.round.decided == op.round && !replica.round.is_told();
        replica.source.filter(|_| is_asked)?;
        let line = self.line(op.peer)?;
        let receiver = NodeSet::of(op.peer);
        let (sector, bytes) = (op.io.sector, op.io.bytes);
        let Some(seq) = self.tail.push(Kind::Resync, sector, bytes, receiver, None) else {
            self.break_down(cx, "the tail has no room for resync data");
            return None;
        };
        self.tail_flush.last_write = cx.now;
        let mut header = Header::new(kind, Some(self.id));
        (header.seq, header.sector, header.bytes, header.arg) = (seq, sector, bytes, op.arg);
        header.term = self.term();
        Some((line, header))
    }

    /// The target owes nothing any more.
    #[inline(never)]
    pub(super) fn on_resync_done(&mut self, peer: NodeId, upto: Seq) -> Result<(), Fault> {
        let replica = self
            .replica_mut(peer)
            .ok_or(Fault("the peer is not known"))?;
        let is_source = replica
            .source
            .as_ref()
            .is_some_and(|source| source.pages.is_received);
        ensure(
            is_source && !replica.wants_member,
            "the peer ended a resync that is not running",
        )?;
        replica.wants_member = true;
        replica.finished_upto = upto;
        self.recheck = true;
        Ok(())
    }

    /// Targets that fetched all they knew of, while this disk has noted more towards them since, have to know that, too.
    pub(super) fn renew_targets(&mut self, now: Time) {
        let Some(disk) = self.disk.as_ref() else {
            return;
        };
        for peer in self.known.iter() {
            let Some(replica) = self.replicas.get_mut(peer.index()).and_then(Option::as_mut) else {
                continue;
            };
            let is_settled = replica.wants_member
                && replica.replication == ReplicationState::SyncSource
                && !replica.round.is_open()
                && !replica.keeping.is_draining()
                && replica.stable >= replica.finished_upto;
            if is_settled && disk.marked(peer) > 0 {
                replica.wants_member = false;
                replica.round.renew(now);
                self.recheck = true;
            }
        }
    }
}
