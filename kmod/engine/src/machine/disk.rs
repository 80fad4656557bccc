// SPDX-License-Identifier: GPL-2.0-only

//! An attached disk and the writing of its metadata.
//!
//! Three writers, each with at most one write of the same block in flight:
//! * the superblock: changes are collected; [`Disk::touch`] gives the number to wait for in [`Disk::is_durable`];
//! * the bitmaps: only when somebody needs them on disk ([`Disk::flush_bitmaps`], or before extents cool);
//! * the activity log: one transaction at a time, after the bitmap blocks of the extents that it evicts.
//!
//! None of them writes while the metadata move ([`super::relocate`]).

use super::context::Context;
use super::cookie::Work;
use super::relocate::Relocation;
use super::replica::Replica;
use super::volume::Volume;
use crate::activity_log::ActivityLog;
use crate::ancestry::Ancestry;
use crate::bitmap::{Bitmaps, Next, SECTORS_PER_BIT};
use crate::effect::Effect;
use crate::event::{DiskError, Token};
use crate::host::{Host, NoMemory, Output, Time};
use crate::load::LoadedDisk;
use crate::ranges::Span;
use weft_uapi::limits::{AL_EXTENT_BYTES, META_BLOCK_BYTES};
use weft_uapi::ondisk::{
    Generation, Layout, MetaBlock, Superblock, FLAG_GIVEN_UP, FLAG_INCONSISTENT, FLAG_INVALIDATED,
    FLAG_WRITER_ACTIVE,
};
use weft_uapi::status::SectorRange;
use weft_uapi::units::{GenerationId, NodeId, NodeSet, VolumeId};

/// Bitmap blocks being written at the same time.
const BITMAP_WRITES_MAX: usize = 16;
/// A log that nothing refers to for so long is emptied, in milliseconds.
const LOG_IDLE_MS: u64 = 10_000;
const EXTENT_SECTORS: u64 = (AL_EXTENT_BYTES / 512) as u64;

/// What is happening to the disk as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The new incarnation is being written; the command waits.
    Attaching(Token),
    /// In use.
    Running,
    /// It is being let go, for a command or because of an error.
    Leaving(Option<Token>),
}

/// An attached disk.
pub(super) struct Disk<H: Host> {
    pub(super) stage: Stage,
    /// What the superblock says, or will say when the writes under way are done.
    pub(super) superblock: Superblock,
    pub(super) layout: Layout,
    /// Logical block size of the device, in bytes.
    pub(super) block_bytes: u32,
    pub(super) bits: Bitmaps<H>,
    pub(super) log: ActivityLog<H>,
    /// Disk and metadata operations that the host has not answered.
    pub(super) io_pending: u32,
    /// Transactions of the activity log since the attach.
    pub(super) log_writes: u32,
    /// Everything dirty is to be written, and the log to be emptied.
    pub(super) wants_clean: bool,
    /// Every dirty bitmap block is to be written.
    pub(super) wants_bitmaps: bool,
    /// Extents are hot, but nothing has referred to one since.
    calm_since: Option<Time>,
    /// The record by which this disk was complete again, if it was a sync target since it was attached.
    pub(super) joined: GenerationId,
    /// Number of the superblock which says that somebody may write in the current generation.
    confirmed_by: u64,
    /// Number of the superblock with this line of generations.
    line_by: u64,
    /// [`Superblock::changes`] as it is on disk.
    pub(super) changes_done: u64,
    /// The superblock says more than it did when it was written last, besides of ages.
    has_changed: bool,
    /// Ages that were seen since then stand nowhere on disk.
    pub(super) ages_unsaved: Option<Time>,
    /// Number of the superblock which says that this disk is given up: it owes everything from then on.
    pub(super) given_up_by: Option<u64>,
    /// The metadata are on their way to where a larger disk has room for them.
    pub(super) relocation: Option<Relocation<H>>,
    /// The superblock says of the device's size what the bitmaps on disk have to know before.
    pub(super) are_bitmaps_first: bool,
    superblock_wanted: u64,
    superblock_writing: Option<u64>,
    superblock_done: u64,
    bitmaps_writing: [Option<(u32, u64)>; BITMAP_WRITES_MAX],
    is_log_prepared: bool,
    is_log_writing: bool,
    pub(super) block: H::Slab<MetaBlock>,
}

