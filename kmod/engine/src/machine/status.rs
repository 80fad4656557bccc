// SPDX-License-Identifier: GPL-2.0-only

//! Status records.

use super::volume::Volume;
use super::Engine;
use crate::host::{Host, Time};
use weft_uapi::congestion::OnCongestion;
use weft_uapi::limits::BITMAP_BLOCK_BYTES;
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_WRITER_ACTIVE};
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Csums;
use weft_uapi::state::{ConnectionState, DiskState, Role, TwoPrimaries};
use weft_uapi::status::{
    GenerationInfo, PeerInfo, PeerVolumeInfo, ResourceInfo, VolumeInfo, GENERATION_INCONSISTENT,
    GENERATION_WRITER_ACTIVE, SUSPENDED_BROKEN, SUSPENDED_COMMAND, SUSPENDED_FENCING,
    SUSPENDED_NO_DATA, SUSPENDED_NO_SERVER, SUSPENDED_QUORUM, SUSPENDED_TRANSITION,
};
use weft_uapi::units::{NodeId, VolumeId};
use zerocopy::FromZeros;

const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / 512) as u64;

/// A node as records name it: its id plus one; 0: none.
fn number_of(node: Option<NodeId>) -> u32 {
    node.map_or(0, |node| u32::from(node.get()).saturating_add(1))
}

impl<H: Host> Engine<H> {
    /// Status of the resource; the host fills in whose resyncs come first.
    pub fn resource_info(&self, now: Time) -> ResourceInfo {
        let suspended_since = self.standing.suspended_since;
        let voters_present = self.voters_present();
        let prospect = self.prospect(voters_present);
        ResourceInfo {
            name: self.config.name,
            node_id: self.config.node.get().into(),
            role: self.shown_role().number(),
            protocol: self.protocol.number(),
            suspended: self.suspended(),
            suspended_ms: suspended_since.map_or(0, |since| now.ms_since(since)),
            volumes: u32::try_from(self.volumes().count()).unwrap_or(0),
            peers: u32::try_from(self.peers().count()).unwrap_or(0),
            voters: self.quorum.voters.0,
            voters_present: voters_present.0,
            has_quorum: (self.quorum.is_on() && self.has_quorum(voters_present)).into(),
            on_no_quorum: self.quorum.on_lost.number(),
            suspended_since_ms: suspended_since.map_or(0, |since| since.ms_since(Time(0)).max(1)),
            tie_breaker: self.config.is_tie_breaker.into(),
            fencing: self.fencing.number(),
            split_brain_0: self.policies.none.number(),
            split_brain_1: self.policies.one.number(),
            may_promote: prospect.refusal.map_or(0, Refusal::number),
            may_promote_peer: number_of(prospect.peer),
            voters_left: self.voters_left().0,
            server: number_of(self.server()),
            clients: self.clients.0,
            two_primaries: match self.two_primaries {
                true => TwoPrimaries::Allowed,
                false => TwoPrimaries::Refused,
            }
            .number(),
            resync_min_rate: self.speed.bounds.min,
            resync_max_rate: self.speed.bounds.max,
            resync_latency_ms: self.speed.bounds.latency_ms,
            csums_resync: match self.csums {
                true => Csums::Yes,
                false => Csums::No,
            }
            .number(),
            resync_after: [0; weft_uapi::limits::NAME_MAX + 1],
            auto_promote: self.opening.options.mode.number(),
            auto_promote_timeout_s: self.opening.options.timeout_s,
            primary_by_open: self.is_primary_by_open().into(),
            pull_ahead: self.congestion.pull_ahead.0,
            congestion_fill: self.congestion.fill,
        }
    }

    /// Why requests wait, bits `SUSPENDED_*`; 0: they do not.
    pub(super) fn suspended(&self) -> u32 {
        let waiting = self.each_volume().filter(|volume| {
            let is_waiting = volume.has_waiting_requests() || volume.stalled.is_some();
            volume.is_broken || (is_waiting && self.role == Role::Primary)
        });
        let fencing = if self.held_by().is_empty() {
            0
        } else {
            SUSPENDED_FENCING
        };
        let is_unserved = self.client.is_some() && self.server().is_none();
        let has_requests = self.each_volume().any(Volume::has_waiting_requests);
        let others = [
            (is_unserved && has_requests, SUSPENDED_NO_SERVER),
            (self.suspension.is_wanted(), SUSPENDED_COMMAND),
        ];
        let set = others.iter().filter(|(is_set, _)| *is_set);
        let first = set.fold(fencing, |all, (_, bit)| all | bit);
        waiting.fold(first, |all, volume| {
            let broken = if volume.is_broken {
                SUSPENDED_BROKEN
            } else {
                0
            };
            let transition = if volume.is_negotiating() || volume.change.is_some() {
                SUSPENDED_TRANSITION
            } else {
                0
            };
            let no_data = if volume.disk_state() == DiskState::UpToDate {
                0
            } else {
                SUSPENDED_NO_DATA
            };
            let no_quorum = if volume.stalled.is_some() {
                SUSPENDED_QUORUM
            } else {
                0
            };
            all | broken | transition | no_data | no_quorum
        })
    }

