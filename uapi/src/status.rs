// SPDX-License-Identifier: GPL-2.0-only

//! Records of dumps and events: plain structs of fixed size in the machine's byte order.
//!
//! A record may grow at its end in later versions: a reader takes the bytes it knows and treats missing ones as
//! zero ([`read_record`]). States are numbers of [`crate::state`]; sizes are sectors of 512 bytes.

use crate::limits::{ANCESTRY_MAX, FOUND_MAX, NAME_MAX, NODES_MAX, PATH_MAX};
use crate::state::states;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

states! {
    /// Which struct a record is.
    RecordKind {
        /// [`ResourceInfo`]
        Resource = 1 "resource",
        /// [`VolumeInfo`]
        Volume = 2 "volume",
        /// [`PeerInfo`]
        Peer = 3 "peer",
        /// [`PeerVolumeInfo`]
        PeerVolume = 4 "peer-volume",
        /// [`GenerationInfo`]
        Generation = 5 "generation",
    }
}

states! {
    /// What an event tells about its record.
    EventKind {
        /// The object was created.
        Create = 1 "create",
        /// The object changed.
        Change = 2 "change",
        /// The object is gone.
        Destroy = 3 "destroy",
    }
}

/// A zero-padded name.
pub type Name = [u8; NAME_MAX + 1];

/// Bit of [`ResourceInfo::suspended`]: a handshake or a generation change has to finish first.
pub const SUSPENDED_TRANSITION: u32 = 1 << 0;
/// Bit of [`ResourceInfo::suspended`]: no up-to-date data can be reached.
pub const SUSPENDED_NO_DATA: u32 = 1 << 1;
/// Bit of [`ResourceInfo::suspended`]: an internal rule was broken.
pub const SUSPENDED_BROKEN: u32 = 1 << 2;
/// Bit of [`ResourceInfo::suspended`]: a member was lost, and no majority of the voters knows of it.
pub const SUSPENDED_QUORUM: u32 = 1 << 3;
/// Bit of [`ResourceInfo::suspended`]: a peer was lost, and is not fenced yet.
pub const SUSPENDED_FENCING: u32 = 1 << 4;
/// Bit of [`ResourceInfo::suspended`]: this primary has no good data of its own, and no peer carries out its requests.
pub const SUSPENDED_NO_SERVER: u32 = 1 << 5;
/// Bit of [`ResourceInfo::suspended`]: a person said so.
pub const SUSPENDED_COMMAND: u32 = 1 << 6;
/// Bit of [`ResourceInfo::suspended`]: file systems are frozen, or about to be, so that programs cannot write to them.
pub const SUSPENDED_FREEZE: u32 = 1 << 7;

/// A resource on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceInfo {
    /// Its name.
    pub name: Name,
    /// Id of this node.
    pub node_id: u32,
    /// [`crate::state::Role`] of this node.
    pub role: u32,
    /// [`crate::state::Protocol`].
    pub protocol: u32,
    /// Reasons why I/O waits, bits `SUSPENDED_*`; 0: it does not.
    pub suspended: u32,
    /// For how long it has been waiting, in milliseconds.
    pub suspended_ms: u64,
    /// Number of volumes.
    pub volumes: u32,
    /// Number of peers.
    pub peers: u32,
    /// Nodes that vote, bit `n` for node `n`; 0: there is no quorum to be had or lost.
    pub voters: u32,
    /// Those of them that are connected, and this node.
    pub voters_present: u32,
    /// Whether this node is with a majority of the voters (1) or not (0); 0 without voters.
    pub has_quorum: u32,
    /// [`crate::state::OnNoQuorum`].
    pub on_no_quorum: u32,
    /// Since when I/O has been waiting, in milliseconds of `CLOCK_MONOTONIC`; 0: it does not wait.
    pub suspended_since_ms: u64,
    /// Whether this node keeps no disk and only votes (1) or not (0).
    pub tie_breaker: u32,
    /// [`crate::state::Fencing`].
    pub fencing: u32,
    /// [`crate::split_brain::SplitBrain0`].
    pub split_brain_0: u32,
    /// [`crate::split_brain::SplitBrain1`].
    pub split_brain_1: u32,
    /// Why a promotion would be refused now, a [`crate::refusal::Refusal`]; 0: it would work as far as this node knows, or
    /// this node is primary.
    pub may_promote: u32,
    /// The peer that is in the way, or has to be fenced first: its node id plus one; 0: none.
    pub may_promote_peer: u32,
    /// Voters whose votes are not asked for, since they left in order, bit `n` for node `n`.
    pub voters_left: u32,
    /// The peer that carries out the requests of this primary: its node id plus one; 0: none, this node does it itself.
    pub server: u32,
    /// Peers whose requests this node carries out, bit `n` for node `n`.
    pub clients: u32,
    /// [`crate::state::TwoPrimaries`].
    pub two_primaries: u32,
    /// [`crate::resync::Speed`] of resyncs that this node serves: the lower bound,
    pub resync_min_rate: u64,
    /// the upper one,
    pub resync_max_rate: u64,
    /// and the time that applications may wait.
    pub resync_latency_ms: u32,
    /// [`crate::resync::Csums`].
    pub csums_resync: u32,
    /// The resource whose resyncs come first; zeros: none.
    pub resync_after: Name,
    /// [`crate::state::AutoPromote`].
    pub auto_promote: u32,
    /// For how long an open waits for a promotion, in seconds.
    pub auto_promote_timeout_s: u32,
    /// Whether the node is primary only for as long as a device is open (1) or not (0).
    pub primary_by_open: u32,
    /// Peers that this node goes ahead of when they do not keep up, bit `n` for node `n`.
    pub pull_ahead: u32,
    /// How many bytes of writes that are not answered are too many then.
    pub congestion_fill: u64,
}

