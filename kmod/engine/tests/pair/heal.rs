// SPDX-License-Identifier: GPL-2.0-only

//! Blocks that a disk cannot read any more: a peer has them, and they are written anew.

use crate::diskless::with_client;
use crate::rig::{node, Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Op, Options, Wanted};
use weft_engine::quorum::Quorum;
use weft_uapi::state::{DiskState, Protocol, ReplicationState, VerifyState};
use weft_uapi::units::{Sector, Seq};
use weft_uapi::version::FEATURE_HEAL;
use weft_uapi::wire::{Header, LinkKind, PacketKind};

/// Of a disk: 16 MiB, since many are made here.
const SECTORS: u64 = 32_768;

/// A pair whose first node is primary and has written 64 KiB.
fn pair() -> Rig {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default()).sync();
    assert_eq!(rig.write(0, 0, 7, 64 << 10), Ok(()));
    rig.idle();
    rig
}

fn verify(rig: &mut Rig, number: usize, peer: usize) {
    let order = Command::Verify {
        volume: VOLUME,
        peer: node(peer),
        wanted: Wanted::Range {
            start: Sector(0),
            stop: None,
        },
    };
    assert_eq!(rig.command(number, order), Ok(()));
    rig.idle();
}

/// Every copy can be read, and they are equal.
fn assert_healed(rig: &mut Rig, number: usize, blocks: u32) {
    rig.assert_mirrored();
    assert_eq!(rig.lost_sectors(number), 0);
    assert_eq!(rig.healed_blocks(number), blocks);
}

#[test]
fn r10_a_block_that_the_primary_cannot_read_is_written_anew() {
    let mut rig = pair();
    rig.lose_block(0, 16);
    assert_eq!(rig.read(0, 10, 4096), Ok(vec![7; 4096]));
    assert!(rig.forced(0).contains(&Op::Write));
    assert_healed(&mut rig, 0, 1);
}

#[test]
fn r10_only_the_blocks_of_a_range_that_cannot_be_read_are_written() {
    let mut rig = pair();
    [0, 40, 120].map(|sector| rig.lose_block(0, sector));
    let forced = rig.forced(0).len();
    assert_eq!(rig.read(0, 0, 64 << 10), Ok(vec![7; 64 << 10]));
    assert_eq!(rig.forced(0).len(), forced + 3);
    assert_healed(&mut rig, 0, 3);
}

#[test]
fn r10_what_a_verify_cannot_read_on_either_side_is_written_anew() {
    for bad in 0..2 {
        for leads in [true, false] {
            let mut rig = pair();
            if !leads {
                rig.demote(0);
            }
            [8, 9000].map(|sector| rig.lose_block(bad, sector));
            verify(&mut rig, 0, 1);
            assert_eq!(rig.verify(0, 1).state, VerifyState::Finished);
            assert_eq!(rig.verify(0, 1).found, []);
            assert_healed(&mut rig, bad, 2);
        }
    }
}

#[test]
fn both_copies_heal_each_other() {
    for leads in [true, false] {
        let mut rig = pair();
        if !leads {
            rig.demote(0);
        }
        for (number, sector) in [(0, 8), (1, 16), (0, 24), (1, 1000)] {
            rig.lose_block(number, sector);
        }
        verify(&mut rig, 0, 1);
        assert_eq!(rig.verify(0, 1).state, VerifyState::Finished);
        assert_healed(&mut rig, 0, 2);
        assert_healed(&mut rig, 1, 2);
    }
}

#[test]
fn r10_a_source_gets_what_it_cannot_read_from_a_third_copy() {
    for by_digest in [false, true] {
        let mut rig = Rig::synced(3);
        let options = Options {
            csums: Some(by_digest),
            ..Options::default()
        };
        assert_eq!(rig.set_options(2, options), Ok(()));
        rig.isolate(2);
        assert_eq!(rig.write(0, 0, 8, 64 << 10), Ok(()));
        rig.lose_block(0, 16);
        rig.heal();
        assert_healed(&mut rig, 0, 1);
    }
}

#[test]
fn a_target_that_cannot_digest_a_range_is_sent_it() {
    let mut rig = pair();
    let options = Options {
        csums: Some(true),
        ..Options::default()
    };
    assert_eq!(rig.set_options(1, options), Ok(()));
    rig.cut();
    assert_eq!(rig.write(0, 0, 7, 64 << 10), Ok(()));
    rig.lose_block(1, 16);
    rig.heal();
    rig.assert_mirrored();
    assert_eq!(rig.lost_sectors(1), 0);
}

#[test]
fn what_a_client_reads_is_healed_by_its_server() {
    let mut rig = with_client();
    rig.demote(0);
    assert_eq!(rig.promote(2), Ok(()));
    assert_eq!(rig.write(2, 0, 5, 8192), Ok(()));
    let server = (rig.resource(2).server - 1) as usize;
    rig.lose_block(server, 8);
    assert_eq!(rig.read(2, 0, 8192), Ok(vec![5; 8192]));
    assert_eq!(rig.lost_sectors(server), 0);
}

