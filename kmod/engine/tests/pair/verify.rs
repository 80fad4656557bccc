// SPDX-License-Identifier: GPL-2.0-only

//! Copies are compared while they are in use, and what differs is repaired.

use crate::rig::{node, Rig, VOLUME};
use weft_engine::event::{Command, Options, Wanted};
use weft_engine::quorum::Quorum;
use weft_uapi::limits::FOUND_MAX;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState, VerifyState};
use weft_uapi::units::{Sector, Seq};
use weft_uapi::version::{FEATURES, FEATURE_VERIFY};
use weft_uapi::wire::{Header, LinkKind, PacketKind, FLAG_YES};

const SECTORS: u64 = 8192;

const ALL: Wanted = Wanted::Range {
    start: Sector(0),
    stop: None,
};

fn part(start: u64, stop: u64) -> Wanted {
    Wanted::Range {
        start: Sector(start),
        stop: Some(Sector(stop)),
    }
}

fn compare(peer: usize, wanted: Wanted) -> Command {
    Command::Verify {
        volume: VOLUME,
        peer: node(peer),
        wanted,
    }
}

fn stop(peer: usize) -> Command {
    Command::VerifyStop {
        volume: VOLUME,
        peer: node(peer),
    }
}

fn repair(peer: usize, from: usize) -> Command {
    Command::Repair {
        volume: VOLUME,
        peer: node(peer),
        from: node(from),
    }
}

/// A synced pair that node 0 leads.
fn pair() -> Rig {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default()).sync();
    assert_eq!(rig.write(0, 0, 7, 64 << 10), Ok(()));
    rig.idle();
    rig
}

/// Both sides say that this differs, in sectors, and that all was compared.
fn assert_found(rig: &mut Rig, found: &[(u64, u64)]) {
    rig.idle();
    for (number, peer) in [(0, 1), (1, 0)] {
        let info = rig.verify(number, peer);
        assert_eq!(info.state, VerifyState::Finished, "node {number}");
        assert_eq!(info.found, found, "node {number}");
        assert_eq!(info.upto, info.stop, "node {number}");
    }
}

#[test]
fn equal_copies_are_found_equal_and_different_ones_different_from_either_side() {
    for orders in [0, 1] {
        let mut rig = pair();
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[]);
        rig.flip(1, 4100);
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[(4096, 4104)]);
        rig.flip(0, 4110);
        rig.flip(0, 8);
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[(8, 16), (4096, 4112)]);
        assert_eq!(rig.out_of_sync(0, 1), 0, "it only reports");
    }
}

#[test]
fn two_that_nobody_leads_are_compared_as_well() {
    for orders in [0, 1] {
        let mut rig = pair();
        rig.demote(0);
        rig.flip(0, 16);
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[(16, 24)]);
    }
}

#[test]
fn only_what_is_asked_for_is_compared_in_whole_blocks() {
    let mut rig = pair();
    for sector in [0, 800, 1000, 2000] {
        rig.flip(1, sector);
    }
    assert_eq!(rig.command(0, compare(1, part(801, 1001))), Ok(()));
    assert_found(&mut rig, &[(800, 808), (1000, 1008)]);
    assert_eq!(rig.command(0, compare(1, part(808, 1000))), Ok(()));
    assert_found(&mut rig, &[]);
    let end = rig.data_sectors();
    for wanted in [part(8, 8), part(16, 8), part(end, end + 8)] {
        let refused = rig.command(0, compare(1, wanted));
        assert_eq!(refused, Err(Refusal::BadArgument), "{wanted:?}");
    }
    assert_eq!(rig.command(0, compare(1, part(0, u64::MAX))), Ok(()));
    assert_found(&mut rig, &[(0, 8), (800, 808), (1000, 1008), (2000, 2008)]);
}

