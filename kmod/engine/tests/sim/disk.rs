// SPDX-License-Identifier: GPL-2.0-only

//! A disk with a volatile cache: data and metadata, what is read from them, and what a power cut leaves.

use crate::host::{Content, SimHost, Stamp};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use weft_engine::load::LoadedDisk;
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::ondisk::{Layout, MetaBlock, MetaKind, Superblock};

/// Sectors of a metadata block.
const BLOCK_SECTORS: usize = 4096 / SECTOR_BYTES as usize;

/// What was never written.
static EMPTY: MetaBlock = [0; 4096];

/// An operation that was submitted and is not done.
#[derive(Clone)]
pub(crate) enum Op {
    Write {
        sector: u64,
        content: Content,
        fua: bool,
    },
    /// Everything done before `mark` becomes stable.
    Flush { mark: u64 },
    /// With a mark: a flush up to it, then the block, through the cache.
    Meta {
        sector: u64,
        block: Rc<MetaBlock>,
        mark: Option<u64>,
    },
}

#[derive(Clone)]
enum Cached {
    Data {
        sector: u64,
        content: Content,
        must_stay: bool,
    },
    Meta {
        sector: u64,
        block: Rc<MetaBlock>,
    },
}

#[derive(Clone)]
pub(crate) struct Disk {
    pub layout: Layout,
    pub info: weft_engine::load::DiskInfo,
    /// What a read gives.
    pub current: Vec<Stamp>,
    /// What is left when the cache is lost.
    pub stable: Vec<Stamp>,
    meta_current: BTreeMap<u64, Rc<MetaBlock>>,
    meta_stable: BTreeMap<u64, Rc<MetaBlock>>,
    /// Sectors that read wrong, for those who make digests only.
    pub bad: BTreeSet<u64>,
    /// Sectors that cannot be read before they are written again.
    pub lost: BTreeSet<u64>,
    cache: Vec<(u64, Cached)>,
    next: u64,
    /// The superblocks that would survive a power cut, by copy.
    superblocks: [Option<Rc<Superblock>>; 2],
    /// Blocks of the metadata that became stable since [`Self::take_changes`]; `None`: nobody has asked.
    changes: Option<BTreeSet<u64>>,
}

impl Disk {
    /// A disk with fresh metadata, which may become larger by `room` sectors; `garbage` gives the content that it has by
    /// chance.
    pub(crate) fn created(
        info: weft_engine::load::DiskInfo,
        slots: u32,
        device: u64,
        room: u64,
        mut garbage: impl FnMut(u64) -> Stamp,
    ) -> Self {
        let layout = Layout::new(
            MetaKind::External,
            info.disk_sectors,
            info.meta_sectors,
            slots,
        )
        .unwrap();
        let superblock = Superblock::created(
            info.resource,
            info.volume,
            info.node,
            device,
            info.meta_kind,
            info.disk_sectors,
            slots,
        );
        let block = encoded(&superblock);
        let sectors = 0..layout.data_sectors() + room;
        let content: Vec<Stamp> = sectors.map(&mut garbage).collect();
        let meta = BTreeMap::from([(layout.superblock(superblock.sequence).0, block)]);
        Self {
            layout,
            info,
            current: content.clone(),
            stable: content,
            meta_current: meta.clone(),
            meta_stable: meta,
            bad: BTreeSet::new(),
            lost: BTreeSet::new(),
            cache: Vec::new(),
            next: 0,
            superblocks: match superblock.sequence & 1 {
                0 => [Some(Rc::new(superblock)), None],
                _ => [None, Some(Rc::new(superblock))],
            },
            changes: None,
        }
    }

    /// Every sector holds this, whatever happened to it.
    pub(crate) fn fill_with(&mut self, stamp: Stamp) {
        self.current.fill(stamp);
        self.stable.fill(stamp);
    }

    /// As [`Self::fill_with`], of a part.
    pub(crate) fn fill_part_with(&mut self, stamp: Stamp, (start, end): (u64, u64)) {
        self.current[start as usize..end as usize].fill(stamp);
        self.stable[start as usize..end as usize].fill(stamp);
    }

    /// The sectors of a range that read wrong.
    pub(crate) fn bad_in(&self, sector: u64, sectors: u64) -> Vec<u64> {
        self.bad.range(sector..sector + sectors).copied().collect()
    }

    /// Whether a range can be read.
    pub(crate) fn is_readable(&self, sector: u64, sectors: u64) -> bool {
        self.lost.range(sector..sector + sectors).next().is_none()
    }

