// SPDX-License-Identifier: GPL-2.0-only

//! Where two copies differ: a few pieces of the volume that cover all of it, and how much it is.
//!
//! When there are more pieces than places, the two that lie nearest to each other become one. So every difference is
//! covered; what lies between two of them is equal, and is copied for nothing when they are repaired.

use weft_uapi::limits::FOUND_MAX;
use weft_uapi::status::SectorRange;

/// See the module.
///
/// # Invariants
/// The first `len` pieces, at most [`FOUND_MAX`], are in ascending order and do not touch each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// With a place for one that is to be joined with another.
    pieces: [Piece; FOUND_MAX + 1],
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Piece {
    range: SectorRange,
    /// How much of it differs.
    sectors: u64,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            pieces: [Piece::default(); FOUND_MAX + 1],
            len: 0,
        }
    }
}

impl Found {
    /// Takes a difference that was not known before.
    pub fn add(&mut self, range: SectorRange) {
        let sectors = range.end.saturating_sub(range.start);
        let at = self
            .used()
            .partition_point(|piece| piece.range.start < range.start);
        if let Some(tail) = self.pieces.get_mut(at..) {
            tail.rotate_right(1);
            if let Some(place) = tail.first_mut() {
                *place = Piece { range, sectors };
                self.len = self.len.saturating_add(1);
            }
        }
        while let Some(at) = self.nearest() {
            self.join(at);
        }
    }

    /// Forgets what lies behind a sector.
    pub fn truncate(&mut self, end: u64) {
        self.len = self.used().partition_point(|piece| piece.range.start < end);
        let last = self
            .len
            .checked_sub(1)
            .and_then(|at| self.pieces.get_mut(at));
        if let Some(Piece { range, sectors }) = last {
            range.end = range.end.min(end);
            *sectors = (*sectors).min(range.end.saturating_sub(range.start));
        }
    }

    /// Forgets the pieces that are not to be kept.
    pub fn retain(&mut self, is_kept: impl Fn(SectorRange) -> bool) {
        let before = *self;
        let kept = before.used().iter().filter(|piece| is_kept(piece.range));
        self.len = 0;
        for (place, piece) in self.pieces.iter_mut().zip(kept) {
            *place = *piece;
            self.len = self.len.saturating_add(1);
        }
    }

    /// Sectors that differ.
    pub fn sectors(&self) -> u64 {
        let pieces = self.used().iter();
        pieces.fold(0, |sum, piece| sum.saturating_add(piece.sectors))
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces.
    pub fn ranges(&self) -> impl Iterator<Item = SectorRange> + '_ {
        self.used().iter().map(|piece| piece.range)
    }

    fn used(&self) -> &[Piece] {
        self.pieces.get(..self.len).unwrap_or(&[])
    }

    /// A piece that is to be joined with the next one: since they touch, or since there are too many.
    fn nearest(&self) -> Option<usize> {
        let pairs = self.used().iter().zip(self.used().iter().skip(1));
        let gaps = pairs.map(|(one, next)| next.range.start.saturating_sub(one.range.end));
        let (at, gap) = gaps.enumerate().min_by_key(|(_, gap)| *gap)?;
        (gap == 0 || self.len > FOUND_MAX).then_some(at)
    }

    fn join(&mut self, at: usize) {
        let Some([one, next, ..]) = self.pieces.get_mut(at..) else {
            return;
        };
        one.range.end = one.range.end.max(next.range.end);
        one.sectors = one.sectors.saturating_add(next.sectors);
        let behind = at.saturating_add(1);
        if let Some(tail) = self.pieces.get_mut(behind..) {
            tail.rotate_left(1);
            self.len = self.len.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use std::collections::BTreeSet;

    fn range(start: u64, end: u64) -> SectorRange {
        SectorRange { start, end }
    }

    fn found(ranges: &[(u64, u64)]) -> Found {
        let mut found = Found::default();
        for &(start, end) in ranges {
            found.add(range(start, end));
        }
        found
    }

    #[test]
    fn pieces_that_touch_are_one() {
        let found = found(&[(16, 24), (0, 8), (8, 16), (40, 48)]);
        let ranges: Vec<_> = found.ranges().collect();
        assert_eq!(ranges, [range(0, 24), range(40, 48)]);
        assert_eq!(found.sectors(), 32);
    }

    #[test]
    fn what_lies_behind_a_sector_is_forgotten() {
        let mut found = found(&[(0, 16), (32, 40), (64, 72)]);
        found.truncate(36);
        let ranges: Vec<_> = found.ranges().collect();
        assert_eq!(ranges, [range(0, 16), range(32, 36)]);
        assert_eq!(found.sectors(), 20);
        found.truncate(0);
        assert!(found.is_empty() && found.sectors() == 0);
    }

    #[test]
    fn what_is_not_kept_is_forgotten() {
        let mut found = found(&[(0, 16), (32, 40), (64, 72)]);
        found.retain(|range| range.start != 32);
        let ranges: Vec<_> = found.ranges().collect();
        assert_eq!(ranges, [range(0, 16), range(64, 72)]);
        assert_eq!(found.sectors(), 24);
        found.retain(|_| false);
        assert!(found.is_empty());
    }

    #[test]
    fn however_many_there_are_all_are_covered_and_counted() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut found, mut blocks) = (Found::default(), BTreeSet::new());
            for _ in 0..random.below(200) {
                let block = random.below(1000);
                if blocks.insert(block) {
                    found.add(range(block * 8, block * 8 + 8));
                }
                assert_eq!(found.sectors(), blocks.len() as u64 * 8);
                let ranges: Vec<_> = found.ranges().collect();
                assert!(ranges.len() <= FOUND_MAX);
                assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                let is_covered = |block: &u64| {
                    let mut covering = ranges.iter();
                    covering.any(|range| range.start <= block * 8 && block * 8 < range.end)
                };
                assert!(blocks.iter().all(is_covered), "seed {seed}");
            }
        }
    }
}
