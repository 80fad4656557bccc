// SPDX-License-Identifier: GPL-2.0-only

//! Reads that go straight from a device of ours to a lower one, and are completed by its end in whatever context that is.
//!
//! ```text
//! Bdev::lend -> Loan::read -> lower device -> the bio is completed, or given to Sink::refused
//! ```
//! A loan keeps the lower device as an `Arc` does, but may end where nothing can be torn down.

use super::{bindings, Bdev, Bio, NoIo, Sink};
use crate::sys::bio::Started;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Full, Relaxed},
        rcu, Arc, ArcBorrow,
    },
    time::{Instant, Monotonic},
};

/// The use of a lower device for one read.
///
/// # Invariants
/// It is counted in the device's `loans`, for whose end the drop of the device waits.
pub(crate) struct Loan<S: Sink>(NonNull<Bdev<S>>);

// SAFETY: Block devices belong to no thread.
unsafe impl<S: Sink> Send for Loan<S> {}

impl<S: Sink> Loan<S> {
    pub(super) fn new(device: &Bdev<S>) -> Self {
        device.loans.fetch_add(1, Full);
        // INVARIANT: Just counted.
        Self(NonNull::from(device))
    }

    /// Reads into the bio's own pages from its own sector, and completes it. If that fails the sink gets the bio. May
    /// wait for memory and for the device's queue.
    pub(crate) fn read(self, bio: Bio) {
        let _no_io = NoIo::enter();
        // SAFETY: The device is valid, by the type's invariant.
        let device = unsafe { self.0.as_ref() };
        let (bdev, bios) = (device.bdev.as_ptr(), device.bios.get());
        let started = bio.start_accounting();
        // SAFETY: All are valid. With these flags the allocation waits, and there is neither integrity nor encryption to
        // clone: it does not fail.
        let clone =
            unsafe { bindings::bio_alloc_clone(bdev, bio.as_ptr(), bindings::WEFT_GFP_NOIO, bios) };
        let direct = Direct {
            loan: self,
            bio,
            started,
            begun: Instant::now(),
        };
        // SAFETY: The padding, which is large enough, and the clone are ours until it is submitted. What it reads into
        // stays until its end, since the bio is in the padding.
        unsafe {
            Direct::of(clone).write(direct);
            (*clone).bi_opf = bindings::req_op_REQ_OP_READ;
            (*clone).bi_end_io = Some(Self::end_io);
            bindings::submit_bio_noacct(clone);
        }
    }

    /// The read has ended.
    fn count(&self, begun: Instant<Monotonic>) {
        // SAFETY: The device is valid, by the type's invariant.
        let device = unsafe { self.0.as_ref() };
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0);
        device.lent_ns.fetch_add(took, Relaxed);
        device.lent_reads.fetch_add(1, Relaxed);
    }

    /// End of a read. Any context.
    ///
    /// # Safety
    /// The block layer's call: a bio that was submitted by [`read`](Self::read) ended.
    unsafe extern "C" fn end_io(clone: *mut bindings::bio) {
        // SAFETY: The content was written before, and is moved out before the clone is freed.
        let (direct, status) = unsafe {
            let direct = Direct::<S>::of(clone).read();
            let status = (*clone).bi_status;
            bindings::bio_put(clone);
            (direct, status)
        };
        let Direct {
            loan,
            bio,
            started,
            begun,
        } = direct;
        loan.count(begun);
        if status == 0 {
            bio.complete(Ok(()), Some(started));
        } else {
            bio.end_accounting(started);
            // SAFETY: The device, and with it the sink, is kept by the loan.
            let sink = unsafe { ArcBorrow::from_raw(Arc::as_ptr(&loan.0.as_ref().sink)) };
            S::refused(sink, bio);
        }
    }
}

impl<S: Sink> Drop for Loan<S> {
    fn drop(&mut self) {
        // The device's drop waits for this section, too, so that it does not go away before its counter was let go.
        let _counter_stays = rcu::read_lock();
        // SAFETY: The device is valid, by the type's invariant and then by the section.
        let loans = unsafe { &self.0.as_ref().loans };
        if loans.fetch_add(-1, Full) == 1 {
            // SAFETY: As above.
            unsafe { bindings::weft_wake_waiter(loans.as_ptr()) };
        }
    }
}

/// What stands in front of the bio of a direct read.
struct Direct<S: Sink> {
    loan: Loan<S>,
    bio: Bio,
    started: Started,
    begun: Instant<Monotonic>,
}

impl<S: Sink> Direct<S> {
    /// # Safety
    /// `bio` comes from the bio set of a [`Bdev<S>`].
    unsafe fn of(bio: *mut bindings::bio) -> *mut Self {
        const {
            assert!(size_of::<Self>() <= super::InFlight::<S>::TO_BIO);
            assert!(align_of::<Self>() <= align_of::<super::InFlight<S>>());
        };
        // SAFETY: The padding precedes it, by the invariant of [`Bdev`].
        unsafe { super::InFlight::<S>::of(bio).cast() }
    }
}