    /// Everything done before now, for a flush that begins now.
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    pub(crate) fn read(&self, sector: u64, sectors: u64) -> Content {
        self.current[sector as usize..(sector + sectors) as usize].into()
    }

    /// As [`Self::read`], after a power cut.
    pub(crate) fn read_stable(&self, sector: u64, sectors: u64) -> Content {
        self.stable[sector as usize..(sector + sectors) as usize].into()
    }

    pub(crate) fn meta_read(&self, sector: u64) -> &MetaBlock {
        self.meta_current.get(&sector).map_or(&EMPTY, |block| block)
    }

    pub(crate) fn meta_read_stable(&self, sector: u64) -> &MetaBlock {
        self.meta_stable.get(&sector).map_or(&EMPTY, |block| block)
    }

    /// The newest superblock that would survive a power cut.
    pub(crate) fn superblock(&self) -> Option<&Rc<Superblock>> {
        let valid = self.superblocks.iter().rev().flatten();
        valid.max_by_key(|superblock| superblock.sequence)
    }

    /// The blocks of the metadata that became stable since this was asked last; `None`: perhaps all.
    pub(crate) fn take_changes(&mut self) -> Option<BTreeSet<u64>> {
        self.changes.replace(BTreeSet::new())
    }

    /// What an attach would find after a power cut; `None`: it would be refused.
    pub(crate) fn load_stable(&self) -> Option<LoadedDisk<SimHost>> {
        let read = |sector: u64| self.meta_read_stable(sector);
        let [first, second] = [0, 1].map(|copy| read(self.layout.superblock(copy).0));
        let mut loaded = LoadedDisk::begin(self.info, first, second).ok()?;
        let reads: Vec<_> = loaded.reads().collect();
        for (what, sector) in reads {
            loaded.take(what, read(sector.0));
        }
        loaded.finish().ok()?;
        Some(loaded)
    }

    /// Carries an operation out as a whole.
    pub(crate) fn perform(&mut self, op: &Op) {
        match op {
            Op::Write {
                sector,
                content,
                fua,
            } => {
                put(&mut self.current, *sector, content);
                let end = *sector + content.len() as u64;
                self.bad.retain(|bad| !(*sector..end).contains(bad));
                self.lost.retain(|lost| !(*sector..end).contains(lost));
                if *fua {
                    put(&mut self.stable, *sector, content);
                }
                self.push(Cached::Data {
                    sector: *sector,
                    content: content.clone(),
                    must_stay: *fua,
                });
            }
            Op::Flush { mark } => self.flush(*mark),
            Op::Meta {
                sector,
                block,
                mark,
            } => {
                self.meta_current.insert(*sector, block.clone());
                match mark {
                    Some(mark) => {
                        self.flush(*mark);
                        // What is still cached for this block is older and must not come back.
                        self.cache.retain(|(_, cached)| !matches!(cached, Cached::Meta { sector: at, .. } if at == sector));
                        self.meta_put_stable(*sector, block.clone());
                    }
                    None => self.push(Cached::Meta {
                        sector: *sector,
                        block: block.clone(),
                    }),
                }
            }
        }
    }

    /// The power fails: of what is cached or under way anything may survive, in part.
    pub(crate) fn power_cut(&mut self, random: &mut Random, mut under_way: Vec<Op>) {
        while !under_way.is_empty() {
            let op = under_way.swap_remove(random.index(under_way.len()));
            match random.range(0..4) {
                0 | 1 => {}
                2 => self.perform(&op),
                _ => self.perform_in_part(random, &op),
            }
        }
        for (_, cached) in std::mem::take(&mut self.cache) {
            let fate = random.range(0..3);
            match cached {
                Cached::Data {
                    sector,
                    content,
                    must_stay,
                } if must_stay || fate == 0 => {
                    put(&mut self.stable, sector, &content);
                }
                Cached::Data {
                    sector, content, ..
                } if fate == 1 => {
                    put_some(&mut self.stable, sector, &content, random);
                }
                Cached::Meta { sector, block } if fate == 0 => self.meta_put_stable(sector, block),
                Cached::Meta { sector, block } if fate == 1 => {
                    let torn = self.torn(sector, &block, random);
                    self.meta_put_stable(sector, torn);
                }
                _ => {}
            }
        }
        self.current.clone_from(&self.stable);
        self.meta_current.clone_from(&self.meta_stable);
    }

