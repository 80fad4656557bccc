// SPDX-License-Identifier: GPL-2.0-only

//! One bitmap per peer slot: which 4 KiB blocks of the device may differ from that peer's.
//!
//! The words lie in memory as they were read from disk. Every metadata block whose words changed is *dirty* until the
//! caller has taken its content to write it ([`Bitmaps::encode`]); what changes meanwhile makes it dirty again.

use crate::host::{Host, NoMemory};
use weft_uapi::limits::{
    AL_EXTENT_BYTES, BITMAP_BLOCK_BYTES, META_BLOCK_BYTES, NODES_MAX, SECTOR_BYTES,
};
use weft_uapi::ondisk::{Layout, MetaBlock};
use weft_uapi::units::Sector;

/// Sectors of one bit.
pub const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / SECTOR_BYTES) as u64;
/// Bits of one extent of the activity log.
pub const BITS_PER_EXTENT: u64 = (AL_EXTENT_BYTES / BITMAP_BLOCK_BYTES) as u64;
/// Bits of one metadata block.
pub const BITS_PER_BLOCK: u64 = META_BLOCK_BYTES as u64 * 8;
/// Words of one metadata block.
const WORDS_PER_BLOCK: u64 = BITS_PER_BLOCK / 64;
/// Words that one search looks at: 2 GiB of the device.
const SCAN_WORDS_MAX: u64 = 8192;

// An extent never spreads over two metadata blocks.
const _: () = assert!(BITS_PER_BLOCK % BITS_PER_EXTENT == 0);

/// Answer of [`Bitmaps::next_run`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Set bits, one after the other.
    Run {
        /// The first of them.
        bit: u64,
        /// How many, at least one.
        len: u64,
    },
    /// None found so far: ask again from this bit.
    Later(u64),
    /// No bit is set from there to the end.
    None,
}

/// The bitmaps of one disk.
///
/// # Invariants
/// * No bit at or past `bits` is set.
/// * `count[slot]` is the number of set bits of the slot.
pub struct Bitmaps<H: Host> {
    words: H::Slab<u64>,
    slots: u32,
    words_per_slot: u64,
    bits: u64,
    /// One bit per metadata block, slot by slot.
    dirty: H::Slab<u64>,
    blocks_per_slot: u64,
    dirty_count: u64,
    count: [u64; NODES_MAX],
}

impl<H: Host> Bitmaps<H> {
    /// Takes over the words read from disk, [`Layout::bitmap_words`] per slot. Bits past the end of the device, which has so
    /// many sectors, are dropped. Context: may sleep.
    pub fn new(words: H::Slab<u64>, layout: &Layout, sectors: u64) -> Result<Self, NoMemory> {
        let blocks = layout.bitmap_blocks().saturating_mul(layout.slots().into());
        let dirty_words = usize::try_from(blocks.div_ceil(64)).map_err(|_| NoMemory)?;
        let mut bitmaps = Self {
            words,
            slots: layout.slots(),
            words_per_slot: layout.bitmap_words(),
            bits: sectors.div_ceil(SECTORS_PER_BIT),
            dirty: H::slab(dirty_words, || 0)?,
            blocks_per_slot: layout.bitmap_blocks(),
            dirty_count: 0,
            count: [0; NODES_MAX],
        };
        for slot in 0..layout.slots() {
            let past_end = bitmaps
                .words_per_slot
                .saturating_mul(64)
                .saturating_sub(bitmaps.bits);
            bitmaps.change(slot, bitmaps.bits, past_end, false);
            let set = bitmaps
                .slot_words(slot)
                .iter()
                .map(|word| u64::from(word.count_ones()))
                .sum();
            if let Some(count) = bitmaps.count_mut(slot) {
                *count = set;
            }
        }
        Ok(bitmaps)
    }

