// SPDX-License-Identifier: GPL-2.0-only
//! Lines on standard error that tell how far a run is.

use std::time::{Duration, Instant};

use super::plan::Step;

/// How far a run is.
pub(super) struct Progress {
    begun: Instant,
    /// When the first step began.
    steps_begun: Option<Instant>,
    steps: usize,
    done: usize,
}

impl Progress {
    pub(super) fn new(steps: usize) -> Self {
        Self {
            begun: Instant::now(),
            steps_begun: None,
            steps,
            done: 0,
        }
    }

    /// Tells of something that comes before the steps.
    pub(super) fn say(&self, text: &str) {
        eprintln!("[{:>4} s] {text}", self.begun.elapsed().as_secs());
    }

    pub(super) fn begin_steps(&mut self) {
        self.steps_begun = Some(Instant::now());
    }

    /// Tells what a step has found.
    pub(super) fn step(&mut self, step: &Step, found: f64) {
        self.done += 1;
        let left = self.left().as_secs();
        let Step {
            round,
            workload,
            volume,
        } = step;
        self.say(&format!(
            "{:>3} of {}, {left} s left: round {}, {} {}: {:.1} {}",
            self.done,
            self.steps,
            round + 1,
            volume.resource(),
            workload.name,
            found,
            workload.unit,
        ));
    }

    /// What the rest takes if it goes on like this.
    fn left(&self) -> Duration {
        let spent = self
            .steps_begun
            .map_or(Duration::ZERO, |begun| begun.elapsed());
        let rest = self.steps.saturating_sub(self.done) as f64 / self.done.max(1) as f64;
        spent.mul_f64(rest)
    }
}
