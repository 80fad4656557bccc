// SPDX-License-Identifier: GPL-2.0-only

//! How fast resyncs are served.

use crate::rig::Rig;
use weft_engine::event::Options;
use weft_engine::quorum::Quorum;
use weft_engine::Reads;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::{Limit, Speed, RATE_MIN};
use weft_uapi::state::ReplicationState;

const MIB: u64 = 1 << 20;
/// Of a disk: 16 MiB, since many are made here.
const SECTORS: u64 = 32_768;
/// What a target is behind.
const OWED: u64 = 8 * MIB;

/// A primary whose peer is about to fetch [`OWED`] bytes.
fn behind() -> Rig {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default()).sync();
    rig.cut();
    for at in 0..OWED / (128 << 10) {
        assert_eq!(rig.write(0, at * 256, 3, 128 << 10), Ok(()));
    }
    rig
}

fn set_rates(rig: &mut Rig, min: u64, max: u64) -> Result<(), Refusal> {
    let options = Options {
        resync_min_rate: Some(min),
        resync_max_rate: Some(max),
        ..Options::default()
    };
    rig.set_options(0, options)
}

fn is_through(rig: &Rig) -> bool {
    rig.replication(1, 0) == ReplicationState::Established
}

/// Connects, and waits until the resync has begun.
fn begin(rig: &mut Rig) {
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
}

/// Bytes that node 0 has sent and milliseconds until then, by the end of each step while `goes_on`.
fn course(rig: &mut Rig, goes_on: impl Fn(&Rig) -> bool) -> Vec<(u64, u64)> {
    let (first, begun) = (rig.sent(0, 1), rig.clock());
    let mut course = vec![(0, 0)];
    while goes_on(rig) && !is_through(rig) {
        let last = rig.sent(0, 1);
        rig.run_until(|rig| rig.sent(0, 1) != last || is_through(rig) || !goes_on(rig));
        course.push((rig.sent(0, 1) - first, rig.clock() - begun));
    }
    course
}

/// No part of the course is faster than the rate, but for what may come at once.
fn assert_not_faster(course: &[(u64, u64)], rate: u64) {
    let at_once = (rate / 10).max(128 << 10);
    for (index, &(from, begun)) in course.iter().enumerate() {
        for &(to, now) in &course[index..] {
            let most = rate * (now - begun + 1) / 1000 + at_once;
            assert!(
                to - from <= most,
                "{} bytes in {} ms",
                to - from,
                now - begun
            );
        }
    }
}

#[test]
fn r15_without_applications_a_resync_is_as_fast_as_it_goes() {
    let mut rig = behind();
    begin(&mut rig);
    let begun = rig.clock();
    rig.run_until(is_through);
    // Nothing takes time in the rig but waiting.
    assert!(rig.clock() - begun < 100);
    assert_eq!(rig.resync_limit(0, 1), (Limit::None, 0));
    rig.assert_whole();
}

#[test]
fn r15_a_resync_keeps_to_its_upper_bound_and_reaches_it() {
    for rate in [256 << 10, MIB, 20 * MIB] {
        let mut rig = behind();
        assert_eq!(set_rates(&mut rig, RATE_MIN, rate), Ok(()));
        begin(&mut rig);
        let course = course(&mut rig, |_| true);
        assert_not_faster(&course, rate);
        let took = course.last().unwrap().1;
        let wanted = OWED * 1000 / rate;
        assert!(
            took <= wanted + wanted / 10 + 100,
            "{took} ms, not {wanted}"
        );
        rig.assert_whole();
    }
}

#[test]
fn r15_what_holds_a_resync_up_is_shown() {
    let mut rig = behind();
    assert_eq!(set_rates(&mut rig, RATE_MIN, MIB), Ok(()));
    begin(&mut rig);
    let begun = rig.clock();
    rig.run_until(|rig| rig.clock() > begun + 500);
    assert_eq!(rig.resync_limit(0, 1), (Limit::MaxRate, MIB));
    assert_eq!(
        rig.resync_limit(1, 0),
        (Limit::None, 0),
        "only who serves knows"
    );
}

#[test]
fn r15_a_resync_gives_way_to_an_application_that_waits_down_to_its_lower_bound() {
    for min in [256 << 10, MIB] {
        let mut rig = behind();
        assert_eq!(set_rates(&mut rig, min, 16 * MIB), Ok(()));
        // The application's write hangs; the resync only reads there.
        rig.set_stuck(0, true);
        begin(&mut rig);
        let write = rig.begin_write(0, 20_000, 9, 4096);
        let begun = rig.clock();
        rig.run_until(|rig| rig.clock() >= begun + 1000);
        assert_eq!(rig.resync_limit(0, 1), (Limit::MinRate, min));
        let end = rig.clock() + 2000;
        let course = course(&mut rig, |rig| rig.clock() < end);
        assert!(!is_through(&rig) && !rig.is_complete(write));
        assert_not_faster(&course, min);
        let served = course.last().unwrap().0;
        assert!(
            served + (128 << 10) >= 2 * min,
            "{served} bytes in two seconds"
        );

        // It need not wait any more: full speed within a second.
        rig.set_stuck(0, false);
        let again = rig.clock();
        rig.run_until(is_through);
        assert!(rig.clock() - again < 1000, "{} ms", rig.clock() - again);
        assert_eq!(rig.result(write), Some(Ok(())));
        rig.assert_whole();
    }
}

