// SPDX-License-Identifier: GPL-2.0-only

//! The local disk of a volume: data, and metadata on the same or on another device.
//!
//! A job of the engine becomes one or more requests to the lower devices, one after the other. Every request owns what it
//! needs, also the disk, so the disk is closed only after the last one.
//!
//! ```text
//! start -> (waits its turn, see Patience) -> lower device -> finish -> next request, or the engine is told
//! ```
//!
//! Discards are carried out as zeroing: what two replicas read in a discarded range is the same then.

pub(crate) mod attach;
mod zero;

use crate::block::Request;
use crate::pump::{Action, Kernel, Turn};
use crate::resource::{Order, Resource};
use crate::sys::bdev::{Bdev, Buffer, Done, LowerOp, LowerRequest};
use crate::sys::pages::Payload;
use kernel::{prelude::*, sync::Arc};
use weft_engine::effect::Data;
use weft_engine::event::{Cookie, DiskError, Event, Io, Op};
use weft_engine::room::Room;
use weft_engine::Reads;
use weft_uapi::limits::{META_BLOCK_BYTES, PATH_MAX};
use weft_uapi::ondisk::Layout;
use weft_uapi::refusal::Refusal;
use weft_uapi::units::Sector;

/// A path, padded with zeros.
type Path = [u8; PATH_MAX + 1];

/// The open devices of a volume.
pub(crate) struct Disk {
    data: Arc<Bdev<Resource>>,
    /// The same as `data` when metadata are internal.
    meta: Arc<Bdev<Resource>>,
    paths: KBox<(Path, Path)>,
    block_bytes: u32,
}

impl Disk {
    /// Paths of the disk and of the metadata device (or `internal`), padded with zeros.
    pub(crate) fn paths(&self) -> (Path, Path) {
        *self.paths
    }

    /// Logical block size of the device of ours that is kept on it, in bytes; not smaller than the disk's own.
    pub(crate) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// The device with the data.
    pub(crate) fn data(&self) -> &Bdev<Resource> {
        &self.data
    }

    /// Whether reads are under way of which the engine does not know.
    pub(crate) fn is_lent(&self) -> bool {
        self.data.is_lent()
    }

    /// Those reads so far.
    pub(crate) fn reads(&self) -> Reads {
        let (ended, nanoseconds) = self.data.lent();
        Reads {
            ended,
            nanoseconds,
            are_under_way: self.is_lent(),
        }
    }

    /// Room for the metadata of a disk that has become larger than its layout is for; `None`: it has not. May sleep.
    pub(crate) fn find_room(&self, layout: &Layout) -> Result<Option<Room<Kernel>>, Refusal> {
        Room::find(layout, self.data.sectors(), self.meta.sectors())
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
    /// It was submitted by somebody in a hurry.
    is_hurried: bool,
    /// How often the lower device was short of something.
    shortages: u16,
}

/// How often a request is tried again when its device is short of memory, which says nothing about the disk; each time
/// [`RETRY_MS`](crate::resource::RETRY_MS) later.
const SHORTAGES_MAX: u16 = 300;

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
    Zero {
        cookie: Cookie,
        io: Io,
        /// Bytes that are done once it is done.
        done: u32,
    },
}

/// Whether a thread may wait for memory and for a lower device's queue. For the memory of a read nobody waits, since it
/// comes back when a peer has taken what was read before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may.
    Wait,
    /// It has other things to do (a thread of the daemon), or others wait for it (the one that takes ends): what would
    /// have to wait is left to the resource's issuing queue.
    Hurry,
}

/// What is left to the resource's issuing queue.
pub(crate) enum Issue {
    /// A job that was not begun, for want of memory.
    Job(Arc<Disk>, Job),
    /// A request that was not submitted, or that the lower device had no room for.
    Request(DiskRequest, Buffer),
    /// What was read to be digested: others wait for whoever takes the ends of requests.
    Digest(Cookie, Payload),
    /// A disk to be closed, from which reads are still under way.
    Close(Arc<Disk>),
}

/// Does what was left; may wait for a lower device's queue.
pub(crate) fn issue(resource: &Arc<Resource>, issue: Issue) {
    match issue {
        Issue::Job(disk, job) => start(resource, disk, job, Patience::Wait),
        Issue::Request(request, buffer) => submit(resource, request, buffer, Patience::Wait),
        Issue::Digest(cookie, data) => {
            let digest = data.digest();
            let event = Event::Digested {
                cookie,
                digest,
                data,
            };
            resource.feed(event, Patience::Wait);
        }
        Issue::Close(disk) if disk.is_lent() => resource.issue_later(Issue::Close(disk)),
        Issue::Close(disk) => resource.order(Order::Close(disk)),
    }
}