#[test]
fn writes_under_way_are_never_taken_for_differences() {
    for orders in [0, 1] {
        for pace in 1..12 {
            let mut rig = pair();
            rig.flip(1, 6000);
            let order = rig.order(orders, compare(1 - orders, ALL));
            let mut writes = std::collections::VecDeque::new();
            for at in 0..300u64 {
                let sector = (at * 37 * 8) % 5600;
                writes.push_back(rig.begin_write(0, sector, at as u8, 8192));
                rig.steps(pace);
                if writes.len() > 20 {
                    let oldest = writes.pop_front().unwrap();
                    rig.run_until(|rig| rig.is_complete(oldest));
                }
            }
            assert_eq!(rig.reply(order), Ok(()));
            rig.idle();
            assert_found(&mut rig, &[(6000, 6008)]);
        }
    }
}

#[test]
fn more_differences_than_can_be_kept_are_counted_and_covered() {
    let mut rig = pair();
    for at in 0..60 {
        rig.flip(1, at * 32);
    }
    assert_eq!(rig.command(1, compare(0, ALL)), Ok(()));
    rig.idle();
    for (number, peer) in [(0, 1), (1, 0)] {
        let info = rig.verify(number, peer);
        assert_eq!(info.differing, 60 * 8);
        assert_eq!(info.found.len(), FOUND_MAX);
    }
    assert_eq!(rig.command(0, repair(1, 0)), Ok(()));
    rig.idle();
    rig.assert_whole();
}

#[test]
fn what_differs_is_repaired_from_either_side_and_nothing_else_is_fetched() {
    for (orders, from, is_led) in [
        (0, 0, true),
        (1, 0, true),
        (0, 0, false),
        (0, 1, false),
        (1, 1, false),
        (1, 0, false),
    ] {
        let mut rig = pair();
        if !is_led {
            rig.demote(0);
        }
        // Until the logs are empty.
        rig.wait(11_000);
        rig.idle();
        rig.flip(1 - from, 16);
        assert_eq!(
            rig.command(orders, repair(1 - orders, from)),
            Err(Refusal::NothingFound)
        );
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[(16, 24)]);
        assert_eq!(rig.command(orders, repair(1 - orders, from)), Ok(()));
        assert_eq!(rig.rule(orders, 1 - orders), "repair");
        rig.idle();
        rig.assert_whole();
        assert_eq!(rig.read_disk(from, 16, 512), [7; 512]);
        assert_eq!(rig.resynced(1 - from, from), 8);
        assert_eq!(rig.verify(0, 1).state, VerifyState::Repaired);
        assert_eq!(
            rig.command(orders, repair(1 - orders, from)),
            Err(Refusal::NothingFound)
        );
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        assert_found(&mut rig, &[]);
    }
}

#[test]
fn a_primary_is_not_repaired_from_its_peer() {
    let mut rig = pair();
    rig.flip(0, 16);
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    assert_found(&mut rig, &[(16, 24)]);
    assert_eq!(rig.command(0, repair(1, 1)), Err(Refusal::IsPrimary));
    assert_eq!(rig.command(1, repair(0, 1)), Err(Refusal::PeerPrimary));
    assert_eq!(rig.command(1, repair(0, 5)), Err(Refusal::BadArgument));
    rig.demote(0);
    assert_eq!(rig.command(0, repair(1, 1)), Ok(()));
    rig.assert_whole();
    assert_eq!(rig.read_disk(0, 16, 512), [7; 512]);
}

#[test]
fn a_repair_under_load_and_with_a_power_cut_at_any_step_never_takes_the_wrong_copy() {
    for steps in 0..60 {
        for crashed in [&[1][..], &[0], &[0, 1]] {
            let mut rig = pair();
            rig.flip(1, 16);
            assert_eq!(rig.command(1, compare(0, ALL)), Ok(()));
            rig.idle();
            let order = rig.order(steps % 2, repair(1 - steps % 2, 0));
            let write = rig.begin_write(0, 4000, 9, 4096);
            rig.steps(steps);
            let was_owed = rig.answered(order) == Some(Ok(()));
            rig.result(write);
            crashed.iter().for_each(|&number| rig.crash(number));
            crashed.iter().for_each(|&number| rig.restart(number));
            rig.idle();
            rig.assert_uptodate(steps);
            // Who crashed before that may fetch from the other one whatever differs.
            for number in 0..2 {
                let is_right = rig.read_disk(number, 16, 1) == [7];
                assert!(is_right || !was_owed, "{steps}: node {number}");
            }
        }
    }
}

