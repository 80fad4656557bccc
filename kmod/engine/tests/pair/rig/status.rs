// SPDX-License-Identifier: GPL-2.0-only

//! What the scenarios look at: the disks, and what the engines say of themselves.

use super::{node, Rig};
use weft_engine::event::Event;
use weft_engine::host::Time;
use weft_engine::Reads;
use weft_uapi::congestion::Pace;
use weft_uapi::resync::Limit;
use weft_uapi::split_brain::Recovery;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role, VerifyState};
use weft_uapi::status::{PeerVolumeInfo, ResourceInfo, GENERATION_WRITER_ACTIVE};
use weft_uapi::units::SessionId;

/// How two disks compare, in sectors.
pub(crate) struct Verified {
    pub(crate) state: VerifyState,
    pub(crate) start: u64,
    pub(crate) stop: u64,
    pub(crate) upto: u64,
    pub(crate) differing: u64,
    pub(crate) found: Vec<(u64, u64)>,
}

impl Rig {
    /// All disks hold the same data once nothing is left to do.
    pub(crate) fn assert_equal(&mut self) {
        self.assert_equal_disks(self.with_disks().len());
    }

    /// As [`Self::assert_equal`], of the first so many nodes.
    pub(crate) fn assert_equal_disks(&mut self, disks: usize) {
        self.idle();
        let data = self.data_sectors() as usize * 512;
        let first = &self.disk(0).content[..data];
        for number in 1..disks {
            let different = first
                .chunks(512)
                .zip(self.disk(number).content[..data].chunks(512))
                .position(|(a, b)| a != b);
            assert_eq!(different, None, "first different sector of node {number}");
        }
    }

    /// What the disk itself holds.
    pub(crate) fn read_disk(&self, number: usize, sector: u64, bytes: usize) -> Vec<u8> {
        self.disk(number).content[sector as usize * 512..][..bytes].to_vec()
    }

    /// The running session, as the node counts it.
    pub(crate) fn session(&self, number: usize, peer: usize) -> Option<SessionId> {
        self.nodes[number].sessions.get(&peer).copied()
    }

    pub(crate) fn disk_state(&self, number: usize) -> DiskState {
        let info = self.nodes[number]
            .engine
            .volume_info(self.volume, self.now)
            .unwrap();
        DiskState::from_number(info.disk_state).unwrap()
    }

    /// Whether the host may read past the engine.
    pub(crate) fn serves_reads(&self, number: usize) -> bool {
        self.nodes[number]
            .engine
            .serves_reads(self.volume)
            .is_some()
    }

    pub(crate) fn role(&self, number: usize) -> Role {
        Role::from_number(self.resource(number).role).unwrap()
    }

    pub(crate) fn resource(&self, number: usize) -> ResourceInfo {
        self.nodes[number].engine.resource_info(self.now)
    }

    fn replica(&self, number: usize, peer: usize) -> PeerVolumeInfo {
        self.nodes[number]
            .engine
            .peer_volume_info(node(peer), self.volume, self.now)
            .unwrap()
    }

    pub(crate) fn replication(&self, number: usize, peer: usize) -> ReplicationState {
        ReplicationState::from_number(self.replica(number, peer).replication).unwrap()
    }

    /// How the peer keeps up with the writes of the node.
    pub(crate) fn pace(&self, number: usize, peer: usize) -> Pace {
        Pace::from_number(self.replica(number, peer).pace).unwrap()
    }

    /// What of the node's writes the peer may lack, in bytes, and for how long, in milliseconds.
    pub(crate) fn lag(&self, number: usize, peer: usize) -> (u64, u64) {
        let info = self.replica(number, peer);
        (info.lag_bytes, info.lag_ms)
    }

    /// Why resyncs wait, or would, bits `PAUSED_*`.
    pub(crate) fn paused(&self, number: usize, peer: usize) -> u32 {
        self.replica(number, peer).paused
    }

    pub(crate) fn out_of_sync(&self, number: usize, peer: usize) -> u64 {
        self.replica(number, peer).out_of_sync_sectors
    }

    /// What a node says of the last time its disk was compared with a peer's.
    pub(crate) fn verify(&self, number: usize, peer: usize) -> Verified {
        let info = self.replica(number, peer);
        let found = &info.verify_found[..info.verify_ranges as usize];
        Verified {
            state: VerifyState::from_number(info.verify).unwrap(),
            start: info.verify_start,
            stop: info.verify_stop,
            upto: info.verify_upto,
            differing: info.verify_differing,
            found: found.iter().map(|range| (range.start, range.end)).collect(),
        }
    }

    /// Bytes of the node's disk that were zeroed without being written.
    pub(crate) fn zeroed(&self, number: usize) -> u64 {
        self.disk(number).zeroed
    }

    /// Sectors that the last resync with the peer transferred.
    pub(crate) fn resynced(&self, number: usize, peer: usize) -> u64 {
        self.replica(number, peer).resync_done_sectors
    }

