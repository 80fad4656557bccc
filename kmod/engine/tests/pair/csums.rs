// SPDX-License-Identifier: GPL-2.0-only

//! Resyncs that ask by digest.

use crate::rig::Rig;
use weft_engine::event::Options;
use weft_engine::quorum::Quorum;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{Sector, Seq, VolumeId};
use weft_uapi::version::FEATURE_CSUMS;
use weft_uapi::wire::{Header, LinkKind, PacketKind};

const KIB: u64 = 1024;
/// Of a disk: 16 MiB, since many are made here.
const SECTORS: u64 = 32_768;

fn ask_by_digest(rig: &mut Rig, number: usize) {
    let options = Options {
        csums: Some(true),
        ..Options::default()
    };
    assert_eq!(rig.set_options(number, options), Ok(()));
}

/// A pair whose second node asks by digest, and has missed writes: one that changed nothing, and one that did.
fn behind() -> Rig {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default()).sync();
    ask_by_digest(&mut rig, 1);
    assert_eq!(rig.write(0, 0, 7, 64 << 10), Ok(()));
    rig.cut();
    assert_eq!(rig.write(0, 0, 7, 64 << 10), Ok(()));
    assert_eq!(rig.write(0, 1024, 8, 32 << 10), Ok(()));
    rig
}

#[test]
fn only_what_differs_is_sent() {
    let mut rig = behind();
    let sent = rig.sent(0, 1);
    rig.heal();
    rig.assert_whole();
    assert_eq!(rig.sent(0, 1) - sent, 32 * KIB);
    for (number, peer) in [(0, 1), (1, 0)] {
        assert_eq!(rig.found_equal(number, peer) * 512, 64 * KIB);
        assert_eq!(rig.resynced(number, peer) * 512, 96 * KIB);
    }
}

#[test]
fn without_the_option_all_is_sent() {
    let mut rig = behind();
    let options = Options {
        csums: Some(false),
        ..Options::default()
    };
    assert_eq!(rig.set_options(1, options), Ok(()));
    let sent = rig.sent(0, 1);
    rig.heal();
    rig.assert_whole();
    assert_eq!(rig.sent(0, 1) - sent, 96 * KIB);
    assert_eq!(rig.found_equal(0, 1), 0);
}

#[test]
fn hot_extents_of_a_crashed_primary_are_compared_and_not_sent() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.crash(0);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.restart_alone(0);
    ask_by_digest(&mut rig, 0);
    rig.dial(0, 1, false);
    rig.idle();
    rig.assert_whole();
    assert_eq!(rig.resynced(1, 0), 8192, "one extent");
    assert_eq!(rig.sent(1, 0), 128 * KIB, "the range with the difference");
    assert_eq!(rig.found_equal(0, 1), 8192 - 256);
}

#[test]
fn writes_between_the_two_digests_and_the_answer_are_kept() {
    for steps in (0..160).step_by(3) {
        let mut rig = behind();
        rig.heal_at_once();
        rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
        rig.steps(steps / 2);
        // To the equal range and back, to the other one, and over the edge of both.
        rig.begin_write(0, 8, 9, 4096);
        rig.begin_write(0, 1032, 8, 4096);
        rig.steps(steps % 7);
        rig.begin_write(0, 8, 7, 4096);
        rig.begin_write(0, 120, 6, 16 << 10);
        rig.assert_whole();
    }
}

#[test]
fn nothing_is_lost_when_the_link_breaks_at_any_step() {
    for steps in (0..200).step_by(3) {
        let mut rig = behind();
        rig.heal_at_once();
        rig.steps(steps);
        rig.begin_write(0, 16, 5, 4096);
        rig.cut_at_once();
        rig.idle();
        rig.heal();
        rig.assert_whole();
    }
}

#[test]
fn nothing_is_lost_when_either_loses_its_power_at_any_step() {
    for victim in [0, 1] {
        for steps in (0..200).step_by(5) {
            let mut rig = behind();
            rig.heal_at_once();
            rig.steps(steps);
            rig.begin_write(0, 16, 5, 4096);
            rig.steps(3);
            rig.crash(victim);
            rig.restart_alone(victim);
            ask_by_digest(&mut rig, victim);
            rig.dial(victim, 1 - victim, false);
            rig.idle();
            if rig.primaries().is_empty() {
                assert_eq!(rig.promote(0), Ok(()), "after {steps} steps");
            }
            rig.assert_whole();
        }
    }
}

#[test]
fn an_unstable_copy_that_was_found_equal_is_owed_until_it_is_flushed() {
    let mut rig = behind();
    rig.heal_at_once();
    rig.run_until(|rig| rig.found_equal(1, 0) > 0);
    assert!(rig.found_equal(1, 0) > 0);
    assert_eq!(rig.out_of_sync(1, 0) * 512, 96 * KIB);
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    // What it read was in its cache only.
    rig.crash(1);
    rig.lose_cache(1, 0, 64 << 10);
    rig.restart(1);
    rig.assert_whole();
}

#[test]
fn a_peer_that_knows_no_digests_is_not_asked_by_any() {
    let mut rig = behind();
    rig.set_unknown(FEATURE_CSUMS);
    rig.heal();
    rig.assert_whole();
    assert_eq!(rig.found_equal(1, 0), 0);
}

#[test]
fn a_source_that_finds_equal_what_it_was_not_told_ends_the_session() {
    for by_digest in [false, true] {
        let mut rig = behind();
        let options = Options {
            csums: Some(by_digest),
            ..Options::default()
        };
        assert_eq!(rig.set_options(1, options), Ok(()));
        rig.set_slow(0, true);
        rig.heal_at_once();
        rig.run_until(|rig| rig.late(0) > 0);
        let session = rig.session(1, 0);
        let mut header = Header::new(PacketKind::ResyncEqual, Some(VolumeId(0)));
        // Asked for plainly, or not at all.
        let sector = if by_digest { 20_000 } else { 0 };
        (header.seq, header.sector, header.bytes) = (Seq(1000), Sector(sector), 64 << 10);
        rig.inject((0, 1), LinkKind::Data, header, &[], None);
        rig.run_until(|rig| rig.session(1, 0) != session);
        assert_ne!(rig.session(1, 0), session);
        assert_eq!(
            rig.reason(1, 0),
            "the peer found equal what it was not told"
        );
        rig.set_slow(0, false);
        rig.assert_whole();
    }
}

#[test]
fn a_malformed_digest_ends_the_session() {
    let mut rig = behind();
    rig.set_slow(0, true);
    rig.heal_at_once();
    rig.run_until(|rig| rig.late(0) > 0);
    for (bytes, body) in [(4096, &[0; 15][..]), (512, &[0; 16]), (0, &[0; 16])] {
        let mut header = Header::new(PacketKind::ResyncDigest, Some(VolumeId(0)));
        header.bytes = bytes;
        let session = rig.session(0, 1);
        rig.inject((1, 0), LinkKind::Data, header, body, None);
        rig.run_until(|rig| rig.session(0, 1) != session);
        assert_ne!(rig.session(0, 1), session);
        rig.run_until(|rig| {
            rig.late(0) > 0 && rig.replication(1, 0) == ReplicationState::SyncTarget
        });
    }
    rig.set_slow(0, false);
    rig.assert_whole();
}
