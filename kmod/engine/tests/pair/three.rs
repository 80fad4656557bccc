// SPDX-License-Identifier: GPL-2.0-only

//! Scenarios with three nodes.

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, ReplicationState};

#[test]
fn a_write_reaches_both_peers() {
    let mut rig = Rig::synced(3);
    assert_eq!(rig.members(0), 0b111);
    assert_eq!(rig.write(0, 16, 9, 8192), Ok(()));
    rig.assert_equal();
    for peer in [1, 2] {
        assert_eq!(rig.replication(0, peer), ReplicationState::Established);
        assert_eq!(rig.read_disk(peer, 16, 8192), vec![9; 8192]);
    }
}

#[test]
fn a_cut_between_two_secondaries_does_not_stop_the_primary() {
    let mut rig = Rig::synced(3);
    rig.cut_pair(1, 2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.members(0), 0b111);
    rig.heal_pair(1, 2);
    rig.assert_equal();
    assert_eq!(rig.replication(1, 2), ReplicationState::Established);
}

#[test]
fn a_node_that_does_not_know_the_newest_writer_follows_it_later() {
    let mut rig = Rig::synced(3);
    rig.isolate(2);
    rig.command(0, Command::Secondary).unwrap();
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 0, 5, 4096), Ok(()));
    rig.crash(1);
    rig.heal_pair(0, 2);
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.read_disk(2, 0, 4096), vec![5; 4096]);
    assert_eq!(
        rig.command(2, Command::Disconnect { peer: node(0) }),
        Ok(())
    );
}
#[test]
fn a_peer_that_was_away_fetches_what_it_missed_and_the_other_one_nothing() {
    let mut rig = Rig::synced(3);
    rig.isolate(2);
    assert_eq!(rig.write(0, 0, 3, 4096), Ok(()));
    assert_eq!(rig.members(0), 0b011);
    assert_eq!((rig.out_of_sync(0, 1), rig.out_of_sync(0, 2)), (0, 8));
    rig.heal();
    assert_eq!(rig.resynced(0, 2), 8);
    rig.assert_equal();
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.members(0), 0b111);
}

#[test]
fn the_survivors_of_a_primary_go_on_with_equal_disks() {
    let mut rig = Rig::synced(3);
    rig.write(0, 0, 1, 4096).unwrap();
    rig.crash(0);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    rig.restart(0);
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn survivors_with_different_tails_become_equal_before_one_serves() {
    let mut rig = Rig::synced(3);
    rig.break_pair(0, 2);
    let request = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    assert!(!rig.is_complete(request), "not everybody has it");
    assert_ne!(rig.read_disk(1, 0, 4096), rig.read_disk(2, 0, 4096));
    rig.crash(0);
    rig.assert_equal();
    assert_eq!(rig.read_disk(2, 0, 4096), vec![7; 4096]);
    assert_eq!(rig.command(2, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(2, 8, 2, 4096), Ok(()));
    rig.heal_pair(0, 2);
    rig.cut_pair(0, 2);
    rig.restart(0);
    assert_ne!(
        rig.disk_state(0),
        DiskState::UpToDate,
        "the primary is out of reach"
    );
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn what_a_lost_member_lacks_is_known_to_the_other_one() {
    let mut rig = Rig::synced(3);
    rig.break_pair(0, 2);
    let request = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    rig.isolate(2);
    assert!(rig.is_complete(request));
    rig.crash(0);
    rig.heal_pair(1, 2);
    rig.assert_equal();
    assert_eq!(rig.read_disk(2, 0, 4096), vec![7; 4096]);
}