    /// What holds up the resync that the node serves, and the rate that it gets.
    pub(crate) fn resync_limit(&self, number: usize, peer: usize) -> (Limit, u64) {
        let info = self.replica(number, peer);
        (
            Limit::from_number(info.resync_limit).unwrap(),
            info.resync_rate,
        )
    }

    /// Bytes that the node sent to the peer.
    pub(crate) fn sent(&self, number: usize, peer: usize) -> u64 {
        self.replica(number, peer).sent_sectors * 512
    }

    /// Sectors of the last resync with the peer that were found equal.
    pub(crate) fn found_equal(&self, number: usize, peer: usize) -> u64 {
        self.replica(number, peer).resync_equal_sectors
    }

    /// The time, in milliseconds.
    pub(crate) fn clock(&self) -> u64 {
        self.now.ms_since(Time(0))
    }

    /// The node's host tells of reads that it made itself.
    pub(crate) fn tell_reads(&mut self, number: usize, reads: Reads) {
        self.nodes[number].engine.note_reads(self.volume, reads);
    }

    /// The node's host says whether resyncs of another resource come first.
    pub(crate) fn set_turn(&mut self, number: usize, waits: bool) {
        self.feed(number, Event::Turn { waits });
    }

    /// Whether those of other resources have to wait for this one's.
    pub(crate) fn is_resyncing(&self, number: usize) -> bool {
        self.nodes[number].engine.is_resyncing()
    }

    /// The rule that decided when the two met last.
    pub(crate) fn rule(&self, number: usize, peer: usize) -> String {
        let rule = self.replica(number, peer).rule;
        String::from_utf8_lossy(&rule)
            .trim_end_matches('\0')
            .to_owned()
    }

    /// What came of the split brain when the two met last, and whose data were given up.
    pub(crate) fn recovery(&self, number: usize, peer: usize) -> (Recovery, Option<usize>) {
        let info = self.replica(number, peer);
        let victim = (info.victim as usize).checked_sub(1);
        (Recovery::from_number(info.recovery).unwrap(), victim)
    }

    pub(crate) fn is_stand_alone(&self, number: usize, peer: usize) -> bool {
        let info = self.nodes[number]
            .engine
            .peer_info(node(peer), self.now)
            .unwrap();
        info.connection == ConnectionState::StandAlone.number()
    }

    /// Why the last session with the peer ended.
    pub(crate) fn reason(&self, number: usize, peer: usize) -> String {
        let info = self.nodes[number].engine.peer_info(node(peer), self.now);
        String::from_utf8_lossy(&info.unwrap().reason)
            .trim_end_matches('\0')
            .to_owned()
    }

    /// Generations before the current one that the disk remembers.
    pub(crate) fn generations(&self, number: usize) -> usize {
        let info = self.nodes[number]
            .engine
            .generation_info(self.volume)
            .unwrap();
        info.ancestry.iter().filter(|&&id| id != 0).count()
    }

    pub(crate) fn members(&self, number: usize) -> u32 {
        self.nodes[number]
            .engine
            .generation_info(self.volume)
            .unwrap()
            .members
    }

    /// Whether the disk says that the node is primary, or was when it crashed.
    pub(crate) fn is_marked_writer(&self, number: usize) -> bool {
        let info = self.nodes[number].engine.generation_info(self.volume);
        info.is_some_and(|info| info.flags & GENERATION_WRITER_ACTIVE != 0)
    }

    /// Who had left when the node's record was made.
    pub(crate) fn left(&self, number: usize) -> u32 {
        let info = self.nodes[number].engine.generation_info(self.volume);
        info.unwrap().left
    }

    /// The record with which the node itself left; 0: it did not, or was taken in.
    pub(crate) fn left_at(&self, number: usize) -> u64 {
        let info = self.nodes[number].engine.volume_info(self.volume, self.now);
        info.unwrap().left_at
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Every disk is up to date and in lockstep with every other one, and all hold the same data. Two that follow a
    /// primary leave it to it what they may owe each other.
    pub(crate) fn assert_whole(&mut self) {
        self.assert_equal();
        for number in self.numbers() {
            assert_eq!(
                self.disk_state(number),
                DiskState::UpToDate,
                "node {number}"
            );
            for peer in self.peers(number) {
                let state = self.replication(number, peer);
                assert_eq!(state, ReplicationState::Established, "{number} of {peer}");
                if self.role(number) == Role::Primary {
                    assert_eq!(self.out_of_sync(number, peer), 0, "{number} of {peer}");
                }
            }
        }
    }

    /// Every disk is up to date.
    pub(crate) fn assert_uptodate(&mut self, context: usize) {
        for number in self.with_disks() {
            let state = self.disk_state(number);
            assert_eq!(state, DiskState::UpToDate, "step {context}: node {number}");
        }
    }

    /// The nodes that are primary.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary = |&number: &usize| self.role(number) == Role::Primary;
        self.numbers().filter(is_primary).collect()
    }
}
