// SPDX-License-Identifier: GPL-2.0-only

//! Virtual time: what happens next, and the run from its seed to its verdict.

use crate::canary::Canary;
use crate::checkers;
use crate::life::Setup;
use crate::link::{pair, Cable, Cables, Connection};
use crate::node::{node_id, Node, Part};
use crate::opening::draw_auto_promotion;
use crate::random::Random;
use crate::reach::Reach;
use crate::volumes::Volume;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fmt;
use std::iter;
use weft_engine::event::Kept;
use weft_engine::quorum::{OnNoQuorum, Quorum};
use weft_engine::AutoPromotion;
use weft_uapi::ondisk::Layout;
use weft_uapi::split_brain::{Policies, SplitBrain0, SplitBrain1};
use weft_uapi::state::Protocol;
use weft_uapi::units::{NodeSet, VolumeId};

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// More events than any honest run needs.
const MOMENTS_MAX: u64 = 1_000_000;
/// Histories of seeds from here on are brisk: they have writes between all faults instead of many after the last one, and
/// come to their end as soon as everything has been well for a while.
pub(crate) const BRISK_FROM: u64 = 1 << 41;
/// Histories in which images of disks are put back.
const ROLLBACK_PERCENT: u64 = 10;
/// Histories of three and more nodes in which one has no disk: a tie-breaker if that makes the voters odd.
const DISKLESS_PERCENT: u64 = 20;
/// Most events between two looks at everything.
const INSPECTION_GAP_MAX: u64 = 1200;

/// Histories in which a split brain may be solved without a person.
const POLICIES_PERCENT: u64 = 40;

/// Histories in which two nodes may be primary at the same time.
const TWO_PRIMARIES_PERCENT: u64 = 15;

/// What a run is made from.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// One or two.
    pub volumes: usize,
    pub canary: Option<Canary>,
    /// Print every step.
    pub verbose: bool,
}

impl Plan {
    fn is_brisk(&self) -> bool {
        self.seed >= BRISK_FROM
    }
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub checker: &'static str,
    pub text: String,
}

/// What a run was like.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tally {
    pub moments: u64,
    pub writes: u64,
    pub crashes: u64,
    pub promotions: u64,
    pub resyncs: u64,
    pub split_brains: u64,
    pub sessions: u64,
    pub generations: u64,
    pub reach: Reach,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events, {} writes, {} crashes, {} promotions, {} resyncs, {} split brains, {} sessions, {} generations",
            self.moments,
            self.writes,
            self.crashes,
            self.promotions,
            self.resyncs,
            self.split_brains,
            self.sessions,
            self.generations
        )?;
        self.reach.fmt(f)
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.moments += other.moments;
        self.writes += other.writes;
        self.crashes += other.crashes;
        self.promotions += other.promotions;
        self.resyncs += other.resyncs;
        self.split_brains += other.split_brains;
        self.sessions += other.sessions;
        self.generations += other.generations;
        self.reach.add(&other.reach);
    }
}

/// One thing that is going to happen.
pub(crate) enum Happening {
    OpDone {
        node: usize,
        life: u32,
        volume: VolumeId,
        op: u64,
    },
    Late {
        node: usize,
        life: u32,
        volume: VolumeId,
        op: crate::disk::Op,
    },
    Arrive {
        connection: usize,
        side: usize,
        link: usize,
    },
    Up {
        connection: usize,
        side: usize,
    },
    Down {
        connection: usize,
        side: usize,
        reason: &'static str,
    },
    Meet {
        nodes: [usize; 2],
    },
    Timer {
        node: usize,
        life: u32,
    },
    App {
        node: usize,
        life: u32,
        volume: VolumeId,
    },
    Boot {
        node: usize,
    },
    Setup {
        node: usize,
        life: u32,
        step: Setup,
    },
    Daemon {
        node: usize,
        life: u32,
        serves: bool,
    },
    Cable {
        nodes: [usize; 2],
        cable: Cable,
    },
    /// The daemon hands back, or has stored, what a tie-breaker has to keep.
    Memory {
        node: usize,
        life: u32,
        volume: VolumeId,
        keep: Option<(u64, Kept)>,
    },
    /// The size of a disk is known.
    Measured {
        node: usize,
        life: u32,
        volume: VolumeId,
        attach_id: u64,
        layout: Layout,
    },
    /// The primary dies, and a node that missed its last writes is to be the next one.
    Overtake {
        leader: usize,
        heir: usize,
    },
    /// A cluster manager wants `node` to be primary if nobody is.
    Lead {
        node: usize,
    },
    Fault,
    Calm,
}

struct Due {
    time: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (Reverse(self.time), Reverse(self.order)).cmp(&(Reverse(other.time), Reverse(other.order)))
    }
}

