// SPDX-License-Identifier: GPL-2.0-only

//! One volume: its requests, its disk, and what it has to do with each peer.
//!
//! Handlers note what happened; [`Volume::run`] then does all that has become possible. Nothing else starts disk or
//! metadata writes, so the order "durable first" is decided in one place per matter.

use super::carried::CARRIED_MAX;
use super::change::{Change, Promotion};
use super::context::{Context, Line};
use super::disk::Disk;
use super::exposure::Exposure;
use super::heal::Healing;
use super::invalidate::Invalidation;
use super::opening::Door;
use super::peer_op::PeerOp;
use super::place::Place;
use super::replica::Replica;
use super::request::Request;
use super::resize::Resize;
use super::slots::Slots;
use super::speed::Load;
use super::transitions;
use super::witness::Witness;
use super::Config;
use crate::effect::{Effect, Level, Object};
use crate::host::{Host, NoMemory, Output, Time};
use crate::ranges::{RangeId, Ranges};
use crate::tail::Tail;
use weft_uapi::limits::{NODES_MAX, SECTOR_BYTES};
use weft_uapi::ondisk::AL_EXTENTS;
use weft_uapi::state::DiskState;
use weft_uapi::units::{Minor, NodeId, NodeSet, Sector, Seq, VolumeId};

/// Things in flight on behalf of peers, per volume.
pub(super) const PEER_OPS: u32 = 256;
/// Nodes whose requests may be carried out here at the same time.
const CLIENTS_MAX: u32 = 2;
/// Writes sent and not known to be stable everywhere.
const TAIL_ENTRIES: usize = 2048;

/// Whose range it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A request of the application.
    Request(u32),
    /// Something a peer asked for.
    Op(u32),
    /// Blocks that could not be read.
    Heal,
}

/// A flush of this node's own, to make the tail shorter.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct TailFlush {
    /// Somebody wants one.
    pub(super) is_wanted: bool,
    /// The local half is under way and covers the tail up to here.
    pub(super) local: Option<Seq>,
    /// This disk and the peers were asked last to make everything up to here stable.
    pub(super) asked: Seq,
    /// When the last write was made.
    pub(super) last_write: Time,
}

/// One volume of the resource.
pub(super) struct Volume<H: Host> {
    pub(super) id: VolumeId,
    pub(super) minor: Minor,
    pub(super) open_count: u32,
    /// An open or a close that waits.
    pub(super) door: Option<Door>,
    pub(super) disk: Place<H, Disk<H>>,
    disk_state: DiskState,
    /// Most extents that are hot at the same time.
    pub(super) al_extents: u16,
    /// Requests of this node's applications and of clients.
    pub(super) requests: Slots<H, Request<H>>,
    /// How many of them are of clients.
    pub(super) theirs: u32,
    /// Of this client's requests: how many the server has.
    pub(super) carried: u32,
    /// On a client: who carries them out, or was asked to, and what the application has been shown.
    pub(super) server: Option<NodeId>,
    pub(super) exposure: Exposure,
    pub(super) ops: Slots<H, PeerOp<H>>,
    pub(super) replicas: H::Slab<Option<Replica<H>>>,
    /// Who has an item in `replicas`.
    pub(super) known: NodeSet,
    pub(super) ranges: Ranges<H, Owner>,
    /// Those of a client's requests: what the server sends here meanwhile must not wait for them.
    pub(super) client_ranges: Ranges<H, Owner>,
    pub(super) tail: Tail<H>,
    pub(super) tail_flush: TailFlush,
    /// The record that is being made durable.
    pub(super) change: Option<Change>,
    /// The current record, which all its members have, but no majority of the voters.
    pub(super) stalled: Option<Change>,
    /// Nodes that have to have a write before it is complete: the members of every record that may be in force.
    pub(super) required: NodeSet,
    /// A record with this node as the writer is wanted.
    pub(super) wants_promotion: Option<Promotion>,
    /// The disk is marked as a writer's by a promotion that has not come to its end, and was not before.
    pub(super) is_mark_new: bool,
    /// A record without the lost members is wanted.
    pub(super) wants_shrink: bool,
    /// A person insisted on the promotion of this primary, and it knows of no majority without new disks yet: it may count
    /// them.
    pub(super) insists: bool,
    /// A first record is wanted of this disk and of all connected ones, which are equal.
    pub(super) wants_union: bool,
    /// Who waits for a disk to be given up.
    pub(super) invalidation: Option<Invalidation>,
    /// Others vote than before: a record is wanted that a majority of them knows.
    pub(super) wants_vote: bool,
    /// A majority went on without this primary: it is one no more, and its requests fail.
    pub(super) is_overtaken: bool,
    /// The disk of this primary has just failed, and others may have all that its application was shown.
    pub(super) hands_over: bool,
    /// This node is leaving, and others may count on that from now on.
    pub(super) is_leaving: bool,
    /// On a tie-breaker: what it knows.
    pub(super) witness: Option<Witness>,
    /// What is going on about the size.
    pub(super) resize: Resize,
    /// Size of the device, in sectors, while there is a disk.
    pub(super) offered: u64,
    /// Everything that waits is to be looked at again.
    pub(super) recheck: bool,
    /// Something waits for room in the activity log or in the tail.
    pub(super) is_starved: bool,
    /// An internal rule was broken: no I/O any more.
    pub(super) is_broken: bool,
    /// What is done about blocks that this disk cannot read.
    pub(super) healing: Healing,
    /// What became of requests of applications since that was looked at last.
    pub(super) load: Load,
    pub(super) read_sectors: u64,
    pub(super) written_sectors: u64,
}

