// SPDX-License-Identifier: GPL-2.0-only

//! Data of a device in pages of the module's own: copies of what is written, received data, resync reads, metadata.
//!
//! ```text
//! PageReserve::alloc -> PageBuf (one owner, filled by copy, by a disk read or from a link)
//!                         | share()
//!                         v
//!                       Payload (many owners, never changes again; its pages may lie in sockets)
//! ```
//! A page that somebody else still refers to when its payload is dropped is left to him and not used again.

use super::{
    bindings,
    memory::{NoIo, Pool, PoolArc, PoolBox},
};
use kernel::{
    error::to_result,
    ffi::{c_int, c_uint, c_void},
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
    types::Opaque,
};
use weft_uapi::wire::Digest;

/// Most pages of one buffer.
pub(crate) const PAGES_MAX: usize = weft_uapi::limits::PAYLOAD_BYTES_MAX as usize / PAGE_SIZE;

/// Data in memory with one owner, who may change them.
pub(crate) type PageBuf = PoolBox<Pages>;

/// Data in memory with several owners; they do not change any more.
pub(crate) type Payload = PoolArc<Pages>;

/// Where the pages come from, with enough of them in reserve for a few buffers.
///
/// Pages of a dropped buffer that are still in use elsewhere do not go back into the reserve but to the system once they
/// are not: under pressure a waiting allocation gets them late, when it asks the system again.
///
/// # Invariants
/// `pages` is an initialised mempool of single pages that have an address, with at least `pages_max` in reserve, which is
/// at most [`PAGES_MAX`].
#[pin_data(PinnedDrop)]
pub(crate) struct PageReserve {
    #[pin]
    pages: Opaque<bindings::mempool>,
    pages_max: usize,
    buffers: Arc<Pool<Pages>>,
}

// SAFETY: A mempool belongs to no thread.
unsafe impl Send for PageReserve {}
// SAFETY: A mempool has its own lock.
unsafe impl Sync for PageReserve {}

/// The content of a [`PageBuf`] or [`Payload`].
///
/// # Invariants
/// The first `bytes.div_ceil(PAGE_SIZE)` entries of `pages` are pages of `reserve`, referred to by this and by nobody
/// who would change them.
pub(crate) struct Pages {
    reserve: Arc<PageReserve>,
    bytes: u32,
    /// [`CRC_KNOWN`] and the checksum, once it was asked for.
    crc: Atomic<u64>,
    pages: [*mut bindings::page; PAGES_MAX],
}

/// Bit of [`Pages::crc`].
const CRC_KNOWN: u64 = 1 << 32;

// SAFETY: Pages belong to no thread.
unsafe impl Send for Pages {}
// SAFETY: Shared references only read.
unsafe impl Sync for Pages {}

impl PageReserve {
    /// Keeps memory for `buffers` of the largest buffers in reserve. May sleep.
    pub(crate) fn new(buffers: u16) -> Result<Arc<Self>> {
        Self::with_pages(buffers, PAGES_MAX)
    }

    /// Keeps memory for `buffers` of one page, and has only such. May sleep.
    pub(crate) fn of_single_pages(buffers: u16) -> Result<Arc<Self>> {
        Self::with_pages(buffers, 1)
    }

    fn with_pages(buffers: u16, pages_max: usize) -> Result<Arc<Self>> {
        let buffers = buffers.max(1);
        let reserve = c_int::try_from(usize::from(buffers).saturating_mul(pages_max))?;
        let init = try_pin_init!(Self {
            buffers: Pool::new(buffers.into())?,
            pages_max,
            pages <- Opaque::try_ffi_init(move |pool: *mut bindings::mempool| {
                // SAFETY: `pool` is valid and not used yet.
                unsafe { pool.write(pin_init::zeroed()) };
                // SAFETY: `pool` is zeroed; the functions fit each other, and their data is the order.
                // INVARIANT: Pages of order 0 and not of high memory, at least `pages_max` of them.
                to_result(unsafe {
                    bindings::mempool_init_noprof(
                        pool,
                        reserve,
                        Some(bindings::mempool_alloc_pages),
                        Some(bindings::mempool_free_pages),
                        core::ptr::null_mut(),
                    )
                })
            }),
        } ? Error);
        Arc::pin_init(init, GFP_KERNEL)
    }

