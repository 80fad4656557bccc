// SPDX-License-Identifier: GPL-2.0-only

//! R8: whoever reaches a majority of the voters goes on, and nobody else.

use crate::rig::{node, Rig};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Options};
use weft_engine::quorum::OnNoQuorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Protocol, ReplicationState, Role};
use weft_uapi::status::SUSPENDED_QUORUM;
use weft_uapi::units::NodeSet;

const PROMOTE: Command = Command::Primary { force: false };

fn voters(voters: u32) -> Options {
    Options {
        voters: Some(NodeSet(voters)),
        ..Options::default()
    }
}

fn on_no_quorum(what: OnNoQuorum) -> Options {
    Options {
        on_no_quorum: Some(what),
        ..Options::default()
    }
}

/// Voters, those present, and whether they suffice, as a node says.
fn standing(rig: &Rig, number: usize) -> (u32, u32, bool) {
    let info = rig.resource(number);
    (info.voters, info.voters_present, info.has_quorum == 1)
}

#[test]
fn r8_an_isolated_primary_waits_and_says_why_and_goes_on_with_a_majority() {
    let mut rig = Rig::voting(3);
    assert_eq!(standing(&rig, 0), (0b111, 0b111, true));
    assert_eq!(rig.resource(0).suspended, 0);
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.wait(3_000);
    assert!(!rig.is_complete(request));
    assert_eq!(standing(&rig, 0), (0b111, 0b001, false));
    assert_eq!(standing(&rig, 1), (0b111, 0b110, true));
    let info = rig.resource(0);
    assert_ne!(info.suspended & SUSPENDED_QUORUM, 0);
    assert!(info.suspended_since_ms > 0 && info.suspended_ms >= 3_000);
    rig.heal_pair(0, 1);
    assert_eq!(rig.result(request), Some(Ok(())));
    assert_eq!(standing(&rig, 0), (0b111, 0b011, true));
    let info = rig.resource(0);
    assert_eq!((info.suspended, info.suspended_since_ms), (0, 0));
}

#[test]
fn r8_the_majority_promotes_and_the_old_primary_follows_it() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 2, 4096);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 3, 4096), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.heal();
    assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.role(0), Role::Secondary);
    rig.assert_equal();
}

#[test]
fn r8_a_primary_that_was_overtaken_fights_with_nobody_whom_it_meets_again_and_when() {
    for (first, second) in [(1, 2), (2, 1)] {
        for steps in 0.. {
            let mut rig = Rig::voting(3);
            rig.isolate(0);
            let request = rig.begin_write(0, 0, 2, 4096);
            assert_eq!(rig.promote(1), Ok(()));
            assert_eq!(rig.write(1, 8, 3, 4096), Ok(()));
            rig.heal_pair_at_once(0, first);
            let is_between = rig.steps(steps);
            rig.heal_pair(0, second);
            assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
            assert_eq!(rig.primaries(), [1]);
            for peer in [1, 2] {
                let reason = [rig.reason(0, peer), rig.reason(peer, 0)];
                assert_eq!(reason, ["cut"; 2], "{second} met after {steps} steps");
            }
            rig.assert_whole();
            if !is_between {
                break;
            }
        }
    }
}

#[test]
fn r8_requests_that_wait_fail_once_they_shall_not_wait() {
    let mut rig = Rig::voting(3);
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    assert_eq!(rig.set_options(0, on_no_quorum(OnNoQuorum::Fail)), Ok(()));
    assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.write(0, 8, 1, 4096), Err(IoError::NoQuorum));
    assert_eq!(rig.read(0, 8, 4096), Err(IoError::NoQuorum));
}

