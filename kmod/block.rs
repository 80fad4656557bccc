// SPDX-License-Identifier: GPL-2.0-only

//! Devices and the requests of applications.
//!
//! ```text
//! submit_bio -> (waits: too many in flight) -> Request -> engine … lent to the lower disk … -> completed
//! ```
//! A bio is completed exactly once: by [`AppRequest::complete`], or, if the lower disk still has it then, when it comes
//! back. The data of a write are copied once, before the engine sees it: what goes to the disk and to every peer is the
//! same copy, whatever the application does to its memory meanwhile.
//!
//! Reads of good data take a [`Shortcut`] to the lower disk, past the engine, while it allows that. It closes the shortcut
//! with the event that makes it wrong; a read that was under way then is like one that the disk had already. One that
//! fails is begun again by way of the engine.

use crate::disk::{Disk, Patience};
use crate::error::{emediumtype, eopnotsupp};
use crate::resource::Resource;
use crate::sys::bio::{Bio, BioOp, BioQueue, Started};
use crate::sys::gendisk::{Access, BlockDevice};
use crate::sys::memory::{NoIo, PoolArc};
use crate::sys::pages::Payload;
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, ArcBorrow, SpinLock,
    },
};
use weft_engine::effect::IoError;
use weft_engine::event::{Io, Op};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{Sector, VolumeId};

/// A request of an application, as the engine knows it.
pub(crate) type Request = PoolArc<AppRequest>;

/// The object behind one `/dev/weftN`.
#[pin_data]
pub(crate) struct Device {
    resource: Arc<Resource>,
    volume: VolumeId,
    /// Bios that came while too many requests were in flight.
    #[pin]
    waiting: SpinLock<BioQueue>,
    #[pin]
    shortcut: SpinLock<Option<Shortcut>>,
    /// Sectors that were read by the shortcut.
    sectors_read: Atomic<u64>,
}

/// Where reads may go without the engine.
struct Shortcut {
    disk: Arc<Disk>,
    /// Size of the device.
    sectors: u64,
}

impl Device {
    /// The device of a volume, not yet to be opened.
    pub(crate) fn new(resource: Arc<Resource>, volume: VolumeId) -> Result<Arc<Self>> {
        let device = pin_init!(Self {
            resource,
            volume,
            waiting <- new_spinlock!(BioQueue::new()),
            shortcut <- new_spinlock!(None),
            sectors_read: Atomic::new(0),
        });
        Arc::pin_init(device, GFP_KERNEL)
    }

    /// Lets reads go straight to the disk, whose data fill so many sectors; or not any more. Under the engine's lock, so
    /// that it is in step with what the engine says.
    pub(crate) fn set_shortcut(&self, to: Option<(Arc<Disk>, u64)>) {
        let shortcut = to.map(|(disk, sectors)| Shortcut { disk, sectors });
        let before = core::mem::replace(&mut *self.shortcut.lock(), shortcut);
        drop(before);
    }

    /// Sectors that were read without the engine's knowledge.
    pub(crate) fn sectors_read(&self) -> u64 {
        self.sectors_read.load(Relaxed)
    }

    /// Reads without the engine if that is allowed now; else the bio comes back.
    fn read_directly(&self, bio: Bio) -> Result<(), Bio> {
        if bio.op() != Some(BioOp::Read) {
            return Err(bio);
        }
        let sectors = u64::from(bio.bytes() / SECTOR_BYTES);
        let end = bio.sector().checked_add(sectors);
        let shortcut = self.shortcut.lock();
        let fitting = shortcut
            .as_ref()
            .filter(|shortcut| sectors > 0 && end.is_some_and(|end| end <= shortcut.sectors));
        // Lent under the lock: the disk stays open only as long as the shortcut is there.
        let loan = fitting.map(|shortcut| shortcut.disk.data().lend());
        drop(shortcut);
        let Some(loan) = loan else {
            return Err(bio);
        };
        self.sectors_read.fetch_add(sectors, Relaxed);
        loan.read(bio);
        Ok(())
    }

    /// Begins a bio again that the shortcut could not serve.
    pub(crate) fn take_back(&self, bio: Bio) {
        self.waiting.lock().push(bio);
        self.resource.has_waiting();
    }

    /// Starts bios that wait, as far as there is room and memory now; the resource asks again when there is more. Returns
    /// whether some still wait.
    pub(crate) fn start_waiting(&self) -> bool {
        while let Some(bio) = self.next_waiting() {
            if let Err(bio) = self.start(bio, Patience::Hurry) {
                self.waiting.lock().push_front(bio);
                self.resource.has_starved();
                return true;
            }
        }
        let is_empty = self.waiting.lock().is_empty();
        if !is_empty {
            self.resource.has_waiting();
        }
        !is_empty
    }