    /// Keeps memory for at least `buffers` buffers in reserve from now on. May sleep; not twice at the same time.
    pub(crate) fn grow(&self, buffers: u16) -> Result {
        let pages = usize::from(buffers).saturating_mul(self.pages_max);
        super::memory::grow(&self.pages, c_int::try_from(pages)?)?;
        self.buffers.grow(buffers.into())
    }

    /// A buffer of `bytes`, at least 1 and no more than the reserve's buffers have, else `EINVAL`; its content is
    /// arbitrary. May wait until other buffers are dropped; never fails for want of memory.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: u32) -> Result<PageBuf> {
        let count = self.count(bytes)?;
        let _no_io = NoIo::enter();
        let mut pages = [core::ptr::null_mut::<bindings::page>(); PAGES_MAX];
        let array = pages.as_mut_ptr().cast::<*mut c_void>();
        // SAFETY: The array has room for `count` elements, and the reserve has at least as many. It always succeeds.
        unsafe { bindings::mempool_alloc_bulk_noprof(self.pages.get(), array, count as c_uint) };
        Ok(self.buffers.make(self.filled(bytes, pages)))
    }

    /// As [`alloc`](Self::alloc), but does not wait: `EAGAIN` if there is no memory now. Any context.
    pub(crate) fn try_alloc(self: &Arc<Self>, bytes: u32) -> Result<PageBuf> {
        let count = self.count(bytes)?;
        let mut pages = [core::ptr::null_mut::<bindings::page>(); PAGES_MAX];
        for (index, place) in pages.iter_mut().enumerate().take(count) {
            let flags = bindings::GFP_NOWAIT;
            // SAFETY: The mempool is initialised, by the type's invariant.
            let page = unsafe { bindings::mempool_alloc_noprof(self.pages.get(), flags) };
            if page.is_null() {
                self.free(pages.iter().take(index));
                return Err(EAGAIN);
            }
            *place = page.cast();
        }
        let content = self.filled(bytes, pages);
        self.buffers.try_make(content).ok_or(EAGAIN)
    }

    /// Takes pages back that were allocated here and that nobody uses.
    fn free<'a>(&self, pages: impl Iterator<Item = &'a *mut bindings::page>) {
        for page in pages {
            // SAFETY: The caller gives up pages of this mempool.
            unsafe { bindings::mempool_free(page.cast(), self.pages.get()) };
        }
    }

    /// Number of pages for so many bytes.
    fn count(&self, bytes: u32) -> Result<usize> {
        let count = (bytes as usize).div_ceil(PAGE_SIZE);
        if count == 0 || count > self.pages_max {
            return Err(EINVAL);
        }
        Ok(count)
    }

    /// What a buffer holds, in pages that were just allocated here.
    fn filled(self: &Arc<Self>, bytes: u32, pages: [*mut bindings::page; PAGES_MAX]) -> Pages {
        // INVARIANT: The caller just allocated as many pages as the bytes fill.
        Pages {
            reserve: self.clone(),
            bytes,
            crc: Atomic::new(0),
            pages,
        }
    }
}

#[pinned_drop]
impl PinnedDrop for PageReserve {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The mempool is initialised; every buffer holds the reserve, so all pages are back.
        unsafe { bindings::mempool_exit(self.pages.get()) };
    }
}

impl Pages {
    /// Length of the data in bytes.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Number of pages that the data fill.
    pub(crate) fn count(&self) -> usize {
        (self.bytes as usize).div_ceil(PAGE_SIZE)
    }

