// SPDX-License-Identifier: GPL-2.0-only

//! R6: every outcome of a handshake, each reached by a history.

use crate::rig::{Rig, VOLUME};
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::wire::{Header, HelloBody, LinkKind, PacketKind};
use zerocopy::{FromZeros, IntoBytes};

/// Both ends of the handshake of nodes 0 and 1.
fn rules(rig: &Rig) -> [String; 2] {
    [rig.rule(0, 1), rig.rule(1, 0)]
}

#[test]
fn r6_two_blank_disks_wait_for_a_person() {
    let mut rig = Rig::new();
    (0..2).for_each(|node| rig.attach(node));
    rig.connect();
    rig.idle();
    assert_eq!(rules(&rig), ["just-created", "just-created"]);
    for (node, peer) in [(0, 1), (1, 0)] {
        assert_eq!(rig.replication(node, peer), ReplicationState::Established);
        assert_eq!(rig.disk_state(node), DiskState::Inconsistent);
    }
}

#[test]
fn r6_a_blank_disk_fetches_everything_from_whoever_has_written() {
    let mut rig = Rig::new();
    (0..2).for_each(|node| rig.attach(node));
    rig.command(1, Command::Primary { force: true }).unwrap();
    assert_eq!(rig.write(1, 8000, 4, 4096), Ok(()));
    rig.connect();
    rig.idle();
    assert_eq!(rules(&rig), ["just-created", "just-created"]);
    assert_eq!(rig.resynced(1, 0), rig.data_sectors());
    rig.assert_whole();
}

#[test]
fn r6_what_was_written_before_a_blank_peer_came_and_went_is_fetched_as_well() {
    let mut rig = Rig::new();
    (0..2).for_each(|node| rig.attach(node));
    rig.connect();
    rig.idle();
    rig.cut();
    rig.command(0, Command::Primary { force: true }).unwrap();
    assert_eq!(rig.write(0, 8000, 4, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.resynced(0, 1), rig.data_sectors());
    rig.assert_whole();
}

#[test]
fn r6_a_node_that_joins_two_others_later_fetches_everything_and_counts() {
    let mut rig = Rig::with(3);
    (0..2).for_each(|node| rig.attach(node));
    rig.connect();
    rig.command(0, Command::Primary { force: true }).unwrap();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.idle();
    assert_eq!(rig.members(0), 0b011);
    rig.attach(2);
    rig.idle();
    assert_eq!(rig.rule(0, 2), "just-created");
    assert_eq!(rig.members(0), 0b111);
    rig.assert_whole();
}

#[test]
fn r6_of_two_that_lost_power_at_once_the_former_primary_is_source() {
    let mut rig = Rig::pair();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(1);
    rig.restart(0);
    rig.restart(1);
    assert_eq!(rules(&rig), ["tails", "tails"]);
    assert_eq!(rig.resynced(0, 1), 8192, "one extent");
    rig.assert_whole();
}

#[test]
fn r6_a_write_that_only_the_primary_had_when_both_lost_power_ends_equal_on_both() {
    let mut rig = Rig::pair();
    rig.break_wire();
    let write = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    assert_ne!(rig.read_disk(0, 0, 4096), rig.read_disk(1, 0, 4096));
    rig.crash(0);
    rig.crash(1);
    rig.heal();
    rig.restart(1);
    rig.restart(0);
    rig.assert_whole();
}

#[test]
fn r6_a_primary_that_reconnects_is_source_of_what_was_under_way() {
    let mut rig = Rig::pair();
    rig.break_wire();
    let write = rig.begin_write(0, 0, 7, 4096);
    rig.idle();
    rig.cut_at_once();
    rig.heal();
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 0, 4096), [7; 4096]);
}

#[test]
fn r6_the_missed_end_of_a_resync_is_made_up_for() {
    let mut rig = Rig::pair();
    for steps in (0..150).step_by(3) {
        rig.isolate(1);
        assert_eq!(rig.write(0, 0, steps as u8, 4096), Ok(()));
        rig.heal_at_once();
        rig.steps(steps);
        rig.cut_at_once();
        rig.idle();
        rig.heal();
        rig.assert_whole();
    }
}

#[test]
fn r6_what_was_learnt_through_a_third_node_costs_only_the_difference() {
    let mut rig = Rig::synced(3);
    rig.isolate(2);
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 5, 4096), Ok(()));
    rig.flush(1).unwrap();
    rig.demote(1);
    rig.crash(1);
    rig.heal_pair(0, 2);
    assert_eq!(rig.rule(2, 0), "behind");
    assert_eq!(rig.resynced(0, 2), 8);
    assert_eq!(rig.read_disk(2, 0, 4096), [5; 4096]);
}

#[test]
fn r6_bits_that_do_not_reach_back_cost_a_full_sync() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 65536), Ok(()));
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    rig.idle();
    rig.demote(0);
    // Force makes an unfinished copy good: no bitmap knows where it differs from others.
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(1, 800, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rules(&rig), ["forked", "forked"]);
    rig.dial(0, 1, true);
    rig.dial(1, 0, false);
    rig.idle();
    assert_eq!(rig.resynced(1, 0), rig.data_sectors());
    rig.assert_whole();
}

