// SPDX-License-Identifier: GPL-2.0-only

//! The task that runs.

use super::bindings;

/// The address of the task that runs, to be compared with another one; 0 in an interrupt. Any context.
pub(crate) fn running() -> usize {
    // SAFETY: There are no requirements.
    unsafe { bindings::weft_running_task() as usize }
}
