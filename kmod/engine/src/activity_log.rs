// SPDX-License-Identifier: GPL-2.0-only

//! Which extents may be unequal on the members, and the transactions that say so on disk.
//!
//! Before data of an extent are written, the extent has to be *hot*: listed in the log on disk. Requests that find their
//! extent cold share the next transaction. The life of one transaction:
//!
//! ```text
//! begin … begin  ->  prepare  ->  (bitmap blocks of evicted())  ->  encode, write with flush  ->  commit
//!   collecting         frozen: later ones collect for the next one
//! ```
//! An extent stays hot after its last reference is gone, until its slot is needed for another one; whoever evicts it
//! writes its bitmap blocks first, since from then on they alone speak for it.

use crate::host::{Host, NoMemory};
use weft_uapi::ondisk::{
    AlTransaction, AlUpdate, MetaBlock, AL_CONTEXT_MAX, AL_EXTENTS, AL_SLOT_FREE, AL_UPDATES_MAX,
};

/// Slots of the table.
const SLOTS: usize = AL_EXTENTS as usize;
/// Entries of the hash index; at most half of them are used.
const INDEX: usize = 2 * SLOTS;
/// No slot.
const NONE: u16 = u16::MAX;
/// Transactions after which every slot was repeated as context.
const REWRITE: u32 = (SLOTS / AL_CONTEXT_MAX) as u32;

const _: () = assert!(INDEX.is_power_of_two() && SLOTS < NONE as usize);

/// Answer of [`ActivityLog::begin`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// The extent is hot; a reference was taken.
    Hot,
    /// A reference was taken, but the extent is hot only when this transaction is committed.
    Pending(u64),
    /// No reference was taken: ask again after the next commit or [`ActivityLog::end`].
    Full,
}

/// One slot in memory.
#[derive(Clone, Copy)]
struct Slot {
    extent: u32,
    references: u32,
    /// The transaction that makes it hot.
    transaction: u64,
    /// Neighbours among the unreferenced slots, the least recently used one first.
    before: u16,
    after: u16,
}

/// The log of one volume.
///
/// # Invariants
/// * `index` finds exactly the slots whose extent is not free.
/// * The list from `oldest` to `newest` holds exactly the slots without reference that are hot.
/// * `table` is what the log on disk says once the frozen transaction is committed.
pub struct ActivityLog<H: Host> {
    slots: H::Slab<Slot>,
    index: H::Slab<u16>,
    table: H::Slab<u32>,
    /// Changes of the next transaction.
    updates: H::Slab<AlUpdate>,
    update_count: usize,
    /// Extents that lose their slot to a change of the next transaction.
    leaving: H::Slab<u32>,
    leaving_count: usize,
    /// The same of the frozen transaction.
    frozen: H::Slab<AlUpdate>,
    frozen_count: usize,
    evicted: H::Slab<u32>,
    evicted_count: usize,
    is_frozen: bool,
    /// Number of the last transaction committed.
    committed: u64,
    /// Sequence number on disk of the next transaction.
    sequence: u64,
    /// Transactions still to be written so that the context says of each slot what `table` says.
    rewrites: u32,
    capacity: usize,
    used: usize,
    referenced: usize,
    oldest: u16,
    newest: u16,
}

impl<H: Host> ActivityLog<H> {
    /// Takes over a table from disk, whose extents stay hot; `sequence` is that of the next transaction.
    ///
    /// At most `capacity` extents are hot from now on, but never less than the table has. Extents at or past `extents`
    /// (the end of the device) and extents listed twice are dropped. Context: may sleep.
    pub fn new(
        capacity: usize,
        extents: u32,
        table: &[u32],
        sequence: u64,
    ) -> Result<Self, NoMemory> {
        let free = Slot {
            extent: AL_SLOT_FREE,
            references: 0,
            transaction: 0,
            before: NONE,
            after: NONE,
        };
        let update = || AlUpdate {
            slot: 0,
            extent: AL_SLOT_FREE,
        };
        let mut log = Self {
            slots: H::slab(SLOTS, || free)?,
            index: H::slab(INDEX, || NONE)?,
            table: H::slab(SLOTS, || AL_SLOT_FREE)?,
            updates: H::slab(AL_UPDATES_MAX, update)?,
            update_count: 0,
            leaving: H::slab(AL_UPDATES_MAX, || AL_SLOT_FREE)?,
            leaving_count: 0,
            frozen: H::slab(AL_UPDATES_MAX, update)?,
            frozen_count: 0,
            evicted: H::slab(AL_UPDATES_MAX, || AL_SLOT_FREE)?,
            evicted_count: 0,
            is_frozen: false,
            committed: 0,
            sequence,
            rewrites: 0,
            capacity: capacity.clamp(1, SLOTS),
            used: 0,
            referenced: 0,
            oldest: NONE,
            newest: NONE,
        };
        for (number, &extent) in (0..AL_EXTENTS).zip(table) {
            if extent == AL_SLOT_FREE {
                continue;
            }
            if extent < extents && log.find(extent).is_none() {
                log.settle(number, extent, 0);
                log.append(number);
                if let Some(entry) = log.table.get_mut(usize::from(number)) {
                    *entry = extent;
                }
            } else {
                log.rewrites = REWRITE;
            }
        }
        log.capacity = log.capacity.max(log.used);
        Ok(log)
    }

