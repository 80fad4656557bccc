// SPDX-License-Identifier: GPL-2.0-only

//! R5: histories that forked are seen, told, and merged by nobody but a person.

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};

#[test]
fn r5_two_that_were_primary_apart_refuse_to_meet_until_one_gives_up() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(0, Command::Secondary { force: false }), Ok(()));
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.rule(0, 1), "forked");
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(
        rig.command(
            0,
            Command::Connect {
                peer: node(1),
                discard_my_data: true
            }
        ),
        Ok(())
    );
    assert_eq!(
        rig.command(
            1,
            Command::Connect {
                peer: node(0),
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
fn r5_two_that_are_primary_when_they_meet_are_a_split_brain() {
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

/// A pair whose nodes were primary apart, each with a block of its own.
fn forked() -> Rig {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig
}

#[test]
fn r5_a_fork_is_seen_in_every_order_of_events() {
    for order in 0..32u32 {
        let has = |bit: u32| order & (1 << bit) != 0;
        let mut rig = Rig::pair();
        rig.cut();
        if has(0) {
            assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        }
        assert_eq!(rig.promote(1), Ok(()));
        assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
        if !has(0) {
            assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        }
        for node in 0..2 {
            if has(1 + node) {
                rig.demote(node as usize);
            }
            if has(3 + node) {
                rig.crash(node as usize);
                rig.restart(node as usize);
            }
        }
        rig.heal();
        for (node, peer) in [(0, 1), (1, 0)] {
            assert_eq!(rig.rule(node, peer), "forked", "order {order:b}");
            assert!(rig.is_stand_alone(node, peer), "order {order:b}");
        }
        assert_eq!(rig.read_disk(0, 0, 4096), [1; 4096]);
        assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
    }
}

#[test]
fn r5_the_victim_fetches_what_both_wrote_and_no_more() {
    let mut rig = forked();
    rig.heal();
    rig.demote(1);
    rig.reconnect();
    assert_eq!(rig.resynced(0, 1), 16);
    assert_eq!(rig.read_disk(1, 8, 4096), [0; 4096]);
    rig.assert_whole();
}

#[test]
fn r5_a_fork_stays_one_when_both_sides_give_up_or_neither_does() {
    for discards in [false, true] {
        let mut rig = forked();
        rig.demote(0);
        rig.demote(1);
        rig.heal();
        rig.dial(0, 1, discards);
        rig.dial(1, 0, discards);
        rig.idle();
        rig.wait(5_000);
        assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
        assert_eq!(rig.read_disk(0, 0, 4096), [1; 4096]);
        assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
    }
}

#[test]
fn r5_a_primary_gives_nothing_up() {
    let mut rig = forked();
    rig.heal();
    let discard_my_data = true;
    let peer = node(0);
    assert_eq!(
        rig.command(
            1,
            Command::Connect {
                peer,
                discard_my_data
            }
        ),
        Err(Refusal::DiscardPrimary)
    );
}

#[test]
fn r5_a_primary_that_was_overtaken_without_knowing_is_not_overwritten() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.demote(1);
    rig.heal();
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![0; 4096]));
    rig.demote(0);
    rig.dial(0, 1, false);
    rig.dial(1, 0, false);
    rig.idle();
    assert_eq!(rig.rule(0, 1), "behind");
    rig.assert_whole();
}

#[test]
fn r5_a_fork_of_three_is_seen_whoever_meets_first() {
    for first in [0, 1] {
        let mut rig = Rig::synced(3);
        rig.isolate(2);
        assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
        assert_eq!(rig.promote(2), Ok(()));
        assert_eq!(rig.write(2, 8, 2, 4096), Ok(()));
        rig.demote(2);
        rig.heal_pair(first, 2);
        assert!(rig.is_stand_alone(2, first), "first {first}");
        rig.heal();
        for node in 0..2 {
            assert!(rig.is_stand_alone(2, node) && rig.is_stand_alone(node, 2));
        }
        assert_eq!(rig.read_disk(2, 8, 4096), [2; 4096]);
        assert_eq!(rig.write(0, 16, 3, 4096), Ok(()), "the majority goes on");
        rig.reconnect();
        rig.assert_whole();
        assert_eq!(rig.read_disk(2, 0, 4096), [1; 4096]);
    }
}

#[test]
fn a_promotion_by_force_that_is_on_record_is_not_refused_any_more() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    assert_eq!(rig.command(0, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.set_late(1, true);
    let promotion = rig.order(1, Command::Primary { force: true });
    rig.connect();
    rig.idle();
    rig.set_late(1, false);
    rig.idle();
    assert_eq!(rig.reply(promotion), Ok(()));
    rig.wait(5_000);
    rig.idle();
    for number in [0, 1] {
        assert_eq!(rig.role(number), Role::Primary);
        assert_eq!(rig.session(number, 1 - number), None);
    }
    assert!(rig.is_stand_alone(1, 0), "{}", rig.reason(1, 0));
    assert_eq!(rig.read_disk(1, 0, 4096), [0; 4096]);
}

#[test]
fn r5_data_are_given_up_once_and_not_those_that_took_their_place() {
    let mut rig = Rig::synced(3);
    rig.cut();
    rig.demote(0);
    for number in 0..3 {
        assert_eq!(
            rig.command(number, Command::Primary { force: false }),
            Ok(())
        );
        assert_eq!(rig.write(number, 8 * number as u64, 3, 4096), Ok(()));
        rig.demote(number);
    }
    for peer in [0, 2] {
        rig.command(
            1,
            Command::Disconnect {
                peer: node(peer),
                force: false,
            },
        )
        .unwrap();
        rig.dial(1, peer, true);
    }
    rig.heal_pair(1, 2);
    assert_eq!(rig.read_disk(1, 16, 4096), [3; 4096]);
    rig.heal_pair(0, 1);
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(rig.read_disk(1, 16, 4096), [3; 4096]);
}
