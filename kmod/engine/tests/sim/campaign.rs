// SPDX-License-Identifier: GPL-2.0-only

//! Many runs on all cores, with a summary and the command that repeats a failure.

use crate::canary::Canary;
use crate::random::Random;
use crate::volumes::draw_volumes;
use crate::world::{Plan, Tally, Violation, World};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nodes of a history at least and at most.
const NODES_MIN: usize = 2;
const NODES_MAX: usize = 7;
/// In how many of a hundred histories there are so many nodes: most faults show with few, and those are quick.
const NODES_PERCENT: [(usize, u64); 6] = [(2, 30), (3, 30), (4, 20), (5, 8), (6, 6), (7, 6)];

/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Failures after which a campaign stops.
const FAILURES_MAX: usize = 20;

/// Runs one seed; a panic counts as a violation.
pub(crate) fn run(plan: Plan) -> Result<Tally, Violation> {
    catch_unwind(AssertUnwindSafe(|| World::new(plan).run())).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_default();
        Err(Violation {
            checker: "panic",
            text,
        })
    })
}

impl Plan {
    /// The history of a seed; the number of nodes follows from it as well, unless one is set.
    pub(crate) fn of(seed: u64) -> Self {
        // A stream of its own, so that the rest of a history does not depend on how many nodes there could be.
        let nodes = nodes_of_environment().unwrap_or_else(|| draw_nodes(&mut Random::new(!seed)));
        Self {
            seed,
            nodes,
            volumes: volumes_of_environment().unwrap_or_else(|| draw_volumes(seed)),
            canary: None,
            verbose: false,
        }
    }

    /// The history of a name: `SEED`, `SEED@NODES` or `SEED@NODESx2`, if there are two volumes.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let Some((seed, nodes)) = name.split_once('@') else {
            return Some(Self::of(parse_number(name)?));
        };
        let (nodes, volumes) = match nodes.strip_suffix("x2") {
            Some(nodes) => (nodes.parse().ok()?, 2),
            None => (nodes.parse().ok()?, 1),
        };
        let is_possible = (NODES_MIN..=NODES_MAX).contains(&nodes);
        let plan = Self {
            nodes,
            volumes,
            ..Self::of(parse_number(seed)?)
        };
        is_possible.then_some(plan)
    }

    pub(crate) fn name(&self) -> String {
        let volumes = if self.volumes == 2 { "x2" } else { "" };
        format!("{:#x}@{}{volumes}", self.seed, self.nodes)
    }
}

fn draw_nodes(random: &mut Random) -> usize {
    let mut chance = random.range(0..100);
    let drawn = NODES_PERCENT.iter().find(|(_, percent)| {
        let is_it = chance < *percent;
        chance = chance.saturating_sub(*percent);
        is_it
    });
    drawn.map_or(NODES_MIN, |(nodes, _)| *nodes)
}

/// The number of volumes that every history is to have.
fn volumes_of_environment() -> Option<usize> {
    let volumes = number_of_environment("WEFT_SIM_VOLUMES")? as usize;
    Some(volumes.clamp(1, 2))
}

/// The number of nodes that every history is to have.
fn nodes_of_environment() -> Option<usize> {
    let nodes = number_of_environment("WEFT_SIM_NODES")? as usize;
    Some(nodes.clamp(NODES_MIN, NODES_MAX))
}

pub(crate) fn report(plan: Plan, violation: &Violation) -> String {
    let name = plan.name();
    let commit = std::env::var("WEFT_COMMIT").unwrap_or_else(|_| "of this source".into());
    format!(
        "seed {name}: {}: {}\n  commit {commit}\n  repeat it: scripts/sim --seed {name}\n  keep it: a line in kmod/engine/tests/sim/seeds.txt",
        violation.checker, violation.text
    )
}

/// A decimal or hexadecimal number.
fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn number_of_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(parse_number(&text).unwrap_or_else(|| panic!("{name}: {text} is not a number")))
}

/// The history that was asked for by name.
pub(crate) fn plan_of_environment() -> Option<Plan> {
    let name = std::env::var("WEFT_SIM_SEED").ok()?;
    let plan = Plan::named(&name)
        .unwrap_or_else(|| panic!("{name} is not SEED, SEED@NODES or SEED@NODESx2"));
    Some(Plan {
        verbose: true,
        ..plan
    })
}

/// Does some work once on every core.
pub(crate) fn on_all_cores(work: impl Fn() + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&work);
        }
    });
}

/// Whether the checker that has to sees through a canary within a number of seeds.
pub(crate) fn catches(canary: Canary, seeds: usize) -> bool {
    let caught = (canary.first_seed()..).take(seeds).find_map(|seed| {
        let plan = Plan {
            canary: Some(canary),
            nodes: canary.nodes(),
            ..Plan::of(seed)
        };
        let violation = run(plan).err()?;
        if violation.checker != canary.seen_by() {
            return None;
        }
        // It has to be the canary that was seen.
        let is_sound = run(Plan {
            canary: None,
            ..plan
        })
        .is_ok();
        is_sound.then_some((seed, violation))
    });
    if let Some((seed, violation)) = &caught {
        println!(
            "{canary:?}: seed {seed}, caught by {}: {}",
            violation.checker, violation.text
        );
    }
    caught.is_some()
}

