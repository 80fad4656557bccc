// SPDX-License-Identifier: GPL-2.0-only

//! How fast a node serves resyncs, and what holds one up.

use crate::limits::BITMAP_BLOCK_BYTES;
use crate::state::states;

/// Slowest rate that can be asked for, in bytes per second: a block of the bitmap.
pub const RATE_MIN: u64 = BITMAP_BLOCK_BYTES as u64;

/// Fastest one: 1 TiB per second, more than any link.
pub const RATE_MAX: u64 = 1 << 40;

/// Longest time that applications may be said to wait, in milliseconds.
pub const LATENCY_MS_MAX: u32 = 60_000;

/// Between which bounds a node serves each resync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speed {
    /// Never slower for the sake of applications, in bytes per second.
    pub min: u64,
    /// Never faster, in bytes per second; 0: as fast as it goes.
    pub max: u64,
    /// Slower while requests of applications take longer than this in the mean, in milliseconds.
    pub latency_ms: u32,
}

impl Default for Speed {
    fn default() -> Self {
        Self {
            // 32 reads of 128 KiB a second: a fifth of the time of a rotating disk, 3 % of a network of 1 Gbit/s.
            min: 4 << 20,
            max: 0,
            latency_ms: 20,
        }
    }
}

impl Speed {
    /// The fastest rate in bytes per second.
    pub const fn ceiling(self) -> u64 {
        match self.max {
            0 => RATE_MAX,
            max => max,
        }
    }

    /// Whether the bounds are in their ranges, and the lower one below the upper one.
    pub const fn is_valid(self) -> bool {
        RATE_MIN <= self.min
            && self.min <= self.ceiling()
            && self.ceiling() <= RATE_MAX
            && 0 < self.latency_ms
            && self.latency_ms <= LATENCY_MS_MAX
    }
}

states! {
    /// What holds up a resync that this node serves.
    Limit {
        /// Nothing but disks and network.
        None = 0 "none",
        /// Its upper bound.
        MaxRate = 1 "max-rate",
        /// Requests of applications take too long, or did until a moment ago.
        Latency = 2 "latency",
        /// As before; it is as slow as it may be.
        MinRate = 3 "min-rate",
    }
}

states! {
    /// Whether a node that has to fetch a range asks by digest first.
    #[derive(Default)]
    Csums {
        /// It does not.
        #[default]
        No = 1 "no",
        /// It does.
        Yes = 2 "yes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_in_order_and_within_reason() {
        let speed = Speed::default();
        assert!(speed.is_valid());
        assert!(Speed {
            max: speed.min,
            ..speed
        }
        .is_valid());
        for wrong in [
            Speed {
                max: speed.min - 1,
                ..speed
            },
            Speed {
                max: RATE_MAX + 1,
                ..speed
            },
            Speed {
                min: RATE_MIN - 1,
                ..speed
            },
            Speed {
                min: RATE_MAX + 1,
                ..speed
            },
            Speed {
                latency_ms: 0,
                ..speed
            },
            Speed {
                latency_ms: LATENCY_MS_MAX + 1,
                ..speed
            },
        ] {
            assert!(!wrong.is_valid(), "{wrong:?}");
        }
    }
}
