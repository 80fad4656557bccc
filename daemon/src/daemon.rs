// SPDX-License-Identifier: GPL-2.0-only

//! The daemon: one thread that turns what happens into what is to be done, and keeps peers and links together.
//!
//! It decides nothing about data. What it knows of a peer it tells the module ([`NodeConnState`]); what it knows of a
//! link it knows from the module's offers. Both sides are level-triggered, so a daemon that is killed at any moment and
//! started again finds its way.

mod linking;
mod peering;
mod status;

use crate::config::{Config, Node};
use crate::control::server::Server;
use crate::events::{ConnectionId, Reactor, Source, Timer, Work};
use crate::helpers::Helpers;
use crate::kernel::device::ControlDevice;
use crate::links::connection::{Connection, Context};
use crate::links::pair::Side;
use crate::memory::Store;
use crate::peers::channel::Heartbeat;
use crate::peers::identity::Identity;
use crate::peers::inbound::Inbound;
use crate::peers::peer::Peer;
use crate::reactor::orders::{Order, Orders};
use crate::reactor::{Happening, Readiness};
use mio::net::TcpListener;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weft_uapi::control::{MessageHeader, NodeConnState, DAEMON_SILENCE_MS_MAX, NODE_CONN_STATE};
use weft_uapi::limits::NAME_MAX;
use weft_uapi::units::{NodeId, NodeSet};
use zerocopy::IntoBytes;

/// Where the daemon keeps what has to survive a restart, unless somebody says otherwise.
pub const STATE_DIR: &str = "/var/lib/weft";
/// The module is told who is connected at least this often.
const CONN_STATE_PERIOD: Duration = Duration::from_secs(2);
const _: () = assert!(
    5 * CONN_STATE_PERIOD.as_millis() <= DAEMON_SILENCE_MS_MAX as u128,
    "the module takes a silent daemon for hung"
);

/// Everything a daemon is built from; nothing of it has any effect yet.
pub struct Parts {
    /// The checked configuration.
    pub config: Config,
    /// Where it came from, for reloading.
    pub config_path: PathBuf,
    /// This node.
    pub node: Node,
    /// Folder of what has to outlive this machine's life.
    pub state_dir: PathBuf,
    /// The bound socket that peers dial.
    pub listener: std::net::TcpListener,
    /// The bound control socket.
    pub control: std::os::unix::net::UnixListener,
    /// The module.
    pub device: Box<dyn ControlDevice>,
    /// Signals.
    pub orders: Box<dyn Orders>,
}

