// SPDX-License-Identifier: GPL-2.0-only

//! What a disk would know after a power cut: its stable metadata, read as an attach would.

use crate::disk::Disk;
use crate::host::SimHost;
use crate::node::{node_id, Node};
use std::collections::BTreeSet;
use weft_engine::ancestry::Ancestry;
use weft_engine::decide::Side;
use weft_engine::load::LoadedDisk;
use weft_uapi::limits::{AL_EXTENT_BYTES, BITMAP_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{AL_SLOT_FREE, FLAG_INCONSISTENT, FLAG_INVALIDATED, FLAG_WRITER_ACTIVE};
use weft_uapi::units::{GenerationId, Incarnation};

const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / SECTOR_BYTES) as u64;
const SECTORS_PER_EXTENT: u64 = (AL_EXTENT_BYTES / SECTOR_BYTES) as u64;

pub(super) struct Stable {
    node: usize,
    loaded: LoadedDisk<SimHost>,
    hot: BTreeSet<u64>,
    /// A person gave the data up.
    discards: bool,
}

impl Stable {
    /// `None`: an attach would be refused.
    pub(super) fn read(node: &Node) -> Option<Self> {
        Self::of(node, &node.disk)
    }

    /// The same of an image of the node's disk.
    pub(super) fn of(node: &Node, disk: &Disk) -> Option<Self> {
        let loaded = disk.load_stable()?;
        let table = loaded.al_table.iter();
        let hot = table
            .filter(|&&extent| extent != AL_SLOT_FREE)
            .map(|&extent| extent.into())
            .collect();
        Some(Self {
            node: node.id,
            loaded,
            hot,
            discards: node.may_lose_line,
        })
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

    /// What would be told to `peer` after the next attach.
    pub(super) fn side(&self, peer: usize) -> Side {
        let block = &self.loaded.superblock;
        Side {
            node: node_id(self.node),
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
            discards: self.discards,
            is_invalidated: false,
            invalidates: false,
            tail_seq: block.tail_seq,
        }
    }
}