    /// Status of a volume; the host fills in the paths.
    pub fn volume_info(&self, volume: VolumeId, _now: Time) -> Option<VolumeInfo> {
        let volume = self.volume(volume)?;
        let mut info = VolumeInfo::new_zeroed();
        info.resource = self.config.name;
        info.volume = volume.id.0.into();
        info.minor = volume.minor.0;
        info.disk_state = volume.disk_state().number();
        info.open_count = volume.open_count;
        info.sectors = volume.sectors();
        info.read_sectors = volume.read_sectors;
        info.written_sectors = volume.written_sectors;
        info.healed_blocks = volume.healing.blocks;
        info.in_flight = u32::try_from(volume.requests.used()).unwrap_or(u32::MAX);
        info.al_size = volume.al_extents.into();
        if volume.sectors() > 0 {
            info.block_bytes = volume.block_bytes();
        }
        if let Some(disk) = volume.disk.as_ref() {
            info.generation = disk.superblock.generation.id.0;
            info.al_used = u32::try_from(disk.log.used()).unwrap_or(u32::MAX);
            info.al_writes = disk.log_writes;
            info.left_at = disk.superblock.left_at.0;
        }
        Some(info)
    }

    /// Status of a peer; the host fills in its name and whether it is a tie-breaker.
    pub fn peer_info(&self, id: NodeId, _now: Time) -> Option<PeerInfo> {
        let peer = self.peer(id)?;
        let connection = match peer.connection() {
            ConnectionState::Connecting if !self.is_served => ConnectionState::Unserved,
            state => state,
        };
        Some(PeerInfo {
            resource: self.config.name,
            name: [0; 64],
            peer: id.get().into(),
            connection: connection.number(),
            role: self.shown_role_of(id).number(),
            daemon_connected: self.reachable.contains(id).into(),
            session: peer.session().0,
            reason: peer.reason,
            tie_breaker: 0,
            reserved: 0,
        })
    }

    /// Status of a volume towards a peer.
    pub fn peer_volume_info(
        &self,
        peer: NodeId,
        volume: VolumeId,
        now: Time,
    ) -> Option<PeerVolumeInfo> {
        let volume = self.volume(volume)?;
        let replica = volume.replica(peer)?;
        let left = volume.disk.as_ref().map_or(0, |disk| disk.marked(peer));
        let progress = replica.progress;
        let mut info = PeerVolumeInfo::new_zeroed();
        info.resource = self.config.name;
        info.peer = peer.get().into();
        info.volume = volume.id.0.into();
        let (replication, paused) = replica.shown();
        (info.replication, info.paused) = (replication.number(), paused);
        info.peer_disk_state = replica.peer_disk.number();
        info.out_of_sync_sectors = left.saturating_mul(SECTORS_PER_BIT);
        info.resync_total_sectors = progress.total_bits.saturating_mul(SECTORS_PER_BIT);
        info.resync_done_sectors = progress
            .total_bits
            .saturating_sub(left)
            .saturating_mul(SECTORS_PER_BIT);
        if progress.total_bits > 0 {
            info.resync_ms = progress.ended.unwrap_or(now).ms_since(progress.started);
        }
        info.resync_equal_sectors = progress.equal_sectors;
        info.sent_sectors = replica.sent_sectors;
        info.received_sectors = replica.received_sectors;
        info.unacked = replica.unacked;
        info.pace = volume.pace(&self.facts(), peer, now).number();
        info.on_congestion = match self.congestion.pull_ahead.contains(peer) {
            true => OnCongestion::PullAhead,
            false => OnCongestion::Block,
        }
        .number();
        if self.role == Role::Primary {
            (info.lag_bytes, info.lag_ms) = volume.lag(peer, now);
        }
        info.recovery = replica.recovery.number();
        info.victim = number_of(replica.victim);
        info.left_at = volume.left_with(peer).0;
        if let Some(source) = replica.source.as_ref() {
            (info.resync_limit, info.resync_rate) = source.pace.shown();
        }
        if let Some(verify) = replica.verify.as_ref() {
            verify.show(now, &mut info);
        }
        // The last byte stays zero.
        for (to, from) in info.rule.iter_mut().take(31).zip(replica.rule.bytes()) {
            *to = from;
        }
        Some(info)
    }

    /// The generations of a volume; `None` without disk.
    pub fn generation_info(&self, volume: VolumeId) -> Option<GenerationInfo> {
        let volume = self.volume(volume)?;
        let disk = volume.disk.as_ref()?;
        let superblock = &disk.superblock;
        let flag = |bit, shown| if disk.has_flag(bit) { shown } else { 0 };
        Some(GenerationInfo {
            resource: self.config.name,
            volume: volume.id.0.into(),
            writer: superblock
                .generation
                .writer
                .map_or(u32::MAX, |node| node.get().into()),
            members: superblock.generation.members.0,
            flags: flag(FLAG_INCONSISTENT, GENERATION_INCONSISTENT)
                | flag(FLAG_WRITER_ACTIVE, GENERATION_WRITER_ACTIVE),
            current: superblock.generation.id.0,
            term: superblock.generation.term.0,
            promised_term: superblock.promised_term.0,
            incarnation: superblock.incarnation.0,
            ancestry: superblock.ancestry.map(|id| id.0),
            since: superblock.since.map(|id| id.0),
            left: superblock.generation.left.0,
            reserved: 0,
        })
    }
}

impl<H: Host> Volume<H> {
    /// Whether a request waits for more than its turn.
    pub(super) fn has_waiting_requests(&self) -> bool {
        self.requests.used() > 0
    }
}
