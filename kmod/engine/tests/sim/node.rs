// SPDX-License-Identifier: GPL-2.0-only

//! One machine: its engine, its disk, its daemon, and how it dies and comes back.

use crate::app::App;
use crate::checkers;
use crate::disk::{Disk, Op};
use crate::host::{Act, Content, Outbox, SimHost};
use crate::io::{Doing, Pending};
use crate::link::pair;
use crate::random::Random;
use crate::world::{note, Happening, World, MS, SECOND, US};
use std::collections::BTreeMap;
use weft_engine::effect::Level;
use weft_engine::event::{Command, Event, Token};
use weft_engine::host::Time;
use weft_engine::load::{DiskInfo, LoadedDisk, Read};
use weft_engine::{Config, Engine};
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::{MetaKind, Superblock, FLAG_INCONSISTENT};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ReplicationState, Role};
use weft_uapi::status::SUSPENDED_BROKEN;
use weft_uapi::units::{Minor, NodeId, NodeSet, Sector, SessionId, VolumeId};

pub(crate) const VOLUME: VolumeId = VolumeId(0);
const META_SECTORS: u64 = 1024;

/// A step of the daemon after a boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setup {
    NewDevice,
    NewPeer(usize),
    Attach,
    Connect(usize),
}

pub(crate) struct Node {
    pub id: usize,
    /// Counts boots and crashes; events of an earlier life are void.
    pub life: u32,
    pub engine: Option<Engine<SimHost>>,
    pub disk: Disk,
    /// An older state of the disk, to be put back one day.
    pub image: Option<Disk>,
    /// The disk is a new one or an older image: it owes nothing until it was synced, or went its own way.
    pub is_void: bool,
    pub is_attached: bool,
    pub serves: bool,
    /// Per peer: the session offered and not yet connected.
    pub offers: BTreeMap<usize, SessionId>,
    /// Connection and side of the open sessions of this life.
    pub sessions: BTreeMap<(usize, SessionId), (usize, usize)>,
    pub ops: BTreeMap<u64, Pending>,
    pub app: App,
    pub tokens: BTreeMap<u64, Option<Command>>,
    pub role: u32,
    /// What the administrator wants after a boot.
    pub wants_disk: bool,
    /// By peer.
    pub wants_peer: Vec<bool>,
    /// The disk reports errors.
    pub is_failing: bool,
    /// It has done so in this life.
    pub has_failed: bool,
    /// The administrator gave this node's data up.
    pub may_lose_line: bool,
    /// A promotion by force is under way.
    pub is_forcing: bool,
    /// Die after that many effects.
    pub dies_after: Option<u64>,
    /// By peer, as seen last.
    pub replication: Vec<ReplicationState>,
    /// The peer that this node fetched from last.
    pub source: Option<usize>,
    timer: Option<u64>,
    pub next_op: u64,
    /// Content that came for a resync, to be told apart from writes.
    pub resync_buffers: Vec<Content>,
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u32).unwrap()
}

/// A disk with fresh metadata and some garbage.
fn new_disk(id: usize, slots: u32, sectors: u64, random: &mut Random) -> Disk {
    let info = DiskInfo {
        disk_sectors: sectors,
        meta_sectors: META_SECTORS,
        can_discard: true,
        volume: VOLUME,
        node: node_id(id),
        resource: padded_name("r0").unwrap(),
        meta_kind: MetaKind::External,
    };
    let garbage = random.next();
    Disk::created(info, slots, random.next(), |sector| {
        match (sector ^ garbage) % 5 {
            0 => 1 + id as u64,
            _ => 0,
        }
    })
}

fn is_target(state: ReplicationState) -> bool {
    matches!(
        state,
        ReplicationState::BitmapTarget | ReplicationState::SyncTarget
    )
}

