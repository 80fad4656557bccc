// SPDX-License-Identifier: GPL-2.0-only

//! Resyncs wait, by order of a person or for those of another resource.

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::status::{
    PAUSED_AFTER, PAUSED_AFTER_THERE, PAUSED_HERE, PAUSED_SOURCE, PAUSED_THERE,
};

fn pause(rig: &mut Rig, number: usize, peer: usize) -> Result<(), Refusal> {
    rig.command(number, Command::PauseSync { peer: node(peer) })
}

fn resume(rig: &mut Rig, number: usize, peer: usize) -> Result<(), Refusal> {
    rig.command(number, Command::ResumeSync { peer: node(peer) })
}

/// A pair whose node 1 has missed a hundred blocks, and is about to fetch them.
fn behind() -> Rig {
    let mut rig = Rig::pair();
    rig.cut();
    for at in 0..100u64 {
        assert_eq!(rig.write(0, (at * 1000) & !7, 3, 4096), Ok(()));
    }
    rig
}

/// What either side shows: its replication and why that waits.
fn shown(rig: &Rig) -> [(ReplicationState, u32); 2] {
    [(0, 1), (1, 0)].map(|(number, peer)| (rig.replication(number, peer), rig.paused(number, peer)))
}

#[test]
fn a_resync_waits_for_both_sides_and_goes_on_when_neither_lets_it_wait() {
    for first in [0, 1] {
        let mut rig = behind();
        rig.heal_at_once();
        rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
        assert_eq!(pause(&mut rig, first, 1 - first), Ok(()));
        rig.idle();
        let owed = rig.out_of_sync(1, 0);
        assert!(owed > 0);
        assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
        let mut reasons = [PAUSED_HERE, PAUSED_THERE];
        if first == 1 {
            reasons.reverse();
        }
        let states = [
            ReplicationState::PausedSource,
            ReplicationState::PausedTarget,
        ];
        assert_eq!(
            shown(&rig),
            [(states[0], reasons[0]), (states[1], reasons[1])]
        );

        assert_eq!(pause(&mut rig, 1 - first, first), Ok(()));
        let both = PAUSED_HERE | PAUSED_THERE;
        rig.idle();
        assert_eq!(shown(&rig), [(states[0], both), (states[1], both)]);
        assert_eq!(resume(&mut rig, first, 1 - first), Ok(()));
        rig.wait(60_000);
        rig.idle();
        assert_eq!(rig.out_of_sync(1, 0), owed, "the other one still waits");
        assert_eq!(resume(&mut rig, 1 - first, first), Ok(()));
        rig.assert_whole();
        assert_eq!(rig.paused(0, 1) | rig.paused(1, 0), 0);
    }
}

#[test]
fn a_target_that_waits_gets_every_write() {
    let mut rig = behind();
    assert_eq!(pause(&mut rig, 1, 0), Ok(()));
    rig.heal();
    assert_eq!(rig.replication(1, 0), ReplicationState::PausedTarget);
    for at in 0..50u64 {
        assert_eq!(rig.write(0, (at * 1000) & !7, 9, 4096), Ok(()));
    }
    rig.idle();
    assert_eq!(rig.read_disk(1, 0, 4096), [9; 4096]);
    assert_eq!(resume(&mut rig, 1, 0), Ok(()));
    rig.assert_whole();
}

#[test]
fn a_pause_lasts_until_it_is_taken_back_whatever_becomes_of_the_session() {
    let mut rig = behind();
    assert_eq!(pause(&mut rig, 0, 1), Ok(()));
    rig.heal();
    assert_eq!(rig.paused(1, 0), PAUSED_THERE);
    rig.cut();
    assert_eq!(rig.paused(1, 0), 0, "what the peer said is forgotten");
    assert_eq!(rig.paused(0, 1), PAUSED_HERE);
    rig.heal();
    let (state, why) = shown(&rig)[1];
    assert_eq!((state, why), (ReplicationState::PausedTarget, PAUSED_THERE));
    rig.cut();
    assert_eq!(resume(&mut rig, 0, 1), Ok(()));
    rig.heal();
    rig.assert_whole();
}

