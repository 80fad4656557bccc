// SPDX-License-Identifier: GPL-2.0-only

//! The system calls that no library wraps safely. All `unsafe` of this crate is here.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use weft_uapi::control::{LinkAccept, LinkCarried, LINK_ACCEPT, LINK_CARRY, LINK_TIE};

/// `LINK_ACCEPT` on the control device.
pub(super) fn link_accept(device: BorrowedFd<'_>, accept: &LinkAccept) -> io::Result<OwnedFd> {
    // SAFETY: the request only reads a `LinkAccept` behind the pointer, and the reference outlives the call.
    let fd = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LINK_ACCEPT as libc::Ioctl,
            std::ptr::from_ref(accept),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just installed this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `LINK_TIE` on a link.
pub(super) fn link_tie(link: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> io::Result<()> {
    let number = connection.as_raw_fd();
    // SAFETY: the request only reads a number behind the pointer, and the reference outlives the call.
    let tied = unsafe {
        libc::ioctl(
            link.as_raw_fd(),
            LINK_TIE as libc::Ioctl,
            std::ptr::from_ref(&number),
        )
    };
    Errno::result(tied)?;
    Ok(())
}

/// `LINK_CARRY` on a link.
pub(super) fn link_carry(link: BorrowedFd<'_>) -> io::Result<LinkCarried> {
    let mut carried = LinkCarried::default();
    // SAFETY: the request writes a `LinkCarried` behind the pointer, and the reference outlives the call; any bytes are one.
    let done = unsafe {
        libc::ioctl(
            link.as_raw_fd(),
            LINK_CARRY as libc::Ioctl,
            std::ptr::from_mut(&mut carried),
        )
    };
    Errno::result(done)?;
    Ok(carried)
}

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that this process is in the write path of a block device, so that its allocations never wait for
/// that path.
pub(crate) fn set_io_flusher() -> io::Result<()> {
    // SAFETY: this operation takes plain numbers.
    let done = unsafe { libc::prctl(SET_IO_FLUSHER, 1, 0, 0, 0) };
    Errno::result(done)?;
    Ok(())
}
