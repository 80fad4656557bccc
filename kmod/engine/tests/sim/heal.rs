// SPDX-License-Identifier: GPL-2.0-only

//! Disks that lose sectors: those cannot be read before they are written again. With chance of its own, as for other faults.
//!
//! What the checkers read of a disk is what it would have been: a sector that is written anew with anything else is seen by
//! them as any other wrong write is.

use crate::world::{note, World};

/// Histories of seeds from here on have such disks; those of older seeds stay what they were.
pub(crate) const LOSSES_FROM: u64 = 0x18ec_e340_0000_0000;
/// Faults that come with a loss.
const LOSS_PERCENT: u64 = 30;
/// Sectors that are lost at once at most.
const SECTORS_MAX: u64 = 20;

impl World {
    /// A disk may lose a few sectors, where the applications like to be.
    pub(crate) fn lose_something(&mut self, node: usize) {
        if self.plan.seed >= LOSSES_FROM && self.losses.percent(LOSS_PERCENT) {
            self.lose_sectors(node);
        }
    }

    /// All is well, and a disk loses a few sectors.
    pub(crate) fn lose_when_well(&mut self) {
        if self.plan.seed >= LOSSES_FROM {
            let node = self.losses.range(0..self.nodes.len() as u64) as usize;
            self.lose_sectors(node);
        }
    }

    fn lose_sectors(&mut self, node: usize) {
        let end = self.nodes[node].device_sectors();
        let first = *self.losses.pick(&self.volume.spots) + self.losses.range(0..64);
        let sectors = first..(first + self.losses.range(1..SECTORS_MAX)).min(end);
        note!(self, "n{node} loses sectors {sectors:?}");
        self.volume.has_lost = true;
        self.nodes[node].disk.lost.extend(sectors);
    }

    /// No fault lasts.
    pub(crate) fn recover_sectors(&mut self) {
        for node in &mut self.nodes {
            node.disk.lost.clear();
        }
    }
}
