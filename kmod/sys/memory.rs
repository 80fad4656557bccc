// SPDX-License-Identifier: GPL-2.0-only

//! Memory for the path of a write: allocation that never starts I/O, and objects that are always to be had.
//!
//! A block device must make progress when all memory is dirty pages that wait for it. So nothing on its path
//! allocates outside of a [`NoIo`] section, and what every request needs comes from a [`Pool`] with a reserve.

use super::bindings;
use core::{
    convert::Infallible,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};
use kernel::{
    error::to_result,
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    sync::{Arc, Refcount},
    types::Opaque,
};
use pin_init::InPlaceWrite;

/// A section in which allocations of this task are restrained, whatever their flags say. Sections nest.
pub(crate) struct Restrained<const FLAG: c_uint> {
    flags: c_uint,
    /// It belongs to the task.
    _not_send: PhantomData<*mut ()>,
}

/// While it lives, no allocation of this task waits for I/O. It may wait for memory all the same, and for long: the kernel
/// does not let a small allocation fail.
pub(crate) type NoIo = Restrained<{ bindings::WEFT_PF_MEMALLOC_NOIO }>;

/// While it lives, no allocation of this task waits (but for a [`Pool`] whose reserve is used up). It may take from what the
/// kernel keeps for those on whom the freeing of memory depends, and fails when nothing at all is left. For the few bytes
/// that are needed under a lock that every write takes.
pub(crate) type NoWait = Restrained<{ bindings::WEFT_PF_MEMALLOC }>;

impl<const FLAG: c_uint> Restrained<FLAG> {
    /// Enters the section.
    pub(crate) fn enter() -> Self {
        Self {
            // SAFETY: Process context, as everything that may allocate and sleep.
            flags: unsafe { bindings::weft_memalloc_begin(FLAG) },
            _not_send: PhantomData,
        }
    }
}

impl<const FLAG: c_uint> Drop for Restrained<FLAG> {
    fn drop(&mut self) {
        // SAFETY: The flags come from the matching begin in the same task, since this type is not `Send`.
        unsafe { bindings::weft_memalloc_end(self.flags) };
    }
}

/// Memory for objects of type `T`, a fixed number of which is in reserve.
///
/// # Invariants
/// `slots` is an initialised mempool of pieces as large as a [`Slot<T>`].
#[pin_data(PinnedDrop)]
pub(crate) struct Pool<T> {
    #[pin]
    slots: Opaque<bindings::mempool>,
    _objects: PhantomData<T>,
}

// SAFETY: The pool itself holds no object; a mempool has its own lock.
unsafe impl<T> Send for Pool<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for Pool<T> {}

/// An object with its count.
struct Slot<T> {
    references: Refcount,
    pool: Arc<Pool<T>>,
    object: T,
}

impl<T> Pool<T> {
    /// A pool with `reserve` objects in reserve. May sleep.
    pub(crate) fn new(reserve: c_int) -> Result<Arc<Self>> {
        const { assert!(align_of::<Slot<T>>() <= bindings::ARCH_KMALLOC_MINALIGN) };
        let init = try_pin_init!(Self {
            slots <- Opaque::try_ffi_init(|slots: *mut bindings::mempool| {
                // SAFETY: `slots` is valid and not used yet.
                unsafe { slots.write(pin_init::zeroed()) };
                // SAFETY: `slots` is zeroed; the functions fit each other, and their data is the size.
                // INVARIANT: The size is that of a slot.
                to_result(unsafe {
                    bindings::mempool_init_noprof(
                        slots,
                        reserve,
                        Some(bindings::mempool_kmalloc),
                        Some(bindings::mempool_kfree),
                        size_of::<Slot<T>>() as *mut c_void,
                    )
                })
            }),
            _objects: PhantomData,
        } ? Error);
        Arc::pin_init(init, GFP_KERNEL)
    }

    /// Makes an object. May wait until another object of the pool is dropped, never fails.
    pub(crate) fn make(self: &Arc<Self>, object: impl PinInit<T>) -> PoolBox<T>
    where
        T: 'static,
    {
        let _no_io = NoIo::enter();
        let slot = self.alloc(bindings::GFP_KERNEL);
        // SAFETY: An allocation that may sleep does not fail.
        let slot = unsafe { NonNull::new_unchecked(slot) };
        // SAFETY: Just allocated.
        unsafe { self.fill(slot, object) }
    }

    /// As [`make`](Self::make), but does not wait: `None` if there is no memory now. Any context.
    pub(crate) fn try_make(self: &Arc<Self>, object: impl PinInit<T>) -> Option<PoolBox<T>>
    where
        T: 'static,
    {
        let slot = NonNull::new(self.alloc(bindings::GFP_NOWAIT))?;
        // SAFETY: Just allocated.
        Some(unsafe { self.fill(slot, object) })
    }

