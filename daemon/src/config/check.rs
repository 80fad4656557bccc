// SPDX-License-Identifier: GPL-2.0-only

//! From the file as it is written to a configuration that holds together.

use super::file::{self, File};
use super::{
    congestion, fencing, is_name, opening, quorum, resync, split_brain, Backing, Cluster, Config,
    Node, Resource, Volume,
};
use log::LevelFilter;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;
use weft_uapi::limits::{
    is_block_size, BLOCK_BYTES_MAX, MINORS_MAX, NAME_MAX, NODES_MAX, PATH_MAX, SECTOR_BYTES,
    VOLUMES_MAX,
};
use weft_uapi::state::{Protocol, TwoPrimaries};
use weft_uapi::units::{Minor, NodeId, NodeSet, VolumeId};

const PING_INTERVAL_MS: RangeInclusive<u64> = 50..=60_000;
const PING_INTERVAL_MS_DEFAULT: u64 = 1000;
const PING_MISSES: RangeInclusive<u32> = 1..=100;
const PING_MISSES_DEFAULT: u32 = 4;

/// What is wrong, and which bytes of the text say it.
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

pub(super) type Checked<T> = Result<T, Fault>;

pub(super) fn fault<T>(at: &Spanned<T>, message: impl Into<String>) -> Fault {
    Fault {
        span: at.span(),
        message: message.into(),
    }
}

/// The values of one kind that are taken, to find duplicates across the file.
struct Taken<V> {
    what: &'static str,
    values: BTreeSet<V>,
}

impl<V: Ord + Clone> Taken<V> {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            values: BTreeSet::new(),
        }
    }

    fn claim<T>(
        &mut self,
        value: V,
        at: &Spanned<T>,
        shown: impl std::fmt::Display,
    ) -> Checked<()> {
        if self.values.insert(value) {
            Ok(())
        } else {
            Err(fault(at, format!("{} {shown} is used twice", self.what)))
        }
    }
}

pub(super) fn check(file: File) -> Checked<Config> {
    let cluster = cluster(file.cluster.get_ref())?;
    let log = log_level(file.daemon.log.as_ref())?;
    let nodes = nodes(&file)?;
    let resources = resources(&file.resources, &nodes)?;
    Ok(Config {
        cluster,
        log,
        nodes,
        resources,
    })
}

fn cluster(raw: &file::Cluster) -> Checked<Cluster> {
    name("cluster name", &raw.name)?;
    security(raw)?;
    Ok(Cluster {
        name: raw.name.get_ref().clone(),
        ping_interval: Duration::from_millis(within(
            "ping_interval_ms",
            raw.ping_interval_ms.as_ref(),
            PING_INTERVAL_MS,
            PING_INTERVAL_MS_DEFAULT,
        )?),
        ping_misses: within(
            "ping_misses",
            raw.ping_misses.as_ref(),
            PING_MISSES,
            PING_MISSES_DEFAULT,
        )?,
    })
}

fn security(raw: &file::Cluster) -> Checked<()> {
    const NO_TLS: &str =
        "this version has no encryption yet: say security = \"none\" in [cluster] to accept \
                          that data and control messages cross the network in the clear";
    match &raw.security {
        None => Err(fault(
            &raw.name,
            format!("security is \"tls\" by default, and {NO_TLS}"),
        )),
        Some(value) => match value.get_ref().as_str() {
            "none" => Ok(()),
            "tls" => Err(fault(value, NO_TLS)),
            _ => Err(fault(value, "security is \"tls\" or \"none\"")),
        },
    }
}

fn log_level(raw: Option<&Spanned<String>>) -> Checked<LevelFilter> {
    let Some(level) = raw else {
        return Ok(LevelFilter::Info);
    };
    level
        .get_ref()
        .parse()
        .map_err(|_| fault(level, "log is one of off, error, warn, info, debug, trace"))
}

fn nodes(file: &File) -> Checked<BTreeMap<NodeId, Node>> {
    let mut nodes = BTreeMap::new();
    let mut names = Taken::new("node name");
    let mut addresses = Taken::new("address");
    for (count, entry) in file.nodes.iter().enumerate() {
        if count == NODES_MAX {
            return Err(fault(entry, format!("more than {NODES_MAX} nodes")));
        }
        let raw = entry.get_ref();
        name("node name", &raw.name)?;
        names.claim(raw.name.get_ref().clone(), &raw.name, raw.name.get_ref())?;
        let id = node_id(&raw.id)?;
        let address = address(&raw.address)?;
        addresses.claim(address, &raw.address, address)?;
        let node = Node {
            name: raw.name.get_ref().clone(),
            id,
            address,
        };
        if nodes.insert(id, node).is_some() {
            return Err(fault(&raw.id, format!("node id {id} is used twice")));
        }
    }
    if nodes.is_empty() {
        return Err(fault(&file.cluster, "the cluster has no [[node]]"));
    }
    Ok(nodes)
}

