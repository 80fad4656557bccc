// SPDX-License-Identifier: GPL-2.0-only

//! Generation records that a peer makes: made durable here, acknowledged, and at last said to be in force.

use super::context::{ensure, Context, Fault};
use super::replica::Adopting;
use super::unite::is_first_record;
use super::volume::Volume;
use crate::bitmap::SECTORS_PER_BIT;
use crate::effect::Object;
use crate::host::{Host, Output};
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_OUTDATED, FLAG_WRITER_ACTIVE};
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{GenerationId, Incarnation, NodeId, NodeSet};
use weft_uapi::wire::{GenerationBody, Header, InForceBody, FLAG_YES};
use zerocopy::FromBytes;

impl<H: Host> Volume<H> {
    /// A peer made a new record.
    #[inline(never)]
    pub(super) fn on_generation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let body = GenerationBody::read_from_bytes(body)
            .map_err(|_| Fault("the peer sent a malformed generation"))?;
        let record = body
            .record(header)
            .ok_or(Fault("the peer sent a malformed generation"))?;
        let is_own_matter = cx.facts.is_primary() || self.change.is_some();
        ensure(
            !is_own_matter && record.writer.is_none_or(|writer| writer == peer),
            "the peer made a generation that is not its to make",
        )?;
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return Err(Fault("the peer sent a generation to a node without disk"));
        };
        let current = disk.superblock.generation;
        if record.id == current.id && replica.adopting.is_none() {
            // It came by way of a third node.
            self.acknowledge_generation(cx, peer, record.id);
            return Ok(());
        }
        let follows =
            record.parent == current.id && record.id != current.id && record.term >= current.term;
        ensure(
            follows,
            "the peer's generation does not follow the current one",
        )?;
        let is_first = is_first_record(replica, peer, cx.facts.node, &record);
        ensure(
            (replica.accepts || is_first) && replica.adopting.is_none(),
            "the peer sent a generation out of turn",
        )?;
        let is_member = record.members.contains(cx.facts.node);
        let is_finished = replica
            .target
            .as_ref()
            .is_some_and(|target| target.is_finished);
        // A member of long ago may be named that has lost its data since: it stays unfinished.
        let joins = is_member && is_finished && disk.has_flag(FLAG_INCONSISTENT);
        let after = replica.received.last();
        let now = cx.now;
        replica.adopting = Some(Adopting {
            id: record.id,
            superblock: None,
            record: Some((record, after)),
            joins,
        });
        // They have taken over a line that this disk leaves now.
        self.stop_sources(now);
        self.recheck = true;
        Ok(())
    }

    /// Writes a peer's record once everything that came before it is on disk.
    ///
    /// INVARIANT: a record that makes this node a member claims all writes before it, also those that were complete
    /// without this node; the superblock's flush makes them stable with it.
    fn write_adopted(&mut self, peer: NodeId) {
        let is_outrun = self.is_outrun();
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        let waiting = replica
            .adopting
            .filter(|adopting| adopting.superblock.is_none());
        let Some((adopting, (record, after))) =
            waiting.and_then(|adopting| Some((adopting, adopting.record?)))
        else {
            return;
        };
        if replica.received.done_upto() < after {
            return;
        }
        if adopting.joins {
            // INVARIANT: what was fetched is noted towards everybody else, on disk, before it counts. It also keeps a
            // power cut soon after from bringing back the bits of the whole sync.
            if !disk.are_bitmaps_written() {
                self.recheck |= !core::mem::replace(&mut disk.wants_bitmaps, true);
                return;
            }
        }
        let dropped = NodeSet(disk.superblock.generation.members.0 & !record.members.0);
        disk.go_on(record);
        if self.is_leaving {
            disk.leave();
        }
        disk.set_since(peer, record.id);
        if record.parent == GenerationId::NONE {
            disk.forget_bits(record.members);
        }
        if adopting.joins {
            // INVARIANT: inconsistency ends only with the record that makes this node a member (G3).
            disk.set_flag(FLAG_INCONSISTENT, false);
            disk.joined = record.id;
        }
        if !disk.has_flag(FLAG_INCONSISTENT) {
            // A copy is as good as the disk that it was made from.
            let is_old = self.is_leaving || is_outrun || replica.fetches_outdated();
            disk.set_flag(FLAG_OUTDATED, is_old);
            if record.writer == Some(peer) {
                replica.stop_fetching();
            }
            // What a writer's disk has is what counts; a copy lacks what the disk lost that it was made from.
            let source = replica.round.peer.map(|said| said.side);
            let has_lost = if adopting.joins {
                source.is_some_and(|source| source.has_crashed)
            } else {
                disk.has_flag(FLAG_WRITER_ACTIVE)
            };
            disk.set_flag(FLAG_WRITER_ACTIVE, record.writer.is_none() && has_lost);
        }
        replica.accepts = false;
        replica.adopting = Some(Adopting {
            superblock: Some(disk.touch()),
            ..adopting
        });
        // What is not known to be stable everywhere, a member that leaves may lack (G5).
        for node in dropped.without(disk.superblock.node).iter() {
            for span in replica.received.spans() {
                disk.mark(node, span);
            }
        }
        self.required = record.members;
        self.recheck = true;
    }

    /// Whether this disk took over the line of another peer while a record of this one waited to be written.
    fn has_moved_on<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) -> bool {
        let (Some(disk), Some(replica)) = (
            self.disk.as_ref(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return false;
        };
        let unwritten = |adopting: &Adopting| adopting.superblock.is_none();
        let waiting = replica.adopting.filter(unwritten);
        let Some((record, _)) = waiting.and_then(|adopting| adopting.record) else {
            return false;
        };
        let current = disk.superblock.generation.id;
        if record.id == current && disk.has_line_durable() {
            // It came with the line.
            replica.adopting = None;
            self.acknowledge_generation(cx, peer, current);
        } else if record.id != current && record.parent != current {
            replica.adopting = None;
            self.condemn(
                peer,
                "the peer's generation does not follow the current one any more",
            );
        }
        record.parent != current
    }

    /// A peer's record may have become durable here.
    #[inline(never)]
    pub(super) fn run_adopted<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        // A failed disk lost what was to be done before a record, and acknowledges none, although it may be written.
        if self.disk_state() == DiskState::Failed || self.has_moved_on(cx, peer) {
            return;
        }
        self.write_adopted(peer);
        let (Some(disk), Some(replica)) = (
            self.disk.as_ref(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        let durable = |adopting: &Adopting| {
            adopting
                .superblock
                .is_some_and(|number| disk.is_durable(number))
        };
        let Some(adopting) = replica.adopting.filter(durable) else {
            return;
        };
        if replica.replication == ReplicationState::BitmapTarget {
            return;
        }
        replica.adopting = None;
        replica.accepts = true;
        replica.awaits_force = adopting
            .record
            .is_some_and(|(record, _)| record.writer.is_none());
        if adopting.joins {
            replica.target = None;
            replica.progress.ended = Some(cx.now);
        }
        // The source has the newest data by definition, and equal ones from now on.
        let is_equal = replica.target.is_none() && !disk.has_flag(FLAG_INCONSISTENT);
        replica.receives = is_equal;
        let is_old = disk.has_flag(FLAG_OUTDATED);
        if is_equal {
            self.set_replication(cx, peer, ReplicationState::Established);
            self.set_disk_state(cx, DiskState::UpToDate);
        }
        if is_old {
            self.outdate(cx);
        }
        self.acknowledge_generation(cx, peer, adopting.id);
        cx.notify(Object::Volume(self.id));
        self.recheck = true;
    }

    /// Whether what a peer told of its disk may be of an earlier life of it; ends the session then.
    pub(super) fn is_outlived(&mut self, peer: NodeId) -> bool {
        let is_outlived = self.replica(peer).is_some_and(|it| it.is_outlived);
        if is_outlived {
            self.condemn(peer, "others have met a later attach of the peer's disk");
        }
        is_outlived
    }

    /// The maker of the current record says who has it: they all hold the same, but for what is under way.
    ///
    /// INVARIANT: a member had every write before the record when it made the record durable, and gets every later one;
    /// so the bits towards it are of no use any more, but for those that stand for writes under way (G4). That is true as
    /// long as the session with the maker lasts.
    #[inline(never)]
    pub(super) fn on_in_force<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let is_elected = header.flags & FLAG_YES != 0;
        let malformed = Fault("the peer sent a malformed record");
        let body = InForceBody::read_from_bytes(body).map_err(|_| malformed)?;
        let (id, holders) = (
            GenerationId(body.generation.get()),
            NodeSet(body.holders.get()),
        );
        ensure(body.reserved.get() == 0, "the peer sent a malformed record")?;
        let mut is_makers = false;
        if let Some(replica) = self.replica_mut(peer) {
            is_makers = core::mem::take(&mut replica.awaits_force);
            if let Some(said) = replica.round.peer.as_mut() {
                said.is_stalled = false;
            }
        }
        self.recheck = true;
        let Some(disk) = self.disk.as_mut() else {
            return Ok(());
        };
        let generation = disk.superblock.generation;
        // Others pass the news on to newcomers. They do not know what this node had of a writer that was lost since, nor does
        // a maker to which this node owes just that.
        let is_makers = (is_makers && disk.marked(peer) == 0) || generation.writer == Some(peer);
        if generation.id != id {
            let target = self
                .replica_mut(peer)
                .and_then(|replica| replica.target.as_mut());
            if let Some(target) = target.filter(|target| target.line.current().id == id) {
                target.line.confirm();
            }
            return Ok(());
        }
        disk.confirm();
        let is_whole = holders.contains(cx.facts.node) && !disk.has_flag(FLAG_INCONSISTENT);
        if is_elected && is_whole {
            self.settle_in();
        }
        let Some(disk) = self.disk.as_mut() else {
            return Ok(());
        };
        let agreed = match self.offered {
            0 => u64::MAX,
            sectors => sectors / SECTORS_PER_BIT,
        };
        let holders = holders.intersection(generation.members);
        if !holders.contains(cx.facts.node) || disk.has_flag(FLAG_INCONSISTENT) {
            return Ok(());
        }
        let others = holders.without(cx.facts.node).without(peer);
        for (other, met) in NodeId::all().zip(&body.disks) {
            if !others.contains(other) {
                continue;
            }
            let replica = self
                .replicas
                .get_mut(other.index())
                .and_then(Option::as_mut);
            let replica = replica.filter(|replica| replica.session.is_some());
            let said = replica.as_ref().and_then(|replica| replica.round.peer);
            // What this node has met itself counts if it came from that.
            let later = said
                .map(|said| said.side)
                .filter(|side| side.was_attached_as(met.attach_id.get()));
            let (incarnation, attach) = later.map_or(
                (Incarnation(met.incarnation.get()), met.attach_id.get()),
                |side| (side.incarnation, side.attach_id),
            );
            disk.set_seen(other, incarnation, attach);
            if let Some(replica) = replica {
                replica.is_outlived |= later.is_none();
                if replica.is_waiting {
                    replica.round.renew(cx.now);
                }
            }
            disk.set_since(other, id);
            if is_makers {
                if let Some(slot) = disk.slot(other) {
                    // The record speaks of no part that is being added.
                    disk.bits.clear_bits(slot, 0, agreed);
                }
                disk.wants_bitmaps = true;
            }
        }
        self.mark_unlogged();
        Ok(())
    }
}