    fn next_waiting(&self) -> Option<Bio> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() || !self.resource.admit() {
            return None;
        }
        waiting.pop()
    }

    /// Gives a bio that was admitted to the engine. In a hurry it comes back, and is not admitted any more, if there is no
    /// memory for its data now.
    fn start(&self, bio: Bio, patience: Patience) -> Result<(), Bio> {
        let admitted = Admitted(self.resource.clone());
        let Some(io) = io_of(&bio) else {
            bio.complete(Err(eopnotsupp()), None);
            return Ok(());
        };
        let payload = match self.payload_of(&bio, patience) {
            Ok(payload) => payload,
            Err(error) if error == EAGAIN => return Err(bio),
            Err(error) => {
                bio.complete(Err(error), None);
                return Ok(());
            }
        };
        let request = pin_init!(AppRequest {
            _admitted: admitted,
            started: bio.start_accounting(),
            payload,
            place <- new_spinlock!(Place::Here(bio)),
        });
        let request = self.resource.requests.make(request).share();
        self.resource.request(self.volume, request, io);
        Ok(())
    }

    /// A copy of the data, if it is a write. In a hurry: `EAGAIN` if there is no memory for it now.
    fn payload_of(&self, bio: &Bio, patience: Patience) -> Result<Option<Payload>> {
        if bio.op() != Some(BioOp::Write) {
            return Ok(None);
        }
        let writes = &self.resource.memory.writes;
        let mut pages = match patience {
            Patience::Wait => writes.alloc(bio.bytes())?,
            Patience::Hurry => writes.try_alloc(bio.bytes())?,
        };
        bio.copy_out(&mut pages)?;
        let payload = pages.share();
        if self.resource.is_mirrored() {
            // Remembered there, and not computed under the engine's lock.
            payload.crc32c();
        }
        Ok(Some(payload))
    }
}

impl BlockDevice for Device {
    fn open(&self, access: Access) -> Result {
        self.resource
            .open(self.volume, access.writes && access.waits)
            .map_err(errno_of_open)
    }

    fn release(&self) {
        self.resource.close(self.volume);
    }

    fn submit(this: ArcBorrow<'_, Self>, bio: Bio) {
        let _no_io = NoIo::enter();
        let Err(bio) = this.read_directly(bio) else {
            return;
        };
        let mut waiting = this.waiting.lock();
        if waiting.is_empty() && this.resource.admit() {
            drop(waiting);
            // Only who is in a hurry gets it back, and completes it.
            let _ = this.start(bio, Patience::Wait);
        } else {
            waiting.push(bio);
            drop(waiting);
            this.resource.has_waiting();
        }
    }
}

/// What a bio asks for; `None`: something that our devices do not offer.
fn io_of(bio: &Bio) -> Option<Io> {
    let op = match bio.op()? {
        BioOp::Read => Op::Read,
        BioOp::Write => Op::Write,
        BioOp::Flush => Op::Flush,
        BioOp::Discard => Op::Discard,
        BioOp::WriteZeroes { no_unmap } => Op::WriteZeroes { no_unmap },
    };
    let (sector, bytes) = if op == Op::Flush {
        (0, 0)
    } else {
        (bio.sector(), bio.bytes())
    };
    Some(Io {
        op,
        sector: Sector(sector),
        bytes,
        fua: bio.is_fua(),
        preflush: bio.is_preflush() && op != Op::Flush,
    })
}

/// One of the requests that may be in flight; dropping it lets another one in.
struct Admitted(Arc<Resource>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.dismiss();
    }
}

/// A request of an application.
#[pin_data]
pub(crate) struct AppRequest {
    _admitted: Admitted,
    started: Started,
    payload: Option<Payload>,
    #[pin]
    place: SpinLock<Place>,
}

/// Where the bio is.
enum Place {
    /// Here.
    Here(Bio),
    /// The lower disk reads into it.
    Lent,
    /// As above; to be completed when it comes back.
    Awaited(Result),
    /// Completed.
    Gone,
}

impl AppRequest {
    /// The data of a write.
    pub(crate) fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }

    /// Takes the bio for a read by the lower disk, to be given back; `None` if it is not here.
    pub(crate) fn lend(&self) -> Option<Bio> {
        let mut place = self.place.lock();
        match core::mem::replace(&mut *place, Place::Lent) {
            Place::Here(bio) => Some(bio),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Takes a bio back that was lent.
    pub(crate) fn give_back(&self, bio: Bio) {
        let mut place = self.place.lock();
        if let Place::Awaited(result) = *place {
            *place = Place::Gone;
            drop(place);
            bio.complete(result, Some(self.started));
        } else {
            *place = Place::Here(bio);
        }
    }

    /// Completes the bio; for a read that was answered from elsewhere, with `data`.
    pub(crate) fn complete(&self, result: Result<(), IoError>, data: Option<&Payload>) {
        let result = result.map_err(errno);
        let mut place = self.place.lock();
        match core::mem::replace(&mut *place, Place::Gone) {
            Place::Here(mut bio) => {
                drop(place);
                let copied = data.map_or(Ok(()), |data| bio.copy_in(data));
                bio.complete(result.and(copied), Some(self.started));
            }
            Place::Lent => *place = Place::Awaited(result),
            other => *place = other,
        }
    }
}

/// What a program gets that opens the device in vain; the log says more if it waited. Never `EROFS`: who is told so opens the
/// device again to read it, which helps nobody here.
fn errno_of_open(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NoSuchVolume => ENXIO,
        Refusal::NotPrimary => emediumtype(),
        // It is in use, there or here since an earlier time.
        Refusal::PeerPrimary | Refusal::DeviceOpen => EBUSY,
        Refusal::Interrupted => ERESTARTSYS,
        // Later it may work.
        _ => EAGAIN,
    }
}

fn errno(error: IoError) -> Error {
    match error {
        IoError::Disk | IoError::NoData | IoError::NoQuorum | IoError::Range => EIO,
        IoError::Unsupported => eopnotsupp(),
    }
}