#[test]
fn a_run_that_breaks_off_goes_on_from_there() {
    for (orders, resumes) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut rig = pair();
        let end = rig.data_sectors();
        rig.flip(1, 0);
        rig.flip(1, 7800);
        assert_eq!(
            rig.command(resumes, compare(1 - resumes, Wanted::Rest)),
            Err(Refusal::NothingToResume)
        );
        assert_eq!(rig.command(orders, compare(1 - orders, ALL)), Ok(()));
        rig.run_until(|rig| rig.verify(resumes, 1 - resumes).upto >= 1024);
        rig.cut_at_once();
        rig.idle();
        let broken = rig.verify(resumes, 1 - resumes);
        assert_eq!(broken.state, VerifyState::Disconnected);
        assert!(broken.upto >= 1024 && broken.upto < end);
        assert_eq!(rig.replication(0, 1), ReplicationState::Off);
        rig.heal();
        // What lies before is not looked at again.
        rig.flip(1, 512);
        assert_eq!(
            rig.command(resumes, compare(1 - resumes, Wanted::Rest)),
            Ok(())
        );
        rig.idle();
        assert_found(&mut rig, &[(0, 8), (7800, 7808)]);
        assert_eq!(rig.verify(resumes, 1 - resumes).start, 0);
        let again = rig.command(resumes, compare(1 - resumes, Wanted::Rest));
        assert_eq!(again, Err(Refusal::NothingToResume));
    }
}

#[test]
fn a_run_is_stopped_by_either_side_and_goes_on_by_order() {
    for stops in [0, 1] {
        let mut rig = pair();
        assert_eq!(
            rig.command(stops, stop(1 - stops)),
            Err(Refusal::VerifyNotRunning)
        );
        assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
        assert_eq!(rig.replication(0, 1), ReplicationState::VerifySource);
        rig.run_until(|rig| rig.verify(stops, 1 - stops).upto > 0);
        assert_eq!(rig.replication(1, 0), ReplicationState::VerifyTarget);
        assert_eq!(rig.command(0, compare(1, ALL)), Err(Refusal::VerifyRunning));
        assert_eq!(rig.command(1, compare(0, ALL)), Err(Refusal::VerifyRunning));
        assert_eq!(rig.command(1, repair(0, 0)), Err(Refusal::VerifyRunning));
        assert_eq!(rig.command(stops, stop(1 - stops)), Ok(()));
        rig.idle();
        for (number, peer) in [(0, 1), (1, 0)] {
            assert_eq!(rig.verify(number, peer).state, VerifyState::Stopped);
            assert_eq!(rig.replication(number, peer), ReplicationState::Established);
        }
        assert_eq!(rig.command(1 - stops, compare(stops, Wanted::Rest)), Ok(()));
        assert_found(&mut rig, &[]);
    }
}

#[test]
fn a_run_waits_while_resyncs_have_to() {
    let mut rig = pair();
    assert_eq!(rig.command(1, Command::PauseSync { peer: node(0) }), Ok(()));
    rig.idle();
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    rig.idle();
    assert_eq!(rig.verify(0, 1).upto, 0);
    assert_eq!(
        rig.command(1, Command::ResumeSync { peer: node(0) }),
        Ok(())
    );
    assert_found(&mut rig, &[]);
}

