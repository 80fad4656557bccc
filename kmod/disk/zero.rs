// SPDX-License-Identifier: GPL-2.0-only

//! Zeroing a range by writing zeros, for disks that have no operation for it.

use super::{plain, submit, Disk, Patience, Step};
use crate::resource::Resource;
use crate::sys::bdev::{Buffer, LowerOp, LowerRequest};
use crate::sys::memory::PoolArc;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc,
    },
};
use weft_engine::event::{Cookie, DiskError, Event, Io};
use weft_uapi::limits::{IO_BYTES_MAX, SECTOR_BYTES};
use weft_uapi::units::Sector;

/// A range that is being zeroed.
pub(crate) struct Zeroing {
    cookie: Cookie,
    /// Pieces that are not done yet.
    left: Atomic<u32>,
    failed: Atomic<bool>,
}

/// Writes zeros to the range. May sleep.
pub(super) fn start(resource: &Arc<Resource>, disk: Arc<Disk>, cookie: Cookie, io: Io) {
    let pieces = io.bytes.div_ceil(IO_BYTES_MAX);
    let zeroing = resource
        .zeroings
        .make(Zeroing {
            cookie,
            left: Atomic::new(pieces),
            failed: Atomic::new(false),
        })
        .share();
    for index in 0..pieces {
        let offset = index.saturating_mul(IO_BYTES_MAX);
        let bytes = io.bytes.saturating_sub(offset).min(IO_BYTES_MAX);
        let sector = Sector(io.sector.0.saturating_add(u64::from(offset / SECTOR_BYTES)));
        let request = LowerRequest {
            fua: io.fua,
            ..plain(LowerOp::Write, sector, bytes)
        };
        let zeros = Buffer::Shared(resource.host.zeros.clone());
        submit(
            disk.clone(),
            request,
            zeros,
            Step::Zero(zeroing.clone()),
            Patience::Wait,
        );
    }
}

/// Notes the end of a piece; with the last one the engine is told.
pub(super) fn piece_done(resource: &Arc<Resource>, zeroing: &PoolArc<Zeroing>, result: Result) {
    if result.is_err() {
        zeroing.failed.store(true, Relaxed);
    }
    if zeroing.left.fetch_sub(1, Full) == 1 {
        let result = if zeroing.failed.load(Relaxed) {
            Err(DiskError)
        } else {
            Ok(None)
        };
        resource.feed(Event::DiskDone {
            cookie: zeroing.cookie,
            result,
        });
    }
}
