// SPDX-License-Identifier: GPL-2.0-only

//! One link of a session, and the file that the daemon holds of it.

use super::receive::{Progress, Receiver};
use super::send::{Packet, SendQueue};
use super::{DownReason, Session};
use crate::sys::file::{eproto, FileOps, PollQueue, Readiness};
use crate::sys::memory::{NoIo, NoWait};
use crate::sys::pipe::{PipeWriter, SpliceOps};
use kernel::{
    iov::IovIterSource,
    new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{ordering, Atomic},
        Arc, Mutex,
    },
};
use weft_uapi::wire::LinkKind;

/// One link of a session.
#[pin_data]
pub(super) struct Link {
    #[pin]
    pub(super) poll: PollQueue,
    /// Bytes in `outgoing`, readable without its lock.
    queued_bytes: Atomic<usize>,
    /// Whether data had no memory lately: nothing is taken until somebody may have given some back.
    is_starved: Atomic<bool>,
    #[pin]
    outgoing: Mutex<SendQueue>,
    /// Nobody before the link was accepted.
    #[pin]
    incoming: Mutex<Option<Receiver>>,
}

impl Link {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            poll <- PollQueue::new(c"weft_link", static_lock_class!()),
            queued_bytes: Atomic::new(0),
            is_starved: Atomic::new(false),
            outgoing <- new_mutex!(SendQueue::new()),
            incoming <- new_mutex!(None),
        }? Error)
    }

    /// Memory may have come back: lets a link that lacks some try again.
    pub(super) fn feed(&self) {
        if self.is_starved.load(ordering::Relaxed) && self.is_starved.xchg(false, ordering::Full) {
            self.poll.wake(Readiness::OUT);
        }
    }

    /// Bytes that the daemon has not fetched yet.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(ordering::Relaxed)
    }

    /// Queues a packet unless the session is down. Returns whether the daemon is to be woken for it: when the queue was
    /// empty. When it has taken only a part it is woken again, since it does not ask whether there is more.
    #[must_use]
    pub(super) fn enqueue(&self, session: &Session, packet: Packet) -> bool {
        let mut outgoing = self.outgoing.lock();
        // Looked at under the lock: what comes before the end is dropped by `hang_up`.
        if session.is_down() {
            return false;
        }
        let was_empty = outgoing.is_empty();
        outgoing.push(packet);
        self.queued_bytes.store(outgoing.bytes(), ordering::Relaxed);
        was_empty
    }

    /// The session is down: drops what is queued and wakes everybody.
    pub(super) fn hang_up(&self) {
        let mut outgoing = self.outgoing.lock();
        outgoing.clear();
        self.queued_bytes.store(0, ordering::Relaxed);
        drop(outgoing);
        self.poll
            .wake(Readiness::IN.and(Readiness::OUT).and(Readiness::HUP));
    }
}

/// What a link descriptor of the daemon refers to. It is read by splicing only: so nothing is copied to memory of the
/// daemon's, which may be long in coming, under a lock that the resource needs.
pub(crate) struct LinkFile {
    session: Arc<Session>,
    kind: LinkKind,
}

impl LinkFile {
    /// The file of a link that was accepted. May sleep.
    pub(super) fn new(session: Arc<Session>, kind: LinkKind) -> Result<Arc<Self>> {
        let receiver = Receiver::new(kind)?;
        *session.link(kind).incoming.lock() = Some(receiver);
        Ok(Arc::new(Self { session, kind }, GFP_KERNEL)?)
    }

    fn link(&self) -> &Link {
        self.session.link(self.kind)
    }

    /// Hands packets up until the bytes are used up or the resource has no room for another one.
    fn receive(&self, from: &mut IovIterSource<'_>) -> Result<usize, ReceiveStop> {
        let link = self.link();
        let mut incoming = link.incoming.lock();
        let incoming = (*incoming).as_mut().ok_or(ReceiveStop::Down)?;
        let mut taken: usize = 0;
        while !from.is_empty() {
            let Some(owner) = self.session.owner() else {
                return Err(ReceiveStop::Down);
            };
            if incoming.is_between_packets() && !self.session.may_receive(self.kind) {
                break;
            }
            let before = from.len();
            let progress = incoming.take(from).map_err(ReceiveStop::Broken)?;
            let count = before.saturating_sub(from.len());
            taken = taken.saturating_add(count);
            match progress {
                Progress::Packet(header, data) => {
                    owner.packet(
                        self.session.peer,
                        self.session.id,
                        self.kind,
                        header,
                        incoming.body(),
                        data,
                    );
                }
                // Whoever gave some back just before did not know that it was wanted: once more.
                Progress::Lacking if !link.is_starved.xchg(true, ordering::Full) => {}
                Progress::Lacking => return Ok(taken),
                Progress::Partial if count == 0 && taken == 0 => return Err(ReceiveStop::Fault),
                Progress::Partial if count == 0 => break,
                Progress::Partial => {}
            }
        }
        link.is_starved.store(false, ordering::Relaxed);
        Ok(taken)
    }
}

/// Why bytes of the daemon are not taken any more.
enum ReceiveStop {
    Down,
    Fault,
    Broken(DownReason),
}

impl FileOps for LinkFile {
    fn poll_queue(&self) -> &PollQueue {
        &self.link().poll
    }

    fn readiness(&self) -> Readiness {
        if self.session.is_down() {
            return Readiness::IN.and(Readiness::OUT).and(Readiness::HUP);
        }
        let readable = Readiness::IN.when(self.link().queued_bytes() != 0);
        let is_starved = self.link().is_starved.load(ordering::Acquire);
        readable.and(Readiness::OUT.when(!is_starved && self.session.may_receive(self.kind)))
    }

    fn write(&self, from: &mut IovIterSource<'_>) -> Result<usize> {
        let _no_io = NoIo::enter();
        let wanted = from.len();
        match self.receive(from) {
            Ok(0) if wanted != 0 => Err(EAGAIN),
            Ok(taken) => Ok(taken),
            Err(ReceiveStop::Down) => Err(EPIPE),
            Err(ReceiveStop::Fault) => Err(EFAULT),
            Err(ReceiveStop::Broken(reason)) => {
                self.session.fail(reason);
                Err(eproto())
            }
        }
    }

    fn release(&self) {
        self.session.fail(DownReason::LinkClosed);
    }
}

impl SpliceOps for LinkFile {
    fn splice_read(&self, pipe: &mut PipeWriter<'_, Self>, bytes_max: usize) -> Result<usize> {
        let link = self.link();
        let mut outgoing = link.outgoing.lock();
        if self.session.is_down() {
            return Ok(0);
        }
        if outgoing.is_empty() {
            return Err(EAGAIN);
        }
        // Packets are queued under the engine's lock: nobody who has this one may wait for memory.
        let _no_wait = NoWait::enter();
        let moved = outgoing.splice(pipe, bytes_max);
        let left = outgoing.bytes();
        link.queued_bytes.store(left, ordering::Relaxed);
        drop(outgoing);
        if left > 0 && moved.is_ok() {
            link.poll.wake(Readiness::IN);
        }
        moved
    }

    fn is_revoked(&self) -> bool {
        self.session.is_down()
    }
}
