// SPDX-License-Identifier: GPL-2.0-only

//! Connections that come in, and peers that come and go.

use super::{heartbeat, Daemon};
use crate::config::Config;
use crate::events::{GuestId, Work};
use crate::links::connection::LINK_PATIENCE;
use crate::links::kind::LinkKind;
use crate::peers::identity::{Caller, Place, Refused};
use crate::peers::inbound::Greeting;
use crate::peers::peer::{Change, Peer};
use crate::peers::socket::{self, Socket};
use crate::reactor::Readiness;
use std::io::{self, Write};
use std::time::Instant;
use weft_uapi::peer::{HelloReply, Verdict};
use weft_uapi::units::NodeId;
use zerocopy::IntoBytes;

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 16;

impl Daemon {
    pub(super) fn on_listener(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    if let Err(error) = self.inbound.admit(&mut self.reactor, stream, address, now)
                    {
                        log::warn!("{address}: {error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The connection died before it was accepted; the next one may be waiting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: whoever waits will dial again.
                    log::warn!("accepting a connection: {error}");
                    return;
                }
            }
        }
        self.work.push_back(Work::Accept);
    }

    pub(super) fn on_inbound(&mut self, id: GuestId, now: Instant) {
        let Some(greeting) = self.inbound.on_ready(&mut self.reactor, id) else {
            return;
        };
        match self
            .identity
            .judge(&greeting.hello, |node| self.peers.contains_key(&node))
        {
            Ok(caller) => self.on_caller(caller, greeting, now),
            Err(refused) => self.refuse(greeting, &refused),
        }
    }

    fn on_caller(&mut self, caller: Caller, greeting: Greeting, now: Instant) {
        match (LinkKind::of_channel(caller.channel), caller.place) {
            (Some(kind), Some(place)) => {
                self.on_link_caller(caller.node, kind, &place, greeting, now)
            }
            _ => self.on_control_caller(caller.node, caller.boot, greeting, now),
        }
    }

    fn on_control_caller(&mut self, node: NodeId, boot: u64, greeting: Greeting, now: Instant) {
        let Some(peer) = self.peers.get(&node) else {
            return greeting.connection.abort(&mut self.reactor);
        };
        if peer.is_taken(boot) {
            let refused = Refused {
                verdict: Verdict::Duplicate,
                why: format!("another machine with node id {node} is connected"),
            };
            return self.refuse(greeting, &refused);
        }
        let patience = heartbeat(&self.config).limit();
        let reply = self
            .identity
            .reply(Verdict::Welcome, greeting.hello.features.get(), 0);
        let mut connection = greeting.connection;
        if let Err(error) = socket::prepare(&connection.stream, patience)
            .and_then(|()| send(&mut connection, &reply))
        {
            log::debug!("{}: {error}", greeting.address);
            return connection.abort(&mut self.reactor);
        }
        // An older connection of the peer is stale, and so are its sessions.
        if peer.is_up() {
            self.on_peer_change(node, Change::Down, now);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.welcome(&mut self.reactor, connection, boot, now);
        }
        self.on_peer_change(node, Change::Up, now);
    }

    fn on_link_caller(
        &mut self,
        node: NodeId,
        kind: LinkKind,
        place: &Place,
        greeting: Greeting,
        now: Instant,
    ) {
        let is_up = self.peers.get(&node).is_some_and(Peer::is_up);
        let id = self
            .find_connection(node, &place.resource)
            .filter(|_| is_up);
        let Some(id) = id else {
            let refused = Refused {
                verdict: Verdict::NotReady,
                why: format!("{} to node {node}: not ready", place.resource),
            };
            return self.refuse(greeting, &refused);
        };
        let (mut context, connections) = self.linking(now);
        let Some(target) = connections.get_mut(&id) else {
            return;
        };
        let answer = target.on_hello(&mut context, kind, place.session);
        if answer.verdict != Verdict::Welcome {
            let refused = Refused {
                verdict: answer.verdict,
                why: format!("{} to node {node}: {}", place.resource, answer.verdict),
            };
            return self.refuse(greeting, &refused);
        }
        let features = greeting.hello.features.get();
        let reply = context
            .identity
            .reply(Verdict::Welcome, features, answer.session);
        let mut connection = greeting.connection;
        if let Err(error) = socket::prepare(&connection.stream, LINK_PATIENCE)
            .and_then(|()| send(&mut connection, &reply))
        {
            log::debug!("{}: {error}", greeting.address);
            return connection.abort(context.reactor);
        }
        if target.join(&mut context, kind, place.session, connection) {
            self.start_lines(id);
        }
    }

    /// Answers with a verdict and closes.
    fn refuse(&mut self, greeting: Greeting, refused: &Refused) {
        // A peer that is early is nothing to worry about.
        let level = match refused.verdict {
            Verdict::NotReady => log::Level::Debug,
            _ => log::Level::Warn,
        };
        log::log!(level, "{}: refused: {refused}", greeting.address);
        let reply = self
            .identity
            .reply(refused.verdict, greeting.hello.features.get(), 0);
        let mut connection = greeting.connection;
        // Whoever does not take the answer does not get one.
        let _ = send(&mut connection, &reply);
        self.reactor.forget(connection.watch);
    }

    pub(super) fn on_peer_ready(&mut self, node: NodeId, readiness: Readiness, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            let change = peer.on_ready(&mut self.reactor, readiness, now);
            self.on_peer_change(node, change, now);
        }
    }

    pub(super) fn on_peer_timer(&mut self, node: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            let change = peer.on_timer(&mut self.reactor, &self.identity, now);
            self.on_peer_change(node, change, now);
        }
    }

    /// Control up: sessions may begin. Control down: they all end.
    fn on_peer_change(&mut self, node: NodeId, change: Change, now: Instant) {
        match change {
            Change::None => {}
            Change::More => self.work.push_back(Work::Peer(node)),
            Change::Up => {
                // The first frames may have come with the answer to the hello.
                self.work.push_back(Work::Peer(node));
                let (_, connections) = self.linking(now);
                for connection in connections
                    .values_mut()
                    .filter(|connection| connection.peer == node)
                {
                    connection.on_peer_up();
                }
                self.dial_links(node, now);
            }
            Change::Down => {
                let (mut context, connections) = self.linking(now);
                for connection in connections
                    .values_mut()
                    .filter(|connection| connection.peer == node)
                {
                    connection.give_up(&mut context, "the peer's daemon is not connected");
                }
            }
        }
    }

    /// Takes over what may change while running: log level, heartbeat, peers and their addresses.
    pub(super) fn reload(&mut self, now: Instant) {
        let config = match Config::load(&self.config_path) {
            Ok(config) => config,
            Err(error) => return log::error!("the old configuration stays: {error}"),
        };
        let before = (
            self.config.cluster.name.as_str(),
            self.config.nodes.get(&self.identity.node),
        );
        if before
            != (
                config.cluster.name.as_str(),
                config.nodes.get(&self.identity.node),
            )
        {
            return log::error!("the old configuration stays: cluster name, own name or own address changed; restart weftd for that");
        }
        log::set_max_level(config.log);
        let gone: Vec<_> = self
            .peers
            .keys()
            .copied()
            .filter(|node| !config.nodes.contains_key(node))
            .collect();
        for node in gone {
            self.on_peer_change(node, Change::Down, now);
            if let Some(mut peer) = self.peers.remove(&node) {
                peer.leave(&mut self.reactor, now);
            }
        }
        let heartbeat = heartbeat(&config);
        let own = self.identity.node;
        for node in config.nodes.values().filter(|node| node.id != own) {
            match self.peers.get_mut(&node.id) {
                Some(peer) => {
                    let change = peer.reconfigure(&mut self.reactor, node, heartbeat, now);
                    self.on_peer_change(node.id, change, now);
                }
                None => {
                    let mut peer = Peer::new(node, own, heartbeat, self.started);
                    peer.dial(&mut self.reactor, &self.identity, now);
                    self.peers.insert(node.id, peer);
                }
            }
        }
        self.config = config;
        log::info!("configuration reloaded");
    }
}

/// Sends an answer to a hello. A connection that has no room for it is broken.
fn send(connection: &mut Socket, reply: &HelloReply) -> io::Result<()> {
    let count = connection.stream.write(reply.as_bytes())?;
    if count == size_of::<HelloReply>() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
