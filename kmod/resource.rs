// SPDX-License-Identifier: GPL-2.0-only

//! A resource: its engine, and everything that the engine needs around it.
//!
//! | what | where it runs |
//! |---|---|
//! | requests of applications, packets of peers | in the caller's thread |
//! | ends of disk requests, the engine's timer | the resource's queue for ends, which never waits for memory |
//! | disk requests that have to wait, bios that waited | the resource's issuing queue, which waits for disks' queues only |
//! | actions of administrators and what follows from them, closing disks, sizes, events | the module's slow queue, in order |
//!
//! Whatever lacks memory for data there is tried again a little later: who has that memory may wait for the same queue.
//!
//! Lock order: engine → orders, issues. Nothing that may wait for a request of ours is done under the engine's lock, and
//! what is allocated under it comes from reserves as large as the engine's own bounds (`Resource::reserve`).
//!
//! A resource is freed when the last reference goes: the registry's, its devices', its disks', its sessions', and those
//! of queued work. Removing it drops the first; the others belong to things that were removed before.

mod down;
mod freeze;
mod memory;
mod opening;
mod orders;
mod session;
mod taker;
mod turn;

use crate::block::{AppRequest, Device, Request};
use crate::disk::{Disk, DiskRequest, Issue, Patience};
use crate::fifo::{Fifo, Place, Places};
use crate::host::Host;
use crate::links::{Answer, Sessions};
use crate::log::Log;
use crate::pump::{Action, Feedback, Kernel, Turn, Unoffered};
use crate::quota::Quota;
use crate::registry::MinorLease;
use crate::sys::bdev::{DoneList, Sink};
use crate::sys::bio::{Bio, BioStack};
use crate::sys::gendisk::Gendisk;
use crate::sys::memory::Pool;
use crate::sys::module::ModuleRef;
use crate::sys::work::OrderedQueue;
use freeze::Freezer;
use kernel::{
    new_condvar, new_delayed_work, new_mutex, new_work,
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, ArcBorrow, CondVar, Mutex,
    },
    time::{ClockSource, Monotonic},
    workqueue::{DelayedWork, Work, WorkItem},
};
use memory::{Memory, VOLUME_BLOCKS};
pub(crate) use orders::Order;
use orders::Orders;
pub(crate) use session::SessionEnd;
use taker::{Taker, Taking};
use turn::Turns;
use weft_engine::effect::Object;
use weft_engine::event::{Event, Io, Kept, Options};
use weft_engine::host::Time;
use weft_engine::quorum::Quorum;
use weft_engine::{AutoPromotion, Config, Engine};
use weft_uapi::control::{self, name_of, Fence, KEPT, RECALLED};
use weft_uapi::limits::{NODES_MAX, PATH_MAX};
use weft_uapi::ondisk::AL_EXTENTS;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{FenceOutcome, Protocol};
use weft_uapi::status::Name;
use weft_uapi::units::{NodeId, NodeSet, Term, VolumeId};

/// Requests of applications in flight at most; more wait in the order of their arrival.
const REQUESTS_MAX: usize = 512;

/// Items of a kind that are to be had whatever happens, where the number that can be needed is not known.
const RESERVED: i32 = 64;

/// After how long that is tried again which lacked memory, in milliseconds.
pub(crate) const RETRY_MS: u32 = 100;

/// Operations of a volume that the engine has in flight at most besides those of applications here: of peers (256), of
/// clients (128), flushes and metadata.
const VOLUME_OPS: usize = 448;