    /// The data, page by page.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.used().iter().enumerate().map(|(index, &page)| {
            // SAFETY: By the type's invariant the page is valid and does not change while this is borrowed.
            unsafe { core::slice::from_raw_parts(address(page), self.bytes_in(index)) }
        })
    }

    /// What is left of the page at `offset`, to be filled; `None` at the end.
    pub(crate) fn slice_at(&mut self, offset: usize) -> Option<&mut [u8]> {
        let (index, skip) = (offset / PAGE_SIZE, offset % PAGE_SIZE);
        let page = *self.used().get(index)?;
        let bytes = self.bytes_in(index);
        // SAFETY: By the type's invariant the page is valid, and nobody else uses it while this is borrowed mutably.
        let slice = unsafe { core::slice::from_raw_parts_mut(address(page), bytes) };
        slice.get_mut(skip..).filter(|rest| !rest.is_empty())
    }

    /// What is left of the data at `offset`, page by page, to be filled.
    pub(crate) fn slices_from(&mut self, offset: usize) -> impl Iterator<Item = &mut [u8]> {
        let (first, skip) = (offset / PAGE_SIZE, offset % PAGE_SIZE);
        let this = &*self;
        let pages = this.used().iter().enumerate().skip(first);
        pages.filter_map(move |(index, &page)| {
            let bytes = this.bytes_in(index);
            // SAFETY: By the type's invariant the page is valid, and nobody else uses it while this is borrowed mutably; each
            // page is given out once.
            let slice = unsafe { core::slice::from_raw_parts_mut(address(page), bytes) };
            slice.get_mut(if index == first { skip } else { 0 }..)
        })
    }

    /// The data of page `index` if they fill it.
    pub(crate) fn full_page(&self, index: usize) -> Option<&[u8; PAGE_SIZE]> {
        self.slices().nth(index)?.try_into().ok()
    }

    /// Copies `data` to the start; what is too long is left out.
    pub(crate) fn fill(&mut self, mut data: &[u8]) {
        let mut offset = 0;
        while let Some(place) = self.slice_at(offset) {
            let length = place.len().min(data.len());
            let Some((now, later)) = data.split_at_checked(length).filter(|_| length > 0) else {
                return;
            };
            for (to, from) in place.iter_mut().zip(now) {
                *to = *from;
            }
            offset = offset.saturating_add(length);
            data = later;
        }
    }

    /// Overwrites the data with zeros.
    pub(crate) fn clear(&mut self) {
        let mut offset: usize = 0;
        while let Some(place) = self.slice_at(offset) {
            place.fill(0);
            offset = offset.saturating_add(place.len());
        }
    }

    /// The pages as an array for the shim.
    pub(super) fn used(&self) -> &[*mut bindings::page] {
        self.pages.get(..self.count()).unwrap_or(&[])
    }

    /// Bytes of data in page `index`.
    pub(super) fn bytes_in(&self, index: usize) -> usize {
        (self.bytes as usize)
            .saturating_sub(index.saturating_mul(PAGE_SIZE))
            .min(PAGE_SIZE)
    }
}

impl PoolArc<Pages> {
    /// CRC-32C of the data as it stands in packets, see [`weft_uapi::crc32c`]. Computed once.
    pub(crate) fn crc32c(&self) -> u32 {
        let known = self.crc.load(Relaxed);
        if known & CRC_KNOWN != 0 {
            return known as u32;
        }
        let crc = !self.slices().fold(!0, |crc, slice| {
            // SAFETY: The slice is valid for its length.
            unsafe { bindings::crc32c(crc, slice.as_ptr().cast(), slice.len()) }
        });
        self.crc.store(CRC_KNOWN | u64::from(crc), Relaxed);
        crc
    }
}

impl Pages {
    /// Whether all data are zeros. Any context; 128 KiB of zeros take some ten microseconds, anything else next to nothing.
    pub(crate) fn is_zero(&self) -> bool {
        // SAFETY: By the type's invariant so many pages hold the data.
        unsafe { bindings::weft_pages_are_zero(self.used().as_ptr(), self.bytes as usize) }
    }

    /// What stands for the data on the wire. Takes as long as reading all of them: not under a lock, nor where others wait.
    pub(crate) fn digest(&self) -> Digest {
        let mut full = [0; bindings::WEFT_SHA256_BYTES];
        // SAFETY: By the type's invariant so many pages hold the data, and the digest has room for all of its bytes.
        unsafe {
            bindings::weft_sha256_pages(
                self.used().as_ptr(),
                self.bytes as usize,
                full.as_mut_ptr(),
            );
        }
        let mut digest = Digest::default();
        for (to, from) in digest.iter_mut().zip(full) {
            *to = from;
        }
        digest
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for &page in self.used() {
            // SAFETY: The page is valid and one reference to it is ours, by the type's invariant. If it is the only
            // one, nobody can take another, and the page goes back to where it came from.
            unsafe {
                if bindings::weft_page_is_shared(page) {
                    bindings::weft_put_page(page);
                } else {
                    bindings::mempool_free(page.cast(), self.reserve.pages.get());
                }
            }
        }
    }
}

/// Where the content of a page lies.
///
/// # Safety
/// `page` is valid and not of high memory.
unsafe fn address(page: *mut bindings::page) -> *mut u8 {
    // SAFETY: By the function's safety requirements.
    unsafe { bindings::weft_page_address(page).cast() }
}
