// SPDX-License-Identifier: GPL-2.0-only

//! The one source of chance: everything in a run follows from its seed.

use std::ops::Range;

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of the range, which is not empty.
    pub(crate) fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// Like [`Self::index`]; takes no chance where there is no choice.
    pub(crate) fn choose(&mut self, len: usize) -> usize {
        if len > 1 {
            self.index(len)
        } else {
            0
        }
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        (self.next() % len as u64) as usize
    }

    /// True in `percent` of all cases.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.index(list.len())]
    }

    /// A duration whose order of magnitude is random, too.
    pub(crate) fn duration(&mut self, range: Range<u64>) -> u64 {
        let scale = (range.end / range.start.max(1)).max(2).ilog2() as u64;
        let end = (range.start << self.range(1..scale + 2)).clamp(range.start + 1, range.end);
        self.range(range.start..end)
    }
}
