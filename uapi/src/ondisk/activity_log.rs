// SPDX-License-Identifier: GPL-2.0-only

//! The activity log: which 4 MiB extents may have been written and not be the same everywhere.
//!
//! A ring of [`AL_BLOCKS`] transactions. Each one carries the slots that it changes and a rolling part of all slots
//! (the context), so that the newest few blocks alone rebuild the whole table and a torn block loses nothing that
//! was acknowledged.

use super::MetaBlock;
use crate::crc32c::extend;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of blocks of the ring.
pub const AL_BLOCKS: u32 = 16;
/// Number of slots of the table: extents that are hot at the same time.
pub const AL_EXTENTS: u16 = 1024;
/// Most slots that one transaction changes.
pub const AL_UPDATES_MAX: usize = 64;
/// Number of slots that one transaction repeats as context.
pub const AL_CONTEXT_MAX: usize = 512;
/// Extent number of a free slot.
pub const AL_SLOT_FREE: u32 = u32::MAX;

const MAGIC: [u8; 4] = *b"wfAL";

// The context of any `AL_BLOCKS - 1` consecutive transactions covers the whole table several times.
const _: () = assert!((AL_BLOCKS as usize - 1) * AL_CONTEXT_MAX >= 4 * AL_EXTENTS as usize);
const _: () = assert!(AL_EXTENTS as usize % AL_CONTEXT_MAX == 0);

/// One changed slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlUpdate {
    /// Slot of the table, below [`AL_EXTENTS`].
    pub slot: u16,
    /// Extent that is hot from now on, or [`AL_SLOT_FREE`].
    pub extent: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    crc: U32,
    sequence: U64,
    device: U64,
    updates: U16,
    context_start: U16,
    reserved: U32,
    update_slots: [U16; AL_UPDATES_MAX],
    update_extents: [U32; AL_UPDATES_MAX],
    context: [U32; AL_CONTEXT_MAX],
}

const _: () = assert!(size_of::<Raw>() <= size_of::<MetaBlock>());

impl Raw {
    /// CRC-32C of all bytes, those of the checksum itself taken as zero.
    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        let (before, rest) = bytes
            .split_at_checked(size_of_val(&self.magic))
            .unwrap_or((bytes, &[]));
        let after = rest.get(size_of_val(&self.crc)..).unwrap_or(&[]);
        !extend(extend(extend(!0, before), &[0; 4]), after)
    }
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlTransaction {
    /// Grows by one per transaction; its place in the ring is `sequence % AL_BLOCKS`.
    pub sequence: u64,
    raw_updates: [AlUpdate; AL_UPDATES_MAX],
    update_count: usize,
    context_start: u16,
    context: [u32; AL_CONTEXT_MAX],
}

impl AlTransaction {
    /// Writes a transaction into `block`.
    ///
    /// `updates` are the changed slots (at most [`AL_UPDATES_MAX`], more are an error and give `false`), `table` is the
    /// table of [`AL_EXTENTS`] extents after the change, `device` is [`super::Superblock::device`].
    pub fn encode(
        block: &mut MetaBlock,
        device: u64,
        sequence: u64,
        updates: &[AlUpdate],
        table: &[u32],
    ) -> bool {
        if updates.len() > AL_UPDATES_MAX || table.len() != usize::from(AL_EXTENTS) {
            return false;
        }
        let parts = usize::from(AL_EXTENTS) / AL_CONTEXT_MAX;
        let part = (sequence % parts as u64) as usize;
        block.fill(0);
        // In place: the stack of the kernel is small.
        let Ok((raw, _)) = Raw::mut_from_prefix(block) else {
            return false;
        };
        raw.magic = MAGIC;
        raw.sequence = U64::new(sequence);
        raw.device = U64::new(device);
        raw.updates = U16::new(updates.len() as u16);
        raw.context_start = U16::new((part * AL_CONTEXT_MAX) as u16);
        for ((slot, extent), update) in raw
            .update_slots
            .iter_mut()
            .zip(&mut raw.update_extents)
            .zip(updates)
        {
            slot.set(update.slot);
            extent.set(update.extent);
        }
        for (to, from) in raw
            .context
            .iter_mut()
            .zip(table.chunks(AL_CONTEXT_MAX).nth(part).unwrap_or(&[]))
        {
            to.set(*from);
        }
        raw.crc = U32::new(raw.checksum());
        true
    }

