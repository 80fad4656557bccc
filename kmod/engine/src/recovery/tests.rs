// SPDX-License-Identifier: GPL-2.0-only

//! Every small pair of contenders, and the scenes that the policies were made for.

use super::*;
use crate::ancestry::Ancestry;
use weft_uapi::limits::ATTACHES_MAX;
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{GenerationId, Incarnation, NodeSet};

const NONE: Policies = Policies {
    none: SplitBrain0::Disconnect,
    one: SplitBrain1::Disconnect,
};
const TARGET: Outcome = Outcome::SyncTarget { full: false };
const SOURCE: Outcome = Outcome::SyncSource { full: false };

/// A contender with what it borrows.
#[derive(Clone, Copy, Debug)]
struct Owned {
    side: Side,
    claim: Claim,
}

fn told(owned: &Owned) -> Contender<'_> {
    Contender {
        side: &owned.side,
        claim: &owned.claim,
    }
}

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

fn line(id: u32, ids: &[u64]) -> Ancestry {
    let mut line = Ancestry::default();
    for &generation in ids {
        line.push(Generation {
            id: GenerationId(generation),
            writer: Some(node(id)),
            members: NodeSet::of(node(id)),
            ..Generation::default()
        });
        line.confirm();
    }
    line
}

/// A node whose line leads from generation 1, which both had, to one of its own.
fn forked(id: u32, policies: Policies, changes: u64) -> Owned {
    Owned {
        side: Side {
            node: node(id),
            ancestry: line(id, &[1, u64::from(id) + 2]),
            incarnation: Incarnation(5),
            attach_id: 50,
            former_attaches: [0; ATTACHES_MAX],
            former_ages: [0; ATTACHES_MAX],
            age: 9,
            seen_incarnation: Incarnation(5),
            seen_attach_id: 50,
            seen_age: 0,
            since: GenerationId(1),
            is_dirty: changes > 0,
            is_inconsistent: false,
            is_writer: false,
            is_primary: false,
            has_crashed: false,
            discards: false,
            is_newcomer: false,
            is_invalidated: false,
            invalidates: false,
            repairs: false,
            has_found: false,
            tail_seq: 0,
        },
        claim: Claim {
            policies,
            changes,
            ..Claim::default()
        },
    }
}

fn primary(mut contender: Owned) -> Owned {
    contender.side.is_writer = true;
    contender.side.is_primary = true;
    contender.claim.is_led = true;
    contender
}

/// What follows for the first of the two, and mirrored for the second.
fn follows(own: &Owned, peer: &Owned) -> (Outcome, Recovery) {
    let [a, b] = [own, peer].map(told);
    let (one, other) = (resolve(&a, &b), resolve(&b, &a));
    assert_eq!(other.decision.outcome, one.decision.outcome.mirrored());
    assert_eq!(
        (other.recovery, other.victim),
        (one.recovery, one.victim),
        "{own:?} {peer:?}"
    );
    (one.decision.outcome, one.recovery)
}

fn left(recovery: Recovery) -> (Outcome, Recovery) {
    (Outcome::SplitBrain, recovery)
}

fn all_policies() -> impl Iterator<Item = Policies> {
    let with = |&none| {
        SplitBrain1::ALL
            .iter()
            .map(move |&one| Policies { none, one })
    };
    SplitBrain0::ALL.iter().flat_map(with)
}

#[test]
fn the_side_that_changed_nothing_gives_up() {
    let policies = Policies {
        none: SplitBrain0::ZeroChanges,
        ..NONE
    };
    let side = |id, changes| forked(id, policies, changes);
    let solved = Recovery::ZeroChanges;
    assert_eq!(follows(&side(0, 0), &side(1, 9)), (TARGET, solved));
    assert_eq!(follows(&side(0, 9), &side(1, 0)), (SOURCE, solved));
    assert_eq!(
        follows(&side(0, 9), &side(1, 1)),
        left(Recovery::BothChanged)
    );
    assert_eq!(
        follows(&side(0, 1), &side(1, 1)),
        left(Recovery::BothChanged)
    );
    assert_eq!(
        follows(&side(0, 0), &side(1, 0)),
        (SOURCE, solved),
        "nobody loses anything"
    );
}

#[test]
fn the_side_that_changed_less_gives_up() {
    let policies = Policies {
        none: SplitBrain0::LeastChanges,
        ..NONE
    };
    let side = |id, changes| forked(id, policies, changes);
    let solved = Recovery::LeastChanges;
    assert_eq!(follows(&side(0, 3), &side(1, 9)), (TARGET, solved));
    assert_eq!(follows(&side(0, 0), &side(1, 1)), (TARGET, solved));
    assert_eq!(follows(&side(0, 0), &side(1, 0)), (SOURCE, solved));
    assert_eq!(
        follows(&side(0, 7), &side(1, 7)),
        left(Recovery::EqualChanges)
    );
}

#[test]
fn changes_count_only_when_the_bitmaps_reach_back_to_the_fork() {
    for none in [SplitBrain0::ZeroChanges, SplitBrain0::LeastChanges] {
        let policies = Policies { none, ..NONE };
        let mut own = forked(0, policies, 0);
        own.side.since = GenerationId::NONE;
        let peer = forked(1, policies, 9);
        assert_eq!(follows(&own, &peer), left(Recovery::UnknownChanges));
    }
}

#[test]
fn the_secondary_gives_up_whatever_it_changed_and_fetches_everything_if_need_be() {
    let policies = Policies {
        one: SplitBrain1::Secondary,
        ..NONE
    };
    let (own, peer) = (forked(0, policies, 9), primary(forked(1, policies, 1)));
    assert_eq!(follows(&own, &peer), (TARGET, Recovery::Secondary));
    let mut own = own;
    own.side.since = GenerationId::NONE;
    let full = Outcome::SyncTarget { full: true };
    assert_eq!(follows(&own, &peer), (full, Recovery::Secondary));
}

