// SPDX-License-Identifier: GPL-2.0-only

//! How long to wait before the next attempt: doubling up to a cap, with jitter, never giving up.

use std::time::Duration;

/// The delays of one series of attempts.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Delays begin around `base` and stay at or below `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            attempt: 0,
        }
    }

    /// Failed attempts since the last success.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// An attempt succeeded: begin anew.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// An attempt failed: how long to wait now. Between half of the nominal delay and all of it, so that nodes which
    /// failed together do not come back together.
    pub fn fail(&mut self) -> Duration {
        let doubled = self.base.saturating_mul(2u32.saturating_pow(self.attempt));
        self.attempt = self.attempt.saturating_add(1);
        let nominal = doubled.min(self.cap);
        nominal.mul_f64(0.5 + 0.5 * random_fraction())
    }
}

/// A number from 0 to 1.
fn random_fraction() -> f64 {
    // Without random numbers every node uses the full delay, which is still correct.
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(250);
    const CAP: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_the_cap_and_jitter_takes_at_most_half() {
        let mut backoff = Backoff::new(BASE, CAP);
        for nominal_ms in [250, 500, 1000, 2000, 4000, 5000, 5000, 5000] {
            let nominal = Duration::from_millis(nominal_ms);
            let delay = backoff.fail();
            assert!(
                (nominal / 2..=nominal).contains(&delay),
                "{delay:?} for {nominal:?}"
            );
        }
    }

    #[test]
    fn success_begins_anew_and_no_number_of_failures_overflows() {
        let mut backoff = Backoff::new(BASE, CAP);
        for _ in 0..1000 {
            assert!(backoff.fail() <= CAP);
        }
        backoff.reset();
        assert!(backoff.fail() <= BASE);
    }
}
