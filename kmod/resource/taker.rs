// SPDX-License-Identifier: GPL-2.0-only

//! A thread that takes the ends of the disk requests that it submits: a disk in memory is done before its submission
//! returns, and nobody has to be woken for that.

use crate::sys::task;
use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// At most one thread; others take nothing by themselves.
pub(super) struct Taker(Atomic<usize>);

impl Taker {
    pub(super) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// From now on until the answer is dropped nobody is woken for what the calling thread ends itself. It takes those ends
    /// afterwards. Process context.
    pub(super) fn begin(&self) -> Taking<'_> {
        let is_first = self.0.cmpxchg(0, task::running(), Full).is_ok();
        Taking(is_first.then_some(&self.0))
    }

    /// Whether somebody has to be woken for an end that was put on the list.
    ///
    /// The thread may sleep in a submission, whatever was asked of the disk, while others' ends come: they do not rely on it,
    /// nor on the list having been empty, since what is on it may be the thread's own. Any context.
    pub(super) fn leaves(&self, is_first: bool) -> bool {
        match self.0.load(Relaxed) {
            0 => is_first,
            taker => taker != task::running(),
        }
    }
}

/// See [`Taker::begin`].
pub(crate) struct Taking<'a>(Option<&'a Atomic<usize>>);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if let Some(taker) = self.0 {
            // The list is looked at after this.
            taker.xchg(0, Full);
        }
    }
}
