// SPDX-License-Identifier: GPL-2.0-only
//! Waiting with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, Result};

/// A moment until which something may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Deadline(Instant::now() + limit)
    }

    /// What is left; zero once the moment has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the moment has passed.
    pub fn is_over(self) -> bool {
        self.remaining().is_zero()
    }
}

/// Asks `question` until it has an answer. Fails after `limit`, saying that
/// `what` did not come, or at once if the question itself fails.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if deadline.is_over() {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
