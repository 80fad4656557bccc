// SPDX-License-Identifier: GPL-2.0-only

//! The rig of the scenarios: everything is carried out at once and in order, and nothing is ever lost unless a scenario
//! cuts a wire or crashes a node. Faults at arbitrary moments are the simulator's business.

mod device;
mod late;
mod lower;
mod machine;
mod probe;
mod status;
mod wire;

use crate::host::{Act, Outbox, RigHost};
use lower::{digest_of, Lower};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Event, Io, Kept, Op, Options, Token};
use weft_engine::host::Time;
use weft_engine::quorum::Quorum;
use weft_engine::{AutoPromotion, Config, Engine};
use weft_uapi::congestion::Congestion;
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::{Layout, MetaKind, AL_EXTENTS};
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{DiskState, Fencing, Protocol};
use weft_uapi::units::{Minor, NodeId, NodeSet, Sector, SessionId, VolumeId};
use wire::Wires;

pub(crate) use probe::Shape;

pub(crate) const VOLUME: VolumeId = VolumeId(0);
/// Sectors of a disk unless told otherwise. 64 MiB: 16 extents.
const SECTORS: u64 = 131_072;
const STEPS_MAX: usize = 100_000;

pub(crate) fn node(number: usize) -> NodeId {
    NodeId::new(number as u32).unwrap()
}

pub(crate) fn all_vote(nodes: usize) -> Quorum {
    let voters = (0..nodes).map(node).fold(NodeSet::EMPTY, NodeSet::with);
    Quorum {
        voters,
        ..Quorum::default()
    }
}

struct Node {
    engine: Engine<RigHost>,
    /// By volume.
    disks: Vec<Lower>,
    /// It has no disk, and votes.
    is_tie_breaker: bool,
    /// What is kept for it, by volume.
    kept: BTreeMap<VolumeId, Kept>,
    /// The last peer that was to be fenced, and the number of the question.
    fence: Option<(NodeId, u64)>,
    /// Metadata writes, and what is to be kept, are set aside.
    is_late: bool,
    /// Reads of the disk are set aside.
    is_slow: bool,
    /// Writes to the disk are set aside.
    is_stuck: bool,
    late: Vec<Act>,
    queue: VecDeque<Act>,
    /// Per peer: the session offered and not yet connected.
    offers: BTreeMap<usize, SessionId>,
    /// Per peer: the session of the wire.
    sessions: BTreeMap<usize, SessionId>,
    /// By volume, how the last open or close ended.
    doors: BTreeMap<VolumeId, Result<(), Refusal>>,
}

pub(crate) struct Rig {
    /// Of every disk.
    sectors: u64,
    /// How many there are.
    volumes: u16,
    /// The one that whatever is done or asked is about.
    volume: VolumeId,
    nodes: Vec<Node>,
    out: Outbox,
    now: Time,
    wires: Wires,
    next: u64,
    buffers: Vec<Rc<[u8]>>,
    /// What every node is configured with.
    quorum: Quorum,
}

fn layout(sectors: u64) -> Layout {
    Layout::new(MetaKind::Internal, sectors, sectors, 7).unwrap()
}

fn new_engine(number: usize, quorum: Quorum, is_tie_breaker: bool) -> Engine<RigHost> {
    let name = padded_name("r0").unwrap();
    Engine::new(Config {
        name,
        node: node(number),
        protocol: Protocol::C,
        quorum,
        fencing: Fencing::default(),
        policies: Policies::default(),
        two_primaries: false,
        speed: Speed::default(),
        congestion: Congestion::default(),
        csums: false,
        auto_promotion: AutoPromotion::default(),
        is_tie_breaker,
        requests_max: 32,
        al_extents: AL_EXTENTS,
    })
    .unwrap()
}

/// An operation without demands.
fn plain(op: Op, sector: u64, bytes: u32) -> Io {
    Io {
        op,
        sector: Sector(sector),
        bytes,
        fua: false,
        preflush: false,
    }
}

impl Rig {
    /// Two nodes, see [`Self::with`].
    pub(crate) fn new() -> Self {
        Self::with(2)
    }

    /// Nodes that know each other; no disk attached, not connected.
    pub(crate) fn with(nodes: usize) -> Self {
        Self::configured(nodes, SECTORS, Quorum::default())
    }

    /// As [`Self::with`], with disks of so many sectors.
    pub(crate) fn configured(nodes: usize, sectors: u64, quorum: Quorum) -> Self {
        Self::with_volumes(nodes, 1, sectors, quorum)
    }

