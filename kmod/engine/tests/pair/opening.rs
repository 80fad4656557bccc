// SPDX-License-Identifier: GPL-2.0-only

//! Opening a device makes a node primary, and closing it makes it secondary again.

use crate::diskless::with_client;
use crate::rig::Rig;
use weft_engine::event::{Command, Options};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{AutoPromote, Role};

const CLIENT: usize = 2;
/// More effects than a promotion has.
const STEPS: usize = 40;

/// Nobody is primary in a synced pair.
fn idle_pair() -> Rig {
    let mut rig = Rig::pair();
    rig.demote(0);
    rig.idle();
    rig
}

fn set_mode(rig: &mut Rig, number: usize, mode: AutoPromote) {
    let options = Options {
        auto_promote: Some(mode),
        ..Options::default()
    };
    rig.set_options(number, options).unwrap();
}

#[test]
fn an_open_promotes_and_the_last_close_demotes() {
    let mut rig = idle_pair();
    for number in [1, 0, 1] {
        assert_eq!(rig.open(number), Ok(()));
        assert_eq!(rig.primaries(), [number]);
        assert!(rig.is_primary_by_open(number));
        assert_eq!(rig.write(number, 0, number as u8, 4096), Ok(()));
        assert_eq!(rig.open(number), Ok(()));
        rig.close(number);
        assert_eq!(rig.primaries(), [number]);
        rig.close(number);
        assert_eq!(rig.primaries(), []);
        assert!(!rig.is_primary_by_open(number));
        rig.idle();
        rig.assert_equal();
    }
}

#[test]
fn who_was_made_primary_by_command_stays_it() {
    let mut rig = Rig::pair();
    assert_eq!(rig.open(0), Ok(()));
    assert!(!rig.is_primary_by_open(0));
    rig.close(0);
    assert_eq!(rig.primaries(), [0]);
    rig.demote(0);
    assert_eq!(rig.open(1), Ok(()));
    assert_eq!(rig.promote(1), Ok(()));
    assert!(!rig.is_primary_by_open(1));
    rig.close(1);
    rig.idle();
    assert_eq!(rig.primaries(), [1]);
}

#[test]
fn an_open_that_does_not_wait_promotes_nobody() {
    let mut rig = idle_pair();
    rig.begin_open(1, false);
    assert_eq!(rig.door(1), Some(Err(Refusal::NotPrimary)));
    set_mode(&mut rig, 0, AutoPromote::No);
    assert_eq!(rig.open(0), Err(Refusal::NotPrimary));
    rig.idle();
    assert_eq!(rig.primaries(), []);
}

#[test]
fn of_two_nodes_that_are_opened_at_once_one_becomes_primary() {
    for skew in 0..STEPS {
        let mut rig = idle_pair();
        rig.begin_open(skew % 2, true);
        rig.steps(skew / 2);
        rig.begin_open(1 - skew % 2, true);
        rig.idle();
        rig.idle();
        let mut answers = [0, 1].map(|number| rig.door(number).expect("an answer"));
        let winner = usize::from(answers[1].is_ok());
        assert_eq!(rig.primaries(), [winner], "{answers:?}");
        answers.sort_by_key(|answer| answer.is_err());
        assert_eq!(answers, [Ok(()), Err(Refusal::PeerPrimary)]);
    }
}

#[test]
fn who_opens_while_the_other_node_closes_gets_the_role() {
    let mut rig = idle_pair();
    assert_eq!(rig.open(0), Ok(()));
    assert_eq!(rig.write(0, 0, 5, 4096), Ok(()));
    rig.begin_open(1, true);
    rig.steps(STEPS);
    assert_eq!(rig.door(1), None);
    rig.begin_close(0);
    rig.idle();
    assert_eq!(rig.door(1), Some(Ok(())));
    assert_eq!(rig.primaries(), [1]);
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![5; 4096]));
}

#[test]
fn an_open_that_is_interrupted_leaves_nobody_primary() {
    for steps in 0..STEPS {
        let mut rig = idle_pair();
        rig.begin_open(1, true);
        rig.steps(steps);
        rig.interrupt_open(1);
        match rig.door(1) {
            Some(Ok(())) => rig.close(1),
            answer => assert_eq!(answer, Some(Err(Refusal::Interrupted))),
        }
        rig.idle();
        assert_eq!(rig.primaries(), [], "after {steps} steps");
        assert_eq!(rig.open(0), Ok(()));
        assert_eq!(rig.primaries(), [0]);
    }
}