    /// The machine fails but the disk keeps its power: what is cached survives.
    pub(crate) fn reset(&mut self, random: &mut Random, mut under_way: Vec<Op>) {
        while !under_way.is_empty() {
            let op = under_way.swap_remove(random.index(under_way.len()));
            if random.coin() {
                self.perform(&op);
            }
        }
        self.flush(self.next);
    }

    /// A copy of everything as it is now.
    pub(crate) fn image(&self) -> Self {
        let mut image = self.clone();
        image.flush(image.next);
        image.changes = None;
        image
    }

    /// Makes the metadata look as if the superblock were a later one.
    pub(crate) fn forge(&mut self, advance: impl Fn(&mut Superblock)) {
        if let Some(superblock) = self.superblock() {
            let mut superblock = **superblock;
            advance(&mut superblock);
            let block = encoded(&superblock);
            let sector = self.layout.superblock(superblock.sequence).0;
            self.meta_current.insert(sector, block.clone());
            self.meta_put_stable(sector, block);
        }
    }

    /// All values that a sector may have after a power cut now, besides the stable one.
    pub(crate) fn volatile(&self) -> impl Iterator<Item = (u64, &Content)> {
        self.cache.iter().filter_map(|(_, cached)| match cached {
            Cached::Data {
                sector, content, ..
            } => Some((*sector, content)),
            Cached::Meta { .. } => None,
        })
    }

    fn push(&mut self, cached: Cached) {
        self.cache.push((self.next, cached));
        self.next += 1;
    }

    fn flush(&mut self, mark: u64) {
        let later = self.cache.partition_point(|(order, _)| *order < mark);
        for (_, cached) in self.cache.drain(..later).collect::<Vec<_>>() {
            match cached {
                Cached::Data {
                    sector, content, ..
                } => put(&mut self.stable, sector, &content),
                Cached::Meta { sector, block } => self.meta_put_stable(sector, block),
            }
        }
        // A write through the cache that came later is on disk already.
        for (_, cached) in &self.cache {
            if let Cached::Data {
                sector,
                content,
                must_stay: true,
            } = cached
            {
                put(&mut self.stable, *sector, content);
            }
        }
    }

    fn perform_in_part(&mut self, random: &mut Random, op: &Op) {
        match op {
            Op::Write {
                sector, content, ..
            } => put_some(&mut self.stable, *sector, content, random),
            Op::Flush { mark } => {
                let first = self.cache.first().map_or(*mark, |(order, _)| *order);
                self.flush(random.range(first..mark.max(&first) + 1));
            }
            Op::Meta {
                sector,
                block,
                mark,
            } => {
                if let Some(mark) = mark {
                    self.flush(*mark);
                }
                let torn = self.torn(*sector, block, random);
                self.cache.retain(|(_, cached)| !matches!(cached, Cached::Meta { sector: at, .. } if at == sector));
                self.meta_put_stable(*sector, torn);
            }
        }
    }

    /// A mixture of what is on disk and of what was to be written, sector by sector.
    fn torn(&self, sector: u64, block: &MetaBlock, random: &mut Random) -> Rc<MetaBlock> {
        let mut torn = *self.meta_read_stable(sector);
        for at in 0..BLOCK_SECTORS {
            let bytes = at * SECTOR_BYTES as usize..(at + 1) * SECTOR_BYTES as usize;
            if random.coin() {
                torn[bytes.clone()].copy_from_slice(&block[bytes]);
            }
        }
        Rc::new(torn)
    }

    fn meta_put_stable(&mut self, sector: u64, block: Rc<MetaBlock>) {
        for (copy, superblock) in (0..).zip(&mut self.superblocks) {
            if self.layout.superblock(copy).0 == sector {
                *superblock = Superblock::parse(&block).ok().map(Rc::new);
            }
        }
        self.meta_stable.insert(sector, block);
        if let Some(changes) = &mut self.changes {
            changes.insert(sector);
        }
    }
}

fn encoded(superblock: &Superblock) -> Rc<MetaBlock> {
    let mut block = EMPTY;
    superblock.encode(&mut block);
    Rc::new(block)
}

fn put(to: &mut [Stamp], sector: u64, content: &[Stamp]) {
    to[sector as usize..sector as usize + content.len()].copy_from_slice(content);
}

fn put_some(to: &mut [Stamp], sector: u64, content: &[Stamp], random: &mut Random) {
    for (to, from) in to[sector as usize..].iter_mut().zip(content) {
        if random.coin() {
            *to = *from;
        }
    }
}
