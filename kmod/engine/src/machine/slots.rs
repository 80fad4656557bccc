// SPDX-License-Identifier: GPL-2.0-only

//! A table of things in flight, allocated once.

use crate::host::{Host, NoMemory};

/// A table with a fixed number of slots.
///
/// # Invariants
/// The first `free_count` entries of `free` are exactly the numbers of the empty slots. No slot from `end` on is used.
pub(super) struct Slots<H: Host, T> {
    items: H::Slab<Option<T>>,
    free: H::Slab<u32>,
    free_count: usize,
    /// The slot that was emptied last is the next one used, so scans need not go far.
    end: u32,
}

impl<H: Host, T> Slots<H, T> {
    /// An empty table. Context: may sleep.
    pub(super) fn new(len: u32) -> Result<Self, NoMemory> {
        let mut numbers = (0..len).rev();
        Ok(Self {
            items: H::slab(len as usize, || None)?,
            free: H::slab(len as usize, || numbers.next().unwrap_or(0))?,
            free_count: len as usize,
            end: 0,
        })
    }

    /// Number of empty slots.
    pub(super) fn room(&self) -> usize {
        self.free_count
    }

    /// Number of used slots.
    pub(super) fn used(&self) -> usize {
        self.items.len().saturating_sub(self.free_count)
    }

    /// Puts an item into an empty slot; gives the item back when there is none.
    pub(super) fn insert(&mut self, item: T) -> Result<u32, T> {
        let top = self.free_count.checked_sub(1);
        let Some(number) = top.and_then(|top| self.free.get(top).copied()) else {
            return Err(item);
        };
        let Some(slot) = self.items.get_mut(number as usize) else {
            return Err(item);
        };
        *slot = Some(item);
        self.free_count = self.free_count.saturating_sub(1);
        self.end = self.end.max(number.saturating_add(1));
        Ok(number)
    }

    /// Empties a slot.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let item = self.items.get_mut(number as usize)?.take()?;
        if let Some(entry) = self.free.get_mut(self.free_count) {
            *entry = number;
            self.free_count = self.free_count.saturating_add(1);
        }
        self.shrink();
        Some(item)
    }

    /// Lets the scans end earlier where that has become possible.
    fn shrink(&mut self) {
        while let Some(last) = self.end.checked_sub(1) {
            if !matches!(self.items.get(last as usize), Some(None)) {
                return;
            }
            self.end = last;
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.items.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.items.get_mut(number as usize)?.as_mut()
    }

    /// Numbers of all slots that may be used; for loops that take items out.
    pub(super) fn numbers(&self) -> core::ops::Range<u32> {
        0..self.end
    }

    /// The items with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(self.items.iter().take(self.end as usize))
            .filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }

    /// The items.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().take(self.end as usize).flatten()
    }
}
