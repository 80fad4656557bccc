// SPDX-License-Identifier: GPL-2.0-only

//! A second volume, in some histories. Whatever is done, said or checked is about one volume at a time: the world turns to it. With
//! chance of its own, so that it changes nothing about the histories of older seeds.

use crate::app::WRITES_MAX;
use crate::checkers;
use crate::history::History;
use crate::life::Setup;
use crate::node::Part;
use crate::random::Random;
use crate::resize::RESIZES_WHEN_WELL;
use crate::verify::VERIFIES_WHEN_WELL;
use crate::world::World;
use std::collections::BTreeSet;
use std::mem::swap;
use weft_uapi::units::VolumeId;

/// Histories of seeds from here on may have two volumes; those of older seeds stay what they were.
const VOLUMES_FROM: u64 = 0x18ec_e400_0000_0000;
/// How many of them do.
const TWO_PERCENT: u64 = 25;
/// The one that not every history has.
const SECOND: VolumeId = VolumeId(1);

/// What the world knows of a volume.
pub(crate) struct Volume {
    /// Sectors that the device had at first.
    pub first_sectors: u64,
    /// So often the device is to grow when all is well.
    pub resizes_left: u32,
    /// So often something is to be compared when all is well.
    pub verifies_left: u32,
    /// Some disk lost sectors.
    pub has_lost: bool,
    /// Blocks of which a sector went bad on some disk at some time.
    pub bad_ever: BTreeSet<u64>,
    pub history: History,
    /// What the checkers have read of each disk.
    pub stable: Vec<Option<checkers::Stable>>,
    /// First sectors of the places that the applications like.
    pub spots: Vec<u64>,
    /// When so many writes were submitted, there are no more.
    pub writes_max: usize,
    /// The newest generation that a majority knew.
    pub tip: u64,
}

pub(crate) fn draw_volumes(seed: u64) -> usize {
    let mut random = Random::new(seed.rotate_left(20));
    let are_two = seed >= VOLUMES_FROM && random.percent(TWO_PERCENT);
    1 + usize::from(are_two)
}

impl Volume {
    pub(crate) fn new(nodes: usize, volume: VolumeId, sectors: u64, random: &mut Random) -> Self {
        let spots = (0..random.range(2..10))
            .map(|_| random.range(0..sectors - 300) & !7)
            .collect();
        Self {
            first_sectors: sectors,
            resizes_left: RESIZES_WHEN_WELL,
            verifies_left: VERIFIES_WHEN_WELL,
            has_lost: false,
            bad_ever: BTreeSet::new(),
            history: History::new(nodes, volume),
            stable: (0..nodes).map(|_| None).collect(),
            spots,
            writes_max: WRITES_MAX,
            tip: 0,
        }
    }
}

impl World {
    /// Adds the second volume, if there is to be one.
    pub(crate) fn add_volume(&mut self) {
        if self.plan.volumes < 2 {
            return;
        }
        let (nodes, random) = (self.plan.nodes, &mut self.volumes);
        let sectors = *random.pick(&[2048, 8192, 20_480]);
        self.other = Some(Volume::new(nodes, SECOND, sectors, random));
        for node in &mut self.nodes {
            node.other = Some(Part::new(node.id, nodes, SECOND, sectors, random));
        }
    }

    pub(crate) fn each_volume(&self) -> impl Iterator<Item = VolumeId> {
        (0..self.plan.volumes as u16).map(VolumeId)
    }

    /// From now on everything is about this volume.
    pub(crate) fn turn_to(&mut self, volume: VolumeId) {
        let Some(other) = self.other.as_mut().filter(|_| volume != self.at) else {
            return;
        };
        swap(&mut self.volume, other);
        for node in &mut self.nodes {
            if let Some(other) = &mut node.other {
                swap(&mut node.part, other);
            }
        }
        self.at = volume;
    }

    /// Does something about each volume.
    pub(crate) fn on_each_volume(&mut self, mut what: impl FnMut(&mut Self)) {
        let at = self.at;
        for volume in self.each_volume() {
            self.turn_to(volume);
            what(self);
        }
        self.turn_to(at);
    }

    /// Whatever goes wrong next, or is ordered, is about some volume.
    pub(crate) fn choose_volume(&mut self) {
        if self.other.is_some() && self.volumes.coin() {
            self.turn_to(SECOND);
        }
    }

    /// The second volume is set up with the first one, in any order.
    pub(crate) fn set_up_other(&mut self, steps: &mut Vec<Setup>) {
        if self.other.is_some() {
            steps.insert(1, Setup::NewDevice(SECOND));
            let at = 2 + self.volumes.index(steps.len() - 1);
            steps.insert(at, Setup::Attach(SECOND));
        }
    }

    /// The end is near: says whether nothing was under way, so that everything was checked.
    pub(crate) fn is_finished(&mut self) -> bool {
        let mut is_finished = true;
        self.on_each_volume(|world| is_finished &= checkers::finished(world));
        is_finished
    }
}
