// SPDX-License-Identifier: GPL-2.0-only

//! Block devices of ours: `/dev/weftN`.
//!
//! ```text
//! Major::register -> Gendisk::add -> opened, written, resized … -> drop -> (last user of the gendisk) -> object freed
//! ```
//! The object behind a device lives until the kernel lets the gendisk go, which may be after [`Gendisk`] was dropped;
//! [`Major`], dropped last, waits for that.

use super::{
    bdev::{Bdev, Sink},
    bindings,
    bio::Bio,
    module::THIS_MODULE,
};
use core::fmt::Write as _;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, from_result, to_result},
    ffi::c_int,
    prelude::*,
    static_lock_class,
    str::NullTerminatedFormatter,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        rcu, Arc, ArcBorrow,
    },
    types::ForeignOwnable,
};
use weft_uapi::limits::{BITMAP_BLOCK_BYTES, DISCARD_BYTES_MAX, IO_BYTES_MAX, SECTOR_BYTES};

/// What stands behind a device.
pub(crate) trait BlockDevice: Send + Sync + 'static {
    /// The device is being opened. Process context under the disk's own lock, so one call at a time of this and
    /// [`Self::release`]; may sleep, must not do I/O on it.
    fn open(&self, access: Access) -> Result;

    /// It was closed once. Context as above.
    fn release(&self);

    /// A request came, no longer than the limits allow. Process context; may sleep, but must not wait for requests
    /// that it submits itself.
    fn submit(this: ArcBorrow<'_, Self>, bio: Bio);
}

/// How a device is opened.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    /// To be written, too.
    pub(crate) writes: bool,
    /// Who opens it wants to wait until that is possible.
    pub(crate) waits: bool,
}

/// Gendisks that the kernel has not let go yet.
static ALIVE: Atomic<i32> = Atomic::new(0);

/// The major number of the devices.
pub(crate) struct Major(c_int);

impl Major {
    const NAME: &'static CStr = c"weft";

    /// Takes a free number.
    pub(crate) fn register() -> Result<Self> {
        // SAFETY: The name is static.
        let major = unsafe { bindings::__register_blkdev(0, Self::NAME.as_char_ptr(), None) };
        if major < 0 {
            return Err(Error::from_errno(major));
        }
        Ok(Self(major))
    }
}

impl Drop for Major {
    fn drop(&mut self) {
        // SAFETY: The counter is static. The grace period lets the last `free_disk` return before the module is gone.
        unsafe {
            bindings::weft_wait_for_zero(ALIVE.as_ptr());
            bindings::synchronize_rcu();
        }
        // SAFETY: The number was registered under this name.
        unsafe { bindings::unregister_blkdev(self.0 as u32, Self::NAME.as_char_ptr()) };
    }
}

/// A device. Dropping it removes it; may sleep.
///
/// # Invariants
/// `disk` was added, and its `private_data` comes from `Arc::<T>::into_foreign`.
pub(crate) struct Gendisk<T: BlockDevice> {
    disk: NonNull<bindings::gendisk>,
    _object: PhantomData<Arc<T>>,
}

// SAFETY: A gendisk belongs to no thread; the object is `Send` and `Sync`.
unsafe impl<T: BlockDevice> Send for Gendisk<T> {}
// SAFETY: All that is done through shared references has its own locks.
unsafe impl<T: BlockDevice> Sync for Gendisk<T> {}

impl<T: BlockDevice> Gendisk<T> {
    /// Creates `/dev/weftMINOR` of size 0. May sleep; the object's methods may be called before it returns.
    pub(crate) fn add(major: &Major, minor: u32, object: Arc<T>) -> Result<Self> {
        let mut limits = limits(SECTOR_BYTES);
        // SAFETY: The limits are valid, and the key is static.
        let disk = from_err_ptr(unsafe {
            bindings::__blk_alloc_disk(
                &mut limits,
                bindings::NUMA_NO_NODE,
                static_lock_class!().as_ptr(),
            )
        })?;
        let private_data = object.into_foreign();
        // SAFETY: The disk is ours until it is added.
        let added = unsafe { Self::set_up(disk, major, minor) }.and_then(|()| {
            // SAFETY: As above. `private_data` must be there first, for the callbacks.
            to_result(unsafe {
                (*disk).private_data = private_data;
                bindings::device_add_disk(core::ptr::null_mut(), disk, core::ptr::null_mut())
            })
        });
        if let Err(error) = added {
            // SAFETY: The disk was not added, so nobody uses it, nor the object; `free_disk` is not called for it.
            unsafe {
                bindings::put_disk(disk);
                drop(Arc::<T>::from_foreign(private_data));
            }
            return Err(error);
        }
        ALIVE.fetch_add(1, Relaxed);
        // INVARIANT: Added above.
        Ok(Self {
            disk: NonNull::new(disk).ok_or(ENODEV)?,
            _object: PhantomData,
        })
    }

