// SPDX-License-Identifier: GPL-2.0-only

//! Connections that have come in and have not said who they are.
//!
//! Anybody can open them, so there are few of them, each has little time, and none delays another.

use super::assembler::Assembler;
use super::socket::Socket;
use crate::events::{GuestId, Reactor, Source, Timer};
use mio::net::TcpStream;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weft_uapi::peer::Hello;

/// At most so many at once; a further one pushes the oldest out.
const INBOUND_MAX: usize = 128;
/// Time for the whole hello.
const HELLO_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Stranger {
    connection: Socket,
    address: SocketAddr,
    hello: Assembler<{ size_of::<Hello>() }>,
    deadline: Instant,
}

/// A connection with a well-formed hello.
#[derive(Debug)]
pub struct Greeting {
    /// The hello; nothing in it is believed yet.
    pub hello: Hello,
    /// The connection.
    pub connection: Socket,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inbound {
    strangers: BTreeMap<GuestId, Stranger>,
    count: u64,
}

impl Inbound {
    /// Takes an accepted connection in.
    ///
    /// # Errors
    /// When it cannot be watched; it is closed then.
    pub fn admit(
        &mut self,
        reactor: &mut Reactor,
        stream: TcpStream,
        address: SocketAddr,
        now: Instant,
    ) -> io::Result<()> {
        if self.strangers.len() >= INBOUND_MAX {
            if let Some((_, oldest)) = self.strangers.pop_first() {
                log::debug!("{}: pushed out without a hello", oldest.address);
                oldest.connection.abort(reactor);
            }
        }
        let id = GuestId(self.count);
        self.count += 1;
        let watch = reactor.watch(&stream, Source::Inbound(id))?;
        let deadline = now + HELLO_MAX;
        reactor.arm(deadline, Timer::Inbound(id));
        let stranger = Stranger {
            connection: Socket { stream, watch },
            address,
            hello: Assembler::default(),
            deadline,
        };
        self.strangers.insert(id, stranger);
        Ok(())
    }

    /// Reads on; the greeting once it is complete. What is no hello is closed without a word.
    pub fn on_ready(&mut self, reactor: &mut Reactor, id: GuestId) -> Option<Greeting> {
        let stranger = self.strangers.get_mut(&id)?;
        let fault = match stranger.hello.read_from(&mut stranger.connection.stream) {
            Ok(None) => return None,
            Ok(Some(bytes)) => match Hello::parse(&bytes) {
                Ok(hello) => {
                    let stranger = self.strangers.remove(&id)?;
                    return Some(Greeting {
                        hello,
                        connection: stranger.connection,
                        address: stranger.address,
                    });
                }
                Err(error) => format!("{error:?}"),
            },
            Err(error) => error.to_string(),
        };
        self.turn_away(reactor, id, &fault);
        None
    }

    /// The time for a hello may be over.
    pub fn on_timer(&mut self, reactor: &mut Reactor, id: GuestId, now: Instant) {
        if self
            .strangers
            .get(&id)
            .is_some_and(|stranger| stranger.deadline <= now)
        {
            self.turn_away(reactor, id, "late");
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.strangers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.strangers.is_empty()
    }

    fn turn_away(&mut self, reactor: &mut Reactor, id: GuestId, why: &str) {
        if let Some(stranger) = self.strangers.remove(&id) {
            log::debug!("{}: no valid hello: {why}", stranger.address);
            stranger.connection.abort(reactor);
        }
    }
}
