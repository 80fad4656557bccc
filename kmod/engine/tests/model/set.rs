// SPDX-License-Identifier: GPL-2.0-only

//! Small sets of nodes or blocks.

use std::fmt;

/// Numbers below 8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Set(pub(crate) u8);

impl Set {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) const fn of(number: usize) -> Self {
        Self(1 << number)
    }

    /// Every number below `count`.
    pub(crate) const fn below(count: usize) -> Self {
        Self(((1u16 << count) - 1) as u8)
    }

    pub(crate) const fn contains(self, number: usize) -> bool {
        self.0 & (1 << number) != 0
    }

    pub(crate) const fn with(self, number: usize) -> Self {
        Self(self.0 | (1 << number))
    }

    pub(crate) const fn without(self, number: usize) -> Self {
        Self(self.0 & !(1 << number))
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every number of `other` is in it.
    pub(crate) const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |&number| self.contains(number))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
