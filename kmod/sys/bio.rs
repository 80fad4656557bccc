// SPDX-License-Identifier: GPL-2.0-only

//! Requests that arrive at a device of ours.

use super::{bindings, pages::Pages};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use kernel::{
    ffi::{c_uint, c_ulong},
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// Operation of a bio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BioOp {
    /// Read the range into the bio's pages.
    Read,
    /// Write the bio's pages to the range.
    Write,
    /// Only the pre-flush flag counts.
    Flush,
    /// The range is not needed any more.
    Discard,
    /// The range reads as zeros.
    WriteZeroes {
        /// It must stay allocated.
        no_unmap: bool,
    },
}

/// A bio that belongs to this module until it is completed. Dropping it completes it with an error.
///
/// # Invariants
/// The bio is valid and nobody else completes it.
pub(crate) struct Bio(NonNull<bindings::bio>);

// SAFETY: A bio belongs to no thread.
unsafe impl Send for Bio {}

/// When the accounting of a bio began, in jiffies.
#[derive(Clone, Copy)]
pub(crate) struct Started(c_ulong);

impl Bio {
    /// # Safety
    /// `bio` is valid and the caller, who must complete it, leaves that to the new object.
    pub(super) unsafe fn from_raw(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: By the function's safety requirements.
        Self(bio)
    }

    /// The bio, still owned.
    pub(super) fn as_ptr(&self) -> *mut bindings::bio {
        self.0.as_ptr()
    }

    fn flags(&self) -> c_uint {
        // SAFETY: The bio is valid, by the type's invariant.
        unsafe { (*self.as_ptr()).bi_opf }
    }

    /// The operation; `None`: one that our devices do not offer.
    pub(crate) fn op(&self) -> Option<BioOp> {
        const READ: c_uint = bindings::req_op_REQ_OP_READ;
        const WRITE: c_uint = bindings::req_op_REQ_OP_WRITE;
        const FLUSH: c_uint = bindings::req_op_REQ_OP_FLUSH;
        const DISCARD: c_uint = bindings::req_op_REQ_OP_DISCARD;
        const WRITE_ZEROES: c_uint = bindings::req_op_REQ_OP_WRITE_ZEROES;
        match self.flags() & bindings::WEFT_REQ_OP_MASK {
            READ => Some(BioOp::Read),
            WRITE if self.bytes() == 0 => Some(BioOp::Flush),
            WRITE => Some(BioOp::Write),
            FLUSH => Some(BioOp::Flush),
            DISCARD => Some(BioOp::Discard),
            WRITE_ZEROES => Some(BioOp::WriteZeroes {
                no_unmap: self.flags() & bindings::WEFT_REQ_NOUNMAP != 0,
            }),
            _ => None,
        }
    }

    /// Whether what was completed before must be stable before this one starts.
    pub(crate) fn is_preflush(&self) -> bool {
        self.flags() & bindings::WEFT_REQ_PREFLUSH != 0
    }

    /// Whether it must be stable when it completes.
    pub(crate) fn is_fua(&self) -> bool {
        self.flags() & bindings::WEFT_REQ_FUA != 0
    }

    /// First sector of the range.
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: The bio is valid, by the type's invariant.
        unsafe { (*self.as_ptr()).bi_iter.bi_sector }
    }

    /// Length of the range in bytes; for reads and writes also that of the data.
    pub(crate) fn bytes(&self) -> u32 {
        // SAFETY: The bio is valid, by the type's invariant.
        unsafe { (*self.as_ptr()).bi_iter.bi_size }
    }

    /// Counts the bio in the statistics of its device.
    pub(crate) fn start_accounting(&self) -> Started {
        // SAFETY: The bio is valid, by the type's invariant.
        Started(unsafe { bindings::bio_start_io_acct(self.as_ptr()) })
    }

    /// Ends its accounting, but not the bio.
    pub(crate) fn end_accounting(&self, Started(start): Started) {
        // SAFETY: The bio is valid, by the type's invariant, and `start` came from its start.
        unsafe { bindings::weft_bio_end_io_acct(self.as_ptr(), start) };
    }

    /// Copies the data of a write out. `EINVAL` when `to` has another length.
    pub(crate) fn copy_out(&self, to: &mut Pages) -> Result {
        if self.op() != Some(BioOp::Write) || to.bytes() != self.bytes() {
            return Err(EINVAL);
        }
        // SAFETY: The bio is valid and has data, by the type's invariant and the check above; the pages hold as many
        // bytes and nobody else uses them.
        unsafe { bindings::weft_bio_copy_out(self.as_ptr(), to.used().as_ptr()) };
        Ok(())
    }

    /// Copies the data of a read in. `EINVAL` when `from` has another length.
    pub(crate) fn copy_in(&mut self, from: &Pages) -> Result {
        if self.op() != Some(BioOp::Read) || from.bytes() != self.bytes() {
            return Err(EINVAL);
        }
        // SAFETY: The bio is valid, has pages and is not in use below; the pages hold as many bytes.
        unsafe { bindings::weft_bio_copy_in(self.as_ptr(), from.used().as_ptr()) };
        Ok(())
    }

    /// Completes the bio; `started` ends its accounting.
    pub(crate) fn complete(self, result: Result, started: Option<Started>) {
        let bio = ManuallyDrop::new(self);
        if let Some(started) = started {
            bio.end_accounting(started);
        }
        finish(bio.as_ptr(), result);
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        finish(self.as_ptr(), Err(EIO));
    }
}