/// One volume of a resource on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VolumeInfo {
    /// Name of the resource.
    pub resource: Name,
    /// Volume number.
    pub volume: u32,
    /// Minor number.
    pub minor: u32,
    /// [`crate::state::DiskState`].
    pub disk_state: u32,
    /// How many have the device open.
    pub open_count: u32,
    /// Size of the device.
    pub sectors: u64,
    /// Current generation.
    pub generation: u64,
    /// Sectors read by the application.
    pub read_sectors: u64,
    /// Sectors written by the application.
    pub written_sectors: u64,
    /// Requests of the application in flight.
    pub in_flight: u32,
    /// Activity-log extents in use.
    pub al_used: u32,
    /// Activity-log extents at most.
    pub al_size: u32,
    /// Activity-log transactions written since the attach.
    pub al_writes: u32,
    /// Path of the disk, padded with zeros.
    pub disk: [u8; PATH_MAX + 1],
    /// Path of the metadata device or `internal`, padded with zeros.
    pub meta: [u8; PATH_MAX + 1],
    /// Logical block size of the device in bytes; 0: no disk.
    pub block_bytes: u32,
    /// Blocks of 4 KiB that the disk could not read and that were written anew with a peer's data, since the volume was made.
    pub healed_blocks: u32,
    /// This node left in order, and this is the newest record that it knew then; 0: it did not, or was taken in since.
    pub left_at: u64,
}

/// One peer of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerInfo {
    /// Name of the resource.
    pub resource: Name,
    /// Name of the peer.
    pub name: Name,
    /// Its node id.
    pub peer: u32,
    /// [`crate::state::ConnectionState`].
    pub connection: u32,
    /// [`crate::state::Role`] of the peer.
    pub role: u32,
    /// Whether its daemon answers ours (1) or not (0).
    pub daemon_connected: u32,
    /// This side's number of the current or last session.
    pub session: u64,
    /// Why the last session ended or was refused; a sentence, padded with zeros.
    pub reason: [u8; 128],
    /// Whether it keeps no disk and only votes (1) or not (0).
    pub tie_breaker: u32,
    /// Must be zero.
    pub reserved: u32,
}

