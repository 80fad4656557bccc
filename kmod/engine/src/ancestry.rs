// SPDX-License-Identifier: GPL-2.0-only

//! The line of generations that led to the data on a disk.
//!
//! Kept in the superblock and told to the peers; it answers which of two disks is older, and whether they have a common
//! past at all. It is bounded: a disk that lags by more than [`ANCESTRY_MAX`] generations is recognised by
//! [`crate::decide::Side::since`] instead.

use weft_uapi::limits::ANCESTRY_MAX;
use weft_uapi::ondisk::Generation;
use weft_uapi::units::GenerationId;

/// The current generation and those before it.
///
/// # Invariants
/// `former` holds no [`GenerationId::NONE`] before a real id; the newest comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ancestry {
    current: Generation,
    former: [GenerationId; ANCESTRY_MAX],
}

impl Ancestry {
    /// The line with this end; ids after the first [`GenerationId::NONE`] are dropped.
    pub fn new(current: Generation, former: [GenerationId; ANCESTRY_MAX]) -> Self {
        let mut line = Self {
            current,
            former: [GenerationId::NONE; ANCESTRY_MAX],
        };
        let known = former.iter().take_while(|&&id| id != GenerationId::NONE);
        for (to, from) in line.former.iter_mut().zip(known) {
            *to = *from;
        }
        line
    }

    /// The generation that the data belong to.
    pub const fn current(&self) -> Generation {
        self.current
    }

    /// Former generations, the newest first, filled up with [`GenerationId::NONE`].
    pub const fn former(&self) -> &[GenerationId; ANCESTRY_MAX] {
        &self.former
    }

    /// Whether the disk never held data.
    pub fn is_blank(&self) -> bool {
        self.current.id == GenerationId::NONE
    }

    /// Whether `id` is the current generation or a known former one; never true of [`GenerationId::NONE`].
    pub fn contains(&self, id: GenerationId) -> bool {
        id != GenerationId::NONE && (self.current.id == id || self.former.contains(&id))
    }

    /// Whether everything up to this line's end is also `other`'s past, as far as `other` remembers.
    pub fn precedes(&self, other: &Self) -> bool {
        other.contains(self.current.id)
    }

    /// The newest generation that both lines know.
    pub fn common(&self, other: &Self) -> Option<GenerationId> {
        let line = core::iter::once(&self.current.id).chain(&self.former);
        line.copied().find(|&id| other.contains(id))
    }

    /// Goes on with `child`; the generation of before becomes the newest former one and the oldest one is forgotten.
    ///
    /// `child.parent` is set to the generation that it follows.
    pub fn push(&mut self, child: Generation) {
        let parent = self.current.id;
        if parent != GenerationId::NONE {
            self.former.rotate_right(1);
            if let Some(newest) = self.former.first_mut() {
                *newest = parent;
            }
        }
        self.current = Generation { parent, ..child };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(id: u64) -> Generation {
        Generation {
            id: GenerationId(id),
            ..Generation::default()
        }
    }

    fn line(ids: &[u64]) -> Ancestry {
        let mut line = Ancestry::default();
        ids.iter().for_each(|&id| line.push(generation(id)));
        line
    }

    #[test]
    fn a_child_follows_its_parent() {
        let child = line(&[1, 2, 3]);
        assert_eq!(child.current().parent, GenerationId(2));
        assert!(line(&[1, 2]).precedes(&child) && child.precedes(&child));
        assert!(!child.precedes(&line(&[1, 2])));
    }

    #[test]
    fn a_blank_line_precedes_nothing_and_has_no_common_past() {
        let blank = Ancestry::default();
        assert!(
            blank.is_blank() && !blank.precedes(&line(&[1])) && !blank.contains(GenerationId::NONE)
        );
        assert_eq!(blank.common(&blank), None);
    }

    #[test]
    fn the_newest_common_ancestor_is_found_from_both_sides() {
        let (a, b) = (line(&[1, 2, 3, 4]), line(&[1, 2, 30, 40, 50]));
        assert_eq!(a.common(&b), Some(GenerationId(2)));
        assert_eq!(b.common(&a), Some(GenerationId(2)));
        assert_eq!(a.common(&line(&[7])), None);
    }

    #[test]
    fn the_oldest_generation_is_forgotten_when_the_line_is_full() {
        let ids: Vec<u64> = (1..=ANCESTRY_MAX as u64 + 2).collect();
        let full = line(&ids);
        assert!(!full.contains(GenerationId(1)) && full.contains(GenerationId(2)));
    }

    #[test]
    fn ids_behind_a_gap_are_not_taken_from_a_disk() {
        let mut former = [GenerationId::NONE; ANCESTRY_MAX];
        former[0] = GenerationId(1);
        former[2] = GenerationId(9);
        let line = Ancestry::new(generation(2), former);
        assert!(line.contains(GenerationId(1)) && !line.contains(GenerationId(9)));
    }
}
