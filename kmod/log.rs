// SPDX-License-Identifier: GPL-2.0-only

//! Lines of a resource in the kernel log.

use core::fmt::Arguments;
use kernel::prelude::*;
use weft_engine::effect::Level;
use weft_engine::host::Time;

/// Lines of each level per [`WINDOW_MS`] at most: a peer that comes and goes shall not fill the log, and what is merely told
/// shall not hide why something was refused.
const LINES_MAX: u32 = 50;

const WINDOW_MS: u64 = 10_000;

/// How much a resource has said lately.
pub(crate) struct Log {
    window: Time,
    errors: u32,
    warnings: u32,
    notes: u32,
}

impl Log {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            window: Time(0),
            errors: 0,
            warnings: 0,
            notes: 0,
        }
    }

    /// Writes a line about `resource`, unless there were too many lately; then that is said once.
    pub(crate) fn write(&mut self, now: Time, resource: &str, level: Level, line: Arguments<'_>) {
        if now.ms_since(self.window) >= WINDOW_MS {
            *self = Self {
                window: now,
                ..Self::new()
            };
        }
        let count = match level {
            Level::Error => &mut self.errors,
            Level::Warn => &mut self.warnings,
            Level::Info => &mut self.notes,
        };
        *count = count.saturating_add(1);
        match level {
            _ if *count > LINES_MAX => {}
            _ if *count == LINES_MAX => {
                pr_warn!("resource {}: too many lines, leaving some out\n", resource)
            }
            Level::Error => pr_err!("resource {}: {}\n", resource, line),
            Level::Warn => pr_warn!("resource {}: {}\n", resource, line),
            Level::Info => pr_info!("resource {}: {}\n", resource, line),
        }
    }
}
