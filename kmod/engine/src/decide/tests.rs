// SPDX-License-Identifier: GPL-2.0-only

//! Every small pair of sides, and the scenes that the rules were made for.

mod orders;

use super::*;
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{NodeSet, Term};

const BOTH: NodeSet = NodeSet(3);

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

/// A line of generations with the same members.
fn line(ids: &[u64], members: NodeSet) -> Ancestry {
    let mut line = Ancestry::default();
    for &id in ids {
        line.push(Generation {
            id: GenerationId(id),
            writer: Some(node(0)),
            members,
            ..Generation::default()
        });
        line.confirm();
    }
    line
}

/// The line goes on, but nobody could write.
fn unwritten(mut line: Ancestry, id: u64, members: NodeSet) -> Ancestry {
    line.push(Generation {
        id: GenerationId(id),
        members,
        ..Generation::default()
    });
    line
}

fn side(id: u32, ids: &[u64], since: u64) -> Side {
    Side {
        node: node(id),
        ancestry: line(ids, NodeSet::of(node(id))),
        incarnation: Incarnation(5),
        attach_id: 50,
        former_attaches: [40; ATTACHES_MAX],
        former_ages: [7; ATTACHES_MAX],
        age: 9,
        seen_incarnation: Incarnation(5),
        seen_attach_id: 50,
        seen_age: 0,
        since: GenerationId(since),
        is_dirty: false,
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
    }
}

fn check(own: &Side, peer: &Side, rule: Rule, outcome: Outcome) {
    assert_eq!(decide(own, peer), Decision { rule, outcome });
    assert_eq!(decide(peer, own).outcome, outcome.mirrored());
}

const TARGET: Outcome = Outcome::SyncTarget { full: false };
const FULL_TARGET: Outcome = Outcome::SyncTarget { full: true };

/// All sides of a small world: lines over a handful of generations, every flag, known and unknown incarnations.
fn small_world(id: u32) -> Vec<Side> {
    let lines: [&[u64]; 6] = [&[], &[1], &[1, 2], &[1, 2, 3], &[1, 4], &[9]];
    let mut world = Vec::new();
    for members in [NodeSet::of(node(id)), BOTH] {
        let written = lines.map(|ids| line(ids, members));
        let unwritten = [5, 6].map(|last| unwritten(line(&[1, 2], members), last, members));
        for line in written.into_iter().chain(unwritten) {
            for since in [0, 1, 2] {
                for flags in 0..32u32 {
                    for (seen, attach, age) in [(5, 50, 9), (6, 60, 0), (5, 40, 8)] {
                        world.push(Side {
                            ancestry: line,
                            seen_incarnation: Incarnation(seen),
                            seen_attach_id: attach,
                            seen_age: age,
                            is_dirty: flags & 1 != 0,
                            is_inconsistent: flags & 2 != 0,
                            is_writer: flags & 4 != 0,
                            has_crashed: flags & 8 != 0,
                            discards: flags & 16 != 0,
                            tail_seq: u64::from(flags & 1) * u64::from(id),
                            ..side(id, &[], since)
                        });
                    }
                }
            }
        }
    }
    world
}

fn for_all_pairs(mut check: impl FnMut(&Side, &Side, Decision)) {
    let (left, right) = (small_world(0), small_world(1));
    for own in &left {
        for peer in &right {
            check(own, peer, decide(own, peer));
        }
    }
}

#[test]
fn both_sides_come_to_mirrored_conclusions() {
    for_all_pairs(|own, peer, decision| {
        let mirror = decide(peer, own);
        assert_eq!(
            mirror.outcome,
            decision.outcome.mirrored(),
            "{own:?}\n{peer:?}"
        );
        let rule = match decision.rule {
            Rule::Behind => Rule::Ahead,
            Rule::Ahead => Rule::Behind,
            same => same,
        };
        assert_eq!(mirror.rule, rule, "{own:?}\n{peer:?}");
    });
}