#[test]
fn r6_a_disk_that_lags_by_more_records_than_are_remembered_fetches_its_bits() {
    let mut rig = Rig::synced(3);
    rig.isolate(2);
    assert_eq!(rig.write(0, 800, 9, 4096), Ok(()));
    for turn in 0..40u8 {
        let old = rig.primaries()[0];
        rig.demote(old);
        assert_eq!(rig.promote(1 - old), Ok(()));
        assert_eq!(rig.write(1 - old, 0, turn, 4096), Ok(()));
    }
    rig.heal();
    rig.assert_whole();
    assert!(rig.resynced(0, 2) < rig.data_sectors());
}

#[test]
fn r6_disks_with_unrelated_histories_are_refused() {
    let mut rig = Rig::new();
    for node in 0..2 {
        rig.attach(node);
        rig.command(node, Command::Primary { force: true }).unwrap();
        assert_eq!(rig.write(node, 0, node as u8 + 1, 4096), Ok(()));
        rig.demote(node);
    }
    rig.connect();
    rig.idle();
    assert_eq!(rules(&rig), ["unrelated", "unrelated"]);
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    rig.dial(0, 1, true);
    rig.dial(1, 0, false);
    rig.idle();
    assert!(rig.is_stand_alone(0, 1), "not even with --discard-my-data");
    assert_eq!(rig.read_disk(0, 0, 4096), [1; 4096]);
    assert_eq!(rig.read_disk(1, 0, 4096), [2; 4096]);
}

#[test]
fn r6_two_unfinished_targets_wait_for_somebody_who_is_whole() {
    let mut rig = Rig::synced(3);
    rig.isolate(0);
    for node in 1..3 {
        rig.crash(node);
        rig.replace_disk(node);
        rig.restart_alone(node);
        rig.heal_pair(0, node);
        rig.dial(node, 0, false);
        rig.run_until(|rig| rig.disk_state(node) == DiskState::Inconsistent);
        rig.run_until(|rig| rig.replication(node, 0) == ReplicationState::SyncTarget);
        rig.cut_at_once();
    }
    rig.heal_pair(1, 2);
    rig.dial(1, 2, false);
    rig.dial(2, 1, false);
    rig.idle();
    assert_eq!(rig.rule(1, 2), "both-inconsistent");
    rig.heal();
    rig.assert_whole();
}

#[test]
fn r6_a_promotion_that_died_before_anybody_heard_of_it_forks_nothing() {
    let mut rig = Rig::pair();
    rig.demote(0);
    rig.break_wire();
    let _ = rig.order(0, Command::Primary { force: false });
    rig.idle();
    rig.crash(0);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.heal();
    rig.restart(0);
    rig.assert_whole();
    assert_eq!(rig.primaries(), [1]);
}

#[test]
fn r6_a_state_that_changes_during_a_handshake_is_told_anew() {
    let mut rig = Rig::pair();
    for steps in (0..80).step_by(2) {
        rig.detach(1);
        rig.cut();
        rig.heal_at_once();
        rig.steps(steps);
        rig.attach(1);
        assert_eq!(rig.write(0, 0, steps as u8, 4096), Ok(()));
        rig.assert_whole();
    }
}

#[test]
fn r6_a_peer_of_a_version_that_nobody_knows_is_refused() {
    let mut rig = Rig::pair();
    rig.cut();
    rig.heal_at_once();
    rig.break_wire();
    rig.run_until(|rig| rig.session(1, 0).is_some());
    let mut hello = HelloBody::new_zeroed();
    (hello.version, hello.version_min) = (999.into(), 998.into());
    let header = Header::new(PacketKind::Hello, None);
    let session = rig.session(1, 0);
    rig.inject((0, 1), LinkKind::Data, header, hello.as_bytes(), None);
    rig.run_until(|rig| rig.session(1, 0) != session);
    assert_ne!(rig.session(1, 0), session);
    assert!(rig.reason(1, 0).contains("version"), "{}", rig.reason(1, 0));
}

#[test]
fn r6_a_target_that_was_promoted_by_force_is_a_fork_and_not_the_newer_side() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 65536), Ok(()));
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(1, 800, 2, 4096), Ok(()));
    rig.demote(1);
    rig.heal();
    assert!(
        rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0),
        "{:?}",
        rules(&rig)
    );
    assert_eq!(rig.command(1, Command::Detach { volume: VOLUME }), Ok(()));
}

#[test]
fn r6_a_target_that_was_promoted_by_force_does_not_take_what_its_first_source_wrote_since() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    assert_eq!(rig.command(0, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 65536), Ok(()));
    rig.connect();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.demote(0);
    rig.demote(1);
    rig.heal();
    assert_eq!(rules(&rig), ["forked", "forked"]);
    assert_eq!(rig.read_disk(0, 8, 4096), [2; 4096]);
    rig.dial(0, 1, false);
    rig.dial(1, 0, true);
    rig.idle();
    assert_eq!(rig.resynced(0, 1), rig.data_sectors());
    assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
    rig.assert_whole();
}
