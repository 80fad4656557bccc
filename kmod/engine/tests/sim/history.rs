// SPDX-License-Identifier: GPL-2.0-only

//! What the application was told, and so what the disks owe it.
//!
//! Moments are numbers of events, so "before" is exact. A write *precedes* another one when it was over before the
//! other one was submitted; after an acknowledged write, a sector may hold that write or one that does not precede it.

use crate::host::Stamp;
use crate::mix::{HashMap, HashSet};
use std::collections::{BTreeMap, BTreeSet};
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{NodeId, NodeSet, VolumeId};

/// First number of a write; smaller ones but 0 stand for what was on the disks before.
pub(crate) const FIRST_WRITE: Stamp = 1000;

/// Promises per sector from which on it is worth looking for pointless ones.
const PROMISES_MAX: usize = 8;

pub(crate) struct Write {
    pub sector: u64,
    pub sectors: u64,
    pub submitted: u64,
    /// When it was completed, or its node died.
    pub ended: Option<u64>,
    pub zeroes: bool,
    /// The generation in force when it was acknowledged.
    pub acknowledged: Option<u64>,
    /// It is promised to be on all members.
    pub promised: bool,
    /// The generation in which a later flush, or its own FUA, was acknowledged.
    pub flushed: Option<u64>,
    /// The application that wrote it.
    pub writer: Writer,
}

/// An application: node, and how often that died and lost its role before.
pub(crate) type Writer = (usize, u32, u32);

/// From `write` on, a sector holds it or a newer one on every disk that has `generation` in its past.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    pub write: Stamp,
    pub generation: u64,
}

/// What a sector owes.
#[derive(Default)]
struct Owed {
    promises: Vec<Promise>,
    /// When the youngest of these writes was submitted.
    submitted: u64,
    /// Writes that zero it.
    zeroes: Vec<Stamp>,
}

#[derive(Default)]
pub(crate) struct History {
    /// Number of the first write.
    first: Stamp,
    writes: Vec<Write>,
    sectors: BTreeMap<u64, Owed>,
    generations: HashMap<u64, Generation>,
    /// Who had a generation on a disk at some time.
    holders: HashMap<u64, NodeSet>,
    /// Generations that a disk took for data.
    written: HashSet<u64>,
    /// Generations that a majority of the voters knew at some time.
    known: HashSet<u64>,
    /// Generations that somebody broke with by force.
    overruled: HashSet<u64>,
    /// Generations of those who did not hear of that.
    apart: HashSet<u64>,
    /// Generations whose past was given up by force.
    amnesties: HashSet<u64>,
    /// Nodes that had it on record that they left, and the newest record that they knew then.
    departures: HashSet<(usize, u64)>,
    /// Per node: what a power cut took before it was flushed.
    excused: Vec<HashSet<(u64, Stamp)>>,
}

impl History {
    /// Of a volume; no two of them have writes of the same number.
    pub(crate) fn new(nodes: usize, volume: VolumeId) -> Self {
        Self {
            first: FIRST_WRITE + (u64::from(volume.0) << 32),
            excused: vec![HashSet::default(); nodes],
            ..Self::default()
        }
    }

    /// `node` has it on its disk that it left, and knew `generation`.
    pub(crate) fn depart(&mut self, node: usize, generation: u64) {
        self.departures.insert((node, generation));
    }

    /// Whether `node` left with a generation of this line.
    pub(crate) fn has_departed(&self, node: usize, line: &BTreeSet<u64>) -> bool {
        let mut known = line.iter();
        known.any(|&generation| self.departures.contains(&(node, generation)))
    }

    pub(crate) fn begin(&mut self, write: Write) -> Stamp {
        let stamp = self.first + self.writes.len() as u64;
        if write.zeroes {
            for sector in write.sector..write.sector + write.sectors {
                self.sectors.entry(sector).or_default().zeroes.push(stamp);
            }
        }
        self.writes.push(write);
        stamp
    }

    pub(crate) fn write(&self, stamp: Stamp) -> Option<&Write> {
        self.writes.get(stamp.checked_sub(self.first)? as usize)
    }