    /// Takes the bits of others, of the same slots and with no more room, over; nothing has been set here before. What was
    /// to be written of the others is to be written of these.
    pub fn take_over(&mut self, others: &Self) {
        (self.bits, self.count) = (others.bits, others.count);
        for slot in 0..self.slots {
            let places = slot_range(slot, self.words_per_slot);
            let places = places.and_then(|range| self.words.get_mut(range));
            for (to, from) in places.into_iter().flatten().zip(others.slot_words(slot)) {
                *to = *from;
            }
            for block in (0..others.blocks_per_slot).filter(|&block| others.is_dirty(slot, block)) {
                self.mark_dirty(slot, block);
            }
        }
    }

    /// The device has so many sectors from now on.
    pub fn resize(&mut self, sectors: u64) {
        let old = core::mem::replace(&mut self.bits, sectors.div_ceil(SECTORS_PER_BIT));
        for slot in 0..self.slots {
            let past_end = old.saturating_sub(self.bits);
            let cleared = self.change(slot, self.bits, past_end, false);
            if let Some(count) = self.count_mut(slot) {
                *count = count.saturating_sub(cleared);
            }
        }
    }

    /// Has every block of a slot written.
    pub fn rewrite(&mut self, slot: u32) {
        for block in 0..self.blocks_per_slot {
            self.mark_dirty(slot, block);
        }
    }

    /// Number of metadata blocks of each bitmap.
    pub fn blocks(&self) -> u64 {
        self.blocks_per_slot
    }

