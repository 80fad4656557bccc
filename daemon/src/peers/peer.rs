// SPDX-License-Identifier: GPL-2.0-only

//! One other node: the control connection to it, or the way to one.
//!
//! ```text
//!          the time has come, we dial         welcome
//!   Apart ---------------------------> Dialling ------> Up
//!     ^ |                                 |              |
//!     | |  the peer dialled and is welcome               |
//!     | +------------------------------------------> Up  |
//!     +--------- failed, refused, late ---+--- ended ----+
//! ```

use super::backoff::Backoff;
use super::channel::{Channel, ChannelEnd, Heartbeat};
use super::dial::Dial;
use super::identity::{judge_reply, Identity};
use super::socket::Socket;
use crate::config::Node;
use crate::events::{Reactor, Source, Timer};
use crate::reactor::Readiness;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weft_uapi::peer;
use weft_uapi::units::NodeId;

const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// A dialled peer answers within this time or is tried again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What changed for the rest of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// Nothing, but more frames may be waiting.
    More,
    /// The peer's daemon answers.
    Up,
    /// It does not any more.
    Down,
}

/// See the module.
#[derive(Debug)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its daemon listens.
    pub address: SocketAddr,
    /// Whether this side dials.
    pub dials: bool,
    heartbeat: Heartbeat,
    /// When this daemon started; zero of the pings' clock.
    clock: Instant,
    state: State,
    retry: Backoff,
    /// Why there is no connection, or why the last one ended.
    pub trouble: Option<String>,
    /// Control connections so far.
    pub connects: u64,
}

#[derive(Debug)]
enum State {
    Apart { next_attempt: Option<Instant> },
    Dialling { dial: Dial, deadline: Instant },
    Up { channel: Channel, since: Instant },
}

impl Peer {
    /// A peer of this node, not connected.
    pub fn new(node: &Node, own: NodeId, heartbeat: Heartbeat, clock: Instant) -> Self {
        Self {
            node: node.id,
            name: node.name.clone(),
            address: node.address,
            dials: own > node.id,
            heartbeat,
            clock,
            state: State::Apart { next_attempt: None },
            retry: Backoff::new(RETRY_BASE, RETRY_CAP),
            trouble: None,
            connects: 0,
        }
    }

    /// Whether its daemon answers.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The control channel and since when.
    pub fn channel(&self) -> Option<(&Channel, Instant)> {
        match &self.state {
            State::Up { channel, since, .. } => Some((channel, *since)),
            _ => None,
        }
    }

    /// When the next attempt is due, and how many have failed.
    pub fn next_attempt(&self) -> (Option<Instant>, u32) {
        let at = match self.state {
            State::Apart { next_attempt } => next_attempt,
            _ => None,
        };
        (at, self.retry.attempt())
    }

