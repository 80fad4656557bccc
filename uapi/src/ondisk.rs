// SPDX-License-Identifier: GPL-2.0-only

//! Metadata on disk: two superblocks, an activity-log ring and one bitmap per peer slot (`ONDISK.md`).
//!
//! Everything here is layout and syntax. A block whose checksum does not fit is never interpreted.

mod activity_log;
mod generation;
mod layout;
mod superblock;

pub use activity_log::{
    AlReplay, AlTransaction, AlUpdate, AL_BLOCKS, AL_CONTEXT_MAX, AL_EXTENTS, AL_SLOT_FREE,
    AL_UPDATES_MAX,
};
pub use generation::{Generation, RawGeneration};
pub use layout::{Layout, MetaKind};
pub use superblock::{
    newest_superblock, Superblock, SuperblockError, FLAG_GIVEN_UP, FLAG_INCONSISTENT,
    FLAG_INVALIDATED, FLAG_LEFT, FLAG_NEWCOMER, FLAG_OUTDATED, FLAG_WRITER_ACTIVE,
};

use crate::limits::META_BLOCK_BYTES;

/// One block of metadata.
pub type MetaBlock = [u8; META_BLOCK_BYTES as usize];

/// Slots for peers' bitmaps that `create-md` reserves unless told otherwise.
pub const BITMAP_SLOTS_DEFAULT: u32 = 7;
