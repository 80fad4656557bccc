// SPDX-License-Identifier: GPL-2.0-only
//! A reader whose memory is a page of a disk: while the disk hangs, so does whoever copies to it.

use std::{
    fs::File,
    io::{self, Read},
    num::NonZeroUsize,
    slice,
};

use nix::sys::mman::{mmap, MapFlags, ProtFlags};

const LEN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// See the program.
pub(crate) fn read(device: &str, disk: &str) -> io::Result<()> {
    let disk = File::open(disk)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: A new mapping takes no memory away from anybody.
    let memory = unsafe { mmap(None, LEN, access, MapFlags::MAP_PRIVATE, &disk, 0) }?;
    // SAFETY: The mapping has this length, stays until the end of the process, and is used here only. Its content, of
    // which nothing is expected, is what the disk holds.
    let buffer = unsafe { slice::from_raw_parts_mut(memory.as_ptr().cast::<u8>(), LEN.get()) };
    let count = File::options()
        .read(true)
        .write(true)
        .open(device)?
        .read(buffer)?;
    println!("read {count} bytes");
    Ok(())
}
