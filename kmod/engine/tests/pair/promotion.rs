// SPDX-License-Identifier: GPL-2.0-only

//! Who becomes primary, and when.

use crate::rig::{Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState, Role};

#[test]
fn a_blank_disk_is_promoted_only_by_force_and_then_takes_writes() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(
        rig.command(0, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    assert_eq!(rig.command(0, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 8, 7, 4096), Ok(()));
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![7; 4096]));
    assert_eq!(rig.flush(0), Ok(()));
}

#[test]
fn a_secondary_takes_no_requests() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(rig.write(0, 0, 1, 512), Err(IoError::NoData));
    rig.begin_open(0, false);
    assert_eq!(rig.door(0), Some(Err(Refusal::NotPrimary)));
}

#[test]
fn only_one_of_a_connected_pair_is_primary() {
    let mut rig = Rig::pair();
    assert_eq!(
        rig.command(1, Command::Primary { force: true }),
        Err(Refusal::PeerPrimary)
    );
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.role(1), Role::Primary);
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn an_unfinished_target_is_not_promoted() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.connect();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    assert_eq!(
        rig.command(1, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn a_record_does_not_wait_for_a_disk_that_is_leaving() {
    let mut rig = Rig::pair();
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    rig.idle();
    rig.set_late(0, true);
    let promotion = rig.order(0, Command::Primary { force: false });
    rig.idle();
    let detach = rig.order(1, Command::Detach { volume: VOLUME });
    rig.idle();
    let session = rig.session(0, 1);
    rig.set_late(0, false);
    assert_eq!(rig.reply(promotion), Ok(()));
    assert_eq!(rig.reply(detach), Ok(()));
    assert_eq!(rig.session(0, 1), session, "nobody had to give up");
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
}

#[test]
fn a_synced_pair_swaps_its_roles_within_the_session() {
    let mut rig = Rig::pair();
    let session = rig.session(0, 1);
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
    assert_eq!(rig.session(0, 1), session);
}

const PROMOTE: Command = Command::Primary { force: false };

#[test]
fn the_role_goes_round_three_nodes_and_takes_every_write_along() {
    let mut rig = Rig::synced(3);
    for turn in 1..7usize {
        let (from, to) = ((turn - 1) % 3, turn % 3);
        rig.demote(from);
        assert_eq!(rig.promote(to), Ok(()));
        assert_eq!(rig.primaries(), [to]);
        assert_eq!(rig.write(to, turn as u64 * 8, turn as u8, 4096), Ok(()));
    }
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 48, 4096), vec![6; 4096]);
}

#[test]
fn of_two_that_are_promoted_at_once_one_wins() {
    for (nodes, [a, b]) in [(2, [0, 1]), (2, [1, 0]), (3, [0, 1]), (3, [2, 0])] {
        let mut rig = Rig::synced(nodes);
        for steps in 0..40 {
            let leader = rig.primaries()[0];
            rig.demote(leader);
            let first = rig.order(a, PROMOTE);
            rig.steps(steps);
            let second = rig.order(b, PROMOTE);
            let results = [rig.reply(first), rig.reply(second)];
            rig.idle();
            let won = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!((won, rig.primaries().len()), (1, 1), "{steps} {results:?}");
            let leader = rig.primaries()[0];
            assert_eq!(rig.write(leader, 0, steps as u8, 4096), Ok(()));
        }
        rig.assert_whole();
    }
}

#[test]
fn of_three_that_are_promoted_at_once_one_wins_without_losing_time() {
    let mut rig = Rig::synced(3);
    for steps in 0..20 {
        let leader = rig.primaries()[0];
        rig.demote(leader);
        let orders = [2, 0, 1].map(|node| {
            rig.steps(steps);
            rig.order(node, PROMOTE)
        });
        while rig.steps(1) {}
        let results = orders.map(|order| rig.answered(order).expect("no timer is waited for"));
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!((won, rig.primaries().len()), (1, 1), "{steps} {results:?}");
    }
    rig.assert_whole();
}

