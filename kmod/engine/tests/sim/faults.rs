// SPDX-License-Identifier: GPL-2.0-only

//! What goes wrong, and what people do in the middle of it.

use crate::canary::Canary;
use crate::checkers;
use crate::disk::Disk;
use crate::link::{pair, Cable};
use crate::node::{node_id, Source};
use crate::world::{note, Happening, World, MS, SECOND, US};
use std::rc::Rc;
use weft_engine::event::{Command, Options};
use weft_uapi::ondisk::Superblock;
use weft_uapi::state::Protocol;
use weft_uapi::units::Incarnation;

/// Histories of seeds from here on have nodes that leave in order; those of older seeds stay what they were.
const LEAVES_FROM: u64 = 1 << 60;
/// Likewise, primaries that are overtaken.
const OVERTAKES_FROM: u64 = 1 << 40;

/// Writes between two faults at most.
pub(crate) const WRITES_PER_FAULT: usize = 50;

impl World {
    /// Something goes wrong, or an administrator does something.
    pub(crate) fn on_fault(&mut self) {
        self.first_aid();
        self.choose_volume();
        if self.faults_left == 0 {
            note!(self, "no more faults");
            self.calm_since = Some(self.now);
            self.allow_writes(WRITES_PER_FAULT);
            self.after(0, Happening::Calm);
            return;
        }
        self.allow_writes(WRITES_PER_FAULT);
        self.faults_left -= 1;
        let node = self.random.index(self.nodes.len());
        let peer = self.some_peer(node);
        if self.disks_roll_back && self.extra.percent(40) {
            self.roll_back(node);
        }
        if self.plan.seed >= OVERTAKES_FROM && self.nodes.len() > 2 && self.extra.percent(20) {
            self.overtake();
        }
        if self.plan.seed >= LEAVES_FROM && self.extra.percent(20) {
            self.leave();
        }
        self.order_something(node, peer);
        self.verify_something(node, peer);
        self.lose_something(node);
        self.choose_speed(node);
        self.choose_congestion(node);
        self.resize_something(node);
        match self.random.range(0..26) {
            0..=2 => self.crash_by_fault(node),
            3..=5 => self.nodes[node].dies_after = Some(self.random.duration(1..300)),
            6 => self.crash_two(node, peer),
            7 | 8 => self.cut(node, peer),
            9 | 10 => self.reset_connection(node, peer),
            11 => self.restart_daemon(node),
            12..=14 => self.switch_over(node),
            15 => self.demote(node),
            16 => self.command(node, Command::Primary { force: false }),
            17 if self.random.percent(30) && !self.lacks_data(node) => {
                self.command(node, Command::Primary { force: true });
            }
            18 => self.disconnect(node, peer),
            19 => self.connect(node, peer, self.nodes[node].may_lose_line),
            20 => {
                self.nodes[node].wants_disk = false;
                self.command(node, Command::Detach { volume: self.at });
            }
            21 => {
                self.nodes[node].wants_disk = true;
                self.attach(node);
            }
            22 => {
                let protocol = *self.random.pick(Protocol::ALL);
                self.set_protocol(protocol);
            }
            23 => self.resolve_split_brain(),
            24 => self.replace_disk(node),
            _ if self.disks_fail => {
                note!(self, "n{node} disk fails");
                (self.nodes[node].is_failing, self.nodes[node].has_failed) = (true, true);
            }
            _ => {}
        }
        let gap = self.random.duration(MS..4 * SECOND);
        self.after(gap, Happening::Fault);
    }

    /// The machine dies and comes back after a while.
    pub(crate) fn crash_by_fault(&mut self, node: usize) {
        let power = self.random.percent(70);
        self.crash(node, power);
        let delay = self.random.duration(MS..6 * SECOND);
        self.after(delay, Happening::Boot { node });
    }

    /// One secondary leaves in order, or all of them: with the connection to the primary it gives the others up.
    fn leave(&mut self) {
        let Some(primary) = self.nodes.iter().position(|node| node.is_primary()) else {
            return;
        };
        let mut leavers: Vec<usize> = self.peers(primary).collect();
        if self.extra.coin() {
            leavers = vec![*self.extra.pick(&leavers)];
        }
        let force = self.extra.percent(20);
        for node in leavers {
            note!(self, "n{node} is to leave by n{primary}");
            self.tally.reach.count("people", "leave");
            let others = self.peers(node).filter(|&peer| peer != primary);
            for peer in others.chain([primary]).collect::<Vec<_>>() {
                self.nodes[node].wants_peer[peer] = false;
                let peer = node_id(peer);
                self.command(node, Command::Disconnect { peer, force });
            }
        }
    }

