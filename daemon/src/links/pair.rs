// SPDX-License-Identifier: GPL-2.0-only

//! A running session: two links of the module, each tied to its TCP connection.
//!
//! The module sends and receives on the connections itself; what is done here is to tell it when one of them, or the link, is
//! ready for more.

use super::kind::{ByKind, LinkKind};
use crate::events::{ConnectionId, Reactor, Source};
use crate::kernel::device::ControlDevice;
use crate::peers::socket::Socket;
use crate::reactor::{Readiness, Watch};
use nix::libc;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use weft_uapi::control::{LinkCarried, CARRIED_CLOSED, CARRIED_MORE};

/// Why a session ended.
#[derive(Debug)]
pub enum PairEnd {
    /// The module closed a link.
    Link(LinkKind, Option<io::Error>),
    /// The network connection of a link died.
    Tcp(LinkKind, Option<io::Error>),
}

impl fmt::Display for PairEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::Link(kind, error) => {
                write!(f, "the module's {} link: ", kind.name())?;
                error
            }
            Self::Tcp(kind, error) => {
                write!(f, "the {} connection to the peer: ", kind.name())?;
                error
            }
        };
        match error {
            Some(error) => write!(f, "{error}"),
            None => f.write_str("closed"),
        }
    }
}

/// One link and its TCP connection.
#[derive(Debug)]
struct Line {
    kind: LinkKind,
    link: OwnedFd,
    tcp: Socket,
    link_watch: Watch,
    carried: LinkCarried,
    /// Whether an end reported that it is closed: the next step is the last.
    closing: Option<Side>,
    /// Whether a step is due already.
    queued: bool,
}

/// End of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The module's.
    Link,
    /// The network's.
    Tcp,
}

/// See the module.
#[derive(Debug)]
pub struct Pair {
    /// This side's number of the session.
    pub session: u64,
    /// When it began.
    pub since: Instant,
    lines: ByKind<Line>,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stepped {
    /// Bytes of the peer arrived.
    pub heard: bool,
    /// There is more to do.
    pub more: bool,
}

impl Pair {
    /// Ties accepted links to their connections.
    ///
    /// # Errors
    /// When the module does not take them, or places in the reactor are not to be had; everything is closed then.
    pub fn start(
        reactor: &mut Reactor,
        device: &mut dyn ControlDevice,
        id: ConnectionId,
        session: u64,
        links: ByKind<OwnedFd>,
        connections: ByKind<Socket>,
        now: Instant,
    ) -> io::Result<Self> {
        let tcp_watches = [connections.data.watch, connections.meta.watch];
        let started = Self::lines(reactor, device, id, links, connections);
        if started.is_err() {
            tcp_watches
                .into_iter()
                .for_each(|watch| reactor.forget(watch));
        }
        Ok(Self {
            session,
            since: now,
            lines: started?,
        })
    }

    fn lines(
        reactor: &mut Reactor,
        device: &mut dyn ControlDevice,
        id: ConnectionId,
        links: ByKind<OwnedFd>,
        connections: ByKind<Socket>,
    ) -> io::Result<ByKind<Line>> {
        for kind in LinkKind::ALL {
            let connection = connections.get(kind).stream.as_fd();
            device.tie(links.get(kind).as_fd(), connection)?;
        }
        let data_watch = reactor.watch(&links.data, Source::Link(id, LinkKind::Data))?;
        let meta_watch = match reactor.watch(&links.meta, Source::Link(id, LinkKind::Meta)) {
            Ok(watch) => watch,
            Err(error) => {
                reactor.forget(data_watch);
                return Err(error);
            }
        };
        reactor.reassign(connections.data.watch, Source::Tcp(id, LinkKind::Data));
        reactor.reassign(connections.meta.watch, Source::Tcp(id, LinkKind::Meta));
        let line = |kind, link, link_watch, tcp| Line {
            kind,
            link,
            tcp,
            link_watch,
            carried: LinkCarried::default(),
            closing: None,
            queued: true,
        };
        let ByKind { data, meta } = connections;
        Ok(ByKind {
            data: line(LinkKind::Data, links.data, data_watch, data),
            meta: line(LinkKind::Meta, links.meta, meta_watch, meta),
        })
    }

    /// An end of a line is ready. `true`: the line was idle and now wants a [`step`](Self::step).
    pub fn on_ready(&mut self, kind: LinkKind, side: Side, readiness: Readiness) -> bool {
        let line = self.lines.get_mut(kind);
        if readiness.closed {
            line.closing = Some(side);
        }
        !std::mem::replace(&mut line.queued, true)
    }

    /// Moves one turn's share of bytes on one line.
    ///
    /// # Errors
    /// The end of the session.
    pub fn step(
        &mut self,
        device: &mut dyn ControlDevice,
        kind: LinkKind,
    ) -> Result<Stepped, PairEnd> {
        let line = self.lines.get_mut(kind);
        let stepped = line.step(device)?;
        line.queued = stepped.more;
        Ok(stepped)
    }

    /// Bytes that went to the peer and came from it on one link.
    pub fn moved(&self, kind: LinkKind) -> (u64, u64) {
        let carried = self.lines.get(kind).carried;
        (carried.sent, carried.received)
    }

    /// Ends the session: the connections are closed by reset when the module lets them go, which it does with the links.
    pub fn close(self, reactor: &mut Reactor) {
        let mut links = Vec::with_capacity(2);
        for line in self.lines.into_array() {
            reactor.forget(line.link_watch);
            line.tcp.abort(reactor);
            links.push(line.link);
        }
    }
}

impl Line {
    fn step(&mut self, device: &mut dyn ControlDevice) -> Result<Stepped, PairEnd> {
        let kind = self.kind;
        let heard = self.carried.received;
        self.carried =
            device
                .carry(self.link.as_fd())
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::EPIPE) => PairEnd::Link(kind, None),
                    Some(libc::EPROTO) => PairEnd::Link(kind, Some(error)),
                    _ => PairEnd::Tcp(kind, Some(error)),
                })?;
        let flags = self.carried.flags;
        // What had arrived before an end closed has been passed on as far as the module took it.
        match self.closing {
            Some(Side::Link) => return Err(PairEnd::Link(kind, None)),
            Some(Side::Tcp) => return Err(PairEnd::Tcp(kind, None)),
            None if flags & CARRIED_CLOSED != 0 => return Err(PairEnd::Tcp(kind, None)),
            None => {}
        }
        Ok(Stepped {
            heard: self.carried.received > heard,
            more: flags & CARRIED_MORE != 0,
        })
    }
}
