// SPDX-License-Identifier: GPL-2.0-only

//! Reading a disk's metadata before it is handed to the engine.
//!
//! Runs outside of the engine's lock, since the host waits for the disk: the host reads both superblocks and calls
//! [`LoadedDisk::begin`], then reads every block that [`LoadedDisk::reads`] names and feeds it to
//! [`LoadedDisk::take`]; after the last one the disk is ready for [`crate::event::Event::Attach`].

use crate::host::{Host, NoMemory};
use weft_uapi::limits::{is_block_size, META_BLOCK_BYTES, NODES_MAX, SECTOR_BYTES};
use weft_uapi::ondisk::{
    newest_superblock, AlReplay, AlTransaction, Layout, MetaBlock, MetaKind, Superblock,
    SuperblockError, AL_BLOCKS, AL_EXTENTS,
};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, VolumeId};

const WORDS_PER_BLOCK: usize = META_BLOCK_BYTES as usize / 8;
const SECTORS_PER_BLOCK: u64 = (META_BLOCK_BYTES / SECTOR_BYTES) as u64;

/// What the host knows of the lower disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskInfo {
    /// Size of the data disk in sectors.
    pub disk_sectors: u64,
    /// Size of the metadata device in sectors; the same number when metadata are internal.
    pub meta_sectors: u64,
    /// When metadata are internal, the superblocks were read from the end of so many sectors: all, unless the disk has become
    /// larger while nobody used it.
    pub meta_end: u64,
    /// The lower disk accepts discards.
    pub can_discard: bool,
    /// Logical block size of the device that the disk is for, in bytes; see [`weft_uapi::limits::is_block_size`].
    pub block_bytes: u32,
    /// Which resource, volume and node the disk is meant for.
    pub volume: VolumeId,
    /// This node.
    pub node: NodeId,
    /// Name of the resource, padded with zeros.
    pub resource: weft_uapi::status::Name,
    /// Where the metadata are kept.
    pub meta_kind: weft_uapi::ondisk::MetaKind,
}

/// A disk with its metadata in memory.
pub struct LoadedDisk<H: Host> {
    /// What the host knows of it.
    pub info: DiskInfo,
    /// The newest superblock.
    pub superblock: Superblock,
    /// Where everything is.
    pub layout: Layout,
    /// Hot extents by slot; see [`AL_EXTENTS`].
    pub al_table: H::Slab<u32>,
    /// Sequence number for the next transaction of the activity log.
    pub al_sequence: u64,
    /// One bitmap per slot, one after the other, [`Layout::bitmap_words`] each.
    pub bitmaps: H::Slab<u64>,
    ring: H::Slab<Option<AlTransaction>>,
}

/// A block that the host has to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// Block of the activity-log ring.
    Log(u64),
    /// Block of a slot's bitmap.
    Bitmap {
        /// The slot.
        slot: u32,
        /// The block.
        block: u64,
    },
}

/// Whether the device fits the disk, and what is yet to be overwritten with zeros is neither of the device nor of the
/// metadata.
#[inline(never)] // The caller has enough on the stack.
fn has_sound_sizes(superblock: &Superblock, layout: &Layout) -> bool {
    let sectors = superblock.sectors(layout);
    let is_free = |former: Layout| {
        let (start, _) = former.area();
        sectors <= start.0 && former.disk_sectors() <= layout.data_sectors()
    };
    let is_whole = sectors > 0 && sectors % SECTORS_PER_BLOCK == 0;
    let has_former = superblock.former_sectors != 0;
    is_whole
        && sectors <= layout.data_sectors()
        && (!has_former || superblock.former_layout().is_some_and(is_free))
}

