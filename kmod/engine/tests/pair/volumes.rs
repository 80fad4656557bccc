// SPDX-License-Identifier: GPL-2.0-only

//! Two volumes in a resource: they fail over together, and each has its own disks, records and majority.

use crate::rig::{all_vote, node, Rig};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Options};
use weft_engine::quorum::{OnNoQuorum, Quorum};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::status::SUSPENDED_QUORUM;
use weft_uapi::units::VolumeId;

/// More effects than a promotion has.
const STEPS: usize = 60;

fn pair() -> Rig {
    Rig::of_two_volumes(2, Quorum::default())
}

fn trio() -> Rig {
    Rig::of_two_volumes(3, all_vote(3))
}

/// Every disk of both volumes is whole, and a write to each of them gets everywhere.
fn assert_whole(rig: &mut Rig, primary: usize) {
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(primary, 64, 77, 4096), Ok(()));
        rig.on(volume).assert_mirrored();
    }
}

#[test]
fn each_volume_has_its_own_data_and_both_swap_their_roles_together() {
    let mut rig = pair();
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(0, 0, 1 + volume as u8, 4096), Ok(()));
    }
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
    for volume in 0..2 {
        let content = vec![1 + volume as u8; 4096];
        assert_eq!(rig.on(volume).read(1, 0, 4096), Ok(content));
    }
    assert_whole(&mut rig, 1);
}

#[test]
fn a_volume_without_majority_waits_and_the_other_one_goes_on() {
    let mut rig = trio();
    rig.on(1).detach(2);
    rig.isolate(1);
    assert_eq!(rig.on(0).write(0, 0, 1, 4096), Ok(()));
    let waiting = rig.on(1).begin_write(0, 0, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(waiting));
    assert_eq!(rig.resource(0).has_quorum, 0);
    assert_eq!(rig.on(0).write(0, 8, 1, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.result(waiting), Some(Ok(())));
    assert_eq!(rig.resource(0).has_quorum, 1);
    rig.on(1).attach_with_blocks(2, 512);
    rig.idle();
    assert_whole(&mut rig, 0);
}

#[test]
fn only_requests_to_the_volume_without_majority_fail_if_they_shall_not_wait() {
    let mut rig = trio();
    rig.on(1).detach(2);
    rig.isolate(1);
    let waiting = rig.on(1).begin_write(0, 0, 2, 4096);
    rig.idle();
    assert_ne!(rig.resource(0).suspended & SUSPENDED_QUORUM, 0);
    let fail = Options {
        on_no_quorum: Some(OnNoQuorum::Fail),
        ..Options::default()
    };
    assert_eq!(rig.set_options(0, fail), Ok(()));
    rig.idle();
    assert_eq!(rig.result(waiting), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.on(1).write(0, 8, 2, 4096), Err(IoError::NoQuorum));
    assert_eq!(rig.on(0).write(0, 8, 1, 4096), Ok(()));
    assert_eq!(rig.primaries(), [0]);
    rig.heal();
    rig.on(1).attach_with_blocks(2, 512);
    rig.idle();
    assert_whole(&mut rig, 0);
}

#[test]
fn nobody_else_is_promoted_while_one_volume_of_the_primary_has_its_majority() {
    let mut rig = trio();
    rig.on(1).detach(2);
    rig.cut_pair(0, 1);
    let waiting = rig.on(1).begin_write(0, 0, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(waiting));
    // The other two have a majority for neither: one follows the primary, and has a vote for one volume only.
    assert!(rig.promote(1).is_err());
    assert!(rig.promote(2).is_err());
    assert_eq!(rig.primaries(), [0]);
    assert_eq!(rig.on(0).write(0, 0, 1, 4096), Ok(()));
    // Another vote for the volume is what it waits for, not the node that was lost.
    rig.on(1).attach_with_blocks(2, 512);
    rig.idle();
    assert_eq!(rig.result(waiting), Some(Ok(())));
    rig.heal();
    assert_whole(&mut rig, 0);
}

#[test]
fn a_majority_that_leads_both_volumes_ends_the_role_for_both() {
    let mut rig = trio();
    rig.isolate(0);
    let waiting = [0, 1].map(|volume| rig.on(volume).begin_write(0, 0, 9, 4096));
    assert_eq!(rig.promote(1), Ok(()));
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(1, 0, 5, 4096), Ok(()));
    }
    rig.heal();
    assert_eq!(rig.primaries(), [1]);
    for request in waiting {
        assert!(matches!(rig.result(request), Some(Err(_))));
    }
    assert_whole(&mut rig, 1);
    for volume in 0..2 {
        assert_eq!(rig.on(volume).read(1, 0, 4096), Ok(vec![5; 4096]));
    }
}