    /// # Safety
    /// `disk` is valid and was not added yet.
    unsafe fn set_up(disk: *mut bindings::gendisk, major: &Major, minor: u32) -> Result {
        // SAFETY: By the function's safety requirements.
        let disk = unsafe { &mut *disk };
        disk.major = major.0;
        disk.first_minor = c_int::try_from(minor)?;
        disk.minors = 1;
        disk.flags = bindings::GENHD_FL_NO_PART as c_int;
        disk.fops = &Self::OPERATIONS;
        let mut name = NullTerminatedFormatter::new(&mut disk.disk_name).ok_or(EINVAL)?;
        write!(name, "weft{minor}").map_err(|_| EINVAL)
    }

    /// Whether the bio is for this device.
    pub(crate) fn is_asked(&self, bio: &Bio) -> bool {
        // SAFETY: The bio is valid, and so is its device until it is completed.
        unsafe { (*(*bio.as_ptr()).bi_bdev).bd_disk == self.disk.as_ptr() }
    }

    /// Freezes the file system that is mounted on it, which writes out all that it has; one that is not mounted cannot be until
    /// [`Self::thaw`]. It nests. May sleep for as long as the requests take that come of it.
    pub(crate) fn freeze(&self) -> Result {
        // SAFETY: The disk was added, by the type's invariant, and its block device lives as long.
        to_result(unsafe { bindings::bdev_freeze((*self.disk.as_ptr()).part0) })
    }

    /// Takes one [`Self::freeze`] back. May sleep likewise.
    pub(crate) fn thaw(&self) {
        // SAFETY: As above. The only error is that it was not frozen, or that its file system cannot go on, which says so.
        unsafe { bindings::bdev_thaw((*self.disk.as_ptr()).part0) };
    }

    /// Changes the size and tells the world. May sleep.
    pub(crate) fn set_sectors(&self, sectors: u64) {
        // SAFETY: The disk was added, by the type's invariant.
        unsafe { bindings::set_capacity_and_notify(self.disk.as_ptr(), sectors) };
    }

    /// Adapts the limits to the lower device; logical blocks have `block_bytes`, no less than the lower device's. Nobody has
    /// the device open. Waits until no [`BlockDevice::submit`] runs, so it must not be called under a lock that one takes.
    pub(crate) fn set_limits<S: Sink>(&self, lower: &Bdev<S>, block_bytes: u32) -> Result {
        let mut limits = limits(block_bytes);
        // SAFETY: All are valid; the prefix is used for a message only.
        unsafe {
            bindings::queue_limits_stack_bdev(
                &mut limits,
                lower.as_ptr(),
                0,
                Major::NAME.as_char_ptr(),
            );
        }
        // Whatever is too long for the lower device is split there; a disk that takes a sector less than we do would else
        // make two writes of each of the longest ones.
        limits.max_hw_sectors = IO_BYTES_MAX / SECTOR_BYTES;
        // Below, a discard becomes a zeroing, so that all replicas read the same afterwards.
        let discard = lower.can_zero() && lower.can_discard();
        limits.max_hw_discard_sectors = if discard {
            DISCARD_BYTES_MAX / SECTOR_BYTES
        } else {
            0
        };
        limits.discard_granularity = limits.discard_granularity.max(BITMAP_BLOCK_BYTES);
        // SAFETY: The disk was added, by the type's invariant.
        to_result(unsafe { bindings::weft_set_queue_limits(self.disk.as_ptr(), &mut limits) })
    }

    /// Limits without lower device: requests are carried out by a peer, whose logical blocks have `block_bytes`. As for
    /// [`Self::set_limits`].
    pub(crate) fn set_limits_alone(&self, block_bytes: u32) -> Result {
        let mut limits = limits(block_bytes);
        limits.max_hw_discard_sectors = DISCARD_BYTES_MAX / SECTOR_BYTES;
        limits.discard_granularity = limits.discard_granularity.max(BITMAP_BLOCK_BYTES);
        // SAFETY: The disk was added, by the type's invariant.
        to_result(unsafe { bindings::weft_set_queue_limits(self.disk.as_ptr(), &mut limits) })
    }

