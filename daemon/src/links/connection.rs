// SPDX-License-Identifier: GPL-2.0-only

//! One resource and one peer: from the module's offers to a running pair, again and again.
//!
//! ```text
//!            offers complete,                both welcome,
//!            peer up, we dial                links accepted
//!   Idle ------------------------> Dialling ----------------> Running
//!    |  ^                             | refused, failed, late    |
//!    |  +-----------------------------+---------- anything ends -+
//!    |  +-----------------------------+                          |
//!    v  |        late, failed, other session                     |
//!   Joining -----------------------------------------------------+
//!      ^ first hello of the peer         second hello
//! ```

mod dial;
mod join;

pub use join::Answer;

use super::kind::{ByKind, LinkKind};
use super::offers::Offers;
use super::pair::{Pair, Side, Stepped};
use crate::events::{ConnectionId, Reactor, Timer};
use crate::kernel::device::ControlDevice;
use crate::peers::backoff::Backoff;
use crate::peers::identity::Identity;
use crate::peers::socket::Socket;
use crate::reactor::Readiness;
use dial::Attempt;
use nix::libc;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use weft_uapi::control::{LinkAccept, LinkOffer, KERN_WITHDRAWN};
use weft_uapi::units::NodeId;
use weft_uapi::version::CONTROL_ABI;

const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(1);
/// Both channels must be up within this time.
const SETUP_MAX: Duration = Duration::from_secs(5);
/// A session that lasted shorter counts as a failed attempt, so that a pair of modules which cannot agree is not
/// reconnected in a tight loop.
const SETTLED: Duration = Duration::from_secs(2);
/// When a link's connection is given up although the peer's daemon lives: its bytes stay unacknowledged or its
/// window stays shut for this long.
pub const LINK_PATIENCE: Duration = Duration::from_secs(40);

/// What a connection needs from its surroundings.
pub struct Context<'a> {
    /// For descriptors and timers.
    pub reactor: &'a mut Reactor,
    /// For accepting links.
    pub device: &'a mut dyn ControlDevice,
    /// For hellos.
    pub identity: &'a Identity,
    /// The time of this turn.
    pub now: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    /// Name of the resource.
    pub resource: String,
    /// The peer.
    pub peer: NodeId,
    offers: Option<Offers>,
    state: State,
    retry: Backoff,
    retry_at: Option<Instant>,
    /// Why the last session ended or the last attempt failed.
    pub trouble: Option<String>,
    /// Sessions that ran.
    pub sessions: u64,
}

#[derive(Debug)]
enum State {
    Idle,
    Dialling {
        attempts: Box<ByKind<Attempt>>,
        deadline: Instant,
    },
    Joining {
        peer_session: u64,
        halves: ByKind<Option<Socket>>,
        deadline: Instant,
    },
    Running {
        peer_session: u64,
        pair: Pair,
    },
}

impl Connection {
    /// Nothing offered yet.
    pub fn new(id: ConnectionId, resource: &str, peer: NodeId) -> Self {
        Self {
            id,
            resource: resource.to_owned(),
            peer,
            offers: None,
            state: State::Idle,
            retry: Backoff::new(RETRY_BASE, RETRY_CAP),
            retry_at: None,
            trouble: None,
            sessions: 0,
        }
    }

