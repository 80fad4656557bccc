// SPDX-License-Identifier: GPL-2.0-only

//! The only caller of the engine.
//!
//! A [`Turn`] takes the engine's lock, feeds events and receives effects. What must keep its order is done at once:
//! packets are queued on their link. What may sleep or call back is noted and done without the lock: disk requests and
//! completions by this thread at the [`end`](Turn::end) of the turn, the rest by the resource's orders.

use crate::block::Request;
use crate::disk::{Disk, DiskRequest, Job, Patience};
use crate::error::Failure;
use crate::fifo::Fifo;
use crate::links::{Message, Sending};
use crate::resource::{Order, Resource, SessionEnd, Stalled, State, TIMER};
use crate::sys::bdev::Buffer;
use crate::sys::memory::{NoIo, NoWait};
use crate::sys::pages::Payload;
use crate::sys::random::random_u64;
use kernel::{
    prelude::*,
    str::CString,
    sync::{lock::mutex::MutexGuard, Arc},
};
use weft_engine::effect::{Data, Effect, IoError};
use weft_engine::event::{Cookie, DiskError, Event, Kept};
use weft_engine::host::{Host, NoMemory, Output, Time};
use weft_uapi::control::{Fence, Memory, MessageHeader, KERN_FENCE, KERN_KEEP, KERN_RECALL};
use weft_uapi::limits::{META_BLOCK_BYTES, NODES_MAX};
use weft_uapi::ondisk::MetaBlock;
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, SessionId, VolumeId};

/// The engine's host: this module.
pub(crate) struct Kernel;

impl Host for Kernel {
    type Request = Request;
    type Buffer = Payload;
    type Slab<T> = KVVec<T>;

    fn is_zero(buffer: &Payload) -> bool {
        buffer.is_zero()
    }

    fn slab<T>(len: usize, mut item: impl FnMut() -> T) -> Result<KVVec<T>, NoMemory> {
        let mut slab = KVVec::with_capacity(len, GFP_KERNEL).map_err(|_| NoMemory)?;
        for _ in 0..len {
            slab.push_within_capacity(item()).map_err(|_| NoMemory)?;
        }
        Ok(slab)
    }
}

/// What is done at the end of a turn, without the engine's lock.
pub(crate) enum Action {
    /// Work for a disk.
    Disk(Arc<Disk>, Job),
    /// A further part of such work.
    Request(DiskRequest, Buffer),
    /// The end of a request of an application.
    Complete(Request, Result<(), IoError>, Option<Payload>),
}

/// What the engine is to be told within the same turn.
pub(crate) enum Feedback {
    /// There was no disk for it.
    DiskGone(Cookie),
    /// As above, for metadata.
    MetaGone(Cookie),
}

/// How often at the end of a turn the ends of disk requests are taken that came meanwhile.
const TAKES_MAX: usize = 4;

/// For how long the engine is not told of a session that could not be offered, in milliseconds.
const UNOFFERED_MS: u64 = 1_000;

/// Sessions for whose links there was no memory. The engine is told later, since it answers with the next one.
pub(crate) struct Unoffered {
    sessions: [Option<SessionId>; NODES_MAX],
    due: Option<Time>,
}

impl Unoffered {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            sessions: [None; NODES_MAX],
            due: None,
        }
    }

    fn put(&mut self, now: Time, peer: NodeId, session: SessionId) {
        if let Some(place) = self.sessions.get_mut(peer.index()) {
            *place = Some(session);
            self.due.get_or_insert(now.after_ms(UNOFFERED_MS));
        }
    }

    /// Takes those out that the engine has to be told of now.
    fn take_due(&mut self, now: Time) -> [Option<SessionId>; NODES_MAX] {
        if self.due.is_none_or(|due| due > now) {
            return [None; NODES_MAX];
        }
        core::mem::replace(self, Self::new()).sessions
    }
}

/// The engine's lock, and what is to be done once it is released.
#[must_use]
pub(crate) struct Turn<'a> {
    resource: &'a Arc<Resource>,
    state: MutexGuard<'a, State>,
    actions: Fifo<Action>,
    now: Time,
    /// Who has the engine's lock must not wait for memory: writes that free some may wait for the lock.
    no_wait: NoWait,
    _no_io: NoIo,
}

