// SPDX-License-Identifier: GPL-2.0-only

//! Engines, disks and wires that never fail unless told to: one scenario per test. Here with two nodes, in `three` with
//! three.

mod host;
mod rig;
mod three;

use rig::{Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Op};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Protocol, ReplicationState, Role};
use weft_uapi::units::{Sector, Seq, Term};
use weft_uapi::wire::{Header, LinkKind, PacketKind};

#[test]
fn a_blank_disk_is_promoted_only_by_force_and_then_takes_writes() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(
        rig.command(0, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    assert_eq!(rig.command(0, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 8, 7, 4096), Ok(()));
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![7; 4096]));
    assert_eq!(rig.flush(0), Ok(()));
}

#[test]
fn a_secondary_takes_no_requests() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(rig.write(0, 0, 1, 512), Err(IoError::NoData));
    assert_eq!(rig.open(0), Err(Refusal::NotPrimary));
}

#[test]
fn a_blank_peer_is_synced_and_then_mirrors_writes() {
    let mut rig = Rig::pair();
    assert_eq!(rig.write(0, 16, 9, 8192), Ok(()));
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.replication(0, 1), ReplicationState::Established);
}

#[test]
fn each_protocol_completes_writes_and_keeps_the_disks_equal() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut rig = Rig::pair();
        assert_eq!(rig.command(0, Command::SetProtocol { protocol }), Ok(()));
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
fn two_that_were_primary_apart_refuse_to_meet_until_one_gives_up() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.rule(0, 1), "forked");
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(
        rig.command(
            0,
            Command::Connect {
                peer: rig::node(1),
                discard_my_data: true
            }
        ),
        Ok(())
    );
    assert_eq!(
        rig.command(
            1,
            Command::Connect {
                peer: rig::node(0),
                discard_my_data: false
            }
        ),
        Ok(())
    );
    rig.idle();
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn two_that_are_primary_when_they_meet_are_a_split_brain() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.rule(0, 1), "forked");
    assert_eq!(rig.rule(1, 0), "forked");
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
}

#[test]
fn a_record_does_not_wait_for_a_disk_that_is_leaving() {
    let mut rig = Rig::pair();
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    rig.set_late(0, true);
    let promotion = rig.order(0, Command::Primary { force: false });
    rig.idle();
    let detach = rig.order(1, Command::Detach { volume: VOLUME });
    rig.idle();
    let session = rig.session(0, 1);
    rig.set_late(0, false);
    assert_eq!(rig.reply(promotion), Ok(()));
    assert_eq!(rig.reply(detach), Ok(()));
    assert_eq!(rig.session(0, 1), session, "nobody had to give up");
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
}

