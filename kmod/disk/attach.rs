// SPDX-License-Identifier: GPL-2.0-only

//! Opening a disk and reading its metadata. Runs in the slow queue and waits for the disk.

use super::{Disk, Path};
use crate::error::Failure;
use crate::pump::Kernel;
use crate::resource::Resource;
use crate::sys::bdev::{Bdev, DeviceNumber};
use crate::sys::memory::NoIo;
use crate::sys::pages::PageBuf;
use core::fmt::Arguments;
use kernel::{prelude::*, str::CString, sync::Arc};
use weft_engine::load::{DiskInfo, LoadedDisk, Read};
use weft_uapi::limits::{
    is_block_size, BLOCK_BYTES_MAX, IO_BYTES_MAX, META_BLOCK_BYTES, PATH_MAX, SECTOR_BYTES,
};
use weft_uapi::ondisk::{Layout, MetaBlock, MetaKind};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, VolumeId};

const SECTORS_PER_BLOCK: u64 = (META_BLOCK_BYTES / SECTOR_BYTES) as u64;

/// Blocks that are read at once at most.
const BLOCKS_MAX: usize = (IO_BYTES_MAX / META_BLOCK_BYTES) as usize;

/// A disk with its metadata, on its way to the engine. Too large for the stack.
pub(crate) type Loaded = KBox<Option<LoadedDisk<Kernel>>>;

/// Opens the disk, and the metadata device unless metadata are internal, for nobody else; reads the metadata.
#[inline(never)]
pub(crate) fn attach(
    resource: &Arc<Resource>,
    (node, volume): (NodeId, VolumeId),
    backing: &Backing,
) -> Result<(Arc<Disk>, Loaded), Failure> {
    let disk = open(resource, backing)?;
    let loaded = load(resource, &disk, (node, volume), backing.former_sectors)?;
    Ok((disk, loaded))
}

/// What a command says a volume shall be kept on.
pub(crate) struct Backing {
    /// The data.
    pub(crate) disk: LowerDevice,
    /// The metadata; `None`: they are internal.
    pub(crate) meta: Option<LowerDevice>,
    /// Logical block size of the device that we make of it, in bytes; `None`: that of the disk.
    pub(crate) block_bytes: Option<u32>,
    /// Sectors of the disk at whose end internal metadata are, unless they are at the end of what it has now.
    pub(crate) former_sectors: Option<u64>,
}

/// A block device that was named in a command.
pub(crate) struct LowerDevice {
    path: CString,
    number: Result<DeviceNumber>,
}

impl LowerDevice {
    /// Looks `path` up as the calling process sees it; whether it was found shows when it is opened. May sleep.
    pub(crate) fn find(path: &str) -> Result<Self> {
        let path = CString::try_from_fmt(fmt!("{}", path))?;
        let number = DeviceNumber::find(&path);
        Ok(Self { path, number })
    }
}

fn open(resource: &Arc<Resource>, backing: &Backing) -> Result<Arc<Disk>, Failure> {
    let device = |device: &LowerDevice, refusal| {
        let opened = device
            .number
            .and_then(|number| Bdev::open(number, resource.clone()));
        opened.map_err(|error| {
            let path = text(&device.path);
            match error.name() {
                Some(name) => Failure::new(refusal, format_args!("{path}: {}.", text(name))),
                None => Failure::new(refusal, format_args!("{path}.")),
            }
        })
    };
    let data = device(&backing.disk, Refusal::DiskOpen)?;
    let (meta, meta_path) = match &backing.meta {
        Some(meta) => (device(meta, Refusal::MetaOpen)?, &*meta.path),
        None => (data.clone(), c"internal"),
    };
    check(&data)?;
    check(&meta)?;
    let block_bytes = block_bytes(&data, backing.block_bytes)?;
    let no_memory = |_| Failure::from(Refusal::NoMemory);
    let paths = (padded(&backing.disk.path), padded(meta_path));
    let paths = KBox::new(paths, GFP_KERNEL).map_err(no_memory)?;
    Arc::new(
        Disk {
            data,
            meta,
            paths,
            block_bytes,
        },
        GFP_KERNEL,
    )
    .map_err(no_memory)
}

/// Refuses devices that cannot take what other nodes write, or blocks of metadata.
fn check(device: &Bdev<Resource>) -> Result<(), Failure> {
    let unfit = |detail: Arguments<'_>| Err(Failure::new(Refusal::DiskUnfit, detail));
    let bytes = device.logical_block_bytes();
    if bytes > BLOCK_BYTES_MAX {
        unfit(format_args!(
            "Its logical blocks have {bytes} bytes; at most {BLOCK_BYTES_MAX} are supported."
        ))
    } else if device.is_zoned() {
        unfit(format_args!(
            "It has zones, which have to be written in order."
        ))
    } else {
        Ok(())
    }
}

/// The logical block size of the device that is made of the disk.
fn block_bytes(disk: &Bdev<Resource>, wanted: Option<u32>) -> Result<u32, Failure> {
    let least = disk.logical_block_bytes();
    let bytes = wanted.unwrap_or(least);
    if bytes >= least && is_block_size(bytes) {
        return Ok(bytes);
    }
    Err(Failure::new(
        Refusal::BlockSize,
        format_args!(
            "{bytes} bytes; it has to be a power of two from {least}, the disk's own, to {BLOCK_BYTES_MAX}."
        ),
    ))
}