    /// A node is cut off, and is to lead as soon as it is back, without the primary that went on without it.
    fn overtake(&mut self) {
        let Some(leader) = self.nodes.iter().position(|node| node.is_primary()) else {
            return;
        };
        let heirs: Vec<usize> = self
            .peers(leader)
            .filter(|&peer| !self.nodes[peer].is_diskless)
            .collect();
        let heir = *self.extra.pick(&heirs);
        note!(self, "n{heir} is to overtake n{leader}");
        let away = self.extra.duration(MS..3 * SECOND);
        for peer in self.peers(heir) {
            let (nodes, cable) = (pair(heir, peer), Cable::default());
            let blocked = [true, true];
            self.on_cable(nodes, Cable { blocked, ..cable });
            self.after(away, Happening::Cable { nodes, cable });
        }
        self.after(away, Happening::Overtake { leader, heir });
    }

    pub(crate) fn on_overtake(&mut self, leader: usize, heir: usize) {
        if self.calm_since.is_some() || !self.nodes[leader].is_primary() {
            return;
        }
        self.crash_by_fault(leader);
        for delay in [100 * MS, 500 * MS, 2 * SECOND] {
            self.after(delay, Happening::Lead { node: heir });
        }
    }

    pub(crate) fn on_lead(&mut self, node: usize) {
        if !self.nodes.iter().any(|node| node.is_primary()) {
            self.switch_over(node);
        }
    }

    /// Two machines die, the second one after a few more steps.
    fn crash_two(&mut self, node: usize, peer: usize) {
        self.crash_by_fault(node);
        let delay = self.random.duration(US..100 * MS);
        let life = self.nodes[peer].life;
        self.nodes[peer].dies_after = (delay % 3 == 0).then_some(delay % 40);
        note!(self, "both die, n{peer} (life {life}) soon");
    }

    fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        for node in 0..self.nodes.len() {
            let parts = self.nodes[node].parts_mut();
            let requests = parts.flat_map(|part| part.app.outstanding.values_mut());
            requests.for_each(|request| request.is_safe &= protocol == Protocol::C);
            let options = Options {
                protocol: Some(protocol),
                ..Options::default()
            };
            self.command(node, Command::SetOptions { options });
        }
    }

    fn restart_daemon(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.on_daemon(node, life, false);
        let delay = self.random.duration(MS..3 * SECOND);
        self.after(
            delay,
            Happening::Daemon {
                node,
                life,
                serves: true,
            },
        );
    }

    /// Whether the data would outlive this disk, and the memory of who may write.
    fn has_good_peer(&self, node: usize) -> bool {
        let line = |node: usize| self.volume.history.line(self.nodes[node].written());
        // Without quorum a person may go on with less.
        let has_all = |peer: usize| {
            let (own, kept) = (line(node), line(peer));
            let mut lost = own.difference(&kept);
            !self.quorum.is_on() || !lost.any(|&generation| self.volume.history.counts(generation))
        };
        let mut peers = self.peers(node);
        let is_good =
            |peer: usize| self.nodes[peer].has_good_disk() && !self.is_being_given_up(peer);
        peers.any(|peer| is_good(peer) && has_all(peer))
    }

    /// The machine dies with its disk and comes back with a new one.
    pub(crate) fn replace_disk(&mut self, node: usize) {
        let this = &self.nodes[node];
        if this.engine.is_none() || this.is_diskless || !self.has_good_peer(node) {
            return;
        }
        self.crash_by_fault(node);
        if !self.has_good_peer(node) {
            // What was under way put a record in force that nobody has heard of.
            return;
        }
        note!(self, "n{node} gets a new disk");
        self.part_from_disk(node);
        self.nodes[node].replace_disk(&mut self.random, self.moment);
        self.volume.history.forget_excuses(node);
    }

    /// What others fetched from `node` came from the disk that goes now.
    fn part_from_disk(&mut self, node: usize) {
        let was_void = self.nodes[node].is_void;
        for target in &mut self.nodes {
            if target.source == Some(Source::Peer(node)) {
                target.source = Some(Source::Former { was_void });
            }
        }
    }

    /// Somebody takes an image of the disk, or puts one back while the machine is down.
    fn roll_back(&mut self, node: usize) {
        let image = self.nodes[node].image.take();
        if let Some(image) = &image {
            checkers::same_age(self, node, image);
        }
        let Some(mut image) = image.filter(|image| self.is_older_image(node, image)) else {
            let this = &mut self.nodes[node];
            this.image = (!this.is_blank()).then(|| this.disk.image());
            return;
        };
        self.crash_by_fault(node);
        if !self.has_good_peer(node) {
            return;
        }
        note!(self, "n{node} is rolled back");
        let attach = |disk: &Disk| disk.superblock().map(|block| block.attach_id);
        let is_same = attach(&image) == attach(&self.nodes[node].disk);
        let kinds = ["rollback", "rollback within an attach"];
        self.tally.reach.count("fault", kinds[usize::from(is_same)]);
        match self.plan.canary {
            Some(Canary::HideRollback) => image.forge(|block| block.incarnation.0 += 1000),
            Some(Canary::HideAge) => image.forge(|block| block.changes += 1000),
            _ => {}
        }
        self.part_from_disk(node);
        self.nodes[node].exchange_disk(image, self.moment);
    }

    /// Whether the data would outlive it, and every other disk has seen a later attach than those of the image, or a
    /// higher age in one of them. What was seen and does not stand on disk yet, a power cut of all would take away.
    fn is_older_image(&self, node: usize, image: &Disk) -> bool {
        // Nobody is asked by the last one that stayed, so nobody could see it.
        let is_last = |block: &Rc<Superblock>| {
            self.quorum.voters.0 & !block.generation.left.0 & !(1 << node) == 0
        };
        if self.quorum.is_on() && image.superblock().is_some_and(is_last) {
            return false;
        }
        let Some(loaded) = image.load_stable() else {
            return false;
        };
        let block = &loaded.superblock;
        let (attaches, ages) = (block.known_attaches(), block.known_ages(loaded.age()));
        let age_in = |attach: u64| {
            let mut known = attaches.iter().zip(ages);
            known
                .find(|(&known, _)| known == attach)
                .map(|(_, age)| age)
        };
        let has_seen = |peer: usize| {
            let Some(block) = self.nodes[peer].superblock() else {
                return false;
            };
            let (attach, age) = (block.seen_attach_id[node], block.seen_age[node]);
            let is_older = attach == 0 || age_in(attach).is_none_or(|reached| reached < age);
            block.seen_incarnation[node] != Incarnation(0) && is_older
        };
        let mut peers = self.peers(node);
        let is_canary = self.plan.canary == Some(Canary::HideRollback);
        self.nodes[node].engine.is_some()
            && self.has_good_peer(node)
            && (is_canary || peers.all(|peer| self.nodes[peer].is_blank() || has_seen(peer)))
    }

    /// Cables fail for a while.
    fn cut(&mut self, node: usize, peer: usize) {
        let blocked =
            *self
                .random
                .pick(&[[true, true], [true, false], [false, true], [false, false]]);
        let slow = if self.random.coin() {
            self.random.duration(US..50 * MS)
        } else {
            0
        };
        let slow = slow * self.slowness();
        let cables = self.cables_of_a_cut(node, peer);
        for &nodes in &cables {
            self.on_cable(nodes, Cable { blocked, slow });
        }
        let delay = self.random.duration(MS..8 * SECOND);
        for nodes in cables {
            let cable = Cable::default();
            self.after(delay, Happening::Cable { nodes, cable });
        }
    }

    /// Which cables fail together: one, those of a node, those between two groups, or all but a chain.
    fn cables_of_a_cut(&mut self, node: usize, peer: usize) -> Vec<[usize; 2]> {
        if self.nodes.len() == 2 {
            return vec![pair(node, peer)];
        }
        let mut pairs = self.pairs();
        match self.random.range(0..5) {
            0 | 1 => pairs = vec![pair(node, peer)],
            2 => pairs.retain(|nodes| nodes.contains(&node)),
            3 => {
                let group = self.random.next();
                pairs.retain(|[a, b]| ((group >> a) ^ (group >> b)) & 1 == 1);
            }
            _ => pairs.retain(|[a, b]| a + 1 != *b),
        }
        pairs
    }

    fn disconnect(&mut self, node: usize, peer: usize) {
        self.nodes[node].wants_peer[peer] = false;
        let peer = node_id(peer);
        self.command(node, Command::Disconnect { peer, force: false });
    }
}
