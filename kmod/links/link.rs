// SPDX-License-Identifier: GPL-2.0-only

//! One link of a session, and the file that the daemon holds of it.

use super::arrived::Arrived;
use super::receive::{Halt, Progress, Receiver};
use super::send::{Packet, SendQueue, Sender};
use super::stream::{Stop, Stream};
use super::{DownReason, Session};
use crate::sys::file::{eproto, FileOps, PollQueue, Readiness};
use crate::sys::memory::{NoIo, NoWait};
use crate::sys::socket::{econnreset, enotconn, Socket};
use kernel::{
    new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{ordering, Atomic},
        Arc, Mutex,
    },
    uaccess::{UserPtr, UserSlice},
};
use weft_uapi::control::{LinkCarried, CARRIED_CLOSED, CARRIED_MORE, LINK_CARRY, LINK_TIE};
use weft_uapi::wire::{Header, LinkKind, HEADER_BYTES};
use zerocopy::IntoBytes;

/// Bytes that are sent or received in one call, about, before everybody else has a turn: so neither acknowledgements nor heartbeats
/// wait long behind bulk data, nor an application's thread for what others have queued.
const SHARE_BYTES: u64 = 1 << 20;

/// How much is read ahead of what is wanted: on the data link the header of the next packet, so that data are copied once; on the
/// meta link many packets.
const fn ahead_bytes(kind: LinkKind) -> usize {
    match kind {
        LinkKind::Data => HEADER_BYTES,
        LinkKind::Meta => 4096,
    }
}

/// One link of a session.
#[pin_data]
pub(super) struct Link {
    #[pin]
    pub(super) poll: PollQueue,
    /// Whether data had no memory lately: nothing is taken until somebody may have given some back.
    is_starved: Atomic<bool>,
    /// Nobody sends but the daemon's threads: when they hear that the connection takes something again, or because of
    /// `wants_carry`.
    is_full: Atomic<bool>,
    /// There is something to be sent, and no connection that reports when.
    wants_carry: Atomic<bool>,
    /// What turns queued and no sender has taken over. Held briefly, also under the engine's lock.
    #[pin]
    outgoing: Mutex<SendQueue>,
    /// Nobody before the link is tied to a connection. Held while packets are sent: never waited for by whoever has the engine's
    /// lock.
    #[pin]
    sender: Mutex<Option<Sender>>,
    /// Nobody before that.
    #[pin]
    incoming: Mutex<Option<Incoming>>,
}

/// The receiving end of a link.
struct Incoming {
    receiver: Receiver,
    stream: Stream,
    /// What was received and not handed up.
    arrived: Arrived,
    /// A packet behind those, whose body the receiver has.
    with_body: Option<Header>,
}