#[test]
fn what_a_second_primary_reads_of_its_own_disk_is_healed_by_the_first() {
    let mut rig = pair();
    for number in 0..2 {
        let options = Options {
            two_primaries: Some(true),
            ..Options::default()
        };
        assert_eq!(rig.set_options(number, options), Ok(()));
    }
    assert_eq!(rig.promote(1), Ok(()));
    rig.idle();
    rig.lose_block(1, 8);
    assert_eq!(rig.read(1, 0, 8192), Ok(vec![7; 8192]));
    assert_healed(&mut rig, 1, 1);
}

#[test]
fn r10_a_disk_that_cannot_write_the_block_anew_is_let_go() {
    let mut rig = pair();
    rig.lose_block(0, 16);
    rig.set_failing(0, true);
    assert_eq!(rig.read(0, 16, 4096), Ok(vec![7; 4096]));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
    assert_eq!(rig.primaries(), [0]);
}

#[test]
fn without_a_peer_that_has_the_block_the_disk_has_failed() {
    let mut rig = pair();
    rig.isolate(1);
    rig.idle();
    rig.lose_block(0, 16);
    assert_eq!(rig.read(0, 16, 4096), Err(IoError::Disk));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
}

#[test]
fn r10_a_block_that_both_have_lost_is_an_error_of_that_block_only() {
    let mut rig = pair();
    (0..2).for_each(|number| rig.lose_block(number, 16));
    assert_eq!(rig.read(0, 16, 4096), Err(IoError::Disk));
    assert_eq!(rig.read(0, 24, 4096), Ok(vec![7; 4096]));
    verify(&mut rig, 0, 1);
    assert_eq!(rig.verify(0, 1).state, VerifyState::Interrupted);
    assert_eq!(rig.write(0, 16, 8, 4096), Ok(()));
    assert_eq!(rig.read(0, 16, 4096), Ok(vec![8; 4096]));
    verify(&mut rig, 0, 1);
    assert_eq!(rig.verify(0, 1).state, VerifyState::Finished);
    assert_healed(&mut rig, 0, 0);
}

#[test]
fn a_peer_that_does_not_know_of_it_is_not_asked() {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default());
    rig.set_unknown(FEATURE_HEAL);
    let mut rig = rig.sync();
    assert_eq!(rig.write(0, 0, 7, 8192), Ok(()));
    rig.lose_block(0, 8);
    assert_eq!(rig.read(0, 0, 8192), Ok(vec![7; 8192]));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
}

#[test]
fn r10_a_disk_that_loses_too_many_blocks_is_let_go() {
    let mut rig = pair();
    for read in 0..150u64 {
        rig.lose_block(0, 8 * (read % 16));
        assert_eq!(rig.read(0, 8 * (read % 16), 4096), Ok(vec![7; 4096]));
        let is_kept = read < 100;
        assert_eq!(rig.disk_state(0) == DiskState::UpToDate, is_kept, "{read}");
        if !is_kept {
            break;
        }
    }
    assert_eq!(rig.healed_blocks(0), 100);
}

#[test]
fn a_disk_may_lose_more_blocks_in_a_longer_time() {
    let mut rig = pair();
    for read in 0..150u64 {
        if read == 90 {
            rig.wait(3_600_000);
        }
        rig.lose_block(0, 8 * (read % 16));
        assert_eq!(rig.read(0, 8 * (read % 16), 4096), Ok(vec![7; 4096]));
    }
    assert_healed(&mut rig, 0, 150);
}

#[test]
fn a_newer_write_of_the_block_is_never_lost() {
    for bad in 0..2 {
        for steps in 0..60 {
            let mut rig = pair();
            rig.lose_block(bad, 16);
            rig.begin_write(0, 20, 1, 1024);
            verify_later(&mut rig);
            rig.steps(steps);
            rig.begin_write(0, 12, 2, 4096);
            rig.steps(steps % 5);
            rig.begin_write(0, 18, 3, 1024);
            rig.assert_mirrored();
            let mut shown = vec![7; 8192];
            shown[2048..6144].fill(2);
            shown[5120..6144].fill(3);
            shown[6144..7168].fill(1);
            assert!(rig.read_disk(0, 8, 8192) == shown, "{bad} {steps}");
            assert_eq!(rig.lost_sectors(bad), 0, "{bad} {steps}");
        }
    }
}