#[test]
fn a_run_ends_when_another_node_begins_to_lead_or_a_disk_goes() {
    let mut rig = pair();
    rig.demote(0);
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    rig.run_until(|rig| rig.verify(0, 1).upto > 0);
    assert_eq!(rig.promote(1), Ok(()));
    for at in 0..50 {
        assert_eq!(rig.write(1, (at * 100) & !7, at as u8, 8192), Ok(()));
    }
    rig.idle();
    for (number, peer) in [(0, 1), (1, 0)] {
        let info = rig.verify(number, peer);
        assert_eq!(info.state, VerifyState::Interrupted);
        assert_eq!(info.differing, 0);
    }
    assert_eq!(rig.command(0, compare(1, Wanted::Rest)), Ok(()));
    rig.run_until(|rig| rig.verify(0, 1).upto > 1000);
    rig.detach(0);
    assert_eq!(rig.verify(0, 1).state, VerifyState::Interrupted);
    assert_eq!(rig.verify(1, 0).state, VerifyState::Interrupted);
    rig.attach(0);
    rig.idle();
    assert_eq!(rig.command(1, compare(0, Wanted::Rest)), Ok(()));
    assert_found(&mut rig, &[]);
}

#[test]
fn only_copies_that_are_up_to_date_and_get_the_same_writes_are_compared() {
    let mut rig = Rig::synced(3);
    assert_eq!(rig.command(1, compare(2, ALL)), Err(Refusal::OtherWriter));
    assert_eq!(rig.command(1, compare(3, ALL)), Err(Refusal::NoSuchPeer));
    assert_eq!(rig.command(1, compare(0, ALL)), Ok(()));
    assert_eq!(rig.command(2, compare(0, ALL)), Ok(()));
    rig.idle();
    for peer in [1, 2] {
        assert_eq!(rig.verify(0, peer).state, VerifyState::Finished);
    }
    rig.cut();
    assert_eq!(rig.command(0, compare(1, ALL)), Err(Refusal::NotConnected));
    rig.heal();
    rig.detach(1);
    assert_eq!(rig.command(0, compare(1, ALL)), Err(Refusal::PeerNoDisk));
    assert_eq!(rig.command(1, compare(0, ALL)), Err(Refusal::NoDisk));
    rig.attach(1);
    rig.idle();
    let invalidate = Command::InvalidatePeer {
        volume: VOLUME,
        peer: node(1),
    };
    assert_eq!(rig.command(0, invalidate), Ok(()));
    assert_ne!(rig.disk_state(1), DiskState::UpToDate);
    for (number, peer) in [(0, 1), (1, 0)] {
        let refused = rig.command(number, compare(peer, ALL));
        assert_eq!(refused, Err(Refusal::ResyncRunning));
    }
    rig.assert_whole();
}

#[test]
fn an_order_to_the_peer_that_is_lost_on_the_way_is_answered() {
    let mut rig = pair();
    rig.break_wire();
    let order = rig.order(1, compare(0, ALL));
    rig.idle();
    assert_eq!(rig.answered(order), None);
    assert_eq!(rig.command(1, compare(0, ALL)), Err(Refusal::VerifyRunning));
    rig.cut_at_once();
    rig.idle();
    assert_eq!(rig.answered(order), Some(Err(Refusal::NotConnected)));
}

#[test]
fn an_order_whose_disk_goes_at_once_is_answered() {
    for steps in 0..8 {
        for leaver in [0, 1] {
            let mut rig = pair();
            rig.demote(0);
            let order = rig.order(1, compare(0, ALL));
            rig.steps(steps);
            rig.order(leaver, Command::Detach { volume: VOLUME });
            rig.idle();
            assert!(rig.answered(order).is_some(), "{steps}");
            assert_ne!(rig.verify(0, 1).state, VerifyState::Running);
        }
    }
}

