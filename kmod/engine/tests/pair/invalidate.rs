// SPDX-License-Identifier: GPL-2.0-only

//! A person gives a disk up: everything is fetched from another one.

use crate::rig::{all_vote, node, Rig, VOLUME};
use weft_engine::event::Command;
use weft_engine::quorum::Quorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};

const SECTORS: u64 = 8192;

const OWN: Command = Command::Invalidate {
    volume: VOLUME,
    from: None,
};

fn own_from(from: usize) -> Command {
    Command::Invalidate {
        volume: VOLUME,
        from: Some(node(from)),
    }
}

fn peers(peer: usize) -> Command {
    Command::InvalidatePeer {
        volume: VOLUME,
        peer: node(peer),
    }
}

/// A synced pair that node 0 leads, with one block on both disks that differs although nobody knows.
fn pair() -> Rig {
    let mut rig = Rig::configured(2, SECTORS, Quorum::default()).sync();
    assert_eq!(rig.write(0, 4096, 7, 4096), Ok(()));
    // Until the logs are empty.
    rig.wait(11_000);
    rig.idle();
    rig.lose_cache(1, 4096, 4096);
    rig
}

/// All of the disk was fetched, and all are equal.
fn assert_fetched(rig: &mut Rig, target: usize, source: usize) {
    rig.idle();
    let all = rig.data_sectors();
    assert_eq!(rig.resynced(target, source), all, "{target} from {source}");
    rig.assert_whole();
    assert_eq!(rig.read_disk(target, 4096, 4096), [7; 4096]);
}

#[test]
fn a_secondary_that_is_given_up_fetches_everything_from_the_primary() {
    let mut rig = pair();
    assert_eq!(rig.command(1, OWN), Ok(()));
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    assert_eq!(rig.rule(1, 0), "invalidated");
    assert_fetched(&mut rig, 1, 0);
}

#[test]
fn a_primary_gives_its_peer_up_under_load() {
    let mut rig = pair();
    let order = rig.order(0, peers(1));
    for at in 0..200u64 {
        rig.steps(3);
        let write = rig.begin_write(0, (at * 8) % 4000, at as u8, 4096);
        rig.steps(2);
        rig.run_until(|rig| rig.is_complete(write));
        assert_eq!(rig.result(write), Some(Ok(())), "{at}");
    }
    assert_eq!(rig.reply(order), Ok(()));
    rig.idle();
    assert!(rig.resynced(1, 0) >= rig.data_sectors());
    rig.assert_whole();
}

#[test]
fn a_node_that_nobody_leads_is_given_up_for_the_one_that_is_named() {
    let mut rig = Rig::configured(3, SECTORS, all_vote(3)).sync();
    assert_eq!(rig.write(0, 4096, 7, 4096), Ok(()));
    rig.demote(0);
    for (victim, source) in [(0, 2), (1, 0), (2, 1)] {
        assert_eq!(rig.command(victim, own_from(source)), Ok(()));
        assert_fetched(&mut rig, victim, source);
    }
    assert_eq!(rig.command(0, peers(1)), Ok(()));
    assert_fetched(&mut rig, 1, 0);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.command(2, OWN), Ok(()));
    assert_fetched(&mut rig, 2, 1);
}

#[test]
fn a_disk_is_given_up_only_where_another_one_has_all_of_it() {
    let mut rig = pair();
    assert_eq!(rig.command(0, OWN), Err(Refusal::IsPrimary));
    assert_eq!(rig.command(1, peers(0)), Err(Refusal::PeerPrimary));
    assert_eq!(rig.command(1, own_from(1)), Err(Refusal::PeerPrimary));
    rig.cut();
    assert_eq!(rig.command(1, OWN), Err(Refusal::NotConnected));
    assert_eq!(rig.command(0, peers(1)), Err(Refusal::NotConnected));
    rig.heal();
    rig.detach(1);
    assert_eq!(rig.command(1, OWN), Err(Refusal::NoDisk));
    assert_eq!(rig.command(0, peers(1)), Err(Refusal::PeerNoDisk));
    rig.attach(1);
    rig.idle();
    assert_eq!(rig.command(1, own_from(3)), Err(Refusal::PeerPrimary));
    assert_eq!(rig.command(0, peers(3)), Err(Refusal::NoSuchPeer));
    assert_eq!(rig.command(1, OWN), Ok(()));
    assert_eq!(rig.command(1, OWN), Err(Refusal::ResyncRunning));
    assert_eq!(rig.command(0, peers(1)), Err(Refusal::ResyncRunning));
    rig.idle();
    rig.demote(0);
    assert_eq!(rig.command(1, own_from(3)), Err(Refusal::NoSuchPeer));
    rig.assert_whole();
}

#[test]
fn a_member_that_does_not_lead_gives_nobody_up_for_itself() {
    let mut rig = Rig::configured(3, SECTORS, Quorum::default()).sync();
    assert_eq!(rig.command(1, peers(2)), Err(Refusal::PeerPrimary));
    assert_eq!(rig.command(1, own_from(2)), Err(Refusal::PeerPrimary));
    rig.demote(0);
    assert_eq!(rig.command(1, peers(2)), Ok(()));
    rig.assert_whole();
}

