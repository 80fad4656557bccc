// SPDX-License-Identifier: GPL-2.0-only

//! Bitmaps against plain lists of truth values.

use super::*;
use crate::testing::{NoIo, Random};
use weft_uapi::ondisk::MetaKind;

/// Two bitmaps with more than one metadata block each and an odd number of bits.
fn layout() -> Layout {
    Layout::new(MetaKind::External, 70_123 * SECTORS_PER_BIT, 1 << 20, 2).unwrap()
}

fn empty() -> Bitmaps<NoIo> {
    let layout = layout();
    empty_with(&layout, layout.data_sectors())
}

fn empty_with(layout: &Layout, sectors: u64) -> Bitmaps<NoIo> {
    let words = layout.bitmap_words() as usize * layout.slots() as usize;
    Bitmaps::new(vec![0; words], layout, sectors).unwrap()
}

fn set_bits_of(bitmaps: &Bitmaps<NoIo>, slot: u32) -> Vec<u64> {
    let mut bits = Vec::new();
    let mut from = 0;
    loop {
        match bitmaps.next_run(slot, from, 7) {
            Next::Run { bit, len } => {
                assert!((1..=7).contains(&len));
                bits.extend(bit..bit + len);
                from = bit + len;
            }
            Next::Later(bit) => from = bit,
            Next::None => return bits,
        }
    }
}

#[test]
fn a_write_marks_each_block_it_touches_and_a_copy_clears_only_whole_ones() {
    let mut bitmaps = empty();
    assert_eq!(bitmaps.set_range(1, Sector(7), 2 * SECTOR_BYTES), 2);
    assert_eq!(set_bits_of(&bitmaps, 1), [0, 1]);
    assert_eq!(bitmaps.count(0), 0);
    assert_eq!(bitmaps.clear_range(1, Sector(1), 15 * SECTOR_BYTES), 1);
    assert_eq!(set_bits_of(&bitmaps, 1), [0]);
    assert!(
        bitmaps.is_set_any(1, Sector(7), SECTOR_BYTES) && !bitmaps.is_set_any(1, Sector(8), 4096)
    );
}

#[test]
fn an_empty_range_changes_nothing() {
    let mut bitmaps = empty();
    assert_eq!(
        bitmaps.set_range(0, Sector(9), 0) + bitmaps.clear_range(0, Sector(9), 0),
        0
    );
    assert!(!bitmaps.is_set_any(0, Sector(9), 0));
}

#[test]
fn bits_past_the_end_are_never_set() {
    let layout = layout();
    let words = vec![u64::MAX; layout.bitmap_words() as usize * 2];
    let mut bitmaps = Bitmaps::<NoIo>::new(words, &layout, layout.data_sectors()).unwrap();
    assert_eq!((bitmaps.count(0), bitmaps.count(1)), (70_123, 70_123));
    bitmaps.clear_all(0);
    assert_eq!(bitmaps.count(0), 0);
    assert_eq!(bitmaps.set_bits(0, 70_120, 100), 3);
    assert_eq!(bitmaps.set_bits(0, u64::MAX - 1, u64::MAX), 0);
    assert!(!bitmaps.union_word(0, layout.bitmap_words(), 1));
    bitmaps.set_all(0);
    assert_eq!(bitmaps.count(0), bitmaps.bits());
    assert_eq!(bitmaps.set_bits(2, 0, 10), 0);
}

#[test]
fn a_block_is_dirty_until_it_is_taken_to_be_written() {
    let mut bitmaps = empty();
    bitmaps.set_bits(1, 40_000, 1);
    assert_eq!(bitmaps.next_dirty(), Some((1, 1)));
    let mut block = [0; 4096];
    assert!(bitmaps.encode(1, 1, &mut block));
    assert_eq!(block[(40_000 - 32_768) / 8], 1);
    assert_eq!((bitmaps.next_dirty(), bitmaps.dirty_count()), (None, 0));
    bitmaps.set_bits(1, 40_000, 1);
    assert!(!bitmaps.is_dirty(1, 1), "nothing changed");
    bitmaps.clear_bits(1, 40_000, 1);
    assert!(bitmaps.is_dirty(1, 1));
    assert!(!bitmaps.encode(1, 9, &mut block) && !bitmaps.encode(9, 0, &mut block));
}

