// SPDX-License-Identifier: GPL-2.0-only

//! Timers in the order in which they are due.

use std::collections::BTreeMap;
use std::time::Instant;

/// Keys by their time; keys of the same time keep their order.
#[derive(Debug)]
pub(super) struct Timers<T> {
    armed: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            armed: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<T> Timers<T> {
    pub(super) fn arm(&mut self, at: Instant, key: T) {
        self.armed.insert((at, self.count), key);
        self.count += 1;
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.armed.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<T> {
        let entry = self.armed.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_come_in_the_order_of_their_times_and_not_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        for (ms, key) in [(20, 'c'), (10, 'a'), (10, 'b')] {
            timers.arm(at(ms), key);
        }
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.due(at(9)), None);
        assert_eq!(timers.due(at(10)), Some('a'));
        assert_eq!(timers.due(at(10)), Some('b'));
        assert_eq!(timers.due(at(10)), None);
        assert_eq!(timers.due(at(30)), Some('c'));
    }
}