fn node_id(raw: &Spanned<u32>) -> Checked<NodeId> {
    NodeId::new(*raw.get_ref())
        .ok_or_else(|| fault(raw, format!("a node id is 0 to {}", NODES_MAX - 1)))
}

fn address(raw: &Spanned<String>) -> Checked<SocketAddr> {
    let address: SocketAddr = raw.get_ref().parse().map_err(|_| {
        fault(
            raw,
            "an address is IP:PORT, for example \"10.9.0.1:7790\" or \"[fd00::1]:7790\"",
        )
    })?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(fault(
            raw,
            "peers cannot reach this address: name one IP address and a port above 0",
        ));
    }
    Ok(address)
}

fn resources(all: &[file::Resource], nodes: &BTreeMap<NodeId, Node>) -> Checked<Vec<Resource>> {
    let mut names = Taken::new("resource name");
    let mut minors = Taken::new("minor");
    let mut disks = Taken::new("disk");
    let mut resources = Vec::new();
    for raw in all {
        name("resource name", &raw.name)?;
        if raw.name.get_ref() == "all" {
            return Err(fault(
                &raw.name,
                "'all' stands for every resource and cannot be the name of one",
            ));
        }
        names.claim(raw.name.get_ref().clone(), &raw.name, raw.name.get_ref())?;
        let members = members(raw, nodes)?;
        let tie_breakers = tie_breakers(raw, members, nodes)?;
        let disks_on = NodeSet(members.0 & !tie_breakers.0);
        let mut volumes = Vec::new();
        let mut ids = Taken::new("volume id");
        for raw_volume in &raw.volumes {
            let volume = volume(raw_volume, &raw.name, disks_on, nodes, &mut disks)?;
            ids.claim(volume.id.0, &raw_volume.id, volume.id)?;
            minors.claim(volume.minor.0, &raw_volume.minor, volume.minor)?;
            volumes.push(volume);
        }
        if volumes.is_empty() {
            return Err(fault(&raw.name, "the resource has no [[resource.volume]]"));
        }
        let voters = quorum::voters(raw, disks_on, tie_breakers)?;
        resources.push(Resource {
            name: raw.name.get_ref().clone(),
            protocol: protocol(raw.protocol.as_ref())?,
            nodes: members,
            tie_breakers,
            voters,
            on_no_quorum: quorum::on_no_quorum(raw, voters)?,
            fencing: fencing::policy(raw)?,
            fence_peer: fencing::program(raw)?,
            two_primaries: two_primaries(raw.two_primaries.as_ref())?,
            auto_promotion: opening::auto_promotion(raw)?,
            policies: split_brain::policies(raw, voters)?,
            speed: resync::speed(raw)?,
            congestion: congestion::congestion(raw, disks_on, nodes)?,
            csums: resync::csums(raw)?,
            resync_after: raw.resync_after.as_ref().map(|it| it.get_ref().clone()),
            volumes,
        });
    }
    resync::order(all)?;
    Ok(resources)
}

fn two_primaries(raw: Option<&Spanned<String>>) -> Checked<TwoPrimaries> {
    raw.map_or(Ok(TwoPrimaries::default()), |value| {
        TwoPrimaries::from_name(value.get_ref())
            .ok_or_else(|| fault(value, "two-primaries is \"allowed\" or \"refused\""))
    })
}

fn protocol(raw: Option<&Spanned<String>>) -> Checked<Protocol> {
    raw.map_or(Ok(Protocol::C), |raw| {
        Protocol::from_name(raw.get_ref())
            .ok_or_else(|| fault(raw, "protocol is \"A\", \"B\" or \"C\""))
    })
}

/// The nodes of a resource: those it lists, or all.
fn members(raw: &file::Resource, nodes: &BTreeMap<NodeId, Node>) -> Checked<NodeSet> {
    let Some(listed) = &raw.nodes else {
        return Ok(nodes.keys().fold(NodeSet::EMPTY, |set, &id| set.with(id)));
    };
    let members = set(listed.get_ref(), nodes)?;
    if members.is_empty() {
        return Err(fault(listed, "the resource has no node"));
    }
    Ok(members)
}

/// The nodes of a resource that keep no disk.
fn tie_breakers(
    raw: &file::Resource,
    members: NodeSet,
    nodes: &BTreeMap<NodeId, Node>,
) -> Checked<NodeSet> {
    let Some(listed) = &raw.tie_breakers else {
        return Ok(NodeSet::EMPTY);
    };
    let tie_breakers = set(listed.get_ref(), nodes)?;
    if tie_breakers.0 & !members.0 != 0 {
        return Err(fault(listed, "a tie-breaker is not among the nodes"));
    }
    if tie_breakers == members {
        return Err(fault(listed, "no node with a disk is left"));
    }
    Ok(tie_breakers)
}

