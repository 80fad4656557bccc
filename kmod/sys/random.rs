// SPDX-License-Identifier: GPL-2.0-only

//! Random numbers.

use super::bindings;

/// 64 bits of the kernel's generator. Any context.
pub(crate) fn random_u64() -> u64 {
    // SAFETY: There are no requirements.
    unsafe { bindings::get_random_u64() }
}
