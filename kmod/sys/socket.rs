// SPDX-License-Identifier: GPL-2.0-only

//! TCP sockets that a process has connected: bytes go out of pages by reference and come in by copy, without waiting.

use super::{
    bindings,
    pages::{Payload, PAGES_MAX},
};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    ffi::{c_int, c_uint, c_void},
    page::{Page, PAGE_SIZE},
    prelude::*,
};

/// A connected socket, kept open.
///
/// # Invariants
/// The pointer comes from `weft_socket_get` and was not put.
pub(crate) struct Socket(NonNull<bindings::socket>);

// SAFETY: A socket belongs to no thread.
unsafe impl Send for Socket {}
// SAFETY: A socket has its own lock.
unsafe impl Sync for Socket {}

impl Socket {
    /// The socket behind a descriptor of the current process. Errors: `EBADF`, `ENOTSOCK`, `EPROTOTYPE` for another one than of
    /// TCP.
    pub(crate) fn of_descriptor(descriptor: u32) -> Result<Self> {
        let descriptor = c_int::try_from(descriptor).map_err(|_| EBADF)?;
        // SAFETY: There are no requirements.
        let socket = from_err_ptr(unsafe { bindings::weft_socket_get(descriptor) })?;
        // INVARIANT: It was just taken.
        NonNull::new(socket).map(Self).ok_or(EBADF)
    }

    /// Sends the first of these bytes and returns their number; `EAGAIN` when nothing goes now. With `more`, others follow at once.
    /// May sleep briefly.
    pub(crate) fn send(&self, pieces: &mut Pieces<'_>, more: bool) -> Result<usize> {
        let Pieces {
            vecs, count, bytes, ..
        } = pieces;
        let vecs = vecs.as_mut_ptr();
        // SAFETY: The socket is open, by the type's invariant; so many pieces are there, of pages that are valid as long as
        // `pieces`, and TCP takes references of its own.
        let sent = unsafe {
            bindings::weft_socket_send(self.0.as_ptr(), vecs, *count as c_uint, *bytes, more)
        };
        usize::try_from(sent).map_err(|_| Error::from_errno(sent))
    }

    /// Fills the places, the first ones first, and returns the number of bytes: less than asked for when there are no more now, 0
    /// at the end of the stream; `EAGAIN` when there are none now. May sleep briefly.
    pub(crate) fn receive(&self, places: &mut Places<'_>) -> Result<usize> {
        let Places {
            vecs, count, bytes, ..
        } = places;
        let vecs = vecs.as_mut_ptr();
        // SAFETY: The socket is open, by the type's invariant; so many places are there, borrowed mutably as long as `places`.
        let received = unsafe {
            bindings::weft_socket_receive(self.0.as_ptr(), vecs, *count as c_uint, *bytes)
        };
        usize::try_from(received).map_err(|_| Error::from_errno(received))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; it is not used afterwards.
        unsafe { bindings::weft_socket_put(self.0.as_ptr()) };
    }
}

/// Most pieces of one send: enough for the longest packet and some short ones.
pub(crate) const PIECES_MAX: usize = 2 * PAGES_MAX;

/// Pieces of pages to be sent.
///
/// # Invariants
/// The first `count` of `vecs` lie in pages that are valid for `'a`; they have `bytes` together.
pub(crate) struct Pieces<'a> {
    vecs: [bindings::bio_vec; PIECES_MAX],
    count: usize,
    bytes: usize,
    _pages: PhantomData<&'a Page>,
}