/// The nodes with these names.
fn set(names: &[Spanned<String>], nodes: &BTreeMap<NodeId, Node>) -> Checked<NodeSet> {
    let mut set = NodeSet::EMPTY;
    for entry in names {
        let id = configured(entry, nodes)?;
        if set.contains(id) {
            return Err(fault(
                entry,
                format!("node {} is listed twice", entry.get_ref()),
            ));
        }
        set = set.with(id);
    }
    Ok(set)
}

fn configured(raw: &Spanned<String>, nodes: &BTreeMap<NodeId, Node>) -> Checked<NodeId> {
    nodes
        .values()
        .find(|node| node.name == *raw.get_ref())
        .map(|node| node.id)
        .ok_or_else(|| fault(raw, format!("there is no node '{}'", raw.get_ref())))
}

fn volume(
    raw: &file::Volume,
    resource: &Spanned<String>,
    disks_on: NodeSet,
    nodes: &BTreeMap<NodeId, Node>,
    taken: &mut Taken<(NodeId, String)>,
) -> Checked<Volume> {
    let id = *raw.id.get_ref();
    let minor = *raw.minor.get_ref();
    if id as usize >= VOLUMES_MAX {
        return Err(fault(
            &raw.id,
            format!("a volume id is 0 to {}", VOLUMES_MAX - 1),
        ));
    }
    if minor >= MINORS_MAX {
        return Err(fault(
            &raw.minor,
            format!("a minor is 0 to {}", MINORS_MAX - 1),
        ));
    }
    let mut overrides = BTreeMap::new();
    for (node, value) in &raw.on {
        let at = configured(node, nodes)?;
        if !disks_on.contains(at) {
            return Err(fault(
                node,
                format!(
                    "{} is not a node of {} with a disk",
                    node.get_ref(),
                    resource.get_ref()
                ),
            ));
        }
        overrides.insert(at, value);
    }
    let mut disks = BTreeMap::new();
    for node in disks_on.iter() {
        let own = overrides.get(&node);
        let Some(disk) = own.and_then(|own| own.disk.as_ref()).or(raw.disk.as_ref()) else {
            let name = &nodes[&node].name;
            return Err(fault(
                &raw.id,
                format!("no disk for node {name}: say disk = \"/dev/...\" here or in [resource.volume.on.{name}]"),
            ));
        };
        let meta = own.and_then(|own| own.meta.as_ref()).or(raw.meta.as_ref());
        disks.insert(node, backing(node, disk, meta, taken)?);
    }
    Ok(Volume {
        id: VolumeId(id as u16),
        minor: Minor(minor),
        block_bytes: raw.block_bytes.as_ref().map(block_bytes).transpose()?,
        disks,
    })
}

fn block_bytes(raw: &Spanned<u32>) -> Checked<u32> {
    let bytes = *raw.get_ref();
    if is_block_size(bytes) {
        return Ok(bytes);
    }
    Err(fault(
        raw,
        format!("block-size is a power of two from {SECTOR_BYTES} to {BLOCK_BYTES_MAX}"),
    ))
}

fn backing(
    node: NodeId,
    disk: &Spanned<String>,
    meta: Option<&Spanned<String>>,
    taken: &mut Taken<(NodeId, String)>,
) -> Checked<Backing> {
    let mut own = |raw: &Spanned<String>| {
        let path = path(raw)?;
        taken.claim((node, path.clone()), raw, &path)?;
        Ok(path)
    };
    Ok(Backing {
        disk: own(disk)?,
        meta: meta
            .filter(|meta| meta.get_ref() != "internal")
            .map(own)
            .transpose()?,
    })
}

pub(super) fn path(raw: &Spanned<String>) -> Checked<String> {
    let path = raw.get_ref();
    if !path.starts_with('/') || path.contains('\0') || path.len() > PATH_MAX {
        return Err(fault(
            raw,
            format!("a device or program is an absolute path of at most {PATH_MAX} bytes"),
        ));
    }
    Ok(path.clone())
}

fn name(what: &str, raw: &Spanned<String>) -> Checked<()> {
    if is_name(raw.get_ref()) {
        Ok(())
    } else {
        Err(fault(
            raw,
            format!("a {what} has 1 to {NAME_MAX} letters, digits, '.', '_' or '-' and begins with a letter or digit"),
        ))
    }
}

pub(super) fn within<V: PartialOrd + Copy + std::fmt::Display>(
    what: &str,
    raw: Option<&Spanned<V>>,
    range: RangeInclusive<V>,
    default: V,
) -> Checked<V> {
    match raw {
        None => Ok(default),
        Some(raw) if range.contains(raw.get_ref()) => Ok(*raw.get_ref()),
        Some(raw) => Err(fault(
            raw,
            format!("{what} is {} to {}", range.start(), range.end()),
        )),
    }
}
