// SPDX-License-Identifier: GPL-2.0-only

//! What a disk would know after a power cut: its stable metadata, read as an attach would.

use crate::disk::Disk;
use crate::host::SimHost;
use crate::node::{node_id, Node};
use std::collections::BTreeSet;
use weft_engine::ancestry::Ancestry;
use weft_engine::decide::Side;
use weft_engine::load::{LoadedDisk, Read};
use weft_uapi::limits::{AL_EXTENT_BYTES, BITMAP_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{
    AL_SLOT_FREE, FLAG_INCONSISTENT, FLAG_INVALIDATED, FLAG_NEWCOMER, FLAG_WRITER_ACTIVE,
};
use weft_uapi::units::{GenerationId, Incarnation};

const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / SECTOR_BYTES) as u64;
const SECTORS_PER_EXTENT: u64 = (AL_EXTENT_BYTES / SECTOR_BYTES) as u64;

/// What the checkers know of the stable metadata of one disk.
pub(crate) struct Stable {
    loaded: LoadedDisk<SimHost>,
    hot: BTreeSet<u64>,
}

impl Stable {
    /// Brings what is known of a disk up to date; `None`: an attach would be refused.
    pub(super) fn refresh(known: Option<Self>, disk: &mut Disk) -> Option<Self> {
        let changes = disk.take_changes();
        let superblock = disk.superblock()?;
        let has_same_blocks = |stable: &Self| {
            let known = &stable.loaded.superblock;
            let places = (known.disk_sectors, known.area);
            (known.device, known.slot_of_node) == (superblock.device, superblock.slot_of_node)
                && places == (superblock.disk_sectors, superblock.area)
        };
        match (known.filter(has_same_blocks), changes) {
            (Some(mut stable), Some(changes)) => {
                stable.loaded.superblock = **superblock;
                stable.take(disk, |sector| changes.contains(&sector))?;
                Some(stable)
            }
            _ => Self::read(disk),
        }
    }

    /// The same, read from the beginning.
    pub(super) fn read(disk: &Disk) -> Option<Self> {
        let mut stable = Self {
            loaded: disk.load_stable()?,
            hot: BTreeSet::new(),
        };
        stable.read_log();
        Some(stable)
    }

    /// Takes the blocks in, of those that an attach would read, for which `is_wanted` says so.
    fn take(&mut self, disk: &Disk, is_wanted: impl Fn(u64) -> bool) -> Option<()> {
        let reads = self.loaded.reads();
        let reads: Vec<(Read, _)> = reads.filter(|(_, sector)| is_wanted(sector.0)).collect();
        for (what, sector) in &reads {
            self.loaded.take(*what, disk.meta_read_stable(sector.0));
        }
        let is_log = |(what, _): &(Read, _)| matches!(what, Read::Log(_));
        if reads.iter().any(is_log) {
            self.loaded.finish().ok()?;
            self.read_log();
        }
        Some(())
    }

    fn read_log(&mut self) {
        let table = self.loaded.al_table.iter();
        let hot = table.filter(|&&extent| extent != AL_SLOT_FREE);
        self.hot = hot.map(|&extent| extent.into()).collect();
    }

    /// The attach that wrote it last, and how far that came.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.loaded.superblock.attach_id, self.loaded.age())
    }

    /// The bitmap towards `peer`.
    fn bits(&self, peer: usize) -> &[u64] {
        let slot = self.loaded.superblock.slot_of_node[peer];
        let words = self.loaded.layout.bitmap_words() as usize;
        slot.map_or(&[], |slot| {
            &self.loaded.bitmaps[usize::from(slot) * words..][..words]
        })
    }

    /// Whether nothing was ever noted towards `peer`, so that everything is when it gets a bitmap.
    fn is_stranger(&self, peer: usize) -> bool {
        let block = &self.loaded.superblock;
        block.slot_of_node[peer].is_none() && block.generation.id != GenerationId::NONE
    }

    /// Whether bitmap or log name a sector that `peer` may lack.
    pub(super) fn names(&self, peer: usize, sector: u64) -> bool {
        let bit = sector / SECTORS_PER_BIT;
        let word = self.bits(peer).get((bit / 64) as usize).copied();
        (word.unwrap_or(0) >> (bit % 64)) & 1 == 1
            || self.hot.contains(&(sector / SECTORS_PER_EXTENT))
            || self.is_stranger(peer)
            || self.is_given_up()
    }

    /// Whether it owes everything, whatever its bitmaps say.
    fn is_given_up(&self) -> bool {
        self.loaded.superblock.flags & FLAG_INVALIDATED != 0
    }

    /// What `node`, whose disk it is, would tell to `peer` after the next attach.
    pub(super) fn side(&self, node: &Node, peer: usize) -> Side {
        let block = &self.loaded.superblock;
        Side {
            node: node_id(node.id),
            ancestry: Ancestry::new(block.generation, block.ancestry, block.written),
            incarnation: Incarnation(block.incarnation.0 + 1),
            attach_id: u64::MAX,
            former_attaches: block.known_attaches(),
            former_ages: block.known_ages(self.loaded.age()),
            age: self.loaded.age(),
            seen_incarnation: block.seen_incarnation[peer],
            seen_attach_id: block.seen_attach_id[peer],
            seen_age: block.seen_age[peer],
            since: block.since[peer],
            is_dirty: !self.hot.is_empty()
                || self.is_stranger(peer)
                || self.is_given_up()
                || self.bits(peer).iter().any(|&word| word != 0),
            is_inconsistent: block.flags & FLAG_INCONSISTENT != 0,
            is_writer: false,
            is_primary: false,
            has_crashed: !self.hot.is_empty() || block.flags & FLAG_WRITER_ACTIVE != 0,
            discards: node.may_lose_line,
            is_newcomer: block.flags & FLAG_NEWCOMER != 0,
            is_invalidated: false,
            invalidates: false,
            repairs: false,
            has_found: false,
            tail_seq: block.tail_seq,
        }
    }
}