impl Link {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            poll <- PollQueue::new(c"weft_link", static_lock_class!()),
            is_starved: Atomic::new(false),
            is_full: Atomic::new(false),
            wants_carry: Atomic::new(false),
            outgoing <- new_mutex!(SendQueue::new()),
            sender <- new_mutex!(None),
            incoming <- new_mutex!(None),
        }? Error)
    }

    /// Memory may have come back: lets a link that lacks some try again.
    pub(super) fn feed(&self) {
        if self.is_starved.load(ordering::Relaxed) && self.is_starved.xchg(false, ordering::Full) {
            self.poll.wake(Readiness::OUT);
        }
    }

    /// Queues a packet unless the session is down; [`transmit`](Self::transmit) sends it.
    pub(super) fn enqueue(&self, session: &Session, packet: Packet) {
        let mut outgoing = self.outgoing.lock();
        // Looked at under the lock: what comes before the end is dropped by `hang_up`.
        if !session.is_down() {
            outgoing.push(packet);
        }
    }

    /// Sends what is queued, as far as that goes at once, unless somebody else is sending: he sends this, too. May sleep briefly; not
    /// under the engine's lock.
    pub(super) fn transmit(&self, session: &Session) {
        while !self.is_full.load(ordering::Acquire) {
            let Some(mut guard) = self.sender.try_lock() else {
                return;
            };
            let Some(sender) = &mut *guard else {
                return;
            };
            let sent = self.drain(session, sender);
            drop(guard);
            if sent.is_err_and(|error| error != EAGAIN) {
                self.wants_carry.store(true, ordering::Release);
                self.poll.wake(Readiness::OUT);
            }
            if session.is_down() {
                return self.clear();
            }
            // Whoever queued something meanwhile has found the sender busy.
            if self.outgoing.lock().is_empty() {
                return;
            }
        }
    }

    /// As [`transmit`](Self::transmit), for the daemon. Returns how many bytes the connection has taken since the beginning, and
    /// whether there is more to be sent at once; or why nothing ever will be.
    fn transmit_again(&self, session: &Session) -> Result<(u64, bool)> {
        let mut guard = self.sender.lock();
        let sender = (*guard).as_mut().ok_or_else(enotconn)?;
        self.wants_carry.store(false, ordering::Release);
        self.is_full.store(false, ordering::Release);
        let result = self.drain(session, sender);
        let sent = sender.sent();
        drop(guard);
        self.transmit(session);
        match result {
            Ok(()) => Ok((sent, false)),
            Err(error) if error == EAGAIN => Ok((sent, false)),
            Err(error) if error == EBUSY || error == ENOMEM => Ok((sent, true)),
            // The session is not over by that.
            Err(error) if error == EPIPE => Err(econnreset()),
            Err(error) => Err(error),
        }
    }

    /// Sends all there is, or says why not: `EBUSY` when the share is used up.
    fn drain(&self, session: &Session, sender: &mut Sender) -> Result {
        let _no_io = NoIo::enter();
        // Whoever waits for what is sent may have the memory.
        let _no_wait = NoWait::enter();
        let end = sender.sent().saturating_add(SHARE_BYTES);
        while !session.is_down() {
            if sender.queue.is_empty() {
                core::mem::swap(&mut sender.queue, &mut *self.outgoing.lock());
            }
            if sender.queue.is_empty() {
                break;
            }
            let sent = match sender.sent() < end {
                true => sender.send(),
                false => Err(EBUSY),
            };
            sent.inspect_err(|_| self.is_full.store(true, ordering::Release))?;
        }
        Ok(())
    }

    /// The session is down: drops what is queued, but for what somebody is sending, who does so afterwards.
    fn clear(&self) {
        if let Some(mut guard) = self.sender.try_lock() {
            if let Some(sender) = &mut *guard {
                sender.queue.clear();
            }
        }
        self.outgoing.lock().clear();
    }

    /// The session is down: drops what is queued and wakes everybody.
    pub(super) fn hang_up(&self) {
        self.clear();
        self.poll
            .wake(Readiness::IN.and(Readiness::OUT).and(Readiness::HUP));
    }
}

/// What a link descriptor of the daemon refers to.
pub(crate) struct LinkFile {
    session: Arc<Session>,
    kind: LinkKind,
}

