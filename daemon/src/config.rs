// SPDX-License-Identifier: GPL-2.0-only

//! The configuration file, the same on every node: what it may say and what is made of it.
//!
//! [`Config::parse`] checks everything before anybody opens a socket or a disk; a [`Config`] that exists is valid.

mod check;
mod congestion;
mod error;
mod fencing;
mod file;
mod opening;
mod quorum;
mod resync;
mod split_brain;

pub use error::ConfigError;

use log::LevelFilter;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use weft_uapi::congestion::Congestion;
use weft_uapi::limits::NAME_MAX;
use weft_uapi::resync::{Csums, Speed};
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{AutoPromote, Fencing, OnNoQuorum, Protocol, TwoPrimaries};
use weft_uapi::units::{Minor, NodeId, NodeSet, VolumeId};

/// Where the file is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/weft/weft.toml";

/// A checked configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What all nodes share.
    pub cluster: Cluster,
    /// How much the daemon logs.
    pub log: LevelFilter,
    /// All nodes, by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// All resources in the order of the file.
    pub resources: Vec<Resource>,
}

/// What all nodes share.
#[derive(Clone, PartialEq, Debug)]
pub struct Cluster {
    /// Name; nodes of another cluster are turned away.
    pub name: String,
    /// Time between two pings of a peer.
    pub ping_interval: Duration,
    /// A peer is given up after this many pings without any sign of life.
    pub ping_misses: u32,
}

/// One machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Its host name, or what its daemon is told with `--node`.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// Where its daemon listens.
    pub address: SocketAddr,
}

/// A named group of volumes.
#[derive(Clone, PartialEq, Debug)]
pub struct Resource {
    /// Name.
    pub name: String,
    /// When a write is complete.
    pub protocol: Protocol,
    /// The nodes that have it.
    pub nodes: NodeSet,
    /// Those of them that keep no disk.
    pub tie_breakers: NodeSet,
    /// Those of them that vote; none: there is no quorum.
    pub voters: NodeSet,
    /// What becomes of requests without quorum.
    pub on_no_quorum: OnNoQuorum,
    /// What is done about a peer out of reach.
    pub fencing: Fencing,
    /// Whether two nodes may be primary at the same time.
    pub two_primaries: TwoPrimaries,
    /// What opening a device does to the role.
    pub auto_promotion: AutoPromotion,
    /// What is done about a split brain.
    pub policies: Policies,
    /// How fast a node serves resyncs.
    pub speed: Speed,
    /// What a primary does about nodes that do not keep up with its writes.
    pub congestion: Congestion,
    /// Whether a node asks by digest for what it has to fetch.
    pub csums: Csums,
    /// The resource whose resyncs on a node come first.
    pub resync_after: Option<String>,
    /// The program that fences a peer.
    pub fence_peer: Option<FencePeer>,
    /// Its volumes in the order of the file.
    pub volumes: Vec<Volume>,
}

/// Whether opening a device makes a node primary.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AutoPromotion {
    /// Whether it does.
    pub mode: AutoPromote,
    /// For how long an open waits for that, in seconds.
    pub timeout_s: u32,
}

/// A program that makes sure that a peer does not go on.
#[derive(Clone, PartialEq, Debug)]
pub struct FencePeer {
    /// Its path.
    pub program: String,
    /// It is killed after so long.
    pub timeout: Duration,
}

/// One replicated block device.
#[derive(Clone, PartialEq, Debug)]
pub struct Volume {
    /// Number within the resource.
    pub id: VolumeId,
    /// N of `/dev/weftN`.
    pub minor: Minor,
    /// Logical block size of the device on every node, in bytes; `None`: that of the node's disk.
    pub block_bytes: Option<u32>,
    /// The disk of each node of the resource that is no tie-breaker.
    pub disks: BTreeMap<NodeId, Backing>,
}

/// Where a node keeps a volume.
#[derive(Clone, PartialEq, Debug)]
pub struct Backing {
    /// Path of the disk.
    pub disk: String,
    /// Path of the metadata device; `None`: at the end of the disk.
    pub meta: Option<String>,
}

impl Backing {
    /// The metadata place as the module wants it: `internal` or a path.
    pub fn meta_argument(&self) -> &str {
        self.meta.as_deref().unwrap_or("internal")
    }
}

impl Resource {
    /// What a node does about the others when they do not keep up.
    pub fn congestion_on(&self, node: NodeId) -> Congestion {
        Congestion {
            pull_ahead: self.congestion.pull_ahead.without(node),
            ..self.congestion
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With path, line, column and cause.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// With line, column and cause.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        check::check(file::read(text)?)
            .map_err(|fault| ConfigError::at(text, Some(fault.span), fault.message))
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The resource with this name.
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.name == name)
    }

    /// The node that this machine is: `name` when given, else the host name, also without its domain.
    ///
    /// # Errors
    /// When no such node is configured.
    pub fn this_node(&self, name: Option<&str>) -> Result<&Node, ConfigError> {
        let found = match name {
            Some(name) => self.node(name),
            None => host_names().iter().find_map(|host| self.node(host)),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = self.nodes.values().map(|node| node.name.as_str()).collect();
            ConfigError::general(format!(
                "this machine is called '{}', but the configured nodes are: {}; rename one or say --node NAME",
                name.map_or_else(host_name, str::to_owned),
                names.join(", ")
            ))
        })
    }
}

/// Whether this may be the name of a node or a resource: names go into paths, messages and shell commands.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// What this machine is called, in full and in short.
pub fn host_names() -> [String; 2] {
    let host = host_name();
    let short = host.split('.').next().unwrap_or_default().to_owned();
    [host, short]
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
