// SPDX-License-Identifier: GPL-2.0-only

//! What a resource does in the slow queue, one thing after the other: actions of administrators, what follows from the
//! engine's replies, closing disks, sizes of devices, events.
//!
//! An action becomes a command of the engine; its answer waits under a token until the engine replied *and* what belongs
//! to the reply was done here, in order: whoever was told that a disk was detached finds it closed.

use super::down::Down;
use super::{Resource, Volume};
use crate::block::Device;
use crate::disk::attach::{attach, Backing, Loaded};
use crate::disk::{Disk, Issue, Patience};
use crate::error::Failure;
use crate::fifo::{Fifo, Place, Places};
use crate::netlink::{self, Answer, Known};
use crate::pump::Turn;
use crate::quota::Quota;
use crate::sys::gendisk::Gendisk;
use crate::sys::memory::{NoWait, Pool};
use crate::sys::work::SlowQueue;
use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, Mutex,
    },
    time::{delay::fsleep, Delta},
};
use weft_engine::effect::Object;
use weft_engine::event::{Command, Event, Token};
use weft_uapi::ondisk::Layout;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::status::Name;
use weft_uapi::units::{Minor, NodeId, VolumeId};

/// How often, and how many milliseconds apart, is looked whether reads past the engine have ended.
const LOOKS: usize = 250;
const LOOK_MS: i64 = 20;

/// Waits until something is not so any more, but not for long, since a disk that hangs must not hold other actions up.
/// Returns whether that came about.
fn is_soon_over(is_so: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if !is_so() {
            return true;
        }
        fsleep(Delta::from_millis(LOOK_MS));
    }
    false
}

/// One thing to do.
pub(crate) enum Order {
    /// An action of an administrator.
    Act(netlink::Action, Answer),
    /// The engine replied to a command.
    Replied {
        token: Token,
        result: Result<(), Failure>,
    },
    /// The size of a device changed.
    Resize(VolumeId),
    /// The engine wants to know how large a disk is.
    Measure {
        volume: VolumeId,
        attach_id: u64,
        layout: Layout,
    },
    /// Nothing uses the disk any more.
    Close(Arc<Disk>),
    /// An event for listeners.
    Tell {
        object: Object,
        line: Option<CString>,
    },
}

/// What is to be done, and who waits for replies of the engine.
#[pin_data]
pub(super) struct Orders {
    places: Places<Order>,
    /// Bounds each [`Order::Act`] in the queue.
    acts: Quota,
    /// Bounds each [`Order::Tell`] in the queue.
    tells: Quota,
    /// Whether there were more than [`TELLS_MAX`].
    missed: Atomic<bool>,
    #[pin]
    queue: Mutex<Fifo<Order>>,
    #[pin]
    waiters: Mutex<Waiters>,
    #[pin]
    known: Mutex<Known>,
}

/// Actions that wait for those before them at most; more are refused.
const ACTS_MAX: usize = 64;

/// Events that wait to be sent at most; of more, listeners only learn that they missed some.
const TELLS_MAX: usize = 256;

/// Orders that no volume leads to, at most: actions, events, and replies that are about the resource or its peers.
const ORDERS_RESERVED: usize = ACTS_MAX + TELLS_MAX + 64;

/// Orders that a volume leads to at most before more can come of actions: replies, sizes, and the end of its disk.
const VOLUME_ORDERS: usize = 8;

struct Waiters {
    last_token: u64,
    list: KVec<(Token, Waiter)>,
}

/// What follows a reply of the engine.
struct Waiter {
    /// What was replied to; `None`: the attach of a disk.
    command: Option<Command>,
    purpose: Purpose,
}

/// What a command was given for.
pub(super) enum Purpose {
    /// It is the action.
    Itself(Answer),
    /// It is a step of taking the resource down.
    Down(Down),
    /// As the first; this resource's resyncs are to wait for those of another one as well.
    After(Answer, Option<Name>),
    /// File systems are frozen for it.
    Freeze,
    /// It is the action, and ends that.
    Resume(Answer),
    /// Nobody waits for it.
    Nobody,
}