impl LinkFile {
    /// The file of a link that was accepted. May sleep.
    pub(super) fn new(session: Arc<Session>, kind: LinkKind) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { session, kind }, GFP_KERNEL)?)
    }

    fn link(&self) -> &Link {
        self.session.link(self.kind)
    }

    /// Sends and receives on a connection from now on.
    fn tie(&self, descriptor: u32) -> Result {
        let socket = Arc::new(Socket::of_descriptor(descriptor)?, GFP_KERNEL)?;
        let incoming = Incoming {
            receiver: Receiver::new(self.kind)?,
            stream: Stream::new(socket.clone(), ahead_bytes(self.kind))?,
            arrived: Arrived::new(),
            with_body: None,
        };
        let link = self.link();
        let mut place = link.incoming.lock();
        if place.is_some() {
            return Err(EBUSY);
        }
        *place = Some(incoming);
        *link.sender.lock() = Some(Sender::new(socket));
        Ok(())
    }

    /// Lets the connection go.
    fn untie(&self) {
        let link = self.link();
        let incoming = link.incoming.lock().take();
        let sender = link.sender.lock().take();
        drop((incoming, sender));
    }

    /// Sends and receives as much as goes at once.
    fn carry(&self) -> Result<LinkCarried> {
        if self.session.is_down() {
            return Err(EPIPE);
        }
        let _no_io = NoIo::enter();
        let link = self.link();
        let sending = link.transmit_again(&self.session);
        // Also what came before a connection broke.
        let mut guard = link.incoming.lock();
        let incoming = (*guard).as_mut().ok_or_else(enotconn)?;
        let flags = match self.receive(incoming) {
            Ok(flags) => flags,
            Err(Halt::Stopped(Stop::Dry)) => 0,
            Err(Halt::Stopped(Stop::Closed)) => CARRIED_CLOSED,
            Err(Halt::Stopped(Stop::Failed(error))) => return Err(error),
            Err(Halt::Broken(reason)) => {
                self.session.fail(reason);
                return Err(eproto());
            }
        };
        let (sent, has_more) = sending?;
        Ok(LinkCarried {
            sent,
            received: incoming.stream.received(),
            flags: if has_more {
                flags | CARRIED_MORE
            } else {
                flags
            },
            reserved: 0,
        })
    }

    /// Receives and hands up packets until there are no more bytes, the share is used up, or the resource has no room for another
    /// packet.
    fn receive(&self, incoming: &mut Incoming) -> Result<u32, Halt> {
        incoming.stream.refresh();
        let end = incoming.stream.received().saturating_add(SHARE_BYTES);
        while self.session.may_receive(self.kind) {
            let collected = self.collect(incoming);
            let goes_on = self.hand_up(incoming);
            if !collected? || !goes_on {
                break;
            }
            if incoming.receiver.is_between_packets() && incoming.stream.received() >= end {
                return Ok(CARRIED_MORE);
            }
        }
        Ok(0)
    }

    /// Receives packets that the resource takes in one turn; `false`: there is no memory for another one.
    fn collect(&self, incoming: &mut Incoming) -> Result<bool, Halt> {
        let link = self.link();
        while incoming.with_body.is_none() && !incoming.arrived.is_full() {
            match incoming.receiver.take(&mut incoming.stream)? {
                Progress::Packet(header, None) if header.payload_len != 0 => {
                    incoming.with_body = Some(header);
                }
                Progress::Packet(header, data) => incoming.arrived.push(header, data),
                Progress::Partial => {}
                // Those that came have memory.
                Progress::Lacking if !incoming.arrived.is_empty() => break,
                // Whoever gave some back just before did not know that it was wanted: once more.
                Progress::Lacking if !link.is_starved.xchg(true, ordering::Full) => {}
                Progress::Lacking => return Ok(false),
            }
        }
        link.is_starved.store(false, ordering::Relaxed);
        Ok(true)
    }

    /// Hands up what was received; whether the resource takes more.
    fn hand_up(&self, incoming: &mut Incoming) -> bool {
        let (peer, id) = (self.session.peer, self.session.id);
        let may_go_on = || self.session.may_receive(self.kind);
        let Some(owner) = self.session.owner().filter(|_| may_go_on()) else {
            return false;
        };
        let arrived = &mut incoming.arrived;
        if !arrived.is_empty() {
            owner.packets(peer, id, self.kind, &mut || arrived.pop());
        }
        if !arrived.is_empty() || !may_go_on() {
            return false;
        }
        if let Some(header) = incoming.with_body.take() {
            owner.packet(peer, id, self.kind, header, incoming.receiver.body());
        }
        may_go_on()
    }
}

impl FileOps for LinkFile {
    fn poll_queue(&self) -> &PollQueue {
        &self.link().poll
    }

    fn readiness(&self) -> Readiness {
        if self.session.is_down() {
            return Readiness::IN.and(Readiness::OUT).and(Readiness::HUP);
        }
        let link = self.link();
        let is_starved = link.is_starved.load(ordering::Acquire);
        let may_receive = !is_starved && self.session.may_receive(self.kind);
        Readiness::OUT.when(may_receive || link.wants_carry.load(ordering::Acquire))
    }

    fn ioctl(&self, command: u32, argument: UserPtr) -> Result<usize> {
        match command {
            LINK_TIE => {
                let mut reader = UserSlice::new(argument, size_of::<u32>()).reader();
                self.tie(reader.read::<u32>()?)?;
            }
            LINK_CARRY => {
                let carried = self.carry()?;
                let mut writer = UserSlice::new(argument, size_of::<LinkCarried>()).writer();
                writer.write_slice(carried.as_bytes())?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn release(&self) {
        self.untie();
        self.session.fail(DownReason::LinkClosed);
    }
}
