// SPDX-License-Identifier: GPL-2.0-only

//! What comes between two steps of three nodes: a node dies, leaves or asks while something is half done.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::VolumeId;

const PROMOTE: Command = Command::Primary { force: false };
const DETACH: Command = Command::Detach {
    volume: VolumeId(0),
};

#[test]
fn an_unfinished_target_does_not_forget_the_record_of_a_writer_that_died() {
    let mut seen = 0;
    for steps in 0..60 {
        let mut rig = Rig::voting(3);
        rig.isolate(1);
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        rig.heal_pair_at_once(0, 1);
        rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
        // It is one of the two that know the record without node 2, and hears nothing more at some step.
        rig.cut_pair_at_once(0, 2);
        let request = rig.begin_write(0, 8, 2, 4096);
        rig.steps(steps);
        rig.break_pair(0, 1);
        while !rig.is_complete(request) && rig.steps(1) {}
        let is_complete = rig.is_complete(request);
        rig.crash(0);
        rig.heal_pair(1, 2);
        let result = rig.promote(2);
        if is_complete && result.is_ok() {
            let read = rig.read_disk(2, 8, 4096);
            assert_eq!(read, vec![2; 4096], "after {steps} steps");
        } else if is_complete {
            assert_eq!(result, Err(Refusal::NoUpToDateDisk));
            seen += 1;
        }
        rig.heal_at_once();
        rig.restart(0);
        if rig.primaries().is_empty() {
            assert_eq!(rig.promote(0), Ok(()), "after {steps} steps");
        }
        rig.assert_whole();
    }
    assert_ne!(seen, 0, "it was never complete while node 1 was unfinished");
}

#[test]
fn a_disk_that_leaves_at_any_step_of_a_record_holds_nobody_up() {
    for steps in 0.. {
        let mut rig = Rig::synced(3);
        rig.isolate(2);
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        rig.demote(0);
        // Without primary the source makes a record without writer, and tells who holds the same.
        rig.heal_at_once();
        rig.run_until(|rig| rig.members(0) == 0b111);
        let is_over = !rig.steps(steps);
        let token = rig.order(1, DETACH);
        assert_eq!(rig.reply(token), Ok(()), "after {steps} steps");
        assert_eq!(rig.disk_state(1), DiskState::Diskless);
        rig.attach(1);
        rig.idle();
        assert_eq!(rig.promote(0), Ok(()), "after {steps} steps");
        rig.assert_whole();
        if is_over {
            return;
        }
    }
}

#[test]
fn a_lost_election_outdates_nobody() {
    for steps in 0..60 {
        let mut rig = Rig::synced(3);
        rig.demote(0);
        rig.cut_pair(0, 2);
        rig.heal_at_once();
        rig.steps(steps);
        let orders = [2, 1].map(|node| rig.order(node, PROMOTE));
        rig.wait(30_000);
        let answers = orders.map(|order| rig.answered(order));
        assert!(answers.iter().all(Option::is_some), "after {steps} steps");
        rig.idle();
        if rig.primaries().is_empty() {
            assert_eq!(rig.promote(1), Ok(()), "after {steps} steps");
        }
        rig.assert_whole();
    }
}

#[test]
fn nothing_is_called_mirrored_once_a_split_brain_is_seen() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.promote(1).unwrap();
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.demote(1);
    rig.detach(1);
    rig.heal();
    assert_eq!(rig.replication(0, 1), ReplicationState::Established);
    rig.attach(1);
    rig.run_until(|rig| rig.rule(0, 1) == "forked");
    assert_eq!(rig.replication(0, 1), ReplicationState::Off);
    assert!(!rig.is_stand_alone(0, 1), "the peer has to hear of it");
}