impl Orders {
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let places = Pool::new(i32::try_from(ORDERS_RESERVED)?)?;
        Ok(pin_init!(Self {
            places,
            acts: Quota::new(ACTS_MAX),
            tells: Quota::new(TELLS_MAX),
            missed: Atomic::new(false),
            queue <- new_mutex!(Fifo::new()),
            waiters <- new_mutex!(Waiters { last_token: 0, list: KVec::new() }),
            known <- new_mutex!(Known::new()),
        }))
    }

    /// Has the memory in reserve for all that so many volumes lead to at the same time. May sleep; not twice at the same
    /// time.
    pub(super) fn reserve(&self, volumes: usize) -> Result {
        let orders = volumes
            .saturating_mul(VOLUME_ORDERS)
            .saturating_add(ORDERS_RESERVED);
        self.places.grow(i32::try_from(orders)?)
    }

    /// Adds an order at the end, but no event beyond [`TELLS_MAX`].
    fn push(&self, order: Order) {
        if matches!(order, Order::Tell { .. }) && !self.tells.take() {
            self.missed.store(true, Relaxed);
            return;
        }
        let place = Place::new(&self.places, order);
        self.queue.lock().push_place(place);
    }

    fn pop(&self) -> Option<Order> {
        let order = self.queue.lock().pop()?;
        match order {
            Order::Act(..) => self.acts.give_back(),
            Order::Tell { .. } => self.tells.give_back(),
            _ => {}
        }
        Some(order)
    }

    /// Keeps a waiter until its reply comes; without memory for that it comes back.
    fn wait(&self, waiter: Waiter) -> Result<Token, Waiter> {
        let mut waiters = self.waiters.lock();
        if waiters.list.reserve(1, GFP_KERNEL).is_err() {
            return Err(waiter);
        }
        waiters.last_token = waiters.last_token.saturating_add(1);
        let token = Token(waiters.last_token);
        match waiters.list.push_within_capacity((token, waiter)) {
            Ok(()) => Ok(token),
            Err(error) => Err(error.0 .1),
        }
    }

    fn waiter(&self, token: Token) -> Option<Waiter> {
        let mut waiters = self.waiters.lock();
        let index = waiters.list.iter().position(|(other, _)| *other == token)?;
        waiters.list.remove(index).ok().map(|(_, waiter)| waiter)
    }
}

impl Resource {
    /// Carries an action out, later; never blocks. Refused when too many wait already, as they do while a disk hangs.
    pub(crate) fn act(self: &Arc<Self>, action: netlink::Action, answer: Answer) {
        if self.orders.acts.take() {
            self.order(Order::Act(action, answer));
        } else {
            Failure::from(Refusal::Busy).give(answer);
        }
    }

    /// Queues an order. Process context.
    pub(crate) fn order(self: &Arc<Self>, order: Order) {
        self.orders.push(order);
        SlowQueue::enqueue::<_, { super::SLOW }>(self.clone());
    }

    /// Closes a disk after the last read that went there past the engine; one that hangs is closed later.
    fn close_disk(self: &Arc<Self>, disk: Arc<Disk>) {
        if is_soon_over(|| disk.is_lent()) {
            drop(disk);
        } else {
            self.issue_later(Issue::Close(disk));
        }
    }

    /// Waits for reads that went past the engine before requests were suspended. What a disk that hangs still owes it does
    /// not wait for: nothing more is read from it.
    fn await_reads(&self) {
        is_soon_over(|| {
            // Who holds the lock has not let go of the shortcut yet.
            let state = self.state.lock();
            let mut disks = state
                .rest
                .volumes()
                .iter()
                .filter_map(|volume| volume.disk.as_ref());
            disks.any(|disk| disk.is_lent())
        });
    }

    pub(super) fn carry_out_orders(self: &Arc<Self>) {
        while let Some(order) = self.orders.pop() {
            match order {
                Order::Act(action, answer) => self.start(action, answer),
                Order::Replied { token, result } => {
                    if let Some(waiter) = self.orders.waiter(token) {
                        self.replied(waiter, result);
                    }
                }
                Order::Measure {
                    volume,
                    attach_id,
                    layout,
                } => self.measure(volume, attach_id, &layout),
                Order::Resize(volume) => self.resize(volume, 0),
                Order::Close(disk) => self.close_disk(disk),
                Order::Tell { object, line } => {
                    let line = line.as_ref().and_then(|line| line.to_str().ok());
                    self.announce(object, line);
                }
            }
        }
        if self.orders.missed.xchg(false, Full) {
            self.host.events.miss();
        }
    }

