// SPDX-License-Identifier: GPL-2.0-only

//! Scenarios with three nodes.

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, ReplicationState, Role};

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
    rig.command(0, Command::Secondary { force: false }).unwrap();
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 0, 5, 4096), Ok(()));
    rig.crash(1);
    rig.heal_pair(0, 2);
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.read_disk(2, 0, 4096), vec![5; 4096]);
    assert_eq!(
        rig.command(
            2,
            Command::Disconnect {
                peer: node(0),
                force: false
            }
        ),
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

#[test]
fn r7_a_resync_between_any_two_is_cut_at_any_step_and_ends_well() {
    let mut rig = Rig::synced(3);
    for (source, target) in [(0, 1), (1, 2), (2, 0)] {
        let leader = rig.primaries()[0];
        rig.demote(leader);
        assert_eq!(rig.promote(source), Ok(()));
        for steps in (0..150).step_by(5) {
            rig.isolate(target);
            assert_eq!(rig.write(source, 0, steps as u8, 65536), Ok(()));
            rig.heal_at_once();
            rig.steps(steps);
            rig.cut_pair_at_once(source, target);
            rig.idle();
            rig.heal();
            rig.assert_whole();
        }
    }
}

#[test]
fn r7_a_source_that_dies_at_any_step_is_replaced_by_the_other_copy() {
    let mut rig = Rig::synced(3);
    for steps in (0..150).step_by(5) {
        rig.isolate(2);
        assert_eq!(rig.write(0, 0, steps as u8, 65536), Ok(()));
        rig.heal_at_once();
        rig.steps(steps);
        rig.crash(0);
        assert_eq!(rig.read_disk(2, 0, 4096), [steps as u8; 4096]);
        assert_eq!(
            rig.disk_state(2),
            DiskState::UpToDate,
            "after {steps} steps"
        );
        rig.restart(0);
        rig.assert_whole();
        assert_eq!(rig.promote(0), Ok(()));
    }
}

#[test]
fn r7_a_target_that_dies_at_any_step_goes_on_where_it_was() {
    let mut rig = Rig::synced(3);
    for steps in (0..150).step_by(5) {
        rig.isolate(2);
        assert_eq!(rig.write(0, 0, steps as u8, 65536), Ok(()));
        rig.heal_at_once();
        rig.steps(steps);
        rig.crash(2);
        rig.restart(2);
        rig.assert_whole();
    }
}

#[test]
fn r7_two_targets_at_once_become_whole() {
    let mut rig = Rig::synced(3);
    for steps in (0..150).step_by(10) {
        rig.cut();
        assert_eq!(rig.write(0, 0, steps as u8, 65536), Ok(()));
        rig.heal_at_once();
        rig.steps(steps);
        rig.cut_pair_at_once(0, 1);
        rig.steps(steps);
        rig.heal();
        rig.assert_whole();
    }
}

#[test]
fn r7_a_target_that_is_promoted_right_after_its_resync_has_everything() {
    let mut rig = Rig::synced(3);
    for turn in 0..6u8 {
        let old = rig.primaries()[0];
        let new = (old + 1) % 3;
        rig.isolate(new);
        assert_eq!(rig.write(old, 0, turn, 65536), Ok(()));
        rig.heal_at_once();
        rig.run_until(|rig| rig.replication(new, old) == ReplicationState::SyncTarget);
        rig.run_until(|rig| rig.disk_state(new) == DiskState::UpToDate);
        rig.crash(old);
        assert_eq!(rig.promote(new), Ok(()));
        assert_eq!(rig.read(new, 0, 65536), Ok(vec![turn; 65536]));
        rig.restart(old);
        rig.assert_whole();
    }
}

#[test]
fn r7_what_a_crashed_primary_alone_had_is_undone_by_whoever_leads_next() {
    let mut rig = Rig::synced(3);
    rig.break_pair(0, 1);
    rig.break_pair(0, 2);
    let write = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    assert_eq!(rig.read_disk(0, 0, 4096), [7; 4096]);
    rig.crash(0);
    assert_eq!(rig.promote(1), Ok(()));
    rig.cut_pair(0, 1);
    rig.heal_pair(0, 2);
    rig.restart(0);
    rig.crash(1);
    rig.restart(1);
    rig.heal();
    rig.assert_whole();
}

#[test]
fn a_replaced_disk_is_noticed_by_a_peer_that_meets_it_after_several_attaches() {
    let mut rig = Rig::synced(3);
    assert_eq!(rig.write(0, 0, 7, 4096), Ok(()));
    rig.isolate(1);
    rig.crash(2);
    rig.replace_disk(2);
    rig.restart(2);
    for _ in 0..3 {
        rig.crash(2);
        rig.restart(2);
        rig.isolate(1);
    }
    rig.cut_pair(0, 2);
    rig.heal_pair(1, 2);
    assert_eq!(rig.rule(1, 2), "rolled-back");
    assert!(rig.is_stand_alone(1, 2));
    rig.heal();
    for [number, peer] in [[1, 2], [2, 1]] {
        rig.dial(number, peer, false);
    }
    rig.assert_equal();
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.replication(1, 2), ReplicationState::Established);
}

#[test]
fn survivors_settle_with_one_record_each_that_joins() {
    let mut rig = Rig::synced(5);
    for peer in [1, 2, 3] {
        rig.break_pair(0, peer);
    }
    let request = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    let before = rig.generations(4);
    rig.crash(0);
    rig.assert_equal();
    assert_eq!(rig.read_disk(1, 0, 4096), vec![7; 4096]);
    let made = rig.generations(4) - before;
    assert!(made <= 3, "{made} records for three nodes");
}

#[test]
fn a_disk_that_lost_its_cache_asks_every_member_before_it_counts_again() {
    let mut rig = Rig::synced(3);
    rig.isolate(2);
    assert_eq!(rig.write(0, 0, 7, 4096), Ok(()));
    assert_eq!(rig.members(0), 0b011);
    rig.crash(0);
    rig.lose_cache(0, 0, 4096);
    rig.heal_pair(0, 2);
    rig.cut_pair(0, 1);
    rig.restart(0);
    assert_eq!(rig.read_disk(2, 0, 4096), vec![0; 4096], "from node 0");
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.read_disk(1, 0, 4096), vec![7; 4096], "never down");
}

#[test]
fn a_write_is_complete_when_who_joined_since_has_it_and_who_got_it_is_lost() {
    let mut rig = Rig::synced(3);
    rig.cut_pair(0, 1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    // It asks for a new round as soon as it is up to date, which has to wait for the record.
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    rig.break_pair(0, 2);
    let request = rig.begin_write(0, 8, 2, 4096);
    rig.idle();
    rig.heal_pair(0, 1);
    assert!(!rig.is_complete(request));
    rig.crash(2);
    assert_eq!(rig.result(request), Some(Ok(())));
    assert_eq!(rig.read_disk(1, 8, 4096), vec![2; 4096]);
}

#[test]
fn one_that_lags_behind_two_primaries_follows_the_first_and_waits_for_the_other() {
    let mut rig = Rig::synced(3);
    rig.cut();
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.heal_pair_at_once(0, 2);
    rig.heal_pair_at_once(1, 2);
    rig.idle();
    assert_eq!(rig.replication(2, 0), ReplicationState::Established);
    assert_eq!(rig.read_disk(2, 0, 4096), vec![1; 4096]);
    assert_eq!((rig.role(0), rig.role(1)), (Role::Primary, Role::Primary));
}
