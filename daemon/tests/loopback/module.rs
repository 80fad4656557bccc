// SPDX-License-Identifier: GPL-2.0-only

//! A module made of sockets: the control device is a `SOCK_SEQPACKET` pair, each link a stream pair.

use nix::errno::Errno;
use nix::sys::socket::{
    recv, send, setsockopt, socketpair, sockopt, AddressFamily, MsgFlags, SockFlag, SockType,
};
use nix::sys::time::TimeVal;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use weft_daemon::kernel::device::ControlDevice;
use weft_daemon::links::kind::LinkKind;
use weft_uapi::control::{
    padded_name, Fence, LinkAccept, LinkCarried, LinkOffer, Memory, MessageHeader, NodeConnState,
    CARRIED_CLOSED, CARRIED_MORE, FENCED, KERN_WITHDRAWN, MESSAGE_BYTES_MAX,
};
use weft_uapi::version::CONTROL_ABI;
use zerocopy::IntoBytes;

use crate::rig::{deadline, PATIENCE};

/// Bytes that a link carries in one call, about.
const SHARE: u64 = 1 << 20;

/// The module of one node, as a test sees it.
#[derive(Clone)]
pub(crate) struct Module {
    node: u32,
    far: Arc<OwnedFd>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    count: u64,
    offers: HashMap<u64, (u64, LinkKind)>,
    accepted: HashMap<u64, Vec<(LinkKind, u64, UnixStream)>>,
    accepts: u64,
}

/// The module's ends of an accepted session.
pub(crate) struct Session {
    /// The peer's number of it.
    pub(crate) peer_session: u64,
    /// End of the data link.
    pub(crate) data: UnixStream,
    /// End of the meta link.
    pub(crate) meta: UnixStream,
}

/// The daemon's side of it.
pub(crate) struct Device {
    near: OwnedFd,
    shared: Arc<(Mutex<State>, Condvar)>,
    tied: HashMap<RawFd, Tied>,
}

impl Module {
    /// The module of a node, and the device for its daemon.
    pub(crate) fn new(node: u32) -> (Self, Device) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let nonblocking = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&near, nonblocking).unwrap();
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&far, sockopt::ReceiveTimeout, &patience).unwrap();
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let module = Self {
            node,
            far: Arc::new(far),
            shared: Arc::clone(&shared),
        };
        let tied = HashMap::new();
        (module, Device { near, shared, tied })
    }

    /// Offers both links of a new session and returns its number.
    pub(crate) fn offer(&self, peer: u32, resource: &str) -> u64 {
        let session = self.number();
        for kind in LinkKind::ALL {
            self.offer_one(peer, resource, kind, session);
        }
        session
    }

    /// Offers one link of a session.
    pub(crate) fn offer_one(&self, peer: u32, resource: &str, kind: LinkKind, session: u64) {
        let number = self.number();
        self.shared
            .0
            .lock()
            .unwrap()
            .offers
            .insert(number, (session, kind));
        self.tell(&self.message(kind.message(), peer, resource, number, session));
    }

    /// A fresh number.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.shared.0.lock().unwrap();
        state.count += 1;
        // Sessions of different nodes are different numbers.
        (u64::from(self.node + 1) << 32) | state.count
    }

    /// Withdraws what was offered of a session.
    pub(crate) fn withdraw(&self, peer: u32, resource: &str, session: u64) {
        self.shared
            .0
            .lock()
            .unwrap()
            .offers
            .retain(|_, offer| offer.0 != session);
        self.tell(&self.message(KERN_WITHDRAWN, peer, resource, 0, session));
    }

    /// A message for the daemon.
    pub(crate) fn message(
        &self,
        kind: u32,
        peer: u32,
        resource: &str,
        offer: u64,
        session: u64,
    ) -> LinkOffer {
        LinkOffer {
            header: MessageHeader::of::<LinkOffer>(kind),
            abi: CONTROL_ABI,
            peer,
            offer,
            session,
            node: self.node,
            reserved: 0,
            resource: padded_name(resource).unwrap(),
        }
    }

    /// Sends a message to the daemon.
    pub(crate) fn tell(&self, offer: &LinkOffer) {
        send(
            self.far.as_raw_fd(),
            offer.as_bytes(),
            MsgFlags::MSG_NOSIGNAL,
        )
        .unwrap();
    }

    /// Asks the daemon of a tie-breaker to keep or to hand back something.
    pub(crate) fn ask(&self, question: &Memory) {
        send(
            self.far.as_raw_fd(),
            question.as_bytes(),
            MsgFlags::MSG_NOSIGNAL,
        )
        .unwrap();
    }

    /// Asks the daemon to have a peer fenced, and waits for the outcome.
    pub(crate) fn fence(&self, question: &Fence) -> Fence {
        let flags = MsgFlags::MSG_NOSIGNAL;
        send(self.far.as_raw_fd(), question.as_bytes(), flags).unwrap();
        self.until(|bytes| Fence::parse(bytes, FENCED))
    }

    /// The next answer of this kind.
    pub(crate) fn answer(&self, kind: u32) -> Memory {
        self.until(|bytes| Memory::parse(bytes, &[kind]))
    }

    /// Waits for a message of the daemon; returns its length. A handler of the daemon that ends is a signal to every thread here.
    fn next(&self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> usize {
        let end = deadline();
        loop {
            match recv(self.far.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) if Instant::now() < end => {}
                count => return count.expect("no message in time"),
            }
        }
    }

    /// Waits for a message of the daemon that `parse` takes.
    fn until<T>(&self, parse: impl Fn(&[u8]) -> Option<T>) -> T {
        let end = deadline();
        loop {
            let mut buffer = [0; MESSAGE_BYTES_MAX];
            let count = self.next(&mut buffer);
            if let Some(message) = parse(&buffer[..count]) {
                return message;
            }
            assert!(Instant::now() < end, "no answer in time");
        }
    }

    /// Waits until the daemon has accepted both links of a session.
    pub(crate) fn session(&self, session: u64) -> Session {
        let (state, changed) = &*self.shared;
        let end = deadline();
        let mut state = state.lock().unwrap();
        while state.accepted.get(&session).map_or(0, Vec::len) < 2 {
            let left = end
                .checked_duration_since(Instant::now())
                .expect("the session was not accepted in time");
            state = changed.wait_timeout(state, left).unwrap().0;
        }
        let mut links = state.accepted.remove(&session).unwrap();
        links.sort_by_key(|(kind, ..)| *kind);
        assert_eq!((links[0].0, links[1].0), (LinkKind::Data, LinkKind::Meta));
        assert_eq!(links[0].1, links[1].1, "one session of the peer");
        let (_, peer_session, meta) = links.pop().unwrap();
        let (_, _, data) = links.pop().unwrap();
        for link in [&data, &meta] {
            link.set_read_timeout(Some(PATIENCE)).unwrap();
            link.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        Session {
            peer_session,
            data,
            meta,
        }
    }

    /// How many links were accepted so far.
    pub(crate) fn accepts(&self) -> u64 {
        self.shared.0.lock().unwrap().accepts
    }

    /// The next message of the daemon.
    pub(crate) fn conn_state(&self) -> NodeConnState {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let count = self.next(&mut buffer);
        NodeConnState::parse(&buffer[..count]).expect("a well-formed message")
    }

    /// Waits until the daemon says that exactly these nodes are connected.
    pub(crate) fn wait_connected(&self, connected: u32) {
        let end = deadline();
        while self.conn_state().connected != connected {
            assert!(
                Instant::now() < end,
                "nodes {connected:#b} were not connected in time"
            );
        }
    }
}

