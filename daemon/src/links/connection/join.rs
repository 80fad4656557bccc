// SPDX-License-Identifier: GPL-2.0-only

//! The dialled side: channels that the peer brings, until both of one session are there.

use super::{Connection, Context, State, SETUP_MAX};
use crate::events::{Source, Timer};
use crate::links::kind::{ByKind, LinkKind};
use crate::peers::socket::Socket;
use weft_uapi::peer::Verdict;

/// What an answer to a hello has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// This side's session when welcome.
    pub session: u64,
}

impl Connection {
    /// The peer greets with a data or meta channel: whether it is welcome. When it is, [`join`](Self::join) follows.
    pub fn on_hello(
        &mut self,
        context: &mut Context<'_>,
        kind: LinkKind,
        peer_session: u64,
    ) -> Answer {
        let refusal = |verdict| Answer {
            verdict,
            session: 0,
        };
        match &self.state {
            State::Running {
                peer_session: running,
                ..
            } if *running == peer_session => {
                return refusal(Verdict::Duplicate);
            }
            State::Running { .. } => self.end(context, "the peer began another session"),
            State::Joining {
                peer_session: joining,
                ..
            } if *joining != peer_session => {
                self.end(context, "the peer began another session");
            }
            State::Joining { halves, .. } => {
                // The dialler dials a channel again only when its own end of the first is dead.
                if halves.get(kind).is_some() {
                    self.end(context, "the peer dialled again");
                }
            }
            State::Idle | State::Dialling { .. } => {}
        }
        match self.offers.filter(|offers| offers.complete().is_some()) {
            Some(offers) => Answer {
                verdict: Verdict::Welcome,
                session: offers.session,
            },
            None => refusal(Verdict::NotReady),
        }
    }

    /// Takes a welcome channel of the peer; its answer has been sent. `true`: the pair runs now.
    pub fn join(
        &mut self,
        context: &mut Context<'_>,
        kind: LinkKind,
        peer_session: u64,
        half: Socket,
    ) -> bool {
        context
            .reactor
            .reassign(half.watch, Source::Half(self.id, kind));
        if matches!(self.state, State::Idle) {
            let deadline = context.now + SETUP_MAX;
            context.reactor.arm(deadline, Timer::Connection(self.id));
            self.state = State::Joining {
                peer_session,
                halves: ByKind::default(),
                deadline,
            };
        }
        let State::Joining {
            mut halves,
            deadline,
            ..
        } = std::mem::replace(&mut self.state, State::Idle)
        else {
            half.abort(context.reactor);
            return false;
        };
        *halves.get_mut(kind) = Some(half);
        let connections = match halves.complete() {
            Ok(connections) => connections,
            Err(halves) => {
                self.state = State::Joining {
                    peer_session,
                    halves,
                    deadline,
                };
                return false;
            }
        };
        match self.accept_links(context, peer_session) {
            Ok(links) => self.run(context, peer_session, links, connections),
            Err(error) => {
                connections
                    .into_array()
                    .into_iter()
                    .for_each(|half| half.abort(context.reactor));
                self.trouble = Some(format!("accepting the module's links: {error}"));
                false
            }
        }
    }
}