impl<H: Host> Disk<H> {
    /// Takes over what was loaded: hot extents become bits towards every peer, since each of them may differ there.
    #[inline(never)] // It needs room on the stack.
    pub(super) fn make(
        place: &mut Option<Self>,
        loaded: &mut Option<LoadedDisk<H>>,
        token: Token,
        al_extents: u16,
    ) -> Result<(), NoMemory> {
        let LoadedDisk {
            info,
            mut superblock,
            layout,
            al_table,
            al_sequence,
            bitmaps,
            ..
        } = loaded.take().ok_or(NoMemory)?;
        let extents = u32::try_from(superblock.sectors(&layout).div_ceil(EXTENT_SECTORS))
            .map_err(|_| NoMemory)?;
        let mut bits = Bitmaps::new(bitmaps, &layout, superblock.sectors(&layout))?;
        let log = ActivityLog::new(al_extents.into(), extents, &al_table, al_sequence)?;
        for slot in superblock.slot_of_node.iter().flatten() {
            log.extents().for_each(|extent| {
                bits.set_extent((*slot).into(), extent);
            });
        }
        if superblock.flags & FLAG_INVALIDATED != 0 {
            for slot in superblock.slot_of_node.iter().flatten() {
                bits.set_all((*slot).into());
            }
        }
        if log.used() > 0 {
            superblock.flags |= FLAG_WRITER_ACTIVE;
        }
        let block = H::slab(1, || [0; META_BLOCK_BYTES as usize])?;
        *place = Some(Self {
            stage: Stage::Attaching(token),
            superblock,
            layout,
            block_bytes: info.block_bytes,
            bits,
            log,
            io_pending: 0,
            log_writes: 0,
            wants_clean: false,
            wants_bitmaps: false,
            calm_since: None,
            joined: GenerationId::NONE,
            confirmed_by: 0,
            line_by: 0,
            changes_done: superblock.changes,
            has_changed: false,
            ages_unsaved: None,
            given_up_by: None,
            relocation: None,
            are_bitmaps_first: false,
            superblock_wanted: 0,
            superblock_writing: None,
            superblock_done: 0,
            bitmaps_writing: [None; BITMAP_WRITES_MAX],
            is_log_prepared: false,
            is_log_writing: false,
            block,
        });
        Ok(())
    }

    /// Notes that the superblock changed and gives the number to wait for.
    pub(super) fn touch(&mut self) -> u64 {
        self.has_changed = true;
        self.want_superblock()
    }

    /// Notes a change that states tell, so none is sent before it is durable.
    pub(super) fn note_line(&mut self) {
        self.line_by = self.touch();
    }

    /// Has the superblock written, and gives the number to wait for.
    pub(super) fn want_superblock(&mut self) -> u64 {
        // A write under way took the content of before.
        self.superblock_wanted = self
            .superblock_writing
            .unwrap_or(self.superblock_done)
            .saturating_add(1);
        self.superblock_wanted
    }

    /// Whether the superblock with this number is on disk.
    pub(super) fn is_durable(&self, number: u64) -> bool {
        self.superblock_done >= number
    }

    /// Whether the superblock on disk says what the one in memory says.
    pub(super) fn is_settled(&self) -> bool {
        self.superblock_done >= self.superblock_wanted
    }

    /// Whether nothing has needed the activity log for [`LOG_IDLE_MS`]: then it is emptied, so that a crash of the
    /// primary makes only what was written lately suspicious.
    fn has_been_calm(&mut self, now: Time) -> bool {
        if self.log.used() == 0 || self.log.referenced() > 0 {
            self.calm_since = None;
            return false;
        }
        self.calm_since.get_or_insert(now).after_ms(LOG_IDLE_MS) <= now
    }

