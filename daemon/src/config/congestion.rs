// SPDX-License-Identifier: GPL-2.0-only

//! What a primary does about peers that do not keep up with its writes.

use super::check::{fault, Checked};
use super::file::Resource;
use super::Node;
use crate::view::units::bytes_of;
use std::collections::BTreeMap;
use toml::Spanned;
use weft_uapi::congestion::{Congestion, OnCongestion, FILL_MAX, FILL_MIN};
use weft_uapi::units::{NodeId, NodeSet};

/// Of all nodes with a disk, whoever is primary: those that it goes ahead of, and from how much on.
pub(super) fn congestion(
    raw: &Resource,
    disks: NodeSet,
    nodes: &BTreeMap<NodeId, Node>,
) -> Checked<Congestion> {
    let of_all = policy(raw.on_congestion.as_ref())?.unwrap_or_default();
    let mut pull_ahead = match of_all {
        OnCongestion::PullAhead => disks,
        OnCongestion::Block => NodeSet::EMPTY,
    };
    for (name, towards) in &raw.peers {
        let found = nodes.values().find(|node| node.name == *name.get_ref());
        let id = found.map(|node| node.id).filter(|&id| disks.contains(id));
        let id = id.ok_or_else(|| {
            let message = format!(
                "'{}' is no node with a disk of this resource",
                name.get_ref()
            );
            fault(name, message)
        })?;
        pull_ahead = match policy(towards.on_congestion.as_ref())? {
            Some(OnCongestion::PullAhead) => pull_ahead.with(id),
            Some(OnCongestion::Block) => pull_ahead.without(id),
            None => pull_ahead,
        };
    }
    let fill = raw
        .congestion_fill
        .as_ref()
        .map_or(Ok(Congestion::default().fill), fill)?;
    Ok(Congestion { pull_ahead, fill })
}

fn policy(raw: Option<&Spanned<String>>) -> Checked<Option<OnCongestion>> {
    raw.map(|value| {
        OnCongestion::from_name(value.get_ref())
            .ok_or_else(|| fault(value, "on-congestion is \"block\" or \"pull-ahead\""))
    })
    .transpose()
}

fn fill(raw: &Spanned<String>) -> Checked<u64> {
    let what = "congestion-fill";
    let bytes = bytes_of(raw.get_ref()).map_err(|error| fault(raw, format!("{what}: {error}")))?;
    match (FILL_MIN..=FILL_MAX).contains(&bytes) {
        true => Ok(bytes),
        false => Err(fault(raw, format!("{what} is 4K to 6M, in bytes"))),
    }
}
