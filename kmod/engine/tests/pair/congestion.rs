// SPDX-License-Identifier: GPL-2.0-only

//! A peer does not keep up with the writes: they wait for it, or go on without it until it has caught up.

use crate::rig::{node, Rig};
use weft_engine::event::{Command, Options};
use weft_engine::quorum::Quorum;
use weft_uapi::congestion::Pace;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Protocol, ReplicationState, Role};
use weft_uapi::units::NodeSet;
use weft_uapi::version::FEATURE_CONGESTION;

/// Bytes that are too many.
const FILL: u64 = 64 << 10;
/// Writes of 4 KiB that are as many bytes.
const MANY: u64 = FILL / 4096;

fn go_ahead_of(rig: &mut Rig, number: usize, peers: &[usize]) {
    let named = peers.iter().map(|&peer| node(peer));
    let options = Options {
        pull_ahead: Some(named.fold(NodeSet::EMPTY, NodeSet::with)),
        congestion_fill: Some(FILL),
        ..Options::default()
    };
    assert_eq!(rig.set_options(number, options), Ok(()));
}

/// Nodes that go ahead of each other, whoever is primary.
fn loose(mut rig: Rig) -> Rig {
    for number in 0..rig.len() {
        let peers: Vec<usize> = (0..rig.len()).filter(|&peer| peer != number).collect();
        go_ahead_of(&mut rig, number, &peers);
        rig.set_protocol(number, Protocol::A);
    }
    rig
}

/// As [`loose`], with all extents hot that are written later: that needs no metadata.
fn warm(rig: Rig) -> Rig {
    let mut rig = loose(rig);
    write_many(&mut rig, 3 * MANY, 9);
    rig.idle();
    rig
}

/// As [`loose`], with small disks: there are many of them.
fn small() -> Rig {
    loose(Rig::configured(2, 16_384, Quorum::default()).sync())
}

/// Where write number `at` goes: not next to the one before, and in few extents.
fn place(at: u64) -> u64 {
    at * 24 % 12_000
}

fn begin_writes(rig: &mut Rig, count: u64, byte: u8) -> Vec<(u64, u64)> {
    let begin = |at| (rig.begin_write(0, place(at), byte, 4096), place(at));
    (0..count).map(begin).collect()
}

fn write_many(rig: &mut Rig, count: u64, byte: u8) {
    for at in 0..count {
        assert_eq!(rig.write(0, place(at), byte, 4096), Ok(()), "write {at}");
    }
}

/// The data link carries everything again, and whoever did not keep up does, for long enough.
fn let_catch_up(rig: &mut Rig, peer: usize) {
    rig.unclog(0, peer);
    settle(rig);
}

fn settle(rig: &mut Rig) {
    rig.wait(12_000);
    rig.idle();
}

/// A pair whose node 1 is left behind, with all that was sent to it still under way.
fn ahead() -> Rig {
    let mut rig = loose(Rig::pair());
    rig.clog(0, 1);
    write_many(&mut rig, MANY, 1);
    rig.run_until(|rig| rig.pace(0, 1) == Pace::Ahead);
    rig
}