#[test]
fn a_promotion_needs_a_majority_for_every_volume() {
    let mut rig = trio();
    rig.on(1).detach(2);
    rig.demote(0);
    rig.cut_pair(0, 1);
    rig.cut_pair(0, 2);
    assert_eq!(rig.promote(1), Err(Refusal::NoQuorum));
    for volume in 0..2 {
        assert!(!rig.on(volume).is_marked_writer(1));
    }
    rig.heal();
    assert_eq!(rig.promote(1), Ok(()));
    rig.on(1).attach_with_blocks(2, 512);
    rig.idle();
    assert_whole(&mut rig, 1);
}

#[test]
fn two_volumes_that_must_not_meet_end_their_session_when_the_first_of_them_wants_to() {
    let mut rig = pair();
    rig.cut();
    assert_eq!(rig.promote(1), Ok(()));
    for (number, volume) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert_eq!(rig.on(volume).write(number, 0, 1, 4096), Ok(()));
    }
    rig.demote(1);
    rig.heal_at_once();
    let are_forked = |rig: &mut Rig| (0..2).all(|volume| rig.on(volume).rule(0, 1) == "forked");
    while !are_forked(&mut rig) {
        assert!(rig.steps(1));
    }
    // One of them is decided anew, and has a verdict that is younger than that of the other one.
    rig.pass(500);
    let volume = VolumeId(0);
    rig.order(1, Command::Detach { volume });
    while rig.on(0).disk_state(1) != DiskState::Diskless {
        assert!(rig.steps(1));
    }
    rig.order_attach(1, 512);
    rig.idle();
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
}

#[test]
fn a_promotion_needs_good_data_of_every_volume() {
    let mut rig = pair();
    rig.demote(0);
    rig.on(1).detach(1);
    rig.isolate(1);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    assert_eq!(rig.role(1), Role::Secondary);
    assert!(!rig.on(0).is_marked_writer(1));
    rig.heal();
    // Then somebody who has both leads for it.
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.resource(1).server, 1);
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(1, 0, 5, 4096), Ok(()));
        assert_eq!(rig.on(volume).read_disk(0, 0, 4096), [5; 4096]);
    }
}

#[test]
fn a_promotion_that_loses_one_volume_changes_the_role_of_none() {
    let mut lost = 0;
    for steps in 0..STEPS {
        let mut rig = pair();
        rig.demote(0);
        rig.cut();
        let token = rig.order(1, Command::Primary { force: false });
        rig.steps(steps);
        rig.set_late(1, true);
        rig.idle();
        rig.on(1).fail_late(1);
        rig.set_late(1, false);
        rig.idle();
        let reply = rig.answered(token).expect("a reply");
        if rig.on(1).disk_state(1) != DiskState::Diskless {
            // Nothing was being written to it.
            continue;
        }
        lost += 1;
        assert!(reply.is_err(), "after {steps} steps");
        assert_eq!(rig.role(1), Role::Secondary, "after {steps} steps");
        for volume in 0..2 {
            assert!(!rig.on(volume).is_marked_writer(1), "after {steps} steps");
        }
        rig.heal();
        assert_eq!(rig.promote(0), Ok(()), "after {steps} steps");
        rig.on(1).attach_with_blocks(1, 512);
        rig.idle();
        assert_whole(&mut rig, 0);
    }
    assert!(lost > 2, "{lost}");
}

