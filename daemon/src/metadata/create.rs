// SPDX-License-Identifier: GPL-2.0-only

//! Writing fresh metadata.
//!
//! Order: the old superblocks are wiped and that is made durable, then log and bitmaps are cleared, then the new
//! superblocks are written. A power cut at any point leaves either no metadata or complete ones.

use super::area::Area;
use super::find;
use super::signature::{self, Found};
use std::io;
use weft_uapi::control::padded_name;
use weft_uapi::limits::{META_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{newest_superblock, Layout, Superblock, SuperblockError};
use weft_uapi::units::{NodeId, Sector, VolumeId};

/// For whom metadata are made.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Name of the resource.
    pub resource: &'a str,
    /// Volume number.
    pub volume: VolumeId,
    /// This node.
    pub node: NodeId,
    /// Peers that there will be room for.
    pub slots: u32,
}

/// Why metadata are not made.
#[derive(Debug)]
pub enum Obstacle {
    /// No room for them.
    TooSmall,
    /// There are some already, intact or not.
    Existing(String),
    /// Something else lives where they would go.
    Occupied(Found, u64),
    /// Reading failed.
    Io(io::Error),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Looks whether fresh metadata would destroy anything; the layout when not. With `force` only what makes them
/// impossible counts. Writes nothing.
///
/// # Errors
/// What is in the way.
pub fn check(area: &Area, owner: Owner<'_>, force: bool) -> Result<Layout, Obstacle> {
    let layout = area.layout(owner.slots).ok_or(Obstacle::TooSmall)?;
    if force {
        return Ok(layout);
    }
    if let Some(existing) = existing(area)? {
        return Err(Obstacle::Existing(existing));
    }
    let free_bytes = layout.area().0 .0 * u64::from(SECTOR_BYTES);
    match signature::find(area.meta())? {
        // With a device of its own the area begins at 0, so that anything at all is in the way.
        Some(found) if found.bytes.is_none_or(|bytes| bytes > free_bytes) => {
            Err(Obstacle::Occupied(found, free_bytes))
        }
        _ => Ok(layout),
    }
}

/// A sentence about the metadata that are there.
fn existing(area: &Area) -> io::Result<Option<String>> {
    let end = find::end(area)?.unwrap_or(area.meta_sectors);
    let Some([first, second]) = Layout::superblock_sectors(area.kind(), end) else {
        return Ok(None);
    };
    let text = match newest_superblock(&area.read(first)?, &area.read(second)?) {
        Err(SuperblockError::None) => return Ok(None),
        Ok(found) => {
            let resource = weft_uapi::control::name_of(&found.resource).unwrap_or("?");
            format!(
                "metadata of resource {resource}, volume {}, node {}",
                found.volume, found.node
            )
        }
        Err(SuperblockError::Corrupt) => "damaged metadata".to_owned(),
        Err(SuperblockError::Version(version)) => format!("metadata of layout version {version}"),
    };
    Ok(Some(text))
}

/// Writes metadata of a disk that never held data; `progress` hears the number of blocks done and of all.
///
/// # Errors
/// As the device reports them; the disk has no valid metadata then.
pub fn create(
    area: &Area,
    owner: Owner<'_>,
    layout: &Layout,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<()> {
    let empty = [0; META_BLOCK_BYTES as usize];
    let superblocks = [layout.superblock(0), layout.superblock(1)];
    for at in superblocks {
        area.write(at, &empty)?;
    }
    area.sync()?;
    let (first, blocks) = layout.area();
    for index in 0..blocks {
        let at = Sector(first.0 + index * u64::from(META_BLOCK_BYTES / SECTOR_BYTES));
        area.write(at, &empty)?;
        progress(index + 1, blocks);
    }
    area.sync()?;
    let resource = padded_name(owner.resource).ok_or(io::ErrorKind::InvalidInput)?;
    let device = getrandom::u64().map_err(io::Error::other)?;
    let kind = layout.kind();
    let mut superblock = Superblock::created(
        resource,
        owner.volume,
        owner.node,
        device,
        kind,
        area.disk_sectors,
        owner.slots,
    );
    for (sequence, at) in superblocks.into_iter().enumerate() {
        let mut block = empty;
        superblock.sequence = sequence as u64;
        superblock.encode(&mut block);
        area.write(at, &block)?;
    }
    area.sync()
}
