// SPDX-License-Identifier: GPL-2.0-only

//! What an application was told, under each protocol.

use crate::rig::Rig;
use weft_engine::event::{Command, Op};
use weft_uapi::state::{DiskState, Protocol, ReplicationState};

#[test]
fn each_protocol_completes_writes_and_keeps_the_disks_equal() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut rig = Rig::pair();
        rig.set_protocol(0, protocol);
        for at in 0..40u8 {
            assert_eq!(
                rig.write(0, u64::from(at) * 3, at, 1536),
                Ok(()),
                "{protocol}"
            );
        }
        assert_eq!(rig.flush(0), Ok(()));
        rig.assert_equal();
    }
}

#[test]
fn discard_and_zeroes_leave_zeros_on_both() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 5, 65536).unwrap();
    assert_eq!(rig.change(0, Op::Discard, 8, 4096), Ok(()));
    assert_eq!(
        rig.change(0, Op::WriteZeroes { no_unmap: true }, 32, 1024),
        Ok(())
    );
    rig.assert_equal();
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![0; 4096]));
}

#[test]
fn a_change_that_has_to_be_stable_is_so_on_both_disks() {
    let mut rig = Rig::pair();
    let zeroes = |no_unmap| Op::WriteZeroes { no_unmap };
    rig.force(0, Op::Write, 0, 4096);
    rig.force(0, Op::Discard, 8, 4096);
    rig.force(0, zeroes(true), 16, 4096);
    for node in 0..2 {
        assert_eq!(
            rig.forced(node),
            [Op::Write, zeroes(false), zeroes(true)],
            "node {node}"
        );
    }
    rig.assert_equal();
}

#[test]
fn a_flush_of_a_lost_member_waits_for_the_record_without_it() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.cut();
    assert_eq!(rig.members(0), 3);
    assert_eq!(rig.flush(0), Ok(()));
    assert_eq!(rig.members(0), 1);
}

#[test]
fn writes_during_the_initial_sync_reach_both() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.write(0, 0, 9, 65536).unwrap();
    rig.connect();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    for at in 0..64u64 {
        rig.write(0, at * 96, at as u8, 4096).unwrap();
    }
    rig.idle();
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn writes_complete_under_protocol_a_outlive_an_outage_and_a_demotion() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.set_protocol(0, Protocol::A);
    rig.break_wire();
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()));
    rig.cut_at_once();
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert!(rig.read(1, 0, 4096) == Ok(vec![2; 4096]));
}

#[test]
fn a_write_complete_under_protocol_b_outlives_the_primary() {
    let mut rig = Rig::pair();
    rig.set_protocol(0, Protocol::B);
    rig.set_late(1, true);
    let write = rig.begin_write(0, 40_000, 2, 4096);
    rig.idle();
    let is_complete = rig.result(write).is_some();
    rig.set_late(1, false);
    rig.crash(0);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    let has_it = rig.read(1, 40_000, 4096) == Ok(vec![2; 4096]);
    assert!(has_it || !is_complete);
}
