// SPDX-License-Identifier: GPL-2.0-only

//! Two nodes with disks, and a third, number 2, that only votes.

use crate::rig::Rig;
use weft_engine::effect::IoError;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState, Role};
use weft_uapi::status::SUSPENDED_QUORUM;

const PRIMARY: Command = Command::Primary { force: false };

#[test]
fn a_primary_that_loses_its_mirror_goes_on_with_the_tie_breaker() {
    let mut rig = Rig::with_tie_breaker();
    assert_eq!(rig.disk_state(2), DiskState::Diskless);
    rig.crash(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!((rig.members(0), rig.resource(0).has_quorum), (0b001, 1));
    rig.restart(1);
    rig.assert_equal();
    assert_eq!(rig.members(0), 0b011);
}

#[test]
fn the_mirror_of_a_dead_primary_is_promoted_with_the_tie_breaker() {
    let mut rig = Rig::with_tie_breaker();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.restart(0);
    rig.assert_equal();
}

#[test]
fn an_isolated_primary_waits_while_the_others_go_on() {
    let mut rig = Rig::with_tie_breaker();
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    assert_ne!(rig.resource(0).suspended & SUSPENDED_QUORUM, 0);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    assert_eq!((rig.role(0), rig.role(1)), (Role::Secondary, Role::Primary));
    rig.assert_equal();
}

#[test]
fn a_node_that_missed_writes_is_not_promoted_by_a_tie_breaker_that_has_restarted() {
    let mut rig = Rig::with_tie_breaker();
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(2);
    rig.heal();
    rig.restart_diskless(2);
    assert_eq!(rig.command(1, PRIMARY), Err(Refusal::NoUpToDateDisk));
    rig.restart(0);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
}

#[test]
fn a_tie_breaker_answers_only_what_is_kept() {
    let mut rig = Rig::with_tie_breaker();
    rig.set_late(2, true);
    rig.crash(1);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(request), "nobody but this node knows");
    rig.set_late(2, false);
    rig.idle();
    assert_eq!(rig.result(request), Some(Ok(())));
}

#[test]
fn a_promise_is_given_once_it_is_kept() {
    let mut rig = Rig::with_tie_breaker();
    rig.crash(0);
    rig.set_late(2, true);
    let token = rig.order(1, PRIMARY);
    rig.idle();
    assert_eq!(rig.role(1), Role::Secondary);
    rig.set_late(2, false);
    assert_eq!(rig.reply(token), Ok(()));
}

#[test]
fn a_tie_breaker_meets_nobody_before_it_knows_what_it_promised() {
    let mut rig = Rig::with_tie_breaker();
    rig.crash(0);
    rig.crash(2);
    rig.set_late(2, true);
    rig.restart_diskless(2);
    assert_eq!(rig.resource(1).voters_present, 0b010);
    assert_eq!(rig.command(1, PRIMARY), Err(Refusal::NoQuorum));
    rig.set_late(2, false);
    rig.idle();
    assert_eq!(rig.resource(1).voters_present, 0b110);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
}

#[test]
fn a_tie_breaker_without_memory_holds_nobody_up_while_there_is_a_majority() {
    let mut rig = Rig::with_tie_breaker();
    rig.set_late(2, true);
    rig.command(0, Command::Secondary { force: false }).unwrap();
    rig.isolate(2);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    rig.heal();
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn a_voter_whose_disk_is_gone_has_no_vote() {
    let mut rig = Rig::voting(3);
    rig.detach(2);
    rig.crash(0);
    let members = rig.members(1);
    assert_eq!(rig.command(1, PRIMARY), Err(Refusal::NoQuorum));
    assert_eq!(rig.members(1), members, "it was elected");
}

#[test]
fn what_only_a_lost_disk_had_stands_against_promotions_until_a_person_insists() {
    let mut rig = Rig::with_tie_breaker();
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.replace_disk(0);
    rig.heal();
    rig.restart(0);
    for number in [0, 1] {
        let promotion = rig.command(number, PRIMARY);
        assert_eq!(promotion, Err(Refusal::NoUpToDateDisk));
    }
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    rig.assert_equal();
    rig.crash(0);
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()), "the tie-breaker follows");
    rig.command(1, Command::Secondary { force: false }).unwrap();
    rig.restart(0);
    assert_eq!(rig.command(0, PRIMARY), Ok(()));
}

#[test]
fn nobody_insists_against_data_that_are_there() {
    let mut rig = Rig::with_tie_breaker();
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    rig.heal_at_once();
    rig.run_until(|rig| rig.disk_state(1) == DiskState::Inconsistent);
    let promotion = rig.command(1, Command::Primary { force: true });
    assert_eq!(promotion, Err(Refusal::NoUpToDateDisk));
    rig.idle();
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]), "it was fetched");
}

#[test]
fn a_record_that_its_maker_gave_up_holds_nobody_back() {
    for steps in 0..40 {
        let mut rig = Rig::with_tie_breaker();
        rig.cut_pair_at_once(1, 2);
        rig.cut_pair_at_once(0, 1);
        rig.begin_write(0, 0, 1, 4096);
        rig.steps(steps);
        rig.crash(0);
        rig.heal_at_once();
        rig.restart(0);
        assert_eq!(rig.command(1, PRIMARY), Ok(()), "after {steps} steps");
        rig.assert_equal();
    }
}

#[test]
fn a_tie_breaker_that_was_away_for_longer_than_lines_reach_follows_who_agree() {
    let mut rig = Rig::with_tie_breaker();
    rig.crash(2);
    for turn in 0..80 {
        let (old, new) = (turn % 2, (turn + 1) % 2);
        rig.demote(old);
        assert_eq!(rig.command(new, PRIMARY), Ok(()));
        assert_eq!(rig.write(new, 0, 3, 4096), Ok(()));
    }
    rig.demote(0);
    rig.restart_diskless(2);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
}

#[test]
fn a_record_is_not_put_in_force_by_a_vote_that_comes_after_it_was_given_up() {
    let mut rig = Rig::with_tie_breaker();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.isolate(1);
    rig.restart(0);
    let promotion = rig.order(0, PRIMARY);
    rig.run_until(|rig| rig.members(0) == 0b001);
    rig.set_late(2, true);
    rig.heal_pair_at_once(0, 1);
    rig.run_until(|rig| rig.replication(0, 1) == ReplicationState::BitmapTarget);
    rig.break_pair(0, 1);
    rig.set_late(2, false);
    assert_eq!(rig.reply(promotion), Err(Refusal::ElectionLost));
    rig.heal();
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    rig.assert_equal();
}

#[test]
fn a_record_that_its_maker_gave_up_for_that_of_a_new_disk_holds_nobody_back() {
    let mut rig = Rig::with_tie_breaker();
    rig.crash(1);
    rig.idle();
    rig.replace_disk(1);
    rig.set_late(2, true);
    rig.restart(1);
    assert_eq!(rig.members(1), 0b011, "nobody has counted its vote yet");
    rig.cut_pair_at_once(1, 2);
    rig.cut_pair(0, 1);
    assert_eq!(rig.members(0), 0b001);
    rig.cut_pair_at_once(0, 2);
    rig.set_late(2, false);
    rig.crash(0);
    rig.heal_pair_at_once(0, 1);
    rig.restart(0);
    assert_eq!(rig.members(0), 0b011, "it took over the former record");
    rig.heal();
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    rig.assert_equal();
}