    /// Its number.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the module wants nothing of it and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.offers.is_none() && matches!(self.state, State::Idle)
    }

    /// The running pair.
    pub fn pair(&self) -> Option<&Pair> {
        match &self.state {
            State::Running { pair, .. } => Some(pair),
            _ => None,
        }
    }

    /// The state's name, for status.
    pub fn state_name(&self) -> &'static str {
        match (&self.state, &self.offers) {
            (State::Idle, None) => "no offers",
            (State::Idle, Some(_)) => "waiting",
            (State::Dialling { .. }, _) => "dialling",
            (State::Joining { .. }, _) => "joining",
            (State::Running { .. }, _) => "running",
        }
    }

    /// When the next attempt is due, while one is.
    pub fn next_attempt(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The module offers a link or withdraws.
    pub fn on_offer(&mut self, context: &mut Context<'_>, offer: &LinkOffer) {
        if offer.header.kind == KERN_WITHDRAWN {
            if self.session() == Some(offer.session) {
                self.end(context, "the module ended the session");
            }
            self.offers = self.offers.filter(|offers| offers.session != offer.session);
            return;
        }
        if self
            .session()
            .is_some_and(|session| session != offer.session)
        {
            self.end(context, "the module began another session");
        }
        let mut offers = self
            .offers
            .filter(|offers| offers.session == offer.session)
            .unwrap_or_else(|| Offers::of(offer.session));
        if let Some(kind) = LinkKind::of_message(offer.header.kind) {
            offers.note(kind, offer.offer);
        }
        self.offers = Some(offers);
    }

    /// This side's session that the current state works for.
    fn session(&self) -> Option<u64> {
        match &self.state {
            State::Idle => None,
            State::Dialling { .. } | State::Joining { .. } => {
                self.offers.map(|offers| offers.session)
            }
            State::Running { pair, .. } => Some(pair.session),
        }
    }

    /// The peer's daemon came up: try now whatever was before.
    pub fn on_peer_up(&mut self) {
        self.retry.reset();
        self.retry_at = None;
    }

    /// The peer's daemon is gone or the connection is not wanted any more: nothing of it goes on.
    pub fn give_up(&mut self, context: &mut Context<'_>, why: &str) {
        if !matches!(self.state, State::Idle) {
            self.end(context, why);
        }
        self.retry_at = None;
    }

    /// A channel that is being set up is ready. `true`: the pair runs now.
    pub fn on_half_ready(
        &mut self,
        context: &mut Context<'_>,
        kind: LinkKind,
        readiness: Readiness,
    ) -> bool {
        match &self.state {
            State::Dialling { .. } => self.on_dial_ready(context, kind, readiness),
            State::Joining { .. } => {
                // The peer sends nothing before both sides run, except an end.
                if readiness.readable {
                    self.end(context, "the peer gave the attempt up");
                }
                false
            }
            State::Idle | State::Running { .. } => false,
        }
    }

    /// Acknowledges both offers.
    fn accept_links(
        &mut self,
        context: &mut Context<'_>,
        peer_session: u64,
    ) -> io::Result<ByKind<OwnedFd>> {
        let offers = self.offers.and_then(|offers| offers.complete());
        let numbers = offers.ok_or(io::ErrorKind::NotFound)?;
        let accepted = ByKind::try_new(|kind| {
            context.device.accept(&LinkAccept {
                abi: CONTROL_ABI,
                kind: kind.message(),
                offer: *numbers.get(kind),
                peer_session,
            })
        });
        // An offer that the module refuses to honour is void; for any other error it stays open.
        let errno = accepted.as_ref().err().and_then(io::Error::raw_os_error);
        if errno.is_some_and(|errno| [libc::ENOENT, libc::EPROTO, libc::EBUSY].contains(&errno)) {
            self.offers = None;
        }
        accepted
    }

    fn run(
        &mut self,
        context: &mut Context<'_>,
        peer_session: u64,
        links: ByKind<OwnedFd>,
        connections: ByKind<Socket>,
    ) -> bool {
        let session = self.offers.take().map_or(0, |offers| offers.session);
        match Pair::start(
            context.reactor,
            context.device,
            self.id,
            session,
            links,
            connections,
            context.now,
        ) {
            Ok(pair) => {
                log::info!(
                    "{} to node {}: session {session:x} runs",
                    self.resource,
                    self.peer
                );
                self.sessions += 1;
                self.trouble = None;
                self.state = State::Running { peer_session, pair };
                true
            }
            Err(error) => {
                self.fail(context, &format!("starting the session: {error}"));
                false
            }
        }
    }

    /// An end of the running pair is ready. `true`: a step is due.
    pub fn on_line_ready(&mut self, kind: LinkKind, side: Side, readiness: Readiness) -> bool {
        match &mut self.state {
            State::Running { pair, .. } => pair.on_ready(kind, side, readiness),
            _ => false,
        }
    }

    /// Moves one share of bytes; `None`: nothing runs (any more).
    pub fn step(&mut self, context: &mut Context<'_>, kind: LinkKind) -> Option<Stepped> {
        let State::Running { pair, .. } = &mut self.state else {
            return None;
        };
        match pair.step(context.device, kind) {
            Ok(stepped) => Some(stepped),
            Err(end) => {
                self.end(context, &end.to_string());
                None
            }
        }
    }

    /// The time of a deadline or an attempt may have come.
    pub fn on_timer(&mut self, context: &mut Context<'_>) {
        match self.state {
            State::Dialling { deadline, .. } if deadline <= context.now => {
                self.fail(context, "the peer did not answer in time");
            }
            State::Joining { deadline, .. } if deadline <= context.now => {
                self.end(context, "the peer did not dial the other channel in time");
            }
            _ => {}
        }
    }

    /// An attempt failed: the next one later.
    fn fail(&mut self, context: &mut Context<'_>, why: &str) {
        let at = context.now + self.retry.fail();
        self.end(context, why);
        self.retry_at = Some(at);
        context.reactor.arm(at, Timer::Connection(self.id));
    }

    /// Closes what there is and notes why.
    fn end(&mut self, context: &mut Context<'_>, why: &str) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {}
            State::Dialling { attempts, .. } => {
                for attempt in attempts.into_array() {
                    attempt.dial.into_socket().abort(context.reactor);
                }
            }
            State::Joining { halves, .. } => {
                for half in halves.into_array().into_iter().flatten() {
                    half.abort(context.reactor);
                }
            }
            State::Running { pair, .. } => {
                log::warn!(
                    "{} to node {}: session {:x} ended: {why}",
                    self.resource,
                    self.peer,
                    pair.session
                );
                let lasted = context.now.duration_since(pair.since);
                pair.close(context.reactor);
                if lasted >= SETTLED {
                    self.retry.reset();
                } else {
                    let at = context.now + self.retry.fail();
                    self.retry_at = Some(at);
                    context.reactor.arm(at, Timer::Connection(self.id));
                }
            }
        }
        if self.trouble.as_deref() != Some(why) {
            log::debug!("{} to node {}: {why}", self.resource, self.peer);
            self.trouble = Some(why.to_owned());
        }
    }
}