#[test]
fn a_primary_that_loses_the_disk_of_one_volume_goes_on_with_a_peer_for_both() {
    let mut rig = pair();
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(0, 0, 1, 4096), Ok(()));
    }
    rig.on(1).set_failing(0, true);
    for volume in [1, 0] {
        assert_eq!(rig.on(volume).write(0, 8, 2, 4096), Ok(()));
        assert_eq!(rig.on(volume).read(0, 0, 4096), Ok(vec![1; 4096]));
        assert_eq!(rig.on(volume).read_disk(1, 8, 4096), [2; 4096]);
    }
    assert_eq!(rig.primaries(), [0]);
    assert_eq!(rig.resource(0).server, 2);
    rig.on(1).set_failing(0, false);
    rig.on(1).attach_with_blocks(0, 512);
    rig.idle();
    assert_eq!(rig.resource(0).server, 0, "it leads itself again");
    assert_whole(&mut rig, 0);
}

#[test]
fn a_primary_keeps_its_good_volume_when_no_peer_has_both() {
    let mut rig = pair();
    rig.on(0).detach(1);
    rig.on(1).set_failing(0, true);
    let write = rig.on(1).begin_write(0, 0, 2, 4096);
    rig.idle();
    assert_eq!(rig.result(write), Some(Err(IoError::Disk)));
    assert_eq!(rig.role(0), Role::Primary);
    assert_eq!(rig.on(0).write(0, 0, 3, 4096), Ok(()));
    assert_eq!(rig.on(0).read(0, 0, 4096), Ok(vec![3; 4096]));
}

#[test]
fn who_leaves_in_order_is_left_out_of_the_records_of_both_volumes() {
    let mut rig = trio();
    for leaver in [2, 1] {
        let leave = Command::Disconnect {
            peer: node(0),
            force: false,
        };
        assert_eq!(rig.command(leaver, leave), Ok(()));
        for volume in 0..2 {
            assert_ne!(rig.on(volume).left(0) & (1 << leaver), 0);
            assert_eq!(rig.on(volume).write(0, 0, leaver as u8, 4096), Ok(()));
        }
    }
    rig.crash(0);
    rig.restart_alone(0);
    assert_eq!(rig.promote(0), Ok(()), "the last one leads again");
    for volume in 0..2 {
        assert_eq!(rig.on(volume).read(0, 0, 4096), Ok(vec![1; 4096]));
    }
}

#[test]
fn who_has_a_disk_for_one_volume_only_leaves_in_order_too() {
    let mut rig = trio();
    rig.on(1).detach(2);
    let leave = Command::Disconnect {
        peer: node(0),
        force: false,
    };
    assert_eq!(rig.command(2, leave), Ok(()));
    for volume in 0..2 {
        assert_eq!(rig.on(volume).write(0, 0, 4, 4096), Ok(()));
        assert_eq!(rig.on(volume).members(0) & 0b100, 0);
    }
    rig.dial(2, 0, false);
    rig.idle();
    rig.on(1).attach_with_blocks(2, 512);
    rig.idle();
    assert_whole(&mut rig, 0);
}

#[test]
fn the_last_close_of_both_devices_demotes() {
    let mut rig = pair();
    rig.demote(0);
    for volume in 0..2 {
        assert_eq!(rig.on(volume).open(1), Ok(()));
    }
    rig.on(0).close(1);
    assert_eq!(rig.primaries(), [1]);
    assert_eq!(rig.on(1).write(1, 0, 1, 4096), Ok(()));
    rig.on(1).close(1);
    assert_eq!(rig.primaries(), []);
    rig.idle();
    assert_eq!(rig.on(1).open(0), Ok(()));
    assert_whole(&mut rig, 0);
}

