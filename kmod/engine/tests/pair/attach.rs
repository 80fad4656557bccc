// SPDX-License-Identifier: GPL-2.0-only

//! Disks come, go and fail.

use crate::rig::{Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, Protocol};

#[test]
fn a_disk_is_detached_and_attached_again_while_connected() {
    let mut rig = Rig::pair();
    for round in 1..4u8 {
        assert_eq!(rig.command(1, Command::Detach { volume: VOLUME }), Ok(()));
        assert_eq!(rig.disk_state(1), DiskState::Diskless);
        assert_eq!(rig.write(0, 8, round, 4096), Ok(()));
        rig.attach(1);
        rig.idle();
        assert_eq!(rig.disk_state(1), DiskState::UpToDate);
        rig.assert_equal();
    }
}

#[test]
fn a_disk_comes_and_goes_in_a_session_that_is_old() {
    let mut rig = Rig::pair();
    let session = rig.session(0, 1);
    rig.wait(60_000);
    assert_eq!(rig.command(1, Command::Detach { volume: VOLUME }), Ok(()));
    rig.wait(60_000);
    rig.attach(1);
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.session(0, 1), session);
}

#[test]
fn devices_with_different_logical_blocks_stand_alone() {
    let mut rig = Rig::new();
    rig.attach_with_blocks(0, 512);
    rig.attach_with_blocks(1, 4096);
    rig.connect();
    rig.idle();
    rig.wait(5_000);
    for (node, peer) in [(0, 1), (1, 0)] {
        assert!(rig.is_stand_alone(node, peer), "node {node}");
        assert_eq!(rig.rule(node, peer), "block-size");
    }
    assert_eq!(rig.command(0, Command::Detach { volume: VOLUME }), Ok(()));
    rig.attach_with_blocks(0, 4096);
    rig.reconnect();
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.idle();
    assert_eq!(rig.write(0, 8, 1, 4096), Ok(()));
    assert_eq!(rig.write(0, 9, 1, 4096), Err(IoError::Range));
    assert_eq!(rig.write(0, 8, 1, 512), Err(IoError::Range));
    rig.assert_equal();
}

#[test]
fn a_write_that_waits_for_the_log_does_not_keep_the_disk_from_leaving() {
    let mut rig = Rig::pair();
    rig.set_late(1, true);
    let write = rig.begin_write(0, 40_000, 1, 4096);
    rig.idle();
    // The peer's state has been heard when the write is complete without it.
    let token = rig.order(1, Command::Detach { volume: VOLUME });
    rig.run_until(|rig| rig.is_complete(write));
    rig.set_late(1, false);
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.reply(token), Ok(()));
    rig.attach(1);
    rig.assert_equal();
}

#[test]
fn a_secondary_whose_disk_fails_is_left_out_and_comes_back() {
    let mut rig = Rig::pair();
    rig.set_failing(1, true);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.idle();
    assert_eq!(
        (rig.disk_state(1), rig.members(0)),
        (DiskState::Diskless, 1)
    );
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.set_failing(1, false);
    rig.attach(1);
    rig.idle();
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn a_primary_whose_disk_fails_reports_errors_and_loses_nothing() {
    let mut rig = Rig::pair();
    // So nobody takes over: the peer may lack what was answered.
    (0..2).for_each(|node| rig.set_protocol(node, Protocol::A));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 2, 4096), Err(IoError::Disk));
    rig.idle();
    assert_eq!(rig.read(0, 0, 4096), Err(IoError::NoData));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.set_failing(0, false);
    rig.attach(0);
    rig.idle();
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn two_disks_attached_at_once_come_to_one_decision() {
    let mut rig = Rig::pair();
    rig.demote(0);
    for steps in 0..40 {
        rig.detach(0);
        rig.detach(1);
        let first = rig.order_attach(0, 512);
        rig.steps(steps);
        let second = rig.order_attach(1, 512);
        assert_eq!([rig.reply(first), rig.reply(second)], [Ok(()), Ok(())]);
        rig.assert_whole();
    }
}

#[test]
fn a_disk_attached_under_load_gets_every_write() {
    let mut rig = Rig::pair();
    for steps in (0..120).step_by(5) {
        rig.detach(1);
        let writes: Vec<u64> = (0..20)
            .map(|at| rig.begin_write(0, at * 8, steps as u8 + 1, 4096))
            .collect();
        rig.steps(steps);
        let attach = rig.order_attach(1, 512);
        assert_eq!(rig.write(0, 800, steps as u8 + 1, 4096), Ok(()));
        assert_eq!(rig.reply(attach), Ok(()));
        rig.idle();
        assert!(writes
            .into_iter()
            .all(|write| rig.result(write) == Some(Ok(()))));
        rig.assert_whole();
    }
}

#[test]
fn a_disk_attached_decides_by_the_same_rule_as_a_node_that_connects() {
    let mut rules = Vec::new();
    for is_attach in [true, false] {
        let mut rig = Rig::pair();
        if is_attach {
            rig.detach(1);
        } else {
            rig.isolate(1);
        }
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        if is_attach {
            rig.attach(1);
        } else {
            rig.heal();
        }
        rig.assert_whole();
        assert_eq!(rig.resynced(0, 1), 8);
        rules.push(rig.rule(1, 0));
    }
    assert_eq!(rules, ["behind", "behind"]);
}
