// SPDX-License-Identifier: GPL-2.0-only

//! What the unit tests share: a host without I/O and a small generator of random numbers.

use crate::host::{Host, NoMemory};

/// A host for parts that only need memory.
pub(crate) struct NoIo;

impl Host for NoIo {
    type Request = u32;
    type Buffer = ();
    type Slab<T> = Vec<T>;

    fn is_zero((): &()) -> bool {
        false
    }

    fn slab<T>(len: usize, item: impl FnMut() -> T) -> Result<Vec<T>, NoMemory> {
        Ok(core::iter::repeat_with(item).take(len).collect())
    }
}

/// Deterministic random numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