impl<'a> Turn<'a> {
    /// Takes the engine's lock.
    pub(crate) fn begin(resource: &'a Arc<Resource>) -> Self {
        let no_io = NoIo::enter();
        let state = resource.state.lock();
        Self {
            resource,
            state,
            actions: Fifo::new(),
            now: resource.now(),
            no_wait: NoWait::enter(),
            _no_io: no_io,
        }
    }

    /// Whose turn it is.
    pub(crate) fn resource(&self) -> &'a Arc<Resource> {
        self.resource
    }

    /// Has something done at the end of the turn.
    pub(crate) fn later(&mut self, action: Action) {
        self.actions.push(&self.resource.actions, action);
    }

    /// Tells the engine of all disk requests that ended.
    pub(crate) fn take_done(&mut self) {
        for done in self.resource.done.take() {
            crate::disk::finish(self, done);
        }
    }

    /// What the lock protects.
    pub(crate) fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Feeds an event, and what its effects lead to at once.
    pub(crate) fn handle(&mut self, event: Event<'_, Kernel>) {
        let mut feedback = Fifo::new();
        self.handle_one(event, &mut feedback);
        while let Some(next) = feedback.pop() {
            let event = match next {
                Feedback::DiskGone(cookie) => Event::DiskDone {
                    cookie,
                    result: Err(DiskError),
                },
                Feedback::MetaGone(cookie) => Event::MetaDone {
                    cookie,
                    result: Err(DiskError),
                },
            };
            self.handle_one(event, &mut feedback);
        }
    }

    fn handle_one(&mut self, event: Event<'_, Kernel>, feedback: &mut Fifo<Feedback>) {
        let State { engine, rest, .. } = &mut *self.state;
        let mut collector = Collector {
            resource: self.resource,
            rest,
            actions: &mut self.actions,
            feedback,
            now: self.now,
        };
        engine.handle(self.now, event, &mut collector);
    }

    /// Feeds a request of an application, or keeps it until there is room.
    pub(crate) fn request(&mut self, request: Stalled) {
        if self.state.stalled.is_empty() && self.state.engine.has_room() {
            self.feed_request(request);
        } else {
            self.state.stalled.push(&self.resource.stalled, request);
        }
    }

    fn feed_stalled(&mut self) {
        while self.state.engine.has_room() {
            let Some(request) = self.state.stalled.pop() else {
                return;
            };
            self.feed_request(request);
        }
    }

    fn feed_request(&mut self, request: Stalled) {
        let Stalled {
            volume,
            request,
            io,
        } = request;
        self.handle(Event::Request {
            volume,
            request,
            io,
        });
    }

    /// A session ended by itself.
    pub(crate) fn session_down(&mut self, peer: NodeId, session: SessionId, reason: &str) {
        self.state.rest.sessions.end(peer, session);
        self.handle(Event::SessionDown {
            peer,
            session,
            reason,
        });
    }

    /// The timer went off. Its ticks are coarse: it may be early, and is set again then.
    pub(crate) fn disarm(&mut self) {
        self.state.armed = None;
    }

    /// Tells the engine that its time has come, if it has.
    pub(crate) fn expire(&mut self) {
        if self.state.armed.is_some_and(|armed| armed <= self.now) {
            self.state.armed = None;
        }
        let unoffered = self.state.rest.unoffered.take_due(self.now);
        for (peer, session) in NodeId::all().zip(unoffered) {
            if let Some(session) = session {
                let reason = "no memory for its links";
                self.handle(Event::SessionDown {
                    peer,
                    session,
                    reason,
                });
            }
        }
        let deadline = self.state.engine.deadline();
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            self.handle(Event::Timer);
        }
    }

    /// Releases the lock and does what is to be done; see [`Patience`].
    ///
    /// Who is in a hurry takes the ends of disk requests, too, if there are some at once: a disk in memory is done before its
    /// submission returns, and another thread would have to be woken for every one of them.
    pub(crate) fn end(self, patience: Patience) {
        let resource = self.resource;
        let (mut actions, sending) = self.release();
        // First of all: the peer's part takes longest.
        sending.begin();
        if patience == Patience::Wait {
            return carry_out(resource, &mut actions, patience);
        }
        for _ in 0..TAKES_MAX {
            let taking = resource.begin_taking();
            carry_out(resource, &mut actions, patience);
            drop(taking);
            if resource.done.is_empty() {
                return;
            }
            let mut turn = Turn::begin(resource);
            turn.take_done();
            let sending;
            (actions, sending) = turn.release();
            sending.begin();
        }
        carry_out(resource, &mut actions, patience);
        // It has other things to do.
        resource.wake();
    }

    /// Releases the lock; what is to be done and sent comes back.
    fn release(mut self) -> (Fifo<Action>, Sending) {
        self.feed_stalled();
        while let Some((peer, session, why)) = self.state.rest.sessions.take_broken() {
            self.handle(Event::SessionDown {
                peer,
                session,
                reason: why.text(),
            });
            // What the session held up may have made room.
            self.feed_stalled();
        }
        let State { engine, rest, .. } = &mut *self.state;
        for peer in engine.peers() {
            rest.sessions.set_room(peer, engine.has_peer_room(peer));
        }
        let sending = rest.sessions.sending();
        let wants_reads = engine.wants_reads();
        for volume in rest.volumes().iter().filter(|_| wants_reads) {
            if let Some(disk) = &volume.disk {
                engine.note_reads(volume.id, disk.reads());
            }
        }
        for volume in rest.volumes_mut() {
            volume.set_shortcut(engine.serves_reads(volume.id));
        }
        self.resource.set_mirrored(rest.sessions.any());
        self.resource.note_resyncing(engine.is_resyncing());
        self.arm();
        let Self {
            state,
            actions,
            no_wait,
            _no_io,
            ..
        } = self;
        drop((no_wait, state));
        (actions, sending)
    }

    /// Sets the timer to the engine's deadline, or to when it has to be told of what could not be offered.
    fn arm(&mut self) {
        let State { engine, rest, .. } = &*self.state;
        let deadlines = [engine.deadline(), rest.unoffered.due];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return;
        };
        // One that is set for earlier stays: most deadlines move with every write, and whoever comes too early sets it again.
        if self.state.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.state.armed = Some(deadline);
        if deadline <= self.now {
            self.resource.wake();
        } else {
            let nanoseconds = deadline.0.saturating_sub(self.now.0);
            self.resource
                .queue
                .run_in::<_, TIMER>(self.resource.as_arc_borrow(), nanoseconds);
        }
    }
}