    fn start(self: &Arc<Self>, action: netlink::Action, answer: Answer) {
        use netlink::Action;
        if self.is_removed() {
            return Failure::from(Refusal::NoSuchResource).give(answer);
        }
        let command = match action {
            Action::NewDevice { volume, minor } => return self.new_device(volume, minor, answer),
            Action::Attach { volume, backing } => return self.attach(volume, &backing, answer),
            Action::NewPeer {
                peer,
                name,
                is_tie_breaker,
            } => {
                self.describe_peer(peer, name, is_tie_breaker);
                Command::NewPeer { peer }
            }
            Action::Remove => return self.remove(answer),
            Action::Down { force } => return self.go_down(Down::new(answer, force)),
            Action::Options { options, after } => {
                return self.set_options(options, after, answer);
            }
            Action::DelDevice { volume } => Command::DelDevice { volume },
            Action::Detach { volume } => Command::Detach { volume },
            Action::DelPeer { peer } => Command::DelPeer { peer },
            Action::Connect {
                peer,
                discard_my_data,
            } => Command::Connect {
                peer,
                discard_my_data,
            },
            Action::Disconnect { peer, force } => Command::Disconnect { peer, force },
            Action::Primary { force } => Command::Primary { force },
            Action::Secondary { force } => Command::Secondary { force },
            Action::Outdate => Command::Outdate,
            Action::NewGeneration => Command::NewGeneration,
            Action::Invalidate { volume, from } => Command::Invalidate { volume, from },
            Action::InvalidatePeer { volume, peer } => Command::InvalidatePeer { volume, peer },
            Action::PauseSync { peer } => Command::PauseSync { peer },
            Action::ResumeSync { peer } => Command::ResumeSync { peer },
            Action::Verify {
                volume,
                peer,
                wanted,
            } => Command::Verify {
                volume,
                peer,
                wanted,
            },
            Action::VerifyStop { volume, peer } => Command::VerifyStop { volume, peer },
            Action::Repair { volume, peer, from } => Command::Repair { volume, peer, from },
            Action::Resize { volume, growth } => Command::Resize { volume, growth },
            Action::SuspendIo { freezes } => return self.suspend(freezes, answer),
            Action::ResumeIo => return self.command(Command::ResumeIo, Purpose::Resume(answer)),
        };
        self.command(command, Purpose::Itself(answer));
    }

    /// Gives a command to the engine.
    pub(super) fn command(self: &Arc<Self>, command: Command, purpose: Purpose) {
        let waiter = Waiter {
            command: Some(command),
            purpose,
        };
        match self.orders.wait(waiter) {
            Ok(token) => self.feed(Event::Command { token, command }, Patience::Wait),
            Err(waiter) => self.replied(waiter, Err(Refusal::NoMemory.into())),
        }
    }

    /// The engine replied: does what belongs to it and answers.
    fn replied(self: &Arc<Self>, waiter: Waiter, result: Result<(), Failure>) {
        let Waiter { command, purpose } = waiter;
        match (command, &result) {
            (Some(Command::SuspendIo), Ok(())) => self.await_reads(),
            (Some(Command::NewDevice { volume, .. }), Err(_)) => self.drop_volume(volume),
            (Some(Command::DelDevice { volume }), Ok(())) => self.drop_volume(volume),
            _ => {}
        }
        match (purpose, result) {
            (Purpose::Itself(answer), Ok(())) => answer.give(Ok(())),
            (Purpose::Itself(answer) | Purpose::After(answer, _), Err(failure)) => {
                failure.give(answer);
            }
            (Purpose::After(answer, other), Ok(())) => self.let_wait(answer, other),
            (Purpose::Down(down), result) => self.went_down(down, result),
            (Purpose::Freeze, result) => self.on_suspended(result),
            (Purpose::Resume(answer), result) => self.on_resumed(answer, result),
            (Purpose::Nobody, _) => {}
        }
    }

    fn new_device(self: &Arc<Self>, volume: VolumeId, minor: Minor, answer: Answer) {
        match self.add_volume(volume, minor) {
            Ok(()) => {
                let command = Command::NewDevice { volume, minor };
                self.command(command, Purpose::Itself(answer));
            }
            Err(failure) => failure.give(answer),
        }
    }