#[test]
fn two_primaries_are_compared_while_both_write() {
    let two = Options {
        two_primaries: Some(true),
        ..Options::default()
    };
    for pace in 1..8 {
        let mut rig = pair();
        (0..2).for_each(|number| rig.set_options(number, two).unwrap());
        assert_eq!(rig.promote(1), Ok(()));
        rig.idle();
        rig.flip(1, 6000);
        let order = rig.order(1, compare(0, ALL));
        for at in 0..150u64 {
            let writer = at as usize % 2;
            let write = rig.begin_write(writer, (at * 37 * 8) % 5600, at as u8, 8192);
            rig.steps(pace);
            if at % 5 == 0 {
                rig.run_until(|rig| rig.is_complete(write));
            }
        }
        assert_eq!(rig.reply(order), Ok(()));
        assert_found(&mut rig, &[(6000, 6008)]);
    }
}

#[test]
fn orders_that_cross_are_both_answered() {
    for steps in 0..20 {
        let mut rig = pair();
        let first = rig.order(1, compare(0, ALL));
        rig.steps(steps);
        let second = rig.order(0, compare(1, part(0, 4096)));
        rig.idle();
        let answers = [first, second].map(|order| rig.answered(order).expect("an answer"));
        let done = answers.iter().filter(|answer| **answer == Ok(())).count();
        assert!(done >= 1, "{steps}: {answers:?}");
        assert_eq!(rig.verify(0, 1).state, VerifyState::Finished);
    }
}

#[test]
fn a_peer_that_knows_nothing_of_it_is_not_asked() {
    let mut rig = Rig::new();
    (0..2).for_each(|number| rig.attach(number));
    rig.break_wire();
    rig.connect();
    rig.idle();
    rig.greet((1, 0), FEATURES & !FEATURE_VERIFY);
    let refused = rig.command(0, compare(1, ALL));
    assert!(matches!(
        refused,
        Err(Refusal::NotConnected | Refusal::PeerTooOld)
    ));
}

fn about(kind: PacketKind, run: u64, sector: u64, bytes: u32, arg: u64) -> Header {
    let mut header = Header::new(kind, Some(VOLUME));
    (header.seq, header.sector) = (Seq(run), Sector(sector));
    (header.bytes, header.arg) = (bytes, arg);
    header
}

#[test]
fn digests_and_results_that_nobody_asked_for_end_the_session_and_find_nothing() {
    let begin = |rig: &mut Rig| {
        let header = about(PacketKind::VerifyBegin, 5, 0, 0, 4096);
        rig.inject((0, 1), LinkKind::Data, header, &[], None);
    };
    // Of a run that is over, or never began: passed over.
    for (from, to) in [(0, 1), (1, 0)] {
        for kind in [
            PacketKind::VerifyDigest,
            PacketKind::VerifyResult,
            PacketKind::VerifyEnd,
        ] {
            let mut rig = pair();
            let session = rig.session(to, from);
            let header = about(kind, 77, 8, 4096, 0);
            rig.inject((from, to), LinkKind::Data, header, &[0; 16], None);
            rig.idle();
            assert_eq!(rig.session(to, from), session, "{kind}");
            assert_eq!(rig.verify(to, from).differing, 0);
        }
    }
    let end = 1 << 40;
    for (header, body, is_taken) in [
        (about(PacketKind::VerifyDigest, 5, 8, 4096, 0), 16, true),
        (
            about(PacketKind::VerifyDigest, 5, 8, 4096, u64::MAX),
            16,
            true,
        ),
        (about(PacketKind::VerifyDigest, 5, 8, 4096, 0), 15, false),
        (about(PacketKind::VerifyDigest, 5, 8, 0, 0), 16, false),
        (about(PacketKind::VerifyDigest, 5, 8, 512, 0), 16, false),
        (about(PacketKind::VerifyDigest, 5, 9, 4096, 0), 16, false),
        (about(PacketKind::VerifyDigest, 5, 4096, 4096, 0), 16, false),
        (about(PacketKind::VerifyDigest, 5, end, 4096, 0), 16, false),
        (about(PacketKind::VerifyBegin, 6, 0, 0, end), 0, false),
        (about(PacketKind::VerifyBegin, 6, 16, 0, 8), 0, false),
        (about(PacketKind::VerifyBegin, 6, 4, 0, 80), 0, false),
        (about(PacketKind::VerifyOrder, 0, 0, 0, 0), 0, false),
        (about(PacketKind::VerifyEnd, 5, 0, 0, 99), 0, true),
    ] {
        let mut rig = pair();
        rig.break_wire();
        begin(&mut rig);
        let session = rig.session(1, 0);
        let body = vec![0; body];
        rig.inject((0, 1), LinkKind::Data, header, &body, None);
        rig.idle();
        assert_eq!(rig.session(1, 0) == session, is_taken, "{header:?}");
    }
    // More at a time than there is a window for.
    let mut rig = pair();
    rig.break_wire();
    rig.set_slow(1, true);
    begin(&mut rig);
    let session = rig.session(1, 0);
    for at in 0..17 {
        rig.idle();
        assert_eq!(rig.session(1, 0), session, "{at}");
        let header = about(PacketKind::VerifyDigest, 5, at * 8, 4096, 0);
        rig.inject((0, 1), LinkKind::Data, header, &[0; 16], None);
    }
    rig.idle();
    assert_ne!(rig.session(1, 0), session);
}