/// Does what is to be done without the engine's lock.
fn carry_out(resource: &Arc<Resource>, actions: &mut Fifo<Action>, patience: Patience) {
    let _no_io = NoIo::enter();
    while let Some(action) = actions.pop() {
        match action {
            Action::Disk(disk, job) => {
                if patience == Patience::Hurry && !resource.done.is_empty() {
                    // The next disk may hold this thread up, and what ended must not wait for it.
                    resource.wake();
                }
                crate::disk::start(resource, disk, job, patience)
            }
            Action::Request(request, buffer) => crate::disk::go_on(resource, request, buffer),
            Action::Complete(request, result, data) => request.complete(result, data.as_ref()),
        }
    }
}

/// Receives the effects of one event.
struct Collector<'a> {
    resource: &'a Arc<Resource>,
    rest: &'a mut crate::resource::Rest,
    actions: &'a mut Fifo<Action>,
    feedback: &'a mut Fifo<Feedback>,
    now: Time,
}

impl Collector<'_> {
    fn disk(&mut self, volume: VolumeId, job: Job) {
        match self
            .rest
            .volume(volume)
            .and_then(|volume| volume.disk.clone())
        {
            Some(disk) => self
                .actions
                .push(&self.resource.actions, Action::Disk(disk, job)),
            None => {
                let feedback = match job {
                    Job::Io { cookie, .. } => Feedback::DiskGone(cookie),
                    Job::Meta { cookie, .. } => Feedback::MetaGone(cookie),
                };
                self.feedback.push(&self.resource.feedback, feedback);
            }
        }
    }

    fn meta(
        &mut self,
        volume: VolumeId,
        cookie: Cookie,
        sector: Sector,
        block: &MetaBlock,
        flush: bool,
    ) {
        match self.resource.memory.meta.alloc(META_BLOCK_BYTES) {
            Ok(mut pages) => {
                pages.fill(block);
                self.disk(
                    volume,
                    Job::Meta {
                        cookie,
                        sector,
                        block: pages.share(),
                        flush,
                    },
                );
            }
            Err(_) => self
                .feedback
                .push(&self.resource.feedback, Feedback::MetaGone(cookie)),
        }
    }

    fn offer(&mut self, peer: NodeId, session: SessionId) {
        let owner = Arc::new(SessionEnd(self.resource.clone()), GFP_KERNEL).map_err(Error::from);
        let offered = owner.and_then(|owner| self.rest.sessions.offer(peer, session, owner));
        if offered.is_err() {
            self.rest.unoffered.put(self.now, peer, session);
        }
    }

    /// Asks the daemon for what this tie-breaker has to know after a restart.
    fn ask(&self, kind: u32, volume: VolumeId, number: u64, kept: Kept) {
        let question = Memory {
            header: MessageHeader::of::<Memory>(kind),
            volume: volume.0.into(),
            reserved: 0,
            number,
            promised_term: kept.promised.0,
            generation: kept.generation.into(),
            resource: self.resource.padded_name(),
        };
        self.resource.host.offers.ask(Message::Memory(question));
    }

    /// Asks the daemon to have a peer fenced.
    fn fence(&self, peer: NodeId, number: u64) {
        let question = Fence {
            header: MessageHeader::of::<Fence>(KERN_FENCE),
            peer: peer.get().into(),
            outcome: 0,
            number,
            resource: self.resource.padded_name(),
        };
        self.resource.host.offers.ask(Message::Fence(question));
    }

    /// Tells who waits at the device of a volume how that ended.
    fn answer_door(&mut self, volume: VolumeId, result: Result<(), Refusal>) {
        if let Some(volume) = self.rest.volume_mut(volume) {
            volume.door = Some(result);
            self.resource.doors.notify_all();
        }
    }

    fn order(&self, order: Order) {
        self.resource.order(order);
    }
}

