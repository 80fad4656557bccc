// SPDX-License-Identifier: GPL-2.0-only

//! The module's offers, and the links that come of them.

use super::{Daemon, Failure};
use crate::events::{ConnectionId, Work};
use crate::fencing::Handler;
use crate::kernel::device::{messages, Message};
use crate::links::connection::Connection;
use crate::links::kind::LinkKind;
use crate::links::pair::Side;
use crate::peers::peer::Peer;
use crate::reactor::Readiness;
use std::time::Instant;
use weft_uapi::control::{name_of, LinkOffer, KERN_WITHDRAWN, MESSAGE_BYTES_MAX};
use weft_uapi::units::NodeId;
use weft_uapi::version::CONTROL_ABI;

impl Daemon {
    pub(super) fn on_device(&mut self, now: Instant) -> Result<(), Failure> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        while let Some(length) = self.device.receive(&mut buffer).map_err(Failure::Device)? {
            for message in messages(buffer.get(..length).unwrap_or(&[])) {
                match message {
                    Ok(Message::Offer(offer)) => self.on_offer(&offer, now),
                    Ok(Message::Memory(question)) => self.helpers.ask(&question),
                    Ok(Message::Fence(question)) => {
                        let handler = Handler::of(&question, &self.config, self.identity.node);
                        self.helpers.fence(&question, handler);
                    }
                    Err(bytes) => log::warn!(
                        "the module sent {bytes} bytes that are no message that this daemon knows"
                    ),
                }
            }
        }
        Ok(())
    }

    /// Threads have done something for the module. An answer that is lost is asked for again.
    pub(super) fn on_helpers(&mut self) {
        while let Some(answer) = self.helpers.next_answer() {
            if let Err(error) = self.device.send(&answer) {
                log::warn!("answering the module: {error}");
            }
        }
    }

    fn on_offer(&mut self, offer: &LinkOffer, now: Instant) {
        let (node, resource) = match self.check_offer(offer) {
            Ok(checked) => checked,
            Err(why) => return log::error!("an offer of the module is left alone: {why}"),
        };
        let withdrawn = offer.header.kind == KERN_WITHDRAWN;
        let id = match self.find_connection(node, &resource) {
            Some(id) => id,
            None if withdrawn => return,
            None => self.add_connection(node, &resource),
        };
        let (mut context, connections) = self.linking(now);
        if let Some(connection) = connections.get_mut(&id) {
            connection.on_offer(&mut context, offer);
            if withdrawn && connection.is_idle() {
                connections.remove(&id);
            }
        }
        self.dial_link(id, now);
    }

    /// Peer and resource of an offer that makes sense here.
    fn check_offer(&self, offer: &LinkOffer) -> Result<(NodeId, String), String> {
        if offer.abi != CONTROL_ABI {
            return Err(format!(
                "the module speaks ABI {}, this daemon {CONTROL_ABI}; install the same version of both",
                offer.abi
            ));
        }
        let resource = name_of(&offer.resource).filter(|name| !name.is_empty());
        let resource = resource.ok_or("the name of the resource is malformed")?;
        if offer.node != u32::from(self.identity.node.get()) {
            return Err(format!(
                "in the module this node has id {} in resource {resource}, in the configuration {}",
                offer.node, self.identity.node
            ));
        }
        let peer = NodeId::new(offer.peer).ok_or("the node id of the peer is out of range")?;
        if !self.peers.contains_key(&peer) {
            // It may come with the next reload.
            log::warn!("resource {resource} has a peer {peer} that is not configured");
        }
        Ok((peer, resource.to_owned()))
    }

    pub(super) fn find_connection(&self, node: NodeId, resource: &str) -> Option<ConnectionId> {
        let mut all = self.connections.iter();
        all.find(|(_, connection)| connection.peer == node && connection.resource == resource)
            .map(|(&id, _)| id)
    }

    fn add_connection(&mut self, node: NodeId, resource: &str) -> ConnectionId {
        let id = ConnectionId(self.connection_count);
        self.connection_count += 1;
        self.connections
            .insert(id, Connection::new(id, resource, node));
        id
    }

    /// Dials everything of a peer that is ready to be dialled.
    pub(super) fn dial_links(&mut self, node: NodeId, now: Instant) {
        let ids: Vec<_> = self
            .connections
            .values()
            .filter(|connection| connection.peer == node)
            .map(Connection::id)
            .collect();
        for id in ids {
            self.dial_link(id, now);
        }
    }

    fn dial_link(&mut self, id: ConnectionId, now: Instant) {
        let peer = self
            .connections
            .get(&id)
            .and_then(|connection| self.peers.get(&connection.peer));
        let Some(address) = peer
            .filter(|peer| peer.dials && peer.is_up())
            .map(|peer| peer.address)
        else {
            return;
        };
        let (mut context, connections) = self.linking(now);
        if let Some(connection) = connections.get_mut(&id) {
            connection.try_dial(&mut context, address);
        }
    }

    pub(super) fn on_connection_timer(&mut self, id: ConnectionId, now: Instant) {
        let (mut context, connections) = self.linking(now);
        if let Some(connection) = connections.get_mut(&id) {
            connection.on_timer(&mut context);
        }
        self.dial_link(id, now);
    }

    pub(super) fn on_half_ready(
        &mut self,
        id: ConnectionId,
        kind: LinkKind,
        readiness: Readiness,
        now: Instant,
    ) {
        let (mut context, connections) = self.linking(now);
        let runs = connections
            .get_mut(&id)
            .is_some_and(|connection| connection.on_half_ready(&mut context, kind, readiness));
        if runs {
            self.start_lines(id);
        }
    }

    /// A pair runs: bytes may be waiting at all its ends.
    pub(super) fn start_lines(&mut self, id: ConnectionId) {
        self.work
            .extend(LinkKind::ALL.map(|kind| Work::Line(id, kind)));
    }

    pub(super) fn on_line_ready(
        &mut self,
        id: ConnectionId,
        kind: LinkKind,
        side: Side,
        readiness: Readiness,
    ) {
        let connection = self.connections.get_mut(&id);
        if connection.is_some_and(|connection| connection.on_line_ready(kind, side, readiness)) {
            self.work.push_back(Work::Line(id, kind));
        }
    }

    pub(super) fn on_line_work(&mut self, id: ConnectionId, kind: LinkKind, now: Instant) {
        let (mut context, connections) = self.linking(now);
        let Some(connection) = connections.get_mut(&id) else {
            return;
        };
        let node = connection.peer;
        match connection.step(&mut context, kind) {
            Some(stepped) => {
                if stepped.more {
                    self.work.push_back(Work::Line(id, kind));
                }
                if stepped.heard {
                    self.peers.get_mut(&node).map(Peer::hear);
                }
            }
            // The session has ended, and the module's next offers may be here already.
            None => self.dial_link(id, now),
        }
    }
}
