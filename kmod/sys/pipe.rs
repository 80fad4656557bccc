// SPDX-License-Identifier: GPL-2.0-only

//! Splicing: files whose bytes go into a pipe as references to pages, and come out of one into `write`.
//!
//! A pipe buffer may outlive the file it came from. Each one therefore holds the page, the object behind the file
//! and the module, and asks the object at its use whether its bytes still count ([`SpliceOps::is_revoked`]).

use crate::sys::{
    bindings,
    file::{count_or_errno, Callbacks, FileOps, PendingFd},
    module::THIS_MODULE,
};
use core::marker::PhantomData;
use kernel::{
    ffi::{c_int, c_uint, c_ulong},
    page::{Page, PAGE_SIZE},
    prelude::*,
    sync::{Arc, ArcBorrow},
};

/// A file that can be spliced. Same context as [`FileOps`]; the pipe is locked.
pub(crate) trait SpliceOps: FileOps {
    /// Puts at most `bytes_max` bytes into `pipe` and returns their number, 0 at the end; `EAGAIN` when there is
    /// nothing to read now.
    fn splice_read(&self, pipe: &mut PipeWriter<'_, Self>, bytes_max: usize) -> Result<usize>
    where
        Self: Sized;

    /// Whether bytes that were put into pipes before must not be used any more.
    fn is_revoked(&self) -> bool;
}

/// A descriptor of a file of `object`, on an anonymous inode called `name`; see [`PendingFd`].
pub(crate) fn open_fd<T: SpliceOps>(name: &'static CStr, object: Arc<T>) -> Result<PendingFd> {
    PendingFd::new(name, &SpliceCallbacks::<T>::OPERATIONS, object)
}

/// The write end of a pipe during one splice.
///
/// # Invariants
/// `pipe` is valid and locked by the current task.
pub(crate) struct PipeWriter<'a, T> {
    pipe: *mut bindings::pipe_inode_info,
    source: ArcBorrow<'a, T>,
}

impl<T: SpliceOps> PipeWriter<'_, T> {
    /// Whether the pipe takes another [`push`](Self::push): `EPIPE` when nobody reads from it.
    pub(crate) fn has_room(&self) -> Result<bool> {
        // SAFETY: By the type's invariant.
        match unsafe { bindings::weft_pipe_room(self.pipe) } {
            0 => Ok(false),
            room if room > 0 => Ok(true),
            error => Err(Error::from_errno(error)),
        }
    }

    /// Adds `length` bytes at `offset` of `page`, whose content must not change any more. Fails with `EINVAL` when
    /// they are none or not within the page, and as [`has_room`](Self::has_room) says.
    pub(crate) fn push(&mut self, page: &Page, offset: usize, length: usize) -> Result {
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        if length == 0 || end > PAGE_SIZE {
            return Err(EINVAL);
        }
        // SAFETY: The page is valid. The buffer takes the new reference along.
        unsafe { bindings::weft_get_page(page.as_ptr()) };
        // SAFETY: The caller of this code holds a reference to the module.
        unsafe { bindings::__module_get(THIS_MODULE) };
        let mut buffer = bindings::pipe_buffer {
            page: page.as_ptr(),
            offset: offset as c_uint,
            len: length as c_uint,
            ops: &BufferCallbacks::<T>::OPERATIONS,
            flags: 0,
            private: Arc::into_raw(Arc::from(self.source)) as c_ulong,
        };
        // SAFETY: The pipe is locked, by the type's invariant. The buffer holds all that its callbacks expect, and
        // is released by `add_to_pipe` when that fails.
        let added = unsafe { bindings::add_to_pipe(self.pipe, &mut buffer) };
        kernel::error::to_result(added as c_int)
    }
}

/// Pieces of pages for bytes that have no page of their own. A piece is given away by reference and never written
/// again.
pub(crate) struct Fragments {
    page: Option<Page>,
    start: usize,
    end: usize,
}