impl DiskRequest {
    fn new(disk: Arc<Disk>, request: LowerRequest, step: Step) -> Self {
        Self {
            disk,
            request,
            step,
            is_hurried: false,
            shortages: 0,
        }
    }

    fn device(&self) -> &Arc<Bdev<Resource>> {
        match self.step {
            Step::Meta { .. } => &self.disk.meta,
            _ => &self.disk.data,
        }
    }
}

/// A request of this kind without flags.
fn plain(op: LowerOp, sector: Sector, bytes: u32) -> LowerRequest {
    LowerRequest {
        op,
        sector: sector.0,
        bytes,
        preflush: false,
        fua: false,
    }
}

/// Starts a job. Waits for no request of this resource.
pub(crate) fn start(resource: &Arc<Resource>, disk: Arc<Disk>, job: Job, patience: Patience) {
    let (request, buffer) = match job {
        Job::Io { cookie, io, data } if matches!(io.op, Op::Read | Op::Digest) => {
            return start_read(resource, disk, (cookie, io), data, patience);
        }
        Job::Io { cookie, io, data } => change(resource, disk, (cookie, io), data),
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
            let flush = plain(LowerOp::Flush, Sector(0), 0);
            (DiskRequest::new(disk, flush, step), Buffer::None)
        }
        Job::Meta {
            cookie,
            sector,
            block,
            flush,
        } => write_meta(disk, cookie, (sector, block), flush),
    };
    submit(resource, request, buffer, patience);
}

/// The request for whatever changes data, or a flush.
fn change(
    resource: &Resource,
    disk: Arc<Disk>,
    (cookie, io): (Cookie, Io),
    data: Data<Kernel>,
) -> (DiskRequest, Buffer) {
    let op = match io.op {
        Op::Read | Op::Digest | Op::Flush => LowerOp::Flush,
        Op::Write => LowerOp::Write,
        Op::Discard => LowerOp::WriteZeroes { no_unmap: false },
        Op::WriteZeroes { no_unmap } => LowerOp::WriteZeroes { no_unmap },
    };
    // A zeroing operation cannot be stable at its end; the block layer refuses it with that flag.
    if matches!(op, LowerOp::WriteZeroes { .. }) && (io.fua || !disk.data.can_zero()) {
        return zero::piece(resource, disk, (cookie, io), 0);
    }
    let payload = match data {
        Data::Buffer(payload) => Some(payload),
        Data::Request(request) => request.payload().cloned(),
        Data::None => None,
    };
    let request = LowerRequest {
        fua: io.fua,
        ..plain(op, io.sector, io.bytes)
    };
    let step = Step::Io {
        cookie,
        io,
        lent: None,
    };
    (
        DiskRequest::new(disk, request, step),
        payload.map_or(Buffer::None, Buffer::Shared),
    )
}

/// Reads into the application's own pages, or into new ones.
fn start_read(
    resource: &Arc<Resource>,
    disk: Arc<Disk>,
    (cookie, io): (Cookie, Io),
    data: Data<Kernel>,
    patience: Patience,
) {
    let reads = &resource.memory.reads;
    let (buffer, lent) = match data {
        Data::Request(request) => (request.lend().map(Buffer::Bio).ok_or(EIO), Some(request)),
        _ => (reads.try_alloc(io.bytes).map(Buffer::Own), None),
    };
    match buffer {
        Ok(buffer) => {
            let request = plain(LowerOp::Read, io.sector, io.bytes);
            let step = Step::Io { cookie, io, lent };
            submit(
                resource,
                DiskRequest::new(disk, request, step),
                buffer,
                patience,
            );
        }
        Err(error) if error == EAGAIN => {
            let data = Data::None;
            resource.issue_later(Issue::Job(disk, Job::Io { cookie, io, data }));
        }
        Err(_) => {
            drop(disk);
            let result = Err(DiskError);
            resource.feed(Event::DiskDone { cookie, result }, patience);
        }
    }
}