    /// The callbacks. All of them rest on the invariant of [`Gendisk`].
    const OPERATIONS: bindings::block_device_operations = bindings::block_device_operations {
        owner: THIS_MODULE,
        submit_bio: Some(Self::submit_bio),
        open: Some(Self::open),
        release: Some(Self::release),
        free_disk: Some(Self::free_disk),
        ..pin_init::zeroed()
    };

    /// # Safety
    /// `disk` has these callbacks and was not freed.
    unsafe fn object<'a>(disk: *mut bindings::gendisk) -> ArcBorrow<'a, T> {
        // SAFETY: By the invariant of [`Gendisk`].
        unsafe { <Arc<T> as ForeignOwnable>::borrow((*disk).private_data) }
    }

    /// # Safety
    /// The block layer's call: a valid bio for a disk with these callbacks, handed over.
    unsafe extern "C" fn submit_bio(bio: *mut bindings::bio) {
        // SAFETY: The kernel passes a valid bio that is ours to complete. What is split off is submitted again.
        let Some(bio) = NonNull::new(unsafe { bindings::bio_split_to_limits(bio) }) else {
            return;
        };
        // SAFETY: The bio is for a disk with these callbacks, and was handed to us.
        unsafe {
            let disk = (*(*bio.as_ptr()).bi_bdev).bd_disk;
            T::submit(Self::object(disk), Bio::from_raw(bio));
        }
    }

    /// # Safety
    /// The block layer's call: a disk with these callbacks.
    unsafe extern "C" fn open(disk: *mut bindings::gendisk, mode: bindings::blk_mode_t) -> c_int {
        // SAFETY: The disk has these callbacks.
        let object = unsafe { Self::object(disk) };
        let access = Access {
            writes: mode & bindings::WEFT_OPEN_WRITE != 0,
            waits: mode & bindings::WEFT_OPEN_NDELAY == 0,
        };
        from_result(|| object.open(access).map(|()| 0))
    }

    /// # Safety
    /// The block layer's call: a disk with these callbacks, opened before.
    unsafe extern "C" fn release(disk: *mut bindings::gendisk) {
        // SAFETY: The disk has these callbacks.
        unsafe { Self::object(disk) }.release();
    }

    /// # Safety
    /// The block layer's last call for a disk with these callbacks that was added.
    unsafe extern "C" fn free_disk(disk: *mut bindings::gendisk) {
        // SAFETY: Nobody uses the disk any more, so neither the object through it.
        drop(unsafe { Arc::<T>::from_foreign((*disk).private_data) });
        // The unloading module waits for this section, too, and so for all but the last instructions of this function.
        let _not_unloaded = rcu::read_lock();
        if ALIVE.fetch_add(-1, Full) == 1 {
            // SAFETY: The counter is static.
            unsafe { bindings::weft_wake_waiter(ALIVE.as_ptr()) };
        }
    }
}

impl<T: BlockDevice> Drop for Gendisk<T> {
    fn drop(&mut self) {
        // SAFETY: The disk was added, by the type's invariant, and is given up here.
        unsafe {
            bindings::del_gendisk(self.disk.as_ptr());
            bindings::put_disk(self.disk.as_ptr());
        }
    }
}

/// Limits of a device without lower device, with logical blocks of so many bytes.
fn limits(block_bytes: u32) -> bindings::queue_limits {
    bindings::queue_limits {
        features: bindings::WEFT_FEATURES,
        logical_block_size: block_bytes,
        // Not zero, which stacking takes for misaligned.
        physical_block_size: block_bytes,
        io_min: block_bytes,
        max_hw_sectors: IO_BYTES_MAX / SECTOR_BYTES,
        // Not zero, of which stacking makes a single page, so that every request would come in pieces of that.
        max_dev_sectors: u32::MAX,
        max_write_zeroes_sectors: DISCARD_BYTES_MAX / SECTOR_BYTES,
        max_user_discard_sectors: u32::MAX,
        max_user_wzeroes_unmap_sectors: u32::MAX,
        ..pin_init::zeroed()
    }
}
