// SPDX-License-Identifier: GPL-2.0-only

//! The state of the module as one tree: resources, their devices, their connections, and each device towards each peer.
//!
//! The field names are the JSON of `weft status --json`; sizes are bytes, times milliseconds.

use super::congestion::Congestion;
use super::opening::Opening;
use super::paused;
use super::resync::{self, Resync};
use super::suspension;
use super::units::sector_bytes;
use super::verify::Verify;
use crate::kernel::netlink::record::Record;
use serde::{Deserialize, Serialize};
use weft_uapi::congestion::{OnCongestion, Pace};
use weft_uapi::control::name_of;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Csums;
use weft_uapi::split_brain::{Policies, Recovery, SplitBrain0, SplitBrain1};
use weft_uapi::state::{
    ConnectionState, DiskState, Fencing, OnNoQuorum, Protocol, ReplicationState, Role, TwoPrimaries,
};
use weft_uapi::status::{PeerInfo, PeerVolumeInfo, ResourceInfo, VolumeInfo};
use weft_uapi::units::{NodeId, NodeSet};

/// A resource on this node.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Id of this node.
    pub node_id: u32,
    /// `primary` or `secondary`.
    pub role: String,
    /// `A`, `B` or `C`.
    pub protocol: String,
    /// This node keeps no disk: it only votes.
    #[serde(default)]
    pub tie_breaker: bool,
    /// `dont-care`, `resource-only` or `resource-and-stonith`.
    #[serde(default = "dont_care")]
    pub fencing: String,
    /// Whether two nodes may be primary at the same time: `allowed` or `refused`.
    #[serde(default = "refused")]
    pub two_primaries: String,
    /// What opening a device does to the role.
    #[serde(default)]
    pub auto_promote: Opening,
    /// Whose data are given up after a split brain.
    #[serde(default)]
    pub split_brain: SplitBrain,
    /// How fast this node serves resyncs.
    #[serde(default)]
    pub resync: Resync,
    /// The resource whose resyncs on this node come first.
    #[serde(default)]
    pub resync_after: Option<String>,
    /// What this node does about peers that do not keep up with its writes.
    #[serde(default)]
    pub congestion: Congestion,
    /// Whether this node asks by digest for what it has to fetch: `yes` or `no`.
    #[serde(default = "no_csums")]
    pub csums_resync: String,
    /// Whether this node is with a majority of those who vote.
    #[serde(default)]
    pub quorum: Quorum,
    /// Whether this node would be promoted now.
    #[serde(default)]
    pub promotion: Promotion,
    /// The node that carries out the requests of this primary, which has no good data of its own.
    #[serde(default)]
    pub server: Option<u32>,
    /// The nodes whose requests this one carries out.
    #[serde(default)]
    pub clients: Vec<u8>,
    /// Why I/O waits; empty: it does not. `transition`, `no-data`, `broken`, `quorum`, `fencing`,
    /// `no-server`, `command`.
    pub suspended: Vec<String>,
    /// For how long it has been waiting.
    pub suspended_ms: u64,
    /// Since when it has been waiting, in seconds of `CLOCK_MONOTONIC`.
    #[serde(default)]
    pub suspended_since_s: Option<f64>,
    /// What ends each of the reasons, in their order.
    #[serde(default)]
    pub way_out: Vec<String>,
    /// Its devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Its peers.
    #[serde(default)]
    pub connections: Vec<Connection>,
}

fn together() -> String {
    Pace::Together.name().to_owned()
}

fn block() -> String {
    OnCongestion::Block.name().to_owned()
}

fn no_csums() -> String {
    Csums::No.name().to_owned()
}

fn refused() -> String {
    TwoPrimaries::Refused.name().to_owned()
}

fn dont_care() -> String {
    Fencing::DontCare.name().to_owned()
}

/// Whether a node would be promoted now, as far as it knows without asking its peers.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Promotion {
    /// It would, or is primary already.
    pub possible: bool,
    /// The refusal that it would get; empty when it is possible.
    pub code: String,
    /// The refusal in words.
    pub why: String,
    /// What to try.
    pub hint: String,
    /// The peer that is in the way, or has to be fenced first.
    pub node_id: Option<u32>,
}