#[test]
fn a_primary_without_majority_waits_once_votes_count_and_goes_on_once_they_do_not() {
    let mut rig = Rig::synced(3);
    rig.isolate(0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.set_options(0, voters(0b111)), Ok(()));
    assert_eq!(standing(&rig, 0), (0b111, 0b001, false));
    let request = rig.begin_write(0, 0, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    assert_eq!(rig.set_options(0, voters(0)), Ok(()));
    rig.idle();
    assert_eq!(rig.result(request), Some(Ok(())));
}

#[test]
fn nodes_that_do_not_agree_who_votes_promote_nobody() {
    let mut rig = Rig::voting(3);
    rig.command(0, Command::Secondary { force: false }).unwrap();
    assert_eq!(rig.set_options(2, voters(0b110)), Ok(()));
    let refused = rig.command(0, Command::Primary { force: false });
    assert_eq!(refused, Err(Refusal::VotersDiffer));
    assert_eq!(rig.set_options(2, voters(0b111)), Ok(()));
    assert_eq!(rig.command(0, Command::Primary { force: false }), Ok(()));
}

#[test]
fn a_voter_that_nobody_knows_is_refused_and_changes_nothing() {
    let mut rig = Rig::voting(3);
    let refused = rig.set_options(0, voters(0b1011));
    assert_eq!(refused, Err(Refusal::NoSuchVoter));
    assert_eq!(rig.resource(0).voters, 0b111);
    rig.command(0, Command::NewPeer { peer: node(3) }).unwrap();
    assert_eq!(rig.set_options(0, voters(0b1011)), Ok(()));
}

#[test]
fn r8_a_primary_that_was_overtaken_can_lead_again() {
    let mut rig = Rig::voting(3);
    for turn in 0..4u8 {
        let old = rig.primaries()[0];
        let new = (old + 1) % 3;
        rig.isolate(old);
        let write = rig.begin_write(old, 0, 100, 4096);
        rig.idle();
        assert_eq!(rig.promote(new), Ok(()));
        assert_eq!(rig.write(new, 8, turn, 4096), Ok(()));
        rig.heal();
        assert_eq!(rig.result(write), Some(Err(IoError::NoQuorum)));
        assert_eq!(rig.primaries(), [new]);
        rig.assert_whole();
    }
}

#[test]
fn r8_a_minority_promotes_nobody() {
    let mut rig = Rig::voting(3);
    rig.demote(0);
    rig.isolate(2);
    assert_eq!(rig.promote(2), Err(Refusal::NoQuorum));
    assert_eq!(
        rig.command(2, Command::Primary { force: true }),
        Err(Refusal::NoQuorum)
    );
    assert_eq!(rig.promote(0), Ok(()));
    rig.heal();
    rig.assert_whole();
}

#[test]
fn r8_after_a_full_stop_nobody_leads_before_a_majority_is_back() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    (0..3).for_each(|node| rig.crash(node));
    rig.restart(2);
    assert_eq!(rig.promote(2), Err(Refusal::NoQuorum));
    rig.restart(1);
    assert_eq!(rig.promote(2), Ok(()));
    assert_eq!(rig.read(2, 0, 4096), Ok(vec![1; 4096]));
    rig.restart(0);
    rig.assert_whole();
}