#[test]
fn an_extent_is_a_piece_of_one_block() {
    let mut bitmaps = empty();
    bitmaps.set_extent(0, 33);
    assert_eq!(
        set_bits_of(&bitmaps, 0),
        (33 * 1024..34 * 1024).collect::<Vec<_>>()
    );
    assert_eq!(
        bitmaps.next_dirty(),
        Some((0, Bitmaps::<NoIo>::block_of_extent(33)))
    );
}

#[test]
fn a_search_gives_up_after_a_while_and_goes_on_where_it_stopped() {
    let layout = Layout::new(MetaKind::External, 1 << 24, 1 << 20, 1).unwrap();
    let mut bitmaps = empty_with(&layout, layout.data_sectors());
    bitmaps.set_bits(0, 1_000_000, 1);
    assert_eq!(bitmaps.next_run(0, 0, 8), Next::Later(SCAN_WORDS_MAX * 64));
    assert_eq!(set_bits_of(&bitmaps, 0), [1_000_000]);
}

#[test]
fn bitmaps_behave_like_lists_of_truth_values() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut bitmaps = empty();
        let mut models = [vec![false; 70_123], vec![false; 70_123]];
        for _ in 0..300 {
            let slot = random.below(2) as u32;
            let sector = Sector(random.below(70_000 * SECTORS_PER_BIT));
            let bytes = random.below(600) as u32 * SECTOR_BYTES;
            let model = &mut models[slot as usize];
            let end = sector.0 + u64::from(bytes / SECTOR_BYTES);
            let touched = (sector.0 / 8..end.div_ceil(8)).filter(|_| bytes > 0);
            let before = bitmaps.count(slot);
            match random.below(4) {
                0 | 1 => {
                    let set = bitmaps.set_range(slot, sector, bytes);
                    touched.for_each(|bit| model[bit as usize] = true);
                    assert_eq!(bitmaps.count(slot), before + set);
                }
                2 => {
                    let cleared = bitmaps.clear_range(slot, sector, bytes);
                    (sector.0.div_ceil(8)..end / 8).for_each(|bit| model[bit as usize] = false);
                    assert_eq!(bitmaps.count(slot), before - cleared);
                }
                _ => {
                    let index = random.below(1000);
                    let word = random.below(u64::MAX) & random.below(u64::MAX);
                    assert!(bitmaps.union_word(slot, index, word));
                    (0..64)
                        .filter(|bit| (word >> bit) & 1 == 1)
                        .for_each(|bit| model[(index * 64 + bit) as usize] = true);
                }
            }
            let probe = random.below(70_000);
            assert_eq!(
                bitmaps.is_set_any(slot, Sector(probe * 8 + 3), 4096),
                models[slot as usize][probe as usize] || models[slot as usize][probe as usize + 1]
            );
        }
        for (slot, model) in (0..).zip(&models) {
            let expected: Vec<u64> = (0..)
                .zip(model)
                .filter(|(_, &set)| set)
                .map(|(bit, _)| bit)
                .collect();
            assert_eq!(bitmaps.count(slot), expected.len() as u64);
            assert_eq!(set_bits_of(&bitmaps, slot), expected, "seed {seed}");
        }
    }
}

#[test]
fn bitmaps_of_a_larger_disk_take_everything_over_and_grow() {
    let mut old = empty();
    old.set_bits(0, 5, 3);
    old.set_bits(1, 70_000, 123);
    let mut block = [0; 4096];
    assert!(old.encode(0, 0, &mut block));
    old.set_bits(0, 64, 1);
    let larger = Layout::new(MetaKind::External, 1 << 24, 1 << 20, 2).unwrap();
    let mut new = empty_with(&larger, 0);
    new.take_over(&old);
    for slot in 0..2 {
        assert_eq!(new.count(slot), old.count(slot));
        assert_eq!(set_bits_of(&new, slot), set_bits_of(&old, slot));
    }
    // What was to be written is, and what was not need not.
    assert_eq!(new.dirty_count(), old.dirty_count());
    assert_eq!(new.set_bits(0, 70_123, 10), 0);
    new.resize(1 << 24);
    assert_eq!(new.set_bits(0, 70_123, 10), 10);
    new.resize(70_125 * SECTORS_PER_BIT);
    assert_eq!(new.count(0), 4 + 2);
    assert_eq!(*set_bits_of(&new, 0).last().unwrap(), 70_124);
    new.rewrite(1);
    assert!((0..new.blocks()).all(|block| new.is_dirty(1, block)));
}
