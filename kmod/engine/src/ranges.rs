// SPDX-License-Identifier: GPL-2.0-only

//! Ranges of a volume that are being changed or copied, and who waits for whom.
//!
//! Two changes of the same sector must reach every disk in the same order, and a range that is read for a resync must
//! not change meanwhile. Whoever overlaps somebody that came before waits; it goes on when all of those have left.

use crate::host::{Host, NoMemory};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::units::Sector;

/// A piece of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First sector.
    pub sector: Sector,
    /// Length in bytes; an empty span overlaps nothing.
    pub bytes: u32,
}

impl Span {
    /// The sector after the last one; part of a sector counts as a whole one.
    pub const fn end(self) -> u64 {
        self.sector
            .0
            .saturating_add(self.bytes.div_ceil(SECTOR_BYTES) as u64)
    }

    /// Whether both have a sector in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.sector.0 < other.end()
            && other.sector.0 < self.end()
            && self.bytes > 0
            && other.bytes > 0
    }
}

/// Names a range until it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeId(u32);

/// Answer of [`Ranges::enter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entered {
    /// For [`Ranges::leave`].
    pub id: RangeId,
    /// Nobody is in the way; else [`Ranges::next_ready`] tells when.
    pub is_ready: bool,
}

#[derive(Clone, Copy)]
struct Place<T> {
    span: Span,
    owner: T,
    order: u64,
    /// How many that came before and overlap have not left; `None`: the owner knows that it may go on.
    blockers: Option<u32>,
}

/// The ranges of one volume. Every operation looks at all that are taken once, so there should be no more than some
/// hundred.
///
/// # Invariants
/// No place from `end` on is taken.
pub struct Ranges<H: Host, T: Copy> {
    places: H::Slab<Option<Place<T>>>,
    /// The first free place is always the next one used, so what is taken stays at the front.
    end: usize,
    next_order: u64,
    used: usize,
    ready: usize,
}