#[test]
fn r15_applications_that_need_not_wait_long_hold_no_resync_up() {
    let mut rig = behind();
    begin(&mut rig);
    let begun = rig.clock();
    for at in 0..20 {
        assert_eq!(rig.write(0, 20_000 + at * 8, 9, 4096), Ok(()));
    }
    rig.run_until(is_through);
    assert!(rig.clock() - begun < 100);
    rig.assert_whole();
}

#[test]
fn r15_reads_past_the_engine_count_as_well() {
    let mut rig = behind();
    let min = Speed::default().min;
    assert_eq!(set_rates(&mut rig, min, 16 * MIB), Ok(()));
    begin(&mut rig);
    let mut reads = Reads::default();
    // Each of them takes longer than wanted, or does not end at all.
    while rig.resync_limit(0, 1).0 != Limit::MinRate {
        assert!(!is_through(&rig));
        match reads.ended {
            0..=2 => {
                reads.ended += 1;
                reads.nanoseconds += 50_000_000;
            }
            _ => reads.are_under_way = true,
        }
        rig.tell_reads(0, reads);
        let next = rig.clock() + 50;
        rig.run_until(|rig| rig.clock() >= next || is_through(rig));
    }
    assert_eq!(rig.resync_limit(0, 1).1, min);
    reads.are_under_way = false;
    rig.tell_reads(0, reads);
    rig.run_until(is_through);
    rig.assert_whole();
}

#[test]
fn r15_a_write_does_not_wait_for_what_waits_for_its_turn() {
    let mut rig = behind();
    assert_eq!(set_rates(&mut rig, RATE_MIN, RATE_MIN), Ok(()));
    begin(&mut rig);
    rig.steps(200);
    let begun = rig.clock();
    for at in 0..OWED / (128 << 10) {
        assert_eq!(rig.write(0, at * 256, 5, 128 << 10), Ok(()));
    }
    assert!(rig.clock() - begun < 100);
    assert!(rig.out_of_sync(0, 1) > 0);
    assert_eq!(set_rates(&mut rig, RATE_MIN, 0), Ok(()));
    rig.assert_whole();
}

#[test]
fn r15_bounds_may_change_while_a_resync_runs_and_have_to_make_sense() {
    let mut rig = behind();
    for (min, max) in [
        (RATE_MIN - 1, 0),
        (MIB, MIB - 1),
        (MIB, u64::MAX),
        (u64::MAX, 0),
    ] {
        assert_eq!(set_rates(&mut rig, min, max), Err(Refusal::BadArgument));
    }
    assert_eq!(set_rates(&mut rig, RATE_MIN, RATE_MIN), Ok(()));
    begin(&mut rig);
    let begun = rig.clock();
    rig.run_until(|rig| rig.clock() >= begun + 10_000);
    assert_eq!(rig.resync_limit(0, 1), (Limit::MaxRate, RATE_MIN));
    assert_eq!(set_rates(&mut rig, RATE_MIN, MIB), Ok(()));
    let again = rig.clock();
    rig.run_until(is_through);
    let took = rig.clock() - again;
    assert!((7000..12_000).contains(&took), "{took} ms");
    rig.assert_whole();
}

#[test]
fn r15_a_slow_resync_that_is_cut_off_at_any_step_ends_well() {
    for cut in (0..400).step_by(13) {
        let mut rig = behind();
        assert_eq!(set_rates(&mut rig, RATE_MIN, 4 * MIB), Ok(()));
        begin(&mut rig);
        rig.steps(cut);
        rig.write(0, 0, 9, 4096).unwrap();
        rig.cut_at_once();
        rig.steps(cut % 5);
        rig.heal();
        rig.run_until(is_through);
        rig.assert_whole();
    }
}

#[test]
fn r15_a_disk_leaves_without_waiting_for_slow_resyncs() {
    let mut rig = behind();
    assert_eq!(set_rates(&mut rig, RATE_MIN, RATE_MIN), Ok(()));
    begin(&mut rig);
    rig.steps(100);
    rig.demote(0);
    let begun = rig.clock();
    rig.detach(0);
    assert!(rig.clock() - begun < 10_000);
}