impl From<&ResourceInfo> for Promotion {
    fn from(info: &ResourceInfo) -> Self {
        let refusal = Refusal::from_number(info.may_promote);
        let hint = |refusal: Refusal| refusal.hint().replace("RES", &text(&info.name));
        Self {
            possible: info.may_promote == 0,
            code: refusal.map_or_else(String::new, |it| it.name().to_owned()),
            why: refusal.map_or_else(String::new, |it| it.text().to_owned()),
            hint: refusal.map_or_else(String::new, hint),
            node_id: info.may_promote_peer.checked_sub(1),
        }
    }
}

/// What is done about a split brain.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SplitBrain {
    /// Without primary: `disconnect`, `discard-zero-changes` or `discard-least-changes`.
    pub without_primary: String,
    /// With one primary: `disconnect`, `consensus` or `discard-secondary`.
    pub with_primary: String,
}

impl SplitBrain {
    /// The policies by their names.
    pub fn policies(&self) -> Policies {
        Policies {
            none: SplitBrain0::from_name(&self.without_primary).unwrap_or_default(),
            one: SplitBrain1::from_name(&self.with_primary).unwrap_or_default(),
        }
    }
}

impl From<Policies> for SplitBrain {
    fn from(policies: Policies) -> Self {
        Self {
            without_primary: policies.none.name().to_owned(),
            with_primary: policies.one.name().to_owned(),
        }
    }
}

impl Default for SplitBrain {
    fn default() -> Self {
        Self::from(Policies::default())
    }
}

/// Who votes in a resource, and who of them is there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Quorum {
    /// `off`: votes do not count; `yes` or `no`: this node is with a majority, or not.
    pub state: String,
    /// Node ids of those who vote.
    pub voters: Vec<u8>,
    /// Those of them that are connected, and this node.
    pub present: Vec<u8>,
    /// Those whose votes are not asked for, since they left in order.
    #[serde(default)]
    pub left: Vec<u8>,
    /// How many of the others make a majority; 0 when votes do not count.
    pub needed: u32,
    /// What becomes of requests without quorum: `suspend-io` or `io-error`.
    pub on_no_quorum: String,
}

impl Quorum {
    /// Those who vote, as a set.
    pub fn voters(&self) -> NodeSet {
        let ids = self.voters.iter().filter_map(|&id| NodeId::new(id.into()));
        ids.fold(NodeSet::EMPTY, NodeSet::with)
    }

    /// Whether votes count.
    pub fn is_on(&self) -> bool {
        !self.voters.is_empty()
    }

    /// Those who vote and are not there.
    pub fn missing(&self) -> Vec<u8> {
        let is_missing = |id: &&u8| !self.present.contains(id);
        self.voters.iter().filter(is_missing).copied().collect()
    }
}

/// One volume on this node.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Device {
    /// Volume number.
    pub volume: u32,
    /// N of `/dev/weftN`.
    pub minor: u32,
    /// State of the local disk.
    pub disk_state: String,
    /// Path of the disk; empty when there is none.
    pub disk: String,
    /// `internal` or the path of the metadata device.
    pub meta: String,
    /// Size of the device.
    pub size_bytes: u64,
    /// Current generation, hexadecimal; all zeros: none.
    pub generation: String,
    /// How many have it open.
    pub open_count: u32,
    /// Read by the application.
    pub read_bytes: u64,
    /// Written by the application.
    pub written_bytes: u64,
    /// Requests of the application in flight.
    pub in_flight: u32,
    /// Activity-log extents in use.
    pub al_used: u32,
    /// Activity-log extents at most.
    pub al_size: u32,
    /// Activity-log transactions since the attach.
    pub al_writes: u32,
    /// Logical block size; 0 when there is no disk.
    pub block_bytes: u32,
    /// Blocks of 4 KiB that the disk could not read and that were written anew with a peer's data.
    #[serde(default)]
    pub healed_blocks: u32,
    /// This node left in order and was not taken in since: the newest generation that it knew then, hexadecimal.
    #[serde(default)]
    pub left_at: Option<String>,
}

