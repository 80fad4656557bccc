// SPDX-License-Identifier: GPL-2.0-only

//! A misc device with a node in `/dev`.

use crate::sys::{
    bindings,
    file::{count_or_errno, Callbacks, FileOps},
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    ffi::c_int,
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::{ForeignOwnable, Opaque},
};

/// One open file of a misc device. Same context as [`FileOps`].
pub(crate) trait DeviceFile: FileOps {
    /// What all files of the device share.
    type Device: Send + Sync + 'static;

    /// `open(2)`, by somebody with CAP_NET_ADMIN in the initial user namespace.
    fn open(device: ArcBorrow<'_, Self::Device>) -> Result<Arc<Self>>
    where
        Self: Sized;

    /// `read(2)`: returns the number of bytes put into `to`, 0 at the end.
    fn read(&self, to: &mut IovIterDest<'_>) -> Result<usize>;

    /// `write(2)`: returns the number of bytes taken.
    fn write(&self, from: &mut IovIterSource<'_>) -> Result<usize>;
}

/// A registered misc device whose files are of type `T`. Dropping it removes the node; files that are still open
/// (they hold the module) stay usable.
///
/// # Invariants
/// `misc` is registered and the first field.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct MiscDevice<T: DeviceFile> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    device: Arc<T::Device>,
}

// SAFETY: A misc device may be removed by any thread, and `T::Device` is `Send` and `Sync`.
unsafe impl<T: DeviceFile> Send for MiscDevice<T> {}
// SAFETY: There are no methods; `open` uses `device` only, which is `Sync`.
unsafe impl<T: DeviceFile> Sync for MiscDevice<T> {}

impl<T: DeviceFile> MiscDevice<T> {
    /// Creates `/dev/NAME` for root only, who needs CAP_NET_ADMIN to open it. May sleep.
    pub(crate) fn register(
        name: &'static CStr,
        device: Arc<T::Device>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            device,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let misc = bindings::miscdevice {
                    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                    name: name.as_char_ptr(),
                    fops: &DeviceCallbacks::<T>::OPERATIONS,
                    mode: 0o600,
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(misc) };
                // SAFETY: `slot` is initialised, pinned, and removed before it is freed (`drop`).
                // INVARIANT: Registered when this returns `Ok`. `device`, which `open` needs, is there already.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        })
    }
}

#[pinned_drop]
impl<T: DeviceFile> PinnedDrop for MiscDevice<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered, by the type's invariant.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// File operations of a file of a misc device.
struct DeviceCallbacks<T>(PhantomData<T>);

impl<T: DeviceFile> DeviceCallbacks<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        open: Some(Self::open),
        read_iter: Some(Self::read_iter),
        write_iter: Some(Self::write_iter),
        ..Callbacks::<T>::OPERATIONS
    };

    /// # Safety
    /// `misc_open` calls it for a file of a registered [`MiscDevice<T>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: There are no requirements. Besides the node's mode, which means little in a container.
        if !unsafe { bindings::capable(bindings::WEFT_CAP_NET_ADMIN) } {
            return EPERM.to_errno();
        }
        // SAFETY: `misc_open` left the registered device in `private_data` and keeps it registered meanwhile.
        let device = unsafe { &*(*file).private_data.cast::<MiscDevice<T>>() };
        match T::open(device.device.as_arc_borrow()) {
            Ok(object) => {
                // SAFETY: The file is being opened by this call.
                unsafe { (*file).private_data = object.into_foreign() };
                // SAFETY: As above.
                unsafe { bindings::stream_open(inode, file) }
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    /// The kernel calls it for an open file with these operations; `iter` is a destination.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The kernel passes a valid kiocb of an open file with these operations.
        let object = unsafe { Callbacks::<T>::object((*kiocb).ki_filp) };
        // SAFETY: The kernel passes an iterator that is a destination.
        count_or_errno(object.read(unsafe { IovIterDest::from_raw(iter) }))
    }

    /// # Safety
    /// The kernel calls it for an open file with these operations; `iter` is a source.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The kernel passes a valid kiocb of an open file, and an iterator that is a source.
        let (object, from) = unsafe {
            (
                Callbacks::<T>::object((*kiocb).ki_filp),
                IovIterSource::from_raw(iter),
            )
        };
        count_or_errno(object.write(from))
    }
}