#[test]
fn an_inconsistent_or_blank_disk_is_never_source_and_a_writers_never_target() {
    for_all_pairs(|own, peer, decision| {
        let (from, to) = match decision.outcome {
            Outcome::SyncSource { .. } => (own, peer),
            Outcome::SyncTarget { .. } => (peer, own),
            _ => return,
        };
        assert!(
            !from.is_inconsistent && !from.ancestry.is_blank() && !to.is_writer,
            "{own:?}\n{peer:?}"
        );
    });
}

#[test]
fn nothing_is_overwritten_that_the_source_never_had_unless_a_person_said_so() {
    for_all_pairs(|own, peer, decision| {
        let (from, to) = match decision.outcome {
            Outcome::SyncSource { .. } => (own, peer),
            Outcome::SyncTarget { .. } => (peer, own),
            _ => return,
        };
        let may = to.ancestry.is_blank() || to.precedes(from) || to.discards;
        assert!(may, "{own:?}\n{peer:?}");
    });
}

#[test]
fn equal_means_the_same_generation_with_nothing_owed() {
    for_all_pairs(|own, peer, decision| {
        if decision.outcome == Outcome::None {
            let clean =
                |side: &Side| !side.is_dirty && !side.is_inconsistent && !side.ancestry.is_blank();
            assert!(clean(own) && clean(peer), "{own:?}\n{peer:?}");
            assert_eq!(own.ancestry.current().id, peer.ancestry.current().id);
        }
    });
}

#[test]
fn a_lagging_disk_fetches_the_bits_of_the_other() {
    check(
        &side(0, &[1], 1),
        &side(1, &[1, 2, 3], 1),
        Rule::Behind,
        TARGET,
    );
}

#[test]
fn a_lagging_disk_whose_bits_do_not_reach_back_fetches_everything() {
    check(
        &side(0, &[1], 1),
        &side(1, &[1, 2, 3], 2),
        Rule::Behind,
        FULL_TARGET,
    );
    check(
        &side(0, &[1], 1),
        &side(1, &[1, 2, 3], 0),
        Rule::Behind,
        FULL_TARGET,
    );
}

#[test]
fn a_disk_that_lags_by_more_than_the_memory_of_generations_fetches_bits() {
    let long: Vec<u64> = (2..100).collect();
    check(&side(0, &[1], 1), &side(1, &long, 1), Rule::Behind, TARGET);
}

#[test]
fn two_blank_disks_wait_for_a_person_and_one_fetches_everything() {
    check(
        &side(0, &[], 0),
        &side(1, &[], 0),
        Rule::JustCreated,
        Outcome::NoSource,
    );
    check(
        &side(0, &[], 0),
        &side(1, &[1], 0),
        Rule::JustCreated,
        FULL_TARGET,
    );
}

#[test]
fn an_older_image_of_a_disk_is_overwritten_in_full() {
    let mut restored = side(0, &[1], 1);
    restored.attach_id = 51;
    check(&restored, &side(1, &[1], 1), Rule::RolledBack, FULL_TARGET);
}

#[test]
fn an_unfinished_target_that_a_person_gives_up_fetches_from_an_older_image() {
    let mut restored = side(0, &[1, 2], 1);
    restored.attach_id = 51;
    let mut unfinished = side(1, &[1], 1);
    unfinished.is_inconsistent = true;
    check(
        &restored,
        &unfinished,
        Rule::RolledBack,
        Outcome::SplitBrain,
    );
    unfinished.discards = true;
    check(&unfinished, &restored, Rule::RolledBack, FULL_TARGET);
    // What it was fetching is newer than all that the image has: that is somebody else's to give.
    let mut newer = side(1, &[1, 2, 3], 1);
    (newer.is_inconsistent, newer.discards) = (true, true);
    check(&restored, &newer, Rule::RolledBack, Outcome::NoSource);
}

