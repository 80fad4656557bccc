// SPDX-License-Identifier: GPL-2.0-only

//! Lower block devices: where data and metadata are kept.
//!
//! A request is submitted with whatever its owner wants back ([`Sink::Context`]) and with its data. Its end, which
//! comes in any context, is put on the sink's [`DoneList`] without a lock; the sink's worker takes the list.
//! Everything that a request needs is in front of its bio, in memory of the device's own reserve.

mod direct;

pub(crate) use direct::Loan;

use super::{
    bindings,
    bio::{Bio, BioOp},
    memory::NoIo,
    pages::{PageBuf, Pages, Payload},
};
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, to_result},
    ffi::c_uint,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        rcu, Arc, ArcBorrow,
    },
    types::Opaque,
};

/// Requests of one device that are always possible.
const REQUESTS_RESERVED: c_uint = 16;

/// Who owns requests and learns of their ends.
pub(crate) trait Sink: Send + Sync + Sized + 'static {
    /// What comes back with a request.
    type Context: Send;

    /// Where ends are put.
    fn done(&self) -> &DoneList<Self>;

    /// An end was put on the list; `is_first`: it was empty. Called in any context, also hard irq; the last reference to
    /// the sink is never dropped by it.
    fn wake(this: ArcBorrow<'_, Self>, is_first: bool);

    /// A read by a [`Loan`] failed. Same context as [`wake`](Self::wake).
    fn refused(this: ArcBorrow<'_, Self>, bio: Bio);
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LowerOp {
    /// Fill the buffer.
    Read,
    /// Write the buffer.
    Write,
    /// Make everything completed before stable.
    Flush,
    /// Make the range read as zeros, unallocated if possible unless `no_unmap`.
    WriteZeroes {
        /// Keep the space.
        no_unmap: bool,
    },
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowerRequest {
    /// The operation.
    pub(crate) op: LowerOp,
    /// First sector; ignored by a flush.
    pub(crate) sector: u64,
    /// Bytes, a multiple of the logical block; ignored by a flush.
    pub(crate) bytes: u32,
    /// First make stable what was completed before.
    pub(crate) preflush: bool,
    /// Stable at its end.
    pub(crate) fua: bool,
}

/// Memory that a request reads from or writes to; owned by the request while it runs.
pub(crate) enum Buffer {
    /// None.
    None,
    /// A bio of a device of ours, for the same operation and length.
    Bio(Bio),
    /// To be read into.
    Own(PageBuf),
    /// To be written, from the start; may be longer than what is written.
    Shared(Payload),
}

/// The end of a request.
pub(crate) struct Done<S: Sink> {
    /// From the submission.
    pub(crate) context: S::Context,
    /// From the submission.
    pub(crate) buffer: Buffer,
    /// Whether it worked: `EIO`, `EAGAIN`, `EOPNOTSUPP`, `ENOSPC`, `ETIMEDOUT`…
    pub(crate) result: Result,
}

/// An open block device, held exclusively.
///
/// # Invariants
/// `file` is an open block device file, `bdev` its device, and `bios` an initialised bio set with front padding for
/// an [`InFlight`]. Each request in flight holds the device. The last reference is dropped in process context.
#[pin_data(PinnedDrop)]
pub(crate) struct Bdev<S: Sink> {
    file: NonNull<bindings::file>,
    bdev: NonNull<bindings::block_device>,
    /// Its address tells the holders of block devices apart.
    _holder: KBox<u8>,
    sink: Arc<S>,
    /// How many [`Loan`]s there are.
    loans: Atomic<i32>,
    /// How many have ended, and how long those took together.
    lent_reads: Atomic<u64>,
    lent_ns: Atomic<u64>,
    #[pin]
    bios: Opaque<bindings::bio_set>,
}

// SAFETY: Block devices and bio sets belong to no thread; the sink is `Send` and `Sync`.
unsafe impl<S: Sink> Send for Bdev<S> {}
// SAFETY: All that is done through shared references is safe from any thread.
unsafe impl<S: Sink> Sync for Bdev<S> {}

/// What stands in front of the bio of a request.
struct InFlight<S: Sink> {
    next: *mut InFlight<S>,
    device: Arc<Bdev<S>>,
    context: S::Context,
    buffer: Buffer,
}

impl<S: Sink> InFlight<S> {
    /// Distance from an `InFlight` to its bio.
    const TO_BIO: usize = size_of::<Self>().next_multiple_of(align_of::<bindings::bio>());

    /// # Safety
    /// `this` points to the front padding of a bio from the bio set of a [`Bdev<S>`].
    unsafe fn bio(this: *mut Self) -> *mut bindings::bio {
        // SAFETY: The bio follows, by the invariant of [`Bdev`].
        unsafe { this.byte_add(Self::TO_BIO).cast() }
    }

    /// # Safety
    /// `bio` comes from the bio set of a [`Bdev<S>`].
    unsafe fn of(bio: *mut bindings::bio) -> *mut Self {
        // SAFETY: The padding precedes it, by the invariant of [`Bdev`].
        unsafe { bio.byte_sub(Self::TO_BIO).cast() }
    }
}

/// Which block device is meant.
#[derive(Clone, Copy)]
pub(crate) struct DeviceNumber(bindings::dev_t);

impl DeviceNumber {
    /// The block device at `path` as the calling process sees it; a kernel thread may see no file at all. May sleep.
    pub(crate) fn find(path: &CStr) -> Result<Self> {
        let mut number = 0;
        // SAFETY: The path is a C string, and `number` takes a device number.
        to_result(unsafe { bindings::lookup_bdev(path.as_char_ptr(), &mut number) })?;
        Ok(Self(number))
    }
}

impl<S: Sink> Bdev<S> {
    /// Opens the block device for reading and writing and for nobody else. May sleep.
    pub(crate) fn open(number: DeviceNumber, sink: Arc<S>) -> Result<Arc<Self>> {
        const { assert!(align_of::<InFlight<S>>() <= align_of::<bindings::bio>()) };
        let mode = bindings::WEFT_OPEN_READ | bindings::WEFT_OPEN_WRITE;
        let mut holder = KBox::new(0, GFP_KERNEL)?;
        let address: *mut u8 = &mut *holder;
        // SAFETY: The holder is an address that is only compared; there are no holder operations.
        let file = from_err_ptr(unsafe {
            bindings::bdev_file_open_by_dev(number.0, mode, address.cast(), core::ptr::null())
        })?;
        let file = NonNull::new(file).ok_or(ENODEV)?;
        let init = try_pin_init!(Self {
            file,
            // SAFETY: The file was just opened, and is a block device.
            bdev: NonNull::new(unsafe { bindings::file_bdev(file.as_ptr()) }).ok_or(ENODEV)?,
            _holder: holder,
            sink,
            loans: Atomic::new(0),
            lent_reads: Atomic::new(0),
            lent_ns: Atomic::new(0),
            bios <- Opaque::try_ffi_init(|bios: *mut bindings::bio_set| {
                // SAFETY: `bios` is valid and not used yet.
                unsafe { bios.write(pin_init::zeroed()) };
                let flags = bindings::BIOSET_NEED_BVECS | bindings::BIOSET_NEED_RESCUER;
                // SAFETY: `bios` is zeroed. INVARIANT: The padding is that of an `InFlight`.
                to_result(unsafe {
                    bindings::bioset_init(bios, REQUESTS_RESERVED, InFlight::<S>::TO_BIO as c_uint, flags as i32)
                })
            }),
        } ? Error);
        Arc::pin_init(init, GFP_KERNEL).inspect_err(|_| {
            // SAFETY: It was opened above, and nothing owns it.
            unsafe { bindings::bdev_fput(file.as_ptr()) };
        })
    }

    /// Size in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_sectors(self.bdev.as_ptr()) }
    }

    /// Smallest unit that can be written, in bytes.
    pub(crate) fn logical_block_bytes(&self) -> u32 {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_logical_block_bytes(self.bdev.as_ptr()) }
    }

    /// Whether it has zones that are written in order.
    pub(crate) fn is_zoned(&self) -> bool {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_is_zoned(self.bdev.as_ptr()) }
    }

    /// Whether ranges can be zeroed without writing them.
    pub(crate) fn can_zero(&self) -> bool {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_write_zeroes_sectors(self.bdev.as_ptr()) > 0 }
    }

    /// Whether ranges can be deallocated.
    pub(crate) fn can_discard(&self) -> bool {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_discard_sectors(self.bdev.as_ptr()) > 0 }
    }

    /// Whether [`try_submit`](Self::try_submit) may be used.
    pub(crate) fn can_nowait(&self) -> bool {
        // SAFETY: The device is open, by the type's invariant.
        unsafe { bindings::weft_bdev_nowait(self.bdev.as_ptr()) }
    }

    /// Whether both are the same device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.bdev == other.bdev
    }

    /// The use of the device for one read, which the drop of the device waits for.
    pub(crate) fn lend(&self) -> Loan<S> {
        Loan::new(self)
    }

    /// Whether there is a loan.
    pub(crate) fn is_lent(&self) -> bool {
        self.loans.load(Relaxed) != 0
    }

    /// How many loans have ended, and how many nanoseconds those took together.
    pub(crate) fn lent(&self) -> (u64, u64) {
        (self.lent_reads.load(Relaxed), self.lent_ns.load(Relaxed))
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::block_device {
        self.bdev.as_ptr()
    }

    /// Starts a request; its end comes through the sink, always and exactly once. May wait for memory and for the
    /// device's queue.
    pub(crate) fn submit(
        self: Arc<Self>,
        request: LowerRequest,
        buffer: Buffer,
        context: S::Context,
    ) {
        let _no_io = NoIo::enter();
        let bio = self.make_bio(&request, &buffer, bindings::WEFT_GFP_NOIO);
        // SAFETY: With these flags the allocation waits, and there is neither integrity nor encryption to clone, which
        // our devices do not offer: it does not fail.
        let bio = unsafe { NonNull::new_unchecked(bio) };
        self.launch(bio, &request, buffer, context);
    }

    /// As [`submit`](Self::submit), but does not wait. If there is no memory now, what was given comes back; if there is
    /// no room in the device's queue, the request ends with `EAGAIN`. Only if [`can_nowait`](Self::can_nowait).
    pub(crate) fn try_submit(
        self: Arc<Self>,
        request: LowerRequest,
        buffer: Buffer,
        context: S::Context,
    ) -> Result<(), (Buffer, S::Context)> {
        let bio = self.make_bio(&request, &buffer, bindings::GFP_NOWAIT);
        let Some(bio) = NonNull::new(bio) else {
            return Err((buffer, context));
        };
        // SAFETY: The bio is ours.
        unsafe { (*bio.as_ptr()).bi_opf |= bindings::WEFT_REQ_NOWAIT };
        self.launch(bio, &request, buffer, context);
        Ok(())
    }

    /// Submits a bio that was made for the request.
    fn launch(
        self: Arc<Self>,
        bio: NonNull<bindings::bio>,
        request: &LowerRequest,
        buffer: Buffer,
        context: S::Context,
    ) {
        let bio = bio.as_ptr();
        let fits = fits(request, &buffer);
        // SAFETY: The bio comes from the bio set of this device.
        let in_flight = unsafe { InFlight::<S>::of(bio) };
        let content = InFlight {
            next: core::ptr::null_mut(),
            device: self,
            context,
            buffer,
        };
        // SAFETY: The padding is ours until the bio is freed; the bio is ours until it is submitted. Buffer and device
        // stay until its end, since they are in the padding.
        unsafe {
            in_flight.write(content);
            (*bio).bi_end_io = Some(Self::end_io);
            if fits {
                bindings::submit_bio_noacct(bio);
            } else {
                (*bio).bi_status = bindings::errno_to_blk_status(EINVAL.to_errno());
                bindings::bio_endio(bio);
            }
        }
    }

    /// Reads into `buffer` and waits for it. May sleep.
    pub(crate) fn read(&self, sector: u64, buffer: PageBuf) -> Result<PageBuf> {
        let request = LowerRequest {
            op: LowerOp::Read,
            sector,
            bytes: buffer.bytes(),
            preflush: false,
            fua: false,
        };
        let buffer = Buffer::Own(buffer);
        let bio = self.make_bio(&request, &buffer, bindings::WEFT_GFP_NOIO);
        // SAFETY: The bio is ours; buffer and device stay until it is done.
        let result = to_result(unsafe { bindings::submit_bio_wait(bio) });
        // SAFETY: It is done.
        unsafe { bindings::bio_put(bio) };
        match buffer {
            Buffer::Own(buffer) => result.map(|()| buffer),
            _ => Err(EINVAL),
        }
    }

    /// A bio for the request with its data, not yet submitted; null if `allocation` does not wait and there is no memory.
    fn make_bio(
        &self,
        request: &LowerRequest,
        buffer: &Buffer,
        allocation: bindings::gfp_t,
    ) -> *mut bindings::bio {
        let bdev = self.bdev.as_ptr();
        let flags = flags(request);
        let bios = self.bios.get();
        if let Buffer::Bio(source) = buffer {
            // SAFETY: All are valid.
            let bio = unsafe { bindings::bio_alloc_clone(bdev, source.as_ptr(), allocation, bios) };
            if !bio.is_null() {
                // SAFETY: The clone is ours.
                unsafe {
                    (*bio).bi_opf = flags;
                    (*bio).bi_iter.bi_sector = request.sector;
                }
            }
            return bio;
        }
        let pages = data(buffer);
        let count = pages.map_or(0, |pages| {
            pages
                .count()
                .min((request.bytes as usize).div_ceil(PAGE_SIZE))
        });
        // SAFETY: As above; the vector is no longer than a bio's may be.
        let bio =
            unsafe { bindings::bio_alloc_bioset(bdev, count as u16, flags, allocation, bios) };
        if bio.is_null() {
            return bio;
        }
        if request.op != LowerOp::Flush {
            // SAFETY: The bio is ours. Adding pages counts their bytes again, so a bio with data starts at zero.
            unsafe {
                (*bio).bi_iter.bi_sector = request.sector;
                (*bio).bi_iter.bi_size = if count == 0 { request.bytes } else { 0 };
            }
        }
        let mut left = request.bytes as usize;
        for &page in pages.map_or(&[][..], Pages::used).iter().take(count) {
            let bytes = left.min(PAGE_SIZE);
            // SAFETY: The bio has room for `count` pages, which live as long as the request.
            unsafe { bindings::__bio_add_page(bio, page, bytes as c_uint, 0) };
            left = left.saturating_sub(bytes);
        }
        bio
    }

    /// End of a request. Any context.
    ///
    /// # Safety
    /// The block layer's call: a bio that was submitted here ended.
    unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
        // Once the request is on the list, another CPU may take and drop it, and with it the device. No reference is
        // taken against that, since it might turn out to be the last one here, where nothing can be torn down.
        let _sink_stays = rcu::read_lock();
        // SAFETY: Only bios of a `Bdev<S>` get this callback, and their padding was written before.
        let in_flight = unsafe { InFlight::<S>::of(bio) };
        // SAFETY: The device lives as long as the request, and its drop keeps the sink until this section ends.
        let sink = unsafe { ArcBorrow::from_raw(Arc::as_ptr(&(*in_flight).device.sink)) };
        // SAFETY: The request ended; from here on it belongs to the list.
        let is_first = unsafe { sink.done().push(in_flight) };
        S::wake(sink, is_first);
    }
}

