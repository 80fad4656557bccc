// SPDX-License-Identifier: GPL-2.0-only

//! Disks that go bad without a word, and people who have copies compared and repaired. With chance of its own, as for other
//! orders.
//!
//! A bad sector is seen by digests only: what the disk reads is right, so that nothing else has to know of it. Writing to it
//! makes it good.

use crate::checkers;
use crate::host::Content;
use crate::node::node_id;
use crate::world::{note, World};
use weft_engine::event::{Command, Wanted};
use weft_engine::host::Time;
use weft_uapi::state::{ReplicationState, VerifyState};
use weft_uapi::status::PeerVolumeInfo;
use weft_uapi::units::Sector;
use weft_uapi::wire::Digest;

/// Histories of seeds from here on have such orders; those of older seeds stay what they were.
pub(crate) const VERIFIES_FROM: u64 = 0x18ec_ca00_0000_0000;
/// See [`World::verifies_left`].
pub(crate) const VERIFIES_WHEN_WELL: u32 = 3;
/// Faults that come with an order.
const ORDER_PERCENT: u64 = 60;

/// What stands for a content with bad sectors: equal ones have the same, and all others another one.
pub(crate) fn digest_of(node: usize, content: &Content, first: u64, bad: &[u64]) -> Digest {
    let mix = |sum: u64, word: u64| {
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let bad = bad
        .iter()
        .map(|sector| ((sector - first) << 8) | (node as u64 + 1));
    let half = |seed| {
        let sum = content.iter().copied().fold(seed, mix);
        bad.clone().fold(sum, mix).to_le_bytes()
    };
    [half(1), half(2)].concat().try_into().unwrap()
}

impl World {
    /// Somebody may have something compared or repaired, or a disk go bad.
    pub(crate) fn verify_something(&mut self, node: usize, peer: usize) {
        if self.plan.seed < VERIFIES_FROM || !self.verifies.percent(ORDER_PERCENT) {
            return;
        }
        let (volume, id) = (self.at, node_id(peer));
        let command = match self.verifies.range(0..10) {
            0..=2 => return self.spoil_sector(node),
            3..=5 => Command::Verify {
                volume,
                peer: id,
                wanted: self.draw_range(),
            },
            6 => Command::Verify {
                volume,
                peer: id,
                wanted: Wanted::Rest,
            },
            7 => Command::VerifyStop { volume, peer: id },
            _ => Command::Repair {
                volume,
                peer: id,
                from: node_id(*self.verifies.pick(&[node, peer])),
            },
        };
        self.command(node, command);
    }

    /// All is well: a disk goes bad, and somebody has copies compared.
    pub(crate) fn verify_when_well(&mut self) {
        if self.plan.seed < VERIFIES_FROM || self.volume.verifies_left == 0 {
            return;
        }
        self.volume.verifies_left -= 1;
        let disks = (0..self.nodes.len()).filter(|&node| !self.nodes[node].is_diskless);
        let disks: Vec<usize> = disks.collect();
        let bad = *self.verifies.pick(&disks);
        self.spoil_sector(bad);
        let node = *self.verifies.pick(&disks);
        let peer = *self.verifies.pick(&disks);
        let wanted = self.draw_range();
        if node != peer {
            let (volume, peer) = (self.at, node_id(peer));
            self.command(
                node,
                Command::Verify {
                    volume,
                    peer,
                    wanted,
                },
            );
        }
    }

    /// All is still well: what was found is repaired now and then.
    pub(crate) fn repair_when_well(&mut self) {
        for [node, peer] in self.pairs() {
            let Some(engine) = &self.nodes[node].engine else {
                continue;
            };
            let info = engine.peer_volume_info(node_id(peer), self.at, Time(self.now));
            let has_found = info.is_some_and(|info| {
                info.verify_ranges > 0 && info.verify == VerifyState::Finished.number()
            });
            if has_found && self.verifies.percent(30) {
                let from = node_id(*self.verifies.pick(&[node, peer]));
                let (volume, peer) = (self.at, node_id(peer));
                return self.command(node, Command::Repair { volume, peer, from });
            }
        }
    }

    fn spoil_sector(&mut self, node: usize) {
        let sectors = self.nodes[node].device_sectors();
        let sector = self.verifies.range(0..sectors);
        note!(self, "n{node} sector {sector} goes bad");
        self.nodes[node].disk.bad.insert(sector);
        self.volume.bad_ever.insert(sector / 8);
    }

    fn draw_range(&mut self) -> Wanted {
        let end = self.nodes[0].device_sectors();
        if self.verifies.coin() {
            let (start, stop) = (Sector(0), None);
            return Wanted::Range { start, stop };
        }
        let start = self.verifies.range(0..end);
        let stop = self.verifies.range(start..end + 1);
        Wanted::Range {
            start: Sector(start),
            stop: Some(Sector(stop)),
        }
    }

    /// What a node says of comparisons after an event.
    pub(crate) fn observe_verifies(&mut self, node: usize) {
        for peer in self.peers(node) {
            let engine = self.nodes[node].engine.as_ref();
            let info = engine
                .and_then(|engine| engine.peer_volume_info(node_id(peer), self.at, Time(self.now)));
            let is_news = |info: &PeerVolumeInfo| {
                let states = [info.verify, self.nodes[node].verify[peer].number()];
                states != [VerifyState::Never.number(); 2]
            };
            if let Some(info) = info.filter(is_news) {
                self.observe_verify(node, peer, &info);
            }
        }
    }

    fn observe_verify(&mut self, node: usize, peer: usize, info: &PeerVolumeInfo) {
        let state = VerifyState::from_number(info.verify).unwrap_or_default();
        let was = std::mem::replace(&mut self.nodes[node].verify[peer], state);
        if was != state {
            self.tally.reach.change("verify", was, state);
        }
        checkers::no_false_difference(self, node, peer, info);
        match state {
            VerifyState::Running if was != state && info.verify_upto == info.verify_start => {
                let is_teller = info.replication == ReplicationState::VerifySource.number();
                let told = self.nodes[peer].compared_since[node].clone();
                let bad = match is_teller {
                    true => Some([node, peer].map(|it| self.nodes[it].disk.bad.clone())),
                    // It hears of what the teller may have begun long ago.
                    false => told.map(|[theirs, own]| [own, theirs]),
                };
                self.nodes[node].compared_since[peer] = bad;
            }
            VerifyState::Finished if was != state => {
                checkers::nothing_missed(self, node, peer, info);
            }
            VerifyState::Never => self.nodes[node].compared_since[peer] = None,
            _ => {}
        }
    }

    /// Where a disk differs that is about to be repaired; `None`: all of it is given up.
    pub(crate) fn repaired_ranges(&self, node: usize) -> Option<Vec<(u64, u64)>> {
        let engine = self.nodes[node].engine.as_ref()?;
        let infos = self
            .peers(node)
            .filter_map(|peer| engine.peer_volume_info(node_id(peer), self.at, Time(self.now)));
        let is_repair = |info: &PeerVolumeInfo| {
            info.rule.starts_with(b"repair\0")
                && info.replication == ReplicationState::BitmapTarget.number()
        };
        let info = infos.into_iter().find(is_repair)?;
        let found = info.verify_found.iter().take(info.verify_ranges as usize);
        Some(found.map(|range| (range.start, range.end)).collect())
    }
}