#[test]
fn a_victim_that_forgot_what_differs_is_not_repaired_by_order_of_the_other_side() {
    let mut rig = pair();
    // Until the logs are empty.
    rig.wait(11_000);
    rig.idle();
    rig.flip(1, 16);
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    rig.idle();
    rig.crash(1);
    rig.restart(1);
    assert_eq!(rig.command(0, repair(1, 0)), Err(Refusal::NothingFound));
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    rig.idle();
    assert_eq!(rig.command(0, repair(1, 0)), Ok(()));
    rig.assert_whole();
}

#[test]
fn a_result_counts_only_for_what_was_told() {
    for (sector, bytes, is_early) in [(8, 4096, false), (0, 4096, false), (0, 128 << 10, true)] {
        let mut rig = pair();
        rig.break_wire();
        rig.set_slow(0, is_early);
        let order = rig.order(0, compare(1, ALL));
        let run = rig.run_underway(0);
        assert_eq!(rig.reply(order), Ok(()));
        rig.idle();
        let session = rig.session(0, 1);
        let mut header = about(PacketKind::VerifyResult, run, sector, bytes, 0);
        header.flags = FLAG_YES;
        rig.inject((1, 0), LinkKind::Data, header, &[], None);
        rig.idle();
        assert_ne!(rig.session(0, 1), session, "{sector} {bytes}");
    }
}

#[test]
fn a_repair_leaves_on_the_list_what_the_victim_has_forgotten() {
    let mut rig = pair();
    rig.wait(11_000);
    rig.idle();
    rig.flip(1, 16);
    rig.flip(1, 7800);
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    rig.run_until(|rig| rig.verify(0, 1).upto >= 1024);
    rig.crash(1);
    rig.idle();
    rig.restart(1);
    assert_eq!(rig.command(0, compare(1, Wanted::Rest)), Ok(()));
    rig.idle();
    assert_eq!(rig.verify(0, 1).found, [(16, 24), (7800, 7808)]);
    assert_eq!(rig.verify(1, 0).found, [(7800, 7808)]);
    assert_eq!(rig.command(0, repair(1, 0)), Ok(()));
    rig.idle();
    assert_eq!(rig.verify(0, 1).found, [(16, 24)]);
    assert_eq!(rig.verify(0, 1).state, VerifyState::Finished);
    assert_eq!(rig.command(0, compare(1, ALL)), Ok(()));
    assert_found(&mut rig, &[(16, 24)]);
    assert_eq!(rig.command(0, repair(1, 0)), Ok(()));
    rig.assert_whole();
}
