// SPDX-License-Identifier: GPL-2.0-only

//! Disks that become larger, and people who have the device grow with them. With chance of its own, as for other orders.
//!
//! Every disk has all the sectors from the beginning that it will ever have; how many of them its machine sees grows.

use crate::node::Node;
use crate::world::{note, Happening, World, MS, US};
use weft_engine::event::{Command, Event, Growth};
use weft_engine::host::Time;
use weft_engine::room::Room;
use weft_uapi::ondisk::Layout;
use weft_uapi::units::VolumeId;

/// Histories of seeds from here on have such orders; those of older seeds stay what they were.
pub(crate) const RESIZES_FROM: u64 = 0x18ec_d000_0000_0000;
/// Sectors that a disk gets in addition at most.
pub(crate) const GROWTH_MAX: u64 = 8192;
/// Longest request of an application, with all that is added to its place.
const REQUEST_MAX: u64 = 300;
/// Faults that come with an order.
const ORDER_PERCENT: u64 = 25;
/// So often the device grows when all is well.
pub(crate) const RESIZES_WHEN_WELL: u32 = 2;

impl Node {
    /// Sectors of the device, as the disk would say after a power cut.
    pub(crate) fn device_sectors(&self) -> u64 {
        let superblock = self.superblock();
        let layout = superblock.and_then(|block| block.layout(self.disk.info.meta_sectors));
        let sectors = superblock
            .zip(layout)
            .map(|(block, layout)| block.sectors(&layout));
        sectors.unwrap_or(self.disk.layout.data_sectors())
    }
}

impl World {
    /// Somebody may make disks larger, and the device.
    pub(crate) fn resize_something(&mut self, node: usize) {
        if self.plan.seed < RESIZES_FROM || !self.resizes.percent(ORDER_PERCENT) {
            return;
        }
        for disk in 0..self.nodes.len() {
            if self.resizes.percent(80) {
                self.enlarge(disk);
            }
        }
        let assumes_room = self.resizes.percent(25);
        self.order_growth(node, assumes_room);
    }

    /// All is well: the same, on all nodes.
    pub(crate) fn resize_when_well(&mut self) {
        if self.plan.seed < RESIZES_FROM || self.volume.resizes_left == 0 || !self.resizes.coin() {
            return;
        }
        self.volume.resizes_left -= 1;
        (0..self.nodes.len()).for_each(|disk| self.enlarge(disk));
        let node = self.resizes.index(self.nodes.len());
        self.order_growth(node, false);
    }

    fn order_growth(&mut self, node: usize, assumes_room: bool) {
        let now = self.nodes[node].device_sectors();
        let wanted = now + 8 * self.resizes.range(0..GROWTH_MAX / 8);
        let growth = Growth {
            sectors: self.resizes.percent(30).then_some(wanted),
            is_clean: self.is_rest_equal() && self.resizes.coin(),
            assumes_room,
        };
        let volume = self.at;
        self.command(node, Command::Resize { volume, growth });
    }

    /// Whether all disks hold the same where the device does not reach yet.
    fn is_rest_equal(&self) -> bool {
        let disks = self.nodes.iter().filter(|node| !node.is_diskless);
        let sectors = disks.clone().map(Node::device_sectors).min();
        let start = sectors.unwrap_or(0) as usize;
        let mut disks = disks.map(|node| &node.disk);
        let Some(first) = disks.next() else {
            return false;
        };
        let first = &first.current[start..];
        disks.all(|disk| disk.current[start..] == *first && disk.stable[start..] == *first)
            && self
                .nodes
                .iter()
                .all(|node| node.disk.stable[start..] == *first)
    }

    /// The disk of a machine, which may be running, becomes larger.
    fn enlarge(&mut self, node: usize) {
        let more = 8 * self.resizes.range(65..300);
        let this = &mut self.nodes[node];
        let most = this.disk.current.len() as u64;
        let sectors = (this.disk.info.disk_sectors + more).min(most);
        this.disk.info.disk_sectors = sectors;
        note!(self, "the disk of n{node} has {sectors} sectors");
    }

    /// A person makes every disk as large as the largest one.
    pub(crate) fn make_disks_equally_large(&mut self) {
        let sectors = self.nodes.iter().map(|node| node.disk.info.disk_sectors);
        let largest = sectors.max().unwrap_or(0);
        for node in &mut self.nodes {
            node.disk.info.disk_sectors = largest;
        }
    }

    /// A place that the device did not have at first, if the application looks for one.
    pub(crate) fn draw_new_spot(&mut self, node: usize) -> Option<u64> {
        if self.plan.seed < RESIZES_FROM || !self.resizes.percent(40) {
            return None;
        }
        let first = self.volume.first_sectors;
        let end = self.offered_sectors(node)?.checked_sub(REQUEST_MAX)?;
        (first < end).then(|| self.resizes.range(first..end) & !7)
    }

    /// Sectors of the device of a machine that runs.
    pub(crate) fn offered_sectors(&self, node: usize) -> Option<u64> {
        let engine = self.nodes[node].engine.as_ref()?;
        let info = engine.volume_info(self.at, Time(self.now))?;
        Some(info.sectors)
    }

    /// The engine wants to know how large the disk is.
    pub(crate) fn measure(&mut self, node: usize, attach_id: u64, layout: Layout) {
        let (life, volume) = (self.nodes[node].life, self.at);
        let delay = self.resizes.duration(US..100 * MS);
        let measured = Happening::Measured {
            node,
            life,
            volume,
            attach_id,
            layout,
        };
        self.after(delay, measured);
    }

    pub(crate) fn on_measured(
        &mut self,
        node: usize,
        life: u32,
        volume: VolumeId,
        (attach_id, layout): (u64, &Layout),
    ) {
        self.turn_to(volume);
        let this = &self.nodes[node];
        if this.life != life || !this.is_attached {
            return;
        }
        let info = this.disk.info;
        let mut room = Room::find(layout, info.disk_sectors, info.meta_sectors);
        let measured = Event::Measured {
            volume,
            attach_id,
            room: room.as_mut().map_err(|refusal| *refusal),
        };
        self.feed(node, measured);
    }
}
