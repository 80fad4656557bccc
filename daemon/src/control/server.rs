// SPDX-License-Identifier: GPL-2.0-only

//! The listening side of the control socket.
//!
//! A client is read no faster than it takes its answers, so a slow one costs a bounded amount of memory and delays
//! nobody.

use super::{Reply, Request};
use crate::events::{GuestId, Reactor, Source};
use crate::reactor::Watch;
use mio::net::{UnixListener, UnixStream};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// Clients at once; a further one waits until one leaves.
const CLIENTS_MAX: usize = 64;
/// Longest request, in bytes.
const REQUEST_MAX: usize = 4096;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    watch: Watch,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: BTreeMap<GuestId, Client>,
    count: u64,
}

impl Server {
    /// Serves a bound, listening socket.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn new(
        reactor: &mut Reactor,
        listener: std::os::unix::net::UnixListener,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener);
        reactor.watch(&listener, Source::ClientListener)?;
        Ok(Self {
            listener,
            clients: BTreeMap::new(),
            count: 0,
        })
    }

    /// Takes waiting clients in, as far as there is room; the others go on waiting.
    pub fn on_accept(&mut self, reactor: &mut Reactor) {
        while self.clients.len() < CLIENTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("control socket: {error}");
                    return;
                }
            };
            let id = GuestId(self.count);
            let Ok(watch) = reactor.watch(&stream, Source::Client(id)) else {
                continue;
            };
            self.count += 1;
            let client = Client {
                stream,
                watch,
                incoming: Vec::new(),
                outgoing: Vec::new(),
            };
            self.clients.insert(id, client);
        }
    }

    /// The next request of a client that is ready; `None` when there is none now, or the client is gone.
    /// Each request is to be answered by [`reply`](Self::reply) before the next one is asked for.
    pub fn next_request(&mut self, reactor: &mut Reactor, id: GuestId) -> Option<Request> {
        let client = self.clients.get_mut(&id)?;
        if let Ok(request) = client.next_request() {
            return request;
        }
        // Gone, or breaking the rules.
        reactor.forget(client.watch);
        self.clients.remove(&id);
        self.on_accept(reactor);
        None
    }

    /// Answers a client; a reply to one that is gone is dropped.
    pub fn reply(&mut self, id: GuestId, reply: &Reply) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.queue(reply);
        }
    }
}

impl Client {
    fn next_request(&mut self) -> io::Result<Option<Request>> {
        loop {
            self.flush()?;
            if !self.outgoing.is_empty() {
                return Ok(None);
            }
            if let Some(end) = self.incoming.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.incoming.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(request) => return Ok(Some(request)),
                    Err(error) => self.queue(&Reply::fault(0, "bad-request", error.to_string())),
                }
                continue;
            }
            if self.incoming.len() > REQUEST_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn queue(&mut self, reply: &Reply) {
        // Writing to memory and keys that are strings: neither can fail.
        if serde_json::to_writer(&mut self.outgoing, reply).is_ok() {
            self.outgoing.push(b'\n');
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