#[test]
fn a_disk_is_known_by_its_attaches_and_not_by_their_number() {
    let peer = side(1, &[1], 1);
    let attached = |former: &[u64], incarnation| {
        let mut disk = side(0, &[1], 1);
        disk.attach_id = 51;
        disk.incarnation = Incarnation(incarnation);
        for (place, &id) in disk.former_attaches.iter_mut().zip(former) {
            *place = id;
        }
        disk
    };
    // The disk that was met, attached again.
    check(
        &attached(&[49, 50], 7),
        &peer,
        Rule::SameGeneration,
        Outcome::None,
    );
    // Another disk, or an image of the one before, attached more often than the one that was met.
    check(
        &attached(&[49, 48], 8),
        &peer,
        Rule::RolledBack,
        FULL_TARGET,
    );
    // It was attached so often that it has forgotten.
    let often = 6 + ATTACHES_MAX as u64;
    check(
        &attached(&[49, 48], often),
        &peer,
        Rule::SameGeneration,
        Outcome::None,
    );
    check(
        &attached(&[49, 48], often - 1),
        &peer,
        Rule::RolledBack,
        FULL_TARGET,
    );
    let mut stranger = peer;
    (stranger.seen_incarnation, stranger.seen_attach_id) = (Incarnation(0), 0);
    check(
        &attached(&[], 1),
        &stranger,
        Rule::SameGeneration,
        Outcome::None,
    );
}

#[test]
fn a_new_disk_takes_everything_from_a_peer_that_has_a_new_one_as_well() {
    let mut replaced = side(0, &[1], 1);
    replaced.attach_id = 51;
    check(&side(1, &[], 0), &replaced, Rule::JustCreated, FULL_TARGET);
    let mut blank = side(1, &[], 0);
    blank.attach_id = 51;
    check(&blank, &replaced, Rule::JustCreated, FULL_TARGET);
}

#[test]
fn an_older_image_that_went_on_is_a_split_brain() {
    let mut restored = side(0, &[1, 7], 1);
    restored.attach_id = 51;
    check(
        &restored,
        &side(1, &[1, 2], 1),
        Rule::RolledBack,
        Outcome::SplitBrain,
    );
    check(
        &restored,
        &side(1, &[1], 1),
        Rule::RolledBack,
        Outcome::SplitBrain,
    );
    restored.discards = true;
    check(
        &restored,
        &side(1, &[1, 2], 1),
        Rule::RolledBack,
        FULL_TARGET,
    );
}

#[test]
fn after_a_crash_the_side_that_lost_no_cache_is_source() {
    let crashed = Side {
        is_dirty: true,
        has_crashed: true,
        tail_seq: 9,
        ..side(0, &[1], 1)
    };
    let survivor = Side {
        is_dirty: true,
        tail_seq: 8,
        ..side(1, &[1], 1)
    };
    check(&crashed, &survivor, Rule::Tails, TARGET);
}

#[test]
fn the_running_writer_is_source_of_the_tails() {
    let writer = Side {
        is_writer: true,
        ..side(1, &[1], 1)
    };
    let other = Side {
        is_dirty: true,
        tail_seq: 9,
        ..side(0, &[1], 1)
    };
    check(&other, &writer, Rule::Tails, TARGET);
}

#[test]
fn a_fork_waits_for_a_person_and_then_the_victim_fetches_both_bitmaps() {
    let (mut own, peer) = (side(0, &[1, 2], 1), side(1, &[1, 4], 1));
    check(&own, &peer, Rule::Forked, Outcome::SplitBrain);
    own.discards = true;
    check(&own, &peer, Rule::Forked, TARGET);
    own.since = GenerationId(2);
    check(&own, &peer, Rule::Forked, FULL_TARGET);
}

#[test]
fn both_discarding_solves_no_split_brain() {
    let (mut own, mut peer) = (side(0, &[1, 2], 1), side(1, &[1, 4], 1));
    (own.discards, peer.discards) = (true, true);
    check(&own, &peer, Rule::Forked, Outcome::SplitBrain);
}

