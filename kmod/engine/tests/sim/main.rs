// SPDX-License-Identifier: GPL-2.0-only

//! The simulator: whole clusters of engines in virtual time, with disks that lose their caches, links that die and
//! machines that crash at any step. One 64-bit seed makes one history; checkers watch it from the outside.
//!
//! | what | how |
//! |---|---|
//! | power | cut at any effect: any part of what is cached or under way survives, metadata blocks are torn by sectors |
//! | disks | slow, out of order; errors in a fifth of the histories; sectors that cannot be read any more; blank replacements, old images put back |
//! | links | delays, stalls, cuts of one or both directions, deaths that one side sees seconds later, a part of the queue lost |
//! | networks | single cables, whole nodes, two groups, all but a chain |
//! | daemons | die and come back; their machines go on |
//! | people | promote, demote, force, detach, attach, connect, disconnect, leave in order, change the protocol, give data up; give disks up, let resyncs and requests wait, choose how fast resyncs run, call new disks equal |
//! | applications | overlapping writes of odd sizes, flush, FUA, preflush, discard, write-zeroes, reads that are checked |
//!
//! Not modelled: an image of a disk that is put back before all peers have noted that the disk went on, more than two volumes, discards that
//! leave old data, packets with hostile content, memory that cannot be had.
//!
//! A history is named by its seed, or by seed and number of nodes, and by that of its volumes if there are two: `0x5@3`, `0x5@3x2`.
//! What is not named follows from the seed.
//!
//! Environment of the fresh part: `WEFT_SIM_SEEDS` (how many), `WEFT_SIM_SECONDS` (for how long), `WEFT_SIM_SEED` (one
//! history, with every step printed), `WEFT_SIM_FIRST` (the first seed; by default it differs from run to run),
//! `WEFT_SIM_NODES` and `WEFT_SIM_VOLUMES` (of every history), `WEFT_SIM_PROGRESS` (shown once a second), `WEFT_SIM_STOP` (a file that ends it),
//! `WEFT_COMMIT` (named with a failure).

mod admin;
mod app;
mod campaign;
mod canary;
mod checkers;
mod congestion;
mod disk;
mod drive;
mod faults;
mod heal;
mod history;
mod host;
mod io;
mod life;
mod link;
mod mix;
mod net;
mod node;
mod opening;
mod orders;
mod random;
mod reach;
mod resize;
mod speeds;
mod verify;
mod volumes;
mod world;

use campaign::{on_all_cores, run, Campaign};
use canary::Canary;
use std::sync::Mutex;
use std::time::Duration;
use world::Plan;

/// Seeds that a canary may take to be caught.
const CANARY_SEEDS: usize = 20_000;

/// Which checker watches which invariant.
const INVARIANTS: [(&str, &str); 7] = [
    ("I1", "coverage"),
    ("I2", "durability"),
    ("I3", "chain"),
    ("I4", "forks"),
    ("I5", "equality"),
    ("I6", "claims"),
    ("I7", "progress"),
];

#[test]
fn every_seed_that_ever_failed_passes() {
    for line in include_str!("seeds.txt").lines() {
        let seed = line.split('#').next().unwrap_or("").trim();
        if seed.is_empty() {
            continue;
        }
        let plan = Plan::named(seed).expect("a seed in seeds.txt");
        if let Err(violation) = run(plan) {
            panic!("{}", campaign::report(plan, &violation));
        }
    }
}

#[test]
fn fresh_histories_keep_every_rule() {
    if let Some(plan) = campaign::plan_of_environment() {
        match run(plan) {
            Ok(tally) => println!("{tally}"),
            Err(violation) => panic!("{}", campaign::report(plan, &violation)),
        }
        return;
    }
    let campaign = Campaign::from_environment(Duration::from_secs(15));
    let outcome = campaign.go();
    println!("{}", outcome.summary());
    assert!(outcome.failures.is_empty(), "{}", outcome.reports());
}

#[test]
fn a_seed_makes_the_same_history_every_time() {
    for seed in [7, world::BRISK_FROM + 7] {
        let tallies = [0, 1].map(|_| run(Plan::of(seed)).map(|tally| format!("{tally:?}")));
        assert_eq!(tallies[0].as_ref().ok(), tallies[1].as_ref().ok());
    }
}

// Once is enough, and `scripts/test` runs the simulator in both profiles.
#[test]
#[cfg_attr(debug_assertions, ignore = "in the release profile: scripts/test sim")]
fn every_canary_is_caught() {
    let (queue, survivors) = (Mutex::new(Canary::ALL.to_vec()), Mutex::new(Vec::new()));
    let work = || loop {
        // A guard that lives through the run would let nobody else work.
        let Some(canary) = queue.lock().unwrap().pop() else {
            return;
        };
        if !campaign::catches(canary, CANARY_SEEDS) {
            survivors.lock().unwrap().push(canary);
        }
    };
    on_all_cores(work);
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

#[test]
fn every_invariant_has_a_canary() {
    for (invariant, checker) in INVARIANTS {
        let has_canary = Canary::ALL.iter().any(|canary| canary.seen_by() == checker);
        assert!(has_canary, "{invariant}");
    }
}