    /// When the log has been idle for long enough to be emptied; `None`: it is in use, empty, or being emptied.
    pub(super) fn log_deadline(&self) -> Option<Time> {
        // One that is let go is emptied no more.
        let is_due = self.stage == Stage::Running && !self.wants_clean;
        let since = self.calm_since.filter(|_| is_due)?;
        Some(since.after_ms(LOG_IDLE_MS))
    }

    /// Whether no metadata write is under way or wanted.
    pub(super) fn is_clean(&self) -> bool {
        self.is_settled()
            && self.are_bitmaps_written()
            && self.log.used() == 0
            && !self.log.wants_transaction()
            && !self.is_log_prepared
            && self.relocation.is_none()
    }

    /// Whether none of the writers has a block on its way, or one that has to be.
    pub(super) fn is_quiet(&self) -> bool {
        self.superblock_writing.is_none()
            && self.bitmaps_writing.iter().all(Option::is_none)
            && !self.is_log_prepared
    }

    /// Whether every bitmap block on disk is as in memory.
    pub(super) fn are_bitmaps_written(&self) -> bool {
        self.bits.dirty_count() == 0 && self.bitmaps_writing.iter().all(Option::is_none)
    }

    /// The line of generations.
    pub(super) fn ancestry(&self) -> Ancestry {
        Ancestry::new(
            self.superblock.generation,
            self.superblock.ancestry,
            self.superblock.written,
        )
    }

    /// Takes a line of generations over; what peers acknowledged outside of it is forgotten.
    ///
    /// A line that goes on from this one has all of this one's past, also what it is too short to name.
    pub(super) fn set_ancestry(&mut self, line: &Ancestry) {
        let goes_on = line.contains(self.superblock.generation.id);
        // What was given up is gone, or lives on.
        self.superblock.flags &= !FLAG_GIVEN_UP;
        self.superblock.generation = line.current();
        self.superblock.ancestry = *line.former();
        self.superblock.written = line.written_before();
        self.note_line();
        if goes_on {
            return;
        }
        for since in self
            .superblock
            .since
            .iter_mut()
            .filter(|since| !line.contains(**since))
        {
            *since = GenerationId::NONE;
        }
    }

    /// Goes on with a new record. The sequence numbers of another writer begin anew.
    pub(super) fn go_on(&mut self, record: Generation) {
        let before = self.superblock.generation;
        if (record.writer, record.term) != (before.writer, before.term) {
            self.superblock.tail_seq = 0;
        }
        let mut line = self.ancestry();
        line.push(record);
        self.set_ancestry(&line);
    }

    /// Goes on with a record for whatever is here now, although it is not all that the current one led to. It belongs to the
    /// new generation and to no other, so it is as if that were in force, and nothing that a peer acknowledged counts.
    pub(super) fn go_apart(&mut self, record: Generation) {
        self.superblock.tail_seq = 0;
        let mut line = self.ancestry();
        line.push_apart(record);
        self.set_ancestry(&line);
        self.set_flag(FLAG_INCONSISTENT | FLAG_INVALIDATED, false);
        self.superblock.since.fill(GenerationId::NONE);
        self.confirm();
    }

    /// The current generation is in force: whoever writes in it may do so once that is durable.
    pub(super) fn confirm(&mut self) {
        let mut line = self.ancestry();
        line.confirm();
        if line.written_before() != self.superblock.written {
            self.superblock.written = line.written_before();
            self.confirmed_by = self.touch();
        }
    }

    /// As [`Self::confirm`], of the record by which this node becomes primary: from now on a crash may take what was
    /// answered. An election that comes to nothing takes nothing. Returns whether the disk was not marked so already.
    pub(super) fn begin_writing(&mut self) -> bool {
        let is_new = !self.has_flag(FLAG_WRITER_ACTIVE);
        self.confirm();
        self.set_flag(FLAG_WRITER_ACTIVE, true);
        self.confirmed_by = self.touch();
        is_new
    }