    /// Takes a reference to an extent that is about to be written.
    pub fn begin(&mut self, extent: u32) -> Begin {
        if extent == AL_SLOT_FREE {
            return Begin::Full;
        }
        let number = match self.find(extent) {
            Some(number) => number,
            None => match self.assign(extent) {
                Some(number) => number,
                None => return Begin::Full,
            },
        };
        self.reference(number)
    }

    /// Gives a reference back; `false`: there was none, which is a bug of the caller.
    pub fn end(&mut self, extent: u32) -> bool {
        let committed = self.committed;
        let Some(number) = self.find(extent) else {
            return false;
        };
        let Some(slot) = self.slot_mut(number).filter(|slot| slot.references > 0) else {
            return false;
        };
        slot.references = slot.references.saturating_sub(1);
        if slot.references == 0 {
            let is_hot = slot.transaction <= committed;
            self.referenced = self.referenced.saturating_sub(1);
            if is_hot {
                self.append(number);
            }
        }
        true
    }

    /// Whether a transaction should be prepared: something changed and none is under way.
    pub fn wants_transaction(&self) -> bool {
        !self.is_frozen && (self.update_count > 0 || self.rewrites > 0)
    }

    /// Freezes the changes collected so far into one transaction and gives its number; `None`: nothing to do, or one
    /// is under way.
    pub fn prepare(&mut self) -> Option<u64> {
        if !self.wants_transaction() {
            return None;
        }
        core::mem::swap(&mut self.updates, &mut self.frozen);
        core::mem::swap(&mut self.leaving, &mut self.evicted);
        self.frozen_count = core::mem::take(&mut self.update_count);
        self.evicted_count = core::mem::take(&mut self.leaving_count);
        for update in self.frozen.iter().take(self.frozen_count) {
            if let Some(entry) = self.table.get_mut(usize::from(update.slot)) {
                *entry = update.extent;
            }
        }
        self.is_frozen = true;
        Some(self.committed.saturating_add(1))
    }

    /// Extents that are not hot any more once the prepared transaction is written: their bitmap blocks go to disk
    /// before, for every slot.
    pub fn evicted(&self) -> &[u32] {
        self.evicted.get(..self.evicted_count).unwrap_or(&[])
    }

    /// Writes the prepared transaction into `block` and gives the sequence number that says where it belongs.
    pub fn encode(&mut self, device: u64, block: &mut MetaBlock) -> Option<u64> {
        if !self.is_frozen {
            return None;
        }
        let updates = self.frozen.get(..self.frozen_count)?;
        let sequence = self.sequence;
        AlTransaction::encode(block, device, sequence, updates, &self.table).then_some(sequence)
    }

    /// Writes a transaction that changes nothing into `block`, the one that would be the `ahead`th from now on, for a copy of
    /// the log somewhere else, and gives its sequence number. `None`: a transaction is under way.
    pub fn encode_copy(&self, device: u64, ahead: u64, block: &mut MetaBlock) -> Option<u64> {
        let sequence = self.sequence.checked_add(ahead)?;
        let is_done = AlTransaction::encode(block, device, sequence, &[], &self.table);
        (is_done && !self.is_frozen).then_some(sequence)
    }