#[test]
fn r8_a_voter_without_the_newest_record_does_not_lead_a_majority() {
    let mut rig = Rig::voting(3);
    rig.isolate(2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.heal_at_once();
    let promotion = rig.order(2, PROMOTE);
    let result = rig.reply(promotion);
    rig.idle();
    if result.is_err() {
        assert_eq!(rig.promote(2), Ok(()), "it has caught up meanwhile");
    }
    assert_eq!(rig.read(2, 0, 4096), Ok(vec![1; 4096]));
}

#[test]
fn r8_a_cluster_short_of_one_takes_it_in_again_and_can_lose_the_other() {
    let mut rig = Rig::voting(3);
    rig.crash(2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.restart(2);
    rig.crash(1);
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.crash(0);
    rig.restart(1);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
    rig.restart(0);
    rig.assert_whole();
}

#[test]
fn r8_a_primary_at_the_end_of_a_chain_counts_whom_it_reaches() {
    let mut rig = Rig::voting(3);
    rig.cut_pair(0, 2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(1);
    let write = rig.begin_write(0, 8, 2, 4096);
    rig.wait(60_000);
    assert!(!rig.is_complete(write), "nobody is in reach");
    rig.restart(1);
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.heal();
    rig.assert_whole();
}

#[test]
fn r8_the_middle_of_a_chain_leads_when_the_far_end_is_down() {
    let mut rig = Rig::voting(5);
    rig.demote(0);
    rig.cut_pair(0, 2);
    rig.crash(3);
    rig.crash(4);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.crash(2);
    let write = rig.begin_write(1, 8, 2, 4096);
    rig.wait(60_000);
    assert!(!rig.is_complete(write), "two of five");
    rig.restart(3);
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.restart(2);
    rig.restart(4);
    rig.heal();
    rig.assert_whole();
}

#[test]
fn r8_a_record_that_no_majority_knows_is_not_data() {
    let mut rig = Rig::voting(3);
    rig.isolate(0);
    let write = rig.begin_write(0, 0, 9, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    rig.crash(0);
    assert_eq!(rig.promote(2), Ok(()));
    assert_eq!(rig.write(2, 8, 2, 4096), Ok(()));
    rig.heal();
    rig.restart(0);
    rig.assert_whole();
    assert_eq!(rig.read_disk(0, 0, 4096), [0; 4096]);
}

#[test]
fn r8_a_secondary_that_lost_sight_of_everybody_fetches_what_was_written_meanwhile() {
    let mut rig = Rig::voting(3);
    rig.isolate(2);
    rig.wait(60_000);
    rig.crash(2);
    for at in 0..4u64 {
        assert_eq!(rig.write(0, at * 8192, 3, 4096), Ok(()));
    }
    assert_eq!(rig.out_of_sync(0, 2), 32);
    rig.heal();
    rig.restart(2);
    assert_eq!(rig.resynced(0, 2), 32);
    rig.assert_whole();
}

#[test]
fn r8_disks_that_go_and_come_in_turn_never_diverge() {
    let mut rig = Rig::voting(3);
    for turn in 0..6u8 {
        let away = 1 + usize::from(turn) % 2;
        rig.detach(away);
        assert_eq!(rig.write(0, u64::from(turn) * 8, turn + 1, 4096), Ok(()));
        rig.attach(away);
        rig.idle();
    }
    rig.detach(1);
    assert_eq!(rig.write(0, 80, 9, 4096), Ok(()));
    rig.crash(0);
    rig.attach(1);
    rig.idle();
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.read(1, 80, 4096), Ok(vec![9; 4096]));
    rig.restart(0);
    rig.assert_whole();
}

#[test]
fn r8_two_nodes_with_votes_stop_when_they_part() {
    let mut rig = Rig::voting(2);
    rig.cut();
    let write = rig.begin_write(0, 0, 1, 4096);
    rig.wait(60_000);
    assert!(!rig.is_complete(write));
    assert_eq!(rig.promote(1), Err(Refusal::NoQuorum));
    rig.heal();
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.assert_whole();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn r8_two_promotions_at_once_in_two_halves_make_one_primary() {
    let mut rig = Rig::voting(5);
    rig.demote(0);
    for (a, b) in [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)] {
        rig.cut_pair(a, b);
    }
    let small = rig.order(3, PROMOTE);
    let large = rig.order(0, PROMOTE);
    assert_eq!(rig.reply(small), Err(Refusal::NoQuorum));
    assert_eq!(rig.reply(large), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.primaries(), [0]);
    rig.assert_whole();
}

#[test]
fn a_record_that_waits_for_votes_is_made_once() {
    let mut rig = Rig::voting(4);
    rig.crash(2);
    rig.crash(3);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.cut_pair(0, 1);
    rig.heal_pair(0, 1);
    assert!(!rig.is_complete(request), "two of four");
    rig.restart(2);
    assert_eq!(rig.result(request), Some(Ok(())));
    rig.restart(3);
    rig.assert_equal();
    assert_eq!(rig.members(0), 0b1111);
}

#[test]
fn a_target_that_joined_without_a_majority_stays_a_member_in_the_record_that_follows() {
    let mut rig = Rig::voting(5);
    rig.crash(3);
    rig.cut_pair(0, 1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(4);
    // Two of five: the record by which node 1 joins has to wait.
    rig.isolate(2);
    rig.heal_pair(0, 1);
    let request = rig.begin_write(0, 8, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    rig.restart(3);
    assert_eq!(rig.result(request), Some(Ok(())));
    assert_eq!(rig.members(0) & 0b11, 0b11);
    rig.crash(0);
    assert_eq!(rig.read_disk(1, 8, 4096), vec![2; 4096]);
}

#[test]
fn a_primary_that_nobody_replaced_goes_on_with_what_it_had_begun() {
    for peers in [&[1][..], &[1, 2]] {
        let mut rig = Rig::voting(3);
        rig.break_pair(0, 1);
        let request = rig.begin_write(0, 0, 7, 4096);
        rig.idle();
        rig.isolate(0);
        rig.wait(5_000);
        assert!(!rig.is_complete(request));
        for &peer in peers {
            rig.heal_pair(0, peer);
        }
        assert_eq!(rig.result(request), Some(Ok(())));
        assert_eq!(rig.primaries(), [0]);
        rig.heal();
        rig.assert_whole();
        assert_eq!(rig.read_disk(1, 0, 4096), vec![7; 4096]);
    }
}

#[test]
fn r8_a_replaced_disk_does_not_vote_before_a_majority_without_it_took_it_in() {
    let mut rig = Rig::voting(3);
    rig.isolate(2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.crash(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.heal_at_once();
    rig.restart(1);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate, "fetched from 2");
    for number in [1, 2] {
        assert_eq!(rig.command(number, PROMOTE), Err(Refusal::NoQuorum));
    }
    rig.restart(0);
    assert_eq!(rig.command(2, PROMOTE), Ok(()));
    assert_eq!(rig.read(2, 0, 4096), Ok(vec![1; 4096]));
    rig.assert_equal();
    rig.crash(0);
    rig.crash(2);
    rig.restart(2);
    assert_eq!(rig.command(1, PROMOTE), Ok(()), "it has been taken in");
}

#[test]
fn r8_a_person_may_count_on_a_replaced_disk() {
    let mut rig = Rig::voting(3);
    rig.crash(0);
    rig.crash(1);
    rig.replace_disk(1);
    rig.restart(1);
    assert_eq!(rig.command(2, PROMOTE), Err(Refusal::NoQuorum));
    assert_eq!(rig.command(2, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(2, 0, 2, 4096), Ok(()));
}

#[test]
fn a_record_that_is_not_on_disk_yet_is_not_told_in_a_new_session() {
    let mut rig = Rig::voting(3);
    rig.set_late(1, true);
    rig.isolate(2);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    rig.cut_pair(0, 1);
    rig.heal_pair(0, 1);
    // A power cut of node 1 would take it back, so node 0 must not count on it.
    assert_eq!(rig.replication(0, 1), ReplicationState::Off);
    rig.set_late(1, false);
    rig.idle();
    assert_eq!(rig.result(request), Some(Ok(())));
    rig.heal();
    rig.assert_whole();
}

#[test]
fn an_election_that_waits_for_votes_is_no_crash() {
    let mut rig = Rig::voting(3);
    (0..3).for_each(|number| rig.set_protocol(number, Protocol::A));
    rig.isolate(2);
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.idle();
    rig.break_pair(0, 1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.cut_pair_at_once(0, 1);
    rig.demote(0);
    // Node 2 has a vote, and does not know the newest record before it has all data of node 1.
    rig.set_slow(1, true);
    rig.heal_pair(1, 2);
    assert_eq!(rig.disk_state(2), DiskState::Inconsistent);
    rig.heal_pair(0, 2);
    let promotion = rig.order(0, PROMOTE);
    rig.idle();
    assert_eq!(rig.answered(promotion), None);
    rig.heal_pair(0, 1);
    rig.set_slow(1, false);
    rig.idle();
    assert_eq!(rig.rule(1, 0), "same-data");
    assert_eq!(rig.read_disk(1, 0, 4096), vec![1; 4096], "it was fetched");
}