impl Output<Kernel> for Collector<'_> {
    fn emit(&mut self, effect: Effect<'_, Kernel>) {
        match effect {
            Effect::Disk {
                volume,
                cookie,
                io,
                data,
            } => self.disk(volume, Job::Io { cookie, io, data }),
            Effect::Meta {
                volume,
                cookie,
                sector,
                block,
                flush,
            } => self.meta(volume, cookie, sector, block, flush),
            Effect::Send {
                peer,
                session,
                link,
                header,
                body,
                data,
            } => {
                self.rest
                    .sessions
                    .send(peer, session, link, header, body, payload(data));
            }
            Effect::Complete {
                request,
                result,
                data,
            } => {
                self.actions.push(
                    &self.resource.actions,
                    Action::Complete(request, result, data),
                );
            }
            Effect::Offer { peer, session } => self.offer(peer, session),
            Effect::EndSession { peer, session } => self.rest.sessions.end(peer, session),
            Effect::Reply { token, result } => {
                self.order(Order::Replied {
                    token,
                    result: result.map_err(Failure::from),
                });
            }
            Effect::Recall { volume } => self.ask(KERN_RECALL, volume, 0, Kept::default()),
            Effect::Keep {
                volume,
                number,
                kept,
            } => self.ask(KERN_KEEP, volume, number, kept),
            Effect::Fence { peer, number } => self.fence(peer, number),
            Effect::Opened { volume, result } => self.answer_door(volume, result),
            Effect::Closed { volume } => self.answer_door(volume, Ok(())),
            Effect::Capacity { volume } => self.order(Order::Resize(volume)),
            Effect::Measure {
                volume,
                attach_id,
                layout,
            } => self.order(Order::Measure {
                volume,
                attach_id,
                layout,
            }),
            Effect::CloseDisk { volume } => {
                let closed = self.rest.volume_mut(volume).and_then(|volume| {
                    // Before the disk is given away: the shortcut must not be what keeps it open.
                    volume.set_shortcut(None);
                    volume.disk.take()
                });
                if let Some(disk) = closed {
                    self.order(Order::Close(disk));
                }
            }
            Effect::Notify(object) => {
                let line = self.rest.line.take();
                self.order(Order::Tell { object, line });
            }
            Effect::Log { level, line } => {
                self.rest
                    .log
                    .write(self.now, self.resource.name(), level, line);
                self.rest.line = CString::try_from_fmt(line).ok();
            }
        }
    }

    fn random(&mut self) -> u64 {
        random_u64()
    }
}

/// The data of a packet.
fn payload(data: Data<Kernel>) -> Option<Payload> {
    match data {
        Data::None => None,
        Data::Request(request) => request.payload().cloned(),
        Data::Buffer(buffer) => Some(buffer),
    }
}