    /// Makes the block device, which cannot be opened before the engine knows the volume.
    fn add_volume(self: &Arc<Self>, id: VolumeId, minor: Minor) -> Result<(), Failure> {
        if self.state.lock().rest.volume(id).is_some() {
            return Err(Failure::new(
                Refusal::VolumeExists,
                format_args!("Volume {id}."),
            ));
        }
        let lease = self.host.registry.lease(minor);
        let lease =
            lease.map_err(|refusal| Failure::new(refusal, format_args!("Minor {minor}.")))?;
        let failed = |_| Failure::new(Refusal::NoMemory, format_args!("/dev/weft{minor}."));
        let device = Device::new(self.clone(), id).map_err(failed)?;
        let gendisk = Gendisk::add(&self.host.major, minor.0, device.clone()).map_err(failed)?;
        let gendisk = Arc::new(gendisk, GFP_KERNEL).map_err(|_| Refusal::NoMemory)?;
        let volume = Volume {
            id,
            disk: None,
            device,
            gendisk,
            shortcut: None,
            door: None,
            _minor: lease,
        };
        let volumes = self.state.lock().rest.volumes.len();
        self.reserve(volumes.saturating_add(1)).map_err(failed)?;
        let mut state = self.state.lock();
        let _no_wait = NoWait::enter();
        let pushed = state.rest.volumes.push(volume, GFP_KERNEL);
        drop(state);
        pushed.map_err(|_| Refusal::NoMemory.into())
    }

    fn drop_volume(&self, id: VolumeId) {
        self.thaw_volume(id);
        let mut state = self.state.lock();
        let index = state.rest.volumes.iter().position(|volume| volume.id == id);
        let volume = index.and_then(|index| state.rest.volumes.remove(index).ok());
        drop(state);
        // Waits for the last users of the block device: not under the lock.
        drop(volume);
    }

    fn attach(self: &Arc<Self>, volume: VolumeId, backing: &Backing, answer: Answer) {
        let (disk, mut loaded) = match self.open_disk(volume, backing) {
            Ok(attached) => attached,
            Err(failure) => {
                pr_warn!(
                    "resource {}: volume {} not attached: {} {}\n",
                    self.name(),
                    volume.0,
                    failure.refusal.text(),
                    failure.detail()
                );
                return failure.give(answer);
            }
        };
        let waiter = Waiter {
            command: None,
            purpose: Purpose::Itself(answer),
        };
        let token = match self.orders.wait(waiter) {
            Ok(token) => token,
            Err(waiter) => return self.replied(waiter, Err(Refusal::NoMemory.into())),
        };
        let mut turn = Turn::begin(self);
        if let Some(place) = turn.state().rest.volume_mut(volume) {
            place.disk = Some(disk);
        }
        turn.handle(Event::Attach {
            token,
            volume,
            disk: &mut loaded,
        });
        turn.end(Patience::Wait);
    }

    /// Opens a disk, reads its metadata, and adapts the volume's device to it.
    fn open_disk(
        self: &Arc<Self>,
        volume: VolumeId,
        backing: &Backing,
    ) -> Result<(Arc<Disk>, Loaded), Failure> {
        let node = self.may_attach(volume)?;
        let (disk, loaded) = attach(self, (node, volume), backing)?;
        let state = self.state.lock();
        let gendisk = state.rest.volume(volume).map(|it| it.gendisk.clone());
        let info = state.engine.volume_info(volume, self.now());
        drop(state);
        let gendisk = gendisk.ok_or(Refusal::NoSuchVolume)?;
        let unfit = || Failure::new(Refusal::DiskUnfit, format_args!("Volume {volume}."));
        match info.filter(|info| info.open_count > 0) {
            None => gendisk
                .set_limits(disk.data(), disk.block_bytes())
                .map_err(|_| unfit())?,
            // A client's device is in use: it stays as its server's disk demands, which demands no less.
            Some(info) if info.block_bytes == disk.block_bytes() => {}
            Some(_) => return Err(unfit()),
        }
        Ok((disk, loaded))
    }