/// A resource on this node.
#[pin_data]
pub(crate) struct Resource {
    name: Name,
    pub(crate) host: Arc<Host>,
    pub(crate) memory: Memory,
    pub(crate) requests: Arc<Pool<AppRequest>>,
    pub(crate) actions: Places<Action>,
    pub(crate) feedback: Places<Feedback>,
    pub(crate) stalled: Places<Stalled>,
    issue_places: Places<Issue>,
    pub(crate) queue: OrderedQueue,
    issuing: OrderedQueue,
    pub(crate) done: DoneList<Resource>,
    /// Who looks at `done` by itself.
    taker: Taker,
    /// Reads that failed on the way past the engine.
    refused: BioStack,
    /// Requests of applications in flight.
    admitted: Quota,
    /// Whether a bio waits on one of the devices.
    waiting: Atomic<bool>,
    /// The volume, or the next one after it, whose waiting bios come first.
    first_waiting: Atomic<u32>,
    /// Whether a session runs.
    mirrored: Atomic<bool>,
    turns: Turns,
    #[pin]
    pub(crate) state: Mutex<State>,
    /// Who waits for [`Volume::door`].
    #[pin]
    pub(crate) doors: CondVar,
    #[pin]
    orders: Orders,
    #[pin]
    issues: Mutex<Fifo<Issue>>,
    /// What lacked memory.
    #[pin]
    later: Mutex<Fifo<Issue>>,
    /// Whether `retry` is going to run.
    is_retry_set: Atomic<bool>,
    #[pin]
    retry: DelayedWork<Resource, RETRY>,
    #[pin]
    issue_work: Work<Resource, ISSUE>,
    #[pin]
    work: Work<Resource, WORK>,
    #[pin]
    timer: DelayedWork<Resource, TIMER>,
    #[pin]
    slow_work: Work<Resource, SLOW>,
    #[pin]
    turn_work: Work<Resource, TURN>,
    #[pin]
    freezer: Mutex<Freezer>,
    #[pin]
    freeze_work: Work<Resource, FREEZE>,
}

/// Number of the work item for ends of disk requests.
pub(crate) const WORK: u64 = 0;
/// Number of the work item for the engine's timer.
pub(crate) const TIMER: u64 = 1;
/// Number of the work item for orders.
const SLOW: u64 = 2;
/// Number of the work item for what has to wait.
const ISSUE: u64 = 3;
/// Number of the work item for what lacked memory.
const RETRY: u64 = 4;
/// Number of the work item for whose resyncs come first.
const TURN: u64 = 5;
/// Number of the work item for file systems that are frozen.
const FREEZE: u64 = 6;

kernel::impl_has_work! {
    impl HasWork<Self, WORK> for Resource { self.work }
    impl HasWork<Self, SLOW> for Resource { self.slow_work }
    impl HasWork<Self, ISSUE> for Resource { self.issue_work }
    impl HasWork<Self, TURN> for Resource { self.turn_work }
    impl HasWork<Self, FREEZE> for Resource { self.freeze_work }
}
kernel::impl_has_delayed_work! {
    impl HasDelayedWork<Self, TIMER> for Resource { self.timer }
    impl HasDelayedWork<Self, RETRY> for Resource { self.retry }
}

/// What is serialised by the engine's lock.
pub(crate) struct State {
    pub(crate) engine: Engine<Kernel>,
    pub(crate) rest: Rest,
    /// Requests for which the engine had no room.
    pub(crate) stalled: Fifo<Stalled>,
    /// When the timer is due.
    pub(crate) armed: Option<Time>,
}

/// What the engine's effects work on.
pub(crate) struct Rest {
    pub(crate) sessions: Sessions,
    pub(crate) unoffered: Unoffered,
    pub(crate) log: Log,
    /// The last line of the log that no event has carried yet.
    pub(crate) line: Option<CString>,
    volumes: KVec<Volume>,
    peer_names: KVec<Name>,
    /// Peers that keep no disk and only vote.
    tie_breakers: NodeSet,
    /// Gone once the resource was removed.
    in_use: Option<ModuleRef>,
}

