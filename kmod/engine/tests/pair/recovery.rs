// SPDX-License-Identifier: GPL-2.0-only

//! R5: a split brain that the policies of both nodes solve, and what they leave to a person.

use crate::rig::Rig;
use weft_engine::event::{Command, Options};
use weft_uapi::split_brain::{Policies, Recovery, SplitBrain0, SplitBrain1};
use weft_uapi::units::{Minor, NodeSet, VolumeId};
use weft_uapi::version::{FEATURES, FEATURE_SPLIT_BRAIN};

const ZERO: Policies = policies(SplitBrain0::ZeroChanges, SplitBrain1::Disconnect);
const LEAST: Policies = policies(SplitBrain0::LeastChanges, SplitBrain1::Disconnect);
const SECONDARY: Policies = policies(SplitBrain0::Disconnect, SplitBrain1::Secondary);

const fn policies(none: SplitBrain0, one: SplitBrain1) -> Policies {
    Policies { none, one }
}

/// A pair with these policies, whose nodes were primary apart; `blocks` is how many each of them wrote.
fn forked(policies: Policies, blocks: [u64; 2]) -> Rig {
    let mut rig = Rig::pair();
    (0..2).for_each(|number| rig.set_policies(number, policies));
    rig.cut();
    rig.demote(0);
    assert_eq!(rig.promote(0), Ok(()));
    write(&mut rig, 0, blocks[0]);
    assert_eq!(rig.promote(1), Ok(()));
    write(&mut rig, 1, blocks[1]);
    rig
}

fn write(rig: &mut Rig, number: usize, blocks: u64) {
    for block in 0..blocks {
        let sector = 8 * (block + 16 * number as u64);
        assert_eq!(rig.write(number, sector, number as u8 + 1, 4096), Ok(()));
    }
}

/// Both are secondary when they meet.
fn meet(mut rig: Rig) -> Rig {
    rig.demote(0);
    rig.demote(1);
    rig.heal();
    rig
}

/// All have the data of `survivor`, and say so; `blocks` is how many each of the two wrote.
fn assert_solved(rig: &mut Rig, recovery: Recovery, survivor: usize, blocks: [u64; 2]) {
    let victim = 1 - survivor;
    for (number, peer) in [(0, 1), (1, 0)] {
        assert_eq!(rig.rule(number, peer), "forked");
        assert_eq!(rig.recovery(number, peer), (recovery, Some(victim)));
    }
    assert_kept(rig, survivor, blocks);
}

fn assert_kept(rig: &mut Rig, survivor: usize, blocks: [u64; 2]) {
    rig.assert_whole();
    for (number, wrote) in blocks.into_iter().enumerate() {
        let byte = if number == survivor && wrote > 0 {
            number as u8 + 1
        } else {
            0
        };
        let sector = 8 * 16 * number as u64;
        assert_eq!(rig.read_disk(1 - survivor, sector, 4096), [byte; 4096]);
    }
}

/// Nothing is overwritten, and both say why.
fn assert_left(rig: &Rig, recovery: Recovery, why: &str) {
    for (number, peer) in [(0, 1), (1, 0)] {
        assert!(rig.is_stand_alone(number, peer));
        assert_eq!(rig.recovery(number, peer), (recovery, None));
        let reason = rig.reason(number, peer);
        assert!(reason.contains(why), "{reason}");
        let sector = 8 * 16 * number as u64;
        assert_eq!(
            rig.read_disk(number, sector, 4096),
            [number as u8 + 1; 4096]
        );
    }
}

#[test]
fn r5_without_primary_the_node_that_wrote_nothing_gives_up() {
    for blocks in [[3, 0], [0, 3]] {
        let mut rig = meet(forked(ZERO, blocks));
        let survivor = usize::from(blocks[1] > 0);
        assert_solved(&mut rig, Recovery::ZeroChanges, survivor, blocks);
    }
    let rig = meet(forked(ZERO, [3, 1]));
    assert_left(&rig, Recovery::BothChanged, "both nodes changed theirs");
}

#[test]
fn r5_two_forks_in_which_nothing_was_written_become_one() {
    for policy in [ZERO, LEAST] {
        let mut rig = meet(forked(policy, [0, 0]));
        assert_kept(&mut rig, 0, [0, 0]);
    }
}

#[test]
fn r5_without_primary_the_node_that_wrote_less_gives_up() {
    for blocks in [[3, 1], [1, 3], [0, 1]] {
        let mut rig = meet(forked(LEAST, blocks));
        let survivor = usize::from(blocks[1] > blocks[0]);
        assert_solved(&mut rig, Recovery::LeastChanges, survivor, blocks);
    }
    let rig = meet(forked(LEAST, [2, 2]));
    assert_left(&rig, Recovery::EqualChanges, "as many blocks");
}

#[test]
fn r5_with_one_primary_the_secondary_gives_up_under_the_application() {
    for primary in 0..2 {
        let mut rig = forked(SECONDARY, [1, 1]);
        assert_eq!(rig.open(primary), Ok(()));
        rig.demote(1 - primary);
        rig.heal();
        assert_solved(&mut rig, Recovery::Secondary, primary, [1, 1]);
        assert_eq!(rig.write(primary, 400, 7, 4096), Ok(()));
        rig.assert_whole();
    }
}

