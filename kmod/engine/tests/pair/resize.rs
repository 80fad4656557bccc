// SPDX-License-Identifier: GPL-2.0-only

//! Devices become larger.

use crate::rig::{all_vote, Rig, VOLUME};
use std::collections::BTreeSet;
use weft_engine::event::{Command, Growth};
use weft_engine::quorum::Quorum;
use weft_uapi::ondisk::{Layout, MetaKind};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::DiskState;

/// Sectors of a disk, before and after it has grown.
const SMALL: u64 = 4096;
const LARGER: u64 = 8192;

/// Sectors of the device that a disk has room for.
fn room(sectors: u64) -> u64 {
    let layout = Layout::new(MetaKind::Internal, sectors, sectors, 7);
    layout.unwrap().data_sectors()
}

fn resize_command(growth: Growth) -> Command {
    let volume = VOLUME;
    Command::Resize { volume, growth }
}

fn resize(rig: &mut Rig, number: usize) -> Result<(), Refusal> {
    rig.command(number, resize_command(Growth::default()))
}

/// A synced pair; node 0 is primary.
fn pair() -> Rig {
    Rig::configured(2, SMALL, Quorum::default()).sync()
}

/// As [`pair`], on disks that have become larger since.
fn enlarged() -> Rig {
    let mut rig = pair();
    for number in 0..2 {
        rig.enlarge(number, LARGER, 0x50 + number as u8);
    }
    rig
}

#[test]
fn a_device_grows_and_what_is_new_is_synced_from_the_primary() {
    let mut rig = enlarged();
    let before = rig.device(0);
    assert_eq!(rig.write(0, before - 8, 7, 4096), Ok(()));
    assert_eq!(resize(&mut rig, 0), Ok(()));
    assert_eq!(rig.device(0), room(LARGER));
    rig.assert_whole();
    assert_eq!(rig.device(1), room(LARGER));
    assert!(rig.resynced(0, 1) >= room(LARGER) - before);
    assert_eq!(rig.write(0, room(LARGER) - 8, 9, 4096), Ok(()));
    rig.assert_whole();
    // What was there before is there.
    assert_eq!(rig.read(0, before - 8, 4096), Ok(vec![7; 4096]));
}

/// How a step of the story ends: the power of a node fails, or the wire between two.
fn cut_at(steps: usize, is_volatile: bool, crash: usize, growth: Growth) -> (Rig, bool) {
    let mut rig = enlarged();
    if is_volatile {
        (0..2).for_each(|number| rig.set_volatile(number));
    }
    let end = rig.device(0);
    for at in 0..4u8 {
        assert_eq!(rig.write(0, u64::from(at) * 900, 10 + at, 4096), Ok(()));
    }
    assert_eq!(rig.write(0, end - 8, 7, 4096), Ok(()));
    assert_eq!(rig.flush(0), Ok(()));
    let token = rig.order(0, resize_command(growth));
    let goes_on = rig.steps(steps);
    rig.crash(crash);
    let _ = rig.answered(token);
    (rig, goes_on)
}