#[test]
fn consensus_asks_what_would_be_done_without_primary() {
    let policies = |none| Policies {
        none,
        one: SplitBrain1::Consensus,
    };
    let meet = |none, changes: [u64; 2]| {
        let policies = policies(none);
        follows(
            &forked(0, policies, changes[0]),
            &primary(forked(1, policies, changes[1])),
        )
    };
    let solved = (TARGET, Recovery::Consensus);
    assert_eq!(meet(SplitBrain0::LeastChanges, [1, 9]), solved);
    assert_eq!(meet(SplitBrain0::ZeroChanges, [0, 9]), solved);
    assert_eq!(meet(SplitBrain0::ZeroChanges, [0, 0]), solved);
    let no = left(Recovery::NoConsensus);
    assert_eq!(meet(SplitBrain0::LeastChanges, [9, 1]), no);
    assert_eq!(meet(SplitBrain0::ZeroChanges, [9, 0]), no);
    assert_eq!(
        meet(SplitBrain0::Disconnect, [0, 9]),
        left(Recovery::Disconnect)
    );
}

#[test]
fn two_primaries_are_left_to_a_person_under_every_policy() {
    for policies in all_policies() {
        let (own, peer) = (forked(0, policies, 0), forked(1, policies, 9));
        assert_eq!(
            follows(&primary(own), &primary(peer)),
            left(Recovery::TwoPrimaries)
        );
    }
}

#[test]
fn different_policies_count_as_none() {
    for own in all_policies() {
        for peer in all_policies().filter(|&peer| peer != own) {
            let sides = (forked(0, own, 0), forked(1, peer, 9));
            assert_eq!(follows(&sides.0, &sides.1), left(Recovery::PoliciesDiffer));
        }
    }
}

#[test]
fn what_a_person_says_comes_before_any_policy() {
    for policies in all_policies() {
        let (mut own, mut peer) = (forked(0, policies, 9), forked(1, policies, 0));
        own.side.discards = true;
        assert_eq!(follows(&own, &peer), (TARGET, Recovery::GivenUp));
        peer.side.discards = true;
        assert_eq!(follows(&own, &peer), left(Recovery::BothGivenUp));
    }
}

#[test]
fn an_older_image_and_an_unfinished_disk_are_left_to_a_person() {
    for policies in all_policies() {
        let (mut own, peer) = (forked(0, policies, 0), primary(forked(1, policies, 9)));
        own.side.is_inconsistent = true;
        assert_eq!(follows(&own, &peer), left(Recovery::UnfitDisk));
        own.side.is_inconsistent = false;
        own.side.attach_id = 60;
        assert_eq!(follows(&own, &peer), left(Recovery::NoFork));
    }
}

#[test]
fn a_primary_that_only_missed_what_the_other_did_is_left_to_a_person() {
    for policies in all_policies() {
        let mut own = primary(forked(0, policies, 0));
        own.side.ancestry = line(0, &[1]);
        assert_eq!(
            follows(&own, &forked(1, policies, 9)),
            left(Recovery::NoFork)
        );
    }
}

/// All contenders of a small world.
fn small_world(id: u32) -> Vec<Owned> {
    let mut world = Vec::new();
    for policies in all_policies() {
        for changes in [0, 1, 2] {
            for since in [0, 1] {
                for bits in 0..64u32 {
                    let has = |bit: u32| bits & (1 << bit) != 0;
                    let mut it = forked(id, policies, changes);
                    it.side.since = GenerationId(since);
                    it.side.is_inconsistent = has(0);
                    it.side.is_writer = has(1);
                    it.side.is_primary = has(1) || has(2);
                    it.side.discards = has(3);
                    it.claim.is_led = it.side.is_primary || has(4) || has(5);
                    it.claim.is_beside = has(5) && !it.side.is_primary;
                    world.push(it);
                }
            }
        }
    }
    world
}

#[test]
fn every_small_pair_comes_to_mirrored_results_that_spare_primaries_and_changes() {
    let worlds = [small_world(0), small_world(1)];
    for own in &worlds[0] {
        for peer in &worlds[1] {
            let (outcome, recovery) = follows(own, peer);
            let (victim, survivor) = match outcome {
                Outcome::SyncTarget { .. } => (own, peer),
                Outcome::SyncSource { .. } => (peer, own),
                _ => continue,
            };
            assert!(!victim.side.is_writer && !survivor.side.is_inconsistent);
            if recovery == Recovery::GivenUp {
                continue;
            }
            let policies = own.claim.policies;
            assert_eq!(policies, peer.claim.policies);
            assert_ne!(policies, NONE);
            assert!(!victim.claim.is_led, "{recovery}");
            if survivor.claim.is_led {
                assert_ne!(policies.one, SplitBrain1::Disconnect);
            } else {
                assert_ne!(policies.none, SplitBrain0::Disconnect);
            }
            if recovery != Recovery::Secondary {
                assert!(victim.claim.changes <= survivor.claim.changes, "{recovery}");
            }
            if recovery == Recovery::ZeroChanges {
                assert_eq!(victim.claim.changes, 0);
            }
        }
    }
}

#[test]
fn every_reason_to_leave_it_to_a_person_fits_the_status() {
    for &recovery in Recovery::ALL {
        let sentence = sentence(recovery);
        assert!(sentence.starts_with("split brain") && sentence.len() < 128);
    }
}
