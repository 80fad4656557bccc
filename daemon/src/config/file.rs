// SPDX-License-Identifier: GPL-2.0-only

//! The file as it is written: keys, types and where each value stands. Meaning is judged in [`super::check`].

use super::ConfigError;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: Spanned<Cluster>,
    #[serde(default)]
    pub(super) daemon: Daemon,
    #[serde(default, rename = "node")]
    pub(super) nodes: Vec<Spanned<Node>>,
    #[serde(default, rename = "resource")]
    pub(super) resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) name: Spanned<String>,
    pub(super) security: Option<Spanned<String>>,
    pub(super) ping_interval_ms: Option<Spanned<u64>>,
    pub(super) ping_misses: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Daemon {
    pub(super) log: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Spanned<String>,
    pub(super) id: Spanned<u32>,
    pub(super) address: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: Spanned<String>,
    pub(super) protocol: Option<Spanned<String>>,
    #[serde(rename = "tie-breakers")]
    pub(super) tie_breakers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) quorum: Option<Spanned<String>>,
    #[serde(rename = "on-no-quorum")]
    pub(super) on_no_quorum: Option<Spanned<String>>,
    pub(super) nodes: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) fencing: Option<Spanned<String>>,
    #[serde(rename = "two-primaries")]
    pub(super) two_primaries: Option<Spanned<String>>,
    #[serde(rename = "resync-min-rate")]
    pub(super) resync_min_rate: Option<Spanned<String>>,
    #[serde(rename = "resync-max-rate")]
    pub(super) resync_max_rate: Option<Spanned<String>>,
    #[serde(rename = "resync-latency-target")]
    pub(super) resync_latency_target: Option<Spanned<u32>>,
    #[serde(rename = "csums-resync")]
    pub(super) csums_resync: Option<Spanned<String>>,
    #[serde(rename = "on-congestion")]
    pub(super) on_congestion: Option<Spanned<String>>,
    #[serde(rename = "congestion-fill")]
    pub(super) congestion_fill: Option<Spanned<String>>,
    #[serde(default, rename = "peer")]
    pub(super) peers: BTreeMap<Spanned<String>, Peer>,
    #[serde(rename = "resync-after")]
    pub(super) resync_after: Option<Spanned<String>>,
    #[serde(rename = "auto-promote")]
    pub(super) auto_promote: Option<Spanned<String>>,
    #[serde(rename = "auto-promote-timeout")]
    pub(super) auto_promote_timeout: Option<Spanned<u32>>,
    #[serde(rename = "split-brain-0")]
    pub(super) split_brain_0: Option<Spanned<String>>,
    #[serde(rename = "split-brain-1")]
    pub(super) split_brain_1: Option<Spanned<String>>,
    #[serde(rename = "split-brain-2")]
    pub(super) split_brain_2: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) handlers: Handlers,
    #[serde(default, rename = "volume")]
    pub(super) volumes: Vec<Volume>,
}

/// What a primary does about one peer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    #[serde(rename = "on-congestion")]
    pub(super) on_congestion: Option<Spanned<String>>,
}

/// Programs that the daemon runs.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Handlers {
    pub(super) fence_peer: Option<Spanned<String>>,
    pub(super) fence_peer_timeout: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Volume {
    pub(super) id: Spanned<u32>,
    pub(super) minor: Spanned<u32>,
    #[serde(rename = "block-size")]
    pub(super) block_bytes: Option<Spanned<u32>>,
    pub(super) disk: Option<Spanned<String>>,
    pub(super) meta: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) on: BTreeMap<Spanned<String>, Override>,
}

/// What differs on one node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Override {
    pub(super) disk: Option<Spanned<String>>,
    pub(super) meta: Option<Spanned<String>>,
}

pub(super) fn read(text: &str) -> Result<File, ConfigError> {
    toml::from_str(text)
        .map_err(|error| ConfigError::at(text, error.span(), error.message().to_owned()))
}