fn load(
    resource: &Resource,
    disk: &Disk,
    (node, volume): (NodeId, VolumeId),
    former_sectors: Option<u64>,
) -> Result<Loaded, Failure> {
    let kind = if disk.has_internal_meta() {
        MetaKind::Internal
    } else {
        MetaKind::External
    };
    let info = DiskInfo {
        disk_sectors: disk.data.sectors(),
        meta_sectors: disk.meta.sectors(),
        meta_end: disk.meta.sectors(),
        block_bytes: disk.block_bytes,
        can_discard: disk.data.can_zero() && disk.data.can_discard(),
        volume,
        node,
        resource: resource.padded_name(),
        meta_kind: kind,
    };
    let former = former_sectors.filter(|&end| kind == MetaKind::Internal && end < info.meta_end);
    let mut loaded = match (load_superblock(resource, disk, info), former) {
        (Err(failure), Some(meta_end)) if has_none(&failure) => {
            load_superblock(resource, disk, DiskInfo { meta_end, ..info })
        }
        (loaded, _) => loaded,
    }?;
    if let Some(loaded) = &mut *loaded {
        read_all(resource, disk, loaded)?;
        loaded.finish()?;
    }
    Ok(loaded)
}

/// Whether there are no metadata that count; what is left of a copy that was never in force is not whole.
fn has_none(failure: &Failure) -> bool {
    matches!(failure.refusal, Refusal::MetaNone | Refusal::MetaCorrupt)
}

/// Reads both superblocks, where `info` says that they are.
#[inline(never)]
fn load_superblock(resource: &Resource, disk: &Disk, info: DiskInfo) -> Result<Loaded, Failure> {
    let [first, second] =
        Layout::superblock_sectors(info.meta_kind, info.meta_end).ok_or(Refusal::DiskTooSmall)?;
    let (first, second) = (
        read(resource, disk, first, 1)?,
        read(resource, disk, second, 1)?,
    );
    begin(info, block(&first, 0)?, block(&second, 0)?)
}

/// Apart, so that the disk does not stay on the stack.
#[inline(never)]
fn begin(info: DiskInfo, first: &MetaBlock, second: &MetaBlock) -> Result<Loaded, Failure> {
    let loaded = LoadedDisk::begin(info, first, second)?;
    KBox::new(Some(loaded), GFP_KERNEL).map_err(|_| Refusal::NoMemory.into())
}

/// Reads all blocks that the metadata consist of, neighbours together. Apart, as above.
#[inline(never)]
fn read_all(
    resource: &Resource,
    disk: &Disk,
    loaded: &mut LoadedDisk<Kernel>,
) -> Result<(), Failure> {
    let mut blocks: KVVec<(Read, Sector)> = KVVec::new();
    for block in loaded.reads() {
        blocks
            .push(block, GFP_KERNEL)
            .map_err(|_| Refusal::NoMemory)?;
    }
    let mut rest = &blocks[..];
    while let Some(&(_, first)) = rest.first() {
        let (run, later) = rest
            .split_at_checked(run_length(first, rest))
            .ok_or(Refusal::Internal)?;
        let buffer = read(resource, disk, first, run.len())?;
        for (index, &(read, _)) in run.iter().enumerate() {
            loaded.take(read, block(&buffer, index)?);
        }
        rest = later;
    }
    Ok(())
}

/// How many of the first blocks, at least one, lie one behind the other from `first` on.
fn run_length(first: Sector, blocks: &[(Read, Sector)]) -> usize {
    let is_next = |(index, (_, sector)): &(u64, &(Read, Sector))| {
        sector.0
            == first
                .0
                .saturating_add(index.saturating_mul(SECTORS_PER_BLOCK))
    };
    (0..)
        .zip(blocks)
        .take(BLOCKS_MAX)
        .take_while(is_next)
        .count()
}

fn read(
    resource: &Resource,
    disk: &Disk,
    sector: Sector,
    blocks: usize,
) -> Result<PageBuf, Failure> {
    let _no_io = NoIo::enter();
    let bytes = (blocks as u32).saturating_mul(META_BLOCK_BYTES);
    let buffer = resource.memory.reads.alloc(bytes);
    buffer
        .and_then(|buffer| disk.meta.read(sector.0, buffer))
        .map_err(|_| {
            Failure::new(
                Refusal::MetaIo,
                format_args!("{blocks} blocks at sector {sector}."),
            )
        })
}

fn block(buffer: &PageBuf, index: usize) -> Result<&MetaBlock, Failure> {
    buffer
        .full_page(index)
        .ok_or(Failure::from(Refusal::Internal))
}

fn text(path: &CStr) -> &str {
    path.to_str().unwrap_or("?")
}

fn padded(path: &CStr) -> Path {
    let mut padded = [0; PATH_MAX + 1];
    for (to, from) in padded.iter_mut().take(PATH_MAX).zip(path.to_bytes()) {
        *to = *from;
    }
    padded
}