impl Node {
    /// Node `id` of a cluster of `nodes`.
    pub(crate) fn new(id: usize, nodes: usize, sectors: u64, random: &mut Random) -> Self {
        let disk = new_disk(id, nodes as u32 - 1, sectors, random);
        Self {
            id,
            life: 0,
            engine: None,
            disk,
            image: None,
            is_void: false,
            is_attached: false,
            serves: false,
            offers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ops: BTreeMap::new(),
            app: App::default(),
            tokens: BTreeMap::new(),
            role: Role::Secondary.number(),
            wants_disk: true,
            wants_peer: vec![true; nodes],
            is_failing: false,
            has_failed: false,
            may_lose_line: false,
            is_forcing: false,
            dies_after: None,
            replication: vec![ReplicationState::Off; nodes],
            source: None,
            timer: None,
            next_op: 0,
            resync_buffers: Vec::new(),
        }
    }

    /// The disk is replaced while the machine is down.
    pub(crate) fn replace_disk(&mut self, random: &mut Random) {
        let (slots, sectors) = (self.disk.layout.slots(), self.disk.info.disk_sectors);
        self.exchange_disk(new_disk(self.id, slots, sectors, random));
    }

    /// Another disk, or another content of it, while the machine is down.
    pub(crate) fn exchange_disk(&mut self, disk: Disk) {
        self.disk = disk;
        self.image = None;
        self.is_void = true;
        self.may_lose_line = false;
    }

    /// The disk never held data.
    pub(crate) fn is_blank(&self) -> bool {
        self.generation() == 0
    }

    /// The generation of the disk; 0 when there is none.
    pub(crate) fn generation(&self) -> u64 {
        self.superblock().map_or(0, |block| block.generation.id.0)
    }

    /// The disk holds data and is not, or about to be, an unfinished sync target.
    pub(crate) fn has_good_disk(&self) -> bool {
        let is_finished = |block: &Superblock| block.flags & FLAG_INCONSISTENT == 0;
        !self.is_void
            && !self.is_blank()
            && self.superblock().is_some_and(is_finished)
            && !self.replication.iter().copied().any(is_target)
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.engine.is_some() && self.role == Role::Primary.number()
    }

    /// Writes that the disk was given and has not answered.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (u64, Content)> + '_ {
        self.ops
            .values()
            .filter(|pending| !pending.is_swallowed)
            .filter_map(|pending| match &pending.doing {
                Doing::Change(Op::Write {
                    sector, content, ..
                }) => Some((*sector, content.clone())),
                _ => None,
            })
    }

    /// What would be found after a power cut now.
    pub(crate) fn superblock(&self) -> Option<&Superblock> {
        self.disk.superblock()
    }
}

