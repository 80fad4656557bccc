// SPDX-License-Identifier: GPL-2.0-only

//! A running session: two links of the module, each tied to its TCP connection.

use super::flow::{Flow, FlowEnd};
use super::kind::{ByKind, LinkKind};
use crate::events::{ConnectionId, Reactor, Source};
use crate::peers::socket::Socket;
use crate::reactor::{Readiness, Watch};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Why a session ended.
#[derive(Debug)]
pub enum PairEnd {
    /// The module closed a link.
    Link(LinkKind, FlowEnd),
    /// The network connection of a link died.
    Tcp(LinkKind, FlowEnd),
}

impl fmt::Display for PairEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(kind, end) => write!(f, "the module's {} link: {end}", kind.name()),
            Self::Tcp(kind, end) => write!(f, "the {} connection to the peer: {end}", kind.name()),
        }
    }
}

/// One link and its TCP connection.
#[derive(Debug)]
struct Line {
    kind: LinkKind,
    link: OwnedFd,
    tcp: Socket,
    outward: Flow,
    inward: Flow,
    link_watch: Watch,
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
    /// When pipes or places in the reactor are not to be had; everything is closed then.
    pub fn start(
        reactor: &mut Reactor,
        id: ConnectionId,
        session: u64,
        links: ByKind<OwnedFd>,
        connections: ByKind<Socket>,
        now: Instant,
    ) -> io::Result<Self> {
        let tcp_watches = [connections.data.watch, connections.meta.watch];
        let started = Self::lines(reactor, id, links, connections);
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
        id: ConnectionId,
        links: ByKind<OwnedFd>,
        connections: ByKind<Socket>,
    ) -> io::Result<ByKind<Line>> {
        let data_flows = (Flow::new()?, Flow::new()?);
        let meta_flows = (Flow::new()?, Flow::new()?);
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
        let line = |kind, link, link_watch, tcp, (outward, inward)| Line {
            kind,
            link,
            tcp,
            outward,
            inward,
            link_watch,
            closing: None,
            queued: true,
        };
        Ok(ByKind {
            data: line(
                LinkKind::Data,
                links.data,
                data_watch,
                connections.data,
                data_flows,
            ),
            meta: line(
                LinkKind::Meta,
                links.meta,
                meta_watch,
                connections.meta,
                meta_flows,
            ),
        })
    }

    /// An end of a line is ready. `true`: the line was idle and now wants a [`step`](Self::step).
    pub fn on_ready(&mut self, kind: LinkKind, side: Side, readiness: Readiness) -> bool {
        let line = self.lines.get_mut(kind);
        let (from, to) = match side {
            Side::Link => (&mut line.outward, &mut line.inward),
            Side::Tcp => (&mut line.inward, &mut line.outward),
        };
        if readiness.readable {
            from.source_ready();
        }
        if readiness.writable {
            to.sink_ready();
        }
        if readiness.closed {
            line.closing = Some(side);
        }
        !std::mem::replace(&mut line.queued, true)
    }

    /// Moves one turn's share of bytes on one line.
    ///
    /// # Errors
    /// The end of the session.
    pub fn step(&mut self, kind: LinkKind) -> Result<Stepped, PairEnd> {
        let line = self.lines.get_mut(kind);
        let stepped = line.step()?;
        line.queued = stepped.more;
        Ok(stepped)
    }

    /// Bytes that went to the peer and came from it on one link.
    pub fn moved(&self, kind: LinkKind) -> (u64, u64) {
        let line = self.lines.get(kind);
        (line.outward.moved, line.inward.moved)
    }

    /// Ends the session: pipes first, then the connections by reset, and the links last, so that the module hears of the
    /// end only when nothing of this session can leave this machine any more.
    pub fn close(self, reactor: &mut Reactor) {
        let mut links = Vec::with_capacity(2);
        for line in self.lines.into_array() {
            reactor.forget(line.link_watch);
            drop((line.outward, line.inward));
            line.tcp.abort(reactor);
            links.push(line.link);
        }
    }
}

impl Line {
    fn step(&mut self) -> Result<Stepped, PairEnd> {
        let kind = self.kind;
        let outward = self.outward.step(&self.link, &self.tcp.stream);
        outward.map_err(|end| match end {
            FlowEnd::Source(_) => PairEnd::Link(kind, end),
            FlowEnd::Sink(_) => PairEnd::Tcp(kind, end),
        })?;
        let inward = self.inward.step(&self.tcp.stream, &self.link);
        let taken = inward.map_err(|end| match end {
            FlowEnd::Source(_) => PairEnd::Tcp(kind, end),
            FlowEnd::Sink(_) => PairEnd::Link(kind, end),
        })?;
        // What had arrived before an end closed has been passed on as far as the other end took it.
        match self.closing {
            Some(Side::Link) => return Err(PairEnd::Link(kind, FlowEnd::Source(None))),
            Some(Side::Tcp) => return Err(PairEnd::Tcp(kind, FlowEnd::Source(None))),
            None => {}
        }
        Ok(Stepped {
            heard: taken > 0,
            more: self.outward.is_ready() || self.inward.is_ready(),
        })
    }
}