    /// Has at least `reserve` objects in reserve from now on. Does not shrink. May sleep; not twice at the same time.
    pub(crate) fn grow(&self, reserve: c_int) -> Result {
        grow(&self.slots, reserve)
    }

    fn alloc(&self, flags: bindings::gfp_t) -> *mut Slot<T> {
        // SAFETY: The mempool is initialised, by the type's invariant, and its pieces are as large as a slot.
        unsafe { bindings::mempool_alloc_noprof(self.slots.get(), flags) }.cast()
    }

    /// # Safety
    /// `slot` comes from [`alloc`](Self::alloc) and nobody else uses it.
    unsafe fn fill(self: &Arc<Self>, slot: NonNull<Slot<T>>, object: impl PinInit<T>) -> PoolBox<T>
    where
        T: 'static,
    {
        let place = slot.as_ptr();
        // SAFETY: By the function's safety requirements. The object is pinned, since nothing ever moves it out of its
        // slot.
        unsafe {
            (&raw mut (*place).references).write(Refcount::new(1));
            (&raw mut (*place).pool).write(self.clone());
            let Ok(()) = initialise(&raw mut (*place).object, object);
        }
        // INVARIANT: All fields are initialised and nobody else knows the slot.
        PoolBox(slot)
    }
}

/// Has at least `reserve` elements in an initialised mempool from now on. Does not shrink.
pub(super) fn grow(pool: &Opaque<bindings::mempool>, reserve: c_int) -> Result {
    let _no_io = NoIo::enter();
    // SAFETY: The mempool is initialised, and lives as long as it is borrowed.
    unsafe {
        if reserve <= (*pool.get()).min_nr {
            return Ok(());
        }
        to_result(bindings::mempool_resize(pool.get(), reserve))
    }
}

/// # Safety
/// `place` is valid for writes, nobody else uses it, and the object is not moved out of it before it is dropped.
unsafe fn initialise<T: 'static>(place: *mut T, object: impl PinInit<T>) -> Result<(), Infallible> {
    // SAFETY: By the function's safety requirements. Nobody keeps the reference.
    let place: &'static mut MaybeUninit<T> = unsafe { &mut *place.cast() };
    place.write_pin_init(object).map(|_| ())
}

#[pinned_drop]
impl<T> PinnedDrop for Pool<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The mempool is initialised; every object holds the pool, so all are back.
        unsafe { bindings::mempool_exit(self.slots.get()) };
    }
}

/// An object of a [`Pool`] with one owner.
///
/// # Invariants
/// The slot is initialised, its count is one, and this is the only pointer to it.
pub(crate) struct PoolBox<T>(NonNull<Slot<T>>);

/// An object of a [`Pool`] with several owners.
///
/// # Invariants
/// The slot is initialised and one of its references belongs to this pointer.
pub(crate) struct PoolArc<T>(NonNull<Slot<T>>);

// SAFETY: A box owns its object.
unsafe impl<T: Send> Send for PoolBox<T> {}
// SAFETY: A shared box gives out shared references only.
unsafe impl<T: Sync> Sync for PoolBox<T> {}
// SAFETY: Owners in different threads share the object, and the last of them drops it.
unsafe impl<T: Send + Sync> Send for PoolArc<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for PoolArc<T> {}

impl<T> PoolBox<T> {
    /// Lets others own the object as well; it cannot be changed any more.
    pub(crate) fn share(self) -> PoolArc<T> {
        // INVARIANT: The only reference changes hands.
        PoolArc(ManuallyDrop::new(self).0)
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The slot is initialised, by the type's invariant.
        unsafe { &(*self.0.as_ptr()).object }
    }
}

impl<T: Unpin> DerefMut for PoolBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The slot is initialised and has no other user, by the type's invariant.
        unsafe { &mut (*self.0.as_ptr()).object }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        // INVARIANT: The only reference changes hands.
        drop(PoolArc(self.0));
    }
}

impl<T> Clone for PoolArc<T> {
    fn clone(&self) -> Self {
        // SAFETY: The slot is initialised, by the type's invariant.
        unsafe { (*self.0.as_ptr()).references.inc() };
        // INVARIANT: One more reference was taken.
        Self(self.0)
    }
}

impl<T> Deref for PoolArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The slot is initialised, by the type's invariant.
        unsafe { &(*self.0.as_ptr()).object }
    }
}

impl<T> Drop for PoolArc<T> {
    fn drop(&mut self) {
        let slot = self.0.as_ptr();
        // SAFETY: The slot is initialised, by the type's invariant.
        if !unsafe { (*slot).references.dec_and_test() } {
            return;
        }
        // SAFETY: That was the last reference: object and pool are taken out of a slot that nobody sees, which then
        // goes back to the pool it came from.
        unsafe {
            core::ptr::drop_in_place(&raw mut (*slot).object);
            let pool = (&raw const (*slot).pool).read();
            bindings::mempool_free(slot.cast(), pool.slots.get());
        }
    }
}
