// SPDX-License-Identifier: GPL-2.0-only

//! The disks: what they hold, what a power cut takes back, how they fail, and how they become larger.

use super::{layout, node, Rig};
use crate::host::RigHost;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use weft_engine::effect::Data;
use weft_engine::event::{DiskError, Event, Io, Op};
use weft_engine::room::Room;
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::{newest_superblock, Layout, MetaBlock, MetaKind, Superblock};
use weft_uapi::units::{Sector, VolumeId};
use weft_uapi::wire::Digest;

/// The disk of one volume on one node.
pub(super) struct Lower {
    pub(super) content: Vec<u8>,
    /// What a power cut takes back, if it takes anything: where, and what was there before.
    cache: Option<Vec<(usize, Vec<u8>)>>,
    /// Changes that had to be stable at their end.
    pub(super) forced: Vec<Op>,
    /// Bytes that were zeroed without being written.
    pub(super) zeroed: u64,
    /// Every read fails.
    is_unreadable: bool,
    /// Sectors that cannot be read before they are written again.
    bad_sectors: BTreeSet<u64>,
    /// Every write fails.
    is_failing: bool,
}

/// What a disk with fresh metadata holds.
pub(super) fn blank(volume: VolumeId, number: usize, sectors: u64) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 512];
    let name = padded_name("r0").unwrap();
    let superblock = Superblock::created(
        name,
        volume,
        node(number),
        50 + number as u64,
        MetaKind::Internal,
        sectors,
        7,
    );
    let mut block = [0; 4096];
    superblock.encode(&mut block);
    let at = layout(sectors).superblock(0).0 as usize * 512;
    disk[at..at + 4096].copy_from_slice(&block);
    disk
}

/// What stands for a content: equal ones have the same, and all others another one.
pub(super) fn digest_of(content: &[u8]) -> Digest {
    let mix = |seed: u64| {
        let fold = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        content.iter().fold(seed, fold).to_le_bytes()
    };
    let halves = [mix(0xcbf2_9ce4_8422_2325), mix(1)];
    halves.concat().try_into().unwrap()
}

/// The bytes of an operation.
pub(super) fn bytes_of(io: Io) -> Range<usize> {
    let start = io.sector.0 as usize * 512;
    start..start + io.bytes as usize
}

/// The sectors that an operation touches.
fn sectors_of(io: Io) -> Range<u64> {
    io.sector.0..io.sector.0 + u64::from(io.bytes / 512)
}

impl Lower {
    /// One with fresh metadata.
    pub(super) fn blank(volume: VolumeId, number: usize, sectors: u64) -> Self {
        Self {
            content: blank(volume, number, sectors),
            cache: None,
            forced: Vec::new(),
            zeroed: 0,
            is_unreadable: false,
            bad_sectors: BTreeSet::new(),
            is_failing: false,
        }
    }

    pub(super) fn sectors(&self) -> u64 {
        self.content.len() as u64 / 512
    }

    /// The cache is about to hold a change of this range.
    fn remember(&mut self, range: Range<usize>) {
        if let Some(cache) = &mut self.cache {
            cache.push((range.start, self.content[range].to_vec()));
        }
    }

    /// What is in the cache is stable.
    fn settle(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
    }

    /// What is in the cache is lost.
    pub(super) fn lose(&mut self) {
        let cache = self.cache.iter_mut();
        for (start, before) in cache.flat_map(|cache| cache.drain(..).rev()) {
            self.content[start..start + before.len()].copy_from_slice(&before);
        }
    }

    pub(super) fn block(&self, sector: Sector) -> MetaBlock {
        self.content[sector.0 as usize * 512..][..4096]
            .try_into()
            .unwrap()
    }

    /// Sectors of the disk up to which the metadata lie: all, or what it had when they were written last.
    pub(super) fn meta_end(&self) -> u64 {
        let found = |end: u64| {
            let [first, second] = Layout::superblock_sectors(MetaKind::Internal, end)?;
            let newest = newest_superblock(&self.block(first), &self.block(second)).ok()?;
            (newest.disk_sectors == end).then_some((newest.sequence, end))
        };
        if found(self.sectors()).is_some() {
            return self.sectors();
        }
        let ends = (16..self.sectors()).step_by(8).filter_map(found);
        ends.max().map_or(self.sectors(), |(_, end)| end)
    }

    pub(super) fn write_meta(&mut self, sector: Sector, block: &MetaBlock, flush: bool) {
        let at = sector.0 as usize * 512;
        if flush {
            self.settle();
        } else {
            self.remember(at..at + 4096);
        }
        self.content[at..at + 4096].copy_from_slice(block);
    }

    /// Whether it reports an error.
    pub(super) fn fails(&self, io: Io) -> bool {
        match io.op {
            Op::Read | Op::Digest => {
                self.is_unreadable || self.bad_sectors.range(sectors_of(io)).next().is_some()
            }
            op => self.is_failing && op.changes_data(),
        }
    }