impl<H: Host, T: Copy> Ranges<H, T> {
    /// Room for `capacity` ranges. Context: may sleep.
    pub fn new(capacity: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            places: H::slab(capacity, || None)?,
            end: 0,
            next_order: 0,
            used: 0,
            ready: 0,
        })
    }

    /// Takes a range for `owner`; `None`: no room.
    pub fn enter(&mut self, span: Span, owner: T) -> Option<Entered> {
        let (mut at, mut blockers) = (self.end, 0u32);
        for (index, place) in self.places.iter().enumerate().take(self.end) {
            match place {
                Some(place) if place.span.overlaps(span) => blockers = blockers.checked_add(1)?,
                Some(_) => {}
                None => at = at.min(index),
            }
        }
        let is_ready = blockers == 0;
        let order = self.next_order;
        *self.places.get_mut(at)? = Some(Place {
            span,
            owner,
            order,
            blockers: (!is_ready).then_some(blockers),
        });
        self.end = self.end.max(at.saturating_add(1));
        self.next_order = order.saturating_add(1);
        self.used = self.used.saturating_add(1);
        Some(Entered {
            id: RangeId(u32::try_from(at).ok()?),
            is_ready,
        })
    }

    /// Gives a range back, whether it was ready or still waited. Those it was in the way of come up in
    /// [`Ranges::next_ready`].
    pub fn leave(&mut self, id: RangeId) -> Option<T> {
        let gone = usize::try_from(id.0)
            .ok()
            .and_then(|at| self.places.get_mut(at))?
            .take()?;
        self.used = self.used.saturating_sub(1);
        self.shrink();
        if gone.blockers == Some(0) {
            self.ready = self.ready.saturating_sub(1);
        }
        let later = self
            .places
            .iter_mut()
            .take(self.end)
            .flatten()
            .filter(|place| place.order > gone.order);
        for place in later.filter(|place| place.span.overlaps(gone.span)) {
            if let Some(blockers) = &mut place.blockers {
                *blockers = blockers.saturating_sub(1);
                if *blockers == 0 {
                    self.ready = self.ready.saturating_add(1);
                }
            }
        }
        Some(gone.owner)
    }

    /// The next one that waited and may go on now, in the order in which they came.
    pub fn next_ready(&mut self) -> Option<(RangeId, T)> {
        if self.ready == 0 {
            return None;
        }
        let waiting = self
            .places
            .iter_mut()
            .take(self.end)
            .enumerate()
            .filter_map(|(at, place)| Some((at, place.as_mut()?)));
        let ready = waiting.filter(|(_, place)| place.blockers == Some(0));
        let (at, place) = ready.min_by_key(|(_, place)| place.order)?;
        place.blockers = None;
        self.ready = self.ready.saturating_sub(1);
        Some((RangeId(u32::try_from(at).ok()?), place.owner))
    }

    /// Whether somebody holds or waits for a part of `span`.
    pub fn is_taken(&self, span: Span) -> bool {
        self.places
            .iter()
            .take(self.end)
            .flatten()
            .any(|place| place.span.overlaps(span))
    }

    /// Lets the scans end earlier where that has become possible.
    fn shrink(&mut self) {
        while let Some(last) = self.end.checked_sub(1) {
            if !matches!(self.places.get(last), Some(None)) {
                return;
            }
            self.end = last;
        }
    }

    /// All who hold or wait for a range, in no particular order.
    pub fn owners(&self) -> impl Iterator<Item = (RangeId, Span, T)> + '_ {
        (0u32..)
            .zip(self.places.iter().take(self.end))
            .filter_map(|(at, place)| {
                place
                    .as_ref()
                    .map(|place| (RangeId(at), place.span, place.owner))
            })
    }

    /// Number of ranges held or waited for.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether one more can be taken.
    pub fn has_room(&self) -> bool {
        self.used < self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NoIo, Random};

    fn span(sector: u64, sectors: u32) -> Span {
        Span {
            sector: Sector(sector),
            bytes: sectors * SECTOR_BYTES,
        }
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!span(0, 8).overlaps(span(8, 8)) && span(0, 9).overlaps(span(8, 8)));
        assert!(!span(4, 0).overlaps(span(0, 8)));
    }

    #[test]
    fn who_overlaps_an_earlier_one_waits_for_it() {
        let mut ranges = Ranges::<NoIo, char>::new(4).unwrap();
        let first = ranges.enter(span(0, 8), 'a').unwrap();
        let second = ranges.enter(span(4, 8), 'b').unwrap();
        let third = ranges.enter(span(8, 8), 'c').unwrap();
        assert!(first.is_ready && !second.is_ready && !third.is_ready);
        assert_eq!(ranges.leave(first.id), Some('a'));
        assert_eq!(ranges.next_ready(), Some((second.id, 'b')));
        assert_eq!(ranges.next_ready(), None);
        ranges.leave(second.id);
        assert_eq!(ranges.next_ready(), Some((third.id, 'c')));
    }

    #[test]
    fn one_that_gives_up_waiting_lets_those_behind_it_go() {
        let mut ranges = Ranges::<NoIo, char>::new(4).unwrap();
        ranges.enter(span(0, 4), 'a').unwrap();
        let second = ranges.enter(span(0, 16), 'b').unwrap();
        let third = ranges.enter(span(8, 4), 'c').unwrap();
        ranges.leave(second.id);
        assert_eq!(ranges.next_ready(), Some((third.id, 'c')));
    }

    #[test]
    fn without_room_nobody_enters() {
        let mut ranges = Ranges::<NoIo, char>::new(1).unwrap();
        ranges.enter(span(0, 4), 'a').unwrap();
        assert!(!ranges.has_room() && ranges.enter(span(100, 4), 'b').is_none());
    }

    #[test]
    fn overlapping_ranges_are_never_held_together_and_come_in_order() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let mut ranges = Ranges::<NoIo, u64>::new(16).unwrap();
            let mut held: Vec<(RangeId, Span, u64)> = Vec::new();
            let mut waiting: Vec<(RangeId, Span, u64)> = Vec::new();
            for number in 0..400 {
                if random.one_in(2) {
                    let span = span(random.below(40), random.below(12) as u32);
                    if let Some(entered) = ranges.enter(span, number) {
                        let list = if entered.is_ready {
                            &mut held
                        } else {
                            &mut waiting
                        };
                        list.push((entered.id, span, number));
                    }
                } else if !held.is_empty() && !random.one_in(5) {
                    let (id, _, owner) = held.swap_remove(random.below(held.len() as u64) as usize);
                    assert_eq!(ranges.leave(id), Some(owner));
                } else if !waiting.is_empty() {
                    let (id, _, owner) =
                        waiting.remove(random.below(waiting.len() as u64) as usize);
                    assert_eq!(ranges.leave(id), Some(owner));
                }
                while let Some((id, owner)) = ranges.next_ready() {
                    let at = waiting.iter().position(|waiter| waiter.2 == owner).unwrap();
                    let waiter = waiting.remove(at);
                    assert_eq!(waiter.0, id);
                    held.push(waiter);
                }
                for (i, a) in held.iter().enumerate() {
                    assert!(
                        held.iter().skip(i + 1).all(|b| !a.1.overlaps(b.1)),
                        "seed {seed}"
                    );
                }
                for waiter in &waiting {
                    let earlier = held
                        .iter()
                        .chain(&waiting)
                        .filter(|other| other.2 < waiter.2);
                    assert!(
                        earlier.into_iter().any(|other| other.1.overlaps(waiter.1)),
                        "seed {seed}: waits for nothing"
                    );
                }
                assert_eq!(ranges.len(), held.len() + waiting.len());
            }
        }
    }
}