    /// Whether the line of generations is on disk, and what was said of the disk together with it.
    pub(super) fn has_line_durable(&self) -> bool {
        self.is_durable(self.line_by)
    }

    /// Whether data of the current generation may go to the disk (G1).
    pub(super) fn may_hold_data(&self) -> bool {
        self.superblock.written == GenerationId::NONE && self.is_durable(self.confirmed_by)
    }

    /// The slot of a node's bitmap.
    pub(super) fn slot(&self, node: NodeId) -> Option<u32> {
        self.superblock
            .slot_of_node
            .get(node.index())
            .copied()
            .flatten()
            .map(u32::from)
    }

    /// Gives a node a slot if it has none; `None`: all are taken.
    pub(super) fn ensure_slot(&mut self, node: NodeId) -> Option<u32> {
        if let Some(slot) = self.slot(node) {
            return Some(slot);
        }
        let used = self.superblock.slot_of_node;
        let free = (0..self.superblock.slots)
            .find(|&slot| !used.iter().flatten().any(|&taken| u32::from(taken) == slot))?;
        *self.superblock.slot_of_node.get_mut(node.index())? = Some(u8::try_from(free).ok()?);
        if self.superblock.generation.id != GenerationId::NONE {
            // Nothing was noted towards the node until now.
            self.bits.set_all(free);
        }
        // Nobody has written its place on disk.
        self.bits.rewrite(free);
        self.touch();
        Some(free)
    }

    /// Sets the bits of a range towards a node. A node without slot needs a full sync anyway.
    pub(super) fn mark(&mut self, node: NodeId, span: Span) {
        if let Some(slot) = self.slot(node) {
            self.bits.set_range(slot, span.sector, span.bytes);
        }
    }

    /// Sets the bits of all blocks between two sectors towards everybody.
    pub(super) fn owe(&mut self, range: SectorRange) {
        let from = range.start / SECTORS_PER_BIT;
        let end = range.end.div_ceil(SECTORS_PER_BIT);
        for slot in self.superblock.slot_of_node.iter().flatten() {
            self.bits
                .set_bits((*slot).into(), from, end.saturating_sub(from));
        }
    }

    /// Whether every bit of a range is set towards a node.
    pub(super) fn is_owed(&self, node: NodeId, range: SectorRange) -> bool {
        let from = range.start / SECTORS_PER_BIT;
        let wanted = range.end.div_ceil(SECTORS_PER_BIT).saturating_sub(from);
        let next = |slot| self.bits.next_run(slot, from, wanted);
        let is_all = |next| matches!(next, Next::Run { bit, len } if bit == from && len >= wanted);
        self.slot(node).is_some_and(|slot| is_all(next(slot)))
    }

    /// Clears the bits of a range towards a node.
    ///
    /// Only for what the node has stable, or this disk has from the node, in the running session (G4).
    pub(super) fn unmark(&mut self, node: NodeId, span: Span) {
        if let Some(slot) = self.slot(node) {
            self.bits.clear_range(slot, span.sector, span.bytes);
        }
    }

    /// Number of bits towards a node.
    pub(super) fn marked(&self, node: NodeId) -> u64 {
        self.slot(node).map_or(0, |slot| self.bits.count(slot))
    }

    /// What a node acknowledged as durable.
    pub(super) fn since(&self, node: NodeId) -> GenerationId {
        self.superblock
            .since
            .get(node.index())
            .copied()
            .unwrap_or_default()
    }

    /// Notes that a node has a generation of this line durable.
    pub(super) fn set_since(&mut self, node: NodeId, id: GenerationId) {
        if let Some(since) = self
            .superblock
            .since
            .get_mut(node.index())
            .filter(|since| **since != id)
        {
            *since = id;
            self.touch();
        }
    }

    /// Sets or clears a flag of the superblock.
    pub(super) fn set_flag(&mut self, flag: u32, is_set: bool) {
        let flags = if is_set {
            self.superblock.flags | flag
        } else {
            self.superblock.flags & !flag
        };
        if flags != self.superblock.flags {
            self.superblock.flags = flags;
            self.touch();
        }
    }