impl ControlDevice for Device {
    fn fd(&self) -> RawFd {
        self.near.as_raw_fd()
    }

    fn receive(&mut self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> io::Result<Option<usize>> {
        match recv(self.near.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        send(self.near.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    fn accept(&mut self, accept: &LinkAccept) -> io::Result<OwnedFd> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        let Some((session, kind)) = state.offers.remove(&accept.offer) else {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOENT));
        };
        assert_eq!((accept.abi, accept.kind), (CONTROL_ABI, kind.message()));
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        state.accepts += 1;
        state
            .accepted
            .entry(session)
            .or_default()
            .push((kind, accept.peer_session, far));
        changed.notify_all();
        Ok(near.into())
    }

    fn tie(&mut self, link: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> io::Result<()> {
        let tied = Tied {
            connection: connection.as_raw_fd(),
            outward: Lane::default(),
            inward: Lane::default(),
        };
        self.tied.insert(link.as_raw_fd(), tied);
        Ok(())
    }

    fn carry(&mut self, link: BorrowedFd<'_>) -> io::Result<LinkCarried> {
        let link = link.as_raw_fd();
        self.tied.get_mut(&link).unwrap().carry(link)
    }
}

/// A link that is tied to a connection: what the test writes to its end goes out, and what comes in it can read there. Keeps nothing
/// open: both are the daemon's.
struct Tied {
    connection: RawFd,
    outward: Lane,
    inward: Lane,
}

impl Tied {
    fn carry(&mut self, link: RawFd) -> io::Result<LinkCarried> {
        let before = self.outward.moved + self.inward.moved;
        if !self.outward.pump(link, self.connection)? {
            return Err(io::Error::from_raw_os_error(nix::libc::EPIPE));
        }
        let is_open = self.inward.pump(self.connection, link)?;
        let has_more = self.outward.moved + self.inward.moved > before + SHARE;
        let flags = [(!is_open, CARRIED_CLOSED), (has_more, CARRIED_MORE)];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
        Ok(LinkCarried {
            sent: self.outward.moved,
            received: self.inward.moved,
            flags: flags.fold(0, |all, (_, bit)| all | bit),
            reserved: 0,
        })
    }
}

/// Bytes of one direction that were taken from the one end and not yet by the other.
#[derive(Default)]
struct Lane {
    held: Vec<u8>,
    moved: u64,
}

impl Lane {
    /// Moves what goes without waiting, about a share; `false` at the end of the source.
    fn pump(&mut self, from: RawFd, to: RawFd) -> io::Result<bool> {
        let end = self.moved + SHARE;
        while self.moved <= end {
            if self.held.is_empty() {
                let mut buffer = vec![0; 1 << 16];
                match recv(from, &mut buffer, MsgFlags::empty()) {
                    Ok(0) => return Ok(false),
                    Ok(count) => self.held.extend(&buffer[..count]),
                    Err(Errno::EAGAIN) => return Ok(true),
                    Err(errno) => return Err(errno.into()),
                }
            }
            match send(to, &self.held, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => {
                    self.held.drain(..count);
                    self.moved += count as u64;
                }
                Err(Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}
