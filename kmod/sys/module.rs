// SPDX-License-Identifier: GPL-2.0-only

//! The module itself.

use super::bindings;
use kernel::prelude::*;

/// `THIS_MODULE` of C. The kernel crate's constant of that name moves from version to version.
pub(super) const THIS_MODULE: *mut bindings::module = &raw mut bindings::__this_module;

/// Keeps the module from being unloaded.
///
/// # Invariants
/// One reference to the module belongs to it.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// Fails with `ENODEV` once the module is being unloaded.
    pub(crate) fn get() -> Result<Self> {
        // SAFETY: The module is loaded while its code runs.
        if !unsafe { bindings::try_module_get(THIS_MODULE) } {
            return Err(ENODEV);
        }
        // INVARIANT: Taken above.
        Ok(Self(()))
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. Whoever drops it runs code that the unloading module waits for.
        unsafe { bindings::module_put(THIS_MODULE) };
    }
}