    pub(super) fn has_flag(&self, flag: u32) -> bool {
        self.superblock.flags & flag != 0
    }

    /// Starts all metadata writes that are due.
    fn write_metadata<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, volume: VolumeId) {
        self.run_relocation(cx, volume);
        if self.is_frozen() {
            return;
        }
        if self.wants_clean {
            self.wants_bitmaps = true;
            // INVARIANT: what hot extents spoke for, the ages of the other disks speak for.
            let may_clear = self.save_ages() && self.are_bitmaps_written();
            if may_clear && self.log.used() > self.log.referenced() {
                self.log.clear();
            }
        }
        self.write_superblock(cx, volume);
        if self.wants_bitmaps {
            self.write_bitmaps(cx, volume);
        }
        self.write_log(cx, volume);
    }

    #[inline(never)]
    pub(super) fn write_superblock<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
    ) {
        if self.superblock_writing.is_some() || self.is_settled() {
            return;
        }
        self.are_bitmaps_first &= !self.are_bitmaps_written();
        if self.are_bitmaps_first {
            return;
        }
        let counts = u64::from(core::mem::take(&mut self.has_changed));
        self.superblock.changes = self.superblock.changes.saturating_add(counts);
        self.ages_unsaved = None;
        self.superblock.sequence = self.superblock.sequence.saturating_add(1);
        let sector = self.layout.superblock(self.superblock.sequence);
        let Some(block) = self.block.first_mut() else {
            return;
        };
        self.superblock.encode(block);
        self.superblock_writing = Some(self.superblock_wanted);
        self.io_pending = self.io_pending.saturating_add(1);
        let cookie = Work::Superblock.cookie(volume);
        cx.emit(Effect::Meta {
            volume,
            cookie,
            sector,
            block,
            flush: true,
        });
    }

    fn write_bitmaps<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, volume: VolumeId) {
        while let Some((slot, block)) = self.bits.next_dirty() {
            if !self.write_bitmap(cx, volume, slot, block) {
                return;
            }
        }
        self.wants_bitmaps = !self.are_bitmaps_written();
    }

    /// Writes one block; `false`: not now.
    pub(super) fn write_bitmap<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
        slot: u32,
        number: u64,
    ) -> bool {
        // Two writes of one block in flight could reach the disk in either order.
        if self.bitmaps_writing.contains(&Some((slot, number))) {
            return false;
        }
        let free = self
            .bitmaps_writing
            .iter_mut()
            .zip(0u32..)
            .find(|(place, _)| place.is_none());
        let (Some((place, at)), Some(sector)) = (free, self.layout.bitmap_block(slot, number))
        else {
            return false;
        };
        let Some(block) = self.block.first_mut() else {
            return false;
        };
        if !self.bits.encode(slot, number, block) {
            return false;
        }
        *place = Some((slot, number));
        self.io_pending = self.io_pending.saturating_add(1);
        let cookie = Work::Bitmap(at).cookie(volume);
        cx.emit(Effect::Meta {
            volume,
            cookie,
            sector,
            block,
            flush: false,
        });
        true
    }

    fn write_log<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, volume: VolumeId) {
        if self.log.wants_transaction() {
            self.is_log_prepared = self.log.prepare().is_some();
        }
        self.write_transaction(cx, volume);
    }

    /// Writes the transaction that was prepared, if there is one.
    pub(super) fn write_transaction<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
    ) {
        if !self.is_log_prepared || self.is_log_writing || !self.write_cooling_bitmaps(cx, volume) {
            return;
        }
        let Some(block) = self.block.first_mut() else {
            return;
        };
        let Some(sequence) = self.log.encode(self.superblock.device, block) else {
            return;
        };
        self.is_log_writing = true;
        self.io_pending = self.io_pending.saturating_add(1);
        self.log_writes = self.log_writes.saturating_add(1);
        let (cookie, sector) = (Work::Log.cookie(volume), self.layout.al_block(sequence));
        // INVARIANT: with the flush, an extent cools only when its data and its bitmap blocks are stable.
        cx.emit(Effect::Meta {
            volume,
            cookie,
            sector,
            block,
            flush: true,
        });
    }

    /// Writes the bitmap blocks of the extents that cool; whether all of them are on disk.
    fn write_cooling_bitmaps<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
    ) -> bool {
        let mut are_written = true;
        for at in 0..self.log.evicted().len() {
            let Some(block) = self
                .log
                .evicted()
                .get(at)
                .map(|&extent| Bitmaps::<H>::block_of_extent(extent))
            else {
                break;
            };
            for slot in 0..self.superblock.slots {
                if self.bits.is_dirty(slot, block) {
                    are_written = false;
                    self.write_bitmap(cx, volume, slot, block);
                } else if self.bitmaps_writing.contains(&Some((slot, block))) {
                    are_written = false;
                }
            }
        }
        are_written
    }

    /// A metadata write is done.
    fn metadata_written(&mut self, work: Work) {
        match work {
            Work::Superblock => {
                self.superblock_done = self
                    .superblock_writing
                    .take()
                    .unwrap_or(self.superblock_done);
                self.changes_done = self.superblock.changes;
            }
            Work::Log => {
                self.is_log_prepared = false;
                self.is_log_writing = false;
                self.log.commit();
            }
            Work::Bitmap(place) => {
                if let Some(place) = self.bitmaps_writing.get_mut(place as usize) {
                    *place = None;
                }
            }
            Work::Copy => self.on_copied(),
            _ => {}
        }
    }
}