#[pinned_drop]
impl<S: Sink> PinnedDrop for Bdev<S> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: No request is in flight, since each holds the device and there is no loan any more; both are initialised.
        // The sink and the counter, fields, stay until the sections of those who end have ended.
        unsafe {
            bindings::weft_wait_for_zero(self.loans.as_ptr());
            bindings::bioset_exit(self.bios.get());
            bindings::bdev_fput(self.file.as_ptr());
            bindings::synchronize_rcu();
        }
    }
}

/// The data of a buffer that is made of pages.
fn data(buffer: &Buffer) -> Option<&Pages> {
    match buffer {
        Buffer::None | Buffer::Bio(_) => None,
        Buffer::Own(pages) => Some(pages),
        Buffer::Shared(pages) => Some(pages),
    }
}

/// Whether the buffer is of the kind and length that the request needs.
fn fits(request: &LowerRequest, buffer: &Buffer) -> bool {
    let bytes = match buffer {
        Buffer::None => 0,
        Buffer::Bio(bio) => bio.bytes(),
        Buffer::Own(pages) => pages.bytes(),
        Buffer::Shared(pages) => pages.bytes(),
    };
    match (request.op, buffer) {
        (LowerOp::Read, Buffer::Own(_)) => bytes == request.bytes,
        (LowerOp::Write, Buffer::Shared(_)) => bytes >= request.bytes,
        (LowerOp::Read, Buffer::Bio(bio)) => {
            bytes == request.bytes && bio.op() == Some(BioOp::Read)
        }
        (LowerOp::Write, Buffer::Bio(bio)) => {
            bytes == request.bytes && bio.op() == Some(BioOp::Write)
        }
        (LowerOp::Flush | LowerOp::WriteZeroes { .. }, Buffer::None) => true,
        _ => false,
    }
}