#[test]
fn nobody_stays_primary_whose_open_was_given_up_at_any_time() {
    for seed in 1..300u64 {
        let mut random = seed;
        let mut below = |end: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % end
        };
        let mut rig = idle_pair();
        let (mut is_waiting, mut opens) = ([false; 2], [0; 2]);
        for _ in 0..60 {
            let number = below(2) as usize;
            match below(6) {
                _ if is_waiting[number] => {
                    if let Some(answer) = rig.door(number) {
                        is_waiting[number] = false;
                        opens[number] += u32::from(answer.is_ok());
                    } else if below(8) == 0 {
                        rig.interrupt_open(number);
                    }
                }
                0 | 1 if opens[number] < 2 => {
                    rig.begin_open(number, true);
                    is_waiting[number] = true;
                }
                2 if opens[number] > 0 => {
                    rig.begin_write(number, below(9) * 8, below(200) as u8, 4096);
                }
                3 | 4 if opens[number] > 0 => {
                    rig.close(number);
                    opens[number] -= 1;
                }
                _ => {}
            }
            rig.steps(below(12) as usize);
            rig.pass(below(300));
        }
        for number in 0..2 {
            rig.run_until(|rig| !is_waiting[number] || rig.has_answer(number));
            opens[number] += u32::from(is_waiting[number] && rig.door(number).unwrap().is_ok());
            (0..opens[number]).for_each(|_| rig.close(number));
        }
        rig.idle();
        assert_eq!(rig.primaries(), [], "seed {seed}");
        for number in 0..2 {
            assert_eq!(rig.open(number), Ok(()), "seed {seed}");
            rig.close(number);
        }
        rig.idle();
        rig.assert_equal();
    }
}

#[test]
fn a_crash_while_an_open_promotes_is_one_like_any_other() {
    for steps in 0..STEPS {
        let mut rig = idle_pair();
        rig.begin_open(1, true);
        rig.steps(steps);
        rig.crash(1);
        rig.restart(1);
        rig.idle();
        assert_eq!(rig.open(0), Ok(()), "after {steps} steps");
        assert_eq!(rig.write(0, 0, 6, 4096), Ok(()));
        rig.close(0);
        rig.idle();
        rig.assert_mirrored();
    }
}

#[test]
fn an_open_waits_for_a_majority_and_asks_nobody_without() {
    let mut rig = Rig::voting(3);
    rig.demote(0);
    rig.isolate(1);
    let term = rig.promised_term(1);
    assert_eq!(rig.open(1), Err(Refusal::NoQuorum));
    assert_eq!(rig.promised_term(1), term);
    rig.begin_open(1, true);
    rig.heal();
    assert_eq!(rig.door(1), Some(Ok(())));
    assert_eq!(rig.primaries(), [1]);
}

#[test]
fn without_majority_and_fencing_an_open_forks_nothing() {
    let mut rig = idle_pair();
    rig.isolate(0);
    for number in [0, 1] {
        assert_eq!(rig.open(number), Err(Refusal::PeerOutOfReach));
    }
    set_mode(&mut rig, 1, AutoPromote::Yes);
    assert_eq!(rig.open(1), Ok(()));
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.primaries(), [1]);
    rig.assert_equal();
}

#[test]
fn who_is_known_to_be_of_the_past_is_in_no_opens_way() {
    let mut rig = Rig::pair();
    rig.crash(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    assert_eq!(rig.open(0), Ok(()));
    rig.close(0);
    rig.restart_alone(1);
    assert_eq!(rig.open(1), Err(Refusal::PeerOutOfReach));
}

#[test]
fn the_peer_that_is_lost_during_the_promotion_ends_it() {
    for steps in 0..STEPS {
        let mut rig = idle_pair();
        rig.begin_open(1, true);
        rig.steps(steps);
        rig.isolate(1);
        rig.idle();
        match rig.door(1).expect("an answer") {
            // It was primary, or about to be with the peer's promise.
            Ok(()) => assert_eq!(rig.role(1), Role::Primary),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::PeerOutOfReach, "after {steps} steps");
                assert_eq!(rig.primaries(), []);
            }
        }
        assert_eq!(rig.open(0), Err(Refusal::PeerOutOfReach));
    }
}