/// A volume with its device and its disk.
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    pub(crate) disk: Option<Arc<Disk>>,
    device: Arc<Device>,
    gendisk: Arc<Gendisk<Device>>,
    /// Size of the device, while its reads go past the engine.
    pub(crate) shortcut: Option<u64>,
    /// How an open or a close ended that waits.
    pub(crate) door: Option<Result<(), Refusal>>,
    _minor: MinorLease,
}

impl Volume {
    /// Lets reads go past the engine to the disk, whose data fill so many sectors; or not any more.
    pub(crate) fn set_shortcut(&mut self, sectors: Option<u64>) {
        if self.shortcut == sectors {
            return;
        }
        let disk = self.disk.clone();
        self.shortcut = sectors.filter(|_| disk.is_some());
        self.device.set_shortcut(disk.zip(self.shortcut));
    }
}

/// A request for which the engine had no room.
pub(crate) struct Stalled {
    pub(crate) volume: VolumeId,
    pub(crate) request: Request,
    pub(crate) io: Io,
}

impl Rest {
    /// The volume, if it exists.
    pub(crate) fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.id == id)
    }

    /// All volumes.
    pub(crate) fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// All volumes, to be changed.
    pub(crate) fn volumes_mut(&mut self) -> &mut [Volume] {
        &mut self.volumes
    }

    /// The volume, if it exists.
    pub(crate) fn volume_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.volumes.iter_mut().find(|volume| volume.id == id)
    }
}

impl Resource {
    /// A resource without volumes and peers, not yet known to anybody. May sleep.
    #[inline(never)] // Its parts lie on the stack before they are put together.
    pub(crate) fn new(
        host: Arc<Host>,
        name: Name,
        node: NodeId,
        options: Options,
        is_tie_breaker: bool,
    ) -> Result<Arc<Self>> {
        let memory = Memory::new()?;
        let engine = Engine::new(Config {
            name,
            node,
            protocol: options.protocol.unwrap_or(Protocol::C),
            quorum: Quorum {
                voters: options.voters.unwrap_or_default(),
                on_lost: options.on_no_quorum.unwrap_or_default(),
            },
            fencing: options.fencing.unwrap_or_default(),
            policies: Policies {
                none: options.split_brain_0.unwrap_or_default(),
                one: options.split_brain_1.unwrap_or_default(),
            },
            two_primaries: options.two_primaries.unwrap_or(false),
            speed: options.speed(Speed::default()),
            congestion: options.congestion(Default::default()),
            csums: options.csums.unwrap_or(false),
            auto_promotion: AutoPromotion::of(&options),
            is_tie_breaker,
            requests_max: REQUESTS_MAX,
            al_extents: AL_EXTENTS,
        })
        .map_err(|_| ENOMEM)?;
        let rest = Rest {
            sessions: Sessions::new(name, node, host.offers.clone()),
            unoffered: Unoffered::new(),
            log: Log::new(),
            line: None,
            volumes: KVec::new(),
            peer_names: KVec::from_elem([0; NAME_BYTES], NODES_MAX, GFP_KERNEL)?,
            tie_breakers: NodeSet::EMPTY,
            in_use: Some(ModuleRef::get()?),
        };
        let state = State {
            engine,
            rest,
            stalled: Fifo::new(),
            armed: None,
        };
        let queue = CString::try_from_fmt(fmt!("weft_{}", name_of(&name).unwrap_or("")))?;
        let issuing = CString::try_from_fmt(fmt!("weft_{}_io", name_of(&name).unwrap_or("")))?;
        let resource = try_pin_init!(Self {
            name,
            host,
            memory,
            requests: Pool::new(REQUESTS_MAX as i32)?,
            actions: Pool::new(operations(1)?)?,
            feedback: Pool::new(RESERVED)?,
            stalled: Pool::new(REQUESTS_MAX as i32)?,
            issue_places: Pool::new(operations(1)?)?,
            queue: OrderedQueue::new(&queue)?,
            issuing: OrderedQueue::new(&issuing)?,
            done: DoneList::new(),
            taker: Taker::new(),
            refused: BioStack::new(),
            admitted: Quota::new(REQUESTS_MAX),
            waiting: Atomic::new(false),
            first_waiting: Atomic::new(0),
            mirrored: Atomic::new(false),
            turns: Turns::new(),
            state <- new_mutex!(state),
            doors <- new_condvar!(),
            orders <- Orders::new()?,
            issues <- new_mutex!(Fifo::new()),
            later <- new_mutex!(Fifo::new()),
            is_retry_set: Atomic::new(false),
            retry <- new_delayed_work!("weft_retry"),
            issue_work <- new_work!("weft_issue_work"),
            work <- new_work!("weft_work"),
            timer <- new_delayed_work!("weft_timer"),
            slow_work <- new_work!("weft_slow_work"),
            turn_work <- new_work!("weft_turn_work"),
            freezer <- new_mutex!(Freezer::new()),
            freeze_work <- new_work!("weft_freeze_work"),
        }? Error);
        Arc::pin_init(resource, GFP_KERNEL)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        name_of(&self.name).unwrap_or("")
    }

