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
/// A generation whose data this line never had to the end is kept with every bit of its id inverted
/// ([`Self::push_apart`]): it is a common past with who has those data, and yet nobody takes it for one of this line.
///
/// # Invariants
/// `former` holds no [`GenerationId::NONE`] before a real id; the newest comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ancestry {
    current: Generation,
    former: [GenerationId; ANCESTRY_MAX],
    /// The newest generation with a writer, unless that is the current one.
    written: GenerationId,
}

impl Ancestry {
    /// The line with this end; ids after the first [`GenerationId::NONE`] are dropped. `written` is the newest
    /// generation in which somebody could write, [`GenerationId::NONE`] stands for the current one.
    pub fn new(
        current: Generation,
        former: [GenerationId; ANCESTRY_MAX],
        written: GenerationId,
    ) -> Self {
        let mut line = Self {
            current,
            former: [GenerationId::NONE; ANCESTRY_MAX],
            written,
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

    /// The newest generation in which somebody could write: who has that in its past has all data of this line.
    pub fn written(&self) -> GenerationId {
        match self.written {
            GenerationId::NONE => self.current.id,
            id => id,
        }
    }

    /// The current generation is in force: its writer, if it has one, may write.
    pub fn confirm(&mut self) {
        if self.current.writer.is_some() {
            self.written = GenerationId::NONE;
        }
    }

    /// What [`Self::new`] takes as `written`.
    pub const fn written_before(&self) -> GenerationId {
        self.written
    }

    /// Whether the disk never held data.
    pub fn is_blank(&self) -> bool {
        self.current.id == GenerationId::NONE
    }

    /// Whether `id` is the current generation or a known former one; never true of [`GenerationId::NONE`].
    pub fn contains(&self, id: GenerationId) -> bool {
        id != GenerationId::NONE && (self.current.id == id || self.former.contains(&id))
    }

    /// Whether `id` came later in this line than `other`, as far as is known.
    pub fn is_newer(&self, id: GenerationId, other: GenerationId) -> bool {
        let mut line = core::iter::once(&self.current.id).chain(&self.former);
        let newest = line.find(|&&one| one == id || one == other);
        id != GenerationId::NONE && id != other && newest == Some(&id)
    }

    /// Whether all data of this line are also of `other`'s past, as far as `other` remembers. Both may be true of each
    /// other: then they hold the same.
    pub fn precedes(&self, other: &Self) -> bool {
        other.contains(self.written()) || other.contains(self.current.id)
    }

    /// Whether there are records between the newest one in which somebody could write and the current one that `other` does
    /// not have.
    pub fn goes_beyond(&self, other: &Self) -> bool {
        let is_former = |id: &&GenerationId| **id != self.written && **id != GenerationId::NONE;
        let mut between = self.former.iter().take_while(is_former);
        self.written != GenerationId::NONE && between.any(|&id| !other.contains(id))
    }

    /// Whether this line has the data of `id`, or broke off from it before it had them all.
    pub fn knows(&self, id: GenerationId) -> bool {
        self.contains(id) || (id != GenerationId::NONE && self.former.contains(&inverted(id)))
    }

    /// The newest generation that both lines know; given as `self` keeps it.
    pub fn common(&self, other: &Self) -> Option<GenerationId> {
        let line = core::iter::once(&self.current.id).chain(&self.former);
        line.copied()
            .find(|&id| other.knows(id) || other.contains(inverted(id)))
    }

    /// Goes on with `child`; the generation of before becomes the newest former one and the oldest one is forgotten.
    ///
    /// `child.parent` is set to the generation that it follows. Nothing is written in it before [`Self::confirm`].
    pub fn push(&mut self, child: Generation) {
        self.go_on(child, self.current.id);
    }

    /// As [`Self::push`], but not all data of the current generation are here: whoever has them did not lead to these.
    pub fn push_apart(&mut self, child: Generation) {
        self.go_on(child, inverted(self.current.id));
    }

    fn go_on(&mut self, child: Generation, newest_former: GenerationId) {
        let parent = self.current.id;
        if parent != GenerationId::NONE {
            self.former.rotate_right(1);
            if let Some(newest) = self.former.first_mut() {
                *newest = newest_former;
            }
        }
        self.written = self.written();
        self.current = Generation { parent, ..child };
    }
}

const fn inverted(id: GenerationId) -> GenerationId {
    GenerationId(!id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::units::NodeId;

    fn generation(id: u64) -> Generation {
        Generation {
            id: GenerationId(id),
            writer: NodeId::new(0),
            ..Generation::default()
        }
    }

    fn line(ids: &[u64]) -> Ancestry {
        let mut line = Ancestry::default();
        for &id in ids {
            line.push(generation(id));
            line.confirm();
        }
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
    fn of_two_generations_one_is_newer() {
        let line = line(&[1, 2, 3]);
        let is_newer = |one, other| line.is_newer(GenerationId(one), GenerationId(other));
        assert!(is_newer(3, 2) && is_newer(2, 1) && !is_newer(1, 2) && !is_newer(2, 2));
        assert!(!is_newer(0, 1) && !is_newer(9, 1) && is_newer(1, 9));
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
    fn a_generation_without_writer_adds_no_data() {
        let (mut a, mut b) = (line(&[1, 2]), line(&[1, 2]));
        let nobody = |id| Generation {
            writer: None,
            ..generation(id)
        };
        a.push(nobody(3));
        a.push(nobody(4));
        assert_eq!(a.written(), GenerationId(2));
        b.push(nobody(5));
        assert!(a.precedes(&b) && b.precedes(&a) && a.precedes(&line(&[1, 2])));
        b.push(generation(6));
        assert!(a.precedes(&b) && b.precedes(&a), "nobody has written yet");
        b.confirm();
        assert!(a.precedes(&b) && !b.precedes(&a));
    }

    #[test]
    fn who_broke_off_has_a_past_in_common_with_who_went_on_and_neither_precedes_the_other() {
        let source = line(&[1, 2]);
        let mut target = source;
        target.push_apart(generation(3));
        target.confirm();
        target.push(generation(4));
        target.confirm();
        assert!(!source.precedes(&target) && !target.precedes(&source));
        assert!(line(&[1]).precedes(&target));
        assert_eq!(source.common(&target), Some(GenerationId(2)));
        assert!(target.common(&source).is_some() && target.knows(GenerationId(2)));
        assert!(!target.knows(GenerationId::NONE));
    }

    #[test]
    fn ids_behind_a_gap_are_not_taken_from_a_disk() {
        let mut former = [GenerationId::NONE; ANCESTRY_MAX];
        former[0] = GenerationId(1);
        former[2] = GenerationId(9);
        let line = Ancestry::new(generation(2), former, GenerationId::NONE);
        assert!(line.contains(GenerationId(1)) && !line.contains(GenerationId(9)));
    }
}