impl<H: Host> Volume<H> {
    /// A volume without disk. Context: may sleep.
    pub(super) fn new(id: VolumeId, minor: Minor, config: &Config) -> Result<Self, NoMemory> {
        let requests_max = config.requests_max;
        let own = u32::try_from(requests_max).map_err(|_| NoMemory)?;
        let requests = own.saturating_add(CLIENTS_MAX.saturating_mul(CARRIED_MAX));
        Ok(Self {
            id,
            minor,
            open_count: 0,
            door: None,
            disk: Place::default(),
            disk_state: DiskState::Diskless,
            al_extents: config.al_extents.clamp(2, AL_EXTENTS),
            requests: Slots::new(requests)?,
            theirs: 0,
            carried: 0,
            server: None,
            exposure: Exposure::NONE,
            ops: Slots::new(PEER_OPS)?,
            replicas: H::slab(NODES_MAX, || None)?,
            known: NodeSet::EMPTY,
            ranges: Ranges::new((requests as usize).saturating_add(PEER_OPS as usize))?,
            client_ranges: Ranges::new(requests_max)?,
            tail: Tail::new(TAIL_ENTRIES)?,
            tail_flush: TailFlush::default(),
            change: None,
            stalled: None,
            required: NodeSet::EMPTY,
            wants_promotion: None,
            is_mark_new: false,
            wants_shrink: false,
            insists: false,
            wants_union: false,
            invalidation: None,
            wants_vote: false,
            is_overtaken: false,
            hands_over: false,
            is_leaving: false,
            witness: config.is_tie_breaker.then(Witness::default),
            resize: Resize::default(),
            offered: 0,
            recheck: false,
            is_starved: false,
            is_broken: false,
            healing: Healing::default(),
            load: Load::default(),
            read_sectors: 0,
            written_sectors: 0,
        })
    }

    pub(super) fn replica(&self, peer: NodeId) -> Option<&Replica<H>> {
        self.replicas.get(peer.index())?.as_ref()
    }

    pub(super) fn replica_mut(&mut self, peer: NodeId) -> Option<&mut Replica<H>> {
        self.replicas.get_mut(peer.index())?.as_mut()
    }

    /// All replicas with their node.
    pub(super) fn each_replica(&self) -> impl Iterator<Item = (NodeId, &Replica<H>)> {
        let known = self.known.iter();
        known.filter_map(|node| Some((node, self.replica(node)?)))
    }

    /// The peers of which something is true.
    pub(super) fn peers_that(&self, is_so: impl Fn(NodeId, &Replica<H>) -> bool) -> NodeSet {
        let those = self
            .each_replica()
            .filter(|(peer, replica)| is_so(*peer, replica));
        those.fold(NodeSet::EMPTY, |set, (peer, _)| set.with(peer))
    }

    /// Where packets to a peer go; `None`: no session.
    pub(super) fn line(&self, peer: NodeId) -> Option<Line> {
        let session = self.replica(peer)?.session?;
        Some(Line { peer, session })
    }

    /// Peers that get every write of this node.
    pub(super) fn receivers(&self) -> NodeSet {
        self.peers_that(|_, replica| replica.receives)
    }

    /// Peers with a session.
    pub(super) fn sessions(&self) -> NodeSet {
        self.peers_that(|_, replica| replica.session.is_some())
    }

    /// Peers that get every write of this node and lack no earlier one.
    pub(super) fn whole(&self) -> NodeSet {
        self.peers_that(|_, replica| replica.is_whole())
    }

    pub(super) fn disk_state(&self) -> DiskState {
        self.disk_state
    }