#[test]
fn a_promotion_during_the_demotion_of_another_never_makes_two_primaries() {
    let mut rig = Rig::pair();
    for steps in 0..40 {
        let old = rig.primaries()[0];
        let new = 1 - old;
        assert_eq!(rig.write(old, 0, steps as u8, 4096), Ok(()));
        let demotion = rig.order(old, Command::Secondary { force: false });
        rig.steps(steps);
        let promotion = rig.order(new, PROMOTE);
        assert_eq!(rig.reply(demotion), Ok(()));
        if let Err(refusal) = rig.reply(promotion) {
            assert_eq!(refusal, Refusal::PeerPrimary, "after {steps} steps");
            rig.idle();
            assert_eq!(rig.promote(new), Ok(()));
        }
        rig.idle();
        assert_eq!(rig.primaries(), [new]);
        let written = rig.read(new, 0, 4096);
        assert_eq!(written, Ok(vec![steps as u8; 4096]));
    }
}

#[test]
fn a_promotion_at_any_step_of_a_handshake_is_done_or_refused_and_known_to_the_peer() {
    let mut rig = Rig::pair();
    for steps in 0..60 {
        rig.demote(0);
        rig.cut();
        rig.heal_at_once();
        rig.steps(steps);
        let promotion = rig.order(0, PROMOTE);
        let result = rig.reply(promotion);
        rig.idle();
        assert_eq!(
            rig.command(1, PROMOTE).is_ok(),
            result.is_err(),
            "{steps}: {result:?}"
        );
        if result.is_err() {
            assert_eq!(result, Err(Refusal::InTransition), "after {steps} steps");
            rig.demote(1);
            assert_eq!(rig.promote(0), Ok(()));
        }
        assert_eq!(rig.write(0, 0, steps as u8, 4096), Ok(()));
        rig.assert_whole();
    }
}

#[test]
fn a_promotion_of_a_node_alone_waits_for_no_timer() {
    let mut rig = Rig::pair();
    rig.cut();
    let promotion = rig.order(1, PROMOTE);
    while rig.steps(1) {}
    assert_eq!(rig.answered(promotion), Some(Ok(())));
}

#[test]
fn no_request_is_left_over_when_a_peer_dies_or_the_role_goes() {
    let mut rig = Rig::pair();
    for steps in (0..120).step_by(3) {
        let writes: Vec<u64> = (0..20u64)
            .map(|at| rig.begin_write(0, at * 4, at as u8, 4096))
            .collect();
        rig.steps(steps);
        rig.crash(1);
        let demotion = rig.order(0, Command::Secondary { force: false });
        assert_eq!(rig.reply(demotion), Ok(()));
        for write in writes {
            assert_eq!(rig.result(write), Some(Ok(())), "after {steps} steps");
        }
        rig.restart(1);
        assert_eq!(rig.promote(0), Ok(()));
    }
    rig.assert_whole();
}

#[test]
fn a_secondary_that_only_another_secondary_reaches_is_outdated_until_the_primary_is_back() {
    let mut rig = Rig::synced(3);
    rig.cut_pair(0, 2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.disk_state(2), DiskState::Outdated);
    assert_eq!(rig.promote(2), Err(Refusal::NoUpToDateDisk));
    rig.crash(2);
    rig.restart_alone(2);
    assert_eq!(rig.disk_state(2), DiskState::Outdated, "it is on record");
    assert_eq!(rig.promote(2), Err(Refusal::NoUpToDateDisk));
    rig.crash(2);
    rig.heal();
    rig.restart(2);
    rig.assert_whole();
}

#[test]
fn a_secondary_that_reaches_nobody_is_not_outdated_by_being_alone() {
    let mut rig = Rig::synced(3);
    rig.write(0, 0, 1, 4096).unwrap();
    rig.isolate(2);
    rig.crash(0);
    rig.crash(1);
    assert_eq!(rig.promote(2), Ok(()));
    assert_eq!(rig.read(2, 0, 4096), Ok(vec![1; 4096]));
}