    /// So many transactions of [`Self::encode_copy`] count.
    pub fn skip(&mut self, transactions: u64) {
        self.sequence = self.sequence.saturating_add(transactions);
    }

    /// The prepared transaction is durable. Gives its number: requests that wait for it or an earlier one may go on.
    pub fn commit(&mut self) -> Option<u64> {
        if !self.is_frozen {
            return None;
        }
        self.committed = self.committed.saturating_add(1);
        self.sequence = self.sequence.saturating_add(1);
        self.rewrites = self.rewrites.saturating_sub(1);
        self.is_frozen = false;
        self.evicted_count = 0;
        for at in 0..core::mem::take(&mut self.frozen_count) {
            let Some(number) = self.frozen.get(at).map(|update| update.slot) else {
                continue;
            };
            // Given up while the transaction was on its way: hot, but nobody needs it.
            let idle = self
                .slot(number)
                .is_some_and(|slot| slot.references == 0 && slot.extent != AL_SLOT_FREE);
            if idle {
                self.append(number);
            }
        }
        Some(self.committed)
    }

    /// Number of the last transaction committed.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Forgets every extent without reference, when the caller knows that bitmaps on disk speak for them. Two more
    /// transactions carry it to disk. `false`: not now, a transaction is under way or being collected.
    pub fn clear(&mut self) -> bool {
        if self.is_frozen || self.update_count > 0 {
            return false;
        }
        while let Some(number) = self.take_oldest() {
            self.vacate(number);
            if let Some(entry) = self.table.get_mut(usize::from(number)) {
                *entry = AL_SLOT_FREE;
            }
            self.rewrites = REWRITE;
        }
        true
    }

    /// Whether the log on disk lists the extent.
    pub fn is_hot(&self, extent: u32) -> bool {
        let slot = self.find(extent).and_then(|number| self.slot(number));
        slot.is_some_and(|slot| slot.transaction <= self.committed)
    }

    /// Whether somebody holds a reference to the extent.
    pub fn is_referenced(&self, extent: u32) -> bool {
        let slot = self.find(extent).and_then(|number| self.slot(number));
        slot.is_some_and(|slot| slot.references > 0)
    }

    /// Number of extents in the log.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Number of extents with a reference.
    pub fn referenced(&self) -> usize {
        self.referenced
    }

    /// Most extents that may be hot at the same time.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sequence number that the next transaction will have; grows by one per transaction.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All extents in the log, in no particular order.
    pub fn extents(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .map(|slot| slot.extent)
            .filter(|&extent| extent != AL_SLOT_FREE)
    }

    fn slot(&self, number: u16) -> Option<&Slot> {
        self.slots.get(usize::from(number))
    }

