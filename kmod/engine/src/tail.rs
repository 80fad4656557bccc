// SPDX-License-Identifier: GPL-2.0-only

//! The last writes sent to peers that are not known to be stable everywhere.
//!
//! As long as an entry waits, its extent is referenced in the activity log; when a peer is lost, what was not stable
//! there becomes bits. Sequence numbers are given out here, one after the other, so an entry is found by its number.
//! This node itself is among the nodes waited for: its own disk has a volatile cache, too.

use crate::host::{Host, NoMemory};
use crate::ranges::Span;
use weft_uapi::limits::NODES_MAX;
use weft_uapi::units::{NodeId, NodeSet, Sector, Seq};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A write, discard or write-zeroes of the application.
    Write,
    /// A range sent to a sync target.
    Resync,
    /// A range sent to a sync target that was changed here since, by a writer that the target does not hear.
    Overtaken,
}

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its sequence number.
    pub seq: Seq,
    /// Start of the range.
    pub sector: Sector,
    /// Length of the range in bytes.
    pub bytes: u32,
    /// What it is.
    pub kind: Kind,
    /// Nodes that have not acknowledged it as written.
    pub waits_written: NodeSet,
    /// Nodes where it is not known to be stable.
    pub waits_stable: NodeSet,
    /// The caller's slot of the request that it belongs to.
    pub request: Option<u32>,
}

/// A peer acknowledged what was not sent to it, or twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unexpected;

/// Ring of entries in order of their sequence numbers.
///
/// # Invariants
/// * The entries are those from `head` up to `next`, without gap; entry `seq` lies at `seq % capacity`.
/// * No entry before `cursor[node]` waits for the node.
pub struct Tail<H: Host> {
    ring: H::Slab<Entry>,
    head: u64,
    next: u64,
    cursor: [u64; NODES_MAX],
}

impl<H: Host> Tail<H> {
    /// An empty tail whose first entry gets the number 1. Context: may sleep.
    pub fn new(capacity: usize) -> Result<Self, NoMemory> {
        let empty = Entry {
            seq: Seq(0),
            sector: Sector(0),
            bytes: 0,
            kind: Kind::Write,
            waits_written: NodeSet::EMPTY,
            waits_stable: NodeSet::EMPTY,
            request: None,
        };
        Ok(Self {
            ring: H::slab(capacity.max(1), || empty)?,
            head: 1,
            next: 1,
            cursor: [1; NODES_MAX],
        })
    }

    /// Appends a write that goes to `nodes` and gives its number; `None`: the tail is full.
    pub fn push(
        &mut self,
        kind: Kind,
        sector: Sector,
        bytes: u32,
        nodes: NodeSet,
        request: Option<u32>,
    ) -> Option<Seq> {
        if self.len() >= self.capacity() {
            return None;
        }
        let seq = Seq(self.next);
        let next = self.next.checked_add(1)?;
        let entry = Entry {
            seq,
            sector,
            bytes,
            kind,
            waits_written: nodes,
            waits_stable: nodes,
            request,
        };
        *self.place(seq)? = entry;
        self.next = next;
        Some(seq)
    }

    /// `node` has written `seq`, to stable storage if `is_stable`. Gives the entry as it was before.
    pub fn on_written(
        &mut self,
        node: NodeId,
        seq: Seq,
        is_stable: bool,
    ) -> Result<Entry, Unexpected> {
        let entry = self.entry_mut(seq).ok_or(Unexpected)?;
        let before = *entry;
        if !before.waits_written.contains(node) {
            return Err(Unexpected);
        }
        entry.waits_written = before.waits_written.without(node);
        if is_stable {
            entry.waits_stable = before.waits_stable.without(node);
        }
        Ok(before)
    }

    /// Whether `node` may say that everything up to `upto` is stable there: it exists and was all written.
    ///
    /// Asked once before [`Tail::next_stable`] is called in a loop.
    pub fn may_be_stable(&self, node: NodeId, upto: Seq) -> bool {
        let written = |entry: &Entry| !entry.waits_written.contains(node);
        upto.0 < self.next
            && self
                .entries()
                .take_while(|entry| entry.seq <= upto)
                .all(written)
    }

    /// A range is about to be changed by somebody else: what was sent of it to sync targets is not what they need.
    pub fn overtake(&mut self, span: Span) {
        for seq in self.head..self.next {
            let Some(entry) = self.entry_mut(Seq(seq)) else {
                continue;
            };
            let sent = Span {
                sector: entry.sector,
                bytes: entry.bytes,
            };
            if entry.kind == Kind::Resync && sent.overlaps(span) {
                entry.kind = Kind::Overtaken;
            }
        }
    }

