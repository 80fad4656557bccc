// SPDX-License-Identifier: GPL-2.0-only

//! R8, R13: a disk in another one's place votes once a majority without it has taken it in, and then for good.

use crate::rig::{all_vote, Rig};
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::DiskState;

const PRIMARY: Command = Command::Primary { force: false };
const FORCE: Command = Command::Primary { force: true };

/// Three voters, 0 primary; the disk of 1 is a new one, and what becomes of that is about to happen.
fn replaced() -> Rig {
    let mut rig = Rig::voting(3);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart_alone(1);
    rig.dial(1, 0, false);
    rig.dial(1, 2, false);
    rig
}

#[test]
fn a_new_disk_has_no_vote_with_who_never_met_the_former_one_either() {
    let mut rig = Rig::configured(3, 16384, all_vote(3));
    rig.crash(1);
    rig.attach(0);
    rig.attach(2);
    for (number, peer) in [(0, 2), (2, 0), (0, 1), (2, 1)] {
        rig.dial(number, peer, false);
    }
    rig.idle();
    assert_eq!(rig.command(0, FORCE), Ok(()));
    rig.idle();
    rig.crash(2);
    rig.restart(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart(2);
    rig.restart(1);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate, "fetched from 2");
    for number in [1, 2] {
        assert_eq!(rig.command(number, PRIMARY), Err(Refusal::NoQuorum));
    }
    rig.restart(0);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
}

#[test]
fn a_new_disk_counts_although_the_notice_that_it_does_was_lost() {
    let mut rig = replaced();
    let mut joined = 0;
    while rig.disk_state(1) != DiskState::UpToDate {
        rig.steps(1);
        joined += 1;
    }
    for steps in joined - 4..joined + 16 {
        let mut rig = replaced();
        rig.steps(steps);
        rig.cut_pair_at_once(0, 1);
        rig.heal();
        rig.wait(10_000);
        rig.assert_equal();
        rig.crash(0);
        rig.wait(10_000);
        let mut promoted = [1, 2]
            .map(|number| rig.command(number, PRIMARY))
            .into_iter();
        assert!(promoted.any(|result| result.is_ok()), "{steps}");
    }
}

#[test]
fn a_disk_that_is_replaced_while_nobody_leads_counts_with_the_tie_breaker() {
    let mut rig = Rig::with_tie_breaker();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart(1);
    rig.assert_mirrored();
    rig.crash(0);
    assert_eq!(rig.command(1, PRIMARY), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
}

#[test]
fn the_word_of_a_person_lasts_as_long_as_the_primary() {
    for steps in (0..60).step_by(2) {
        let mut rig = Rig::voting(3);
        rig.crash(0);
        rig.crash(1);
        rig.replace_disk(1);
        rig.restart(1);
        rig.order(2, FORCE);
        rig.steps(steps);
        rig.cut_pair_at_once(1, 2);
        rig.heal();
        if rig.primaries() == [2] {
            assert_eq!(rig.write(2, 0, 2, 4096), Ok(()), "{steps}");
        }
    }
}

#[test]
fn a_primary_that_waits_for_votes_of_new_disks_goes_on_when_a_person_insists() {
    let mut rig = Rig::voting(3);
    rig.crash(2);
    rig.crash(1);
    rig.replace_disk(1);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.restart(1);
    assert!(!rig.is_complete(request), "2 may know more");
    assert_eq!(rig.command(0, FORCE), Ok(()));
    rig.idle();
    assert_eq!(rig.result(request), Some(Ok(())));
}

#[test]
fn the_word_of_a_person_ends_with_the_primary() {
    let mut rig = Rig::configured(3, 16384, all_vote(3));
    for number in [0, 1] {
        rig.attach(number);
    }
    rig.dial(0, 1, false);
    rig.dial(1, 0, false);
    rig.idle();
    assert_eq!(rig.command(0, FORCE), Ok(()));
    rig.idle();
    rig.demote(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart_alone(1);
    rig.dial(1, 0, false);
    rig.idle();
    assert_eq!(rig.command(1, PRIMARY), Err(Refusal::NoQuorum));
    assert_eq!(rig.command(0, PRIMARY), Err(Refusal::NoQuorum));
    assert_eq!(rig.command(0, FORCE), Ok(()));
}
