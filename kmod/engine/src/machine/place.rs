// SPDX-License-Identifier: GPL-2.0-only

//! A place for something large: empty, or holding it in memory of its own.
//!
//! Keeps large structs out of other structs and so off the stack, which is 16 KiB in the kernel.

use crate::host::{Host, NoMemory};

/// Holds one `T` or nothing.
pub(super) struct Place<H: Host, T>(Option<H::Slab<Option<T>>>);

impl<H: Host, T> Default for Place<H, T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<H: Host, T> Place<H, T> {
    /// What is there.
    pub(super) fn as_ref(&self) -> Option<&T> {
        self.0.as_ref()?.first()?.as_ref()
    }

    /// What is there, to be changed.
    pub(super) fn as_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.first_mut()?.as_mut()
    }

    /// Whether something is there.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Whether nothing is there.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Puts something there. Context: may sleep.
    #[inline(never)]
    pub(super) fn put(&mut self, thing: T) -> Result<(), NoMemory> {
        let mut thing = Some(thing);
        self.0 = Some(H::slab(1, || thing.take())?);
        Ok(())
    }

    /// Puts something there that is made in its place. Context: may sleep.
    pub(super) fn put_with(
        &mut self,
        make: impl FnOnce(&mut Option<T>) -> Result<(), NoMemory>,
    ) -> Result<(), NoMemory> {
        let mut memory = Self::empty()?;
        make(memory.first_mut().ok_or(NoMemory)?)?;
        self.0 = Some(memory);
        Ok(())
    }

    #[inline(never)]
    fn empty() -> Result<H::Slab<Option<T>>, NoMemory> {
        H::slab(1, || None)
    }

    /// Empties the place.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}