    /// Whether a write was acknowledged in one of these generations.
    pub(crate) fn has_acknowledged(&self, generations: &BTreeSet<u64>) -> bool {
        let mut acknowledged = self.writes.iter().filter_map(|write| write.acknowledged);
        acknowledged.any(|generation| generations.contains(&generation))
    }

    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// The write was acknowledged in `generation`; `promised`: it is said to be on all members already.
    pub(crate) fn acknowledge(
        &mut self,
        stamp: Stamp,
        moment: u64,
        generation: u64,
        promised: bool,
        flushed: bool,
    ) {
        let write = self.write_mut(stamp);
        write.ended = Some(moment);
        write.acknowledged = Some(generation);
        write.flushed = flushed.then_some(generation);
        if promised {
            self.promise_all(stamp, generation);
        }
    }

    /// The write failed or its node died: it may have happened or not.
    pub(crate) fn give_up(&mut self, stamp: Stamp, moment: u64) {
        self.write_mut(stamp).ended = Some(moment);
    }

    /// Somebody has read what an application of the past left behind without an acknowledgement.
    pub(crate) fn observe(&mut self, sector: u64, stamp: Stamp, generation: u64) {
        let promises = self.promises(sector);
        if !promises.iter().any(|promise| promise.write == stamp) {
            self.promise(
                sector,
                Promise {
                    write: stamp,
                    generation,
                },
            );
        }
    }

    /// A flush was acknowledged in `generation` that began at `moment`: gives the writes that it made stable.
    pub(crate) fn flush(&mut self, writer: Writer, moment: u64, generation: u64) -> Vec<Stamp> {
        // What was given up since is not meant.
        let line = self.line(generation);
        let covered = |write: &Write| {
            write.writer == writer
                && write.acknowledged.is_some_and(|id| line.contains(&id))
                && write.flushed.is_none()
                && write.ended.is_some_and(|ended| ended < moment)
        };
        let writes = (self.first..).zip(&self.writes);
        let flushed: Vec<Stamp> = writes
            .filter(|(_, write)| covered(write))
            .map(|(stamp, _)| stamp)
            .collect();
        for &stamp in &flushed {
            self.write_mut(stamp).flushed = Some(generation);
            self.promise_all(stamp, generation);
        }
        flushed
    }

    /// Notes a generation; true when it was not known before.
    pub(crate) fn record(&mut self, generation: Generation) -> bool {
        generation.id.0 != 0
            && self
                .generations
                .insert(generation.id.0, generation)
                .is_none()
    }

    /// `generation` was made by force: nothing is owed from before it.
    pub(crate) fn forgive(&mut self, generation: u64) {
        self.amnesties.insert(generation);
    }

    /// How many generations there were.
    pub(crate) fn generations(&self) -> usize {
        self.generations.len()
    }

    pub(crate) fn is_forgiven(&self, generation: u64) -> bool {
        self.amnesties.contains(&generation)
    }

    /// Takes note that `generation` is durable on a disk of `node`.
    pub(crate) fn hold(&mut self, generation: u64, node: NodeId) {
        let holders = self.holders.entry(generation).or_default();
        *holders = holders.with(node);
    }

    /// Takes note that a disk may have data of `generation`.
    pub(crate) fn write_in(&mut self, generation: u64) {
        self.written.insert(generation);
    }

    /// Takes note that a majority of the voters knows `generation`.
    pub(crate) fn learn(&mut self, generation: u64) {
        self.known.insert(generation);
    }

    /// Whether a majority of the voters knew `generation` at some time.
    pub(crate) fn is_known(&self, generation: u64) -> bool {
        self.known.contains(&generation)
    }

    /// Whether `generation` was in force, and somebody knew.
    pub(crate) fn has_come_into_force(&self, generation: u64) -> bool {
        self.written.contains(&generation) && self.is_known(generation)
    }

    /// Whether `generation` is one that others have to follow.
    pub(crate) fn counts(&self, generation: u64) -> bool {
        self.has_come_into_force(generation) && !self.is_overruled(generation)
    }

    /// Takes note that `generation` goes on from where somebody broke with by force.
    pub(crate) fn set_apart(&mut self, generation: u64) {
        self.apart.insert(generation);
    }

    pub(crate) fn is_apart(&self, generation: u64) -> bool {
        self.apart.contains(&generation)
    }