    /// Number of bits of each bitmap.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of set bits.
    pub fn count(&self, slot: u32) -> u64 {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| self.count.get(slot))
            .copied()
            .unwrap_or(0)
    }

    /// Sets the bit of every block that the range touches and gives the number of those that were not set before.
    pub fn set_range(&mut self, slot: u32, sector: Sector, bytes: u32) -> u64 {
        let (from, len) = touched(sector, bytes);
        self.set_bits(slot, from, len)
    }

    /// Clears the bit of every block that the range covers as a whole and gives the number of those that were set.
    pub fn clear_range(&mut self, slot: u32, sector: Sector, bytes: u32) -> u64 {
        let (from, len) = covered(sector, bytes);
        self.clear_bits(slot, from, len)
    }

    /// Sets the bits of an extent of the activity log.
    pub fn set_extent(&mut self, slot: u32, extent: u32) -> u64 {
        self.set_bits(
            slot,
            u64::from(extent).saturating_mul(BITS_PER_EXTENT),
            BITS_PER_EXTENT,
        )
    }

    /// Sets `len` bits and gives the number of those that were not set before.
    pub fn set_bits(&mut self, slot: u32, from: u64, len: u64) -> u64 {
        let changed = self.change(slot, from, self.clipped(from, len), true);
        if let Some(count) = self.count_mut(slot) {
            *count = count.saturating_add(changed);
        }
        changed
    }

    /// Clears `len` bits and gives the number of those that were set.
    pub fn clear_bits(&mut self, slot: u32, from: u64, len: u64) -> u64 {
        let changed = self.change(slot, from, self.clipped(from, len), false);
        if let Some(count) = self.count_mut(slot) {
            *count = count.saturating_sub(changed);
        }
        changed
    }

    /// Sets every bit. Takes time in proportion to the size of the device.
    pub fn set_all(&mut self, slot: u32) {
        self.set_bits(slot, 0, self.bits);
    }

    /// Clears every bit. Takes time in proportion to the size of the device.
    pub fn clear_all(&mut self, slot: u32) {
        self.clear_bits(slot, 0, self.bits);
    }

    /// Sets the bits that are set in a word of another bitmap; `false`: there is no such word.
    pub fn union_word(&mut self, slot: u32, index: u64, word: u64) -> bool {
        if index >= self.words_per_slot {
            return false;
        }
        let mut left = word;
        while left != 0 {
            let start = left.trailing_zeros();
            let len = (left >> start).trailing_ones();
            self.set_bits(
                slot,
                index.saturating_mul(64).saturating_add(start.into()),
                len.into(),
            );
            left &= !mask(start, len);
        }
        true
    }

    /// Whether the bit of any block that the range touches is set.
    pub fn is_set_any(&self, slot: u32, sector: Sector, bytes: u32) -> bool {
        let (from, len) = touched(sector, bytes);
        let words = self.slot_words(slot);
        parts(from, self.clipped(from, len))
            .any(|(index, mask)| at(words, index).is_some_and(|word| word & mask != 0))
    }

    /// The next run of set bits at or after `from`, cut off at `max` bits.
    pub fn next_run(&self, slot: u32, from: u64, max: u64) -> Next {
        let words = self.slot_words(slot);
        let first = from / 64;
        for index in first..self.words_per_slot {
            if index.saturating_sub(first) >= SCAN_WORDS_MAX {
                return Next::Later(index.saturating_mul(64));
            }
            let mut word = at(words, index).unwrap_or(0);
            if index == first {
                word &= u64::MAX << (from % 64);
            }
            if word != 0 {
                let bit = index
                    .saturating_mul(64)
                    .saturating_add(word.trailing_zeros().into());
                return Next::Run {
                    bit,
                    len: run_length(words, bit, max.max(1)),
                };
            }
        }
        Next::None
    }

    /// Words of one bitmap: at most `len` from index `first`, as many as there are.
    pub fn words(&self, slot: u32, first: u64, len: usize) -> &[u64] {
        let words = self.slot_words(slot);
        let rest = usize::try_from(first)
            .ok()
            .and_then(|first| words.get(first..))
            .unwrap_or(&[]);
        rest.get(..len).unwrap_or(rest)
    }

    /// Number of words of each bitmap.
    pub fn words_per_slot(&self) -> u64 {
        self.words_per_slot
    }

    /// The metadata block that holds the bits of an extent.
    pub const fn block_of_extent(extent: u32) -> u64 {
        (extent as u64).saturating_mul(BITS_PER_EXTENT) / BITS_PER_BLOCK
    }

    /// Whether the block has to be written.
    pub fn is_dirty(&self, slot: u32, block: u64) -> bool {
        let at = self.dirty_place(slot, block);
        at.and_then(|(index, bit)| self.dirty.get(index).map(|word| word & bit != 0))
            .unwrap_or(false)
    }

    /// Number of blocks that have to be written.
    pub fn dirty_count(&self) -> u64 {
        self.dirty_count
    }

    /// Any block that has to be written.
    pub fn next_dirty(&self) -> Option<(u32, u64)> {
        if self.dirty_count == 0 {
            return None;
        }
        let (index, word) = self.dirty.iter().enumerate().find(|(_, &word)| word != 0)?;
        let number = u64::try_from(index)
            .ok()?
            .saturating_mul(64)
            .saturating_add(word.trailing_zeros().into());
        let slot = u32::try_from(number.checked_div(self.blocks_per_slot)?).ok()?;
        Some((slot, number.checked_rem(self.blocks_per_slot)?))
    }

    /// Makes the block dirty, for example when writing it failed.
    pub fn mark_dirty(&mut self, slot: u32, block: u64) {
        let Some((index, bit)) = self.dirty_place(slot, block) else {
            return;
        };
        if let Some(word) = self.dirty.get_mut(index).filter(|word| **word & bit == 0) {
            *word |= bit;
            self.dirty_count = self.dirty_count.saturating_add(1);
        }
    }

    /// Copies the block's words into `to`, to be written now; the block is clean until they change again. `false`:
    /// there is no such block.
    pub fn encode(&mut self, slot: u32, block: u64, to: &mut MetaBlock) -> bool {
        let Some((index, bit)) = self.dirty_place(slot, block) else {
            return false;
        };
        if let Some(word) = self.dirty.get_mut(index).filter(|word| **word & bit != 0) {
            *word &= !bit;
            self.dirty_count = self.dirty_count.saturating_sub(1);
        }
        let words = self.words(slot, block.saturating_mul(WORDS_PER_BLOCK), to.len() / 8);
        for (bytes, word) in to.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        true
    }

    fn count_mut(&mut self, slot: u32) -> Option<&mut u64> {
        self.count.get_mut(usize::try_from(slot).ok()?)
    }

    /// Number of bits from `from` that lie on the device.
    fn clipped(&self, from: u64, len: u64) -> u64 {
        len.min(self.bits.saturating_sub(from))
    }

    fn slot_words(&self, slot: u32) -> &[u64] {
        let range = slot_range(slot, self.words_per_slot);
        range.and_then(|range| self.words.get(range)).unwrap_or(&[])
    }

    /// Sets or clears bits, marks what changed as dirty and gives the number of changed bits.
    fn change(&mut self, slot: u32, from: u64, len: u64, set: bool) -> u64 {
        let mut changed: u64 = 0;
        for (index, mask) in parts(from, len) {
            let range = slot_range(slot, self.words_per_slot);
            let words = range
                .and_then(|range| self.words.get_mut(range))
                .unwrap_or(&mut []);
            let Some(word) = usize::try_from(index)
                .ok()
                .and_then(|index| words.get_mut(index))
            else {
                break;
            };
            let old = *word;
            *word = if set { old | mask } else { old & !mask };
            let flipped = u64::from((old ^ *word).count_ones());
            if flipped > 0 {
                changed = changed.saturating_add(flipped);
                self.mark_dirty(slot, index / WORDS_PER_BLOCK);
            }
        }
        changed
    }

    /// Index of the word and mask of the bit that tells whether a block is dirty.
    fn dirty_place(&self, slot: u32, block: u64) -> Option<(usize, u64)> {
        if slot >= self.slots || block >= self.blocks_per_slot {
            return None;
        }
        let number = u64::from(slot)
            .checked_mul(self.blocks_per_slot)?
            .checked_add(block)?;
        Some((
            usize::try_from(number / 64).ok()?,
            mask((number % 64) as u32, 1),
        ))
    }
}

