// SPDX-License-Identifier: GPL-2.0-only

//! One machine: its engine, its disk, its daemon, and how it dies and comes back.

use crate::app::App;
use crate::checkers;
use crate::disk::{Disk, Op};
use crate::host::{Act, Content, Outbox, SimHost};
use crate::io::{Doing, Pending};
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
    NewPeer,
    Attach,
    Connect,
}

pub(crate) struct Node {
    pub id: usize,
    /// Counts boots and crashes; events of an earlier life are void.
    pub life: u32,
    pub engine: Option<Engine<SimHost>>,
    pub disk: Disk,
    pub is_attached: bool,
    pub serves: bool,
    pub offers: BTreeMap<usize, SessionId>,
    pub ops: BTreeMap<u64, Pending>,
    pub app: App,
    pub tokens: BTreeMap<u64, Option<Command>>,
    pub role: u32,
    /// What the administrator wants after a boot.
    pub wants_disk: bool,
    pub wants_peer: bool,
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
    pub replication: u32,
    timer: Option<u64>,
    pub next_op: u64,
    /// Content that came for a resync, to be told apart from writes.
    pub resync_buffers: Vec<Content>,
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u32).unwrap()
}

/// A disk with fresh metadata and some garbage.
fn new_disk(id: usize, sectors: u64, random: &mut Random) -> Disk {
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
    Disk::created(info, 1, random.next(), |sector| {
        match (sector ^ garbage) % 5 {
            0 => 1 + id as u64,
            _ => 0,
        }
    })
}

impl Node {
    pub(crate) fn new(id: usize, sectors: u64, random: &mut Random) -> Self {
        let disk = new_disk(id, sectors, random);
        Self {
            id,
            life: 0,
            engine: None,
            disk,
            is_attached: false,
            serves: false,
            offers: BTreeMap::new(),
            ops: BTreeMap::new(),
            app: App::default(),
            tokens: BTreeMap::new(),
            role: Role::Secondary.number(),
            wants_disk: true,
            wants_peer: true,
            is_failing: false,
            has_failed: false,
            may_lose_line: false,
            is_forcing: false,
            dies_after: None,
            replication: 0,
            timer: None,
            next_op: 0,
            resync_buffers: Vec::new(),
        }
    }

    /// The disk is replaced while the machine is down.
    pub(crate) fn replace_disk(&mut self, random: &mut Random) {
        self.disk = new_disk(self.id, self.disk.info.disk_sectors, random);
        self.may_lose_line = false;
    }

    /// The disk never held data.
    pub(crate) fn is_blank(&self) -> bool {
        self.superblock()
            .is_none_or(|block| block.generation.id.0 == 0)
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
        let mut steps = vec![Setup::NewPeer, Setup::Attach];
        if self.random.coin() {
            steps.swap(0, 1);
        }
        let connect = steps
            .iter()
            .position(|&step| step == Setup::NewPeer)
            .unwrap()
            + 1;
        steps.insert(
            connect + self.random.index(steps.len() + 1 - connect),
            Setup::Connect,
        );
        steps.insert(0, Setup::NewDevice);
        for step in steps {
            delay += self.random.duration(US..300 * MS);
            self.after(delay, Happening::Setup { node, life, step });
        }
        let pause = self.random.duration(MS..SECOND);
        self.after(pause, Happening::App { node, life });
    }

    pub(crate) fn on_setup(&mut self, node: usize, life: u32, step: Setup) {
        if self.nodes[node].life != life {
            return;
        }
        let peer = node_id(1 - node);
        let (wants_disk, wants_peer) = (self.nodes[node].wants_disk, self.nodes[node].wants_peer);
        match step {
            Setup::NewDevice => self.command(
                node,
                Command::NewDevice {
                    volume: VOLUME,
                    minor: Minor(0),
                },
            ),
            Setup::NewPeer => self.command(node, Command::NewPeer { peer }),
            Setup::Attach if wants_disk => self.attach(node),
            Setup::Connect if wants_peer => self.command(
                node,
                Command::Connect {
                    peer,
                    discard_my_data: false,
                },
            ),
            Setup::Attach | Setup::Connect => {}
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
        self.meet_soon();
    }

    /// Tells every engine which nodes its daemon reaches.
    pub(crate) fn tell_connected(&mut self) {
        let reachable = self.cable.is_whole() && self.nodes.iter().all(|node| node.serves);
        for node in 0..self.nodes.len() {
            let served = self.nodes[node].serves;
            let connected = if reachable {
                NodeSet::of(node_id(1 - node))
            } else {
                NodeSet::EMPTY
            };
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
        this.replication = 0;
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
            let generation = self.nodes[node]
                .superblock()
                .map_or(0, |block| block.generation.id.0);
            let duties = self.history.duties(generation);
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
        let peer = engine.peer_volume_info(node_id(1 - node), VOLUME, Time(self.now));
        let replication = peer.map_or(0, |peer| peer.replication);
        let (was_role, was_replication) = (this.role, this.replication);
        self.nodes[node].role = info.role;
        self.nodes[node].replication = replication;
        let is_target = |state: u32| {
            [ReplicationState::BitmapTarget, ReplicationState::SyncTarget]
                .map(ReplicationState::number)
                .contains(&state)
        };
        if is_target(replication) && !is_target(was_replication) {
            note!(self, "n{node} is sync target");
            self.tally.resyncs += 1;
            self.history.inherit_excuses(node, 1 - node);
        }
        if info.role == Role::Primary.number() && was_role != info.role {
            note!(self, "n{node} is primary");
            self.tally.promotions += 1;
            checkers::promoted(self, node);
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
                self.send(node, session, link, header, body, data);
            }
            Act::Complete {
                request,
                result,
                data,
            } => self.on_complete(node, request, result, data),
            Act::Offer { peer, session } => {
                self.nodes[node].offers.insert(peer.index(), session);
                self.meet_soon();
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
                checkers::line_changed(self, node, &old, &new);
                let was_target = old.flags & !new.flags & FLAG_INCONSISTENT != 0;
                if was_target && self.nodes[node].engine.is_some() && !self.nodes[node].is_forcing {
                    self.history.replace_excuses(node, 1 - node);
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