impl Fragments {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            page: None,
            start: 0,
            end: 0,
        }
    }

    /// Begins a new piece with room for at least `room` bytes, at most a page.
    pub(crate) fn begin(&mut self, room: usize) -> Result {
        if self.page.is_none() || PAGE_SIZE.saturating_sub(self.end) < room {
            self.page = Some(Page::alloc_page(GFP_KERNEL)?);
            self.end = 0;
        }
        self.start = self.end;
        Ok(())
    }

    /// Adds as many of `bytes` to the piece as there is room for; returns how many.
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

    /// Gives the piece to a pipe, as [`PipeWriter::push`].
    pub(crate) fn push_to<T: SpliceOps>(&mut self, pipe: &mut PipeWriter<'_, T>) -> Result {
        let page = self.page.as_ref().ok_or(EINVAL)?;
        pipe.push(page, self.start, self.end.saturating_sub(self.start))?;
        self.start = self.end;
        Ok(())
    }
}

/// File operations of a splicing file.
struct SpliceCallbacks<T>(PhantomData<T>);

impl<T: SpliceOps> SpliceCallbacks<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        splice_read: Some(Self::splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        ..Callbacks::<T>::OPERATIONS
    };

    /// # Safety
    /// The kernel calls it for an open file with these operations and owns `pipe` during the call.
    unsafe extern "C" fn splice_read(
        file: *mut bindings::file,
        _position: *mut bindings::loff_t,
        pipe: *mut bindings::pipe_inode_info,
        length: usize,
        _flags: c_uint,
    ) -> isize {
        // SAFETY: The file is open during the call and has these operations.
        let source = unsafe { Callbacks::<T>::object(file) };
        // INVARIANT: `splice_file_to_pipe` and `splice_direct_to_actor` own the pipe during the call.
        let mut pipe = PipeWriter { pipe, source };
        count_or_errno(source.splice_read(&mut pipe, length))
    }
}

/// Pipe buffer operations.
///
/// All of them rest on this invariant: a buffer owns one reference to its page, one to the module, and in `private`
/// an `Arc<T>` from `Arc::into_raw`. There is no `get` that works (so no `tee`) and no `try_steal`.
struct BufferCallbacks<T>(PhantomData<T>);

impl<T: SpliceOps> BufferCallbacks<T> {
    const OPERATIONS: bindings::pipe_buf_operations = bindings::pipe_buf_operations {
        confirm: Some(Self::confirm),
        release: Some(Self::release),
        try_steal: None,
        get: Some(Self::get),
    };

    /// # Safety
    /// A pipe calls it for a buffer with these operations.
    unsafe extern "C" fn confirm(
        _pipe: *mut bindings::pipe_inode_info,
        buffer: *mut bindings::pipe_buffer,
    ) -> c_int {
        // SAFETY: By the invariant of this type, the buffer keeps the object alive during the call.
        let source = unsafe { &*((*buffer).private as *const T) };
        if source.is_revoked() {
            EIO.to_errno()
        } else {
            0
        }
    }

    /// # Safety
    /// A pipe calls it for a buffer with these operations.
    unsafe extern "C" fn get(
        _pipe: *mut bindings::pipe_inode_info,
        _buffer: *mut bindings::pipe_buffer,
    ) -> bool {
        false
    }

    /// # Safety
    /// A pipe calls it once for a buffer with these operations, as the last of them.
    unsafe extern "C" fn release(
        _pipe: *mut bindings::pipe_inode_info,
        buffer: *mut bindings::pipe_buffer,
    ) {
        // SAFETY: By the invariant of this type; the pipe does not use the buffer after its release.
        unsafe {
            drop(Arc::from_raw((*buffer).private as *const T));
            bindings::weft_put_page((*buffer).page);
            // Last, and thus a tail call: no instruction of the module runs after it.
            bindings::module_put(THIS_MODULE);
        }
    }
}