#[test]
fn r5_consensus_spares_a_secondary_that_wrote_more() {
    let consensus = policies(SplitBrain0::LeastChanges, SplitBrain1::Consensus);
    for (primary, is_solved) in [(0, true), (1, false)] {
        let mut rig = forked(consensus, [3, 1]);
        rig.demote(1 - primary);
        rig.heal();
        if is_solved {
            assert_solved(&mut rig, Recovery::Consensus, primary, [3, 1]);
        } else {
            assert_left(&rig, Recovery::NoConsensus, "no consensus");
        }
    }
}

#[test]
fn r5_no_policy_touches_what_two_applications_use() {
    for &none in SplitBrain0::ALL {
        for &one in SplitBrain1::ALL {
            let mut rig = forked(policies(none, one), [1, 1]);
            rig.heal();
            assert_left(&rig, Recovery::TwoPrimaries, "both nodes are primary");
        }
    }
}

#[test]
fn r5_policies_that_differ_leave_it_to_a_person_until_they_are_the_same() {
    let mut rig = forked(SECONDARY, [1, 1]);
    rig.set_policies(1, ZERO);
    rig.demote(1);
    rig.heal();
    assert_left(&rig, Recovery::PoliciesDiffer, "policies differ");
    rig.set_policies(1, SECONDARY);
    rig.dial(0, 1, false);
    rig.dial(1, 0, false);
    rig.idle();
    assert_solved(&mut rig, Recovery::Secondary, 0, [1, 1]);
}

#[test]
fn r5_policies_do_not_count_with_quorum_or_several_volumes() {
    let mut rig = forked(SECONDARY, [1, 1]);
    rig.demote(1);
    for number in 0..2 {
        let options = Options {
            voters: Some(NodeSet(0b11)),
            ..Options::default()
        };
        assert_eq!(rig.set_options(number, options), Ok(()));
    }
    rig.heal();
    assert_left(&rig, Recovery::Quorum, "with quorum");
    let mut rig = forked(LEAST, [3, 1]);
    for number in 0..2 {
        rig.demote(number);
        let command = Command::NewDevice {
            volume: VolumeId(1),
            minor: Minor(1),
        };
        assert_eq!(rig.command(number, command), Ok(()));
    }
    rig.heal();
    assert_left(&rig, Recovery::SeveralVolumes, "several volumes");
}

#[test]
fn r5_who_gives_up_stays_the_same_wherever_the_meeting_is_interrupted() {
    for crash in [None, Some(0), Some(1)] {
        let mut count = 0;
        loop {
            let mut rig = forked(LEAST, [3, 1]);
            rig.demote(0);
            rig.demote(1);
            rig.heal_at_once();
            let is_under_way = rig.steps(count);
            match crash {
                None => rig.cut_at_once(),
                Some(number) => rig.crash(number),
            }
            if let Some(number) = crash {
                rig.restart_alone(number);
                rig.set_policies(number, LEAST);
                rig.dial(number, 1 - number, false);
            }
            rig.heal();
            assert_kept(&mut rig, 0, [3, 1]);
            if !is_under_way {
                break;
            }
            count += 1;
        }
        assert!(count > 20, "{count}");
    }
}

#[test]
fn r5_a_victim_that_is_promoted_before_it_has_given_up_keeps_its_data() {
    let mut rig = forked(LEAST, [3, 1]);
    rig.demote(0);
    rig.demote(1);
    rig.heal_at_once();
    rig.run_until(|rig| rig.recovery(1, 0).1 == Some(1));
    rig.cut_at_once();
    rig.idle();
    assert_eq!(rig.promote(1), Ok(()));
    write(&mut rig, 1, 5);
    rig.demote(1);
    rig.heal();
    assert_ne!(rig.recovery(0, 1).0, Recovery::GivenUp);
    assert_kept(&mut rig, 1, [3, 5]);
}

#[test]
fn r5_a_person_who_gave_data_up_needs_not_say_it_again_after_a_lost_session() {
    let mut rig = forked(Policies::default(), [1, 1]);
    rig.demote(0);
    rig.demote(1);
    rig.heal();
    assert_left(&rig, Recovery::Disconnect, "a person has to choose");
    rig.dial(0, 1, false);
    rig.dial(1, 0, true);
    // Node 1 has told what it changed.
    rig.run_until(|rig| rig.out_of_sync(0, 1) == 16);
    rig.crash(1);
    rig.restart(1);
    assert_kept(&mut rig, 0, [1, 1]);
}

#[test]
fn policies_are_told_only_to_a_peer_that_understands_them() {
    for (features, told) in [
        (FEATURES, SECONDARY.encode()),
        (FEATURES & !FEATURE_SPLIT_BRAIN, [0, 0]),
    ] {
        let mut rig = forked(SECONDARY, [1, 1]);
        rig.heal_at_once();
        rig.break_wire();
        rig.run_until(|rig| rig.session(0, 1).is_some());
        rig.greet((1, 0), features);
        let state = rig.state_underway(0).expect("a state");
        assert_eq!(state.split_brain, told);
    }
}