    /// Takes note of an operation, and gives what it is about.
    fn begin(&mut self, io: Io) -> &mut [u8] {
        let range = bytes_of(io);
        if io.fua {
            self.forced.push(io.op);
        }
        if matches!(io.op, Op::WriteZeroes { .. }) {
            self.zeroed += u64::from(io.bytes);
        }
        if io.op.changes_data() {
            let written = sectors_of(io);
            self.bad_sectors.retain(|sector| !written.contains(sector));
        }
        match io.op {
            Op::Flush => self.settle(),
            op if op.changes_data() && !io.fua => self.remember(range.clone()),
            _ => {}
        }
        &mut self.content[range]
    }
}

impl Rig {
    /// The node's disk of a volume.
    pub(super) fn disk_of(&mut self, number: usize, volume: VolumeId) -> &mut Lower {
        &mut self.nodes[number].disks[usize::from(volume.0)]
    }

    pub(super) fn disk(&self, number: usize) -> &Lower {
        &self.nodes[number].disks[usize::from(self.volume.0)]
    }

    pub(super) fn disk_mut(&mut self, number: usize) -> &mut Lower {
        self.disk_of(number, self.volume)
    }

    /// The disk refuses writes from now on, or no longer.
    pub(crate) fn set_failing(&mut self, number: usize, is_failing: bool) {
        self.disk_mut(number).is_failing = is_failing;
    }

    /// The disk refuses reads from now on, or no longer.
    pub(crate) fn set_unreadable(&mut self, number: usize, is_unreadable: bool) {
        self.disk_mut(number).is_unreadable = is_unreadable;
    }

    /// The node's disk has so many sectors from now on; what is new holds this.
    pub(crate) fn enlarge(&mut self, number: usize, sectors: u64, byte: u8) {
        let content = &mut self.disk_mut(number).content;
        content.resize(sectors as usize * 512, byte);
    }

    /// The node's disk loses the block at a sector: it cannot be read before it is written again.
    pub(crate) fn lose_block(&mut self, number: usize, sector: u64) {
        let disk = self.disk_mut(number);
        disk.bad_sectors.extend(sector..sector + 8);
        disk.content[sector as usize * 512..][..4096].fill(0xee);
    }

    /// Sectors of the node's disk that cannot be read.
    pub(crate) fn lost_sectors(&self, number: usize) -> usize {
        self.disk(number).bad_sectors.len()
    }

    /// Blocks that the node says it has written anew.
    pub(crate) fn healed_blocks(&self, number: usize) -> u32 {
        let info = self.nodes[number].engine.volume_info(self.volume, self.now);
        info.map_or(0, |info| info.healed_blocks)
    }

    /// From now on a power cut takes back what the node's disk was not told to make stable.
    pub(crate) fn set_volatile(&mut self, number: usize) {
        self.disk_mut(number).cache = Some(Vec::new());
    }

    /// Sectors of the device, as the nodes say.
    pub(crate) fn data_sectors(&self) -> u64 {
        let device = |number| self.device(number);
        let largest = self.numbers().map(device).max().filter(|&it| it > 0);
        largest.unwrap_or_else(|| layout(self.sectors).data_sectors())
    }

    /// Sectors of the node's device; 0: it has none.
    pub(crate) fn device(&self, number: usize) -> u64 {
        let info = self.nodes[number].engine.volume_info(self.volume, self.now);
        info.map_or(0, |info| info.sectors)
    }

    pub(super) fn measure(
        &mut self,
        number: usize,
        volume: VolumeId,
        attach_id: u64,
        layout: &Layout,
    ) {
        let sectors = self.disk_of(number, volume).sectors();
        let mut room = Room::<RigHost>::find(layout, sectors, sectors);
        let room = room.as_mut().map_err(|refusal| *refusal);
        let measured = Event::Measured {
            volume,
            attach_id,
            room,
        };
        self.feed(number, measured);
    }

    /// Carries an operation of the engine out, and gives what was read.
    pub(super) fn disk_io(
        &mut self,
        number: usize,
        volume: VolumeId,
        io: Io,
        data: Data<RigHost>,
    ) -> Result<Option<Rc<[u8]>>, DiskError> {
        let disk = &mut self.nodes[number].disks[usize::from(volume.0)];
        if disk.fails(io) {
            return Err(DiskError);
        }
        let content = disk.begin(io);
        match (io.op, data) {
            (Op::Flush | Op::Digest, _) => {}
            (Op::Read, Data::Request(request)) => {
                self.buffers[request as usize] = Rc::from(&*content)
            }
            (Op::Read, _) => return Ok(Some(Rc::from(&*content))),
            (Op::Write, Data::Request(request)) => {
                content.copy_from_slice(&self.buffers[request as usize])
            }
            (Op::Write, Data::Buffer(buffer)) => content.copy_from_slice(&buffer),
            (Op::Write, Data::None) => panic!("a write without data"),
            (Op::Discard, _) => panic!("discards are carried out as zeroing"),
            (Op::WriteZeroes { .. }, _) => content.fill(0),
        }
        Ok(None)
    }
}
