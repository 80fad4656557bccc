// SPDX-License-Identifier: GPL-2.0-only

//! To whom descriptors, timers and deferred work belong.

use crate::links::kind::LinkKind;
use crate::reactor;
use weft_uapi::units::NodeId;

/// The daemon's reactor.
pub type Reactor = reactor::Reactor<Source, Timer>;

/// Number of a connection (one resource and one peer); never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// Number of something that came in from outside: a connection without hello, or a client; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GuestId(pub u64);

/// Owner of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Where orders come from.
    Orders,
    /// The control device.
    Device,
    /// The socket that peers dial.
    Listener,
    /// A connection that has not said who it is.
    Inbound(GuestId),
    /// The control connection of a peer, or the attempt at one.
    Peer(NodeId),
    /// A data or meta connection on its way to become a pair.
    Half(ConnectionId, LinkKind),
    /// The link end of a running pair.
    Link(ConnectionId, LinkKind),
    /// The network end of a running pair.
    Tcp(ConnectionId, LinkKind),
    /// The socket that local clients connect to.
    ClientListener,
    /// A local client.
    Client(GuestId),
    /// Threads that do what may take its time.
    Helpers,
}

/// Whom to remind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// Tell the module which nodes are connected.
    ConnState,
    /// An inbound connection's time for its hello is over.
    Inbound(GuestId),
    /// A peer's next attempt, deadline or ping.
    Peer(NodeId),
    /// A connection's next attempt or deadline.
    Connection(ConnectionId),
}

/// Work that was cut short to let others have their turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Accept more connections.
    Accept,
    /// Read more frames of a peer.
    Peer(NodeId),
    /// Move more bytes of a running pair.
    Line(ConnectionId, LinkKind),
}