pub(crate) struct World {
    pub plan: Plan,
    pub now: u64,
    /// Number of the current event; orders everything.
    pub moment: u64,
    pub random: Random,
    /// Chance of what was added later: so the histories of old seeds stay what they were.
    pub extra: Random,
    /// Chance of what people order.
    pub orders: Random,
    /// Chance of what people have compared.
    pub verifies: Random,
    /// Chance of what people choose about resyncs.
    pub speeds: Random,
    pub congestions: Random,
    /// Chance of disks and devices that grow.
    pub resizes: Random,
    /// Chance of disks that lose sectors.
    pub losses: Random,
    /// All disks had the same content when they were new.
    pub are_equal: bool,
    /// The volume that everything is about.
    pub at: VolumeId,
    pub volume: Volume,
    /// The other one.
    pub other: Option<Volume>,
    /// Chance of the other volume.
    pub volumes: Random,
    pub nodes: Vec<Node>,
    pub connections: Vec<Connection>,
    /// Numbers of those that are not over.
    pub live: BTreeSet<usize>,
    pub cables: Cables,
    pub protocol: Protocol,
    /// Longest pause of an application.
    pub pace: u64,
    pub faults_left: u32,
    /// Disk errors are among them.
    pub disks_fail: bool,
    /// So are old images of disks that are put back.
    pub disks_roll_back: bool,
    /// Who has a vote.
    pub quorum: Quorum,
    /// What is done about a split brain.
    pub policies: Policies,
    /// Two applications may run at the same time.
    pub two_primaries: bool,
    /// What opening a device does to the role.
    pub auto_promotion: AutoPromotion,
    /// Chance of who opens a device.
    pub opens: Random,
    /// Faults are over since this time.
    pub calm_since: Option<u64>,
    /// All was well since this time.
    pub well_since: Option<u64>,
    /// A brisk history comes to its end.
    pub is_closing: bool,
    pub is_done: bool,
    next_inspection: u64,
    pub violation: Option<Violation>,
    pub tally: Tally,
    queue: BinaryHeap<Due>,
    order: u64,
}

/// Prints a line of the history if that was asked for.
macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if $world.plan.verbose {
            let line = format!($($arg)*);
            $world.note(&line);
        }
    };
}
pub(crate) use note;