pub(crate) struct Campaign {
    first: u64,
    seeds: Option<u64>,
    time: Option<Duration>,
    show: bool,
    /// When this file is there, the campaign ends.
    stop: Option<PathBuf>,
}

#[derive(Default)]
pub(crate) struct Outcome {
    pub failures: Vec<(Plan, Violation)>,
    runs: u64,
    runs_by_nodes: [u64; NODES_MAX + 1],
    /// When the progress was shown last.
    shown: Duration,
    total: Tally,
    took: Duration,
}

impl Campaign {
    pub(crate) fn from_environment(default: Duration) -> Self {
        let fresh = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos() as u64)
        };
        let seeds = number_of_environment("WEFT_SIM_SEEDS");
        let seconds = number_of_environment("WEFT_SIM_SECONDS").map(Duration::from_secs);
        let time = if seeds.is_some() {
            seconds
        } else {
            Some(seconds.unwrap_or(default))
        };
        Self {
            first: number_of_environment("WEFT_SIM_FIRST").unwrap_or_else(fresh),
            seeds,
            time,
            show: std::env::var_os("WEFT_SIM_PROGRESS").is_some(),
            stop: std::env::var_os("WEFT_SIM_STOP").map(PathBuf::from),
        }
    }

    pub(crate) fn go(&self) -> Outcome {
        let next = AtomicU64::new(0);
        let outcome = Mutex::new(Outcome::default());
        let start = Instant::now();
        on_all_cores(|| self.work(&next, &outcome, start));
        let mut outcome = outcome.into_inner().unwrap();
        outcome.took = start.elapsed();
        outcome
    }

    fn work(&self, next: &AtomicU64, outcome: &Mutex<Outcome>, start: Instant) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let is_over = self.seeds.is_some_and(|seeds| number >= seeds)
                || self.time.is_some_and(|time| start.elapsed() > time)
                || self.stop.as_ref().is_some_and(|stop| stop.exists())
                || outcome.lock().unwrap().failures.len() >= FAILURES_MAX;
            if is_over {
                return;
            }
            // Neighbouring numbers make unlike seeds, since every seed is stirred first.
            let seed = self.first.wrapping_add(number);
            let plan = Plan::of(seed);
            let result = run(plan);
            let mut outcome = outcome.lock().unwrap();
            outcome.runs += 1;
            outcome.runs_by_nodes[plan.nodes] += 1;
            match result {
                Ok(tally) => outcome.total.add(&tally),
                Err(violation) => {
                    println!("{}", report(plan, &violation));
                    outcome.failures.push((plan, violation));
                }
            }
            if self.show && start.elapsed() > outcome.shown + SHOW_EVERY {
                outcome.shown = start.elapsed();
                eprintln!("{}", self.progress(&outcome));
            }
        }
    }

    /// How far it is: by the seeds or the time, whichever ends it first.
    fn progress(&self, outcome: &Outcome) -> String {
        let took = outcome.shown.as_secs_f64();
        let rate = outcome.runs as f64 / took.max(0.001);
        let left_of_seeds = self
            .seeds
            .map(|seeds| seeds.saturating_sub(outcome.runs) as f64 / rate.max(0.001));
        let left_of_time = self.time.map(|time| (time.as_secs_f64() - took).max(0.0));
        let left = left_of_seeds
            .into_iter()
            .chain(left_of_time)
            .fold(f64::MAX, f64::min);
        format!(
            "{:3.0} %, {} runs, {rate:.0} runs/s, {:.0}:{:02.0} left, {} failures",
            100.0 * took / (took + left),
            outcome.runs,
            (left / 60.0).floor(),
            (left % 60.0).floor(),
            outcome.failures.len()
        )
    }
}

impl Outcome {
    pub(crate) fn summary(&self) -> String {
        let rate = self.runs as f64 / self.took.as_secs_f64().max(0.001);
        format!(
            "{} runs{}, {rate:.0} runs/s, {} failures{}; in all {}",
            self.runs,
            self.sizes(),
            self.failures.len(),
            self.classes(),
            self.total
        )
    }

    /// How many runs had how many nodes.
    fn sizes(&self) -> String {
        let sizes = self.runs_by_nodes.iter().enumerate();
        let sizes = sizes.filter(|(_, &runs)| runs > 0);
        let sizes: Vec<String> = sizes
            .map(|(nodes, runs)| format!("{runs} of {nodes}"))
            .collect();
        format!(" ({} nodes)", sizes.join(", "))
    }

    /// How often each checker saw something.
    fn classes(&self) -> String {
        let mut classes = BTreeMap::new();
        for (_, violation) in &self.failures {
            *classes.entry(violation.checker).or_insert(0) += 1;
        }
        let classes = classes
            .iter()
            .map(|(checker, count)| format!(", {checker}: {count}"));
        classes.collect()
    }

    pub(crate) fn reports(&self) -> String {
        let lines: Vec<String> = self
            .failures
            .iter()
            .map(|(plan, violation)| report(*plan, violation))
            .collect();
        lines.join("\n")
    }
}