    /// Nodes with two small volumes, connected and synced; node 0 is primary.
    pub(crate) fn of_two_volumes(nodes: usize, quorum: Quorum) -> Self {
        const SECTORS: u64 = 32_768;
        let mut rig = Self::with_volumes(nodes, 2, SECTORS, quorum).sync();
        rig.on(1).assert_whole();
        rig
    }

    /// As [`Self::configured`], with so many volumes, the first of which everything is about.
    fn with_volumes(nodes: usize, volumes: u16, sectors: u64, quorum: Quorum) -> Self {
        let blank = |number| {
            let volumes = (0..volumes).map(VolumeId);
            volumes.map(move |volume| Lower::blank(volume, number, sectors))
        };
        let nodes = (0..nodes).map(|number| Node {
            engine: new_engine(number, quorum, false),
            is_tie_breaker: false,
            kept: BTreeMap::new(),
            fence: None,
            disks: blank(number).collect(),
            is_late: false,
            is_slow: false,
            is_stuck: false,
            late: Vec::new(),
            queue: VecDeque::new(),
            offers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            doors: BTreeMap::new(),
        });
        let mut rig = Self {
            sectors,
            volumes,
            volume: VOLUME,
            nodes: nodes.collect(),
            out: Outbox::default(),
            now: Time(1),
            wires: Wires::default(),
            next: 0,
            buffers: Vec::new(),
            quorum,
        };
        rig.numbers().for_each(|number| rig.configure(number));
        rig
    }

    /// A connected, synced pair whose node 0 is primary.
    pub(crate) fn pair() -> Self {
        Self::synced(2)
    }

    /// Connected, synced nodes; node 0 is primary.
    pub(crate) fn synced(nodes: usize) -> Self {
        Self::with(nodes).sync()
    }

    /// As [`Self::synced`]; all nodes vote.
    pub(crate) fn voting(nodes: usize) -> Self {
        Self::configured(nodes, SECTORS, all_vote(nodes)).sync()
    }

    /// Two synced nodes with disks, and a third, number 2, that only votes; node 0 is primary.
    pub(crate) fn with_tie_breaker() -> Self {
        let mut rig = Self::configured(3, SECTORS, all_vote(3));
        rig.nodes[2].is_tie_breaker = true;
        rig.crash(2);
        rig.configure(2);
        (0..2).for_each(|number| rig.attach(number));
        rig.connect();
        rig.idle();
        rig.command(0, Command::Primary { force: true }).unwrap();
        rig.assert_mirrored();
        rig
    }

    /// The nodes with disks hold the same, and say so.
    pub(crate) fn assert_mirrored(&mut self) {
        self.assert_equal();
        for number in self.with_disks() {
            assert_eq!(
                self.disk_state(number),
                DiskState::UpToDate,
                "node {number}"
            );
        }
    }

    /// Attaches, connects and syncs blank nodes; node 0 becomes primary.
    pub(crate) fn sync(mut self) -> Self {
        self.numbers().for_each(|number| self.attach(number));
        self.connect();
        self.idle();
        self.command(0, Command::Primary { force: true }).unwrap();
        self.assert_whole();
        self
    }

    /// From now on everything is about this volume.
    pub(crate) fn on(&mut self, volume: u16) -> &mut Self {
        self.volume = VolumeId(volume);
        self
    }

    fn each_volume(&self) -> impl Iterator<Item = VolumeId> {
        (0..self.volumes).map(VolumeId)
    }

    fn numbers(&self) -> Range<usize> {
        0..self.nodes.len()
    }

    fn with_disks(&self) -> Range<usize> {
        0..self
            .nodes
            .iter()
            .filter(|node| !node.is_tie_breaker)
            .count()
    }

    /// The numbers of the other nodes.
    fn peers(&self, number: usize) -> impl Iterator<Item = usize> {
        self.numbers().filter(move |&peer| peer != number)
    }

    fn configure(&mut self, number: usize) {
        for volume in self.each_volume() {
            let minor = Minor(volume.0.into());
            self.command(number, Command::NewDevice { volume, minor })
                .unwrap();
        }
        for peer in self.peers(number) {
            let peer = node(peer);
            self.command(number, Command::NewPeer { peer }).unwrap();
        }
        self.serve(number, true);
    }