    /// Checks and decodes a block of the ring; `None`: torn, never written, or of other metadata.
    pub fn parse(block: &MetaBlock, device: u64) -> Option<Self> {
        let (raw, _) = Raw::ref_from_prefix(block).ok()?;
        let updates = usize::from(raw.updates.get());
        let start = raw.context_start.get();
        let valid = raw.magic == MAGIC
            && raw.crc.get() == raw.checksum()
            && raw.device.get() == device
            && updates <= AL_UPDATES_MAX
            && usize::from(start) + AL_CONTEXT_MAX <= usize::from(AL_EXTENTS)
            && raw.update_slots.iter().all(|slot| slot.get() < AL_EXTENTS);
        if !valid {
            return None;
        }
        let mut transaction = Self {
            sequence: raw.sequence.get(),
            raw_updates: [AlUpdate {
                slot: 0,
                extent: AL_SLOT_FREE,
            }; AL_UPDATES_MAX],
            update_count: updates,
            context_start: start,
            context: [AL_SLOT_FREE; AL_CONTEXT_MAX],
        };
        let pairs = raw.update_slots.iter().zip(&raw.update_extents);
        for (update, (slot, extent)) in transaction.raw_updates.iter_mut().zip(pairs) {
            *update = AlUpdate {
                slot: slot.get(),
                extent: extent.get(),
            };
        }
        for (to, from) in transaction.context.iter_mut().zip(&raw.context) {
            *to = from.get();
        }
        Some(transaction)
    }

    /// The slots that the transaction changes.
    pub fn updates(&self) -> &[AlUpdate] {
        self.raw_updates.get(..self.update_count).unwrap_or(&[])
    }
}

/// Rebuilds the table from the blocks of the ring, in any order, one pass per block in order of their sequence.
///
/// The caller feeds every readable block to [`AlReplay::apply`] in ascending order of sequence; an older block never
/// overrides a newer one because it comes first.
pub struct AlReplay<'a> {
    table: &'a mut [u32],
    last: Option<u64>,
}

impl<'a> AlReplay<'a> {
    /// Starts with an empty table, or `None` when `table` has not [`AL_EXTENTS`] entries.
    pub fn new(table: &'a mut [u32]) -> Option<Self> {
        if table.len() != usize::from(AL_EXTENTS) {
            return None;
        }
        table.fill(AL_SLOT_FREE);
        Some(Self { table, last: None })
    }

    /// Applies one transaction; the sequence must be higher than that of the one before.
    pub fn apply(&mut self, transaction: &AlTransaction) {
        let start = usize::from(transaction.context_start);
        for (to, from) in self.table.iter_mut().skip(start).zip(&transaction.context) {
            *to = *from;
        }
        for update in transaction.updates() {
            if let Some(slot) = self.table.get_mut(usize::from(update.slot)) {
                *slot = update.extent;
            }
        }
        self.last = Some(transaction.sequence);
    }

    /// Sequence of the newest transaction applied.
    pub fn last_sequence(&self) -> Option<u64> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_suffix_of_the_ring_that_covers_the_table_rebuilds_it() {
        let mut table = vec![AL_SLOT_FREE; AL_EXTENTS.into()];
        let mut ring = Vec::new();
        for sequence in 0..40u64 {
            let update = AlUpdate {
                slot: (sequence * 37 % 1024) as u16,
                extent: sequence as u32,
            };
            table[usize::from(update.slot)] = update.extent;
            let mut block = [0; 4096];
            assert!(AlTransaction::encode(
                &mut block,
                9,
                sequence,
                &[update],
                &table
            ));
            ring.push(AlTransaction::parse(&block, 9).unwrap());
        }
        let mut rebuilt = vec![0; AL_EXTENTS.into()];
        let mut replay = AlReplay::new(&mut rebuilt).unwrap();
        ring[24..]
            .iter()
            .for_each(|transaction| replay.apply(transaction));
        assert_eq!(replay.last_sequence(), Some(39));
        assert_eq!(rebuilt, table);
    }

    #[test]
    fn a_torn_or_foreign_transaction_is_not_applied() {
        let table = vec![AL_SLOT_FREE; AL_EXTENTS.into()];
        let mut block = [0; 4096];
        AlTransaction::encode(&mut block, 9, 1, &[], &table);
        assert!(AlTransaction::parse(&block, 8).is_none());
        block[1000] ^= 1;
        assert!(AlTransaction::parse(&block, 9).is_none());
    }
}
