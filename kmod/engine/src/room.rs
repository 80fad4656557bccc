// SPDX-License-Identifier: GPL-2.0-only

//! Room for the metadata of a disk that has become larger.
//!
//! Made outside of the engine's lock, since it needs memory, when the engine asks for it
//! ([`crate::effect::Effect::Measure`]).

use crate::bitmap::Bitmaps;
use crate::host::{Host, NoMemory};
use weft_uapi::ondisk::{Layout, MetaKind};
use weft_uapi::refusal::Refusal;

/// Where the metadata go, and bitmaps that are large enough.
pub struct Room<H: Host> {
    /// Where they are.
    pub(crate) from: Layout,
    /// Where they are to be.
    pub(crate) to: Layout,
    /// Without a bit.
    pub(crate) bits: Bitmaps<H>,
}

impl<H: Host> Room<H> {
    /// For a disk with this layout that has so many sectors now; `meta_sectors`: the metadata device, the same number when
    /// metadata are internal. `None`: it is not larger. Context: may sleep.
    pub fn find(
        from: &Layout,
        disk_sectors: u64,
        meta_sectors: u64,
    ) -> Result<Option<Self>, Refusal> {
        if disk_sectors <= from.disk_sectors() {
            return Ok(None);
        }
        let refusal = match from.kind() {
            MetaKind::Internal => Refusal::GrownTooLittle,
            MetaKind::External => Refusal::MetaTooSmall,
        };
        let to = from.moved(disk_sectors, meta_sectors).ok_or(refusal)?;
        let memory = |_: NoMemory| Refusal::NoMemory;
        let words = to.bitmap_words().checked_mul(to.slots().into());
        let words = words.and_then(|words| usize::try_from(words).ok());
        let words = H::slab(words.ok_or(Refusal::NoMemory)?, || 0).map_err(memory)?;
        let bits = Bitmaps::new(words, &to, 0).map_err(memory)?;
        Ok(Some(Self {
            from: *from,
            to,
            bits,
        }))
    }
}
