// SPDX-License-Identifier: GPL-2.0-only

//! R13: a blank or rolled-back replica is noticed and resynced, never trusted.

use crate::rig::{Rig, VOLUME};
use weft_engine::event::Command;
use weft_uapi::limits::AL_EXTENT_BYTES;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::version::{FEATURES, FEATURE_AGES};
use weft_uapi::wire::{FullStateBody, Header, LinkKind, PacketKind};
use zerocopy::IntoBytes;

/// Turns the disk of `number` back to what it was before the last write of `writer`, and starts the node.
fn roll_back(rig: &mut Rig, number: usize, writer: usize) {
    rig.crash(number);
    let image = rig.image(number);
    rig.restart(number);
    assert_eq!(rig.write(writer, 800, 7, 4096), Ok(()));
    rig.crash(number);
    rig.put_back(number, image);
}

#[test]
fn r13_an_older_image_of_a_disk_is_fetched_anew_in_full() {
    let mut rig = Rig::pair();
    roll_back(&mut rig, 1, 0);
    rig.restart(1);
    assert_eq!(rig.rule(0, 1), "rolled-back");
    assert_eq!(rig.resynced(0, 1), rig.data_sectors());
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 800, 4096), [7; 4096]);
}

#[test]
fn r13_an_older_image_is_noticed_by_each_of_three() {
    let mut rig = Rig::synced(3);
    roll_back(&mut rig, 2, 0);
    rig.cut_pair(0, 2);
    rig.restart(2);
    assert_eq!(rig.rule(1, 2), "rolled-back");
    assert_ne!(rig.disk_state(2), DiskState::UpToDate);
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.read_disk(2, 800, 4096), [7; 4096]);
    assert_eq!(
        (rig.disk_state(2), rig.members(0)),
        (DiskState::UpToDate, 0b111)
    );
}

#[test]
fn r13_an_older_image_stays_noticed_when_the_sync_is_cut() {
    let mut rig = Rig::pair();
    roll_back(&mut rig, 1, 0);
    rig.restart_alone(1);
    rig.dial(1, 0, false);
    for _ in 0..3 {
        rig.run_until(|rig| rig.disk_state(1) == DiskState::Inconsistent);
        rig.steps(20);
        rig.cut_at_once();
        rig.idle();
        assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
        rig.heal_at_once();
    }
    rig.idle();
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 800, 4096), [7; 4096]);
}

#[test]
fn r13_an_older_image_that_went_on_waits_for_a_person() {
    let mut rig = Rig::pair();
    roll_back(&mut rig, 1, 0);
    rig.cut();
    rig.restart_alone(1);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 9, 4096), Ok(()));
    rig.demote(1);
    rig.heal();
    rig.dial(1, 0, false);
    rig.idle();
    assert!(rig.is_stand_alone(1, 0) && rig.is_stand_alone(0, 1));
    assert_eq!(rig.rule(0, 1), "rolled-back");
    assert_eq!(rig.read_disk(1, 0, 4096), [9; 4096]);
    rig.reconnect();
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 0, 4096), [0; 4096]);
}

#[test]
fn r13_a_former_primary_that_was_rolled_back_is_no_source() {
    let mut rig = Rig::pair();
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
    roll_back(&mut rig, 0, 1);
    rig.demote(1);
    rig.restart(0);
    assert_eq!(rig.rule(1, 0), "rolled-back");
    rig.assert_whole();
    assert_eq!(rig.read_disk(0, 800, 4096), [7; 4096]);
}

#[test]
fn r13_a_blank_replacement_is_filled_in_full_whoever_it_was() {
    for number in 0..2 {
        let mut rig = Rig::pair();
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        rig.crash(number);
        rig.replace_disk(number);
        rig.restart_alone(number);
        assert_eq!(rig.promote(number), Err(Refusal::NoUpToDateDisk));
        rig.dial(number, 1 - number, false);
        rig.idle();
        assert_eq!(rig.rule(number, 1 - number), "rolled-back");
        assert_eq!(rig.resynced(1 - number, number), rig.data_sectors());
        rig.assert_whole();
        assert_eq!(rig.read_disk(number, 0, 4096), [1; 4096]);
    }
}

#[test]
fn r13_a_disk_exchanged_while_connected_is_filled_in_full() {
    let mut rig = Rig::pair();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.detach(1);
    rig.replace_disk(1);
    rig.attach(1);
    rig.idle();
    assert_eq!(rig.rule(1, 0), "rolled-back");
    assert_eq!(rig.resynced(0, 1), rig.data_sectors());
    rig.assert_whole();
}

