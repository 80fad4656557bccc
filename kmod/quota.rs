// SPDX-License-Identifier: GPL-2.0-only

//! A bound on how many of something there are at the same time.

use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// See the module. Any context.
pub(crate) struct Quota {
    used: Atomic<usize>,
    max: usize,
}

impl Quota {
    /// At most `max`; there is none yet.
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            used: Atomic::new(0),
            max,
        }
    }

    /// Whether there may be one more; then there is, until [`give_back`](Self::give_back).
    pub(crate) fn take(&self) -> bool {
        if self.used.fetch_add(1, Full) < self.max {
            return true;
        }
        self.used.fetch_sub(1, Full);
        false
    }

    /// There is one less than [`take`](Self::take) allowed.
    pub(crate) fn give_back(&self) {
        self.used.fetch_sub(1, Full);
    }

    /// Whether there may be one more now.
    pub(crate) fn has_room(&self) -> bool {
        self.used.load(Relaxed) < self.max
    }
}
