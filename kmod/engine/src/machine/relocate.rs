// SPDX-License-Identifier: GPL-2.0-only

//! The metadata of a disk that has become larger move to where there is room for them.
//!
//! ```text
//! Draining -> Copying -> Committing -> Erasing (internal only) -> Closing -> done
//!   writers end  bitmaps and log,  superblock in   zeros where the      both superblocks
//!                where nothing is  the new place   metadata were        say so
//! ```
//! A purely local matter: the device keeps its size. INVARIANT: nothing of the old metadata is overwritten before the first
//! superblock of the new layout is stable, and that is written when all it speaks of is. So a crash before that finds
//! the old layout, whole, and one after it the new one. Until then the writers of metadata rest: what needs them waits, such as
//! writes to cold extents. From then on they write to the new place, and what the old one held becomes zeros,
//! the same on every node, before it can become part of the device; if the power fails before, the next attach goes on
//! with that ([`Superblock::former_sectors`](weft_uapi::ondisk::Superblock)).

use super::context::Context;
use super::cookie::Work;
use super::disk::Disk;
use super::volume::Volume;
use crate::effect::{Data, Effect, Level};
use crate::event::{DiskError, Io, Op};
use crate::host::{Host, Output};
use crate::room::Room;
use weft_uapi::limits::{DISCARD_BYTES_MAX, META_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{Layout, MetaKind, AL_BLOCKS};
use weft_uapi::units::{Sector, VolumeId};

const SECTORS_PER_BLOCK: u64 = (META_BLOCK_BYTES / SECTOR_BYTES) as u64;

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// What the writers began has to end.
    Draining,
    /// This block of a bitmap, of all slots one after the other, is next.
    Copying(u64),
    /// The superblock with this number is to be on disk.
    Committing(u64),
    /// Zeros from this sector on.
    Erasing(u64),
    /// As [`Stage::Committing`].
    Closing(u64),
}

/// A move.
pub(super) struct Relocation<H: Host> {
    /// Where to, with new bitmaps; the old ones once they were taken over. `None`: it is done but for the erasing.
    room: Option<Room<H>>,
    stage: Stage,
    /// Blocks of the log's copy that the host has not answered.
    copies: u32,
    /// Zeros are being written.
    is_erasing: bool,
}

impl<H: Host> Disk<H> {
    /// Size of the device in sectors, of which everybody may know that finds it on disk or is told of it.
    pub(super) fn sectors(&self) -> u64 {
        self.superblock.sectors(&self.layout)
    }

    /// Size of the largest device that the disk has room for, in sectors.
    pub(super) fn room(&self) -> u64 {
        self.layout.data_sectors()
    }

    /// Moves the metadata.
    pub(super) fn relocate(&mut self, room: &mut Option<Room<H>>) {
        let is_meant = |room: &&mut Room<H>| room.from == self.layout;
        if self.relocation.is_none() && room.as_mut().filter(is_meant).is_some() {
            self.relocation = Some(Relocation {
                room: room.take(),
                stage: Stage::Draining,
                copies: 0,
                is_erasing: false,
            });
        }
    }

    /// Goes on with a move that a crash interrupted after the new layout was in force.
    pub(super) fn resume_relocation(&mut self) {
        if let Some(former) = self.superblock.former_layout() {
            self.relocation = Some(Relocation {
                room: None,
                stage: Stage::Erasing(former.area().0 .0),
                copies: 0,
                is_erasing: false,
            });
        }
    }

    /// Whether the writers of metadata rest.
    pub(super) fn is_frozen(&self) -> bool {
        let stage = self.relocation.as_ref().map(|move_| move_.stage);
        matches!(
            stage,
            Some(Stage::Draining | Stage::Copying(_) | Stage::Committing(_))
        )
    }

    /// A block of the log's copy is written.
    pub(super) fn on_copied(&mut self) {
        if let Some(relocation) = self.relocation.as_mut() {
            relocation.copies = relocation.copies.saturating_sub(1);
        }
    }

