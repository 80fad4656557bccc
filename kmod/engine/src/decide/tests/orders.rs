// SPDX-License-Identifier: GPL-2.0-only

//! What people order to be given up or repaired.

use super::*;

#[test]
fn a_disk_that_a_person_gives_up_is_target_where_the_other_one_has_all_of_it_and_nowhere_else() {
    let mut times = 0;
    for_all_pairs(|own, peer, before| {
        let own = &Side {
            is_invalidated: true,
            ..*own
        };
        let decision = decide(own, peer);
        let mirror = decide(peer, own);
        assert_eq!(mirror.outcome, decision.outcome.mirrored());
        if decision.rule != Rule::Invalidated {
            assert_eq!(decision, before);
            return;
        }
        times += 1;
        assert!(own.precedes(peer) && !own.is_writer && !own.is_inconsistent);
        assert_eq!(decision.outcome, FULL_TARGET);
        assert!(!peer.is_inconsistent && !peer.ancestry.is_blank());
    });
    assert!(times > 0);
}

#[test]
fn either_side_may_tell_who_is_given_up_and_two_that_contradict_each_other_are_not_heard() {
    let (victim, other) = (side(0, &[1], 1), side(1, &[1], 1));
    let given_up = Side {
        is_invalidated: true,
        ..victim
    };
    let source = Side {
        invalidates: true,
        ..other
    };
    for (own, peer) in [
        (&given_up, &other),
        (&victim, &source),
        (&given_up, &source),
    ] {
        check(own, peer, Rule::Invalidated, FULL_TARGET);
    }
    let both = Side {
        is_invalidated: true,
        ..other
    };
    check(&given_up, &both, Rule::SameGeneration, Outcome::None);
    let primary = Side {
        is_primary: true,
        ..given_up
    };
    check(&primary, &other, Rule::SameGeneration, Outcome::None);
}

#[test]
fn what_differs_is_repaired_where_the_victim_knows_it_and_nobody_wants_more() {
    let victim = Side {
        is_invalidated: true,
        repairs: true,
        has_found: true,
        ..side(0, &[1], 1)
    };
    let source = side(1, &[1], 1);
    let partly = Outcome::SyncTarget { full: false };
    check(&victim, &source, Rule::Repair, partly);
    let ordered = Side {
        invalidates: true,
        repairs: true,
        ..source
    };
    check(&victim, &ordered, Rule::Repair, partly);
    let all = Side {
        repairs: false,
        ..ordered
    };
    check(&victim, &all, Rule::Invalidated, FULL_TARGET);
    // What its bitmaps lack it may owe as well.
    let strange = side(1, &[1], 0);
    check(&victim, &strange, Rule::Invalidated, FULL_TARGET);
    let forgetful = Side {
        has_found: false,
        ..victim
    };
    check(&forgetful, &ordered, Rule::SameGeneration, Outcome::None);
}