/// One volume between this node and one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerVolumeInfo {
    /// Name of the resource.
    pub resource: Name,
    /// Node id of the peer.
    pub peer: u32,
    /// Volume number.
    pub volume: u32,
    /// [`crate::state::ReplicationState`].
    pub replication: u32,
    /// [`crate::state::DiskState`] of the peer.
    pub peer_disk_state: u32,
    /// Sectors marked out of sync towards this peer.
    pub out_of_sync_sectors: u64,
    /// Sectors that the running or last resync had to transfer.
    pub resync_total_sectors: u64,
    /// Sectors of them that are done.
    pub resync_done_sectors: u64,
    /// For how long the running resync has run, or the last one took, in milliseconds.
    pub resync_ms: u64,
    /// Sectors sent to the peer (application and resync).
    pub sent_sectors: u64,
    /// Sectors received from the peer.
    pub received_sectors: u64,
    /// Packets sent and not yet acknowledged.
    pub unacked: u32,
    /// Why a resync waits, or would: bits `PAUSED_*`.
    pub paused: u32,
    /// Name of the rule that decided the last handshake, padded with zeros.
    pub rule: [u8; 32],
    /// [`crate::split_brain::Recovery`]: what came of it if that was a split brain.
    pub recovery: u32,
    /// The node whose data were given up: its node id plus one; 0: none.
    pub victim: u32,
    /// The peer left in order, as this node's disk has it on record, and this is the newest record that it knew then; 0: it
    /// did not, or was taken in since.
    pub left_at: u64,
    /// [`crate::state::VerifyState`] of the running or last verify.
    pub verify: u32,
    /// How many of [`Self::verify_found`] count.
    pub verify_ranges: u32,
    /// First sector of what is or was compared.
    pub verify_start: u64,
    /// The sector after the last one.
    pub verify_stop: u64,
    /// Everything before this sector was compared.
    pub verify_upto: u64,
    /// For how long it has run, or ran, in milliseconds.
    pub verify_ms: u64,
    /// Sectors of the blocks that differ.
    pub verify_differing: u64,
    /// Where those lie, in ascending order. When they are in more pieces, the nearest are joined over what lies between.
    pub verify_found: [SectorRange; FOUND_MAX],
    /// [`crate::resync::Limit`]: what holds up the resync that this node serves.
    pub resync_limit: u32,
    /// Must be zero.
    pub reserved: u32,
    /// The rate that it gets then, in bytes per second; 0: nothing holds it up.
    pub resync_rate: u64,
    /// Of the sectors that the running or last resync went through: those that were equal, and not sent.
    pub resync_equal_sectors: u64,
    /// [`crate::congestion::Pace`]: how the peer keeps up with the writes of this node.
    pub pace: u32,
    /// [`crate::congestion::OnCongestion`]: what this node does about it if it does not.
    pub on_congestion: u32,
    /// Bytes of writes that the peer may lack: those sent and not answered, and the blocks that are out of sync.
    pub lag_bytes: u64,
    /// For how long it has lacked the oldest of them, as far as this node counts, in milliseconds.
    pub lag_ms: u64,
}

/// A piece of a volume.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SectorRange {
    /// Its first sector.
    pub start: u64,
    /// The sector after its last one.
    pub end: u64,
}

/// Bit of [`PeerVolumeInfo::paused`]: a person said so on this node.
pub const PAUSED_HERE: u32 = 1 << 0;
/// Bit of [`PeerVolumeInfo::paused`]: a person said so on the peer.
pub const PAUSED_THERE: u32 = 1 << 1;
/// Bit of [`PeerVolumeInfo::paused`]: another node is the one to fetch from.
pub const PAUSED_SOURCE: u32 = 1 << 2;
/// Bit of [`PeerVolumeInfo::paused`]: resyncs of another resource on this node come first.
pub const PAUSED_AFTER: u32 = 1 << 3;
/// Bit of [`PeerVolumeInfo::paused`]: resyncs of another resource on the peer come first.
pub const PAUSED_AFTER_THERE: u32 = 1 << 4;

/// Generations of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GenerationInfo {
    /// Name of the resource.
    pub resource: Name,
    /// Volume number.
    pub volume: u32,
    /// Writer of the current generation; `u32::MAX`: none yet.
    pub writer: u32,
    /// Members of the current generation, bit `n` for node `n`.
    pub members: u32,
    /// Bits `GENERATION_*`.
    pub flags: u32,
    /// Id of the current generation; 0: the disk never held data.
    pub current: u64,
    /// Its term.
    pub term: u64,
    /// Highest term promised to anybody.
    pub promised_term: u64,
    /// How often this disk was attached.
    pub incarnation: u64,
    /// Former generations, the newest first; 0: none.
    pub ancestry: [u64; ANCESTRY_MAX],
    /// Per node, the newest generation that it acknowledged as durable; 0: none.
    pub since: [u64; NODES_MAX],
    /// Nodes that left in order before the current generation, bit `n` for node `n`.
    pub left: u32,
    /// Must be zero.
    pub reserved: u32,
}

/// Bit of [`GenerationInfo::flags`]: an unfinished sync target.
pub const GENERATION_INCONSISTENT: u32 = 1 << 0;
/// Bit of [`GenerationInfo::flags`]: was primary and has not been demoted (running, or crashed).
pub const GENERATION_WRITER_ACTIVE: u32 = 1 << 1;

/// Reads a record that may be shorter (from an older module) or longer (from a newer one) than `T`.
pub fn read_record<T: FromBytes + IntoBytes + Immutable + KnownLayout>(bytes: &[u8]) -> T {
    let mut record = T::new_zeroed();
    for (to, from) in record.as_mut_bytes().iter_mut().zip(bytes) {
        *to = *from;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_filled_with_zeros_and_a_long_one_cut() {
        let full = [7u8; size_of::<ResourceInfo>() + 8];
        let info: ResourceInfo = read_record(&full);
        assert_eq!(info.peers, 0x0707_0707);
        let info: ResourceInfo = read_record(&full[..NAME_MAX + 1]);
        assert_eq!((info.name[0], info.node_id), (7, 0));
    }
}