    fn slot_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number))
    }

    /// One more reference to an extent in the table.
    fn reference(&mut self, number: u16) -> Begin {
        let committed = self.committed;
        let Some(slot) = self.slot_mut(number) else {
            return Begin::Full;
        };
        let Some(references) = slot.references.checked_add(1) else {
            return Begin::Full;
        };
        let first = slot.references == 0;
        slot.references = references;
        let transaction = slot.transaction;
        if first {
            self.referenced = self.referenced.saturating_add(1);
            if transaction <= committed {
                self.unlink(number);
            }
        }
        if transaction <= committed {
            Begin::Hot
        } else {
            Begin::Pending(transaction)
        }
    }

    /// Gives a slot to a cold extent, as part of the next transaction.
    fn assign(&mut self, extent: u32) -> Option<u16> {
        let at = self.update_count;
        if at >= AL_UPDATES_MAX {
            return None;
        }
        let number = if self.used < self.capacity {
            let free = self
                .slots
                .iter()
                .position(|slot| slot.extent == AL_SLOT_FREE)?;
            u16::try_from(free).ok()?
        } else {
            let number = self.take_oldest()?;
            let old = self.slot(number)?.extent;
            *self.leaving.get_mut(self.leaving_count)? = old;
            self.leaving_count = self.leaving_count.saturating_add(1);
            self.vacate(number);
            number
        };
        *self.updates.get_mut(at)? = AlUpdate {
            slot: number,
            extent,
        };
        self.update_count = at.saturating_add(1);
        let behind = if self.is_frozen { 2 } else { 1 };
        self.settle(number, extent, self.committed.saturating_add(behind));
        Some(number)
    }

    /// Puts an extent into a free slot.
    fn settle(&mut self, number: u16, extent: u32, transaction: u64) {
        if let Some(slot) = self.slot_mut(number) {
            *slot = Slot {
                extent,
                references: 0,
                transaction,
                before: NONE,
                after: NONE,
            };
            self.used = self.used.saturating_add(1);
            self.insert_index(number, extent);
        }
    }

    /// Frees a slot that is not in the list.
    fn vacate(&mut self, number: u16) {
        if let Some(slot) = self.slot_mut(number) {
            let extent = core::mem::replace(&mut slot.extent, AL_SLOT_FREE);
            self.used = self.used.saturating_sub(1);
            self.remove_index(extent);
        }
    }

    /// Adds an unreferenced slot as the most recently used one.
    fn append(&mut self, number: u16) {
        let last = self.newest;
        if let Some(slot) = self.slot_mut(number) {
            (slot.before, slot.after) = (last, NONE);
        }
        match self.slot_mut(last) {
            Some(slot) => slot.after = number,
            None => self.oldest = number,
        }
        self.newest = number;
    }

    /// Takes a slot out of the list.
    fn unlink(&mut self, number: u16) {
        let Some(slot) = self.slot_mut(number) else {
            return;
        };
        let (before, after) = (slot.before, slot.after);
        (slot.before, slot.after) = (NONE, NONE);
        match self.slot_mut(before) {
            Some(slot) => slot.after = after,
            None => self.oldest = after,
        }
        match self.slot_mut(after) {
            Some(slot) => slot.before = before,
            None => self.newest = before,
        }
    }

    /// Takes the least recently used slot out of the list.
    fn take_oldest(&mut self) -> Option<u16> {
        let number = self.oldest;
        self.slot(number)?;
        self.unlink(number);
        Some(number)
    }

    /// The slot of an extent.
    fn find(&self, extent: u32) -> Option<u16> {
        self.probe(extent).map(|(_, number)| number)
    }

    /// Place in the index and slot of an extent. Ends, since the index is never full.
    fn probe(&self, extent: u32) -> Option<(usize, u16)> {
        for at in probes(extent) {
            match self.index.get(at).copied() {
                None | Some(NONE) => return None,
                Some(number) if self.slot(number)?.extent == extent => return Some((at, number)),
                Some(_) => {}
            }
        }
        None
    }

    fn insert_index(&mut self, number: u16, extent: u32) {
        for at in probes(extent) {
            if let Some(entry) = self.index.get_mut(at).filter(|entry| **entry == NONE) {
                *entry = number;
                return;
            }
        }
    }

    /// Removes an extent whose slot was freed already, and moves up what would not be found any more behind the gap.
    fn remove_index(&mut self, extent: u32) {
        let free = |log: &Self, at: usize| {
            let number = log.index.get(at).copied().filter(|&number| number != NONE);
            number
                .and_then(|number| log.slot(number))
                .is_some_and(|slot| slot.extent == AL_SLOT_FREE)
        };
        let Some(mut gap) = probes(extent).find(|&at| free(self, at)) else {
            return;
        };
        let mut at = gap;
        loop {
            at = at.wrapping_add(1) & (INDEX - 1);
            let entry = self.index.get(at).copied().unwrap_or(NONE);
            let Some(home) = self.slot(entry).map(|slot| home_of(slot.extent)) else {
                break;
            };
            // The entry may move into the gap unless its home lies behind the gap.
            if at.wrapping_sub(home) & (INDEX - 1) >= at.wrapping_sub(gap) & (INDEX - 1) {
                if let Some(to) = self.index.get_mut(gap) {
                    *to = entry;
                }
                gap = at;
            }
        }
        if let Some(entry) = self.index.get_mut(gap) {
            *entry = NONE;
        }
    }
}

/// Where the search for an extent begins in the index.
fn home_of(extent: u32) -> usize {
    // Fibonacci hashing: neighbouring extents spread over the index.
    (extent.wrapping_mul(0x9e37_79b1) >> 16) as usize & (INDEX - 1)
}

/// All places of the index in the order of the search.
fn probes(extent: u32) -> impl Iterator<Item = usize> {
    let home = home_of(extent);
    (0..INDEX).map(move |step| home.wrapping_add(step) & (INDEX - 1))
}

#[cfg(test)]
mod tests;