#[test]
fn a_running_writer_that_was_overtaken_is_a_split_brain() {
    let writer = Side {
        is_writer: true,
        ..side(0, &[1], 1)
    };
    let mut other = side(1, &[1, 2], 1);
    check(&writer, &other, Rule::Behind, Outcome::SplitBrain);
    other.discards = true;
    check(
        &writer,
        &other,
        Rule::Behind,
        Outcome::SyncSource { full: false },
    );
}

#[test]
fn a_promotion_that_died_before_the_peer_heard_of_it_is_no_split_brain() {
    let mut dead = side(0, &[1], 1);
    dead.ancestry.push(Generation {
        id: GenerationId(2),
        writer: Some(node(0)),
        members: BOTH,
        ..Generation::default()
    });
    check(&dead, &side(1, &[1, 4], 1), Rule::Behind, TARGET);
}

#[test]
fn a_record_in_force_is_not_given_up_for_a_member_that_has_left_its_line() {
    // The peer acknowledged it by way of the writer, and gave its data up for those of a third node since.
    let mut own = side(0, &[1, 2], 1);
    own.ancestry = line(&[1, 2], BOTH);
    let peer = side(1, &[1, 4], 1);
    check(&own, &peer, Rule::Forked, Outcome::SplitBrain);
}

#[test]
fn an_unfinished_target_goes_on_with_what_it_owes() {
    let target = Side {
        is_inconsistent: true,
        is_dirty: true,
        ..side(0, &[1, 2], 1)
    };
    check(&target, &side(1, &[1, 2], 2), Rule::Unfinished, TARGET);
    check(&target, &side(1, &[1, 2, 3], 1), Rule::Unfinished, TARGET);
    check(
        &target,
        &side(1, &[1], 1),
        Rule::Unfinished,
        Outcome::NoSource,
    );
}

#[test]
fn a_disk_that_came_less_far_than_the_peer_saw_is_an_older_image() {
    let disk = side(0, &[1, 2], 2);
    let saw = |attach, age| Side {
        seen_attach_id: attach,
        seen_age: age,
        ..side(1, &[1, 2], 2)
    };
    check(&disk, &saw(40, 8), Rule::RolledBack, FULL_TARGET);
    for (attach, age) in [(40, 7), (40, 0), (50, 99)] {
        let peer = saw(attach, age);
        check(&disk, &peer, Rule::SameGeneration, Outcome::None);
    }
    // Attached by a build that knows nothing of ages.
    let forgetful = Side {
        former_ages: [0; ATTACHES_MAX],
        ..disk
    };
    check(&forgetful, &saw(40, 8), Rule::SameGeneration, Outcome::None);
}

#[test]
fn two_unfinished_targets_cannot_help_each_other() {
    let broken = |id| Side {
        is_inconsistent: true,
        ..side(id, &[1], 1)
    };
    check(
        &broken(0),
        &broken(1),
        Rule::BothInconsistent,
        Outcome::NoSource,
    );
}

#[test]
fn generations_without_a_writer_fork_nothing() {
    let only = |id: u32, last| Side {
        ancestry: unwritten(line(&[1, 2], BOTH), last, BOTH),
        ..side(id, &[], 2)
    };
    check(&only(0, 5), &only(1, 6), Rule::SameData, TARGET);
    let wrote_on = side(1, &[1, 2, 3], 2);
    check(&only(0, 5), &wrote_on, Rule::Behind, TARGET);
    let member = side(1, &[1, 2], 2);
    let source = Outcome::SyncSource { full: false };
    check(&only(0, 5), &member, Rule::SameData, source);
    let writer = Side {
        is_writer: true,
        ..member
    };
    check(&only(0, 5), &writer, Rule::SameData, TARGET);
}

