// SPDX-License-Identifier: GPL-2.0-only

//! What people order beside roles and connections: disks given up, resyncs and requests that wait, new disks that are
//! equal. With chance of its own, so that it changes nothing about the histories of older seeds.

use crate::node::{node_id, Node};
use crate::world::{note, World};
use weft_engine::event::Command;
use weft_engine::host::Time;
use weft_uapi::ondisk::{Superblock, FLAG_INVALIDATED};
use weft_uapi::status::{PAUSED_HERE, SUSPENDED_COMMAND};

/// Histories of seeds from here on have such orders; those of older seeds stay what they were.
pub(crate) const ORDERS_FROM: u64 = 1 << 41;
/// Histories in which a person has made all disks equal before anything begins.
const EQUAL_PERCENT: u64 = 40;
/// Faults that come with an order.
const ORDER_PERCENT: u64 = 50;
/// What is on a disk that a person gives up.
const SPOILT: u64 = 900;

impl World {
    /// Makes new disks equal in some histories, so that a person may call them so.
    pub(crate) fn prepare_disks(&mut self) {
        self.are_equal = self.plan.seed >= ORDERS_FROM && self.orders.percent(EQUAL_PERCENT);
        if self.are_equal {
            let parts = self.nodes.iter_mut().flat_map(Node::parts_mut);
            parts.for_each(|part| part.disk.fill_with(0));
        }
    }

    /// Whether all disks are new ones with the same content, and a person says so now.
    pub(crate) fn calls_disks_equal(&mut self) -> bool {
        let mut is_new = true;
        self.on_each_volume(|world| is_new &= world.nodes.iter().all(|node| node.is_blank()));
        self.are_equal && is_new && self.orders.percent(70)
    }

    /// Somebody may order something.
    pub(crate) fn order_something(&mut self, node: usize, peer: usize) {
        if self.plan.seed < ORDERS_FROM || !self.orders.percent(ORDER_PERCENT) {
            return;
        }
        let (volume, id) = (self.at, node_id(peer));
        let from = self.orders.coin().then_some(id);
        let command = match self.orders.range(0..9) {
            0 | 1 => Command::Invalidate { volume, from },
            2 | 3 => Command::InvalidatePeer { volume, peer: id },
            4 => Command::PauseSync { peer: id },
            5 => Command::ResumeSync { peer: id },
            6 => Command::SuspendIo,
            7 => Command::Secondary { force: true },
            _ => Command::ResumeIo,
        };
        self.command(node, command);
    }

    /// Whether somebody ordered that the node's disk be given up, and has not been answered.
    pub(crate) fn is_being_given_up(&self, node: usize) -> bool {
        let is_meant = |at: usize, command: &Option<Command>| match command {
            Some(Command::Invalidate { volume, .. }) => *volume == self.at && at == node,
            Some(Command::InvalidatePeer { volume, peer }) => {
                *volume == self.at && peer.index() == node
            }
            Some(Command::Repair { volume, peer, from }) => {
                *volume == self.at && *from != node_id(node) && (at == node || peer.index() == node)
            }
            _ => false,
        };
        self.nodes.iter().enumerate().any(|(at, this)| {
            let mut commands = this.tokens.values();
            commands.any(|command| is_meant(at, command))
        })
    }

    /// The durable superblock of `node` changed: from when on its disk is given up, there is nothing good on it.
    pub(crate) fn spoil(&mut self, node: usize, old: &Superblock, new: &Superblock) {
        if new.flags & !old.flags & FLAG_INVALIDATED != 0 {
            let repaired = self.repaired_ranges(node);
            note!(self, "n{node} is given up, of it {repaired:?}");
            let sectors = self.nodes[node].device_sectors();
            let disk = &mut self.nodes[node].disk;
            let what = match repaired {
                None => {
                    disk.fill_part_with(SPOILT, (0, sectors));
                    "given up"
                }
                Some(ranges) => {
                    let ranges = ranges.into_iter();
                    ranges.for_each(|range| disk.fill_part_with(SPOILT, range));
                    "given up in part"
                }
            };
            self.tally.reach.count("order", what);
        }
    }

    /// Takes back what makes something wait.
    pub(crate) fn take_orders_back(&mut self, node: usize) {
        let Some(engine) = &self.nodes[node].engine else {
            return;
        };
        let now = Time(self.now);
        let is_suspended = engine.resource_info(now).suspended & SUSPENDED_COMMAND != 0;
        let is_paused = |peer: &usize| {
            let infos = self.each_volume();
            let mut infos = infos.filter_map(|it| engine.peer_volume_info(node_id(*peer), it, now));
            infos.any(|info| info.paused & PAUSED_HERE != 0)
        };
        let paused: Vec<usize> = self.peers(node).filter(is_paused).collect();
        if is_suspended {
            self.command(node, Command::ResumeIo);
        }
        for peer in paused {
            let peer = node_id(peer);
            self.command(node, Command::ResumeSync { peer });
        }
    }
}