/// One peer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Connection {
    /// Its node id.
    pub node_id: u32,
    /// Its name; may be empty.
    pub name: String,
    /// State of the connection.
    pub connection_state: String,
    /// Its role, `unknown` while not connected.
    pub role: String,
    /// Whether its daemon answers ours.
    pub daemon_connected: bool,
    /// This side's number of the current or last session, hexadecimal.
    pub session: String,
    /// Why the last session ended or was refused; may be empty.
    pub reason: String,
    /// It keeps no disk: it only votes.
    #[serde(default)]
    pub tie_breaker: bool,
    /// Each volume towards it.
    #[serde(default)]
    pub peer_devices: Vec<PeerDevice>,
}

/// One volume towards one peer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct PeerDevice {
    /// Volume number.
    pub volume: u32,
    /// What happens between the two copies.
    pub replication_state: String,
    /// State of the peer's disk.
    pub peer_disk_state: String,
    /// Marked out of sync towards this peer.
    pub out_of_sync_bytes: u64,
    /// What the running or last resync had to transfer.
    pub resync_total_bytes: u64,
    /// How much of it is done.
    pub resync_done_bytes: u64,
    /// How much of that was found equal, and not sent.
    #[serde(default)]
    pub resync_equal_bytes: u64,
    /// For how long it has been running, or ran.
    pub resync_ms: u64,
    /// Sent to the peer.
    pub sent_bytes: u64,
    /// Received from the peer.
    pub received_bytes: u64,
    /// Packets sent and not acknowledged.
    pub unacked: u32,
    /// How the peer keeps up with the writes of this node: `together`, `blocks`, `blocks-no-quorum`, `blocks-primary`,
    /// `blocks-old-peer`, `asked`, `ahead`, `sync-only`.
    #[serde(default = "together")]
    pub pace: String,
    /// What this node does about it if it does not: `block` or `pull-ahead`.
    #[serde(default = "block")]
    pub on_congestion: String,
    /// Writes that the peer may lack: those sent and not answered, and the blocks that are out of sync.
    #[serde(default)]
    pub lag_bytes: u64,
    /// For how long it has lacked the oldest of them, as far as this node counts.
    #[serde(default)]
    pub lag_ms: u64,
    /// Why a resync waits, or would: `here` or `peer`, where a person said so, `source`: another node is the one to
    /// fetch from, and `after` or `peer-after`, where resyncs of another resource come first.
    #[serde(default)]
    pub paused: Vec<String>,
    /// What holds up a resync that this node serves: `max-rate`, `latency`, `min-rate`; `None`: nothing but disks and
    /// network, or it serves none.
    #[serde(default)]
    pub resync_limit: Option<String>,
    /// The rate that it gets then, in bytes per second.
    #[serde(default)]
    pub resync_rate_bytes: u64,
    /// Rule that decided the last handshake; may be empty.
    pub rule: String,
    /// What came of it if that was a split brain: what solved it, or why it is left to a person; else `none`.
    #[serde(default)]
    pub recovery: String,
    /// Node id of the node whose data were given up.
    #[serde(default)]
    pub victim: Option<u32>,
    /// The peer left in order, as this node's disk has it on record: the newest generation that it knew then, hexadecimal.
    #[serde(default)]
    pub left_at: Option<String>,
    /// The running or last verify, if there was one.
    #[serde(default)]
    pub verify: Option<Verify>,
}

impl PeerDevice {
    /// Whether writes go to both copies, and neither owes the other anything.
    pub fn is_mirrored(&self) -> bool {
        [
            ReplicationState::Established,
            ReplicationState::VerifySource,
            ReplicationState::VerifyTarget,
        ]
        .iter()
        .any(|state| state.name() == self.replication_state)
    }

    /// Whether blocks are being copied now.
    pub fn is_syncing(&self) -> bool {
        [ReplicationState::SyncSource, ReplicationState::SyncTarget]
            .iter()
            .any(|state| state.name() == self.replication_state)
    }

    /// Share of the running resync that is done, 0 to 100.
    pub fn percent_done(&self) -> f64 {
        if self.resync_total_bytes == 0 {
            return 100.0;
        }
        let done = self.resync_done_bytes.min(self.resync_total_bytes);
        100.0 * done as f64 / self.resync_total_bytes as f64
    }

