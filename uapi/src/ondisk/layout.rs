// SPDX-License-Identifier: GPL-2.0-only

//! Where things are.
//!
//! ```text
//! internal (one device):  [ data … | bitmap slot 0 … n-1 | activity log | superblock 1 | superblock 0 ]
//! external (own device):  [ superblock 0 | superblock 1 | activity log | bitmap slot 0 … n-1 ]
//! ```
//! The superblocks are found without knowing anything else: in the last two whole 4 KiB blocks of the device, or in
//! the first two. When the data disk has grown, log and bitmaps are laid out anew where nothing of the old layout lies
//! ([`Layout::moved`]): behind it, or, on a device of their own, before it. The superblock says which layout is in force.

use super::activity_log::AL_BLOCKS;
use crate::limits::{
    BITMAP_BLOCK_BYTES, DEVICE_SECTORS_MAX, META_BLOCK_BYTES, NODES_MAX, SECTOR_BYTES,
};
use crate::state::states;
use crate::units::Sector;

const SECTORS_PER_BLOCK: u64 = (META_BLOCK_BYTES / SECTOR_BYTES) as u64;
const BITS_PER_BLOCK: u64 = META_BLOCK_BYTES as u64 * 8;
const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / SECTOR_BYTES) as u64;
const SUPERBLOCKS: u64 = 2;

states! {
    /// Where the metadata are kept.
    MetaKind {
        /// At the end of the data disk.
        Internal = 1 "internal",
        /// On a device of their own.
        External = 2 "external",
    }
}

/// Places of all metadata of one disk.
///
/// # Invariants
/// All places lie on the metadata device, whose size was given to [`Layout::new`], and do not overlap each other or the
/// data; so no sum of them overflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    kind: MetaKind,
    disk_sectors: u64,
    data_sectors: u64,
    slots: u32,
    bitmap_blocks: u64,
    al_block: u64,
    bitmap_block: u64,
    superblocks: [u64; 2],
}

impl Layout {
    /// Lays metadata out for `slots` peers (1 to 31).
    ///
    /// `disk_sectors` is the size of the data disk, `meta_sectors` that of the metadata device (ignored when internal).
    /// `None`: too small, larger than [`DEVICE_SECTORS_MAX`], or a wrong number of slots.
    pub fn new(kind: MetaKind, disk_sectors: u64, meta_sectors: u64, slots: u32) -> Option<Self> {
        Self::at(kind, disk_sectors, meta_sectors, slots, 0)
    }

    /// As [`Self::new`]; on a device of their own, log and bitmaps begin `area` blocks behind the superblocks.
    pub fn at(
        kind: MetaKind,
        disk_sectors: u64,
        meta_sectors: u64,
        slots: u32,
        area: u64,
    ) -> Option<Self> {
        if slots == 0 || slots as usize >= NODES_MAX || disk_sectors > DEVICE_SECTORS_MAX {
            return None;
        }
        let bitmap_blocks = disk_sectors
            .div_ceil(SECTORS_PER_BIT)
            .div_ceil(BITS_PER_BLOCK);
        let bitmaps = bitmap_blocks.checked_mul(slots.into())?;
        let needed = bitmaps.checked_add(u64::from(AL_BLOCKS) + SUPERBLOCKS)?;
        match kind {
            MetaKind::Internal => {
                let data_blocks = (disk_sectors / SECTORS_PER_BLOCK).checked_sub(needed)?;
                let al_block = data_blocks + bitmaps;
                let second = al_block + u64::from(AL_BLOCKS);
                (data_blocks > 0 && area == 0).then_some(Self {
                    kind,
                    disk_sectors,
                    data_sectors: data_blocks * SECTORS_PER_BLOCK,
                    slots,
                    bitmap_blocks,
                    al_block,
                    bitmap_block: data_blocks,
                    superblocks: [second + 1, second],
                })
            }
            MetaKind::External => {
                // Whole blocks only, so that every bit stands for a full 4 KiB.
                let data_sectors = disk_sectors - disk_sectors % SECTORS_PER_BLOCK;
                let end = needed.checked_add(area)?;
                (meta_sectors / SECTORS_PER_BLOCK >= end && data_sectors > 0).then_some(Self {
                    kind,
                    disk_sectors,
                    data_sectors,
                    slots,
                    bitmap_blocks,
                    al_block: SUPERBLOCKS + area,
                    bitmap_block: SUPERBLOCKS + area + u64::from(AL_BLOCKS),
                    superblocks: [0, 1],
                })
            }
        }
    }