    /// Whether somebody used force against `generation`, or gave it up.
    pub(crate) fn is_overruled(&self, generation: u64) -> bool {
        self.overruled.contains(&generation)
    }

    /// Somebody used force: what led to `generation` alone need not be followed any more.
    pub(crate) fn overrule(&mut self, generation: u64) {
        let line = self.line(generation);
        self.overruled.extend(line);
    }

    /// Who had `generation` on a disk at some time.
    pub(crate) fn holders(&self, generation: u64) -> NodeSet {
        self.holders.get(&generation).copied().unwrap_or_default()
    }

    /// Whether `generation` was durable on each of its members at some time.
    pub(crate) fn is_in_force(&self, generation: u64) -> bool {
        let members = self.generation(generation).map(|record| record.members);
        let holders = self.holders(generation);
        members.is_some_and(|members| members.intersection(holders) == members)
    }

    /// A person gave up what led to `generation` and not to `other`.
    pub(crate) fn discard(&mut self, generation: u64, other: u64) {
        let kept = self.line(other);
        let line = self.line(generation);
        self.overruled.extend(line.difference(&kept));
    }

    pub(crate) fn generation(&self, id: u64) -> Option<Generation> {
        self.generations.get(&id).copied()
    }

    /// A generation and all it follows from.
    pub(crate) fn line(&self, generation: u64) -> BTreeSet<u64> {
        self.walk(generation, |_| false)
    }

    /// The generations whose promises a disk of `generation` has to keep.
    pub(crate) fn duties(&self, generation: u64) -> BTreeSet<u64> {
        self.walk(generation, |id| self.amnesties.contains(&id))
    }

    fn walk(&self, generation: u64, stop: impl Fn(u64) -> bool) -> BTreeSet<u64> {
        let mut line = BTreeSet::new();
        let mut at = generation;
        while at != 0 && line.insert(at) && !stop(at) {
            at = self
                .generation(at)
                .map_or(0, |generation| generation.parent.0);
        }
        line
    }

    /// Whether `value` in `sector` breaks the promise.
    pub(crate) fn breaks(&self, sector: u64, value: Stamp, promise: Promise) -> bool {
        if value == promise.write {
            return false;
        }
        let promised = self.write(promise.write).unwrap();
        let precedes = |stamp: Stamp| {
            self.write(stamp)
                .is_none_or(|write| write.ended.is_some_and(|ended| ended <= promised.submitted))
        };
        if value == 0 {
            let zeroes = self
                .sectors
                .get(&sector)
                .map_or(&[][..], |owed| &owed.zeroes);
            return !promised.zeroes && zeroes.iter().all(|&stamp| precedes(stamp));
        }
        precedes(value)
    }

    /// Whether `value` breaks no promise of a sector, whatever they are: it was not over before the youngest began.
    fn is_newest(&self, value: Stamp, owed: &Owed) -> bool {
        let is_newer = |stamp: Stamp| {
            let write = self.write(stamp);
            write.is_some_and(|write| write.ended.is_none_or(|ended| ended > owed.submitted))
        };
        match value {
            0 => owed.zeroes.iter().rev().any(|&stamp| is_newer(stamp)),
            stamp => is_newer(stamp),
        }
    }

    /// The first promise of `duties` that a disk breaks; `flushed_only`: only those that must survive a power cut.
    pub(crate) fn broken(
        &self,
        node: usize,
        view: &[Stamp],
        duties: &BTreeSet<u64>,
        flushed_only: bool,
    ) -> Option<(u64, Stamp, Promise)> {
        self.sectors.iter().find_map(|(&sector, owed)| {
            let value = view[sector as usize];
            if self.is_newest(value, owed) {
                return None;
            }
            let owed = owed
                .promises
                .iter()
                .filter(|promise| duties.contains(&promise.generation));
            let broken = owed.copied().find(|&promise| {
                (!flushed_only || self.is_flushed(promise.write, duties))
                    && self.breaks(sector, value, promise)
                    && !self.is_excused(node, sector, promise.write)
            });
            broken.map(|promise| (sector, value, promise))
        })
    }

