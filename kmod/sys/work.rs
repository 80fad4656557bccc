// SPDX-License-Identifier: GPL-2.0-only

//! Work for later: queues of the module's own, and timers that run as work.
//!
//! The items themselves are those of [`kernel::workqueue`].

use super::bindings;
use core::ptr::NonNull;
use kernel::{
    ffi::{c_int, c_uint},
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed, Release},
        Arc, ArcBorrow,
    },
    workqueue::{self, HasDelayedWork, RawWorkItem, Work, WorkItem},
};

/// A workqueue whose thread makes progress also when memory is short.
///
/// # Invariants
/// The queue is valid.
struct RawQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Workqueues belong to no thread.
unsafe impl Send for RawQueue {}
// SAFETY: Workqueues have their own locks.
unsafe impl Sync for RawQueue {}

impl RawQueue {
    /// A queue called `name`; `active_max` items run at the same time at most.
    fn new(name: &CStr, flags: c_uint, active_max: c_int) -> Result<Self> {
        let flags = flags | bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM;
        // SAFETY: The format takes one string, which the queue copies.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                flags,
                active_max,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: Just made.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    fn as_queue(&self) -> &workqueue::Queue {
        // SAFETY: By the type's invariant.
        unsafe { workqueue::Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for RawQueue {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; this waits for what is queued or runs.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// The queue of [`SlowQueue`]; null while there is none.
static SLOW: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// Ordered queues that exist.
static QUEUES: Atomic<i32> = Atomic::new(0);

/// The module's one queue for what takes long. Dropping it waits for all [`OrderedQueue`]s, then for its own items.
pub(crate) struct SlowQueue {
    _queue: RawQueue,
}

impl SlowQueue {
    /// Called once, when the module is loaded. May sleep.
    pub(crate) fn create() -> Result<Self> {
        let queue = RawQueue::new(c"weft_slow", 0, 0)?;
        SLOW.store(queue.0.as_ptr(), Release);
        Ok(Self { _queue: queue })
    }

    /// Queues an item. Any context. An item that keeps an [`OrderedQueue`] is run, since that keeps this queue.
    pub(crate) fn enqueue<W: RawWorkItem<ID> + Send + 'static, const ID: u64>(item: W) {
        let queue = SLOW.load(Acquire);
        if !queue.is_null() {
            // SAFETY: The queue is valid until it is dropped, which waits for all who use it.
            let _ = unsafe { workqueue::Queue::from_raw(queue) }.enqueue(item);
        }
    }
}

impl Drop for SlowQueue {
    fn drop(&mut self) {
        // SAFETY: The counter is static.
        unsafe { bindings::weft_wait_for_zero(QUEUES.as_ptr()) };
        SLOW.store(core::ptr::null_mut(), Release);
    }
}

/// A queue that runs its items one after the other, before other work of the machine.
///
/// It may be dropped by one of its own items: what has to wait for that item is left to the [`SlowQueue`].
///
/// # Invariants
/// Each is counted in [`QUEUES`] from its creation until its [`Retired`] is dropped.
pub(crate) struct OrderedQueue(Option<Pin<KBox<Retired>>>);

/// A queue that is going to be destroyed.
#[pin_data]
struct Retired {
    queue: RawQueue,
    _counted: Counted,
    #[pin]
    work: Work<Self>,
}

/// One of [`QUEUES`].
struct Counted(());

impl Counted {
    fn new() -> Self {
        QUEUES.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if QUEUES.fetch_add(-1, Full) == 1 {
            // SAFETY: The counter is static.
            unsafe { bindings::weft_wake_waiter(QUEUES.as_ptr()) };
        }
    }
}

kernel::impl_has_work! {
    impl HasWork<Self> for Retired { self.work }
}

impl WorkItem for Retired {
    type Pointer = Pin<KBox<Self>>;

    fn run(this: Pin<KBox<Self>>) {
        drop(this);
    }
}

impl OrderedQueue {
    /// A queue called `name`. May sleep.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        let flags = bindings::wq_flags_WQ_HIGHPRI | bindings::wq_flags___WQ_ORDERED;
        let init = try_pin_init!(Retired {
            queue: RawQueue::new(name, flags, 1)?,
            _counted: Counted::new(),
            work <- kernel::new_work!("weft_retired_queue"),
        } ? Error);
        Ok(Self(Some(KBox::pin_init(init, GFP_KERNEL)?)))
    }

    /// Queues the item; nothing happens if it is queued already. Any context, but the reference must not be the last.
    pub(crate) fn enqueue<W, const ID: u64>(&self, item: Arc<W>)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + workqueue::HasWork<W, ID> + Send + Sync + 'static,
    {
        if let Some(retired) = &self.0 {
            // An error gives the reference back, which is dropped: the item will run.
            let _ = retired.queue.as_queue().enqueue::<Arc<W>, ID>(item);
        }
    }

    /// Lets the item run once `nanoseconds` from now (rounded up to a tick), and forgets an earlier time.
    pub(crate) fn run_in<W, const ID: u64>(&self, item: ArcBorrow<'_, W>, nanoseconds: u64)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + HasDelayedWork<W, ID> + Send + Sync + 'static,
    {
        let Some(retired) = &self.0 else {
            return;
        };
        let raw = Arc::into_raw(Arc::from(item)).cast_mut();
        // SAFETY: The object is valid and contains the work; the queue is valid. What was queued owns a reference, as
        // `Arc`'s implementation of a work item expects: the new one, or, if it was pending already, the former one.
        unsafe {
            let work = Work::raw_get(W::raw_get_work(raw));
            let delayed = kernel::container_of!(work, bindings::delayed_work, work);
            let ticks = bindings::nsecs_to_jiffies(nanoseconds).saturating_add(1);
            let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;
            if bindings::mod_delayed_work_on(cpu, retired.queue.0.as_ptr(), delayed, ticks) {
                drop(Arc::from_raw(raw));
            }
        }
    }

    /// Does not let the item run; one that runs already goes on.
    pub(crate) fn cancel<W, const ID: u64>(&self, item: ArcBorrow<'_, W>)
    where
        W: WorkItem<ID, Pointer = Arc<W>> + HasDelayedWork<W, ID> + Send + Sync + 'static,
    {
        let raw = Arc::into_raw(Arc::from(item)).cast_mut();
        // SAFETY: The object is valid and contains the work. If it was pending, its reference is ours now.
        unsafe {
            let work = Work::raw_get(W::raw_get_work(raw));
            let delayed = kernel::container_of!(work, bindings::delayed_work, work);
            if bindings::cancel_delayed_work(delayed) {
                drop(Arc::from_raw(raw));
            }
            drop(Arc::from_raw(raw));
        }
    }
}

impl Drop for OrderedQueue {
    fn drop(&mut self) {
        if let Some(retired) = self.0.take() {
            SlowQueue::enqueue(retired);
        }
    }
}