#[test]
fn a_close_does_not_wait_for_a_majority_for_ever() {
    let mut rig = Rig::voting(3);
    rig.demote(0);
    assert_eq!(rig.open(0), Ok(()));
    rig.isolate(0);
    rig.begin_close(0);
    rig.idle();
    assert_eq!(rig.door(0), Some(Ok(())));
    assert_eq!(rig.open(0), Err(Refusal::NoQuorum));
    assert_eq!(rig.promote(1), Ok(()));
    rig.heal();
    rig.idle();
    assert_eq!(rig.primaries(), [1]);
    rig.assert_equal();
}

#[test]
fn a_command_after_the_last_close_waits_for_the_same_end() {
    let mut rig = idle_pair();
    assert_eq!(rig.open(1), Ok(()));
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.begin_close(1);
    assert_eq!(rig.command(1, Command::Secondary { force: false }), Ok(()));
    assert_eq!(rig.door(1), Some(Ok(())));
    assert_eq!(rig.primaries(), []);
}

#[test]
fn a_device_that_somebody_waits_for_is_not_removed() {
    let mut rig = idle_pair();
    rig.isolate(1);
    rig.command(
        1,
        Command::Detach {
            volume: crate::rig::VOLUME,
        },
    )
    .unwrap();
    rig.begin_open(1, true);
    let removal = Command::DelDevice {
        volume: crate::rig::VOLUME,
    };
    assert_eq!(rig.command(1, removal), Err(Refusal::DeviceOpen));
    rig.idle();
    assert_eq!(rig.door(1), Some(Err(Refusal::PeerOutOfReach)));
    assert_eq!(rig.command(1, removal), Ok(()));
}

#[test]
fn a_node_without_disk_is_served_for_as_long_as_its_device_is_open() {
    let mut rig = with_client();
    rig.demote(0);
    for _ in 0..2 {
        assert_eq!(rig.open(CLIENT), Ok(()));
        assert!(rig.is_primary_by_open(CLIENT));
        assert_eq!(rig.write(CLIENT, 0, 2, 4096), Ok(()));
        rig.close(CLIENT);
        rig.idle();
        assert_eq!(rig.primaries(), []);
        assert_eq!(rig.open(0), Ok(()));
        rig.close(0);
    }
    rig.assert_equal_disks(2);
}

#[test]
fn nobody_is_told_to_be_primary_whose_role_ends_with_what_is_under_way() {
    let mut rig = with_client();
    rig.demote(0);
    assert_eq!(rig.open(CLIENT), Ok(()));
    (0..2).for_each(|disk| rig.set_stuck(disk, true));
    let write = rig.begin_write(CLIENT, 0, 2, 4096);
    rig.begin_close(CLIENT);
    rig.idle();
    assert_eq!(rig.promote(CLIENT), Err(Refusal::InTransition));
    (0..2).for_each(|disk| rig.set_stuck(disk, false));
    rig.idle();
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.primaries(), []);
    assert_eq!(rig.promote(CLIENT), Ok(()));
}

#[test]
fn who_loses_its_disk_under_an_open_device_is_demoted_by_the_close_all_the_same() {
    let mut rig = idle_pair();
    assert_eq!(rig.open(0), Ok(()));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 0, 3, 4096), Ok(()));
    assert!(rig.is_primary_by_open(0));
    rig.close(0);
    rig.idle();
    assert_eq!(rig.primaries(), []);
    assert_eq!(rig.open(1), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![3; 4096]));
}

#[test]
fn who_was_demoted_by_force_is_not_promoted_before_the_old_application_lets_go() {
    let mut rig = idle_pair();
    assert_eq!(rig.open(0), Ok(()));
    assert_eq!(rig.command(0, Command::Secondary { force: true }), Ok(()));
    assert_eq!(rig.open(0), Err(Refusal::DeviceOpen));
    rig.close(0);
    assert_eq!(rig.open(0), Ok(()));
    rig.close(0);
    assert_eq!(rig.primaries(), []);
}

#[test]
fn who_was_away_while_a_device_was_opened_many_times_fetches_only_what_it_missed() {
    let mut rig = Rig::pair();
    rig.crash(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    for round in 0..50 {
        assert_eq!(rig.open(0), Ok(()));
        if round % 10 == 0 {
            assert_eq!(rig.write(0, 8, round, 4096), Ok(()));
        }
        rig.close(0);
    }
    rig.restart(1);
    rig.idle();
    assert_eq!(rig.rule(1, 0), "behind");
    rig.assert_mirrored();
}
