// SPDX-License-Identifier: GPL-2.0-only

//! The daemon's state as it shows it.

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Report {
    /// Version of the daemon.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Id of this node.
    pub node_id: u8,
    /// Name of this node.
    pub node: String,
    /// Where it listens.
    pub address: String,
    /// Connections that have not said who they are.
    pub strangers: usize,
    /// All other nodes.
    pub peers: Vec<PeerReport>,
}

/// One other node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct PeerReport {
    /// Its id.
    pub node_id: u8,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether this node dials (else it listens).
    pub dials: bool,
    /// `connected`, `dialling`, `waiting` or `listening`.
    pub state: String,
    /// Milliseconds since it is connected.
    pub connected_ms: Option<u64>,
    /// Milliseconds until the next attempt.
    pub next_attempt_ms: Option<u64>,
    /// Failed attempts in a row.
    pub failed_attempts: u32,
    /// Last measured round trip, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Ping intervals without any sign of life.
    pub missed_pings: u32,
    /// Control connections since the daemon's start.
    pub connects: u64,
    /// Why it is not connected.
    pub trouble: Option<String>,
    /// Its resources.
    pub connections: Vec<ConnectionReport>,
}

/// One resource of a peer.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct ConnectionReport {
    /// Name of the resource.
    pub resource: String,
    /// `running`, `dialling`, `joining`, `waiting` or `no offers`.
    pub state: String,
    /// This side's number of the running session, in hexadecimal.
    pub session: Option<String>,
    /// Milliseconds since it runs.
    pub running_ms: Option<u64>,
    /// Sessions that ran.
    pub sessions: u64,
    /// Milliseconds until the next attempt.
    pub next_attempt_ms: Option<u64>,
    /// Why no session runs.
    pub trouble: Option<String>,
    /// The links of the running session.
    pub links: Vec<LinkReport>,
}

/// One link of a running session.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct LinkReport {
    /// `data` or `meta`.
    pub kind: String,
    /// Bytes that went to the peer.
    pub sent_bytes: u64,
    /// Bytes that came from it.
    pub received_bytes: u64,
}
