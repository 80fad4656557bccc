// SPDX-License-Identifier: GPL-2.0-only

//! The daemon's state for those who ask.

use super::Daemon;
use crate::control::report::{ConnectionReport, LinkReport, PeerReport, Report};
use crate::control::{Reply, Request};
use crate::events::GuestId;
use crate::links::connection::Connection;
use crate::links::kind::LinkKind;
use crate::peers::peer::Peer;
use std::time::{Duration, Instant};

impl Daemon {
    pub(super) fn on_client(&mut self, id: GuestId, now: Instant) {
        while let Some(request) = self.server.next_request(&mut self.reactor, id) {
            let reply = self.answer(&request, now);
            self.server.reply(id, &reply);
        }
    }

    fn answer(&self, request: &Request, now: Instant) -> Reply {
        match request.method.as_str() {
            "status" => match serde_json::to_value(self.report(now)) {
                Ok(report) => Reply::result(request.id, report),
                Err(error) => Reply::fault(request.id, "internal", error.to_string()),
            },
            method => Reply::fault(
                request.id,
                "unknown-method",
                format!("there is no method '{method}'"),
            ),
        }
    }

    /// Writes the state to the log.
    pub(super) fn dump(&self, now: Instant) {
        match serde_json::to_string(&self.report(now)) {
            Ok(text) => log::info!("state: {text}"),
            Err(error) => log::error!("state: {error}"),
        }
    }

    fn report(&self, now: Instant) -> Report {
        let own = self.config.nodes.get(&self.identity.node);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: now.duration_since(self.started).as_secs(),
            cluster: self.config.cluster.name.clone(),
            node_id: self.identity.node.get(),
            node: own.map(|node| node.name.clone()).unwrap_or_default(),
            address: own.map(|node| node.address.to_string()).unwrap_or_default(),
            strangers: self.inbound.len(),
            peers: self
                .peers
                .values()
                .map(|peer| self.peer_report(peer, now))
                .collect(),
        }
    }

    fn peer_report(&self, peer: &Peer, now: Instant) -> PeerReport {
        let channel = peer.channel();
        let (next_attempt, failed_attempts) = peer.next_attempt();
        let connections = self
            .connections
            .values()
            .filter(|connection| connection.peer == peer.node);
        PeerReport {
            node_id: peer.node.get(),
            name: peer.name.clone(),
            address: peer.address.to_string(),
            dials: peer.dials,
            state: peer.state_name().to_owned(),
            connected_ms: channel.map(|(_, since)| millis(now.duration_since(since))),
            next_attempt_ms: next_attempt.map(|at| millis(at.saturating_duration_since(now))),
            failed_attempts,
            round_trip_us: channel
                .and_then(|(channel, _)| channel.round_trip())
                .map(|time| time.as_micros() as u64),
            missed_pings: channel.map_or(0, |(channel, _)| channel.misses()),
            connects: peer.connects,
            trouble: peer.trouble.clone(),
            connections: connections
                .map(|connection| connection_report(connection, peer.dials, now))
                .collect(),
        }
    }
}

fn connection_report(connection: &Connection, dials: bool, now: Instant) -> ConnectionReport {
    let pair = connection.pair();
    let link = |kind: LinkKind| {
        pair.map(|pair| {
            let (sent_bytes, received_bytes) = pair.moved(kind);
            LinkReport {
                kind: kind.name().to_owned(),
                sent_bytes,
                received_bytes,
            }
        })
    };
    ConnectionReport {
        resource: connection.resource.clone(),
        state: connection.state_name().to_owned(),
        session: pair.map(|pair| format!("{:x}", pair.session)),
        running_ms: pair.map(|pair| millis(now.duration_since(pair.since))),
        sessions: connection.sessions,
        next_attempt_ms: connection
            .next_attempt()
            .filter(|_| dials)
            .map(|at| millis(at.saturating_duration_since(now))),
        trouble: connection.trouble.clone(),
        links: LinkKind::ALL.into_iter().filter_map(link).collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