/// Where the words of a slot lie.
fn slot_range(slot: u32, words_per_slot: u64) -> Option<core::ops::Range<usize>> {
    let start = u64::from(slot).checked_mul(words_per_slot)?;
    let end = start.checked_add(words_per_slot)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

fn at(words: &[u64], index: u64) -> Option<u64> {
    usize::try_from(index)
        .ok()
        .and_then(|index| words.get(index))
        .copied()
}

/// First bit and number of the blocks that a range touches.
fn touched(sector: Sector, bytes: u32) -> (u64, u64) {
    let end = sector
        .0
        .saturating_add(u64::from(bytes.div_ceil(SECTOR_BYTES)));
    let from = sector.0 / SECTORS_PER_BIT;
    let len = if bytes == 0 {
        0
    } else {
        end.div_ceil(SECTORS_PER_BIT).saturating_sub(from)
    };
    (from, len)
}

/// First bit and number of the blocks that a range covers as a whole.
fn covered(sector: Sector, bytes: u32) -> (u64, u64) {
    let end = sector.0.saturating_add(u64::from(bytes / SECTOR_BYTES));
    let from = sector.0.div_ceil(SECTORS_PER_BIT);
    (from, (end / SECTORS_PER_BIT).saturating_sub(from))
}

/// `len` bits of a word from `start`; `len` is at least 1 and both together at most 64.
const fn mask(start: u32, len: u32) -> u64 {
    let ones = u64::MAX >> (64_u32.saturating_sub(len) & 63);
    ones << (start & 63)
}

/// The words that `len` bits from `from` lie in, each with the mask of those bits.
fn parts(from: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = from.saturating_add(len);
    let words = if len == 0 {
        0..0
    } else {
        from / 64..end.div_ceil(64)
    };
    words.map(move |index| {
        let base = index.saturating_mul(64);
        let start = from.saturating_sub(base).min(63) as u32;
        let stop = end.saturating_sub(base).min(64) as u32;
        (index, mask(start, stop.saturating_sub(start)))
    })
}

/// Number of set bits in a row from `bit`, at most `max`.
fn run_length(words: &[u64], bit: u64, max: u64) -> u64 {
    let mut len: u64 = 0;
    while len < max {
        let next = bit.saturating_add(len);
        let Some(word) = at(words, next / 64) else {
            break;
        };
        let offset = next % 64;
        let ones = u64::from((word >> offset).trailing_ones());
        len = len.saturating_add(ones);
        if ones.saturating_add(offset) < 64 {
            break;
        }
    }
    len.min(max)
}

#[cfg(test)]
mod tests;