#[test]
fn only_one_of_a_connected_pair_is_primary() {
    let mut rig = Rig::pair();
    assert_eq!(
        rig.command(1, Command::Primary { force: true }),
        Err(Refusal::PeerPrimary)
    );
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.role(1), Role::Primary);
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn an_unfinished_target_is_not_promoted() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.connect();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    assert_eq!(
        rig.command(1, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn a_disk_is_detached_and_attached_again_while_connected() {
    let mut rig = Rig::pair();
    for round in 1..4u8 {
        assert_eq!(
            rig.command(
                1,
                Command::Detach {
                    volume: rig::VOLUME
                }
            ),
            Ok(())
        );
        assert_eq!(rig.disk_state(1), DiskState::Diskless);
        assert_eq!(rig.write(0, 8, round, 4096), Ok(()));
        rig.attach(1);
        rig.idle();
        assert_eq!(rig.disk_state(1), DiskState::UpToDate);
        rig.assert_equal();
    }
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
fn a_clean_stop_leaves_nothing_suspicious() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    rig.command(0, Command::Secondary).unwrap();
    rig.idle();
    rig.crash(0);
    rig.crash(1);
    rig.restart(0);
    rig.restart(1);
    assert_eq!(rig.rule(0, 1), "same-generation");
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
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
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 2, 4096), Err(IoError::Disk));
    rig.idle();
    assert_eq!(rig.read(0, 0, 4096), Err(IoError::NoData));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.set_failing(0, false);
    rig.attach(0);
    rig.idle();
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

/// Small numbers mostly, so that many of them make sense; some at the ends of the range.
fn hostile_number(random: &mut u64) -> u64 {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let number = *random >> 33;
    match number % 8 {
        0 => u64::MAX - number / 8 % 4,
        1 => number << 20,
        _ => number / 8 % 300,
    }
}

#[test]
fn packets_that_no_engine_sends_end_the_session_at_most() {
    let mut random = 1;
    for _ in 0..4 {
        let mut rig = Rig::pair();
        rig.write(0, 0, 1, 4096).unwrap();
        for _ in 0..500 {
            let mut number = || hostile_number(&mut random);
            let to = number() as usize % 2;
            let kind = PacketKind::ALL[number() as usize % PacketKind::ALL.len()];
            let link = if kind.belongs_on(LinkKind::Data) {
                LinkKind::Data
            } else {
                LinkKind::Meta
            };
            let mut header = Header::new(kind, (number() % 16 != 1).then_some(rig::VOLUME));
            header.flags = number() as u16 & 0xf;
            (header.seq, header.sector) = (Seq(number()), Sector(number() & 0xffff_ffff));
            (header.arg, header.term) = (number(), Term(number()));
            header.bytes = (number() as u32 % 33) * if number() % 2 == 0 { 4096 } else { 512 };
            let body: Vec<u8> = (0..number() % 700).map(|_| number() as u8 % 4).collect();
            let has_data = kind.carries_data() && header.bytes > 0;
            let data = has_data.then(|| vec![9; header.bytes as usize].into());
            rig.inject(
                (1 - to, to),
                link,
                header,
                if kind.carries_data() { &[] } else { &body },
                data,
            );
            rig.idle();
            rig.reconnect();
        }
    }
}

#[test]
fn a_disk_comes_and_goes_in_a_session_that_is_old() {
    let mut rig = Rig::pair();
    let session = rig.session(0, 1);
    rig.wait(60_000);
    assert_eq!(
        rig.command(
            1,
            Command::Detach {
                volume: rig::VOLUME
            }
        ),
        Ok(())
    );
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
    assert_eq!(
        rig.command(
            0,
            Command::Detach {
                volume: rig::VOLUME
            }
        ),
        Ok(())
    );
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
fn a_peers_write_of_less_than_a_logical_block_never_reaches_the_disk() {
    let mut rig = Rig::new();
    (0..2).for_each(|node| rig.attach_with_blocks(node, 4096));
    rig.connect();
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.idle();
    let mut header = Header::new(PacketKind::Write, Some(rig::VOLUME));
    (header.seq, header.sector, header.bytes) = (Seq(1 << 30), Sector(8), 512);
    rig.break_wire();
    let data = vec![9; 512].into();
    rig.inject((0, 1), LinkKind::Data, header, &[], Some(data));
    rig.run_until(|rig| rig.session(1, 0).is_none());
    assert_eq!(rig.session(1, 0), None);
    assert_eq!(rig.read_disk(1, 8, 512), [0; 512]);
}

#[test]
fn a_synced_pair_swaps_its_roles_within_the_session() {
    let mut rig = Rig::pair();
    let session = rig.session(0, 1);
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
    assert_eq!(rig.session(0, 1), session);
}

#[test]
fn a_write_that_waits_for_the_log_does_not_keep_the_disk_from_leaving() {
    let mut rig = Rig::pair();
    rig.set_late(1, true);
    let write = rig.begin_write(0, 40_000, 1, 4096);
    rig.idle();
    // The peer's state has been heard when the write is complete without it.
    let token = rig.order(
        1,
        Command::Detach {
            volume: rig::VOLUME,
        },
    );
    rig.run_until(|rig| rig.is_complete(write));
    rig.set_late(1, false);
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.reply(token), Ok(()));
    rig.attach(1);
    rig.assert_equal();
}

#[test]
fn writes_complete_under_protocol_a_outlive_an_outage_and_a_demotion() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    let protocol = Protocol::A;
    rig.command(0, Command::SetProtocol { protocol }).unwrap();
    rig.break_wire();
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()));
    rig.cut_at_once();
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert!(rig.read(1, 0, 4096) == Ok(vec![2; 4096]));
}

#[test]
fn a_write_complete_under_protocol_b_outlives_the_primary() {
    let mut rig = Rig::pair();
    let protocol = Protocol::B;
    rig.command(0, Command::SetProtocol { protocol }).unwrap();
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

#[test]
fn a_trim_of_what_is_not_stable_takes_nothing_away() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    let mut header = Header::new(PacketKind::Trim, Some(rig::VOLUME));
    header.seq = Seq(1 << 40);
    rig.break_wire();
    rig.inject((0, 1), LinkKind::Data, header, &[], None);
    assert_eq!(rig.out_of_sync(1, 0), 8);
}