    /// Its name, padded with zeros.
    pub(crate) fn padded_name(&self) -> Name {
        self.name
    }

    /// The time by the engine's clock, which is `CLOCK_MONOTONIC`.
    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(Monotonic::ktime_get()).unwrap_or(0))
    }

    /// Looks at the engine. Takes its lock.
    pub(crate) fn with_engine<R>(&self, look: impl FnOnce(&Engine<Kernel>, Time) -> R) -> R {
        look(&self.state.lock().engine, self.now())
    }

    /// Paths of the disk and of the metadata device (or `internal`), padded with zeros; `None` without disk.
    pub(crate) fn volume_paths(
        &self,
        volume: VolumeId,
    ) -> Option<([u8; PATH_MAX + 1], [u8; PATH_MAX + 1])> {
        self.state
            .lock()
            .rest
            .volume(volume)?
            .disk
            .as_ref()
            .map(|disk| disk.paths())
    }

    /// Sectors of a volume that were read without the engine's knowledge.
    pub(crate) fn sectors_read(&self, volume: VolumeId) -> u64 {
        let state = self.state.lock();
        let volume = state.rest.volume(volume);
        volume.map_or(0, |volume| volume.device.sectors_read())
    }

    /// Begins reads again that failed on the way past the engine.
    fn take_refused(&self) {
        let mut refused = self.refused.take();
        while let Some(bio) = refused.pop() {
            let state = self.state.lock();
            let mut volumes = state.rest.volumes.iter();
            let asked = volumes.find(|volume| volume.gendisk.is_asked(&bio));
            let device = asked.map(|volume| volume.device.clone());
            drop(state);
            if let Some(device) = device {
                device.take_back(bio);
            }
        }
    }

    /// Name of a peer; empty if none was given.
    pub(crate) fn peer_name(&self, peer: NodeId) -> Name {
        self.state
            .lock()
            .rest
            .peer_names
            .get(peer.index())
            .copied()
            .unwrap_or([0; NAME_BYTES])
    }

    /// Whether a peer keeps no disk and only votes.
    pub(crate) fn is_tie_breaker(&self, peer: NodeId) -> bool {
        self.state.lock().rest.tie_breakers.contains(peer)
    }

    /// Has the memory in reserve that the engine's bounds imply for so many volumes. May sleep; not twice at the same
    /// time.
    fn reserve(&self, volumes: usize) -> Result {
        let operations = operations(volumes)?;
        self.actions.grow(operations)?;
        self.issue_places.grow(operations)?;
        self.orders.reserve(volumes)?;
        let blocks = usize::from(VOLUME_BLOCKS).saturating_mul(volumes);
        self.memory.meta.grow(u16::try_from(blocks)?)
    }

    /// Feeds one event to the engine and carries out what follows. Process context.
    pub(crate) fn feed(self: &Arc<Self>, event: Event<'_, Kernel>, patience: Patience) {
        let mut turn = Turn::begin(self);
        turn.handle(event);
        turn.end(patience);
    }

    /// Gives a request of an application to the engine, or keeps it until there is room.
    pub(crate) fn request(self: &Arc<Self>, volume: VolumeId, request: Request, io: Io) {
        let mut turn = Turn::begin(self);
        turn.request(Stalled {
            volume,
            request,
            io,
        });
        turn.end(Patience::Wait);
    }

    /// The daemon came, went, or told which nodes it reaches.
    pub(crate) fn daemon_changed(self: &Arc<Self>, served: bool, connected: NodeSet) {
        self.feed(Event::Daemon { served, connected }, Patience::Hurry);
    }

    /// The daemon answered a question of the engine. One that does not make sense is ignored.
    pub(crate) fn daemon_answered(self: &Arc<Self>, answer: &Answer) {
        let event = match answer {
            Answer::Memory(memory) => remembered(memory),
            Answer::Fence(fence) => fenced(fence),
        };
        if let Some(event) = event {
            self.feed(event, Patience::Hurry);
        }
    }

    /// Sends an event about an object, later and in order.
    pub(crate) fn tell(self: &Arc<Self>, object: Object) {
        self.order(Order::Tell { object, line: None });
    }

    /// Whether one more request may be in flight; then it is, until [`dismiss`](Self::dismiss).
    pub(crate) fn admit(&self) -> bool {
        self.admitted.take()
    }

    /// A request is not in flight any more. Any context.
    pub(crate) fn dismiss(self: &Arc<Self>) {
        self.admitted.give_back();
        if self.waiting.load(Relaxed) {
            self.wake_issuing();
        }
    }

    /// A bio waits on a device.
    pub(crate) fn has_waiting(self: &Arc<Self>) {
        self.waiting.xchg(true, Full);
        // Perhaps the last request ended just before.
        if self.admitted.has_room() {
            self.wake_issuing();
        }
    }

    /// Whether data are sent to a peer.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.mirrored.load(Relaxed)
    }

    /// Notes whether data are sent to a peer.
    pub(crate) fn set_mirrored(&self, mirrored: bool) {
        self.mirrored.store(mirrored, Relaxed);
    }

    /// The calling thread takes the ends of what it submits until the answer is dropped, and looks at `done` then.
    pub(crate) fn begin_taking(&self) -> Taking<'_> {
        self.taker.begin()
    }

    /// Lets [`run`](WorkItem::run) of the resource's own queue happen. Any context.
    pub(crate) fn wake(self: &Arc<Self>) {
        self.queue.enqueue::<_, WORK>(self.clone());
    }

    /// Leaves something that has to wait to the issuing queue.
    pub(crate) fn issue(self: &Arc<Self>, issue: Issue) {
        let place = Place::new(&self.issue_places, issue);
        self.issues.lock().push_place(place);
        self.wake_issuing();
    }

    /// Leaves something that lacked memory to the issuing queue, to be tried again.
    pub(crate) fn issue_later(self: &Arc<Self>, issue: Issue) {
        let place = Place::new(&self.issue_places, issue);
        self.later.lock().push_place(place);
        self.retry_soon();
    }

    /// There was no memory for a bio that waits on a device.
    pub(crate) fn has_starved(self: &Arc<Self>) {
        self.waiting.xchg(true, Full);
        self.retry_soon();
    }

    fn retry_soon(self: &Arc<Self>) {
        if !self.is_retry_set.xchg(true, Full) {
            let nanoseconds = u64::from(RETRY_MS).saturating_mul(1_000_000);
            self.issuing
                .run_in::<_, RETRY>(self.as_arc_borrow(), nanoseconds);
        }
    }

    fn retry(self: &Arc<Self>) {
        self.is_retry_set.xchg(false, Full);
        let mut later = core::mem::replace(&mut *self.later.lock(), Fifo::new());
        while let Some(issue) = later.pop() {
            self.issue(issue);
        }
        self.wake_issuing();
    }

    fn wake_issuing(self: &Arc<Self>) {
        self.issuing.enqueue::<_, ISSUE>(self.clone());
    }

    fn next_issue(&self) -> Option<Issue> {
        self.issues.lock().pop()
    }

    fn start_waiting(&self) {
        if !self.waiting.xchg(false, Full) {
            return;
        }
        let first = self.first_waiting.load(Relaxed);
        for range in [first..u32::MAX, 0..first] {
            let mut from = range.start;
            while let Some((id, device)) = self.device_from(from).filter(|(id, _)| *id < range.end)
            {
                from = id.saturating_add(1);
                if device.start_waiting() {
                    // It took what room there was: next time it is another device's turn.
                    return self.first_waiting.store(from, Relaxed);
                }
            }
        }
    }

    /// The device with the lowest volume id from `id` on.
    fn device_from(&self, id: u32) -> Option<(u32, Arc<Device>)> {
        let state = self.state.lock();
        let volumes = state.rest.volumes.iter();
        volumes
            .map(|volume| (u32::from(volume.id.0), volume))
            .filter(|(other, _)| *other >= id)
            .min_by_key(|(other, _)| *other)
            .map(|(other, volume)| (other, volume.device.clone()))
    }
}

