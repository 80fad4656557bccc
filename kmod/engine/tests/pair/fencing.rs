// SPDX-License-Identifier: GPL-2.0-only

//! Somebody outside makes sure that a peer out of reach does not go on.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{FenceOutcome, Fencing, Role};
use weft_uapi::status::SUSPENDED_FENCING;

const HELPFUL: [FenceOutcome; 4] = [
    FenceOutcome::Inconsistent,
    FenceOutcome::Outdated,
    FenceOutcome::Unreachable,
    FenceOutcome::Stonithed,
];
const USELESS: [FenceOutcome; 2] = [FenceOutcome::Failed, FenceOutcome::Primary];

fn pair(fencing: Fencing) -> Rig {
    let mut rig = Rig::pair();
    (0..2).for_each(|node| rig.set_fencing(node, fencing));
    rig
}

#[test]
fn a_primary_waits_until_the_lost_peer_is_fenced_and_says_so() {
    for outcome in HELPFUL {
        let mut rig = pair(Fencing::ResourceAndStonith);
        rig.isolate(1);
        let write = rig.begin_write(0, 0, 1, 4096);
        rig.wait(500);
        assert_eq!(rig.fence_wanted(0), Some(1));
        let info = rig.resource(0);
        assert_ne!(info.suspended & SUSPENDED_FENCING, 0, "{outcome}");
        assert!(!rig.is_complete(write) && info.suspended_since_ms > 0);
        rig.fenced(0, outcome);
        assert_eq!(rig.result(write), Some(Ok(())), "{outcome}");
        assert_eq!((rig.resource(0).suspended, rig.members(0)), (0, 0b01));
        rig.heal();
        rig.assert_whole();
    }
}

#[test]
fn a_primary_whose_peer_cannot_be_fenced_goes_on_with_the_peer_only() {
    for outcome in USELESS {
        let mut rig = pair(Fencing::ResourceAndStonith);
        rig.isolate(1);
        let write = rig.begin_write(0, 0, 1, 4096);
        rig.idle();
        rig.fenced(0, outcome);
        assert!(!rig.is_complete(write), "{outcome}");
        rig.heal();
        assert_eq!(rig.result(write), Some(Ok(())), "{outcome}");
        rig.assert_whole();
        assert_eq!(rig.members(0), 0b11);
    }
}

#[test]
fn an_answer_to_an_earlier_question_frees_nobody() {
    let mut rig = pair(Fencing::ResourceAndStonith);
    rig.isolate(1);
    rig.heal();
    assert_eq!(rig.fence_wanted(0), Some(1));
    rig.break_wire();
    let write = rig.begin_write(0, 0, 1, 4096);
    rig.fenced(0, FenceOutcome::Stonithed);
    rig.isolate(1);
    assert!(!rig.is_complete(write));
    rig.fenced(0, FenceOutcome::Stonithed);
    assert_eq!(rig.result(write), Some(Ok(())));
}

#[test]
fn a_primary_goes_on_while_its_peer_is_fenced_if_that_suffices() {
    let mut rig = pair(Fencing::ResourceOnly);
    rig.isolate(1);
    assert_eq!(rig.fence_wanted(0), Some(1));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.resource(0).suspended, 0);
}

#[test]
fn a_promotion_has_the_missing_peer_fenced_first() {
    for fencing in [Fencing::ResourceOnly, Fencing::ResourceAndStonith] {
        for outcome in HELPFUL {
            let mut rig = pair(fencing);
            rig.crash(0);
            let token = rig.order(1, Command::Primary { force: false });
            rig.idle();
            assert_eq!(
                (rig.fence_wanted(1), rig.role(1)),
                (Some(0), Role::Secondary)
            );
            rig.fenced(1, outcome);
            assert_eq!(rig.reply(token), Ok(()), "{fencing} {outcome}");
        }
    }
}

#[test]
fn a_promotion_is_refused_when_the_missing_peer_is_not_fenced() {
    for outcome in USELESS {
        let mut rig = pair(Fencing::ResourceOnly);
        rig.crash(0);
        let token = rig.order(1, Command::Primary { force: false });
        rig.idle();
        rig.fenced(1, outcome);
        assert_eq!(rig.reply(token), Err(Refusal::PeerNotFenced), "{outcome}");
        // Each attempt asks anew.
        let token = rig.order(1, Command::Primary { force: false });
        rig.idle();
        rig.fenced(1, FenceOutcome::Stonithed);
        assert_eq!(rig.reply(token), Ok(()));
    }
}

#[test]
fn force_and_a_policy_that_does_not_care_ask_nobody() {
    let mut rig = pair(Fencing::ResourceAndStonith);
    rig.crash(0);
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    let mut rig = pair(Fencing::DontCare);
    rig.crash(0);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.fence_wanted(1), None);
}

#[test]
fn who_was_left_out_before_needs_no_fence() {
    let mut rig = pair(Fencing::DontCare);
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.set_fencing(0, Fencing::ResourceAndStonith);
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()));
    rig.demote(0);
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.fence_wanted(0), None);
}