impl<'a> Pieces<'a> {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            vecs: pin_init::zeroed(),
            count: 0,
            bytes: 0,
            _pages: PhantomData,
        }
    }

    /// Adds the data from `skip` on. Fails with `ENOSPC` after [`PIECES_MAX`].
    pub(crate) fn push_data(&mut self, data: &'a Payload, skip: usize) -> Result {
        let (first, mut offset) = (skip / PAGE_SIZE, skip % PAGE_SIZE);
        for (index, &page) in data.used().iter().enumerate().skip(first) {
            let length = data.bytes_in(index).saturating_sub(offset);
            // INVARIANT: The data are borrowed for as long.
            self.push(page, offset, length)?;
            offset = 0;
        }
        Ok(())
    }

    /// Adds what was put into the page of `fragments` from `offset` on. Fails with `EINVAL` where nothing was, and with `ENOSPC`
    /// after [`PIECES_MAX`].
    pub(crate) fn push_fragment(
        &mut self,
        fragments: &'a Fragments,
        offset: usize,
        length: usize,
    ) -> Result {
        let page = fragments.page.as_ref().ok_or(EINVAL)?;
        if offset
            .checked_add(length)
            .is_none_or(|end| end > fragments.end)
        {
            return Err(EINVAL);
        }
        // INVARIANT: The fragments are borrowed for as long.
        self.push(page.as_ptr(), offset, length)
    }

    /// Adds bytes within a page that is valid for `'a`; what follows the last piece becomes part of it.
    fn push(&mut self, page: *mut bindings::page, offset: usize, length: usize) -> Result {
        let last = self.count.checked_sub(1);
        let last = last.and_then(|at| self.vecs.get_mut(at)).filter(|last| {
            let end = last.bv_offset.saturating_add(last.bv_len);
            last.bv_page == page && end as usize == offset
        });
        match last {
            _ if length == 0 => return Ok(()),
            Some(last) => last.bv_len = last.bv_len.saturating_add(length as c_uint),
            None => {
                *self.vecs.get_mut(self.count).ok_or(ENOSPC)? = bindings::bio_vec {
                    bv_page: page,
                    bv_len: length as c_uint,
                    bv_offset: offset as c_uint,
                };
                self.count = self.count.saturating_add(1);
            }
        }
        self.bytes = self.bytes.saturating_add(length);
        Ok(())
    }
}

/// Memory to be filled.
///
/// # Invariants
/// The first `count` of `vecs` are borrowed mutably for `'a`; they have `bytes` together.
pub(crate) struct Places<'a> {
    // One more than the pages of the longest buffer.
    vecs: [bindings::kvec; PAGES_MAX + 1],
    count: usize,
    bytes: usize,
    _memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Places<'a> {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            vecs: pin_init::zeroed(),
            count: 0,
            bytes: 0,
            _memory: PhantomData,
        }
    }

    /// Bytes of all places.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a place, if there is room for it.
    pub(crate) fn push(&mut self, place: &'a mut [u8]) {
        if let Some(vec) = self.vecs.get_mut(self.count) {
            // INVARIANT: The memory is borrowed for as long.
            vec.iov_base = place.as_mut_ptr().cast::<c_void>();
            vec.iov_len = place.len();
            self.count = self.count.saturating_add(1);
            self.bytes = self.bytes.saturating_add(place.len());
        }
    }
}

/// A page for bytes that have none of their own. What was put into it may be on its way by reference and is never written
/// again.
pub(crate) struct Fragments {
    page: Option<Page>,
    end: usize,
}

impl Fragments {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self { page: None, end: 0 }
    }

    /// Makes room for at least `room` bytes, at most a page; what is in the page stays, or leaves with it.
    pub(crate) fn begin(&mut self, room: usize) -> Result {
        if self.page.is_none() || PAGE_SIZE.saturating_sub(self.end) < room {
            self.page = Some(Page::alloc_page(GFP_KERNEL)?);
            self.end = 0;
        }
        Ok(())
    }

    /// Where the next bytes go.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Adds as many of `bytes` as there is room for in the page; returns how many.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let Some(page) = &self.page else { return 0 };
        let count = bytes.len().min(PAGE_SIZE.saturating_sub(self.end));
        // SAFETY: `bytes` is readable for `count` bytes; other bounds are checked by the callee. What lies behind `end`
        // was not given away, so nobody else looks at it.
        match unsafe { page.write_raw(bytes.as_ptr(), self.end, count) } {
            Ok(()) => {
                self.end = self.end.saturating_add(count);
                count
            }
            Err(_) => 0,
        }
    }
}

/// `ECONNRESET`, which the kernel crate lacks.
pub(crate) fn econnreset() -> Error {
    Error::from_errno(-(bindings::ECONNRESET as c_int))
}

/// `ENOTCONN`, which the kernel crate lacks.
pub(crate) fn enotconn() -> Error {
    Error::from_errno(-(bindings::ENOTCONN as c_int))
}
