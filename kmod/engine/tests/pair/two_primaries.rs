// SPDX-License-Identifier: GPL-2.0-only

//! Two primaries at the same time, where that was asked for: the second one is served by the first.

use crate::rig::{all_vote, Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Op, Options};
use weft_engine::quorum::Quorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::status::SUSPENDED_NO_SERVER;

fn allowed() -> Options {
    Options {
        two_primaries: Some(true),
        ..Options::default()
    }
}

/// Both nodes of a pair, or two of more, are primary.
fn both_lead(mut rig: Rig, nodes: usize) -> Rig {
    for node in 0..nodes {
        assert_eq!(rig.set_options(node, allowed()), Ok(()));
    }
    assert_eq!(rig.promote(1), Ok(()));
    rig.idle();
    assert_eq!(rig.primaries(), [0, 1]);
    rig
}

#[test]
fn a_second_primary_is_refused_unless_that_was_asked_for_on_both_sides() {
    let mut rig = Rig::pair();
    assert_eq!(rig.promote(1), Err(Refusal::PeerPrimary));
    assert_eq!(rig.set_options(1, allowed()), Ok(()));
    assert_eq!(rig.promote(1), Err(Refusal::PeerPrimary));
    assert_eq!(rig.set_options(0, allowed()), Ok(()));
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.open(1), Ok(()));
    assert_eq!(rig.open(0), Ok(()));
}

#[test]
fn nothing_is_taken_from_an_application_before_the_second_one_is_primary() {
    let mut rig = Rig::pair();
    for node in 0..2 {
        assert_eq!(rig.set_options(node, allowed()), Ok(()));
    }
    let order = rig.order(1, Command::Primary { force: false });
    let write = rig.begin_write(1, 0, 1, 4096);
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.reply(order), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
}

#[test]
fn a_third_primary_is_refused() {
    let mut rig = both_lead(Rig::synced(3), 3);
    assert_eq!(rig.promote(2), Err(Refusal::PeerPrimary));
    assert_eq!(rig.primaries(), [0, 1]);
}

#[test]
fn a_third_primary_is_refused_while_the_second_one_waits_for_the_first() {
    let mut rig = both_lead(Rig::synced(3), 3);
    rig.cut_pair(0, 1);
    assert_eq!(rig.promote(2), Err(Refusal::PeerPrimary));
    rig.heal();
    assert_eq!(rig.primaries(), [0, 1]);
}

#[test]
fn a_second_primary_whose_place_was_taken_while_it_was_out_of_reach_ends() {
    let mut rig = both_lead(Rig::synced(3), 3);
    rig.isolate(1);
    let write = rig.begin_write(1, 0, 2, 4096);
    assert_eq!(rig.promote(2), Ok(()));
    rig.heal();
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.primaries(), [0, 2]);
    rig.assert_whole();
}

/// Nodes 1 and 2 are primary, without disks, and node 0 serves both.
fn served_by_a_third(quorum: Quorum) -> Rig {
    let mut rig = Rig::configured(3, 131_072, quorum).sync();
    (0..3).for_each(|node| assert_eq!(rig.set_options(node, allowed()), Ok(())));
    rig.detach(1);
    rig.detach(2);
    assert_eq!(rig.promote(1), Ok(()));
    rig.demote(0);
    assert_eq!(rig.promote(2), Ok(()));
    rig
}

#[test]
fn of_two_primaries_that_lose_the_server_of_both_one_goes_on() {
    let mut rig = served_by_a_third(all_vote(3));
    rig.crash(0);
    rig.attach(1);
    rig.attach(2);
    rig.restart(0);
    rig.idle();
    assert_eq!(rig.primaries(), [1], "a new term ends the other one");
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.assert_whole();
}

#[test]
fn without_majority_nobody_leads_who_lacks_what_the_other_application_was_told() {
    let mut rig = served_by_a_third(Quorum::default());
    rig.attach(1);
    rig.idle();
    // Only the server's disk gets what node 2 writes now.
    rig.cut_pair(0, 1);
    assert_eq!(rig.write(2, 0, 5, 4096), Ok(()));
    rig.isolate(0);
    rig.wait(30_000);
    rig.idle();
    let read = rig.begin_op(1, Op::Read, 0, 4096);
    rig.idle();
    assert_eq!(rig.result(read), None, "it was elected, and lacks a write");
    rig.heal();
    rig.idle();
    // The new term of whoever is served first ends the other application.
    for disk in 0..2 {
        assert_eq!(rig.read_disk(disk, 0, 4096), [5; 4096]);
    }
    rig.assert_equal_disks(2);
}

/// Whatever the interleaving.
#[test]
fn writes_to_one_block_from_both_sides_end_in_one_order_everywhere() {
    let mut steps = 0;
    loop {
        let mut rig = both_lead(Rig::pair(), 2);
        let first = rig.begin_write(1, 0, 2, 8192);
        let went_on = rig.steps(steps);
        let second = rig.begin_write(0, 8, 1, 8192);
        let third = rig.begin_write(1, 8, 3, 4096);
        rig.run_until(|rig| [first, second, third].iter().all(|it| rig.is_complete(*it)));
        rig.assert_equal();
        let bytes = rig.read(0, 8, 4096).unwrap();
        assert_eq!(rig.read(1, 8, 4096), Ok(bytes.clone()), "{steps} steps");
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        if !went_on {
            return;
        }
        steps += 1;
    }
}

