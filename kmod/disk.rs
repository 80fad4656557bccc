// SPDX-License-Identifier: GPL-2.0-only

//! The local disk of a volume: data, and metadata on the same or on another device.
//!
//! A job of the engine becomes one or more requests to the lower devices. Every request owns what it needs, also the disk,
//! so the disk is closed only after the last one; [`finish`] runs in the resource's own queue.
//!
//! Discards are carried out as zeroing: what two replicas read in a discarded range is the same then.

pub(crate) mod attach;
mod zero;

use crate::block::Request;
use crate::pump::Kernel;
use crate::resource::Resource;
use crate::sys::bdev::{Bdev, Buffer, Done, LowerOp, LowerRequest};
use crate::sys::memory::PoolArc;
use crate::sys::pages::Payload;
use kernel::{prelude::*, sync::Arc};
use weft_engine::effect::Data;
use weft_engine::event::{Cookie, DiskError, Event, Io, Op};
use weft_uapi::limits::{META_BLOCK_BYTES, PATH_MAX};
use weft_uapi::units::Sector;
pub(crate) use zero::Zeroing;

/// A path, padded with zeros.
type Path = [u8; PATH_MAX + 1];

/// The open devices of a volume.
pub(crate) struct Disk {
    data: Arc<Bdev<Resource>>,
    /// The same as `data` when metadata are internal.
    meta: Arc<Bdev<Resource>>,
    paths: KBox<(Path, Path)>,
}

impl Disk {
    /// Paths of the disk and of the metadata device (or `internal`), padded with zeros.
    pub(crate) fn paths(&self) -> (Path, Path) {
        *self.paths
    }

    /// The device with the data.
    pub(crate) fn data(&self) -> &Bdev<Resource> {
        &self.data
    }

    fn has_internal_meta(&self) -> bool {
        self.data.is_same(&self.meta)
    }
}

/// What the engine wants done by a disk.
pub(crate) enum Job {
    /// See [`weft_engine::effect::Effect::Disk`].
    Io {
        /// For the answer.
        cookie: Cookie,
        /// What to do.
        io: Io,
        /// Where the data are.
        data: Data<Kernel>,
    },
    /// See [`weft_engine::effect::Effect::Meta`].
    Meta {
        /// For the answer.
        cookie: Cookie,
        /// Where.
        sector: Sector,
        /// The content.
        block: Payload,
        /// Whether everything before, and this, must be stable.
        flush: bool,
    },
}

/// What comes back with a request.
pub(crate) struct DiskRequest {
    disk: Arc<Disk>,
    request: LowerRequest,
    step: Step,
}

/// Which part of a job a request is.
enum Step {
    /// All of it; a read may have been lent the application's bio.
    Io {
        cookie: Cookie,
        io: Io,
        lent: Option<Request>,
    },
    /// All of it, or what follows the flush.
    Meta { cookie: Cookie },
    /// The flush of the data device before a write to another metadata device.
    FlushData {
        cookie: Cookie,
        sector: Sector,
        block: Payload,
    },
    /// A piece of a range that is zeroed by writing.
    Zero(PoolArc<Zeroing>),
}

/// Whether a thread may wait for a lower device's queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may.
    Wait,
    /// It has other things to do: what would have to wait is left to the resource's own queue. (A device that cannot
    /// tell makes it wait all the same.)
    Hurry,
}

/// A request of this kind without flags.
fn plain(op: LowerOp, sector: Sector, bytes: u32) -> LowerRequest {
    LowerRequest {
        op,
        sector: sector.0,
        bytes,
        preflush: false,
        fua: false,
        nowait: false,
    }
}

/// Starts a job. Waits for no request of this resource.
pub(crate) fn start(resource: &Arc<Resource>, disk: Arc<Disk>, job: Job, patience: Patience) {
    match job {
        Job::Io { cookie, io, data } => start_io(resource, disk, cookie, (io, data), patience),
        Job::Meta {
            cookie,
            sector,
            block,
            flush,
        } if flush && !disk.has_internal_meta() => {
            let step = Step::FlushData {
                cookie,
                sector,
                block,
            };
            submit(
                disk,
                plain(LowerOp::Flush, Sector(0), 0),
                Buffer::None,
                step,
                patience,
            );
        }
        Job::Meta {
            cookie,
            sector,
            block,
            flush,
        } => write_meta(disk, cookie, (sector, block), flush, patience),
    }
}