/// The request for a block of metadata, once what it depends on is stable.
fn write_meta(
    disk: Arc<Disk>,
    cookie: Cookie,
    (sector, block): (Sector, Payload),
    flush: bool,
) -> (DiskRequest, Buffer) {
    let request = LowerRequest {
        preflush: flush,
        fua: flush,
        ..plain(LowerOp::Write, sector, META_BLOCK_BYTES)
    };
    (
        DiskRequest::new(disk, request, Step::Meta { cookie }),
        Buffer::Shared(block),
    )
}

fn submit(resource: &Arc<Resource>, mut request: DiskRequest, buffer: Buffer, patience: Patience) {
    request.is_hurried = patience == Patience::Hurry;
    let device = request.device().clone();
    let lower = request.request;
    let left = match patience {
        Patience::Wait => return device.submit(lower, buffer, request),
        Patience::Hurry if device.can_nowait() => device.try_submit(lower, buffer, request),
        Patience::Hurry => {
            // Before somebody else can be done with the request: who hears of its end finds the device closed.
            drop(device);
            Err((buffer, request))
        }
    };
    if let Err((buffer, request)) = left {
        resource.issue(Issue::Request(request, buffer));
    }
}

/// Goes on with a request that another one led to, without waiting.
pub(crate) fn go_on(resource: &Arc<Resource>, request: DiskRequest, buffer: Buffer) {
    submit(resource, request, buffer, Patience::Hurry);
}

/// Takes the end of a request and tells the engine, or goes on at the end of the turn. The disk is let go before the engine
/// is told, so that it can be closed by what the engine says. Waits for nothing.
pub(crate) fn finish(turn: &mut Turn<'_>, done: Done<Resource>) {
    let resource = turn.resource();
    let Done {
        context: mut request,
        buffer,
        result,
    } = done;
    match result {
        // There was no room in the queue of the device.
        Err(error) if error == EAGAIN && request.is_hurried => {
            return resource.issue(Issue::Request(request, buffer));
        }
        Err(error) if is_shortage(error) && request.shortages < SHORTAGES_MAX => {
            request.shortages = request.shortages.saturating_add(1);
            return resource.issue_later(Issue::Request(request, buffer));
        }
        _ => {}
    }
    let DiskRequest { disk, step, .. } = request;
    let (request, buffer) = match step {
        // Disks that promise the operation and then refuse it do so with various errors; writing will tell.
        Step::Io { cookie, io, .. } if result.is_err() && is_zeroing(io.op) => {
            zero::piece(resource, disk, (cookie, io), 0)
        }
        Step::Io { cookie, io, lent } => {
            drop(disk);
            let result = result.map_err(|_| DiskError);
            let data = read_data(buffer, lent);
            return match (result, data) {
                (Ok(()), Some(data)) if io.op == Op::Digest => {
                    resource.issue(Issue::Digest(cookie, data));
                }
                (result, data) => {
                    let result = result.map(|()| data);
                    turn.handle(Event::DiskDone { cookie, result });
                }
            };
        }
        Step::FlushData {
            cookie,
            sector,
            block,
        } if result.is_ok() => write_meta(disk, cookie, (sector, block), true),
        Step::Meta { cookie } | Step::FlushData { cookie, .. } => {
            drop((disk, buffer));
            let result = result.map_err(|_| DiskError);
            return turn.handle(Event::MetaDone { cookie, result });
        }
        Step::Zero { cookie, io, done } if result.is_ok() && done < io.bytes => {
            zero::piece(resource, disk, (cookie, io), done)
        }
        Step::Zero { cookie, .. } => {
            drop(disk);
            let result = result.map(|()| None).map_err(|_| DiskError);
            return turn.handle(Event::DiskDone { cookie, result });
        }
    };
    turn.later(Action::Request(request, buffer));
}

/// Whether a request failed because the device, or the system, was short of something.
fn is_shortage(error: Error) -> bool {
    [ENOMEM, EBUSY, EAGAIN].contains(&error)
}

fn is_zeroing(op: Op) -> bool {
    matches!(op, Op::Discard | Op::WriteZeroes { .. })
}

/// What was read, unless it was into the application's own pages, which are given back.
fn read_data(buffer: Buffer, lent: Option<Request>) -> Option<Payload> {
    match (buffer, lent) {
        (Buffer::Bio(bio), Some(request)) => {
            request.give_back(bio);
            None
        }
        (Buffer::Own(pages), _) => Some(pages.share()),
        _ => None,
    }
}