/// Ends `bio`, which must be valid and not be used afterwards.
fn finish(bio: *mut bindings::bio, result: Result) {
    // SAFETY: By the invariant of [`Bio`], whose last use this is.
    unsafe {
        if let Err(error) = result {
            (*bio).bi_status = bindings::errno_to_blk_status(error.to_errno());
        }
        bindings::bio_endio(bio);
    }
}

/// Bios that wait, in order. Takes no memory of its own.
///
/// # Invariants
/// `head` and `tail` are the ends of a list through `bi_next` of bios that belong to this queue, or both `None`.
pub(crate) struct BioQueue {
    head: Option<NonNull<bindings::bio>>,
    tail: Option<NonNull<bindings::bio>>,
}

// SAFETY: Bios belong to no thread.
unsafe impl Send for BioQueue {}

impl BioQueue {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            head: None,
            tail: None,
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Adds a bio at the end.
    pub(crate) fn push(&mut self, bio: Bio) {
        let bio = ManuallyDrop::new(bio).0;
        // SAFETY: Both bios are valid and ours, by the invariants.
        unsafe {
            (*bio.as_ptr()).bi_next = core::ptr::null_mut();
            if let Some(tail) = self.tail {
                (*tail.as_ptr()).bi_next = bio.as_ptr();
            }
        }
        // INVARIANT: The list ends with the new bio.
        self.head = self.head.or(Some(bio));
        self.tail = Some(bio);
    }

    /// Adds a bio before all others.
    pub(crate) fn push_front(&mut self, bio: Bio) {
        let bio = ManuallyDrop::new(bio).0;
        let next = self.head.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: The bio is valid and ours, by the invariant of `Bio`.
        unsafe { (*bio.as_ptr()).bi_next = next };
        // INVARIANT: The list starts with the new bio.
        self.head = Some(bio);
        self.tail = self.tail.or(Some(bio));
    }

    /// Takes the first bio.
    pub(crate) fn pop(&mut self) -> Option<Bio> {
        let bio = self.head?;
        // SAFETY: The bio is valid, by the invariant.
        let next =
            unsafe { core::mem::replace(&mut (*bio.as_ptr()).bi_next, core::ptr::null_mut()) };
        // INVARIANT: The list starts with the next bio.
        self.head = NonNull::new(next);
        if self.head.is_none() {
            self.tail = None;
        }
        // INVARIANT: It belonged to the queue.
        Some(Bio(bio))
    }
}

impl Drop for BioQueue {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// Bios that are put aside in any context and taken all at once. Takes no memory of its own.
///
/// # Invariants
/// A list through `bi_next` of bios that belong to this stack.
pub(crate) struct BioStack(Atomic<*mut bindings::bio>);

impl BioStack {
    /// An empty stack.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(core::ptr::null_mut()))
    }

    /// Adds a bio.
    pub(crate) fn push(&self, bio: Bio) {
        let bio = ManuallyDrop::new(bio).as_ptr();
        let mut head = self.0.load(Relaxed);
        loop {
            // SAFETY: The bio is ours until the exchange below succeeds.
            unsafe { (*bio).bi_next = head };
            // INVARIANT: The bio points to the rest of the list.
            match self.0.cmpxchg(head, bio, Full) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all bios, the last one first.
    pub(crate) fn take(&self) -> BioQueue {
        let mut queue = BioQueue::new();
        if self.0.load(Relaxed).is_null() {
            return queue;
        }
        let mut next = self.0.xchg(core::ptr::null_mut(), Full);
        while let Some(bio) = NonNull::new(next) {
            // SAFETY: The bio belonged to the stack, by the invariant.
            next = unsafe { (*bio.as_ptr()).bi_next };
            // INVARIANT: It was taken out.
            queue.push(Bio(bio));
        }
        queue
    }
}

impl Drop for BioStack {
    fn drop(&mut self) {
        drop(self.take());
    }
}
