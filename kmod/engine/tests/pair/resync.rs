// SPDX-License-Identifier: GPL-2.0-only

//! What is fetched when two nodes meet again.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::version::FEATURE_ZEROES;

#[test]
fn a_blank_peer_is_synced_and_then_mirrors_writes() {
    let mut rig = Rig::pair();
    assert_eq!(rig.write(0, 16, 9, 8192), Ok(()));
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.replication(0, 1), ReplicationState::Established);
}

#[test]
fn an_outage_costs_only_what_changed() {
    let mut rig = Rig::pair();
    rig.cut();
    for at in 0..10u64 {
        assert_eq!(rig.write(0, at * 8192, 3, 4096), Ok(()));
    }
    assert_eq!(rig.out_of_sync(0, 1), 10 * 8);
    rig.heal();
    assert_eq!(rig.resynced(0, 1), 10 * 8);
    assert_eq!(rig.rule(0, 1), "ahead");
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn zeros_are_not_sent_nor_written_unless_the_other_side_does_not_know_that() {
    for (unknown, zeroed) in [(0, 32768), (FEATURE_ZEROES, 0)] {
        let mut rig = Rig::pair();
        rig.set_unknown(unknown);
        assert_eq!(rig.write(0, 0, 7, 65536), Ok(()));
        rig.cut();
        let before = rig.zeroed(1);
        assert_eq!(rig.write(0, 0, 0, 32768), Ok(()));
        assert_eq!(rig.write(0, 1024, 8, 4096), Ok(()));
        rig.heal();
        assert_eq!(rig.zeroed(1) - before, zeroed);
        assert_eq!(rig.resynced(0, 1), 32768 / 512 + 8);
        rig.assert_whole();
    }
}

#[test]
fn a_short_cut_without_writes_costs_nothing() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.flush(0).unwrap();
    rig.idle();
    rig.cut();
    rig.heal();
    assert_eq!(rig.rule(0, 1), "same-generation");
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn a_crashed_primary_resyncs_hot_extents_from_the_survivor() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.crash(0);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.restart(0);
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
    assert_eq!(rig.resynced(1, 0), 8192, "one extent");
    rig.assert_equal();
}

#[test]
fn a_primary_that_crashes_after_a_calm_time_owes_nothing() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.wait(11_000);
    rig.idle();
    rig.crash(0);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.restart(0);
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
    assert_eq!(rig.resynced(1, 0), 8, "only what was written since");
    rig.assert_equal();
}

#[test]
fn a_crashed_secondary_comes_back_with_its_hot_extents() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.crash(1);
    assert_eq!(rig.write(0, 100_000, 2, 4096), Ok(()));
    rig.restart(1);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    rig.assert_equal();
}

#[test]
fn a_target_that_loses_power_after_its_resync_does_not_owe_it_again() {
    let mut rig = Rig::pair();
    rig.crash(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.restart(1);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert!(
        rig.resynced(0, 1) <= 8192,
        "more than one extent: {}",
        rig.resynced(0, 1)
    );
    rig.assert_equal();
}

#[test]
fn a_clean_stop_leaves_nothing_suspicious() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.command(0, Command::Secondary { force: false }).unwrap();
    rig.idle();
    rig.crash(0);
    rig.crash(1);
    rig.restart(0);
    rig.restart(1);
    assert_eq!(rig.rule(0, 1), "same-generation");
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn what_a_target_still_writes_when_it_asks_anew_ends_no_session() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.write(0, 8192, 1, 4096), Ok(()));
    rig.demote(0);
    rig.set_stuck(1, true);
    rig.heal_at_once();
    rig.run_until(|rig| rig.late(1) == 2);
    let session = rig.session(0, 1);
    rig.set_slow(0, true);
    rig.order(0, Command::Primary { force: false });
    rig.run_until(|rig| rig.late(0) == 2);
    rig.release(1);
    rig.idle();
    rig.set_slow(0, false);
    rig.idle();
    rig.set_stuck(1, false);
    rig.idle();
    assert_eq!(rig.session(0, 1), session);
    rig.assert_mirrored();
}