/// A choice of its own, so that it changes nothing else about a history.
fn draw_policies(seed: u64) -> Policies {
    let mut random = Random::new(seed.rotate_left(16));
    if !random.percent(POLICIES_PERCENT) {
        return Policies::default();
    }
    Policies {
        none: *random.pick(SplitBrain0::ALL),
        one: *random.pick(SplitBrain1::ALL),
    }
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let sectors = *random.pick(&[2048, 8192, 20_480, 50_000]);
        let protocol = *random.pick(&[
            Protocol::C,
            Protocol::C,
            Protocol::C,
            Protocol::B,
            Protocol::A,
        ]);
        let nodes = (0..plan.nodes)
            .map(|id| {
                let part = Part::new(id, plan.nodes, VolumeId(0), sectors, &mut random);
                Node::new(id, plan.nodes, part)
            })
            .collect();
        let mut extra = Random::new(plan.seed.rotate_left(32));
        let volume = Volume::new(plan.nodes, VolumeId(0), sectors, &mut random);
        let pace = *random.pick(&[MS, 10 * MS, 300 * MS]);
        let faults = match plan.is_brisk() {
            true => 2..20,
            false => 0..14,
        };
        let faults_left = random.range(faults) as u32;
        let disks_fail = random.percent(20);
        let disks_roll_back =
            extra.percent(ROLLBACK_PERCENT) || plan.canary.is_some_and(Canary::rolls_back);
        let mut world = Self {
            plan,
            now: 0,
            moment: 0,
            random,
            extra,
            orders: Random::new(plan.seed.rotate_left(24)),
            verifies: Random::new(plan.seed.rotate_left(40)),
            speeds: Random::new(plan.seed.rotate_left(56)),
            congestions: Random::new(plan.seed.rotate_left(60)),
            resizes: Random::new(plan.seed.rotate_left(4)),
            losses: Random::new(plan.seed.rotate_left(20)),
            are_equal: false,
            at: VolumeId(0),
            volume,
            other: None,
            volumes: Random::new(plan.seed.rotate_left(12)),
            nodes,
            connections: Vec::new(),
            live: BTreeSet::new(),
            cables: Cables::default(),
            protocol,
            pace,
            faults_left,
            disks_fail,
            disks_roll_back,
            quorum: Quorum::default(),
            policies: draw_policies(plan.seed),
            two_primaries: Random::new(plan.seed.rotate_left(48)).percent(TWO_PRIMARIES_PERCENT),
            auto_promotion: draw_auto_promotion(plan.seed),
            opens: Random::new(plan.seed.rotate_left(8)),
            calm_since: None,
            well_since: None,
            is_closing: false,
            is_done: false,
            next_inspection: 0,
            violation: None,
            tally: Tally::default(),
            queue: BinaryHeap::new(),
            order: 0,
        };
        if plan.nodes > 2 && world.extra.percent(DISKLESS_PERCENT) {
            let node = world.extra.index(plan.nodes);
            world.nodes[node].is_diskless = true;
        }
        world.quorum = world.draw_quorum();
        world.add_volume();
        world.prepare_disks();
        for node in 0..world.nodes.len() {
            let delay = world.random.duration(MS..SECOND);
            world.after(delay, Happening::Boot { node });
        }
        world.after(SECOND, Happening::Fault);
        world
    }

    fn draw_quorum(&mut self) -> Quorum {
        let percent = if self.nodes.len() > 2 { 50 } else { 10 };
        if !self.extra.percent(percent) {
            return Quorum::default();
        }
        let disks = self.nodes.iter().filter(|node| !node.is_diskless).count();
        // A tie-breaker votes when the others are even in number.
        let has_vote = |node: &&Node| !node.is_diskless || disks % 2 == 0;
        let voters = self
            .nodes
            .iter()
            .filter(has_vote)
            .map(|node| node_id(node.id));
        Quorum {
            voters: voters.fold(NodeSet::EMPTY, NodeSet::with),
            on_lost: *self.extra.pick(&[OnNoQuorum::Suspend, OnNoQuorum::Fail]),
        }
    }

    /// Runs to the end. A panic of the engine comes out as a panic of this function.
    pub(crate) fn run(&mut self) -> Result<Tally, Violation> {
        while self.violation.is_none() && !self.is_done {
            let Some(due) = self.queue.pop() else {
                self.fail("progress", "nothing happens any more".into());
                break;
            };
            self.now = self.now.max(due.time);
            self.moment += 1;
            if self.moment > MOMENTS_MAX {
                self.fail("progress", format!("{MOMENTS_MAX} events and no end"));
                break;
            }
            self.happen(due.what);
            if self.moment >= self.next_inspection {
                self.on_each_volume(checkers::inspect);
                self.next_inspection = self.moment + self.random.range(1..INSPECTION_GAP_MAX);
            }
        }
        self.tally.moments = self.moment;
        for volume in iter::once(&self.volume).chain(&self.other) {
            self.tally.writes += volume.history.len() as u64;
            self.tally.generations += volume.history.generations() as u64;
        }
        self.violation.clone().map_or(Ok(self.tally.clone()), Err)
    }

    pub(crate) fn is_brisk(&self) -> bool {
        self.plan.is_brisk()
    }

    /// The numbers of the other nodes.
    pub(crate) fn peers(&self, node: usize) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(move |&peer| peer != node)
    }

    /// Some other node.
    pub(crate) fn some_peer(&mut self, node: usize) -> usize {
        let count = self.nodes.len();
        let step = 1 + self.random.choose(count - 1);
        (node + step) % count
    }

    /// All pairs of nodes.
    pub(crate) fn pairs(&self) -> Vec<[usize; 2]> {
        let count = self.nodes.len();
        let later = |a: usize| (a + 1..count).map(move |b| pair(a, b));
        (0..count).flat_map(later).collect()
    }

    pub(crate) fn after(&mut self, delay: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Due {
            time: self.now + delay,
            order: self.order,
            what,
        });
    }

    /// Notes the first violation; the run ends with it.
    pub(crate) fn fail(&mut self, checker: &'static str, text: String) {
        if self.violation.is_none() {
            note!(self, "VIOLATION {checker}: {text}");
            self.violation = Some(Violation { checker, text });
        }
    }

    /// Prints a line of the history; see [`note!`].
    pub(crate) fn note(&self, line: &str) {
        let seconds = self.now as f64 / SECOND as f64;
        println!("{seconds:>12.6} {:>6} {line}", self.moment);
    }

    fn happen(&mut self, what: Happening) {
        self.turn_to(VolumeId(0));
        match what {
            Happening::OpDone {
                node,
                life,
                volume,
                op,
            } => self.on_op_done(node, life, volume, op),
            Happening::Late {
                node,
                life,
                volume,
                op,
            } => self.on_late(node, life, volume, &op),
            Happening::Arrive {
                connection,
                side,
                link,
            } => self.on_arrive(connection, side, link),
            Happening::Up { connection, side } => self.on_up(connection, side),
            Happening::Down {
                connection,
                side,
                reason,
            } => self.on_down(connection, side, reason),
            Happening::Meet { nodes } => self.on_meet(nodes),
            Happening::Timer { node, life } => self.on_timer(node, life),
            Happening::App { node, life, volume } => self.on_app(node, life, volume),
            Happening::Boot { node } => self.boot(node),
            Happening::Setup { node, life, step } => self.on_setup(node, life, step),
            Happening::Daemon { node, life, serves } => self.on_daemon(node, life, serves),
            Happening::Cable { nodes, cable } => self.on_cable(nodes, cable),
            Happening::Memory {
                node,
                life,
                volume,
                keep,
            } => self.on_memory(node, life, volume, keep),
            Happening::Measured {
                node,
                life,
                volume,
                attach_id,
                layout,
            } => self.on_measured(node, life, volume, (attach_id, &layout)),
            Happening::Overtake { leader, heir } => self.on_overtake(leader, heir),
            Happening::Lead { node } => self.on_lead(node),
            Happening::Fault => self.on_fault(),
            Happening::Calm => self.on_calm(),
        }
    }
}