    /// Goes on with the move.
    #[inline(never)]
    pub(super) fn run_relocation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
    ) {
        while let Some(relocation) = self.relocation.as_ref() {
            let stage = relocation.stage;
            let next = match stage {
                Stage::Draining => self.drain(cx, volume),
                Stage::Copying(at) => self.copy(cx, volume, at),
                Stage::Committing(number) => self.commit(cx, volume, number),
                Stage::Erasing(sector) => self.erase(cx, volume, sector),
                Stage::Closing(number) if self.is_durable(number) => {
                    cx.log(
                        Level::Info,
                        format_args!(
                            "volume {volume}: the metadata are where a disk of {} sectors has them",
                            self.layout.disk_sectors()
                        ),
                    );
                    self.relocation = None;
                    return;
                }
                Stage::Closing(_) => stage,
            };
            if let Some(relocation) = self.relocation.as_mut() {
                relocation.stage = next;
            }
            if next == stage {
                return;
            }
        }
    }

    /// Lets the writers come to rest, and has them write to the new place from then on.
    fn drain<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, volume: VolumeId) -> Stage {
        self.write_transaction(cx, volume);
        if !self.is_quiet() {
            return Stage::Draining;
        }
        let relocation = self.relocation.as_mut();
        let Some(room) = relocation.and_then(|relocation| relocation.room.as_mut()) else {
            return Stage::Draining;
        };
        room.bits.take_over(&self.bits);
        core::mem::swap(&mut room.bits, &mut self.bits);
        let (from, to) = (room.from, room.to);
        // The layout does not say it any more.
        self.superblock.size = self.superblock.sectors(&from);
        self.superblock.disk_sectors = to.disk_sectors();
        self.superblock.area = to.area_offset();
        if to.kind() == MetaKind::Internal {
            self.superblock.former_sectors = from.disk_sectors();
        }
        self.layout = to;
        self.copy_log(cx, volume);
        Stage::Copying(0)
    }

    /// Writes the whole ring of the log, so that nothing that was found there counts, and makes sure that the place of the
    /// second superblock holds none.
    fn copy_log<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, volume: VolumeId) {
        let mut copies: u32 = 0;
        let (layout, device) = (self.layout, self.superblock.device);
        for ahead in 0..u64::from(AL_BLOCKS) {
            let Some(block) = self.block.first_mut() else {
                return;
            };
            if let Some(sequence) = self.log.encode_copy(device, ahead, block) {
                emit_copy(cx, volume, layout.al_block(sequence), block);
                copies = copies.saturating_add(1);
            }
        }
        if layout.kind() == MetaKind::Internal {
            if let Some(block) = self.block.first_mut() {
                block.fill(0);
                let second = self.superblock.sequence.wrapping_add(2);
                emit_copy(cx, volume, layout.superblock(second), block);
                copies = copies.saturating_add(1);
            }
        }
        self.io_pending = self.io_pending.saturating_add(copies);
        if let Some(relocation) = self.relocation.as_mut() {
            relocation.copies = copies;
        }
    }

    /// Writes the bitmaps, then the superblock that says where they are.
    fn copy<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
        mut at: u64,
    ) -> Stage {
        let blocks = self.bits.blocks().max(1);
        let end = blocks.saturating_mul(self.layout.slots().into());
        while at < end {
            let slot = u32::try_from(at.checked_div(blocks).unwrap_or(0)).unwrap_or(u32::MAX);
            let mut used = self.superblock.slot_of_node.iter().flatten();
            let is_used = used.any(|&used| u32::from(used) == slot);
            let block = at.checked_rem(blocks).unwrap_or(0);
            if is_used && !self.write_bitmap(cx, volume, slot, block) {
                return Stage::Copying(at);
            }
            at = at.saturating_add(1);
        }
        let copies = self.relocation.as_ref().map_or(0, |it| it.copies);
        if copies > 0 || !self.is_quiet() {
            return Stage::Copying(at);
        }
        Stage::Committing(self.touch())
    }

    fn commit<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
        number: u64,
    ) -> Stage {
        if !self.is_durable(number) {
            self.write_superblock(cx, volume);
            return Stage::Committing(number);
        }
        self.log.skip(AL_BLOCKS.into());
        match self.superblock.former_layout() {
            Some(former) => Stage::Erasing(former.area().0 .0),
            // No superblock says any longer that the metadata are where they were.
            None => Stage::Closing(self.touch()),
        }
    }

    /// Overwrites the old metadata from a sector on.
    fn erase<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        volume: VolumeId,
        sector: u64,
    ) -> Stage {
        let former = self.superblock.former_layout();
        let left = former.map_or(0, |former| area_end(&former).saturating_sub(sector));
        let Some(relocation) = self.relocation.as_mut() else {
            return Stage::Erasing(sector);
        };
        if relocation.is_erasing {
            return Stage::Erasing(sector);
        }
        if left == 0 {
            self.superblock.former_sectors = 0;
            return Stage::Closing(self.touch());
        }
        let bytes = left.saturating_mul(SECTOR_BYTES.into());
        let bytes = u32::try_from(bytes.min(DISCARD_BYTES_MAX.into())).unwrap_or(DISCARD_BYTES_MAX);
        relocation.is_erasing = true;
        self.io_pending = self.io_pending.saturating_add(1);
        cx.emit(Effect::Disk {
            volume,
            cookie: Work::Erase.cookie(volume),
            io: Io {
                op: Op::WriteZeroes { no_unmap: false },
                sector: Sector(sector),
                bytes,
                fua: false,
                preflush: false,
            },
            data: Data::None,
        });
        Stage::Erasing(sector.saturating_add(u64::from(bytes / SECTOR_BYTES)))
    }
}

impl<H: Host> Volume<H> {
    /// A part of the old metadata is overwritten.
    pub(super) fn on_erased<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        result: Result<(), DiskError>,
    ) {
        if result.is_err() {
            return self.fail_disk(cx, "overwriting the old metadata failed");
        }
        let disk = self.disk.as_mut();
        if let Some(relocation) = disk.and_then(|disk| disk.relocation.as_mut()) {
            relocation.is_erasing = false;
        }
        self.recheck = true;
    }
}

fn emit_copy<H: Host, O: Output<H>>(
    cx: &mut Context<'_, H, O>,
    volume: VolumeId,
    sector: Sector,
    block: &weft_uapi::ondisk::MetaBlock,
) {
    cx.emit(Effect::Meta {
        volume,
        cookie: Work::Copy.cookie(volume),
        sector,
        block,
        flush: false,
    });
}

/// The sector behind the metadata at the end of a disk.
fn area_end(layout: &Layout) -> u64 {
    let (start, blocks) = layout.area();
    start
        .0
        .saturating_add(blocks.saturating_mul(SECTORS_PER_BLOCK))
}