    pub(crate) fn promises(&self, sector: u64) -> &[Promise] {
        let owed = self.sectors.get(&sector);
        owed.map_or(&[], |owed| owed.promises.as_slice())
    }

    /// Whether a flush of one of these generations made the write stable on its members.
    pub(crate) fn is_flushed(&self, stamp: Stamp, generations: &BTreeSet<u64>) -> bool {
        let flushed = self.write(stamp).and_then(|write| write.flushed);
        flushed.is_some_and(|generation| generations.contains(&generation))
    }

    pub(crate) fn is_excused(&self, node: usize, sector: u64, stamp: Stamp) -> bool {
        self.excused[node].contains(&(sector, stamp))
    }

    /// A power cut of `node` turned `before` into `after`: what was acknowledged without a flush may be gone.
    ///
    /// `duties` are those of the node's disk.
    pub(crate) fn excuse_lost(
        &mut self,
        node: usize,
        before: &[Stamp],
        after: &[Stamp],
        duties: &BTreeSet<u64>,
    ) {
        let mut lost = Vec::new();
        for (&sector, owed) in &self.sectors {
            let (old, new) = (before[sector as usize], after[sector as usize]);
            if old == new {
                continue;
            }
            for &promise in &owed.promises {
                let excusable =
                    !self.is_flushed(promise.write, duties) && self.breaks(sector, new, promise);
                if excusable && !self.breaks(sector, old, promise) {
                    lost.push((sector, promise.write));
                }
            }
        }
        // What was on its way to an acknowledgement may have been there and be gone again.
        let open = (self.first..)
            .zip(&self.writes)
            .filter(|(_, write)| write.ended.is_none());
        for (stamp, write) in open {
            let promise = Promise {
                write: stamp,
                generation: 0,
            };
            let gone = |&sector: &u64| {
                !self.breaks(sector, before[sector as usize], promise)
                    && self.breaks(sector, after[sector as usize], promise)
            };
            let range = write.sector..write.sector + write.sectors;
            lost.extend(range.filter(gone).map(|sector| (sector, stamp)));
        }
        self.excused[node].extend(lost);
    }

    /// `target` fetches from `source`, and so shares its losses.
    pub(crate) fn inherit_excuses(&mut self, target: usize, source: usize) {
        let inherited = self.excused[source].clone();
        self.excused[target].extend(inherited);
    }

    /// `node` has a new disk.
    pub(crate) fn forget_excuses(&mut self, node: usize) {
        self.excused[node].clear();
    }

    /// `target` is equal to `source` now: it lacks what the source lacks, and nothing else.
    pub(crate) fn replace_excuses(&mut self, target: usize, source: usize) {
        self.excused[target] = self.excused[source].clone();
    }

    fn write_mut(&mut self, stamp: Stamp) -> &mut Write {
        &mut self.writes[(stamp - self.first) as usize]
    }

    fn promise_all(&mut self, stamp: Stamp, generation: u64) {
        let write = self.write_mut(stamp);
        if !std::mem::replace(&mut write.promised, true) {
            for sector in write.sector..write.sector + write.sectors {
                self.promise(
                    sector,
                    Promise {
                        write: stamp,
                        generation,
                    },
                );
            }
        }
    }

    fn promise(&mut self, sector: u64, promise: Promise) {
        let Self {
            first,
            writes,
            sectors,
            ..
        } = self;
        let Owed {
            promises: list,
            submitted,
            ..
        } = sectors.entry(sector).or_default();
        let write = &writes[(promise.write - *first) as usize];
        *submitted = (*submitted).max(write.submitted);
        if list.len() >= PROMISES_MAX {
            // What was over before a flushed write of the same generation began is pointless.
            let write = |stamp: Stamp| &writes[(stamp - *first) as usize];
            let flushed: Vec<Promise> = list
                .iter()
                .copied()
                .filter(|newer| write(newer.write).flushed.is_some())
                .collect();
            list.retain(|old| {
                let superseded = |newer: &Promise| {
                    let ended = write(old.write).ended;
                    newer.generation == old.generation
                        && ended.is_some_and(|ended| ended <= write(newer.write).submitted)
                };
                !flushed.iter().any(superseded)
            });
        }
        list.push(promise);
    }
}
