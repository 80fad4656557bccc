// SPDX-License-Identifier: GPL-2.0-only

//! Zeroing a range by writing zeros, for disks that have no operation for it: piece by piece, each after the one before.

use super::{plain, Disk, DiskRequest, Step};
use crate::resource::Resource;
use crate::sys::bdev::{Buffer, LowerOp, LowerRequest};
use kernel::sync::Arc;
use weft_engine::event::{Cookie, Io};
use weft_uapi::limits::{IO_BYTES_MAX, SECTOR_BYTES};
use weft_uapi::units::Sector;

/// The request for the piece of a range that follows the first `done` bytes.
pub(super) fn piece(
    resource: &Resource,
    disk: Arc<Disk>,
    (cookie, io): (Cookie, Io),
    done: u32,
) -> (DiskRequest, Buffer) {
    let bytes = io.bytes.saturating_sub(done).min(IO_BYTES_MAX);
    let sector = io.sector.0.saturating_add(u64::from(done / SECTOR_BYTES));
    let request = LowerRequest {
        fua: io.fua,
        ..plain(LowerOp::Write, Sector(sector), bytes)
    };
    let step = Step::Zero {
        cookie,
        io,
        done: done.saturating_add(bytes),
    };
    let zeros = Buffer::Shared(resource.host.zeros.clone());
    (DiskRequest::new(disk, request, step), zeros)
}