fn start_io(
    resource: &Arc<Resource>,
    disk: Arc<Disk>,
    cookie: Cookie,
    (io, data): (Io, Data<Kernel>),
    patience: Patience,
) {
    let op = match io.op {
        Op::Read => return start_read(resource, disk, cookie, (io, data), patience),
        Op::Write => LowerOp::Write,
        Op::Flush => LowerOp::Flush,
        Op::Discard => LowerOp::WriteZeroes { no_unmap: false },
        Op::WriteZeroes { no_unmap } => LowerOp::WriteZeroes { no_unmap },
    };
    // A zeroing operation cannot be stable at its end; the block layer refuses it with that flag.
    if matches!(op, LowerOp::WriteZeroes { .. }) && (io.fua || !disk.data.can_zero()) {
        return zero::start(resource, disk, cookie, io);
    }
    let buffer = match data {
        Data::Buffer(payload) => Buffer::Shared(payload),
        Data::Request(request) => request
            .payload()
            .cloned()
            .map_or(Buffer::None, Buffer::Shared),
        Data::None => Buffer::None,
    };
    let request = LowerRequest {
        fua: io.fua,
        ..plain(op, io.sector, io.bytes)
    };
    submit(
        disk,
        request,
        buffer,
        Step::Io {
            cookie,
            io,
            lent: None,
        },
        patience,
    );
}

/// Reads into the application's own pages, or into new ones.
fn start_read(
    resource: &Arc<Resource>,
    disk: Arc<Disk>,
    cookie: Cookie,
    (io, data): (Io, Data<Kernel>),
    patience: Patience,
) {
    let (buffer, lent) = match data {
        Data::Request(request) => (request.lend().map(Buffer::Bio), Some(request)),
        _ => (
            resource.memory.reads.alloc(io.bytes).ok().map(Buffer::Own),
            None,
        ),
    };
    match buffer {
        Some(buffer) => {
            let request = plain(LowerOp::Read, io.sector, io.bytes);
            submit(
                disk,
                request,
                buffer,
                Step::Io { cookie, io, lent },
                patience,
            );
        }
        None => {
            drop(disk);
            resource.feed(Event::DiskDone {
                cookie,
                result: Err(DiskError),
            });
        }
    }
}

fn write_meta(
    disk: Arc<Disk>,
    cookie: Cookie,
    (sector, block): (Sector, Payload),
    flush: bool,
    patience: Patience,
) {
    let request = LowerRequest {
        preflush: flush,
        fua: flush,
        ..plain(LowerOp::Write, sector, META_BLOCK_BYTES)
    };
    submit(
        disk,
        request,
        Buffer::Shared(block),
        Step::Meta { cookie },
        patience,
    );
}

fn submit(disk: Arc<Disk>, request: LowerRequest, buffer: Buffer, step: Step, patience: Patience) {
    let device = match step {
        Step::Meta { .. } => disk.meta.clone(),
        _ => disk.data.clone(),
    };
    let request = LowerRequest {
        nowait: patience == Patience::Hurry && device.can_nowait(),
        ..request
    };
    device.submit(
        request,
        buffer,
        DiskRequest {
            disk,
            request,
            step,
        },
    );
}

/// Takes the end of a request and tells the engine, or goes on. The disk is let go before the engine is told, so that
/// it can be closed by what the engine says.
pub(crate) fn finish(resource: &Arc<Resource>, done: Done<Resource>) {
    let Done {
        context: DiskRequest {
            disk,
            request,
            step,
        },
        buffer,
        result,
    } = done;
    if request.nowait && result == Err(EAGAIN) {
        return submit(disk, request, buffer, step, Patience::Wait);
    }
    match step {
        Step::Io { cookie, io, lent } => {
            // Disks that promise the operation and then refuse it do so with various errors; writing will tell.
            if result.is_err() && matches!(io.op, Op::Discard | Op::WriteZeroes { .. }) {
                return zero::start(resource, disk, cookie, io);
            }
            drop(disk);
            let data = match (buffer, lent) {
                (Buffer::Bio(bio), Some(request)) => {
                    request.give_back(bio);
                    None
                }
                (Buffer::Own(pages), _) => Some(pages.share()),
                _ => None,
            };
            let result = result.map(|()| data).map_err(|_| DiskError);
            resource.feed(Event::DiskDone { cookie, result });
        }
        Step::Meta { cookie } => {
            drop((disk, buffer));
            resource.feed(Event::MetaDone {
                cookie,
                result: result.map_err(|_| DiskError),
            });
        }
        Step::FlushData {
            cookie,
            sector,
            block,
        } => match result {
            Ok(()) => write_meta(disk, cookie, (sector, block), true, Patience::Wait),
            Err(_) => {
                drop(disk);
                resource.feed(Event::MetaDone {
                    cookie,
                    result: Err(DiskError),
                });
            }
        },
        Step::Zero(zeroing) => {
            drop(disk);
            zero::piece_done(resource, &zeroing, result);
        }
    }
}