/// Why a daemon ends although nobody told it to.
#[derive(Debug)]
pub enum Failure {
    /// The module's device failed.
    Device(io::Error),
    /// Something that it cannot live without failed.
    Io(&'static str, io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "the module's control device: {error}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// See the module.
pub struct Daemon {
    reactor: Reactor,
    device: Box<dyn ControlDevice>,
    orders: Box<dyn Orders>,
    listener: TcpListener,
    server: Server,
    helpers: Helpers,
    config: Config,
    config_path: PathBuf,
    identity: Identity,
    started: Instant,
    inbound: Inbound,
    peers: BTreeMap<NodeId, Peer>,
    connections: BTreeMap<ConnectionId, Connection>,
    connection_count: u64,
    work: VecDeque<Work>,
    conn_state_epoch: u64,
    conn_state_sent: Option<NodeSet>,
    stopping: bool,
}

impl Daemon {
    /// Builds a daemon; it does nothing before [`run`](Self::run).
    ///
    /// # Errors
    /// When the kernel refuses to watch one of the parts.
    pub fn new(parts: Parts) -> Result<Self, Failure> {
        let watching = |error| Failure::Io("watching a descriptor", error);
        let mut reactor = Reactor::new().map_err(watching)?;
        let own = parts.node.id;
        let identity = Identity::new(&parts.config, &parts.node)
            .map_err(|error| Failure::Io("reading the boot id", error))?;
        parts.listener.set_nonblocking(true).map_err(watching)?;
        let listener = TcpListener::from_std(parts.listener);
        reactor
            .watch(&listener, Source::Listener)
            .map_err(watching)?;
        reactor
            .watch(&parts.device.fd(), Source::Device)
            .map_err(watching)?;
        reactor
            .watch(&parts.orders.fd(), Source::Orders)
            .map_err(watching)?;
        let server = Server::new(&mut reactor, parts.control).map_err(watching)?;
        let helpers = Helpers::start(&mut reactor, Store::new(&parts.state_dir))
            .map_err(|error| Failure::Io("starting a thread", error))?;
        let started = Instant::now();
        let heartbeat = heartbeat(&parts.config);
        let peers = parts.config.nodes.values().filter(|peer| peer.id != own);
        let peers = peers
            .map(|peer| (peer.id, Peer::new(peer, own, heartbeat, started)))
            .collect();
        Ok(Self {
            reactor,
            device: parts.device,
            orders: parts.orders,
            listener,
            server,
            helpers,
            config: parts.config,
            config_path: parts.config_path,
            identity,
            started,
            inbound: Inbound::default(),
            peers,
            connections: BTreeMap::new(),
            connection_count: 0,
            work: VecDeque::new(),
            conn_state_epoch: clock_epoch(),
            conn_state_sent: None,
            stopping: false,
        })
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When it cannot go on.
    pub fn run(mut self) -> Result<(), Failure> {
        let now = Instant::now();
        for peer in self.peers.values_mut() {
            peer.dial(&mut self.reactor, &self.identity, now);
        }
        self.reactor.arm(now, Timer::ConnState);
        let mut happenings = Vec::new();
        while !self.stopping {
            self.reactor
                .turn(!self.work.is_empty(), &mut happenings)
                .map_err(|error| Failure::Io("polling", error))?;
            let now = Instant::now();
            for happening in happenings.drain(..) {
                match happening {
                    Happening::Ready(watch, readiness) => {
                        if let Some(source) = self.reactor.source(watch) {
                            self.on_ready(source, readiness, now)?;
                        }
                    }
                    Happening::Due(timer) => self.on_timer(timer, now),
                }
            }
            // One round: what is not finished then waits until the descriptors have been asked again.
            for _ in 0..self.work.len() {
                if let Some(work) = self.work.pop_front() {
                    self.on_work(work, now);
                }
            }
            self.tell_changes();
        }
        self.stop(Instant::now());
        Ok(())
    }

    fn on_ready(
        &mut self,
        source: Source,
        readiness: Readiness,
        now: Instant,
    ) -> Result<(), Failure> {
        match source {
            Source::Orders => self.on_orders(now)?,
            Source::Device => self.on_device(now)?,
            Source::Listener => self.on_listener(now),
            Source::Inbound(id) => self.on_inbound(id, now),
            Source::Peer(node) => self.on_peer_ready(node, readiness, now),
            Source::Half(id, kind) => self.on_half_ready(id, kind, readiness, now),
            Source::Link(id, kind) => self.on_line_ready(id, kind, Side::Link, readiness),
            Source::Tcp(id, kind) => self.on_line_ready(id, kind, Side::Tcp, readiness),
            Source::ClientListener => self.server.on_accept(&mut self.reactor),
            Source::Client(id) => self.on_client(id, now),
            Source::Helpers => self.on_helpers(),
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::ConnState => {
                self.tell_module();
                self.reactor.arm(now + CONN_STATE_PERIOD, Timer::ConnState);
            }
            Timer::Inbound(id) => self.inbound.on_timer(&mut self.reactor, id, now),
            Timer::Peer(node) => self.on_peer_timer(node, now),
            Timer::Connection(id) => self.on_connection_timer(id, now),
        }
    }

    fn on_work(&mut self, work: Work, now: Instant) {
        match work {
            Work::Accept => self.on_listener(now),
            Work::Peer(node) => {
                let readiness = Readiness {
                    readable: true,
                    ..Readiness::default()
                };
                self.on_peer_ready(node, readiness, now);
            }
            Work::Line(id, kind) => self.on_line_work(id, kind, now),
        }
    }

    fn on_orders(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(order) = self
            .orders
            .next()
            .map_err(|error| Failure::Io("signals", error))?
        {
            match order {
                Order::Stop => self.stopping = true,
                Order::Reload => self.reload(now),
                Order::Dump => self.dump(now),
            }
        }
        Ok(())
    }

    /// Sends the set of connected nodes when it has changed.
    fn tell_changes(&mut self) {
        if self.conn_state_sent != Some(self.connected()) {
            self.tell_module();
        }
    }

    fn connected(&self) -> NodeSet {
        let up = self.peers.values().filter(|peer| peer.is_up());
        up.fold(NodeSet::EMPTY, |set, peer| set.with(peer.node))
    }

    /// Sends the set of connected nodes. A message that is lost is healed by the next one.
    fn tell_module(&mut self) {
        let connected = if self.stopping {
            NodeSet::EMPTY
        } else {
            self.connected()
        };
        self.conn_state_epoch += 1;
        let message = NodeConnState {
            header: MessageHeader::of::<NodeConnState>(NODE_CONN_STATE),
            epoch: self.conn_state_epoch,
            connected: connected.0,
            reserved: 0,
            resource: [0; NAME_MAX + 1],
        };
        match self.device.send(message.as_bytes()) {
            Ok(()) => self.conn_state_sent = Some(connected),
            Err(error) => log::warn!("telling the module which nodes are connected: {error}"),
        }
    }

    /// Ends in good order: peers hear a goodbye, sessions are reset, the module hears that nobody is connected. Bytes
    /// that were still on their way are lost with their sessions, which the modules expect of any end of a session.
    fn stop(&mut self, now: Instant) {
        log::info!("stopping");
        self.stopping = true;
        for peer in self.peers.values_mut() {
            peer.leave(&mut self.reactor, now);
        }
        let (mut context, connections) = self.linking(now);
        for connection in connections.values_mut() {
            connection.give_up(&mut context, "the daemon is stopping");
        }
        self.tell_module();
    }

    /// Splits the daemon into what a connection needs and the connections.
    fn linking(&mut self, now: Instant) -> (Context<'_>, &mut BTreeMap<ConnectionId, Connection>) {
        let context = Context {
            reactor: &mut self.reactor,
            device: self.device.as_mut(),
            identity: &self.identity,
            now,
        };
        (context, &mut self.connections)
    }
}

fn heartbeat(config: &Config) -> Heartbeat {
    Heartbeat {
        interval: config.cluster.ping_interval,
        misses: config.cluster.ping_misses,
    }
}

/// A number that is larger in every daemon that starts later on this boot, in nanoseconds.
fn clock_epoch() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(|time| Duration::from(time).as_nanos() as u64)
        .unwrap_or_default()
}