    /// Whether the volume exists and has no disk, and nothing but a peer is behind it if it can be open; returns this
    /// node's id.
    fn may_attach(&self, volume: VolumeId) -> Result<NodeId, Failure> {
        let refuse = |refusal| Failure::new(refusal, format_args!("Volume {volume}."));
        self.with_engine(|engine, now| {
            let info = engine
                .volume_info(volume, now)
                .ok_or_else(|| refuse(Refusal::NoSuchVolume))?;
            if info.disk_state != DiskState::Diskless.number() {
                return Err(refuse(Refusal::DiskAttached));
            }
            if engine.resource_info(now).role == Role::Primary.number() && !engine.is_client() {
                return Err(refuse(Refusal::IsPrimary));
            }
            NodeId::new(engine.resource_info(now).node_id).ok_or_else(|| refuse(Refusal::Internal))
        })
    }

    /// Gives the device the size of the data behind it, and if it was opened no more often than `opens`, the limits that come
    /// with that. Process context; may sleep.
    pub(super) fn resize(&self, volume: VolumeId, opens: u32) {
        let state = self.state.lock();
        let Some(place) = state.rest.volume(volume) else {
            return;
        };
        let gendisk = place.gendisk.clone();
        let has_disk = place.disk.is_some();
        let info = state.engine.volume_info(volume, self.now());
        drop(state);
        // A device whose data are on peers only has the limits of no disk, and the peers' blocks. They stay once it is open.
        let block_bytes = info.filter(|info| !has_disk && info.open_count <= opens);
        let block_bytes = block_bytes.map_or(0, |info| info.block_bytes);
        if block_bytes > 0 && gendisk.set_limits_alone(block_bytes).is_err() {
            pr_warn!(
                "resource {}: volume {}: blocks of {} bytes are not possible\n",
                self.name(),
                volume.0,
                block_bytes
            );
        }
        let mut sectors = info.map_or(0, |info| info.sectors);
        loop {
            gendisk.set_sectors(sectors);
            // Of several that do this at the same time the last one has to have looked last.
            let info = self.with_engine(|engine, now| engine.volume_info(volume, now));
            match info.map(|info| info.sectors) {
                Some(newer) if newer != sectors => sectors = newer,
                _ => return,
            }
        }
    }

    /// Looks how large a disk is, and gets the memory that a larger one needs.
    #[inline(never)]
    fn measure(self: &Arc<Self>, volume: VolumeId, attach_id: u64, layout: &Layout) {
        let state = self.state.lock();
        let disk = state.rest.volume(volume).and_then(|it| it.disk.clone());
        drop(state);
        // Without a disk nobody waits for an answer.
        let Some(disk) = disk else {
            return;
        };
        let mut room = disk.find_room(layout);
        drop(disk);
        let mut turn = Turn::begin(self);
        turn.handle(Event::Measured {
            volume,
            attach_id,
            room: room.as_mut().map_err(|refusal| *refusal),
        });
        turn.end(Patience::Wait);
    }

    fn describe_peer(&self, peer: NodeId, name: Name, is_tie_breaker: bool) {
        let mut state = self.state.lock();
        let is_new = state.engine.peers().all(|other| other != peer);
        if !is_new {
            return;
        }
        let others = state.rest.tie_breakers.without(peer);
        state.rest.tie_breakers = if is_tie_breaker {
            others.with(peer)
        } else {
            others
        };
        if let Some(place) = state.rest.peer_names.get_mut(peer.index()) {
            *place = name;
        }
    }

    /// Forgets the resource if it is empty. After that it only waits for its last references to go.
    pub(super) fn remove(self: &Arc<Self>, answer: Answer) {
        if let Err(refusal) = self.with_engine(|engine, _| engine.may_remove()) {
            return Failure::from(refusal).give(answer);
        }
        self.host.registry.remove(self);
        let in_use = self.state.lock().rest.in_use.take();
        self.announce(Object::Resource, None);
        self.queue
            .cancel::<_, { super::TIMER }>(self.as_arc_borrow());
        drop(in_use);
        answer.give(Ok(()));
    }

    /// Whether the resource was removed and only waits for its last references to go.
    pub(crate) fn is_removed(&self) -> bool {
        self.state.lock().rest.in_use.is_none()
    }

    fn announce(&self, object: Object, line: Option<&str>) {
        self.host
            .events
            .send(&mut self.orders.known.lock(), self, object, line);
    }
}
