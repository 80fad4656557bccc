// SPDX-License-Identifier: GPL-2.0-only

//! Daemons on loopback addresses, each with a module made of sockets.

use crate::module::{Module, Session};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use weft_daemon::config::Config;
use weft_daemon::control::client;
use weft_daemon::control::report::{ConnectionReport, PeerReport, Report};
use weft_daemon::daemon::{Daemon, Parts};
use weft_daemon::reactor::orders::{Order, Orders};

/// Everything that is waited for comes within this time, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// When patience ends.
pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Looks again and again until there is something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = deadline();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "in time: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Nodes with a shared configuration.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    ping_interval_ms: u32,
    /// The resources, as they stand in the configuration.
    pub(crate) resources: String,
}

/// A running daemon.
pub(crate) struct Node {
    /// Its module.
    pub(crate) module: Module,
    orders: UnixStream,
    thread: Option<JoinHandle<Result<(), String>>>,
    socket: PathBuf,
}

impl Cluster {
    /// So many nodes at addresses that nobody else uses: every test process and every cluster in it has its own part of
    /// the loopback network.
    pub(crate) fn new(nodes: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id() % 200 + 16;
        let address = |node| {
            format!("127.{process}.{number}.{}:7790", node + 1)
                .parse()
                .unwrap()
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            addresses: (0..nodes).map(address).collect(),
            ping_interval_ms: 1000,
            resources: String::new(),
        }
    }

    /// With another ping interval.
    pub(crate) fn ping_every(mut self, ms: u32) -> Self {
        self.ping_interval_ms = ms;
        self
    }

    /// Address of a node.
    pub(crate) fn address(&self, node: u8) -> SocketAddr {
        self.addresses[usize::from(node)]
    }

    /// The configuration file's path, written anew.
    pub(crate) fn config(&self, extra: &str) -> PathBuf {
        let mut text = format!(
            "[cluster]\nname = \"loop\"\nsecurity = \"none\"\nping_interval_ms = {}\n{extra}\n",
            self.ping_interval_ms
        );
        for (id, address) in self.addresses.iter().enumerate() {
            text += &format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddress = \"{address}\"\n");
        }
        text += &self.resources;
        let path = self.folder.path().join("weft.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the daemon of a node.
    pub(crate) fn start(&self, node: u8) -> Node {
        self.start_listening(node, TcpListener::bind(self.address(node)).unwrap())
    }

    /// Starts the daemon of a node with a socket that is bound already.
    pub(crate) fn start_listening(&self, node: u8, listener: TcpListener) -> Node {
        let (module, device) = Module::new(node.into());
        let (orders, daemon_orders) = UnixStream::pair().unwrap();
        let socket = self.folder.path().join(format!("n{node}.sock"));
        let _ = std::fs::remove_file(&socket);
        let control = UnixListener::bind(&socket).unwrap();
        let config_path = self.config("");
        let state_dir = self.folder.path().join(format!("n{node}.state"));
        let config = Config::load(&config_path).unwrap();
        let thread = thread::spawn(move || {
            let node = config.node(&format!("n{node}")).unwrap().clone();
            daemon_orders.set_nonblocking(true).unwrap();
            let daemon = Daemon::new(Parts {
                config,
                config_path,
                state_dir,
                node,
                listener,
                control,
                device: Box::new(device),
                orders: Box::new(Told(daemon_orders)),
            });
            daemon
                .and_then(Daemon::run)
                .map_err(|failure| failure.to_string())
        });
        Node {
            module,
            orders,
            thread: Some(thread),
            socket,
        }
    }

    /// Starts all daemons.
    pub(crate) fn start_all(&self) -> Vec<Node> {
        (0..self.addresses.len() as u8)
            .map(|node| self.start(node))
            .collect()
    }
}

/// Orders by the letter; the end of the stream is sudden death.
struct Told(UnixStream);

impl Orders for Told {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Option<Order>> {
        let mut letter = [0];
        match self.0.read(&mut letter) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(match letter[0] {
                b's' => Order::Stop,
                b'r' => Order::Reload,
                _ => Order::Dump,
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Node {
    /// Lets it stop in good order.
    pub(crate) fn stop(mut self) {
        self.orders.write_all(b"s").unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Lets it read its configuration again.
    pub(crate) fn reload(&mut self) {
        self.orders.write_all(b"r").unwrap();
    }

    /// Ends it without any courtesy: all its descriptors are just closed, as by SIGKILL.
    pub(crate) fn kill(mut self) {
        assert!(self.die().unwrap().unwrap().is_err());
    }

    /// What the daemon's thread ended with, once it has; `None` if it had ended before.
    fn die(&mut self) -> Option<thread::Result<Result<(), String>>> {
        let thread = self.thread.take()?;
        // Fails only for a daemon that is gone already.
        let _ = self.orders.shutdown(std::net::Shutdown::Both);
        Some(thread.join())
    }

    /// Path of its control socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it says of itself.
    pub(crate) fn report(&self) -> Report {
        serde_json::from_value(client::ask(&self.socket, "status").unwrap()).unwrap()
    }

    /// What it says of a peer.
    pub(crate) fn peer(&self, peer: u8) -> PeerReport {
        let peers = self.report().peers;
        peers
            .into_iter()
            .find(|report| report.node_id == peer)
            .unwrap()
    }

    /// What it says of a resource of a peer.
    pub(crate) fn connection(&self, peer: u8, resource: &str) -> Option<ConnectionReport> {
        let connections = self.peer(peer).connections;
        connections
            .into_iter()
            .find(|connection| connection.resource == resource)
    }

    /// Waits until a peer is connected.
    pub(crate) fn wait_up(&self, peer: u8) {
        eventually("the peer is connected", || {
            (self.peer(peer).state == "connected").then_some(())
        });
    }
}

impl Drop for Node {
    /// A test leaves no daemon behind: the next one in the same process may count descriptors.
    fn drop(&mut self) {
        let died = self.die();
        if !thread::panicking() {
            assert!(!matches!(died, Some(Err(_))), "the daemon panicked");
        }
    }
}

/// A session of a resource between two nodes, from new offers on both sides.
pub(crate) fn connect(a: (&Node, u32), b: (&Node, u32), resource: &str) -> (Session, Session) {
    let session_a = a.0.module.offer(b.1, resource);
    let session_b = b.0.module.offer(a.1, resource);
    let (near, far) = (a.0.module.session(session_a), b.0.module.session(session_b));
    assert_eq!(
        (near.peer_session, far.peer_session),
        (session_b, session_a)
    );
    (near, far)
}

/// A connection of somebody who is no daemon.
pub(crate) fn stranger(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads to the end, however the other side ends it.
pub(crate) fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    bytes
}