    /// The layout for a data disk that has grown to `disk_sectors`, of which nothing but the superblocks of metadata on a
    /// device of their own lies where this one has anything. `None`: there is no room for that.
    pub fn moved(&self, disk_sectors: u64, meta_sectors: u64) -> Option<Self> {
        let at = |area| Self::at(self.kind, disk_sectors, meta_sectors, self.slots, area);
        match self.kind {
            MetaKind::Internal => {
                let old_end = self.disk_sectors.div_ceil(SECTORS_PER_BLOCK);
                at(0).filter(|new| new.bitmap_block >= old_end)
            }
            MetaKind::External => {
                let before = at(0).filter(|new| new.area_end() <= self.al_block);
                before.or(at(self.area_end().checked_sub(SUPERBLOCKS)?))
            }
        }
    }

    /// The block behind log and bitmaps on a device of their own.
    const fn area_end(&self) -> u64 {
        self.bitmap_block + self.bitmap_blocks * self.slots as u64
    }

    /// How many blocks behind the superblocks log and bitmaps begin on a device of their own, see [`Self::at`].
    pub const fn area_offset(&self) -> u64 {
        match self.kind {
            MetaKind::Internal => 0,
            MetaKind::External => self.al_block - SUPERBLOCKS,
        }
    }

    /// The sectors of both superblocks on a metadata device of this size, or `None` when it is too small.
    pub fn superblock_sectors(kind: MetaKind, meta_sectors: u64) -> Option<[Sector; 2]> {
        let blocks = meta_sectors / SECTORS_PER_BLOCK;
        let last = blocks.checked_sub(1)?;
        let [first, second] = match kind {
            MetaKind::Internal => [last, last.checked_sub(1)?],
            MetaKind::External => [0, (blocks > 1).then_some(1)?],
        };
        Some([sector_of(first), sector_of(second)])
    }

    /// Where the metadata are kept.
    pub const fn kind(&self) -> MetaKind {
        self.kind
    }

    /// Size of the data disk that this is the layout for, in sectors.
    pub const fn disk_sectors(&self) -> u64 {
        self.disk_sectors
    }

    /// Size of the device that remains for data, in sectors; a multiple of eight.
    pub const fn data_sectors(&self) -> u64 {
        self.data_sectors
    }

    /// Number of bitmap slots.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Sector of superblock `copy & 1` on the metadata device.
    pub const fn superblock(&self, copy: u64) -> Sector {
        sector_of(if copy & 1 == 0 {
            self.superblocks[0]
        } else {
            self.superblocks[1]
        })
    }

    /// Sector of block `index` of the activity-log ring; the index wraps.
    pub const fn al_block(&self, index: u64) -> Sector {
        sector_of(self.al_block + index % AL_BLOCKS as u64)
    }

    /// Number of 4 KiB blocks of one slot's bitmap.
    pub const fn bitmap_blocks(&self) -> u64 {
        self.bitmap_blocks
    }

    /// Number of 64-bit words of one slot's bitmap.
    pub const fn bitmap_words(&self) -> u64 {
        self.bitmap_blocks * (META_BLOCK_BYTES as u64 / 8)
    }

    /// Sector of block `index` of the bitmap in `slot`, or `None` when there is no such block.
    pub const fn bitmap_block(&self, slot: u32, index: u64) -> Option<Sector> {
        if slot < self.slots && index < self.bitmap_blocks {
            Some(sector_of(
                self.bitmap_block + slot as u64 * self.bitmap_blocks + index,
            ))
        } else {
            None
        }
    }