    /// Mean speed of the running or last resync, in bytes per second.
    pub fn speed(&self) -> u64 {
        let done = u128::from(self.resync_done_bytes) * 1000;
        (done / u128::from(self.resync_ms.max(1))) as u64
    }

    /// Seconds that the running resync needs at its mean speed; `None` before it got anywhere.
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self
            .resync_total_bytes
            .saturating_sub(self.resync_done_bytes);
        left.checked_div(self.speed())
    }
}

/// The tree of a status dump. A record of an object whose parent is missing is left out: it was made or removed while
/// the dump ran.
pub fn tree(records: &[Record]) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    for record in records {
        if let Record::Resource(info) = record {
            resources.push(Resource::from(&**info));
        }
    }
    for record in records {
        match record {
            Record::Volume(info) => {
                if let Some(resource) = find(&mut resources, &info.resource) {
                    resource.devices.push(Device::from(&**info));
                }
            }
            Record::Peer(info) => {
                if let Some(resource) = find(&mut resources, &info.resource) {
                    resource.connections.push(Connection::from(&**info));
                }
            }
            _ => {}
        }
    }
    for record in records {
        if let Record::PeerVolume(info) = record {
            let connections =
                find(&mut resources, &info.resource).map(|resource| &mut resource.connections);
            let connection =
                connections.and_then(|all| all.iter_mut().find(|one| one.node_id == info.peer));
            if let Some(connection) = connection {
                connection.peer_devices.push(PeerDevice::from(&**info));
            }
        }
    }
    resources
}

fn find<'a>(resources: &'a mut [Resource], name: &[u8]) -> Option<&'a mut Resource> {
    let name = text(name);
    resources.iter_mut().find(|resource| resource.name == name)
}

/// A zero-padded field.
pub fn text(field: &[u8]) -> String {
    name_of(field).unwrap_or("?").to_owned()
}

fn state_name(name: Option<&'static str>, number: u32) -> String {
    name.map_or_else(|| format!("state-{number}"), str::to_owned)
}

impl From<&ResourceInfo> for Resource {
    fn from(info: &ResourceInfo) -> Self {
        let (name, quorum) = (text(&info.name), Quorum::from(info));
        let reasons = suspension::reasons(info.suspended);
        let way_out = |reason: &&str| suspension::way_out(reason, &name, &quorum);
        Self {
            way_out: reasons.iter().map(way_out).collect(),
            suspended: reasons.iter().map(|&reason| reason.to_owned()).collect(),
            suspended_ms: info.suspended_ms,
            suspended_since_s: (info.suspended_since_ms > 0)
                .then(|| info.suspended_since_ms as f64 / 1000.0),
            name,
            quorum,
            tie_breaker: info.tie_breaker != 0,
            fencing: state_name(
                Fencing::from_number(info.fencing).map(Fencing::name),
                info.fencing,
            ),
            two_primaries: state_name(
                TwoPrimaries::from_number(info.two_primaries).map(TwoPrimaries::name),
                info.two_primaries,
            ),
            auto_promote: Opening::from(info),
            split_brain: SplitBrain::from(Policies {
                none: SplitBrain0::from_number(info.split_brain_0).unwrap_or_default(),
                one: SplitBrain1::from_number(info.split_brain_1).unwrap_or_default(),
            }),
            resync: Resync::from(info),
            congestion: Congestion::from(info),
            csums_resync: Csums::from_number(info.csums_resync)
                .unwrap_or_default()
                .name()
                .to_owned(),
            resync_after: Some(text(&info.resync_after)).filter(|name| !name.is_empty()),
            promotion: Promotion::from(info),
            server: info.server.checked_sub(1),
            clients: NodeSet(info.clients).iter().map(NodeId::get).collect(),
            node_id: info.node_id,
            role: state_name(Role::from_number(info.role).map(Role::name), info.role),
            protocol: state_name(
                Protocol::from_number(info.protocol).map(Protocol::name),
                info.protocol,
            ),
            devices: Vec::new(),
            connections: Vec::new(),
        }
    }
}