#[test]
fn nothing_is_lost_when_the_link_breaks_at_any_step() {
    for bad in 0..2 {
        for steps in 0..60 {
            let mut rig = pair();
            rig.lose_block(bad, 16);
            verify_later(&mut rig);
            rig.steps(steps);
            rig.begin_write(0, 18, 5, 4096);
            rig.cut_at_once();
            rig.idle();
            rig.heal();
            rig.idle();
            if rig.disk_state(bad) == DiskState::UpToDate {
                rig.assert_equal();
            }
            let good = 1 - bad;
            assert_eq!(rig.read_disk(good, 16, 1024), [7; 1024]);
        }
    }
}

fn verify_later(rig: &mut Rig) {
    let order = Command::Verify {
        volume: VOLUME,
        peer: node(1),
        wanted: Wanted::Range {
            start: Sector(0),
            stop: Some(Sector(128)),
        },
    };
    rig.order(0, order);
}

#[test]
fn nothing_is_lost_when_either_loses_its_power_at_any_step() {
    for (bad, victim) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for steps in 0..60 {
            let mut rig = pair();
            (0..2).for_each(|number| rig.set_volatile(number));
            rig.lose_block(bad, 16);
            verify_later(&mut rig);
            rig.steps(steps);
            rig.begin_write(0, 18, 5, 4096);
            rig.steps(3);
            rig.crash(victim);
            rig.idle();
            if victim == 0 {
                assert_eq!(rig.promote(1), Ok(()), "{bad} {steps}");
            }
            rig.restart(victim);
            rig.idle();
            if (0..2).all(|number| rig.disk_state(number) == DiskState::UpToDate) {
                rig.assert_equal();
            }
        }
    }
}

#[test]
fn the_disk_is_taken_away_at_any_step() {
    for bad in 0..2 {
        for steps in 0..60 {
            let mut rig = pair();
            rig.lose_block(bad, 16);
            let read = rig.begin_op(0, Op::Read, 16, 4096);
            verify_later(&mut rig);
            rig.steps(steps);
            rig.detach(bad);
            rig.run_until(|rig| rig.is_complete(read));
            assert_eq!(rig.result(read), Some(Ok(())), "{bad} {steps}");
            assert_eq!(rig.content(read), [7; 4096], "{bad} {steps}");
        }
    }
}

#[test]
fn writes_that_leave_no_room_for_the_answer_end_the_verify() {
    let mut rig = pair();
    (0..2).for_each(|node| rig.set_protocol(node, Protocol::A));
    rig.lose_block(1, 16);
    rig.set_slow(1, true);
    verify_later(&mut rig);
    rig.idle();
    assert_eq!(rig.late(1), 1);
    for round in 0..230u32 {
        assert_eq!(rig.write(0, 16, round as u8, 4096), Ok(()));
    }
    rig.set_slow(1, false);
    rig.assert_mirrored();
    assert_eq!(rig.verify(0, 1).state, VerifyState::Interrupted);
    assert_eq!(rig.lost_sectors(1), 0);
}

#[test]
fn a_block_is_healed_while_writes_to_it_come_as_fast_as_they_can() {
    for steps in (0..80).step_by(4) {
        let mut rig = pair();
        (0..2).for_each(|node| rig.set_protocol(node, Protocol::A));
        rig.lose_block(1, 16);
        verify_later(&mut rig);
        rig.steps(steps);
        // The answer comes late.
        rig.set_slow(0, true);
        for round in 0..100u32 {
            if rig.has_room(0) {
                rig.begin_write(0, 16, round as u8, 4096);
            }
            rig.steps(4);
        }
        rig.set_slow(0, false);
        rig.assert_mirrored();
        assert_eq!(rig.lost_sectors(1), 0, "{steps}");
    }
}

#[test]
fn a_block_that_was_not_asked_for_is_passed_over_and_one_that_is_none_ends_the_session() {
    let mut rig = pair();
    let mut header = Header::new(PacketKind::HealData, Some(VOLUME));
    (header.seq, header.sector, header.bytes) = (Seq(1), Sector(8), 4096);
    let session = rig.session(0, 1);
    rig.inject((1, 0), LinkKind::Data, header, &[], None);
    rig.idle();
    assert_eq!(rig.session(0, 1), session);
    for (sector, bytes) in [(1, 4096), (8, 8192), (8, 0), (SECTORS, 4096)] {
        let mut rig = pair();
        let session = rig.session(0, 1);
        let mut header = Header::new(PacketKind::HealRequest, Some(VOLUME));
        (header.sector, header.bytes) = (Sector(sector), bytes);
        rig.inject((1, 0), LinkKind::Data, header, &[], None);
        rig.idle();
        assert_ne!(rig.session(0, 1), session, "{sector} {bytes}");
    }
}

#[test]
fn a_target_is_not_asked_for_what_it_lacks() {
    let mut rig = pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 9, 64 << 10), Ok(()));
    rig.lose_block(0, 16);
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.idle();
    assert_ne!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.healed_blocks(0), 0);
}