#[test]
fn r13_a_replacement_that_is_half_filled_is_nobodys_source() {
    let mut rig = Rig::synced(3);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    rig.crash(2);
    rig.replace_disk(2);
    rig.cut_pair(1, 2);
    rig.restart_alone(2);
    rig.dial(2, 0, false);
    rig.dial(2, 1, false);
    rig.run_until(|rig| rig.replication(0, 2) == ReplicationState::SyncSource);
    rig.steps(20);
    rig.crash(0);
    rig.heal_pair(1, 2);
    assert_eq!(rig.read_disk(1, 0, 4096), [1; 4096]);
    rig.restart(0);
    rig.assert_whole();
    assert_eq!(rig.read_disk(2, 0, 4096), [1; 4096]);
}

#[test]
fn r13_a_copy_of_another_nodes_disk_is_not_attached_as_this_nodes() {
    let mut rig = Rig::pair();
    rig.crash(1);
    let foreign = rig.image(0);
    rig.put_back(1, foreign);
    assert_eq!(rig.load_error(1), Some(Refusal::MetaForeign));
}

/// A sector of the extent with this number.
fn in_extent(number: u64) -> u64 {
    number * u64::from(AL_EXTENT_BYTES / 512)
}

/// Takes an image of the running disk of `number`, has `writer` write to an extent that is cold in it, and has the
/// power of `number` fail and the image put back.
fn roll_back_within_an_attach(rig: &mut Rig, number: usize, writer: usize) {
    rig.idle();
    let image = rig.image(number);
    assert_eq!(rig.write(writer, in_extent(2), 7, 4096), Ok(()));
    rig.idle();
    rig.crash(number);
    rig.put_back(number, image);
}

/// The disk of `number` was noticed to be an older image, and fetched anew from `source`.
fn assert_fetched_anew(rig: &mut Rig, number: usize, source: usize) {
    assert_eq!(rig.rule(source, number), "rolled-back");
    assert_eq!(rig.resynced(source, number), rig.data_sectors());
    rig.assert_whole();
    assert_eq!(rig.read_disk(number, in_extent(2), 4096), [7; 4096]);
}

#[test]
fn r13_an_image_of_a_running_disk_is_noticed_when_it_is_put_back() {
    let mut rig = Rig::pair();
    roll_back_within_an_attach(&mut rig, 1, 0);
    rig.restart(1);
    assert_fetched_anew(&mut rig, 1, 0);
}

#[test]
fn r13_an_image_of_the_running_primarys_disk_is_noticed() {
    for is_led in [false, true] {
        let mut rig = Rig::pair();
        roll_back_within_an_attach(&mut rig, 0, 0);
        if is_led {
            assert_eq!(rig.promote(1), Ok(()));
        }
        rig.restart(0);
        assert_eq!(rig.rule(1, 0), "rolled-back");
        assert_eq!(rig.resynced(1, 0), rig.data_sectors());
        rig.assert_equal();
        assert_eq!(rig.read_disk(0, in_extent(2), 4096), [7; 4096]);
    }
}

#[test]
fn r13_an_image_of_a_running_disk_stays_noticed_however_often_it_is_attached() {
    let mut rig = Rig::pair();
    roll_back_within_an_attach(&mut rig, 1, 0);
    rig.cut();
    for _ in 0..5 {
        rig.restart_alone(1);
        rig.crash(1);
    }
    rig.heal();
    rig.restart(1);
    assert_fetched_anew(&mut rig, 1, 0);
}

#[test]
fn r13_what_was_seen_of_a_disk_outlasts_a_power_cut_of_all() {
    for is_log_empty in [false, true] {
        for number in 0..2 {
            let mut rig = Rig::pair();
            rig.idle();
            let image = rig.image(number);
            assert_eq!(rig.write(0, in_extent(2), 7, 4096), Ok(()));
            rig.wait(if is_log_empty { 20_000 } else { 1_000 });
            rig.idle();
            let peer = 1 - number;
            rig.cut_at_once();
            rig.crash(number);
            rig.crash(peer);
            rig.put_back(number, image);
            rig.restart_alone(number);
            rig.restart_alone(peer);
            rig.heal_at_once();
            rig.connect();
            rig.idle();
            assert_eq!(rig.rule(peer, number), "rolled-back");
            rig.assert_equal();
            assert_eq!(rig.read_disk(number, in_extent(2), 4096), [7; 4096]);
        }
    }
}

