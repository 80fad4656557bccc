// SPDX-License-Identifier: GPL-2.0-only

//! A person says that disks that were just created are equal: no first sync.

use crate::rig::{all_vote, node, Rig, VOLUME};
use weft_engine::event::Command;
use weft_engine::quorum::Quorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};

const SECTORS: u64 = 16_384;

/// Connected nodes whose disks never held data.
fn blank(nodes: usize, quorum: Quorum) -> Rig {
    let mut rig = Rig::configured(nodes, SECTORS, quorum);
    (0..nodes).for_each(|node| rig.attach(node));
    rig.connect();
    rig.idle();
    rig
}

/// All are up to date without having fetched anything, and the first write is everywhere.
fn assert_united(rig: &mut Rig, nodes: usize) {
    rig.idle();
    for number in 0..nodes {
        assert_eq!(rig.disk_state(number), DiskState::UpToDate, "{number}");
        assert_eq!(rig.members(number), (1 << nodes) - 1, "{number}");
        assert_eq!(rig.generations(number), 0, "{number}");
        for peer in (0..nodes).filter(|&peer| peer != number) {
            assert_eq!(rig.resynced(number, peer), 0, "{number} of {peer}");
            assert_eq!(rig.rule(number, peer), "same-generation");
        }
    }
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.write(0, 8, 5, 4096), Ok(()));
    rig.assert_whole();
    for number in 1..nodes {
        assert_eq!(rig.resynced(0, number), 0, "{number}");
    }
}

#[test]
fn a_new_pair_needs_no_first_sync_when_a_person_says_so() {
    let mut rig = blank(2, Quorum::default());
    assert_eq!(rig.command(1, Command::NewGeneration), Ok(()));
    assert_united(&mut rig, 2);
}

#[test]
fn three_new_disks_are_united_by_one_record_with_and_without_quorum() {
    for quorum in [Quorum::default(), all_vote(3)] {
        let mut rig = blank(3, quorum);
        assert_eq!(rig.command(0, Command::NewGeneration), Ok(()));
        assert_united(&mut rig, 3);
        rig.crash(0);
        assert_eq!(rig.promote(1), Ok(()));
        assert_eq!(rig.read(1, 8, 4096), Ok(vec![5; 4096]));
    }
}

#[test]
fn of_two_that_are_told_at_the_same_time_one_makes_the_record() {
    for steps in 0..60 {
        let mut rig = blank(3, all_vote(3));
        let first = rig.order(2, Command::NewGeneration);
        rig.steps(steps);
        let second = rig.order(0, Command::NewGeneration);
        rig.idle();
        let answers = [first, second].map(|token| rig.answered(token).expect("an answer"));
        assert!(answers.contains(&Ok(())), "{steps}: {answers:?}");
        assert_united(&mut rig, 3);
    }
}

#[test]
fn disks_that_held_data_are_never_called_equal() {
    let refused = |rig: &mut Rig, number| rig.command(number, Command::NewGeneration);
    let mut rig = Rig::pair();
    assert_eq!(refused(&mut rig, 0), Err(Refusal::IsPrimary));
    assert_eq!(refused(&mut rig, 1), Err(Refusal::PeerPrimary));
    rig.demote(0);
    assert_eq!(refused(&mut rig, 1), Err(Refusal::NotJustCreated));

    // A blank disk beside one with data that cannot give them for now.
    let mut rig = blank(3, Quorum::default());
    rig.isolate(2);
    assert_eq!(rig.command(2, Command::Primary { force: true }), Ok(()));
    rig.demote(2);
    rig.cut_at_once();
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(0, 2) == ReplicationState::BitmapTarget);
    assert_eq!(refused(&mut rig, 0), Err(Refusal::NotJustCreated));
    rig.assert_whole();
}

#[test]
fn a_new_disk_that_reaches_no_other_is_not_called_equal() {
    let mut rig = blank(2, Quorum::default());
    rig.cut();
    let refusal = rig.command(0, Command::NewGeneration);
    assert_eq!(refusal, Err(Refusal::NotConnected));
    rig.heal();
    rig.detach(1);
    let refusal = rig.command(0, Command::NewGeneration);
    assert_eq!(refusal, Err(Refusal::NotConnected));
    let refusal = rig.command(1, Command::NewGeneration);
    assert_eq!(refusal, Err(Refusal::NoDisk));
}

#[test]
fn a_new_disk_that_joins_the_united_later_fetches_everything() {
    let mut rig = Rig::configured(3, SECTORS, all_vote(3));
    (0..2).for_each(|node| rig.attach(node));
    rig.connect();
    rig.idle();
    assert_eq!(rig.command(0, Command::NewGeneration), Ok(()));
    rig.idle();
    assert_eq!(rig.members(1), 0b011);
    rig.attach(2);
    rig.idle();
    assert_eq!(rig.rule(0, 2), "just-created");
    assert_eq!(rig.disk_state(2), DiskState::UpToDate);
    assert_eq!(rig.promote(2), Ok(()));
    assert_eq!(rig.write(2, 0, 1, 4096), Ok(()));
    rig.assert_whole();
}

#[test]
fn a_tie_breaker_takes_part_in_what_unites_a_pair() {
    let mut rig = blank(3, all_vote(3));
    rig.crash(2);
    rig.restart_diskless(2);
    assert_eq!(rig.command(0, Command::NewGeneration), Ok(()));
    rig.idle();
    assert_eq!(rig.members(0), 0b011);
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn a_power_cut_at_any_step_leaves_blank_disks_or_equal_ones() {
    for steps in 0..60 {
        for victim in [0, 1] {
            let mut rig = blank(2, Quorum::default());
            rig.order(0, Command::NewGeneration);
            rig.steps(steps);
            rig.crash(victim);
            rig.restart(victim);
            let states = [0, 1].map(|number| rig.disk_state(number));
            let is_blank = states == [DiskState::Inconsistent; 2];
            assert!(
                is_blank || states == [DiskState::UpToDate; 2],
                "{steps}, {victim}: {states:?}"
            );
            let force = is_blank;
            assert_eq!(rig.command(1, Command::Primary { force }), Ok(()));
            assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
            rig.assert_whole();
            assert!(!rig.is_stand_alone(0, 1));
        }
    }
}

#[test]
fn a_record_that_unites_is_not_taken_from_a_peer_with_other_data() {
    use weft_uapi::ondisk::Generation;
    use weft_uapi::units::{GenerationId, NodeSet, Term};
    use weft_uapi::wire::{GenerationBody, Header, LinkKind, PacketKind};
    use zerocopy::IntoBytes;
    let mut rig = Rig::pair();
    rig.demote(0);
    let record = Generation {
        id: GenerationId(77),
        parent: GenerationId::NONE,
        term: Term(99),
        writer: None,
        members: NodeSet::of(node(0)).with(node(1)),
        left: NodeSet::EMPTY,
    };
    let generation = record.into();
    let body = GenerationBody { generation };
    let header = Header::new(PacketKind::Generation, Some(VOLUME));
    rig.inject((1, 0), LinkKind::Data, header, body.as_bytes(), None);
    assert!(rig.reason(0, 1).contains("does not follow"));
    rig.assert_whole();
}