#[test]
fn a_pause_is_set_and_cleared_once() {
    let mut rig = Rig::pair();
    assert_eq!(resume(&mut rig, 0, 1), Err(Refusal::PauseIsClear));
    assert_eq!(pause(&mut rig, 0, 1), Ok(()));
    assert_eq!(pause(&mut rig, 0, 1), Err(Refusal::PauseIsSet));
    assert_eq!(pause(&mut rig, 0, 3), Err(Refusal::NoSuchPeer));
    rig.idle();
    let established = ReplicationState::Established;
    assert_eq!(
        shown(&rig),
        [(established, PAUSED_HERE), (established, PAUSED_THERE)],
        "it is for resyncs, the mirror goes on"
    );
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(resume(&mut rig, 1, 0), Err(Refusal::PauseIsClear));
    assert_eq!(resume(&mut rig, 0, 1), Ok(()));
    rig.assert_whole();
}

#[test]
fn a_resync_that_waits_for_another_source_says_so() {
    let mut rig = Rig::synced(3);
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.heal_pair(1, 2);
    assert_eq!(rig.replication(1, 2), ReplicationState::PausedTarget);
    assert_eq!(rig.paused(1, 2), PAUSED_SOURCE);
    rig.heal();
    rig.assert_whole();
}

#[test]
fn a_source_that_dies_leaves_a_waiting_target_to_the_next_one() {
    let mut rig = Rig::synced(3);
    rig.isolate(1);
    for at in 0..50u64 {
        assert_eq!(rig.write(0, (at * 1000) & !7, 3, 4096), Ok(()));
    }
    assert_eq!(pause(&mut rig, 1, 0), Ok(()));
    rig.heal();
    assert_eq!(rig.replication(1, 0), ReplicationState::PausedTarget);
    rig.crash(0);
    rig.idle();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate, "fetched from 2");
    assert_eq!(resume(&mut rig, 1, 0), Ok(()));
    rig.restart(0);
    rig.assert_whole();
}

#[test]
fn a_resync_waits_for_its_turn_on_either_side_at_any_step() {
    for first in [0, 1] {
        for steps in (0..120).step_by(11) {
            let mut rig = behind();
            rig.heal_at_once();
            rig.steps(steps);
            rig.set_turn(first, true);
            rig.idle();
            assert!(!rig.is_resyncing(0) && !rig.is_resyncing(1));
            if rig.replication(first, 1 - first) != ReplicationState::Established {
                assert_eq!(rig.paused(first, 1 - first), PAUSED_AFTER);
                assert_eq!(rig.paused(1 - first, first), PAUSED_AFTER_THERE);
                let owed = rig.out_of_sync(1, 0);
                assert_eq!(rig.write(0, 100_000, 9, 4096), Ok(()));
                rig.wait(60_000);
                rig.idle();
                assert_eq!(rig.out_of_sync(1, 0), owed);
            }
            rig.set_turn(first, false);
            rig.assert_whole();
            assert_eq!(rig.paused(0, 1) | rig.paused(1, 0), 0);
        }
    }
}

#[test]
fn a_turn_is_told_in_the_next_session_and_is_apart_from_what_a_person_says() {
    let mut rig = behind();
    rig.set_turn(1, true);
    rig.heal();
    let waits = |rig: &Rig| (rig.paused(0, 1), rig.paused(1, 0));
    assert_eq!(waits(&rig), (PAUSED_AFTER_THERE, PAUSED_AFTER));
    assert_eq!(pause(&mut rig, 1, 0), Ok(()));
    rig.idle();
    assert_eq!(waits(&rig), (PAUSED_THERE, PAUSED_AFTER | PAUSED_HERE));
    rig.set_turn(1, false);
    rig.idle();
    assert_eq!(waits(&rig), (PAUSED_THERE, PAUSED_HERE));
    rig.set_turn(1, true);
    assert_eq!(resume(&mut rig, 1, 0), Ok(()));
    rig.idle();
    assert_eq!(waits(&rig), (PAUSED_AFTER_THERE, PAUSED_AFTER));
    assert!(!rig.is_resyncing(0));
    rig.set_turn(1, false);
    rig.run_until(|rig| rig.is_resyncing(0) && rig.is_resyncing(1));
    assert!(rig.is_resyncing(0) && rig.is_resyncing(1));
    rig.assert_whole();
    assert!(!rig.is_resyncing(0) && !rig.is_resyncing(1));
}

#[test]
fn a_turn_that_was_told_before_there_were_peers_counts_for_them() {
    let mut rig = behind();
    rig.heal_at_once();
    rig.crash(1);
    rig.set_turn(1, true);
    rig.restart(1);
    assert_eq!(rig.paused(1, 0), PAUSED_AFTER);
    assert_eq!(rig.paused(0, 1), PAUSED_AFTER_THERE);
    assert!(rig.out_of_sync(1, 0) > 0);
    rig.set_turn(1, false);
    rig.assert_whole();
}