#[test]
fn r14_writes_go_on_without_a_peer_that_does_not_keep_up_and_it_is_synced_afterwards() {
    let mut rig = ahead();
    rig.idle();
    assert_eq!(rig.replication(0, 1), ReplicationState::Ahead);
    assert_eq!(rig.replication(1, 0), ReplicationState::Behind);
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    assert_eq!(rig.members(0), 0b01, "a record without it is in force");
    let sent = rig.sent(0, 1);
    write_many(&mut rig, 100, 2);
    rig.wait(5000);
    assert_eq!(rig.sent(0, 1), sent, "it is sent nothing more");
    let (bytes, ms) = rig.lag(0, 1);
    assert!(bytes >= 100 * 4096 && ms >= 5000, "{bytes} bytes, {ms} ms");

    let_catch_up(&mut rig, 1);
    rig.assert_whole();
    assert_eq!(rig.pace(0, 1), Pace::Together);
    assert_eq!((rig.members(0), rig.lag(0, 1)), (0b11, (0, 0)));
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn writes_wait_for_a_peer_unless_it_is_to_be_left_behind() {
    let mut rig = Rig::pair();
    rig.set_protocol(0, Protocol::A);
    rig.clog(0, 1);
    for at in 0..64 {
        let sector = at * 256;
        assert_eq!(rig.write(0, sector, 1, 128 << 10), Ok(()));
    }
    let late = rig.begin_write(0, 0, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(late));
    assert_eq!(rig.pace(0, 1), Pace::Blocks);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    rig.unclog(0, 1);
    rig.idle();
    assert_eq!(rig.result(late), Some(Ok(())));
    rig.assert_whole();
}

#[test]
fn a_peer_that_has_answered_by_the_time_it_is_on_record_is_not_left_behind() {
    let mut rig = warm(Rig::pair());
    rig.set_late(1, true);
    rig.clog(0, 1);
    let records = rig.generations(0);
    write_many(&mut rig, MANY, 1);
    rig.idle();
    assert_eq!(rig.pace(0, 1), Pace::Asked);
    assert_eq!(rig.members(0), 0b11);
    rig.unclog(0, 1);
    rig.set_late(1, false);
    rig.assert_whole();
    assert_eq!(rig.generations(0), records, "it was no reason for a record");
}

#[test]
fn nobody_is_left_behind_before_its_disk_says_that_it_is_outdated() {
    let mut rig = warm(Rig::pair());
    rig.set_late(1, true);
    rig.clog(0, 1);
    let writes = begin_writes(&mut rig, 3 * MANY, 1);
    rig.wait(10_000);
    assert_eq!((rig.pace(0, 1), rig.members(0)), (Pace::Asked, 0b11));
    assert_eq!(rig.disk_state(1), DiskState::Outdated, "in memory");
    rig.cut_at_once();
    rig.set_late(1, false);
    rig.idle();
    assert_eq!(rig.members(0), 0b01, "it is lost, and left out as such");
    assert!(writes.iter().all(|&(write, _)| rig.is_complete(write)));
    rig.heal();
    settle(&mut rig);
    rig.assert_whole();
}

#[test]
fn an_old_peer_is_not_left_behind_and_that_is_said() {
    let mut rig = loose(Rig::pair());
    rig.cut();
    rig.set_unknown(FEATURE_CONGESTION);
    rig.heal();
    rig.clog(0, 1);
    write_many(&mut rig, MANY, 1);
    rig.idle();
    assert_eq!(rig.pace(0, 1), Pace::TooOld);
    let_catch_up(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn a_primary_goes_ahead_only_with_a_majority() {
    let mut rig = loose(Rig::voting(3));
    rig.clog(0, 1);
    write_many(&mut rig, MANY, 1);
    rig.run_until(|rig| rig.pace(0, 1) == Pace::Ahead);
    rig.idle();
    assert_eq!(rig.members(0), 0b101);
    rig.clog(0, 2);
    write_many(&mut rig, MANY, 2);
    rig.idle();
    assert_eq!(rig.pace(0, 2), Pace::NoQuorum);
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.replication(0, 2), ReplicationState::Established);
    rig.unclog(0, 2);
    let_catch_up(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn a_tie_breaker_lets_a_primary_go_ahead_of_the_only_other_copy() {
    let mut rig = Rig::with_tie_breaker();
    go_ahead_of(&mut rig, 0, &[1]);
    rig.set_protocol(0, Protocol::A);
    rig.clog(0, 1);
    write_many(&mut rig, MANY, 1);
    rig.run_until(|rig| rig.pace(0, 1) == Pace::Ahead);
    write_many(&mut rig, MANY, 2);
    rig.crash(0);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    rig.unclog(0, 1);
    rig.restart(0);
    rig.promote(0).unwrap();
    settle(&mut rig);
    rig.assert_mirrored();
}

/// The second of three knows, and has on record, that it is left behind; the record without it is not made yet.
fn told() -> Rig {
    let mut rig = warm(Rig::synced(3));
    rig.set_late(0, true);
    rig.clog(0, 1);
    begin_writes(&mut rig, MANY, 1);
    rig.idle();
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    rig
}

#[test]
fn a_third_copy_does_not_make_one_that_is_left_behind_good_again() {
    let mut rig = told();
    rig.cut_pair(1, 2);
    rig.heal_pair(1, 2);
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    rig.set_late(0, false);
    let_catch_up(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn a_primary_that_dies_before_it_goes_ahead_leaves_nobody_outdated() {
    let mut rig = told();
    rig.crash(0);
    rig.set_late(0, false);
    rig.unclog(0, 1);
    rig.idle();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.promote(1), Ok(()));
    rig.restart(0);
    settle(&mut rig);
    rig.assert_whole();
}

#[test]
fn an_application_on_the_other_node_is_not_left_behind() {
    let mut rig = loose(Rig::pair());
    for number in 0..2 {
        let options = Options {
            two_primaries: Some(true),
            ..Options::default()
        };
        rig.set_options(number, options).unwrap();
    }
    assert_eq!(rig.promote(1), Ok(()));
    rig.clog(0, 1);
    let writes = begin_writes(&mut rig, MANY, 1);
    rig.idle();
    assert_eq!(rig.pace(0, 1), Pace::Served);
    rig.unclog(0, 1);
    rig.idle();
    assert!(writes.iter().all(|&(write, _)| rig.is_complete(write)));
    rig.assert_equal();
}

#[test]
fn a_peer_that_is_left_behind_may_go_lose_its_disk_or_leave_in_order() {
    for how in 0..4 {
        let mut rig = ahead();
        let leave = Command::Disconnect {
            peer: node(0),
            force: false,
        };
        match how {
            0 => rig.detach(1),
            1 => rig.set_failing(1, true),
            2 => assert_eq!(rig.command(1, leave), Ok(())),
            _ => rig.demote(0),
        }
        rig.unclog(0, 1);
        rig.idle();
        match how {
            0 => rig.attach(1),
            1 => {
                rig.set_failing(1, false);
                if rig.disk_state(1) == DiskState::Diskless {
                    rig.attach(1);
                }
            }
            2 => rig.dial(1, 0, false),
            _ => {}
        }
        settle(&mut rig);
        rig.assert_whole();
    }
}

/// Writes without end meet a link that carries a packet for every three of them.
#[test]
fn under_a_load_that_never_fits_a_resync_makes_progress_all_the_same() {
    let mut rig = ahead();
    let mut caught_up = 0;
    for at in 0..3000u64 {
        let write = rig.begin_write(0, place(at % 300), at as u8 | 1, 4096);
        if at % 3 == 0 {
            rig.trickle(0, 1, 1);
        }
        rig.pass(10);
        rig.steps(40);
        // A decision waits for what is under way.
        while !rig.is_complete(write) {
            rig.trickle(0, 1, 1);
            rig.steps(40);
        }
        caught_up += u64::from(rig.disk_state(1) == DiskState::Inconsistent);
    }
    assert!(caught_up > 1000, "it was hardly ever synced: {caught_up}");
    let is_there = |at: &u64| rig.read_disk(1, place(*at), 1) != [0];
    assert!((0..300).filter(is_there).count() > 280);
    let_catch_up(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn bursts_one_after_the_other_make_no_record_each() {
    let mut rig = ahead();
    let records = rig.generations(0);
    for burst in 0..40 {
        rig.unclog(0, 1);
        rig.idle();
        rig.clog(0, 1);
        for write in begin_writes(&mut rig, 2 * MANY, burst) {
            rig.pass(10);
            while !rig.is_complete(write.0) {
                rig.trickle(0, 1, 1);
                rig.steps(40);
            }
        }
    }
    assert!(rig.generations(0) <= records + 2, "{}", rig.generations(0));
    let_catch_up(&mut rig, 1);
    rig.assert_whole();
    assert_eq!(rig.members(0), 0b11);
}

/// All that was answered under protocol C is on a node that is promoted, whenever the primary dies.
#[test]
fn nobody_that_was_left_behind_is_promoted_whenever_the_primary_dies() {
    let (mut promoted, mut refused) = (0, 0);
    for steps in (0..300).step_by(3) {
        let mut rig = small();
        rig.set_protocol(0, Protocol::C);
        rig.clog(0, 1);
        let writes = begin_writes(&mut rig, 28, 1);
        for _ in 0..steps {
            rig.steps(1);
            rig.pass(1);
        }
        let done: Vec<u64> = writes
            .iter()
            .filter(|&&(write, _)| rig.is_complete(write))
            .map(|&(_, sector)| sector)
            .collect();
        rig.crash(0);
        match rig.promote(1) {
            Ok(()) => {
                promoted += 1;
                let has = |sector: &u64| rig.read_disk(1, *sector, 4096) == [1; 4096];
                assert!(done.iter().all(has), "after {steps} steps");
            }
            Err(refusal) => {
                refused += 1;
                assert_eq!(refusal, Refusal::NoUpToDateDisk);
            }
        }
        rig.unclog(0, 1);
        rig.restart(0);
        rig.reconnect();
        if rig.primaries().is_empty() {
            rig.promote(0).unwrap();
        }
        settle(&mut rig);
        rig.assert_whole();
    }
    assert!(promoted > 0 && refused > 0, "{promoted}, {refused}");
}

/// R16: the link is slow until queues overflow, bits take over, a resync follows, the roles are switched, and both hold
/// the same, with a cut or a crash anywhere in between.
#[test]
fn r16_overflow_resync_and_switch_over_with_a_fault_at_any_step_end_in_equal_copies() {
    let mut runs = 0;
    for (fault, seed) in (0..5).flat_map(|fault| (0..2u64).map(move |seed| (fault, seed))) {
        for at in (0..900).step_by(30) {
            overflow(fault, seed, at);
            runs += 1;
        }
    }
    assert!(runs >= 300);
}

fn overflow(fault: usize, seed: u64, at: usize) {
    let mut rig = small();
    let context = format!("fault {fault}, seed {seed}, step {at}");
    rig.clog(0, 1);
    let mut left = at;
    let mut answered = Vec::new();
    for round in 0..60u64 {
        let sector = place(round * (7 + seed) % 50);
        if rig.role(0) == Role::Primary {
            let write = rig.begin_write(0, sector, round as u8 + 1, 4096);
            answered.push((write, sector, round as u8 + 1));
        }
        let steps = 12 + (round * 5 + seed) as usize % 7;
        rig.pass(20);
        for _ in 0..steps {
            rig.steps(1);
            left = match left {
                0 => continue,
                1 => {
                    strike(&mut rig, fault);
                    0
                }
                more => more - 1,
            };
        }
        if round % 4 == seed % 4 {
            rig.trickle(0, 1, 1 + round as usize % 3);
        }
    }
    if fault == 3 {
        rig.cut_at_once();
    }
    rig.unclog(0, 1);
    rig.heal();
    for number in 0..2 {
        if rig.disk_state(number) == DiskState::Diskless {
            rig.restart(number);
        }
    }
    rig.idle();
    rig.reconnect();
    if rig.primaries().is_empty() {
        assert_eq!(rig.promote(0), Ok(()), "{context}");
    }
    settle(&mut rig);
    rig.assert_whole();
    let from = rig.primaries()[0];
    rig.demote(from);
    assert_eq!(rig.promote(1 - from), Ok(()), "{context}");
    assert_eq!(rig.write(1 - from, 0, 99, 4096), Ok(()), "{context}");
    rig.assert_whole();
}

fn strike(rig: &mut Rig, fault: usize) {
    match fault {
        0 => {
            rig.cut_at_once();
            rig.steps(5);
            rig.heal_at_once();
            rig.clog(0, 1);
        }
        victim @ (1 | 2) => {
            rig.crash(victim - 1);
            rig.restart(victim - 1);
        }
        3 => rig.break_wire(),
        _ => {
            rig.order(0, Command::Secondary { force: true });
        }
    }
}
