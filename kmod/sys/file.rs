// SPDX-License-Identifier: GPL-2.0-only

//! Files that the module implements: what the control device and the link descriptors have in common.
//!
//! A type that implements [`FileOps`] becomes a `struct file` either by [`PendingFd::new`] (an anonymous inode) or as the
//! file of a misc device (`sys/misc.rs`). The file owns one `Arc` of it from open to release. All files are owned
//! by the module, so an open one refuses `rmmod`.
//!
//! Files never block: a call that has nothing to do fails with `EAGAIN` whatever `O_NONBLOCK` says.

use crate::sys::{bindings, module::THIS_MODULE};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    ffi::{c_int, c_long, c_uint, c_ulong, c_void},
    fs::{
        file::{flags, FileDescriptorReservation},
        File,
    },
    prelude::*,
    sync::{aref::ARef, Arc, ArcBorrow, LockClassKey},
    types::{ForeignOwnable, Opaque},
    uaccess::UserPtr,
};

/// What a file is ready for, as `poll(2)` and epoll see it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness(u32);

impl Readiness {
    /// Nothing.
    pub(crate) const NONE: Self = Self(0);
    /// A read would return something.
    pub(crate) const IN: Self = Self(bindings::WEFT_EPOLLIN);
    /// A write would take something.
    pub(crate) const OUT: Self = Self(bindings::WEFT_EPOLLOUT);
    /// The file is dead: reads return the end, writes fail.
    pub(crate) const HUP: Self = Self(bindings::WEFT_EPOLLHUP);

    /// Both.
    #[must_use]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` if `condition` holds, else nothing.
    #[must_use]
    pub(crate) const fn when(self, condition: bool) -> Self {
        if condition {
            self
        } else {
            Self::NONE
        }
    }
}

/// Where the pollers of a file sleep.
///
/// # Invariants
/// `head` is an initialised wait queue head, pinned.
#[pin_data]
pub(crate) struct PollQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue head belongs to no thread.
unsafe impl Send for PollQueue {}
// SAFETY: A wait queue head has its own lock, taken by everything that is called on it here.
unsafe impl Sync for PollQueue {}

impl PollQueue {
    /// An empty queue.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid and pinned; name and key are static. INVARIANT: initialised here.
            head <- Opaque::ffi_init(move |slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Wakes whoever polls for something of `ready`. Any context.
    pub(crate) fn wake(&self, ready: Readiness) {
        let key = ready.0 as usize as *mut c_void;
        // SAFETY: `head` is initialised by the type's invariant; the key is a mask, not dereferenced.
        unsafe { bindings::__wake_up(self.head.get(), bindings::TASK_INTERRUPTIBLE, 1, key) };
    }
}

/// What a file does. All methods run in the caller's process context, may sleep, and may run concurrently.
pub(crate) trait FileOps: Send + Sync + 'static {
    /// Where pollers of this file wait.
    fn poll_queue(&self) -> &PollQueue;

    /// What the file is ready for now.
    fn readiness(&self) -> Readiness;

    /// `ioctl(2)`: returns a number that is not negative.
    fn ioctl(&self, command: u32, argument: UserPtr) -> Result<usize>;

    /// The last descriptor of the file is gone; none of the other methods is called any more.
    fn release(&self);
}

/// The callbacks that the kernel finds in a file of type `T`.
///
/// All of them rest on this invariant: `private_data` of the file comes from `Arc::<T>::into_foreign` and stays
/// until [`release`](Self::release) takes it back.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: FileOps> Callbacks<T> {
    /// Operations of any file; devices add how they are opened, read and written.
    pub(super) const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: THIS_MODULE,
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: bindings::compat_ptr_ioctl,
        poll: Some(Self::poll),
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    /// The object behind `file`.
    ///
    /// # Safety
    /// `file` is open for the duration of `'a` and its callbacks are of `Self`.
    pub(super) unsafe fn object<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
        // SAFETY: By the invariant of this type, `private_data` is a foreign `Arc<T>` while the file is open.
        unsafe { <Arc<T> as ForeignOwnable>::borrow((*file).private_data) }
    }

    /// # Safety
    /// The kernel calls it for an open file with these operations.
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        command: c_uint,
        argument: c_ulong,
    ) -> c_long {
        // SAFETY: The file is open during the call and has these operations.
        let object = unsafe { Self::object(file) };
        count_or_errno(object.ioctl(command, UserPtr::from_addr(argument)))
    }

    /// # Safety
    /// The kernel calls it for an open file with these operations; `table` is null or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: The file is open during the call.
        let object = unsafe { Self::object(file) };
        // SAFETY: `table` is null or valid. A waiter holds a reference to the file, or is removed before the file
        // is released; the file holds the object, and the object its queue: so the queue outlives all waiters.
        unsafe { bindings::poll_wait(file, object.poll_queue().head.get(), table) };
        object.readiness().0
    }

    /// # Safety
    /// The kernel calls it once, as the last of these operations on the file.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the invariant of this type; nothing uses `private_data` after release.
        let object = unsafe { <Arc<T> as ForeignOwnable>::from_foreign((*file).private_data) };
        object.release();
        0
    }
}

/// A descriptor of the current process that is ready but not visible yet.
///
/// Dropping it closes the file, which calls [`FileOps::release`].
pub(crate) struct PendingFd {
    reservation: FileDescriptorReservation,
    file: ARef<File>,
}

impl PendingFd {
    /// A file of `object` on an anonymous inode, close-on-exec and non-blocking. May sleep.
    ///
    /// Fails with `EMFILE`, `ENFILE` or `ENOMEM`, without [`FileOps::release`].
    pub(crate) fn new<T: FileOps>(name: &'static CStr, object: Arc<T>) -> Result<Self> {
        let operations = &Callbacks::<T>::OPERATIONS;
        let reservation = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        let open_flags = (flags::O_RDWR | flags::O_NONBLOCK) as c_int;
        let private = object.into_foreign();
        // SAFETY: Name and operations are static; `private` is what the callbacks expect.
        let file = unsafe {
            bindings::anon_inode_getfile(name.as_char_ptr(), operations, private, open_flags)
        };
        let file = from_err_ptr(file).inspect_err(|_| {
            // SAFETY: No file came to be that could own the object.
            drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
        })?;
        // SAFETY: The file is new and nobody else has it; `stream_open` does not look at the inode.
        unsafe { bindings::stream_open(core::ptr::null_mut(), file) };
        let file = NonNull::new(file).ok_or(ENFILE)?;
        // SAFETY: The reference that `anon_inode_getfile` returned moves into the `ARef`; `File` is a transparent
        // wrapper of the C type.
        let file = unsafe { ARef::from_raw(file.cast::<File>()) };
        Ok(Self { reservation, file })
    }

    /// Makes the descriptor visible to the process and returns its number. Cannot fail; do it last.
    pub(crate) fn install(self) -> u32 {
        let number = self.reservation.reserved_fd();
        self.reservation.fd_install(self.file);
        number
    }
}

/// `EPROTO`, which the kernel crate lacks.
pub(crate) fn eproto() -> Error {
    Error::from_errno(-(bindings::EPROTO as c_int))
}

/// Turns a result into what the VFS expects.
pub(super) fn count_or_errno(result: Result<usize>) -> isize {
    match result {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(error) => error.to_errno() as isize,
    }
}