    /// First sector and number of blocks of the whole metadata area.
    pub const fn area(&self) -> (Sector, u64) {
        let blocks = SUPERBLOCKS
            + self.area_offset()
            + AL_BLOCKS as u64
            + self.bitmap_blocks * self.slots as u64;
        let first = match self.kind {
            MetaKind::Internal => self.bitmap_block,
            MetaKind::External => 0,
        };
        (sector_of(first), blocks)
    }
}

const fn sector_of(block: u64) -> Sector {
    Sector(block * SECTORS_PER_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 21;

    #[test]
    fn internal_metadata_end_with_the_last_whole_block() {
        let layout = Layout::new(MetaKind::Internal, GIB + 3, 0, 7).unwrap();
        let [first, second] = Layout::superblock_sectors(MetaKind::Internal, GIB + 3).unwrap();
        assert_eq!(
            (layout.superblock(0), layout.superblock(1)),
            (first, second)
        );
        assert_eq!(first.0 + SECTORS_PER_BLOCK, GIB);
        let (area, blocks) = layout.area();
        assert_eq!(area.0, layout.data_sectors());
        assert_eq!(area.0 + blocks * SECTORS_PER_BLOCK, GIB);
    }

    #[test]
    fn a_bitmap_has_a_bit_for_every_block_of_data() {
        for disk in [4096, GIB, 3 * GIB + 8, DEVICE_SECTORS_MAX] {
            let layout = Layout::new(MetaKind::Internal, disk, 0, 1).unwrap();
            assert!(layout.bitmap_words() * 64 * SECTORS_PER_BIT >= layout.data_sectors());
        }
    }

    #[test]
    fn a_device_without_room_for_metadata_is_refused() {
        assert_eq!(Layout::new(MetaKind::Internal, 128, 0, 7), None);
        assert_eq!(Layout::new(MetaKind::External, GIB, 64, 7), None);
        assert_eq!(Layout::new(MetaKind::Internal, GIB, 0, 32), None);
        assert_eq!(Layout::new(MetaKind::Internal, u64::MAX, 0, 1), None);
    }

    #[test]
    fn a_layout_for_a_grown_disk_overwrites_nothing_of_the_old_one() {
        let old = Layout::new(MetaKind::Internal, GIB, 0, 7).unwrap();
        assert_eq!(old.moved(GIB + 8, 0), None);
        let new = old.moved(2 * GIB, 0).unwrap();
        assert!(new.area().0 .0 >= GIB && new.superblock(0).0 == 2 * GIB - SECTORS_PER_BLOCK);
        // There and back again, on a device of their own.
        let old = Layout::new(MetaKind::External, GIB, 1 << 12, 7).unwrap();
        let new = old.moved(2 * GIB, 1 << 12).unwrap();
        assert_eq!(new.al_block(0).0, old.bitmap_block(6, 7).unwrap().0 + 8);
        assert_eq!(new.superblock(0), old.superblock(0));
        assert_eq!(old.moved(4 * GIB, 1 << 11), None);
        assert_eq!(new.moved(2 * GIB + 8, 1 << 12).unwrap().area_offset(), {
            new.area_end() - SUPERBLOCKS
        });
        assert_eq!(new.moved(2 * GIB + 8, 1 << 11), None);
    }

    #[test]
    fn slots_do_not_overlap_and_end_before_the_log() {
        let layout = Layout::new(MetaKind::Internal, GIB, 0, 3).unwrap();
        let last = layout.bitmap_block(2, layout.bitmap_blocks() - 1).unwrap();
        assert_eq!(last.0 + SECTORS_PER_BLOCK, layout.al_block(0).0);
        assert_eq!(layout.bitmap_block(3, 0), None);
        assert_eq!(layout.al_block(u64::from(AL_BLOCKS)), layout.al_block(0));
    }
}