    /// The node's daemon serves, or is gone.
    pub(crate) fn serve(&mut self, number: usize, served: bool) {
        let connected = NodeSet::EMPTY;
        self.feed(number, Event::Daemon { served, connected });
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    pub(crate) fn command(&mut self, number: usize, command: Command) -> Result<(), Refusal> {
        let token = self.order(number, command);
        self.reply(token)
    }

    pub(crate) fn set_options(&mut self, number: usize, options: Options) -> Result<(), Refusal> {
        self.command(number, Command::SetOptions { options })
    }

    pub(crate) fn set_protocol(&mut self, number: usize, protocol: Protocol) {
        let options = Options {
            protocol: Some(protocol),
            ..Options::default()
        };
        self.set_options(number, options).unwrap();
    }

    /// Gives a command and does not wait for the reply.
    pub(crate) fn order(&mut self, number: usize, command: Command) -> Token {
        let token = self.token();
        self.feed(number, Event::Command { token, command });
        token
    }

    pub(crate) fn reply(&mut self, token: Token) -> Result<(), Refusal> {
        self.run_until(|rig| rig.out.replies.iter().any(|(of, _)| *of == token));
        self.answered(token).expect("a reply")
    }

    /// The reply to a command, if it has come.
    pub(crate) fn answered(&mut self, token: Token) -> Option<Result<(), Refusal>> {
        let mut replies = self.out.replies.iter();
        let at = replies.position(|(of, _)| *of == token)?;
        Some(self.out.replies.remove(at).1)
    }

    fn request(&mut self, number: usize, io: Io, buffer: Rc<[u8]>) -> Result<(), IoError> {
        let request = self.begin(number, io, buffer);
        self.run_until(|rig| rig.is_complete(request));
        self.result(request).expect("a completion")
    }

    pub(crate) fn is_complete(&self, request: u64) -> bool {
        self.out.completions.iter().any(|(of, _)| *of == request)
    }

    /// How a request ended, if it has.
    pub(crate) fn result(&mut self, request: u64) -> Option<Result<(), IoError>> {
        let mut ended = self.out.completions.iter();
        let at = ended.position(|(of, _)| *of == request)?;
        Some(self.out.completions.remove(at).1)
    }

    fn begin(&mut self, number: usize, io: Io, buffer: Rc<[u8]>) -> u64 {
        let request = self.buffers.len() as u64;
        self.buffers.push(buffer);
        let volume = self.volume;
        let goes_past = io.op == Op::Read && self.serves_reads(number);
        let backlog = self.backlog(number);
        self.feed(
            number,
            Event::Request {
                volume,
                request,
                io,
            },
        );
        // INVARIANT of `Engine::serves_reads`, wherever a test reads.
        assert!(!goes_past || self.effects_since(number, backlog).contains(&"reads"));
        request
    }

    /// Whether the node's engine takes one more request.
    pub(crate) fn has_room(&self, number: usize) -> bool {
        self.nodes[number].engine.has_room()
    }

    pub(crate) fn write(
        &mut self,
        number: usize,
        sector: u64,
        byte: u8,
        bytes: u32,
    ) -> Result<(), IoError> {
        let request = self.begin_write(number, sector, byte, bytes);
        self.run_until(|rig| rig.is_complete(request));
        self.result(request).expect("a completion")
    }

    /// Begins an operation, with zeros if it writes, and does not wait for it.
    pub(crate) fn begin_op(&mut self, number: usize, op: Op, sector: u64, bytes: u32) -> u64 {
        self.begin(
            number,
            plain(op, sector, bytes),
            vec![0; bytes as usize].into(),
        )
    }

    /// Begins a write and does not wait for it.
    pub(crate) fn begin_write(&mut self, number: usize, sector: u64, byte: u8, bytes: u32) -> u64 {
        let data = vec![byte; bytes as usize];
        self.begin(number, plain(Op::Write, sector, bytes), data.into())
    }

    /// Begins a write that has to come after all before it are stable, and does not wait for it.
    pub(crate) fn begin_preflush(
        &mut self,
        number: usize,
        sector: u64,
        byte: u8,
        bytes: u32,
    ) -> u64 {
        let io = Io {
            preflush: true,
            ..plain(Op::Write, sector, bytes)
        };
        self.begin(number, io, vec![byte; bytes as usize].into())
    }

    pub(crate) fn change(
        &mut self,
        number: usize,
        op: Op,
        sector: u64,
        bytes: u32,
    ) -> Result<(), IoError> {
        self.request(number, plain(op, sector, bytes), [].into())
    }

    /// A change that has to be stable at its end.
    pub(crate) fn force(&mut self, number: usize, op: Op, sector: u64, bytes: u32) {
        let io = Io {
            op,
            sector: Sector(sector),
            bytes,
            fua: true,
            preflush: false,
        };
        let data = vec![3; if op == Op::Write { bytes as usize } else { 0 }];
        self.request(number, io, data.into()).unwrap();
    }

    /// The changes of a node's disk that had to be stable at their end.
    pub(crate) fn forced(&self, number: usize) -> &[Op] {
        &self.disk(number).forced
    }

    pub(crate) fn flush(&mut self, number: usize) -> Result<(), IoError> {
        self.change(number, Op::Flush, 0, 0)
    }

    /// Reads through the engine, which has the disk fill the request's buffer.
    pub(crate) fn read(
        &mut self,
        number: usize,
        sector: u64,
        bytes: u32,
    ) -> Result<Vec<u8>, IoError> {
        let io = plain(Op::Read, sector, bytes);
        let at = self.buffers.len();
        self.request(number, io, [].into())?;
        Ok(self.buffers[at].to_vec())
    }

    /// What a request read.
    pub(crate) fn content(&self, request: u64) -> &[u8] {
        &self.buffers[request as usize]
    }

    fn feed(&mut self, number: usize, event: Event<'_, RigHost>) {
        self.nodes[number]
            .engine
            .handle(self.now, event, &mut self.out);
        let acts = self.out.acts.drain(..);
        self.nodes[number].queue.extend(acts);
        let doors = self.out.doors.drain(..);
        self.nodes[number].doors.extend(doors);
        for (request, data) in self.out.answers.drain(..) {
            self.buffers[request as usize] = data;
        }
        assert!(
            !self
                .out
                .errors
                .iter()
                .any(|line| line.contains("internal rule")),
            "{:?}",
            self.out.errors
        );
    }

    /// Carries one effect out; `false`: there is none.
    fn step(&mut self) -> bool {
        self.join();
        let busiest = |&number: &usize| self.nodes[number].queue.len();
        let Some(number) = self.numbers().max_by_key(busiest) else {
            return false;
        };
        let Some(act) = self.nodes[number].queue.pop_front() else {
            return false;
        };
        match act {
            act if self.nodes[number].sets_aside(&act) => self.nodes[number].late.push(act),
            Act::Disk(volume, cookie, io, _)
                if io.op == Op::Digest && !self.disk_of(number, volume).fails(io) =>
            {
                self.digest(number, volume, cookie, io);
            }
            Act::Disk(volume, cookie, io, data) => {
                let result = self.disk_io(number, volume, io, data);
                self.feed(number, Event::DiskDone { cookie, result });
            }
            Act::Recall(volume) => {
                let kept = self.nodes[number].kept.get(&volume);
                let kept = kept.copied().unwrap_or_default();
                self.feed(number, Event::Recalled { volume, kept });
            }
            Act::Fence(peer, question) => self.nodes[number].fence = Some((peer, question)),
            Act::Keep(volume, version, kept) => {
                self.nodes[number].kept.insert(volume, kept);
                let done = Event::Kept {
                    volume,
                    number: version,
                };
                self.feed(number, done);
            }
            Act::Measure(volume, attach_id, layout) => {
                self.measure(number, volume, attach_id, &layout);
            }
            Act::Meta(volume, cookie, sector, block, flush) => {
                self.disk_of(number, volume)
                    .write_meta(sector, &block, flush);
                let result = Ok(());
                self.feed(number, Event::MetaDone { cookie, result });
            }
            Act::Send(session, parcel) => self.deliver(number, session, parcel),
            Act::Offer(peer, session) => {
                self.nodes[number].offers.insert(peer.index(), session);
            }
            Act::EndSession(peer, session) => self.end_session(number, peer.index(), session),
        }
        true
    }

    /// Carries so many effects out; `false`: there were fewer.
    pub(crate) fn steps(&mut self, count: usize) -> bool {
        (0..count).all(|_| self.step())
    }

    /// Steps until `done`, or until nothing is left to do.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if done(self) || !(self.step() || self.tick(20_000)) {
                return;
            }
        }
        panic!("no end in sight");
    }

    /// Steps until nothing is left to do now or within two seconds.
    pub(crate) fn idle(&mut self) {
        let end = self.now.after_ms(2000);
        for _ in 0..STEPS_MAX {
            if !self.step() && (self.now >= end || !self.tick(2000)) {
                return;
            }
        }
        panic!("no end in sight");
    }

    /// Lets the next timer expire if that is within the given time.
    fn tick(&mut self, milliseconds: u64) -> bool {
        let next = self
            .numbers()
            .filter_map(|number| Some((self.nodes[number].engine.deadline()?, number)))
            .min();
        let Some((deadline, number)) =
            next.filter(|(deadline, _)| *deadline <= self.now.after_ms(milliseconds))
        else {
            return false;
        };
        self.now = self.now.max(deadline);
        self.feed(number, Event::Timer);
        true
    }

    /// So much time passes, whatever is under way.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let end = self.now.after_ms(milliseconds);
        while self.tick(end.ms_since(self.now)) {}
        self.now = end;
    }

    /// Nothing happens for a while.
    pub(crate) fn wait(&mut self, milliseconds: u64) {
        self.idle();
        self.now = self.now.after_ms(milliseconds);
    }
}
