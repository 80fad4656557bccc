// SPDX-License-Identifier: GPL-2.0-only

//! The disks of one volume on this node, and where its metadata lie on them.

use crate::config::Backing;
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use weft_uapi::limits::{META_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{Layout, MetaBlock, MetaKind};
use weft_uapi::units::Sector;

/// Whether devices are opened to look or to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only looking; also while the module has them.
    Read,
    /// Writing; refused while anybody else has them.
    Exclusive,
}

/// The data disk and, when the metadata have a device of their own, that one.
#[derive(Debug)]
pub struct Area {
    data: File,
    external: Option<File>,
    /// Size of the data disk.
    pub disk_sectors: u64,
    /// Size of the device that holds the metadata.
    pub meta_sectors: u64,
}

/// A device that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// Its path.
    pub path: String,
    /// Why.
    pub error: io::Error,
}

impl Area {
    /// Opens the devices of a volume.
    ///
    /// # Errors
    /// With the path of the one that failed; `EBUSY` when it is in use.
    pub fn open(backing: &Backing, access: Access) -> Result<Self, OpenError> {
        let open = |path: &str| {
            let opened = open(Path::new(path), access).and_then(|mut file| {
                let sectors = file.seek(SeekFrom::End(0))? / u64::from(SECTOR_BYTES);
                Ok((file, sectors))
            });
            opened.map_err(|error| OpenError {
                path: path.to_owned(),
                error,
            })
        };
        let (data, disk_sectors) = open(&backing.disk)?;
        let external = backing.meta.as_deref().map(open).transpose()?;
        let meta_sectors = external
            .as_ref()
            .map_or(disk_sectors, |(_, sectors)| *sectors);
        Ok(Self {
            data,
            external: external.map(|(file, _)| file),
            disk_sectors,
            meta_sectors,
        })
    }

    /// Where the metadata are kept.
    pub fn kind(&self) -> MetaKind {
        match self.external {
            None => MetaKind::Internal,
            Some(_) => MetaKind::External,
        }
    }

    /// The layout for so many peers; `None` when there is no room for it.
    pub fn layout(&self, slots: u32) -> Option<Layout> {
        Layout::new(self.kind(), self.disk_sectors, self.meta_sectors, slots)
    }

    /// The device that holds the metadata.
    pub fn meta(&self) -> &File {
        self.external.as_ref().unwrap_or(&self.data)
    }

    /// Reads one block of metadata.
    ///
    /// # Errors
    /// As the device reports them.
    pub fn read(&self, at: Sector) -> io::Result<MetaBlock> {
        let mut block = [0; META_BLOCK_BYTES as usize];
        self.meta().read_exact_at(&mut block, offset(at))?;
        Ok(block)
    }

    /// Writes one block of metadata; not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// As the device reports them.
    pub fn write(&self, at: Sector, block: &MetaBlock) -> io::Result<()> {
        self.meta().write_all_at(block, offset(at))
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// As the device reports them; nothing of it may be relied on then.
    pub fn sync(&self) -> io::Result<()> {
        self.meta().sync_all()
    }
}

fn offset(at: Sector) -> u64 {
    at.0 * u64::from(SECTOR_BYTES)
}

fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    // For block devices only: with a regular file the flag means something else.
    let is_device = std::fs::metadata(path)?.file_type().is_block_device();
    if access == Access::Exclusive {
        options.write(true);
        if is_device {
            options.custom_flags(nix::libc::O_EXCL);
        }
    }
    let file = options.open(path)?;
    if access == Access::Read {
        // The module writes past the page cache: what it holds may be old. Without the advice it is only less fresh.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    Ok(file)
}