impl From<&ResourceInfo> for Quorum {
    fn from(info: &ResourceInfo) -> Self {
        let ids = |set: u32| NodeSet(set).iter().map(NodeId::get).collect::<Vec<_>>();
        let voters = ids(info.voters);
        let state = match (voters.is_empty(), info.has_quorum) {
            (true, _) => "off",
            (false, 0) => "no",
            (false, _) => "yes",
        };
        let on_no_quorum = OnNoQuorum::from_number(info.on_no_quorum).unwrap_or_default();
        Self {
            state: state.to_owned(),
            needed: if voters.is_empty() {
                0
            } else {
                (info.voters & !info.voters_left).count_ones() / 2 + 1
            },
            left: ids(info.voters_left),
            voters,
            present: ids(info.voters_present),
            on_no_quorum: on_no_quorum.name().to_owned(),
        }
    }
}

fn record_id(id: u64) -> Option<String> {
    (id != 0).then(|| format!("{id:016x}"))
}

impl From<&VolumeInfo> for Device {
    fn from(info: &VolumeInfo) -> Self {
        let disk_state = DiskState::from_number(info.disk_state).map(DiskState::name);
        Self {
            volume: info.volume,
            minor: info.minor,
            disk_state: state_name(disk_state, info.disk_state),
            disk: text(&info.disk),
            meta: text(&info.meta),
            size_bytes: sector_bytes(info.sectors),
            generation: format!("{:016x}", info.generation),
            open_count: info.open_count,
            read_bytes: sector_bytes(info.read_sectors),
            written_bytes: sector_bytes(info.written_sectors),
            in_flight: info.in_flight,
            al_used: info.al_used,
            al_size: info.al_size,
            al_writes: info.al_writes,
            block_bytes: info.block_bytes,
            healed_blocks: info.healed_blocks,
            left_at: record_id(info.left_at),
        }
    }
}

impl From<&PeerInfo> for Connection {
    fn from(info: &PeerInfo) -> Self {
        let connection = ConnectionState::from_number(info.connection).map(ConnectionState::name);
        Self {
            node_id: info.peer,
            name: text(&info.name),
            connection_state: state_name(connection, info.connection),
            role: state_name(Role::from_number(info.role).map(Role::name), info.role),
            daemon_connected: info.daemon_connected != 0,
            session: format!("{:x}", info.session),
            reason: text(&info.reason),
            tie_breaker: info.tie_breaker != 0,
            peer_devices: Vec::new(),
        }
    }
}

impl From<&PeerVolumeInfo> for PeerDevice {
    fn from(info: &PeerVolumeInfo) -> Self {
        let replication =
            ReplicationState::from_number(info.replication).map(ReplicationState::name);
        let peer_disk = DiskState::from_number(info.peer_disk_state).map(DiskState::name);
        Self {
            volume: info.volume,
            replication_state: state_name(replication, info.replication),
            peer_disk_state: state_name(peer_disk, info.peer_disk_state),
            out_of_sync_bytes: sector_bytes(info.out_of_sync_sectors),
            resync_total_bytes: sector_bytes(info.resync_total_sectors),
            resync_done_bytes: sector_bytes(info.resync_done_sectors),
            resync_equal_bytes: sector_bytes(info.resync_equal_sectors),
            resync_ms: info.resync_ms,
            sent_bytes: sector_bytes(info.sent_sectors),
            received_bytes: sector_bytes(info.received_sectors),
            unacked: info.unacked,
            pace: Pace::from_number(info.pace)
                .unwrap_or_default()
                .name()
                .to_owned(),
            on_congestion: OnCongestion::from_number(info.on_congestion)
                .unwrap_or_default()
                .name()
                .to_owned(),
            lag_bytes: info.lag_bytes,
            lag_ms: info.lag_ms,
            paused: paused::reasons(info.paused),
            resync_limit: resync::limit(info),
            resync_rate_bytes: info.resync_rate,
            rule: text(&info.rule),
            recovery: state_name(
                Recovery::from_number(info.recovery).map(Recovery::name),
                info.recovery,
            ),
            victim: info.victim.checked_sub(1),
            left_at: record_id(info.left_at),
            verify: Verify::of(info),
        }
    }
}