    /// Changes the state of the disk; an illegal change breaks the volume.
    pub(super) fn set_disk_state<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        state: DiskState,
    ) {
        let old = core::mem::replace(&mut self.disk_state, state);
        if old == state {
            return;
        }
        if !transitions::disk_may_change(old, state) {
            self.break_down(cx, "illegal change of the disk state");
        }
        cx.log(
            Level::Info,
            format_args!("volume {}: disk {} -> {}", self.id, old, state),
        );
        cx.notify(Object::Volume(self.id));
        self.recheck = true;
    }

    /// An internal rule does not hold: stops the I/O of the volume for good.
    pub(super) fn break_down<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, sentence: &str) {
        if !core::mem::replace(&mut self.is_broken, true) {
            cx.log(
                Level::Error,
                format_args!(
                    "volume {}: internal rule broken, I/O stopped: {}",
                    self.id, sentence
                ),
            );
            cx.notify(Object::Resource);
        }
    }

    /// Size of the device in sectors; 0: no data can be reached.
    pub(super) fn sectors(&self) -> u64 {
        match self.exposure.sectors {
            0 => self.disk.as_ref().map_or(0, |_| self.offered),
            // What a server has shown stays, also while a disk is here that has to be synced yet.
            shown => shown,
        }
    }

    /// As [`Self::sectors`]; while the disks agree on another size, the one that a peer may know of already.
    pub(super) fn disk_sectors(&self) -> u64 {
        self.disk.as_ref().map_or(self.sectors(), Disk::sectors)
    }

    /// Logical block size of the device in bytes; 512 without disk and server.
    pub(super) fn block_bytes(&self) -> u32 {
        self.disk
            .as_ref()
            .map_or(self.exposure.block_bytes.max(SECTOR_BYTES), |disk| {
                disk.block_bytes
            })
    }

    /// Whether a range lies on the device, as a client may know it by now, is not empty and made of whole blocks.
    pub(super) fn is_on_device(&self, sector: Sector, bytes: u32) -> bool {
        let sectors = match self.exposure.sectors {
            0 => self.disk_sectors(),
            shown => shown,
        };
        self.is_within(sectors, sector, bytes)
    }

    /// As [`Self::is_on_device`], of what is to be done with this node's disk.
    pub(super) fn is_on_disk(&self, sector: Sector, bytes: u32) -> bool {
        self.is_within(self.disk_sectors(), sector, bytes)
    }

    fn is_within(&self, sectors: u64, sector: Sector, bytes: u32) -> bool {
        let block_bytes = self.block_bytes();
        let block_sectors = u64::from(block_bytes / SECTOR_BYTES);
        let end = sector.0.checked_add(u64::from(bytes / SECTOR_BYTES));
        let is_whole = bytes.checked_rem(block_bytes) == Some(0)
            && sector.0.checked_rem(block_sectors) == Some(0);
        bytes > 0 && is_whole && end.is_some_and(|end| end <= sectors)
    }

    /// Room became free: whoever waits for it is looked at again.
    pub(super) fn feed_starved(&mut self) {
        self.recheck |= core::mem::take(&mut self.is_starved);
    }

    /// Gives a range back, if any.
    pub(super) fn leave(&mut self, range: Option<RangeId>) {
        if let Some(range) = range {
            self.ranges.leave(range);
        }
    }

    /// Does all that has become possible.
    #[inline(never)]
    pub(super) fn run<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        // Each step may make an earlier one possible; every turn but the last makes progress, and a handful suffices.
        for _ in 0..8 {
            let has_news = core::mem::take(&mut self.recheck);
            self.run_heal(cx);
            self.run_disk(cx);
            self.run_resize(cx);
            self.run_change(cx);
            self.run_negotiations(cx);
            self.run_exchanges(cx);
            self.run_invalidation(cx);
            self.run_verifies(cx);
            self.run_ranges(cx);
            if has_news {
                self.run_requests(cx);
                self.run_ops(cx);
            }
            self.run_sources(cx);
            self.run_tail(cx);
            self.run_congestion(cx);
            self.run_received(cx);
            self.run_targets(cx);
            self.run_witness(cx);
            if !self.recheck {
                break;
            }
        }
        self.check(cx);
    }

    /// Wakes those whose range has become free.
    #[inline(never)]
    fn run_ranges<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        while let Some((_, owner)) = self.next_ready() {
            match owner {
                Owner::Request(number) => {
                    if let Some(request) = self.requests.get_mut(number) {
                        request.is_range_free = true;
                    }
                    self.advance_request(cx, number);
                }
                Owner::Heal => self.look(cx),
                Owner::Op(number) => {
                    if let Some(op) = self.ops.get_mut(number) {
                        op.is_range_free = true;
                    }
                    self.advance_op(cx, number);
                }
            }
        }
    }

    fn next_ready(&mut self) -> Option<(RangeId, Owner)> {
        self.ranges
            .next_ready()
            .or_else(|| self.client_ranges.next_ready())
    }

    /// The next time something has to be done without an event.
    pub(super) fn deadline(&self) -> Option<Time> {
        let tail = self.tail_deadline();
        let change = self.change_deadline();
        let replicas = self
            .each_replica()
            .filter_map(|(_, replica)| replica.deadline());
        let log = self.disk.as_ref().and_then(Disk::log_deadline);
        let witness = self.witness.as_ref().and_then(Witness::deadline);
        let ages = self.disk.as_ref().and_then(Disk::ages_deadline);
        let own = tail.into_iter().chain(change).chain(log).chain(ages);
        let own = own.chain(self.heal_deadline());
        replicas.chain(own).chain(witness).min()
    }

    /// How many more packets with data may come from a peer now.
    pub(super) fn room_for(&self, peer: NodeId) -> usize {
        let is_early = self.replica(peer).is_some_and(Replica::is_early);
        let reserve = if is_early { PEER_OPS as usize / 4 } else { 0 };
        self.ops.room().saturating_sub(reserve)
    }

    /// Tells the size of the device.
    pub(super) fn tell_capacity<O: Output<H>>(&self, cx: &mut Context<'_, H, O>) {
        cx.emit(Effect::Capacity { volume: self.id });
    }
}