    /// Everything up to `upto` is stable at `node`: the next entry that became so, as it was before; `None`: no more.
    pub fn next_stable(&mut self, node: NodeId, upto: Seq) -> Option<Entry> {
        self.advance(node, upto.0.saturating_add(1))
    }

    /// `node` is lost: the next entry that was not stable there, as it was before; `None`: no more. Nothing waits for
    /// the node afterwards.
    pub fn next_lost(&mut self, node: NodeId) -> Option<Entry> {
        self.advance(node, self.next)
    }

    /// Removes the oldest entry if it waits for nothing any more.
    pub fn pop_finished(&mut self) -> Option<Entry> {
        let oldest = *self.entry(Seq(self.head))?;
        let is_finished = oldest.waits_written.is_empty() && oldest.waits_stable.is_empty();
        if is_finished {
            self.head = self.head.saturating_add(1);
        }
        is_finished.then_some(oldest)
    }

    /// The entry with this number.
    pub fn entry(&self, seq: Seq) -> Option<&Entry> {
        let at = self.index(seq)?;
        self.ring.get(at).filter(|_| self.holds(seq))
    }

    /// All entries, the oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        (self.head..self.next).filter_map(|seq| self.entry(Seq(seq)))
    }

    /// Number that the next entry gets.
    pub fn next_seq(&self) -> Seq {
        Seq(self.next)
    }

    /// Number of the last entry; 0 before the first.
    pub fn last_seq(&self) -> Seq {
        Seq(self.next.saturating_sub(1))
    }

    /// Everything up to this number is stable everywhere and was removed.
    pub fn trimmed(&self) -> Seq {
        Seq(self.head.saturating_sub(1))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        usize::try_from(self.next.saturating_sub(self.head)).unwrap_or(usize::MAX)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.head == self.next
    }

    /// Most entries that fit.
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// Whether at least half of the ring is in use: time to flush, so that it never fills up.
    pub fn is_nearly_full(&self) -> bool {
        self.len() >= self.capacity().div_ceil(2)
    }

    /// Moves the cursor of `node` up to the first entry before `end` that waits for it, and ends the waiting.
    fn advance(&mut self, node: NodeId, end: u64) -> Option<Entry> {
        let start = self.cursor.get(node.index()).copied()?.max(self.head);
        let end = end.min(self.next);
        for seq in start..end {
            let Some(entry) = self.entry_mut(Seq(seq)) else {
                continue;
            };
            let before = *entry;
            entry.waits_written = before.waits_written.without(node);
            entry.waits_stable = before.waits_stable.without(node);
            if before.waits_stable.contains(node) || before.waits_written.contains(node) {
                self.set_cursor(node, seq.saturating_add(1));
                return Some(before);
            }
        }
        self.set_cursor(node, end.max(start));
        None
    }

    fn set_cursor(&mut self, node: NodeId, seq: u64) {
        if let Some(cursor) = self.cursor.get_mut(node.index()) {
            *cursor = seq;
        }
    }

    fn holds(&self, seq: Seq) -> bool {
        (self.head..self.next).contains(&seq.0)
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        let len = u64::try_from(self.ring.len()).ok()?;
        usize::try_from(seq.0.checked_rem(len)?).ok()
    }

    fn place(&mut self, seq: Seq) -> Option<&mut Entry> {
        let at = self.index(seq)?;
        self.ring.get_mut(at)
    }

    fn entry_mut(&mut self, seq: Seq) -> Option<&mut Entry> {
        if self.holds(seq) {
            self.place(seq)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NoIo, Random};

    fn node(id: u32) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn nodes(bits: u32) -> NodeSet {
        NodeSet(bits)
    }

    fn push(tail: &mut Tail<NoIo>, to: u32) -> Option<Seq> {
        tail.push(Kind::Write, Sector(8), 4096, nodes(to), Some(3))
    }

    #[test]
    fn an_entry_leaves_when_it_is_stable_everywhere() {
        let mut tail = Tail::<NoIo>::new(4).unwrap();
        let seq = push(&mut tail, 3).unwrap();
        assert_eq!(seq, Seq(1));
        assert_eq!(
            tail.on_written(node(0), seq, false).unwrap().waits_written,
            nodes(3)
        );
        assert_eq!(
            tail.on_written(node(1), seq, true).unwrap().waits_written,
            nodes(2)
        );
        assert_eq!(tail.pop_finished(), None);
        assert_eq!(
            tail.next_stable(node(0), seq).unwrap().waits_stable,
            nodes(1)
        );
        assert_eq!(tail.next_stable(node(0), seq), None);
        assert_eq!(tail.pop_finished().unwrap().seq, seq);
        assert_eq!(tail.trimmed(), seq);
    }

    #[test]
    fn acknowledgements_of_what_was_never_sent_are_told_apart() {
        let mut tail = Tail::<NoIo>::new(4).unwrap();
        let seq = push(&mut tail, 1).unwrap();
        assert_eq!(tail.on_written(node(1), seq, false), Err(Unexpected));
        assert_eq!(tail.on_written(node(0), Seq(9), false), Err(Unexpected));
        assert!(!tail.may_be_stable(node(0), seq) && !tail.may_be_stable(node(0), Seq(2)));
        tail.on_written(node(0), seq, false).unwrap();
        assert_eq!(tail.on_written(node(0), seq, false), Err(Unexpected));
        assert!(tail.may_be_stable(node(0), seq));
    }

    #[test]
    fn a_lost_peer_leaves_behind_what_was_not_stable_there() {
        let mut tail = Tail::<NoIo>::new(8).unwrap();
        (0..3).for_each(|_| assert!(push(&mut tail, 3).is_some()));
        while tail.next_stable(node(1), Seq(1)).is_some() {}
        let lost: Vec<u64> = core::iter::from_fn(|| tail.next_lost(node(1)))
            .map(|entry| entry.seq.0)
            .collect();
        assert_eq!(lost, [2, 3]);
        assert_eq!(tail.next_lost(node(1)), None);
    }

    #[test]
    fn a_full_tail_takes_no_more_and_says_early_that_it_fills_up() {
        let mut tail = Tail::<NoIo>::new(4).unwrap();
        assert!(push(&mut tail, 1).is_some() && !tail.is_nearly_full());
        assert!(push(&mut tail, 1).is_some() && tail.is_nearly_full());
        assert!(push(&mut tail, 1).is_some() && push(&mut tail, 1).is_some());
        assert_eq!(push(&mut tail, 1), None);
    }

    #[test]
    fn what_was_sent_for_a_resync_is_overtaken_by_a_change_of_the_same_range_only() {
        let to = NodeSet::of(NodeId::new(1).unwrap());
        let mut tail = Tail::<NoIo>::new(4).unwrap();
        for (kind, sector) in [(Kind::Resync, 0), (Kind::Resync, 8), (Kind::Write, 8)] {
            tail.push(kind, Sector(sector), 4096, to, None).unwrap();
        }
        tail.overtake(Span {
            sector: Sector(15),
            bytes: 512,
        });
        let kinds: Vec<Kind> = tail.entries().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Resync, Kind::Overtaken, Kind::Write]);
    }

    #[test]
    fn the_ring_behaves_like_a_list_of_sets() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut tail = Tail::<NoIo>::new(1 + random.below(12) as usize).unwrap();
            let mut model: Vec<Entry> = Vec::new();
            let mut next = 1;
            for _ in 0..500 {
                let peer = node(random.below(3) as u32);
                let seq = Seq(random.below(next + 2));
                match random.below(5) {
                    0 | 1 => {
                        let to = nodes(random.below(8) as u32);
                        let pushed = tail.push(Kind::Resync, Sector(0), 512, to, None);
                        assert_eq!(pushed.is_some(), model.len() < tail.capacity());
                        if let Some(seq) = pushed {
                            assert_eq!(seq.0, next);
                            model.push(*tail.entry(seq).unwrap());
                            next += 1;
                        }
                    }
                    2 => {
                        let stable = random.one_in(3);
                        let known = model
                            .iter_mut()
                            .find(|e| e.seq == seq && e.waits_written.contains(peer));
                        let answer = tail.on_written(peer, seq, stable);
                        assert_eq!(answer.ok(), known.as_deref().copied());
                        if let Some(entry) = known {
                            entry.waits_written = entry.waits_written.without(peer);
                            if stable {
                                entry.waits_stable = entry.waits_stable.without(peer);
                            }
                        }
                    }
                    step => {
                        let is_lost = step == 4 && random.one_in(4);
                        let upto = if is_lost { Seq(u64::MAX) } else { seq };
                        for entry in model.iter_mut().filter(|entry| entry.seq <= upto) {
                            if !entry.waits_stable.union(entry.waits_written).contains(peer) {
                                continue;
                            }
                            let moved = if is_lost {
                                tail.next_lost(peer)
                            } else {
                                tail.next_stable(peer, upto)
                            };
                            assert_eq!(moved, Some(*entry), "seed {seed}");
                            entry.waits_written = entry.waits_written.without(peer);
                            entry.waits_stable = entry.waits_stable.without(peer);
                        }
                        assert_eq!(tail.next_stable(peer, upto.min(Seq(next - 1))), None);
                    }
                }
                while let Some(done) = tail.pop_finished() {
                    assert_eq!(done, model.remove(0));
                }
                assert!(tail.entries().eq(model.iter()), "seed {seed}");
            }
        }
    }
}
