// SPDX-License-Identifier: GPL-2.0-only

//! The log against a naive model, and its transactions through a ring that loses whatever was not committed.

use super::*;
use crate::testing::{NoIo, Random};
use std::collections::{BTreeMap, BTreeSet};
use weft_uapi::ondisk::{AlReplay, AL_BLOCKS};

const DEVICE: u64 = 9;

fn empty(capacity: usize) -> ActivityLog<NoIo> {
    ActivityLog::new(capacity, u32::MAX, &[], 0).unwrap()
}

/// The ring on disk.
#[derive(Default)]
struct Ring(BTreeMap<u64, MetaBlock>);

impl Ring {
    fn write(&mut self, sequence: u64, block: MetaBlock) {
        self.0.insert(sequence, block);
        if sequence >= u64::from(AL_BLOCKS) {
            self.0.remove(&(sequence - u64::from(AL_BLOCKS)));
        }
    }

    fn extents(&self) -> BTreeSet<u32> {
        let mut table = vec![0; SLOTS];
        let mut replay = AlReplay::new(&mut table).unwrap();
        for block in self.0.values() {
            replay.apply(&AlTransaction::parse(block, DEVICE).unwrap());
        }
        table
            .into_iter()
            .filter(|&extent| extent != AL_SLOT_FREE)
            .collect()
    }
}

fn commit(log: &mut ActivityLog<NoIo>, ring: &mut Ring) -> Option<u64> {
    log.prepare()?;
    let mut block = [0; 4096];
    ring.write(log.encode(DEVICE, &mut block).unwrap(), block);
    log.commit()
}

#[test]
fn a_cold_extent_becomes_hot_with_the_next_transaction() {
    let mut log = empty(8);
    assert_eq!(log.begin(3), Begin::Pending(1));
    assert_eq!(log.begin(3), Begin::Pending(1));
    assert!(!log.is_hot(3));
    assert_eq!(commit(&mut log, &mut Ring::default()), Some(1));
    assert!(log.is_hot(3));
    assert_eq!(log.begin(3), Begin::Hot);
}

#[test]
fn requests_that_come_while_a_transaction_is_written_share_the_one_after() {
    let mut log = empty(8);
    log.begin(1);
    assert_eq!(log.prepare(), Some(1));
    assert_eq!(log.prepare(), None);
    assert_eq!(log.begin(2), Begin::Pending(2));
    assert_eq!(log.begin(3), Begin::Pending(2));
    assert_eq!(log.begin(1), Begin::Pending(1));
    log.commit();
    assert!(log.is_hot(1) && !log.is_hot(2));
    assert_eq!(log.prepare(), Some(2));
}

#[test]
fn the_least_recently_used_extent_without_reference_is_evicted() {
    let mut log = empty(3);
    let mut ring = Ring::default();
    (0..3).for_each(|extent| assert_ne!(log.begin(extent), Begin::Full));
    commit(&mut log, &mut ring);
    assert!(log.end(1) && log.end(0) && log.begin(1) == Begin::Hot);
    assert_eq!(log.begin(7), Begin::Pending(2));
    assert_eq!(log.begin(8), Begin::Full);
    log.prepare();
    assert_eq!(log.evicted(), [0]);
    let mut block = [0; 4096];
    ring.write(log.encode(DEVICE, &mut block).unwrap(), block);
    log.commit();
    assert_eq!(ring.extents(), BTreeSet::from([1, 2, 7]));
}

#[test]
fn a_transaction_names_no_change_that_came_after_it_was_prepared() {
    let mut log = empty(1);
    let mut ring = Ring::default();
    log.begin(1);
    commit(&mut log, &mut ring);
    log.end(1);
    log.rewrites = 2;
    log.prepare();
    assert_eq!(log.begin(2), Begin::Pending(3));
    let mut block = [0; 4096];
    ring.write(log.encode(DEVICE, &mut block).unwrap(), block);
    log.commit();
    assert_eq!(ring.extents(), BTreeSet::from([1]));
}

#[test]
fn a_reference_that_was_never_taken_cannot_be_given_back() {
    let mut log = empty(4);
    assert!(!log.end(1));
    log.begin(1);
    assert!(log.end(1) && !log.end(1));
}

