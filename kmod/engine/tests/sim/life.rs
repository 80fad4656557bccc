// SPDX-License-Identifier: GPL-2.0-only

//! How a machine comes up, what its daemon sets up, and how it dies.

use crate::canary::Canary;
use crate::checkers;
use crate::disk::Op;
use crate::host::SimHost;
use crate::io::Doing;
use crate::link::pair;
use crate::node::node_id;
use crate::world::{note, Happening, World, MS, SECOND, US};
use std::rc::Rc;
use weft_engine::event::{Command, Event, Options};
use weft_engine::load::{LoadedDisk, Read};
use weft_engine::quorum::Quorum;
use weft_engine::{Config, Engine};
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::Superblock;
use weft_uapi::resync::Speed;
use weft_uapi::state::{Fencing, ReplicationState, Role};
use weft_uapi::units::{Minor, NodeSet, Sector, VolumeId};

/// A step of the daemon after a boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setup {
    NewDevice(VolumeId),
    SetOptions,
    NewPeer(usize),
    Attach(VolumeId),
    Connect(usize),
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
            quorum: Quorum {
                voters: match self.plan.canary {
                    Some(Canary::NoMajority) => NodeSet::EMPTY,
                    _ => self.quorum.voters,
                },
                ..Quorum::default()
            },
            fencing: Fencing::DontCare,
            policies: self.policies,
            two_primaries: self.two_primaries,
            speed: Speed::default(),
            congestion: self.congestion(node),
            csums: self.asks_by_digest(),
            auto_promotion: self.auto_promotion,
            is_tie_breaker: self.nodes[node].is_diskless,
            requests_max: self.random.range(2..20) as usize,
            al_extents: *self.random.pick(&[2, 2, 3, 1024]),
        };
        let this = &mut self.nodes[node];
        this.life += 1;
        let life = this.life;
        this.engine = Some(Engine::new(config).unwrap());
        this.role = Role::Secondary.number();
        this.server = None;
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
        self.on_each_volume(|world| {
            let volume = world.at;
            world.after(pause, Happening::App { node, life, volume });
        });
    }

    /// The steps of a daemon in some order that makes sense.
    fn setup_of(&mut self, node: usize) -> Vec<Setup> {
        let mut steps = vec![Setup::Attach(VolumeId(0))];
        for peer in self.peers(node) {
            let at = steps.len() - self.random.index(steps.len() + 1);
            steps.insert(at, Setup::NewPeer(peer));
            let at = at + 1 + self.random.index(steps.len() - at);
            steps.insert(at, Setup::Connect(peer));
        }
        steps.insert(0, Setup::NewDevice(VolumeId(0)));
        self.set_up_other(&mut steps);
        if self.quorum.is_on() {
            steps.insert(1, Setup::SetOptions);
        }
        steps
    }

    pub(crate) fn on_setup(&mut self, node: usize, life: u32, step: Setup) {
        if self.nodes[node].life != life {
            return;
        }
        match step {
            Setup::NewDevice(volume) => {
                let minor = Minor(volume.0.into());
                self.command(node, Command::NewDevice { volume, minor });
            }
            Setup::SetOptions => {
                let options = Options {
                    on_no_quorum: Some(self.quorum.on_lost),
                    ..Options::default()
                };
                self.command(node, Command::SetOptions { options });
            }
            Setup::NewPeer(peer) => {
                let peer = node_id(peer);
                self.command(node, Command::NewPeer { peer });
            }
            Setup::Attach(volume) => {
                self.turn_to(volume);
                if self.nodes[node].wants_disk {
                    self.attach(node);
                }
            }
            Setup::Connect(peer) if self.nodes[node].wants_peer[peer] => self.command(
                node,
                Command::Connect {
                    peer: node_id(peer),
                    discard_my_data: false,
                },
            ),
            Setup::Connect(_) => {}
        }
    }

    /// Reads the metadata and hands the disk to the engine.
    pub(crate) fn attach(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        if this.is_attached || this.is_diskless || this.engine.is_none() {
            return;
        }
        let disk = &this.disk;
        let [first, second] = [0, 1].map(|copy| disk.meta_read(disk.layout.superblock(copy).0));
        let mut loaded = match LoadedDisk::<SimHost>::begin(disk.info, first, second) {
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
            loaded.take(read, disk.meta_read(sector.0));
        }
        loaded.finish().unwrap();
        this.is_attached = true;
        let (token, volume) = (self.token(node, None), self.at);
        note!(self, "n{node} attaches");
        self.feed(
            node,
            Event::Attach {
                token,
                volume,
                disk: &mut Some(loaded),
            },
        );
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
        self.count_states();
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
        this.serves = false;
        this.dies_after = None;
        this.is_forcing = false;
        this.is_suspended = false;
        this.timer = None;
        this.offers.clear();
        this.tokens.clear();
        this.role = Role::Unknown.number();
        let mut olds = Vec::new();
        self.on_each_volume(|world| olds.push(world.crash_volume(node, power)));
        self.drop_connections(node);
        let mut olds = olds.into_iter();
        self.on_each_volume(|world| world.on_stable_superblock(node, olds.next().flatten()));
        self.tell_connected();
        self.on_each_volume(|world| {
            checkers::claims(world, node);
            checkers::coverage(world);
        });
    }

    /// What becomes of a volume when its machine dies; gives the superblock that was stable before.
    fn crash_volume(&mut self, node: usize, power: bool) -> Option<Rc<Superblock>> {
        let this = &mut self.nodes[node];
        this.is_attached = false;
        this.is_failing = false;
        this.has_failed = false;
        this.replication.fill(ReplicationState::Off);
        this.source = None;
        this.kept_number = 0;
        let under_way: Vec<Op> = std::mem::take(&mut this.ops)
            .into_values()
            .filter(|pending| !pending.is_swallowed)
            .filter_map(|pending| match pending.doing {
                Doing::Change(op) => Some(op),
                Doing::Read { .. } | Doing::Digest { .. } => None,
            })
            .collect();
        let before = this.disk.current.clone();
        let old = this.disk.superblock().cloned();
        if power {
            this.disk.power_cut(&mut self.random, under_way);
            let history = &mut self.volume.history;
            let duties = history.duties(self.nodes[node].written());
            history.excuse_lost(node, &before, &self.nodes[node].disk.current, &duties);
        } else {
            this.disk.reset(&mut self.random, under_way);
        }
        self.abandon_app(node);
        old
    }
}