impl<H: Host> LoadedDisk<H> {
    /// Checks the superblocks and allocates what the metadata need. Context: may sleep.
    #[inline(always)] // Its result is too large to lie on the stack twice.
    pub fn begin(info: DiskInfo, first: &MetaBlock, second: &MetaBlock) -> Result<Self, Refusal> {
        if !is_block_size(info.block_bytes) {
            return Err(Refusal::BlockSize);
        }
        let superblock = newest_superblock(first, second).map_err(|error| match error {
            SuperblockError::None => Refusal::MetaNone,
            SuperblockError::Corrupt => Refusal::MetaCorrupt,
            SuperblockError::Version(_) => Refusal::MetaVersion,
        })?;
        let belongs = superblock.node == info.node
            && superblock.volume == info.volume
            && superblock.resource == info.resource
            && superblock.meta_kind == info.meta_kind
            && (info.meta_kind == MetaKind::External || superblock.disk_sectors == info.meta_end);
        if !belongs {
            return Err(Refusal::MetaForeign);
        }
        let layout = superblock
            .layout(info.meta_sectors)
            .filter(|layout| layout.disk_sectors() <= info.disk_sectors)
            .ok_or(Refusal::DiskTooSmall)?;
        if !has_sound_sizes(&superblock, &layout) {
            return Err(Refusal::MetaCorrupt);
        }
        let words = usize::try_from(
            layout
                .bitmap_words()
                .saturating_mul(u64::from(layout.slots())),
        )
        .map_err(|_| Refusal::NoMemory)?;
        let memory = |_: NoMemory| Refusal::NoMemory;
        Ok(Self {
            info,
            superblock,
            layout,
            al_table: H::slab(AL_EXTENTS.into(), || 0).map_err(memory)?,
            al_sequence: 0,
            bitmaps: H::slab(words, || 0).map_err(memory)?,
            ring: H::slab(AL_BLOCKS as usize, || None).map_err(memory)?,
        })
    }

    /// All blocks to read, with their sectors on the metadata device.
    pub fn reads(&self) -> impl Iterator<Item = (Read, Sector)> {
        let layout = self.layout;
        let used = self.superblock.slot_of_node;
        let log =
            (0..u64::from(AL_BLOCKS)).map(move |block| (Read::Log(block), layout.al_block(block)));
        let bitmaps = (0..NODES_MAX)
            .filter_map(move |node| used.get(node).copied().flatten())
            .flat_map(move |slot| {
                let slot = u32::from(slot);
                (0..layout.bitmap_blocks()).filter_map(move |block| {
                    Some((
                        Read::Bitmap { slot, block },
                        layout.bitmap_block(slot, block)?,
                    ))
                })
            });
        log.chain(bitmaps)
    }

    /// Takes one block that was read.
    pub fn take(&mut self, read: Read, block: &MetaBlock) {
        match read {
            Read::Log(index) => {
                let transaction = AlTransaction::parse(block, self.superblock.device);
                if let Some(place) = usize::try_from(index)
                    .ok()
                    .and_then(|index| self.ring.get_mut(index))
                {
                    *place = transaction;
                }
            }
            Read::Bitmap { slot, block: index } => {
                let first = u64::from(slot)
                    .saturating_mul(self.layout.bitmap_words())
                    .saturating_add(index.saturating_mul(WORDS_PER_BLOCK as u64));
                let words = self
                    .bitmaps
                    .iter_mut()
                    .skip(usize::try_from(first).unwrap_or(usize::MAX));
                for (word, bytes) in words.zip(block.chunks_exact(8)) {
                    *word = bytes
                        .first_chunk::<8>()
                        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
                }
            }
        }
    }

    /// How far the metadata have come, see [`weft_uapi::wire::AgeBody`]; known once [`Self::finish`] was called.
    pub fn age(&self) -> u64 {
        self.superblock.changes.saturating_add(self.al_sequence)
    }

    /// Replays the activity log once all blocks were taken.
    pub fn finish(&mut self) -> Result<(), Refusal> {
        let Self { ring, al_table, .. } = self;
        let mut replay = AlReplay::new(al_table).ok_or(Refusal::Internal)?;
        // Not sorted: that would copy transactions about on the stack, for which they are too large.
        let next = |last: Option<u64>| {
            let later = ring
                .iter()
                .flatten()
                .filter(|transaction| Some(transaction.sequence) > last);
            later.min_by_key(|transaction| transaction.sequence)
        };
        while let Some(transaction) = next(replay.last_sequence()) {
            replay.apply(transaction);
        }
        self.al_sequence = replay
            .last_sequence()
            .map_or(0, |last| last.saturating_add(1));
        Ok(())
    }
}