#[test]
fn a_cleared_log_reads_as_empty_after_a_restart() {
    let mut log = empty(SLOTS);
    let mut ring = Ring::default();
    for extent in 0..200 {
        if log.begin(extent) == Begin::Full {
            commit(&mut log, &mut ring);
            log.begin(extent);
        }
        log.end(extent);
    }
    while commit(&mut log, &mut ring).is_some() {}
    assert_eq!(ring.extents().len(), 200);
    assert!(log.clear());
    while commit(&mut log, &mut ring).is_some() {}
    assert_eq!((ring.extents().len(), log.used()), (0, 0));
}

#[test]
fn a_table_from_disk_stays_hot_without_what_does_not_fit_the_device() {
    let mut table = vec![AL_SLOT_FREE; SLOTS];
    (table[5], table[6], table[7], table[1023]) = (40, 40, 1000, 3);
    let log = ActivityLog::<NoIo>::new(1, 1000, &table, 77).unwrap();
    assert!(log.is_hot(40) && log.is_hot(3) && !log.is_hot(1000));
    assert_eq!((log.used(), log.capacity(), log.sequence()), (2, 2, 77));
    assert!(log.wants_transaction());
}

/// References by extent, and what must be hot, checked step by step against the log and its image on disk.
#[test]
fn the_log_behaves_like_a_set_of_counters_over_a_ring() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let capacity = 1 + random.below(40) as usize;
        let range = 1 + random.below(120);
        let mut log = empty(capacity);
        let mut ring = Ring::default();
        let mut held: BTreeMap<u32, u32> = BTreeMap::new();
        let mut written = None;
        let mut on_disk = BTreeSet::new();
        for _ in 0..2000 {
            let extent = random.below(range) as u32;
            match random.below(8) {
                0..=2 => match log.begin(extent) {
                    Begin::Full => assert!(!log.is_hot(extent)),
                    begin => {
                        assert_eq!(begin == Begin::Hot, log.is_hot(extent));
                        *held.entry(extent).or_default() += 1;
                    }
                },
                3..=5 => {
                    let count = held.get(&extent).copied().unwrap_or(0);
                    assert_eq!(log.end(extent), count > 0);
                    if count > 0 {
                        held.insert(extent, count - 1);
                    }
                }
                6 if written.is_none() => {
                    if log.prepare().is_some() {
                        let mut block = [0; 4096];
                        written = log
                            .encode(DEVICE, &mut block)
                            .map(|sequence| (sequence, block));
                    } else if random.one_in(20) {
                        log.clear();
                    }
                }
                _ => {
                    if let Some((sequence, block)) = written.take() {
                        ring.write(sequence, block);
                        on_disk = ring.extents();
                        log.commit();
                    }
                }
            }
            held.retain(|_, count| *count > 0);
            assert_eq!(log.referenced(), held.len());
            assert!(log.used() <= capacity);
            for extent in log.extents() {
                assert!(
                    !log.is_hot(extent) || on_disk.contains(&extent),
                    "seed {seed}: hot, but not on disk"
                );
            }
            assert!(
                held.keys().all(|&extent| log.is_referenced(extent)),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_copy_of_the_log_says_the_same_and_the_log_goes_on_behind_it() {
    let (mut log, mut ring) = (empty(8), Ring::default());
    for extent in 0..12 {
        log.begin(extent);
        commit(&mut log, &mut ring);
        log.end(extent);
    }
    // It waits for the next transaction, which the copy does not have.
    log.begin(99);
    let mut copy = Ring::default();
    let sequence = log.sequence();
    for ahead in 0..u64::from(AL_BLOCKS) {
        let mut block = [0; 4096];
        let written = log.encode_copy(DEVICE, ahead, &mut block).unwrap();
        assert_eq!(written, sequence + ahead);
        copy.write(written, block);
    }
    assert_eq!(copy.extents(), ring.extents());
    log.skip(AL_BLOCKS.into());
    commit(&mut log, &mut copy);
    assert!(copy.extents().contains(&99) && log.is_hot(99));
    log.begin(100);
    log.prepare();
    assert_eq!(log.encode_copy(DEVICE, 0, &mut [0; 4096]), None);
}
