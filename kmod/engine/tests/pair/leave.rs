// SPDX-License-Identifier: GPL-2.0-only

//! A secondary leaves in order, and the last one that stays goes on (last man standing).

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Fencing, Role};

fn leave_by(peer: usize) -> Command {
    Command::Disconnect {
        peer: node(peer),
        force: false,
    }
}

/// The node gives up all its connections, the one to the primary first.
fn leave(rig: &mut Rig, number: usize, primary: usize) {
    assert_eq!(rig.command(number, leave_by(primary)), Ok(()));
    for peer in (0..rig.len()).filter(|&peer| peer != number && peer != primary) {
        if !rig.is_stand_alone(number, peer) {
            assert_eq!(rig.command(number, leave_by(peer)), Ok(()));
        }
    }
    rig.idle();
}

/// A node that left wants its connections again.
fn come_back(rig: &mut Rig, number: usize) {
    for peer in (0..rig.len()).filter(|&peer| peer != number) {
        if rig.is_stand_alone(number, peer) {
            rig.dial(number, peer, false);
        }
    }
    rig.idle();
}

#[test]
fn who_leaves_in_order_is_outdated_and_left_out_by_a_record_before_it_goes() {
    let mut rig = Rig::pair();
    let records = rig.generations(0);
    assert_eq!(rig.command(1, leave_by(0)), Ok(()));
    assert_eq!(rig.reason(1, 0), "left in order");
    assert_eq!(rig.members(0), 0b01);
    assert_eq!(rig.generations(0), records + 1, "one record, at once");
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    assert_eq!(rig.left(0), 0b10);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.generations(0), records + 1, "writing needs no other");
    come_back(&mut rig, 1);
    rig.assert_whole();
    assert_eq!((rig.left(0), rig.left(1)), (0, 0));
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn a_write_under_way_is_complete_although_the_peer_leaves() {
    let mut rig = Rig::pair();
    let writes: Vec<_> = (0..8).map(|n| rig.begin_write(0, n * 8, 7, 4096)).collect();
    let left = rig.order(1, leave_by(0));
    assert_eq!(rig.reply(left), Ok(()));
    rig.idle();
    for write in writes {
        assert_eq!(rig.result(write), Some(Ok(())));
    }
    come_back(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn nobody_fences_who_left_in_order() {
    let mut rig = Rig::pair();
    rig.set_fencing(0, Fencing::ResourceAndStonith);
    leave(&mut rig, 1, 0);
    assert_eq!(rig.fence_wanted(0), None);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.fence_wanted(0), None);
}

#[test]
fn the_last_one_goes_on_when_all_others_left_in_order_and_leads_again_after_its_own_restart() {
    let mut rig = Rig::voting(3);
    leave(&mut rig, 2, 0);
    leave(&mut rig, 1, 0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.resource(0).suspended, 0);
    assert_eq!(rig.resource(0).has_quorum, 1);
    rig.crash(0);
    rig.restart_alone(0);
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    for number in [1, 2] {
        rig.dial(0, number, false);
        come_back(&mut rig, number);
    }
    rig.assert_whole();
    assert_eq!(rig.left(0), 0);
}

#[test]
fn those_who_left_are_no_majority_before_they_met_the_newer_record() {
    let mut rig = Rig::voting(3);
    leave(&mut rig, 2, 0);
    leave(&mut rig, 1, 0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    come_back(&mut rig, 1);
    come_back(&mut rig, 2);
    for number in [1, 2] {
        assert_eq!(rig.promote(number), Err(Refusal::NoUpToDateDisk));
        assert_eq!(rig.resource(number).has_quorum, 0);
    }
    rig.restart(0);
    rig.idle();
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.assert_whole();
}

#[test]
fn who_left_stays_away_from_votes_after_a_crash_at_once_after_the_answer() {
    let mut rig = Rig::voting(3);
    for number in [2, 1] {
        assert_eq!(rig.command(number, leave_by(0)), Ok(()));
        rig.crash(number);
    }
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.restart(1);
    rig.restart(2);
    for number in [1, 2] {
        assert_eq!(rig.promote(number), Err(Refusal::NoUpToDateDisk));
        assert_eq!(rig.resource(number).has_quorum, 0);
    }
}

#[test]
fn a_voter_that_merely_vanished_counts() {
    let mut rig = Rig::voting(3);
    leave(&mut rig, 2, 0);
    rig.crash(1);
    let write = rig.begin_write(0, 0, 1, 4096);
    rig.wait(60_000);
    assert!(!rig.is_complete(write), "one of the two that did not leave");
    come_back(&mut rig, 2);
    assert_eq!(
        rig.result(write),
        Some(Ok(())),
        "two of three, half of the rest"
    );
    rig.restart(1);
    rig.assert_whole();
    assert_eq!(rig.left(0), 0);
}

#[test]
fn who_the_primary_needs_for_its_majority_leaves_only_by_force() {
    let mut rig = Rig::voting(3);
    rig.crash(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(2, leave_by(0)), Err(Refusal::LastVote));
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()), "it stays as it was");
    let force = Command::Disconnect {
        peer: node(0),
        force: true,
    };
    assert_eq!(rig.command(2, force), Ok(()));
    let write = rig.begin_write(0, 0, 3, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    come_back(&mut rig, 2);
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.restart(1);
    rig.assert_whole();
}

/// Its vote does not help as long as the record that takes it in waits for others.
#[test]
fn who_comes_back_to_a_primary_without_majority_is_taken_in_by_one_record() {
    let mut rig = Rig::voting(4);
    leave(&mut rig, 1, 0);
    leave(&mut rig, 2, 0);
    rig.isolate(3);
    let records = rig.generations(0);
    rig.dial(1, 0, false);
    rig.idle();
    assert!(rig.generations(0) <= records + 3);
    come_back(&mut rig, 2);
    rig.heal();
    rig.wait(3_000);
    come_back(&mut rig, 1);
    rig.assert_whole();
    assert_eq!(rig.left(0), 0);
}

#[test]
fn two_that_leave_at_once_are_both_left_out() {
    let mut rig = Rig::voting(3);
    let orders = [1, 2].map(|number| rig.order(number, leave_by(0)));
    for order in orders {
        assert_eq!(rig.reply(order), Ok(()));
    }
    rig.idle();
    assert_eq!((rig.members(0), rig.left(0)), (0b001, 0b110));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    come_back(&mut rig, 1);
    come_back(&mut rig, 2);
    rig.assert_whole();
}

#[test]
fn a_cut_or_a_crash_at_any_step_of_a_leave_leaves_one_outcome_everywhere() {
    for (victim, steps) in (0..3).flat_map(|victim| (0..60).map(move |steps| (victim, steps))) {
        let mut rig = Rig::voting(3);
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        let order = rig.order(2, leave_by(0));
        rig.steps(steps);
        match victim {
            0 => rig.crash(0),
            1 => rig.crash(2),
            _ => {
                rig.cut_pair_at_once(0, 2);
                rig.idle();
            }
        }
        rig.wait(30_000);
        if victim != 1 {
            assert_eq!(rig.answered(order), Some(Ok(())), "it never hangs");
        }
        if victim == 0 {
            assert_eq!(rig.promote(1).is_ok(), rig.role(1) == Role::Primary);
            rig.restart(0);
        } else {
            assert_eq!(rig.write(0, 8, 2, 4096), Ok(()), "step {steps}");
        }
        if victim == 1 {
            rig.restart(2);
        }
        rig.heal();
        come_back(&mut rig, 2);
        if rig.primaries().is_empty() {
            assert_eq!(rig.promote(0), Ok(()), "step {steps}");
        }
        rig.idle();
        rig.assert_whole();
        assert_eq!(rig.left(0), 0, "step {steps}");
        assert!(
            (0..3).all(|number| rig.left_at(number) == 0),
            "step {steps}"
        );
    }
}

#[test]
fn a_leave_that_the_primary_does_not_answer_ends_as_a_disconnect() {
    let mut rig = Rig::pair();
    rig.set_late(0, true);
    let order = rig.order(1, leave_by(0));
    rig.wait(3_000);
    assert_eq!(rig.answered(order), None);
    rig.wait(10_000);
    rig.idle();
    assert_eq!(rig.answered(order), Some(Ok(())));
    assert!(rig.reason(1, 0).contains("made no record"));
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    rig.set_late(0, false);
    rig.idle();
    come_back(&mut rig, 1);
    rig.assert_whole();
}

#[test]
fn without_a_primary_a_node_goes_as_it_always_did_and_keeps_its_vote() {
    let mut rig = Rig::voting(3);
    rig.demote(0);
    assert_eq!(rig.command(2, leave_by(0)), Ok(()));
    assert_eq!(rig.reason(2, 0), "disconnected by command");
    assert_eq!(rig.left(0), 0);
    assert_eq!(rig.command(2, leave_by(1)), Ok(()));
    rig.crash(0);
    assert_eq!(rig.promote(1), Err(Refusal::NoQuorum));
    come_back(&mut rig, 2);
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn a_tie_breaker_and_the_primary_go_on_without_who_left() {
    let mut rig = Rig::with_tie_breaker();
    leave(&mut rig, 1, 0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.resource(2).has_quorum, 1);
    rig.crash(0);
    come_back(&mut rig, 1);
    assert!(rig.promote(1).is_err(), "the tie-breaker knows more");
    rig.restart(0);
    rig.idle();
    rig.assert_mirrored();
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
}

#[test]
fn a_blank_disk_in_the_place_of_one_that_left_has_no_vote_either() {
    let mut rig = Rig::voting(3);
    leave(&mut rig, 2, 0);
    leave(&mut rig, 1, 0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart(1);
    come_back(&mut rig, 2);
    for number in [1, 2] {
        assert!(rig.promote(number).is_err());
        assert_eq!(rig.resource(number).has_quorum, 0);
    }
}

#[test]
fn an_older_image_of_one_that_left_makes_no_majority_with_the_other_one() {
    let mut rig = Rig::voting(3);
    let image = rig.image(1);
    rig.crash(1);
    rig.restart(1);
    leave(&mut rig, 2, 0);
    leave(&mut rig, 1, 0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(1);
    rig.put_back(1, image);
    rig.restart(1);
    come_back(&mut rig, 2);
    for number in [1, 2] {
        assert!(rig.promote(number).is_err());
    }
}
