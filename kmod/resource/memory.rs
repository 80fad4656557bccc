// SPDX-License-Identifier: GPL-2.0-only

//! The memory that a resource has in reserve for data.

use crate::sys::pages::PageReserve;
use kernel::{error::Result, sync::Arc};

/// Blocks of metadata of a volume that the engine writes at the same time at most: bitmap (16), and while the metadata move
/// the whole log (16), the superblock and what is zeroed.
pub(super) const VOLUME_BLOCKS: u16 = 36;

/// Memory for data. Each purpose has its own reserve, since one may wait for another.
pub(crate) struct Memory {
    /// Writes of applications.
    pub(crate) writes: Arc<PageReserve>,
    /// Blocks of metadata.
    pub(crate) meta: Arc<PageReserve>,
    /// Reads of the disk for peers.
    pub(crate) reads: Arc<PageReserve>,
}

impl Memory {
    pub(super) fn new() -> Result<Self> {
        let reserve = || PageReserve::new(2);
        Ok(Self {
            writes: reserve()?,
            meta: PageReserve::of_single_pages(VOLUME_BLOCKS)?,
            reads: reserve()?,
        })
    }
}