#[test]
fn a_record_of_a_third_node_that_may_be_in_force_is_not_forgotten_for_one_in_which_nothing_was_written(
) {
    let mut own = side(0, &[1, 2], 1);
    own.ancestry.push(Generation {
        id: GenerationId(5),
        term: Term(1),
        writer: Some(node(2)),
        ..Generation::default()
    });
    let peer = Side {
        ancestry: unwritten(line(&[1, 2], BOTH), 6, BOTH),
        ..side(1, &[], 1)
    };
    let source = Outcome::SyncSource { full: false };
    check(&own, &peer, Rule::SameData, source);
    // A target has joined since.
    let goes_on = Side {
        ancestry: unwritten(own.ancestry, 3, BOTH),
        ..own
    };
    check(&goes_on, &peer, Rule::SameData, source);
    // Elected later, without it.
    let mut elected = line(&[1, 2], BOTH);
    for (id, writer) in [(7, Some(node(3))), (8, None)] {
        elected.push(Generation {
            id: GenerationId(id),
            term: Term(2),
            writer,
            ..Generation::default()
        });
    }
    let later = Side {
        ancestry: elected,
        ..peer
    };
    check(&own, &later, Rule::SameData, TARGET);
    // A primary that waits for votes.
    let waits = Side {
        is_primary: true,
        ..side(1, &[1, 2], 1)
    };
    check(&own, &waits, Rule::SameData, source);
    let writes = Side {
        is_writer: true,
        ..waits
    };
    check(&own, &writes, Rule::SameData, TARGET);
}

fn stance(id: u32, leader: Option<u32>, source: Option<u32>) -> Stance {
    Stance {
        node: node(id),
        leader: leader.map(node),
        source: source.map(node),
        is_led: leader.is_some(),
    }
}

fn arranged(outcome: Outcome, own: &Stance, peer: &Stance) -> Outcome {
    let rule = Rule::Behind;
    arrange(Decision { rule, outcome }, own, peer)
}

#[test]
fn the_tails_of_two_that_follow_one_primary_are_its_business() {
    let tails = Decision {
        rule: Rule::Tails,
        outcome: TARGET,
    };
    let led = |id| stance(id, Some(2), None);
    assert_eq!(arrange(tails, &led(0), &led(1)), Outcome::None);
    assert_eq!(arrange(tails, &led(0), &led(2)), TARGET);
}

#[test]
fn a_target_has_one_source_and_prefers_the_primary() {
    let idle = |id| stance(id, None, None);
    let led = |id| stance(id, Some(2), None);
    let primary = led(2);
    assert_eq!(arranged(TARGET, &idle(0), &idle(1)), TARGET);
    assert_eq!(
        arranged(TARGET, &stance(0, None, Some(3)), &idle(1)),
        Outcome::Wait
    );
    assert_eq!(
        arranged(TARGET, &stance(0, Some(2), Some(3)), &primary),
        TARGET
    );
    assert_eq!(arranged(TARGET, &led(0), &led(1)), Outcome::Wait);
    assert_eq!(arranged(TARGET, &idle(0), &led(1)), Outcome::Wait);
    assert_eq!(arranged(TARGET, &led(0), &idle(1)), Outcome::Wait);
    let other = stance(1, Some(1), None);
    assert_eq!(arranged(TARGET, &led(0), &other), Outcome::Wait);
    let fetching = stance(0, None, Some(2));
    assert_eq!(arranged(TARGET, &fetching, &other), TARGET);
    let from_primary = Stance {
        is_led: true,
        ..fetching
    };
    assert_eq!(arranged(TARGET, &from_primary, &other), Outcome::Wait);
    assert_eq!(arranged(TARGET, &from_primary, &primary), TARGET);
}

#[test]
fn who_does_not_follow_the_primary_is_equal_to_nobody() {
    let equal = Outcome::None;
    assert_eq!(
        arranged(equal, &stance(0, Some(2), None), &stance(1, Some(2), None)),
        equal
    );
    assert_eq!(
        arranged(equal, &stance(0, None, None), &stance(2, Some(2), None)),
        equal
    );
    assert_eq!(
        arranged(equal, &stance(0, Some(2), None), &stance(1, None, None)),
        Outcome::Wait
    );
}

#[test]
fn strangers_are_refused() {
    check(
        &side(0, &[1], 0),
        &side(1, &[9], 0),
        Rule::Unrelated,
        Outcome::Refuse,
    );
}