#[test]
fn a_crash_at_any_step_of_a_promotion_leaves_both_volumes_usable() {
    for steps in 0..STEPS {
        let mut rig = pair();
        rig.demote(0);
        rig.order(1, Command::Primary { force: false });
        rig.steps(steps);
        rig.crash(1);
        assert_eq!(rig.promote(0), Ok(()), "after {steps} steps");
        for volume in 0..2 {
            assert_eq!(rig.on(volume).write(0, 0, 6, 4096), Ok(()));
        }
        rig.restart(1);
        rig.idle();
        assert_whole(&mut rig, 0);
    }
}

#[test]
fn a_disk_that_fails_at_any_step_of_writes_to_both_volumes_loses_none() {
    for steps in 0..STEPS {
        let mut rig = pair();
        let mut writes = Vec::new();
        for (volume, at) in [(0, 0), (1, 0), (0, 8), (1, 8)] {
            writes.push(rig.on(volume).begin_write(0, at, 10 + at as u8, 4096));
        }
        rig.steps(steps);
        rig.on(1).set_failing(0, true);
        writes.push(rig.on(1).begin_write(0, 64, 9, 4096));
        rig.idle();
        for write in writes {
            assert_eq!(rig.result(write), Some(Ok(())), "after {steps} steps");
        }
        for volume in 0..2 {
            let content = [vec![10; 4096], vec![18; 4096]].concat();
            let read = rig.on(volume).read(0, 0, 8192);
            assert!(read == Ok(content), "after {steps} steps");
        }
        rig.on(1).set_failing(0, false);
        rig.on(1).attach_with_blocks(0, 512);
        rig.idle();
        assert_whole(&mut rig, 0);
    }
}

#[test]
fn a_cut_at_any_step_of_a_leave_leaves_both_volumes_whole_in_the_end() {
    for steps in 0..STEPS {
        let mut rig = trio();
        let leave = Command::Disconnect {
            peer: node(0),
            force: false,
        };
        rig.order(2, leave);
        rig.steps(steps);
        rig.isolate(2);
        for volume in 0..2 {
            assert_eq!(rig.on(volume).write(0, 0, 3, 4096), Ok(()));
        }
        rig.heal();
        for peer in [0, 1] {
            if rig.is_stand_alone(2, peer) {
                rig.dial(2, peer, false);
            }
        }
        rig.idle();
        assert_whole(&mut rig, 0);
    }
}

/// Each of two disks that were replaced has all of its volume again, but nobody can say so of what was not flushed.
#[test]
fn a_client_ends_when_no_node_has_all_that_it_was_answered_on_both_volumes() {
    let mut rig = Rig::of_two_volumes(3, Quorum::default());
    for volume in 0..2 {
        rig.on(volume).detach(0);
        assert_eq!(rig.on(volume).write(0, 0, 1, 4096), Ok(()));
    }
    let server = rig.resource(0).server as usize - 1;
    rig.isolate(0);
    let waiting = [0, 1].map(|volume| rig.on(volume).begin_write(0, 8, 2, 4096));
    for (volume, number) in [(0, server), (1, 3 - server)] {
        rig.on(volume).detach(number);
        rig.on(volume).replace_disk(number);
        rig.on(volume).attach_with_blocks(number, 512);
        rig.idle();
        assert_eq!(rig.on(volume).disk_state(number), DiskState::UpToDate);
    }
    rig.heal();
    for request in waiting {
        assert_eq!(rig.result(request), Some(Err(IoError::NoData)));
    }
    assert_eq!(rig.primaries(), []);
    // A new application begins with what they have.
    assert_eq!(rig.promote(0), Ok(()));
    for volume in 0..2 {
        assert_eq!(rig.on(volume).read(0, 0, 4096), Ok(vec![1; 4096]));
    }
}