impl<H: Host> Volume<H> {
    /// Sees to the disk's metadata and to its coming and going.
    #[inline(never)]
    pub(super) fn run_disk<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.run_attach(cx);
        self.run_leaving(cx);
        let (id, has_nobody) = (self.id, self.is_idle(cx));
        if let Some(disk) = self
            .disk
            .as_mut()
            .filter(|disk| disk.stage == Stage::Running)
        {
            let is_calm = disk.has_been_calm(cx.now);
            disk.wants_clean = (has_nobody || is_calm) && disk.log.used() > 0;
            if disk.ages_deadline().is_some_and(|due| due <= cx.now) {
                disk.save_ages();
            }
        }
        if let Some(disk) = self.disk.as_mut().filter(|_| !self.is_broken) {
            let was_moving = disk.relocation.is_some();
            disk.write_metadata(cx, id);
            // One that is let go has waited for that.
            self.recheck |= was_moving && disk.relocation.is_none();
        }
    }

    /// Whether nobody writes: then the log is emptied, so that a crash makes nothing suspicious.
    fn is_idle<O: Output<H>>(&self, cx: &Context<'_, H, O>) -> bool {
        let is_busy = |replica: &Replica<H>| {
            !replica.received.is_empty() || replica.source.is_some() || replica.target.is_some()
        };
        cx.facts.is_quiet
            && self.tail.is_empty()
            && !self.each_replica().any(|(_, replica)| is_busy(replica))
    }

    /// A metadata write was answered.
    #[inline(never)]
    pub(super) fn on_meta_done<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        work: Work,
        result: Result<(), DiskError>,
    ) {
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        disk.io_pending = disk.io_pending.saturating_sub(1);
        if result.is_ok() {
            disk.metadata_written(work);
        } else {
            self.fail_disk(cx, "writing metadata failed");
        }
        self.recheck = true;
    }

    /// Sets the bits of a range towards every node with a slot that is not in `except`.
    pub(super) fn mark_others(&mut self, except: NodeSet, span: Span) {
        if let Some(disk) = self.disk.as_mut() {
            for node in NodeId::all().filter(|&node| !except.contains(node)) {
                disk.mark(node, span);
            }
        }
    }

    /// Term of the current generation.
    pub(super) fn term(&self) -> weft_uapi::units::Term {
        self.disk
            .as_ref()
            .map(|disk| disk.superblock.generation.term)
            .unwrap_or_default()
    }
}
