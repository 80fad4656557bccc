// SPDX-License-Identifier: GPL-2.0-only

//! The dialling side: both channels, until the peer has welcomed both to the same session.

use super::{Connection, Context, State, LINK_PATIENCE, SETUP_MAX};
use crate::events::{Source, Timer};
use crate::links::kind::{ByKind, LinkKind};
use crate::peers::dial::Dial;
use crate::peers::identity::{judge_reply, Place};
use crate::reactor::Readiness;
use std::io;
use std::net::SocketAddr;

/// One dialled channel.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) dial: Dial,
    /// The peer's session, once welcome.
    peer_session: Option<u64>,
}

impl Connection {
    /// Dials both channels when everything is there and the time has come. To be called only on the dialling side and
    /// while the peer's daemon is connected.
    pub fn try_dial(&mut self, context: &mut Context<'_>, address: SocketAddr) {
        let waiting = self.retry_at.is_some_and(|at| context.now < at);
        let Some(offers) = self.offers.filter(|offers| offers.complete().is_some()) else {
            return;
        };
        if waiting || !matches!(self.state, State::Idle) {
            return;
        }
        self.retry_at = None;
        let place = Place {
            resource: self.resource.clone(),
            session: offers.session,
        };
        match self.dial_both(context, address, &place) {
            Ok(attempts) => {
                let deadline = context.now + SETUP_MAX;
                context.reactor.arm(deadline, Timer::Connection(self.id));
                self.state = State::Dialling {
                    attempts: Box::new(attempts),
                    deadline,
                };
            }
            Err(error) => self.fail(context, &format!("dialling {address}: {error}")),
        }
    }

    fn dial_both(
        &self,
        context: &mut Context<'_>,
        address: SocketAddr,
        place: &Place,
    ) -> io::Result<ByKind<Attempt>> {
        let mut dial = |kind: LinkKind| {
            let hello = context
                .identity
                .hello(self.peer, kind.channel(), Some(place));
            let hello = hello.ok_or(io::ErrorKind::InvalidInput)?;
            let source = Source::Half(self.id, kind);
            let dial = Dial::start(context.reactor, source, address, hello, LINK_PATIENCE)?;
            Ok::<_, io::Error>(Attempt {
                dial,
                peer_session: None,
            })
        };
        let data = dial(LinkKind::Data)?;
        match dial(LinkKind::Meta) {
            Ok(meta) => Ok(ByKind { data, meta }),
            Err(error) => {
                data.dial.into_socket().abort(context.reactor);
                Err(error)
            }
        }
    }

    /// A dialled channel is ready. `true`: the pair runs now.
    pub(super) fn on_dial_ready(
        &mut self,
        context: &mut Context<'_>,
        kind: LinkKind,
        readiness: Readiness,
    ) -> bool {
        let State::Dialling { attempts, .. } = &mut self.state else {
            return false;
        };
        let attempt = attempts.get_mut(kind);
        if attempt.peer_session.is_some() {
            // The peer sends nothing before both sides run, except an end.
            if readiness.closed {
                self.fail(context, "the peer gave the session up");
            }
            return false;
        }
        let welcome = match attempt.dial.advance(readiness) {
            Ok(None) => return false,
            Ok(Some(reply)) => judge_reply(&reply)
                .map(|()| reply.session.get())
                .map_err(|refused| refused.why),
            Err(error) => Err(error.to_string()),
        };
        match welcome {
            Ok(session) => {
                attempt.peer_session = Some(session);
                self.on_welcome(context)
            }
            Err(why) => {
                self.fail(context, &why);
                false
            }
        }
    }

    /// One dialled channel is welcome; when both are, the session starts.
    fn on_welcome(&mut self, context: &mut Context<'_>) -> bool {
        let State::Dialling { attempts, .. } = &self.state else {
            return false;
        };
        let (Some(data), Some(meta)) = (attempts.data.peer_session, attempts.meta.peer_session)
        else {
            return false;
        };
        if data != meta {
            self.fail(
                context,
                "the peer changed its session between the two channels",
            );
            return false;
        }
        let State::Dialling { attempts, .. } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return false;
        };
        let connections = ByKind {
            data: attempts.data.dial.into_socket(),
            meta: attempts.meta.dial.into_socket(),
        };
        match self.accept_links(context, data) {
            Ok(links) => self.run(context, data, links, connections),
            Err(error) => {
                connections
                    .into_array()
                    .into_iter()
                    .for_each(|half| half.abort(context.reactor));
                self.fail(context, &format!("accepting the module's links: {error}"));
                false
            }
        }
    }
}