/// The data of [`cut_at`] are there.
fn assert_kept(rig: &mut Rig, primary: usize, end: u64, context: &str) {
    for at in 0..4u8 {
        let data = rig.read(primary, u64::from(at) * 900, 4096);
        assert_eq!(data, Ok(vec![10 + at; 4096]), "{context}");
    }
    assert_eq!(
        rig.read(primary, end - 8, 4096),
        Ok(vec![7; 4096]),
        "{context}"
    );
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_size_or_the_new_one_and_all_data() {
    let old = room(SMALL);
    for (crash, is_volatile) in [(0, false), (0, true), (1, false), (1, true)] {
        for is_clean in [false, true] {
            let growth = Growth {
                is_clean,
                ..Growth::default()
            };
            let mut sizes = BTreeSet::new();
            for steps in 0.. {
                let context = format!("{crash} {is_volatile} {is_clean} {steps}");
                let (mut rig, goes_on) = cut_at(steps, is_volatile, crash, growth);
                // Alone, the node that did not crash goes on, or takes over.
                let other = 1 - crash;
                let size = rig.device(other);
                assert!([old, room(LARGER)].contains(&size), "{context}: {size}");
                let promoted = match crash {
                    0 => rig.promote(other),
                    _ => Ok(()),
                };
                match promoted {
                    Ok(()) => {
                        assert_kept(&mut rig, other, old, &context);
                        assert_eq!(rig.write(other, size - 16, 8, 4096), Ok(()), "{context}");
                    }
                    // It is still being synced what is new.
                    Err(refusal) => assert_eq!(refusal, Refusal::NoUpToDateDisk, "{context}"),
                }
                rig.restart(crash);
                rig.assert_uptodate(steps);
                rig.assert_whole();
                assert_eq!(rig.device(0), rig.device(1), "{context}");
                sizes.insert(rig.device(0));
                // Whatever became of it, it can be ordered again.
                if rig.primaries().is_empty() {
                    assert_eq!(rig.promote(0), Ok(()), "{context}");
                    rig.assert_whole();
                }
                let primary = rig.primaries()[0];
                assert_kept(&mut rig, primary, old, &context);
                match resize(&mut rig, other) {
                    Ok(()) | Err(Refusal::NothingToGrow) => {}
                    Err(refusal) => panic!("{context}: {refusal:?}"),
                }
                rig.assert_whole();
                assert_eq!(rig.device(0), room(LARGER), "{context}");
                if !goes_on {
                    break;
                }
            }
            assert_eq!(sizes, BTreeSet::from([old, room(LARGER)]));
        }
    }
}

#[test]
fn a_power_cut_of_all_at_any_step_leaves_the_old_size_or_the_new_one_and_all_data() {
    let old = room(SMALL);
    for steps in 0.. {
        let context = format!("{steps}");
        let (mut rig, goes_on) = cut_at(steps, true, 0, Growth::default());
        rig.crash(1);
        rig.restart(1);
        rig.restart(0);
        rig.idle();
        rig.assert_whole();
        let size = rig.device(0);
        assert!([old, room(LARGER)].contains(&size), "{context}: {size}");
        assert_eq!(rig.device(1), size, "{context}");
        assert_eq!(rig.promote(0), Ok(()), "{context}");
        assert_kept(&mut rig, 0, old, &context);
        if !goes_on {
            break;
        }
    }
}

#[test]
fn a_cut_wire_at_any_step_leaves_one_size() {
    for steps in 0.. {
        let mut rig = enlarged();
        let token = rig.order(0, resize_command(Growth::default()));
        let goes_on = rig.steps(steps);
        rig.cut_at_once();
        rig.idle();
        let answer = rig.answered(token);
        let size = rig.device(0);
        match answer {
            Some(Ok(())) => assert_eq!(size, room(LARGER), "{steps}"),
            Some(Err(refusal)) => assert_eq!(refusal, Refusal::NotConnected, "{steps}"),
            None => panic!("{steps}: no answer"),
        }
        assert_eq!(rig.write(0, size - 8, 3, 4096), Ok(()), "{steps}");
        rig.heal();
        rig.assert_whole();
        assert_eq!(rig.device(1), rig.device(0), "{steps}");
        assert!(rig.device(0) >= size, "{steps}");
        if !goes_on {
            break;
        }
    }
}

#[test]
fn a_size_that_was_ordered_counts_and_a_larger_one_than_there_is_room_for_is_refused() {
    let mut rig = enlarged();
    let before = rig.device(1);
    let growth = |sectors| Growth {
        sectors: Some(sectors),
        ..Growth::default()
    };
    let command = |sectors| resize_command(growth(sectors));
    let result = rig.command(1, command(room(LARGER) + 8));
    assert_eq!(result, Err(Refusal::SizeTooLarge));
    assert_eq!(rig.command(1, command(before - 8)), Err(Refusal::NoShrink));
    assert_eq!(rig.command(1, command(before)), Err(Refusal::NothingToGrow));
    assert_eq!(rig.command(1, command(before + 8 + 3)), Ok(()));
    rig.idle();
    assert_eq!([0, 1].map(|number| rig.device(number)), [before + 8; 2]);
    rig.assert_whole();
    // It outlives restarts, and there is room for more.
    rig.crash(1);
    rig.restart(1);
    assert_eq!(rig.device(1), before + 8);
    assert_eq!(resize(&mut rig, 1), Ok(()));
    rig.idle();
    assert_eq!([0, 1].map(|number| rig.device(number)), [room(LARGER); 2]);
    rig.assert_whole();
}

#[test]
fn the_smallest_disk_decides() {
    let mut rig = pair();
    rig.enlarge(0, 2 * LARGER, 1);
    assert_eq!(resize(&mut rig, 0), Err(Refusal::NothingToGrow));
    rig.enlarge(1, LARGER, 2);
    assert_eq!(resize(&mut rig, 0), Ok(()));
    assert_eq!([0, 1].map(|number| rig.device(number)), [room(LARGER); 2]);
    rig.assert_whole();
}

#[test]
fn a_disk_that_has_grown_by_less_than_its_metadata_take_is_refused() {
    let mut rig = pair();
    rig.enlarge(0, LARGER, 1);
    rig.enlarge(1, SMALL + 64, 2);
    assert_eq!(resize(&mut rig, 0), Err(Refusal::GrownTooLittle));
    assert_eq!(resize(&mut rig, 1), Err(Refusal::GrownTooLittle));
    rig.assert_whole();
}

#[test]
fn nothing_grows_without_a_member_or_in_the_middle_of_something_else() {
    let mut rig = enlarged();
    rig.set_slow(0, true);
    rig.flip(1, 8);
    rig.command(
        1,
        Command::Invalidate {
            volume: VOLUME,
            from: None,
        },
    )
    .unwrap();
    assert_eq!(resize(&mut rig, 0), Err(Refusal::ResyncRunning));
    assert_eq!(resize(&mut rig, 1), Err(Refusal::NoUpToDateDisk));
    rig.set_slow(0, false);
    rig.assert_whole();
    rig.detach(1);
    assert_eq!(resize(&mut rig, 0), Err(Refusal::PeerNoDisk));
    assert_eq!(resize(&mut rig, 1), Err(Refusal::NoDisk));
    rig.attach(1);
    rig.crash(1);
    assert_eq!(resize(&mut rig, 0), Err(Refusal::NotConnected));
    let growth = Growth {
        assumes_room: true,
        ..Growth::default()
    };
    assert_eq!(rig.command(0, resize_command(growth)), Ok(()));
    assert_eq!(rig.device(0), room(LARGER));
    rig.restart(1);
    rig.assert_whole();
    assert_eq!(rig.device(1), room(LARGER));
}

#[test]
fn a_disk_that_is_too_small_for_what_it_missed_stays_away_and_keeps_its_data() {
    let mut rig = pair();
    rig.crash(1);
    rig.enlarge(0, LARGER, 1);
    let growth = Growth {
        assumes_room: true,
        ..Growth::default()
    };
    assert_eq!(rig.command(0, resize_command(growth)), Ok(()));
    let image = rig.image(1);
    rig.restart(1);
    rig.wait(5_000);
    assert!(rig.is_stand_alone(1, 0));
    assert!(
        rig.reason(1, 0).contains("too small"),
        "{}",
        rig.reason(1, 0)
    );
    assert_eq!(rig.read_disk(1, 0, 1 << 20), image[..1 << 20]);
    // It grows, and may come.
    rig.enlarge(1, LARGER, 2);
    rig.reconnect();
    rig.assert_whole();
    assert_eq!(rig.device(1), room(LARGER));
}

#[test]
fn what_was_said_to_be_the_same_is_not_synced() {
    let mut rig = pair();
    (0..2).for_each(|number| rig.enlarge(number, LARGER, 0));
    let growth = Growth {
        is_clean: true,
        ..Growth::default()
    };
    assert_eq!(rig.command(1, resize_command(growth)), Ok(()));
    rig.idle();
    assert_eq!([0, 1].map(|number| rig.device(number)), [room(LARGER); 2]);
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    assert_eq!(rig.out_of_sync(0, 1), 0);
    // The old metadata as well, which are not.
    rig.assert_whole();
}

#[test]
fn three_disks_grow_together() {
    let mut rig = Rig::configured(3, SMALL, all_vote(3)).sync();
    (0..3).for_each(|number| rig.enlarge(number, LARGER, number as u8));
    let before = rig.device(0);
    assert_eq!(resize(&mut rig, 2), Ok(()));
    assert_eq!(rig.write(0, before, 5, 4096), Ok(()));
    rig.assert_whole();
    for number in 0..3 {
        assert_eq!(rig.device(number), room(LARGER), "node {number}");
    }
}

#[test]
fn a_client_learns_of_the_new_size_and_uses_it() {
    let mut rig = enlarged();
    rig.demote(0);
    rig.detach(1);
    assert_eq!(rig.promote(1), Ok(()));
    let growth = Growth {
        assumes_room: true,
        ..Growth::default()
    };
    assert_eq!(rig.command(0, resize_command(growth)), Ok(()));
    rig.idle();
    assert_eq!(rig.device(1), room(LARGER));
    assert_eq!(rig.write(1, room(LARGER) - 8, 5, 4096), Ok(()));
    assert_eq!(rig.read_disk(0, room(LARGER) - 8, 4096), vec![5; 4096]);
}

#[test]
fn blank_disks_of_different_sizes_agree_on_the_smaller_one() {
    let mut rig = Rig::configured(2, SMALL, Quorum::default());
    rig.replace_disk_with(0, LARGER);
    for number in 0..2 {
        rig.attach(number);
    }
    rig.connect();
    rig.idle();
    assert_eq!([0, 1].map(|number| rig.device(number)), [room(SMALL); 2]);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.assert_whole();
    // A larger disk takes the place of the smaller one.
    rig.crash(1);
    rig.replace_disk_with(1, 2 * LARGER);
    rig.restart(1);
    rig.assert_whole();
    assert_eq!(rig.device(1), room(SMALL));
    assert_eq!(resize(&mut rig, 0), Ok(()));
    assert_eq!([0, 1].map(|number| rig.device(number)), [room(LARGER); 2]);
    rig.assert_whole();
}

#[test]
fn a_new_disk_that_is_too_small_is_refused() {
    let mut rig = pair();
    rig.crash(1);
    rig.replace_disk_with(1, SMALL / 2);
    rig.restart(1);
    rig.wait(5_000);
    assert!(rig.is_stand_alone(1, 0));
    assert!(rig.reason(1, 0).contains("too small"));
}

#[test]
fn a_disk_that_fails_or_leaves_in_the_middle_of_a_resize_comes_back_whole() {
    for steps in 0.. {
        let mut rig = enlarged();
        let token = rig.order(0, resize_command(Growth::default()));
        let goes_on = rig.steps(steps);
        rig.set_failing(1, steps % 2 == 0);
        let detached = rig.order(1, Command::Detach { volume: VOLUME });
        rig.idle();
        rig.wait(5_000);
        assert!(rig.answered(token).is_some(), "{steps}: no answer");
        assert!(rig.answered(detached).is_some(), "{steps}: no answer");
        rig.set_failing(1, false);
        let size = rig.device(0);
        assert_eq!(rig.write(0, size - 8, 3, 4096), Ok(()), "{steps}");
        if rig.disk_state(1) == DiskState::Diskless {
            rig.attach(1);
        }
        rig.assert_whole();
        assert_eq!(rig.device(1), rig.device(0), "{steps}");
        if !goes_on {
            break;
        }
    }
}

#[test]
fn a_node_without_peers_grows_by_itself() {
    let mut rig = Rig::configured(1, SMALL, Quorum::default());
    rig.attach(0);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.enlarge(0, LARGER, 0);
    assert_eq!(resize(&mut rig, 0), Ok(()));
    assert_eq!(rig.device(0), room(LARGER));
    assert_eq!(rig.write(0, room(LARGER) - 8, 1, 4096), Ok(()));
}

#[test]
fn two_orders_at_once_leave_one_size_and_are_both_answered() {
    let mut rig = enlarged();
    let first = rig.order(0, resize_command(Growth::default()));
    let smaller = Growth {
        sectors: Some(room(LARGER) - 80),
        ..Growth::default()
    };
    let second = rig.order(1, resize_command(smaller));
    rig.assert_whole();
    assert!(rig.answered(first).is_some() && rig.answered(second).is_some());
    assert_eq!(rig.device(0), rig.device(1));
}