/// Gives node 1 up by an order at one of the nodes, with a power cut after some steps.
fn cut_in_the_middle(steps: usize, crashed: &[usize], orders: usize, is_led: bool) {
    let mut rig = pair();
    if !is_led {
        rig.demote(0);
    }
    let order = rig.order(orders, if orders == 1 { OWN } else { peers(1) });
    let is_whole = |rig: &Rig| rig.disk_state(1) == DiskState::UpToDate;
    rig.steps(steps);
    let was_given_up = rig.answered(order) == Some(Ok(())) && !is_whole(&rig);
    crashed.iter().for_each(|&number| rig.crash(number));
    crashed.iter().for_each(|&number| {
        rig.restart_alone(number);
    });
    if was_given_up && crashed.contains(&1) {
        assert_eq!(rig.disk_state(1), DiskState::Inconsistent, "{steps}");
        assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk), "{steps}");
    }
    for &number in crashed {
        rig.dial(number, 1 - number, false);
    }
    rig.idle();
    rig.assert_uptodate(steps);
    if was_given_up {
        assert_eq!(rig.read_disk(1, 4096, 4096), [7; 4096], "{steps}");
    }
    let good = rig.read_disk(0, 4096, 4096);
    assert_eq!(good, [7; 4096], "{steps}: the good copy was overwritten");
}

#[test]
fn a_disk_given_up_stays_so_after_a_power_cut_at_any_step_and_is_never_the_source() {
    for steps in 0..48 {
        for crashed in [&[1][..], &[0], &[0, 1]] {
            cut_in_the_middle(steps, crashed, steps % 2, false);
            cut_in_the_middle(steps, crashed, steps % 2, true);
        }
    }
}

#[test]
fn a_session_that_ends_before_it_is_on_record_changes_nothing_about_what_is_owed() {
    for steps in 0..40 {
        let mut rig = Rig::configured(3, SECTORS, Quorum::default()).sync();
        assert_eq!(rig.write(0, 4096, 7, 4096), Ok(()));
        rig.demote(0);
        rig.wait(11_000);
        rig.idle();
        rig.lose_cache(1, 4096, 4096);
        rig.order(2, peers(1));
        rig.steps(steps);
        let was_given_up = rig.disk_state(1) == DiskState::Inconsistent;
        rig.crash(2);
        rig.idle();
        assert_eq!(rig.disk_state(1), DiskState::UpToDate, "{steps}");
        let is_fetched = rig.read_disk(1, 4096, 4096) == [7; 4096];
        assert!(is_fetched || !was_given_up, "{steps}");
        assert_eq!(rig.read_disk(0, 4096, 4096), [7; 4096], "{steps}");
    }
}

#[test]
fn two_disks_are_not_given_up_for_each_other() {
    for steps in 0..40 {
        let mut rig = pair();
        rig.demote(0);
        let first = rig.order(0, OWN);
        rig.steps(steps);
        let second = rig.order(1, OWN);
        rig.idle();
        let answers = [first, second].map(|token| rig.answered(token).expect("an answer"));
        assert!(
            answers != [Ok(()), Ok(())] || steps > 10,
            "{steps}: {answers:?}"
        );
        for (number, peer) in [(0, 1), (1, 0)] {
            assert_eq!(rig.disk_state(number), DiskState::UpToDate, "{steps}");
            let state = rig.replication(number, peer);
            assert_eq!(state, ReplicationState::Established, "{steps}");
        }
    }
}

#[test]
fn three_disks_are_not_given_up_for_each_other_in_a_circle() {
    for steps in 0..40 {
        let mut rig = Rig::configured(3, SECTORS, Quorum::default()).sync();
        rig.demote(0);
        let orders = [(0, 1), (1, 2), (2, 0)].map(|(victim, source)| {
            rig.steps(steps);
            rig.order(victim, own_from(source))
        });
        rig.idle();
        for order in orders {
            assert!(rig.answered(order).is_some(), "{steps}");
        }
        rig.assert_whole();
    }
}

#[test]
fn an_order_whose_disk_goes_at_once_is_answered() {
    let detach = Command::Detach { volume: VOLUME };
    for (number, order) in [(1, OWN), (0, peers(1))] {
        for leaver in [0, 1] {
            let mut rig = pair();
            rig.demote(0);
            let order = rig.order(number, order);
            rig.order(leaver, detach);
            rig.idle();
            assert!(matches!(rig.answered(order), Some(Err(_))));
            assert_eq!(rig.disk_state(1 - leaver), DiskState::UpToDate);
        }
    }
}

#[test]
fn an_order_whose_session_ends_is_answered() {
    let mut rig = pair();
    rig.break_wire();
    let order = rig.order(0, peers(1));
    rig.idle();
    assert_eq!(rig.answered(order), None);
    rig.cut_at_once();
    rig.idle();
    assert_eq!(rig.answered(order), Some(Err(Refusal::NotConnected)));
    rig.heal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn a_third_node_gives_what_the_source_of_a_disk_given_up_cannot_give_any_more() {
    for steps in (0..200).step_by(7) {
        let mut rig = Rig::configured(3, SECTORS, all_vote(3)).sync();
        assert_eq!(rig.write(0, 4096, 7, 4096), Ok(()));
        rig.idle();
        rig.lose_cache(1, 4096, 4096);
        assert_eq!(rig.command(0, peers(1)), Ok(()));
        rig.steps(steps);
        rig.crash(0);
        assert_eq!(rig.promote(2), Ok(()), "{steps}");
        rig.idle();
        assert_eq!(rig.disk_state(1), DiskState::UpToDate, "{steps}");
        assert_eq!(rig.read_disk(1, 4096, 4096), [7; 4096], "{steps}");
        rig.restart(0);
        rig.assert_whole();
    }
}