impl World {
    /// Starts a machine; its daemon comes, and does what was wanted, in some order.
    pub(crate) fn boot(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            return;
        }
        let config = Config {
            name: padded_name("r0").unwrap(),
            node: node_id(node),
            protocol: self.protocol,
            requests_max: self.random.range(2..20) as usize,
            al_extents: *self.random.pick(&[2, 2, 3, 1024]),
        };
        let this = &mut self.nodes[node];
        this.life += 1;
        let life = this.life;
        this.engine = Some(Engine::new(config).unwrap());
        this.role = Role::Secondary.number();
        note!(self, "n{node} boots");
        let mut delay = self.random.duration(US..100 * MS);
        self.after(
            delay,
            Happening::Daemon {
                node,
                life,
                serves: true,
            },
        );
        for step in self.setup_of(node) {
            delay += self.random.duration(US..300 * MS);
            self.after(delay, Happening::Setup { node, life, step });
        }
        let pause = self.random.duration(MS..SECOND);
        self.after(pause, Happening::App { node, life });
    }

    /// The steps of a daemon in some order that makes sense.
    fn setup_of(&mut self, node: usize) -> Vec<Setup> {
        let mut steps = vec![Setup::Attach];
        for peer in self.peers(node) {
            let at = steps.len() - self.random.index(steps.len() + 1);
            steps.insert(at, Setup::NewPeer(peer));
            let at = at + 1 + self.random.index(steps.len() - at);
            steps.insert(at, Setup::Connect(peer));
        }
        steps.insert(0, Setup::NewDevice);
        steps
    }

    pub(crate) fn on_setup(&mut self, node: usize, life: u32, step: Setup) {
        if self.nodes[node].life != life {
            return;
        }
        match step {
            Setup::NewDevice => self.command(
                node,
                Command::NewDevice {
                    volume: VOLUME,
                    minor: Minor(0),
                },
            ),
            Setup::NewPeer(peer) => {
                let peer = node_id(peer);
                self.command(node, Command::NewPeer { peer });
            }
            Setup::Attach if self.nodes[node].wants_disk => self.attach(node),
            Setup::Connect(peer) if self.nodes[node].wants_peer[peer] => self.command(
                node,
                Command::Connect {
                    peer: node_id(peer),
                    discard_my_data: false,
                },
            ),
            Setup::Attach | Setup::Connect(_) => {}
        }
    }

    /// Reads the metadata and hands the disk to the engine.
    pub(crate) fn attach(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.is_attached || this.engine.is_none() {
            return;
        }
        let disk = &this.disk;
        let [first, second] = [0, 1].map(|copy| disk.meta_read(disk.layout.superblock(copy).0));
        let mut loaded = match LoadedDisk::<SimHost>::begin(disk.info, &first, &second) {
            Ok(loaded) => loaded,
            Err(refusal) => {
                return self.fail(
                    "claims",
                    format!("n{node}: metadata are refused: {}", refusal.name()),
                );
            }
        };
        let reads: Vec<(Read, Sector)> = loaded.reads().collect();
        for (read, sector) in reads {
            loaded.take(read, &disk.meta_read(sector.0));
        }
        loaded.finish().unwrap();
        this.is_attached = true;
        let token = self.token(node, None);
        note!(self, "n{node} attaches");
        self.feed(
            node,
            Event::Attach {
                token,
                volume: VOLUME,
                disk: &mut Some(loaded),
            },
        );
    }

    pub(crate) fn command(&mut self, node: usize, command: Command) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        note!(self, "n{node} command {command:?}");
        match command {
            Command::Primary { force: true } => self.nodes[node].is_forcing = true,
            Command::Connect {
                discard_my_data: true,
                ..
            } => self.nodes[node].may_lose_line = true,
            _ => {}
        }
        let token = self.token(node, Some(command));
        self.feed(node, Event::Command { token, command });
    }

    fn token(&mut self, node: usize, command: Option<Command>) -> Token {
        self.nodes[node].tokens.insert(self.moment, command);
        let token = Token(self.moment);
        self.moment += 1;
        token
    }

    pub(crate) fn on_daemon(&mut self, node: usize, life: u32, serves: bool) {
        if self.nodes[node].life != life || self.nodes[node].engine.is_none() {
            return;
        }
        note!(self, "n{node} daemon serves: {serves}");
        self.nodes[node].serves = serves;
        if !serves {
            self.end_connections(node, "the daemon died");
        }
        self.tell_connected();
        for peer in self.peers(node) {
            self.meet_soon(pair(node, peer));
        }
    }

    /// Tells every engine which nodes its daemon reaches.
    pub(crate) fn tell_connected(&mut self) {
        for node in 0..self.nodes.len() {
            let served = self.nodes[node].serves;
            let connected = self
                .peers(node)
                .filter(|&peer| served && self.nodes[peer].serves)
                .filter(|&peer| self.cables.between(node, peer).is_whole())
                .fold(NodeSet::EMPTY, |set, peer| set.with(node_id(peer)));
            self.feed(node, Event::Daemon { served, connected });
        }
    }

    /// The machine dies; with the power, the disk's cache dies, too.
    pub(crate) fn crash(&mut self, node: usize, power: bool) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        note!(self, "n{node} dies, power cut: {power}");
        self.tally.crashes += 1;
        let this = &mut self.nodes[node];
        this.engine = None;
        this.life += 1;
        this.is_attached = false;
        this.serves = false;
        this.dies_after = None;
        this.is_forcing = false;
        this.is_failing = false;
        this.has_failed = false;
        this.timer = None;
        this.replication.fill(ReplicationState::Off);
        this.source = None;
        this.offers.clear();
        this.tokens.clear();
        this.role = Role::Unknown.number();
        let under_way: Vec<Op> = std::mem::take(&mut this.ops)
            .into_values()
            .filter(|pending| !pending.is_swallowed)
            .filter_map(|pending| match pending.doing {
                Doing::Change(op) => Some(op),
                Doing::Read { .. } => None,
            })
            .collect();
        let before = this.disk.current.clone();
        let old = this.disk.superblock().copied();
        if power {
            this.disk.power_cut(&mut self.random, under_way);
            let duties = self.history.duties(self.nodes[node].generation());
            self.history
                .excuse_lost(node, &before, &self.nodes[node].disk.current, &duties);
        } else {
            this.disk.reset(&mut self.random, under_way);
        }
        self.abandon_app(node);
        self.drop_connections(node);
        self.on_stable_superblock(node, old);
        self.tell_connected();
        checkers::claims(self, node);
        checkers::coverage(self);
    }

    pub(crate) fn on_timer(&mut self, node: usize, life: u32) {
        let this = &mut self.nodes[node];
        if this.life != life || this.engine.is_none() || this.timer.is_none_or(|at| at > self.now) {
            return;
        }
        this.timer = None;
        self.feed(node, Event::Timer);
    }

    /// Feeds one event and carries out what comes back.
    pub(crate) fn feed(&mut self, node: usize, event: Event<'_, SimHost>) {
        let Some(mut engine) = self.nodes[node].engine.take() else {
            return;
        };
        let mut outbox = Outbox {
            acts: Vec::new(),
            random: &mut self.random,
        };
        engine.handle(Time(self.now), event, &mut outbox);
        let acts = outbox.acts;
        let deadline = engine.deadline();
        self.nodes[node].engine = Some(engine);
        self.observe(node);
        let life = self.nodes[node].life;
        for act in acts {
            if self.nodes[node].life != life {
                return;
            }
            self.moment += 1;
            if let Some(left) = &mut self.nodes[node].dies_after {
                if *left == 0 {
                    return self.crash_by_fault(node);
                }
                *left -= 1;
            }
            self.carry_out(node, act);
        }
        if let Some(deadline) = deadline {
            self.arm(node, deadline.0);
        }
    }

    fn arm(&mut self, node: usize, at: u64) {
        // Time goes on even for an engine that wants to go on at once.
        let at = at.max(self.now + US);
        let this = &mut self.nodes[node];
        if this
            .timer
            .is_none_or(|armed| armed > at || armed <= self.now)
        {
            this.timer = Some(at);
            let life = this.life;
            self.after(at - self.now, Happening::Timer { node, life });
        }
    }

    /// What the engine says of itself after an event.
    fn observe(&mut self, node: usize) {
        let this = &self.nodes[node];
        let Some(engine) = &this.engine else {
            return;
        };
        let info = engine.resource_info(Time(self.now));
        if info.suspended & SUSPENDED_BROKEN != 0 {
            return self.fail("engine", format!("n{node}: an internal rule was broken"));
        }
        let towards = |peer: usize| {
            let info = engine.peer_volume_info(node_id(peer), VOLUME, Time(self.now));
            let state = info.and_then(|info| ReplicationState::from_number(info.replication));
            (peer, state.unwrap_or(ReplicationState::Off))
        };
        let replications: Vec<(usize, ReplicationState)> = self.peers(node).map(towards).collect();
        let was_role = std::mem::replace(&mut self.nodes[node].role, info.role);
        for (peer, state) in replications {
            self.observe_replication(node, peer, state);
        }
        if info.role == Role::Primary.number() && was_role != info.role {
            note!(self, "n{node} is primary");
            self.tally.promotions += 1;
            // Its application must find everything that was promised.
            checkers::claims(self, node);
            checkers::one_primary(self);
        }
    }

    fn observe_replication(&mut self, node: usize, peer: usize, state: ReplicationState) {
        let was = std::mem::replace(&mut self.nodes[node].replication[peer], state);
        if was != state {
            self.tally.reach.change("replication", was, state);
        }
        if is_target(state) && !is_target(was) {
            note!(self, "n{node} is sync target of n{peer}");
            self.tally.resyncs += 1;
            self.nodes[node].source = Some(peer);
            self.history.inherit_excuses(node, peer);
        }
    }

    fn carry_out(&mut self, node: usize, act: Act) {
        match act {
            Act::Disk { cookie, io, data } => self.submit(node, cookie, io, data),
            Act::Meta {
                cookie,
                sector,
                block,
                flush,
            } => {
                let mark = flush.then(|| self.nodes[node].disk.mark());
                self.submit_meta(
                    node,
                    cookie,
                    Op::Meta {
                        sector: sector.0,
                        block,
                        mark,
                    },
                );
            }
            Act::Send {
                peer,
                session,
                link,
                header,
                body,
                data,
            } => {
                let data = match self.content_of(node, &data) {
                    Ok(data) => data,
                    Err(()) => return,
                };
                self.send(node, (peer.index(), session), link, header, body, data);
            }
            Act::Complete {
                request,
                result,
                data,
            } => self.on_complete(node, request, result, data),
            Act::Offer { peer, session } => {
                self.nodes[node].offers.insert(peer.index(), session);
                self.meet_soon(pair(node, peer.index()));
            }
            Act::EndSession { peer, session } => self.end_session(node, peer.index(), session),
            Act::Reply { token, result } => self.on_reply(node, token, result),
            Act::CloseDisk => {
                note!(self, "n{node} closes its disk");
                if !self.nodes[node].ops.is_empty() {
                    self.fail(
                        "contract",
                        format!("n{node}: the disk is closed while it is in use"),
                    );
                }
                self.nodes[node].is_attached = false;
                self.nodes[node].is_failing = false;
            }
            Act::Log { level, line } => {
                self.tally.reach.read(&line);
                if line.contains("split brain") {
                    self.tally.split_brains += u64::from(level == Level::Error);
                }
                note!(self, "n{node} {level:?}: {line}");
            }
        }
    }

    /// The stable superblock may have changed from `old`.
    pub(crate) fn on_stable_superblock(&mut self, node: usize, old: Option<Superblock>) {
        let new = self.nodes[node].superblock().copied();
        if let (Some(old), Some(new)) = (old, new) {
            if old.generation != new.generation || old.flags != new.flags {
                note!(
                    self,
                    "n{node} durable: generation {} of {} members {:b} flags {:b}",
                    new.generation.id,
                    new.generation.parent,
                    new.generation.members.0,
                    new.flags
                );
                checkers::enforce(self, node);
                checkers::line_changed(self, node, &old, &new);
                checkers::one_chain(self, node);
                let was_target = old.flags & !new.flags & FLAG_INCONSISTENT != 0;
                let is_own = new.generation.writer == Some(node_id(node));
                if is_own
                    && old.generation.id != new.generation.id
                    && self.history.is_forgiven(new.generation.id.0)
                {
                    self.nodes[node].is_void = false;
                }
                let this = &self.nodes[node];
                if let Some(source) = this.source.filter(|_| was_target && !this.is_forcing) {
                    self.history.replace_excuses(node, source);
                    self.nodes[node].is_void = self.nodes[source].is_void;
                }
                checkers::claims(self, node);
            }
        }
    }

    fn on_reply(&mut self, node: usize, token: Token, result: Result<(), (Refusal, String)>) {
        let Some(command) = self.nodes[node].tokens.remove(&token.0) else {
            return self.fail(
                "contract",
                format!("n{node}: a reply that nobody waits for"),
            );
        };
        match result {
            Ok(()) => note!(self, "n{node} {command:?}: done"),
            Err((refusal, detail)) => {
                self.tally.reach.count("refusal", refusal.name());
                note!(self, "n{node} {command:?}: {} ({detail})", refusal.name())
            }
        }
        if matches!(command, Some(Command::Primary { force: true })) {
            self.nodes[node].is_forcing = false;
        }
    }

    pub(crate) fn remember_resync(&mut self, node: usize, content: &Content) {
        let buffers = &mut self.nodes[node].resync_buffers;
        if buffers.len() == 64 {
            buffers.remove(0);
        }
        buffers.push(content.clone());
    }
}