    /// The state's name, for status.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Apart { .. } if self.dials => "waiting",
            State::Apart { .. } => "listening",
            State::Dialling { .. } => "dialling",
            State::Up { .. } => "connected",
        }
    }

    /// A link of this peer delivered something.
    pub fn hear(&mut self) {
        if let State::Up { channel, .. } = &mut self.state {
            channel.hear();
        }
    }

    /// Dials if this is the side to do so and it is not connected.
    pub fn dial(&mut self, reactor: &mut Reactor, identity: &Identity, now: Instant) {
        if !self.dials || !matches!(self.state, State::Apart { .. }) {
            return;
        }
        let started = identity
            .hello(self.node, peer::Channel::Control, None)
            .ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
            .and_then(|hello| {
                let source = Source::Peer(self.node);
                Dial::start(reactor, source, self.address, hello, self.heartbeat.limit())
            });
        match started {
            Ok(dial) => {
                let deadline = now + ANSWER_MAX;
                reactor.arm(deadline, Timer::Peer(self.node));
                self.state = State::Dialling { dial, deadline };
            }
            Err(error) => self.fail(reactor, now, format!("dialling {}: {error}", self.address)),
        }
    }

    /// The peer dialled and is welcome: takes the connection over. One that was up before is stale and closed.
    pub fn welcome(&mut self, reactor: &mut Reactor, socket: Socket, boot: u64, now: Instant) {
        self.close(reactor);
        reactor.reassign(socket.watch, Source::Peer(self.node));
        self.go_up(reactor, socket, boot, now);
    }

    /// Whether a hello of `boot` must be turned away: another machine with the same node id is connected and alive.
    pub fn is_taken(&self, boot: u64) -> bool {
        matches!(&self.state, State::Up { channel, .. } if channel.boot != boot && channel.misses() == 0)
    }

    /// The control connection is ready.
    pub fn on_ready(
        &mut self,
        reactor: &mut Reactor,
        readiness: Readiness,
        now: Instant,
    ) -> Change {
        match &mut self.state {
            State::Apart { .. } => Change::None,
            State::Dialling { .. } => self.on_dial_ready(reactor, readiness, now),
            State::Up { channel, .. } => match channel.on_ready(readiness, now) {
                Ok(true) => Change::More,
                Ok(false) => Change::None,
                Err(end) => self.end(reactor, now, &end),
            },
        }
    }

    fn on_dial_ready(
        &mut self,
        reactor: &mut Reactor,
        readiness: Readiness,
        now: Instant,
    ) -> Change {
        let State::Dialling { dial, .. } = &mut self.state else {
            return Change::None;
        };
        let answered = match dial.advance(readiness) {
            Ok(None) => return Change::None,
            Ok(Some(reply)) => judge_reply(&reply)
                .map(|()| reply.boot.get())
                .map_err(|refused| refused.why),
            Err(error) => Err(format!("{}: {error}", self.address)),
        };
        match answered {
            Ok(boot) => {
                let apart = State::Apart { next_attempt: None };
                if let State::Dialling { dial, .. } = std::mem::replace(&mut self.state, apart) {
                    self.go_up(reactor, dial.into_socket(), boot, now);
                }
                Change::Up
            }
            Err(why) => {
                self.fail(reactor, now, why);
                Change::None
            }
        }
    }

    /// A deadline, a ping or an attempt may be due.
    pub fn on_timer(&mut self, reactor: &mut Reactor, identity: &Identity, now: Instant) -> Change {
        match &mut self.state {
            State::Apart {
                next_attempt: Some(at),
            } if *at <= now => self.dial(reactor, identity, now),
            State::Dialling { deadline, .. } if *deadline <= now => {
                self.fail(reactor, now, format!("{}: no answer in time", self.address));
            }
            State::Up { channel, .. } if channel.next_ping() <= now => match channel.tick(now) {
                Ok(()) => reactor.arm(channel.next_ping(), Timer::Peer(self.node)),
                Err(end) => return self.end(reactor, now, &end),
            },
            _ => {}
        }
        Change::None
    }

    /// Takes over what a new configuration says. `true`: the connection was closed because the peer moved.
    pub fn reconfigure(
        &mut self,
        reactor: &mut Reactor,
        node: &Node,
        heartbeat: Heartbeat,
        now: Instant,
    ) -> Change {
        self.name.clone_from(&node.name);
        self.heartbeat = heartbeat;
        if let State::Up { channel, .. } = &mut self.state {
            channel.set_heartbeat(heartbeat);
        }
        if self.address == node.address {
            return Change::None;
        }
        self.address = node.address;
        let was_up = self.is_up();
        self.fail(reactor, now, "its address was changed".to_owned());
        if was_up {
            Change::Down
        } else {
            Change::None
        }
    }

    /// Says goodbye and closes.
    pub fn leave(&mut self, reactor: &mut Reactor, now: Instant) {
        if let State::Up { channel, .. } = &mut self.state {
            channel.say_bye(now);
        }
        self.close(reactor);
    }

    fn go_up(&mut self, reactor: &mut Reactor, socket: Socket, boot: u64, now: Instant) {
        log::info!("node {} ({}) is connected", self.node, self.name);
        let channel = Channel::new(socket, boot, self.heartbeat, self.clock, now);
        reactor.arm(channel.next_ping(), Timer::Peer(self.node));
        self.state = State::Up {
            channel,
            since: now,
        };
        self.retry.reset();
        self.trouble = None;
        self.connects += 1;
    }

    fn end(&mut self, reactor: &mut Reactor, now: Instant, end: &ChannelEnd) -> Change {
        self.fail(reactor, now, end.to_string());
        Change::Down
    }

    /// Closes what there is, notes why and plans the next attempt.
    fn fail(&mut self, reactor: &mut Reactor, now: Instant, why: String) {
        self.close(reactor);
        if self.trouble.as_deref() != Some(&why) {
            log::warn!("node {} ({}) is not connected: {why}", self.node, self.name);
            self.trouble = Some(why);
        }
        if self.dials {
            let at = now + self.retry.fail();
            self.state = State::Apart {
                next_attempt: Some(at),
            };
            reactor.arm(at, Timer::Peer(self.node));
        }
    }

    fn close(&mut self, reactor: &mut Reactor) {
        match std::mem::replace(&mut self.state, State::Apart { next_attempt: None }) {
            State::Apart { .. } => {}
            State::Dialling { dial, .. } => dial.into_socket().abort(reactor),
            // Politely, so that a goodbye arrives.
            State::Up { channel, .. } => reactor.forget(channel.into_socket().watch),
        }
    }
}