#[test]
fn each_primary_reads_what_the_other_one_was_told_is_written() {
    let mut rig = both_lead(Rig::pair(), 2);
    for turn in 1..5u8 {
        let writer = usize::from(turn % 2);
        assert_eq!(rig.write(writer, 0, turn, 4096), Ok(()));
        assert_eq!(rig.read(1 - writer, 0, 4096), Ok(vec![turn; 4096]));
    }
}

#[test]
fn without_majority_the_second_primary_waits_for_the_first_or_a_person() {
    let mut rig = both_lead(Rig::pair(), 2);
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    let write = rig.begin_write(1, 0, 2, 4096);
    rig.wait(30_000);
    assert!(!rig.is_complete(write));
    assert_ne!(rig.resource(1).suspended & SUSPENDED_NO_SERVER, 0);
    rig.heal();
    rig.run_until(|rig| rig.is_complete(write));
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.assert_equal();
    assert_eq!(rig.primaries(), [0, 1]);

    rig.crash(0);
    let write = rig.begin_write(1, 8, 3, 4096);
    rig.wait(30_000);
    assert!(!rig.is_complete(write));
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    rig.run_until(|rig| rig.is_complete(write));
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.restart(0);
    rig.assert_whole();
    assert_eq!(rig.primaries(), [1]);
}

#[test]
fn r8_with_a_majority_the_second_primary_goes_on_by_itself_when_the_first_dies() {
    let mut rig = both_lead(Rig::voting(3), 3);
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.crash(0);
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.restart(0);
    rig.assert_whole();
    assert_eq!(rig.primaries(), [1]);
    assert_eq!(rig.resource(1).server, 0);
}

/// A virtual machine moves from one node to the other.
#[test]
fn the_role_moves_over_without_a_moment_in_which_nobody_has_it() {
    let mut rig = Rig::pair();
    for turn in 0..4u8 {
        let (from, to) = (usize::from(turn % 2), usize::from(1 - turn % 2));
        assert_eq!(rig.set_options(from, allowed()), Ok(()));
        assert_eq!(rig.set_options(to, allowed()), Ok(()));
        assert_eq!(rig.promote(to), Ok(()));
        assert_eq!(rig.write(from, 0, turn, 4096), Ok(()));
        assert_eq!(
            rig.command(from, Command::Secondary { force: false }),
            Ok(())
        );
        assert_eq!(rig.write(to, 8, turn, 4096), Ok(()));
        rig.idle();
        assert_eq!(rig.role(from), Role::Secondary);
        // It leads itself now: nothing goes by way of the other node any more.
        let info = rig.resource(to);
        assert_eq!(
            (info.server, rig.resource(from).clients),
            (0, 0),
            "{VOLUME}"
        );
        rig.assert_whole();
    }
}

/// The read had begun when the disk was given up.
#[test]
fn the_second_primary_is_shown_nothing_of_a_disk_that_is_given_up() {
    let mut rig = both_lead(Rig::pair(), 2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.idle();
    rig.lose_cache(1, 0, 4096);
    rig.set_slow(1, true);
    let read = rig.begin_op(1, Op::Read, 0, 4096);
    let give_up = Command::Invalidate {
        volume: VOLUME,
        from: None,
    };
    assert_eq!(rig.command(1, give_up), Ok(()));
    rig.set_slow(1, false);
    rig.run_until(|rig| rig.is_complete(read));
    assert_eq!(rig.result(read), Some(Ok(())));
    assert_eq!(rig.content(read), [1; 4096]);
    rig.assert_whole();
}

/// Else it could have read what nobody has any more after its own end.
#[test]
fn a_primary_is_shown_what_a_lost_one_was_writing_once_that_stays() {
    let mut rig = both_lead(Rig::synced(3), 3);
    rig.set_late(2, true);
    rig.begin_write(1, 0, 2, 4096);
    while rig.read_disk(0, 0, 4096) != [2; 4096] {
        assert!(rig.steps(1));
    }
    rig.crash(1);
    let read = rig.begin_op(0, Op::Read, 0, 4096);
    let other = rig.begin_op(0, Op::Read, 8, 4096);
    rig.idle();
    assert!(rig.is_complete(other));
    assert!(!rig.is_complete(read), "node 1 may lack it");
    rig.set_late(2, false);
    rig.run_until(|rig| rig.is_complete(read));
    assert_eq!(rig.result(read), Some(Ok(())));
    assert_eq!(rig.content(read), [2; 4096]);
    rig.restart(1);
    rig.assert_whole();
}

#[test]
fn what_a_server_without_majority_has_is_read_nowhere() {
    let mut rig = Rig::voting(4);
    for node in 0..4 {
        assert_eq!(rig.set_options(node, allowed()), Ok(()));
    }
    rig.break_wire();
    let write = rig.begin_write(0, 0, 1, 4096);
    while rig.read_disk(0, 0, 4096) != [1; 4096] {
        assert!(rig.steps(1));
    }
    rig.cut_at_once();
    rig.idle();
    rig.heal_pair(0, 1);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.read_disk(1, 0, 4096), [1; 4096]);
    let read = rig.begin_op(1, Op::Read, 0, 4096);
    rig.idle();
    assert!(!rig.is_complete(write) && !rig.is_complete(read));
    rig.heal();
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.result(read), Some(Ok(())));
}