/// Disk operations and completions that can be on their way at the same time with so many volumes.
fn operations(volumes: usize) -> Result<i32> {
    let most = volumes
        .saturating_mul(VOLUME_OPS)
        .saturating_add(2 * REQUESTS_MAX);
    Ok(i32::try_from(most)?)
}

fn remembered<'a>(memory: &control::Memory) -> Option<Event<'a, Kernel>> {
    let volume = VolumeId(u16::try_from(memory.volume).ok()?);
    match memory.header.kind {
        KEPT => Some(Event::Kept {
            volume,
            number: memory.number,
        }),
        RECALLED => Some(Event::Recalled {
            volume,
            kept: Kept {
                promised: Term(memory.promised_term),
                generation: memory.generation.decode()?,
            },
        }),
        _ => None,
    }
}

fn fenced<'a>(fence: &Fence) -> Option<Event<'a, Kernel>> {
    Some(Event::Fenced {
        peer: NodeId::new(fence.peer)?,
        number: fence.number,
        outcome: FenceOutcome::from_number(fence.outcome)?,
    })
}

const NAME_BYTES: usize = size_of::<Name>();

impl Sink for Resource {
    type Context = DiskRequest;

    fn done(&self) -> &DoneList<Self> {
        &self.done
    }

    fn wake(this: ArcBorrow<'_, Self>, is_first: bool) {
        // The end stands on the list already: a thread that stops taking now sees it.
        if this.taker.leaves(is_first) {
            this.queue.enqueue::<_, WORK>(Arc::from(this));
        }
    }

    fn refused(this: ArcBorrow<'_, Self>, bio: Bio) {
        this.refused.push(bio);
        this.queue.enqueue::<_, WORK>(Arc::from(this));
    }
}

impl WorkItem<WORK> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.take_refused();
        let mut turn = Turn::begin(&this);
        turn.take_done();
        turn.expire();
        turn.end(Patience::Hurry);
    }
}

impl WorkItem<ISSUE> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        while let Some(issue) = this.next_issue() {
            crate::disk::issue(&this, issue);
        }
        this.start_waiting();
    }
}

impl WorkItem<RETRY> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.retry();
    }
}

impl WorkItem<TIMER> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut turn = Turn::begin(&this);
        turn.disarm();
        turn.expire();
        turn.end(Patience::Hurry);
    }
}

impl WorkItem<SLOW> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.carry_out_orders();
    }
}
