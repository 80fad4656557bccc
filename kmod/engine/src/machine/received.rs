// SPDX-License-Identifier: GPL-2.0-only

//! What a peer sent and is not yet known to be stable on all members: this side's part of the tail (G5).
//!
//! ```text
//! push (arrived) -> done (on disk) -> stable (after a flush) -> gone (the peer's trim covers it)
//! ```

use super::volume::Volume;
use crate::host::{Host, NoMemory};
use crate::ranges::Span;
use weft_uapi::units::{NodeId, NodeSet, Sector, Seq};

/// Entries at most; more than a sender keeps before it trims.
pub(super) const RECEIVED_MAX: usize = 4096;

/// One write that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) seq: Seq,
    pub(super) sector: Sector,
    pub(super) bytes: u32,
    /// Resync data, not a write of the application.
    pub(super) is_resync: bool,
    /// It is on disk.
    pub(super) is_done: bool,
    /// It holds references to its extents in the activity log.
    pub(super) has_log: bool,
}

impl Entry {
    /// Its range.
    pub(super) fn span(self) -> Span {
        Span {
            sector: self.sector,
            bytes: self.bytes,
        }
    }
}

/// A ring of entries with ascending sequence numbers.
pub(super) struct Received<H: Host> {
    ring: H::Slab<Entry>,
    head: usize,
    len: usize,
    /// So many of the oldest entries are on disk for certain.
    done: usize,
    /// Highest number that arrived.
    last: Seq,
    /// Highest number up to which everything is stable here.
    stable: Seq,
}

impl<H: Host> Received<H> {
    /// An empty ring. Context: may sleep.
    pub(super) fn new() -> Result<Self, NoMemory> {
        let empty = Entry {
            seq: Seq(0),
            sector: Sector(0),
            bytes: 0,
            is_resync: false,
            is_done: false,
            has_log: false,
        };
        let ring = H::slab(RECEIVED_MAX, || empty)?;
        Ok(Self {
            ring,
            head: 0,
            len: 0,
            done: 0,
            last: Seq(0),
            stable: Seq(0),
        })
    }

    /// Starts anew for a session; the ring is empty.
    pub(super) fn restart(&mut self) {
        (self.head, self.len, self.done, self.last, self.stable) = (0, 0, 0, Seq(0), Seq(0));
    }

    /// Highest number that arrived in this session.
    pub(super) fn last(&self) -> Seq {
        self.last
    }

    /// Number of the oldest entry.
    pub(super) fn first(&self) -> Option<Seq> {
        self.get(0).map(|entry| entry.seq)
    }

    /// Highest number up to which everything is stable here.
    pub(super) fn stable(&self) -> Seq {
        self.stable
    }

    /// Everything up to `seq` that will ever come has come.
    pub(super) fn skip_to(&mut self, seq: Seq) {
        self.last = self.last.max(seq);
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes an entry whose number is higher than all before; `false`: it is not, or the ring is full.
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        if entry.seq <= self.last || self.len >= self.ring.len() {
            return false;
        }
        let at = self.place(self.len);
        let Some(slot) = self.ring.get_mut(at) else {
            return false;
        };
        *slot = entry;
        self.len = self.len.saturating_add(1);
        self.last = entry.seq;
        true
    }

    /// The entry with this number.
    pub(super) fn find(&mut self, seq: Seq) -> Option<&mut Entry> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle)?.seq < seq {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        let at = self.place(low);
        self.ring
            .get_mut(at)
            .filter(|entry| low < self.len && entry.seq == seq)
    }

    /// An entry is on disk.
    pub(super) fn on_done(&mut self, seq: Seq) {
        if let Some(entry) = self.find(seq) {
            entry.is_done = true;
        }
        while self.get(self.done).is_some_and(|entry| entry.is_done) {
            self.done = self.done.saturating_add(1);
        }
    }

    /// Highest number up to which everything is on disk.
    pub(super) fn done_upto(&self) -> Seq {
        self.get(self.done)
            .map_or(self.last, |entry| Seq(entry.seq.0.saturating_sub(1)))
    }

    /// Everything up to `upto` is stable; gives the entries that became so.
    pub(super) fn became_stable(&mut self, upto: Seq) -> impl Iterator<Item = Entry> + '_ {
        let before = self.stable;
        self.stable = upto.max(before);
        self.iter()
            .filter(move |entry| entry.seq > before && entry.seq <= upto)
    }

    /// Takes the references to the log from the first entry at or after place `from` that is on disk and has some;
    /// gives the entry and the place to go on from.
    pub(super) fn take_log(&mut self, from: usize) -> Option<(Entry, usize)> {
        let mut places = (from..self.len).filter_map(|index| Some((self.get(index)?, index)));
        let (entry, index) = places.find(|(entry, _)| entry.is_done && entry.has_log)?;
        let at = self.place(index);
        self.ring.get_mut(at)?.has_log = false;
        Some((entry, index.saturating_add(1)))
    }

    /// Removes and gives the oldest entry if its number is not above `upto`.
    pub(super) fn pop(&mut self, upto: Seq) -> Option<Entry> {
        let entry = self.get(0).filter(|entry| entry.seq <= upto)?;
        self.head = self.place(1);
        self.len = self.len.saturating_sub(1);
        self.done = self.done.saturating_sub(1);
        Some(entry)
    }

    /// Ranges of all writes of the application.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.iter()
            .filter(|entry| !entry.is_resync)
            .map(Entry::span)
    }

    /// Ranges of the writes that no hot extent speaks for.
    pub(super) fn unlogged(&self) -> impl Iterator<Item = Span> + '_ {
        self.iter()
            .filter(|entry| !entry.is_resync && !entry.has_log)
            .map(Entry::span)
    }

    fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len).filter_map(|index| self.get(index))
    }

    fn get(&self, index: usize) -> Option<Entry> {
        self.ring
            .get(self.place(index))
            .filter(|_| index < self.len)
            .copied()
    }

    fn place(&self, index: usize) -> usize {
        // Both are at most the length of the ring, a small number.
        self.head
            .wrapping_add(index)
            .checked_rem(self.ring.len())
            .unwrap_or(0)
    }
}

impl<H: Host> Volume<H> {
    /// Makes room in the log: bits take the place of what is on disk. Without it a write could wait for an extent
    /// that later writes hold, which the peer forgets only after this one.
    pub(super) fn yield_log(&mut self, peer: NodeId) {
        let mut from = 0;
        while let Some((entry, next)) = self
            .replica_mut(peer)
            .and_then(|replica| replica.received.take_log(from))
        {
            from = next;
            self.mark_others(NodeSet::EMPTY, entry.span());
            self.forget_entry(&entry);
        }
    }

    /// Sets the bits of received writes that no hot extent speaks for.
    pub(super) fn mark_unlogged(&mut self) {
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        for replica in self.replicas.iter().flatten() {
            for span in replica.received.unlogged() {
                for node in NodeId::all() {
                    disk.mark(node, span);
                }
            }
        }
    }
}