#[test]
fn r13_a_disk_that_leaves_has_noted_what_it_saw_of_others() {
    let mut rig = Rig::pair();
    rig.idle();
    let image = rig.image(0);
    assert_eq!(rig.write(0, in_extent(2), 7, 4096), Ok(()));
    assert_eq!(rig.flush(0), Ok(()));
    // For longer than ages wait to be noted, nobody answers that the disk may go.
    rig.steps(2);
    rig.break_wire();
    let token = rig.order(1, Command::Detach { volume: VOLUME });
    rig.idle();
    assert_eq!(rig.answered(token), None);
    rig.crash(0);
    assert_eq!(rig.reply(token), Ok(()));
    rig.crash(1);
    rig.put_back(0, image);
    rig.heal_at_once();
    rig.restart(1);
    rig.restart(0);
    assert_eq!(rig.rule(1, 0), "rolled-back");
    rig.assert_equal();
    assert_eq!(rig.read_disk(0, in_extent(2), 4096), [7; 4096]);
}

#[test]
fn r13_an_image_of_a_running_disk_is_noticed_by_who_never_wrote_to_it() {
    for number in 0..2 {
        let mut rig = Rig::synced(3);
        roll_back_within_an_attach(&mut rig, number, 0);
        rig.crash(1 - number);
        rig.restart(number);
        assert_eq!(rig.rule(2, number), "rolled-back");
        rig.restart(1 - number);
        rig.assert_equal();
        assert_eq!(rig.read_disk(number, in_extent(2), 4096), [7; 4096]);
        assert_eq!(rig.disk_state(number), DiskState::UpToDate);
    }
}

#[test]
fn r13_what_an_image_of_the_same_age_lacks_lies_in_hot_extents() {
    for number in 0..2 {
        let mut rig = Rig::pair();
        assert_eq!(rig.write(0, in_extent(2), 5, 4096), Ok(()));
        let image = rig.image(number);
        assert_eq!(rig.write(0, in_extent(2) + 8, 7, 4096), Ok(()));
        assert_eq!(rig.flush(0), Ok(()));
        rig.idle();
        rig.crash(number);
        rig.put_back(number, image);
        rig.restart(number);
        assert_ne!(rig.rule(1 - number, number), "rolled-back");
        assert_eq!(rig.resynced(1 - number, number), in_extent(1));
        rig.assert_equal();
        assert_eq!(rig.read_disk(number, in_extent(2) + 8, 4096), [7; 4096]);
    }
}

#[test]
fn r13_an_image_of_a_running_disk_from_before_a_resync_is_noticed() {
    let mut rig = Rig::pair();
    rig.demote(0);
    rig.cut();
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.write(0, in_extent(2), 7, 4096), Ok(()));
    let image = rig.image(1);
    rig.heal();
    rig.assert_equal();
    rig.crash(1);
    rig.put_back(1, image);
    rig.restart(1);
    assert_fetched_anew(&mut rig, 1, 0);
}

#[test]
fn what_a_disk_told_before_others_met_its_next_attach_makes_it_no_older_image() {
    let mut rig = Rig::synced(3);
    rig.cut_pair(1, 2);
    rig.heal_pair_at_once(1, 2);
    rig.run_until(|rig| rig.state_underway(1).is_some());
    let told = rig.state_bytes_underway(1).unwrap();
    rig.idle();
    let session = rig.session(2, 1);
    // The third node does not notice that the second one is started anew, and hears of it from the primary only.
    rig.silence_pair(1, 2);
    rig.crash(1);
    rig.restart(1);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.session(2, 1), session);
    // What it told in its former life arrives after all.
    let mut late = FullStateBody::parse(&told).unwrap();
    late.state.round = 100.into();
    let header = Header::new(PacketKind::State, Some(VOLUME));
    rig.inject((1, 2), LinkKind::Data, header, late.as_bytes(), None);
    rig.steps(20);
    assert_ne!(rig.rule(2, 1), "rolled-back");
    rig.heal();
    assert_ne!(rig.rule(2, 1), "rolled-back");
    assert_ne!(rig.session(2, 1), session);
    rig.assert_equal();
}

#[test]
fn ages_are_told_only_to_a_peer_that_understands_them() {
    for (features, has_ages) in [(FEATURES, true), (FEATURES & !FEATURE_AGES, false)] {
        let mut rig = Rig::pair();
        rig.cut();
        rig.heal_at_once();
        rig.break_wire();
        rig.run_until(|rig| rig.session(0, 1).is_some());
        rig.greet((1, 0), features);
        let bytes = rig.state_bytes_underway(0).expect("a state");
        let ages = FullStateBody::parse(&bytes).unwrap().ages;
        assert_eq!(bytes.len() == size_of::<FullStateBody>(), has_ages);
        assert_eq!(ages.age.get() > 0 && ages.seen_age.get() > 0, has_ages);
    }
}