/// Operation and flags for the block layer.
fn flags(request: &LowerRequest) -> c_uint {
    let when = |condition, flag| if condition { flag } else { 0 };
    let op = match request.op {
        LowerOp::Read => bindings::req_op_REQ_OP_READ,
        LowerOp::Write => {
            // As direct I/O: a disk's throttle on writeback does not put the submitting thread to sleep.
            bindings::req_op_REQ_OP_WRITE | bindings::WEFT_REQ_SYNC | bindings::WEFT_REQ_IDLE
        }
        LowerOp::Flush => bindings::req_op_REQ_OP_WRITE | bindings::WEFT_REQ_PREFLUSH,
        LowerOp::WriteZeroes { no_unmap } => {
            bindings::req_op_REQ_OP_WRITE_ZEROES | when(no_unmap, bindings::WEFT_REQ_NOUNMAP)
        }
    };
    op | when(request.preflush, bindings::WEFT_REQ_PREFLUSH)
        | when(request.fua, bindings::WEFT_REQ_FUA)
}

/// Requests that ended: pushed in any context, taken all at once.
///
/// # Invariants
/// A list through `next` of requests that ended and belong to this list.
pub(crate) struct DoneList<S: Sink>(Atomic<*mut InFlight<S>>);

impl<S: Sink> DoneList<S> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(core::ptr::null_mut()))
    }

    /// Adds a request and returns whether the list was empty.
    ///
    /// # Safety
    /// The request ended, and belongs to the caller, who gives it away.
    unsafe fn push(&self, request: *mut InFlight<S>) -> bool {
        let mut head = self.0.load(Relaxed);
        loop {
            // SAFETY: The request is the caller's until the exchange below succeeds.
            unsafe { (*request).next = head };
            // INVARIANT: The request points to the rest of the list.
            match self.0.cmpxchg(head, request, Full) {
                Ok(_) => return head.is_null(),
                Err(now) => head = now,
            }
        }
    }

    /// Whether nothing is on the list.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Relaxed).is_null()
    }

    /// Takes all that ended, in the order in which it did.
    pub(crate) fn take(&self) -> Ended<S> {
        let mut newest = self.0.xchg(core::ptr::null_mut(), Full);
        let mut oldest = core::ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: The requests belong to the list that was taken, by the invariant.
            let next = unsafe { core::mem::replace(&mut (*newest).next, oldest) };
            oldest = newest;
            newest = next;
        }
        // INVARIANT: The list was only turned round.
        Ended(oldest)
    }
}

impl<S: Sink> Drop for DoneList<S> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Requests that ended, the oldest first. What is not taken out is dropped with it.
///
/// # Invariants
/// A list through `next` of requests that ended and belong to it.
pub(crate) struct Ended<S: Sink>(*mut InFlight<S>);

impl<S: Sink> Iterator for Ended<S> {
    type Item = Done<S>;

    fn next(&mut self) -> Option<Done<S>> {
        if self.0.is_null() {
            return None;
        }
        let request = self.0;
        // SAFETY: The request is valid and ours, by the invariant; its content is moved out before the bio, whose
        // padding it stands in, is freed. The device, moved out as well, is dropped after the bio.
        let (content, status) = unsafe {
            let bio = InFlight::bio(request);
            let content = request.read();
            let status = (*bio).bi_status;
            bindings::bio_put(bio);
            (content, status)
        };
        // INVARIANT: The list starts with the next request.
        self.0 = content.next;
        Some(Done {
            context: content.context,
            buffer: content.buffer,
            // SAFETY: There are no requirements.
            result: to_result(unsafe { bindings::blk_status_to_errno(status) }),
        })
    }
}

impl<S: Sink> Drop for Ended<S> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}
