// SPDX-License-Identifier: GPL-2.0-only

//! The superblock, of which there are two, written alternately.

use super::generation::{Generation, RawGeneration};
use super::layout::{Layout, MetaKind};
use super::MetaBlock;
use crate::control::name_of;
use crate::crc32c::crc32c;
use crate::limits::{ANCESTRY_MAX, ATTACHES_MAX, NAME_MAX, NODES_MAX, VOLUMES_MAX};
use crate::status::Name;
use crate::units::{GenerationId, Incarnation, NodeId, Term, VolumeId};
use crate::version::{ONDISK_VERSION, ONDISK_VERSION_MIN};
use zerocopy::little_endian::{U32, U64};
use zerocopy::FromBytes;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: [u8; 8] = *b"weftMETA";
const SLOT_NONE: u8 = u8::MAX;

/// Bit of [`Superblock::flags`]: an unfinished sync target; never a source, never primary by itself.
pub const FLAG_INCONSISTENT: u32 = 1 << 0;
/// Bit of [`Superblock::flags`]: was primary and not demoted: set while primary, found at attach after a crash.
pub const FLAG_WRITER_ACTIVE: u32 = 1 << 1;
/// Bit of [`Superblock::flags`]: known to be of the past.
pub const FLAG_OUTDATED: u32 = 1 << 2;
/// Bit of [`Superblock::flags`]: the disk took the place of another one, or is an older image of itself. What its node
/// promised and acknowledged before is forgotten, so its vote does not count before a majority without it took it in.
pub const FLAG_NEWCOMER: u32 = 1 << 3;
/// Bit of [`Superblock::flags`]: after a split brain this disk's data were given up for a peer's, whose line it has not
/// taken over yet.
pub const FLAG_GIVEN_UP: u32 = 1 << 4;
/// Bit of [`Superblock::flags`]: the node left in order, see [`Superblock::left_at`]: its vote does not count before a later
/// record took it in.
pub const FLAG_LEFT: u32 = 1 << 5;
/// Bit of [`Superblock::flags`], together with [`FLAG_INCONSISTENT`]: a person gave the disk's data up, so it owes
/// everything; the bitmaps do not say so yet.
pub const FLAG_INVALIDATED: u32 = 1 << 6;
const FLAGS_KNOWN: u32 = FLAG_INCONSISTENT
    | FLAG_WRITER_ACTIVE
    | FLAG_OUTDATED
    | FLAG_NEWCOMER
    | FLAG_GIVEN_UP
    | FLAG_LEFT
    | FLAG_INVALIDATED;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    sequence: U64,
    device: U64,
    disk_sectors: U64,
    meta_kind: U32,
    slots: U32,
    node: U32,
    volume: U32,
    resource: Name,
    incarnation: U64,
    attach_id: U64,
    promised_term: U64,
    tail_seq: U64,
    generation: RawGeneration,
    ancestry: [U64; ANCESTRY_MAX],
    since: [U64; NODES_MAX],
    seen_incarnation: [U64; NODES_MAX],
    seen_attach_id: [U64; NODES_MAX],
    slot_of_node: [u8; NODES_MAX],
    written: U64,
    former_attaches: [U64; ATTACHES_MAX],
    changes: U64,
    former_ages: [U64; ATTACHES_MAX],
    seen_age: [U64; NODES_MAX],
    left_at: U64,
    left: U32,
    // Version 2.
    size: U64,
    area: U64,
    former_sectors: U64,
}

// The last four bytes of a block are its checksum.
const _: () = assert!(size_of::<Raw>() <= size_of::<MetaBlock>() - 4);

/// What one disk knows of itself and of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Grows with every write; its lowest bit says which copy it is.
    pub sequence: u64,
    /// Bits `FLAG_*`.
    pub flags: u32,
    /// Random id of the metadata, given by `create-md`.
    pub device: u64,
    /// Size of the data disk when the metadata were laid out, in sectors.
    pub disk_sectors: u64,
    /// Where the metadata are kept.
    pub meta_kind: MetaKind,
    /// Number of bitmap slots.
    pub slots: u32,
    /// The node that the disk belongs to.
    pub node: NodeId,
    /// The volume that the disk belongs to.
    pub volume: VolumeId,
    /// Name of the resource, padded with zeros.
    pub resource: Name,
    /// How often the disk was attached.
    pub incarnation: Incarnation,
    /// Random id of the last attach.
    pub attach_id: u64,
    /// Highest term promised to anybody.
    pub promised_term: Term,
    /// Sequence number of the last write received in order in the current generation.
    pub tail_seq: u64,
    /// The current generation.
    pub generation: Generation,
    /// Former generations, the newest first; with every bit inverted: one whose data this disk did not have to the end.
    pub ancestry: [GenerationId; ANCESTRY_MAX],
    /// Per node, the newest generation that it acknowledged as durable.
    pub since: [GenerationId; NODES_MAX],
    /// Per node, the highest incarnation of its disk that was seen.
    pub seen_incarnation: [Incarnation; NODES_MAX],
    /// Per node, the attach id of its disk that was seen last.
    pub seen_attach_id: [u64; NODES_MAX],
    /// Per node, the slot of its bitmap.
    pub slot_of_node: [Option<u8>; NODES_MAX],
    /// The newest generation of the line in which somebody could write; [`GenerationId::NONE`]: the current one.
    pub written: GenerationId,
    /// Ids of the attaches before the last one, the newest first; 0: none.
    pub former_attaches: [u64; ATTACHES_MAX],
    /// How often anything of it was changed but what was seen of the ages of other disks; part of the disk's age.
    pub changes: u64,
    /// Per former attach, the age that the disk had reached at its end; 0: not known.
    pub former_ages: [u64; ATTACHES_MAX],
    /// Per node, the highest age of its disk that was seen in the attach that was seen last; 0: none.
    pub seen_age: [u64; NODES_MAX],
    /// With [`FLAG_LEFT`]: the newest record that the node knew when it left.
    pub left_at: GenerationId,
    /// Size of the device in sectors, a multiple of eight; 0: all that the layout leaves for data.
    pub size: u64,
    /// On a device of their own, where log and bitmaps begin, see [`Layout::at`].
    pub area: u64,
    /// Size of the data disk, in sectors, at whose end the metadata were before: what they left there may have to be
    /// overwritten with zeros yet; 0: not so.
    pub former_sectors: u64,
}

/// Why a block is not a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockError {
    /// No magic: nothing of Weft's was ever there.
    None,
    /// The checksum does not fit, or a field is out of its range.
    Corrupt,
    /// A version that this build does not know.
    Version(u32),
}

impl Superblock {
    /// The superblock of a disk that never held data.
    pub fn created(
        resource: Name,
        volume: VolumeId,
        node: NodeId,
        device: u64,
        meta_kind: MetaKind,
        disk_sectors: u64,
        slots: u32,
    ) -> Self {
        Self {
            sequence: 0,
            flags: 0,
            device,
            disk_sectors,
            meta_kind,
            slots,
            node,
            volume,
            resource,
            incarnation: Incarnation(0),
            attach_id: 0,
            promised_term: Term(0),
            tail_seq: 0,
            generation: Generation::default(),
            ancestry: [GenerationId::NONE; ANCESTRY_MAX],
            since: [GenerationId::NONE; NODES_MAX],
            seen_incarnation: [Incarnation(0); NODES_MAX],
            seen_attach_id: [0; NODES_MAX],
            slot_of_node: [None; NODES_MAX],
            written: GenerationId::NONE,
            former_attaches: [0; ATTACHES_MAX],
            changes: 0,
            former_ages: [0; ATTACHES_MAX],
            seen_age: [0; NODES_MAX],
            left_at: GenerationId::NONE,
            size: 0,
            area: 0,
            former_sectors: 0,
        }
    }

    /// The layout in force on a metadata device of this size; `None`: the device is too small for it.
    pub fn layout(&self, meta_sectors: u64) -> Option<Layout> {
        Layout::at(
            self.meta_kind,
            self.disk_sectors,
            meta_sectors,
            self.slots,
            self.area,
        )
    }

    /// The layout that was in force before, as far as it has to be known, see [`Self::former_sectors`].
    pub fn former_layout(&self) -> Option<Layout> {
        let is_wanted = self.former_sectors != 0 && self.meta_kind == MetaKind::Internal;
        let layout = Layout::new(self.meta_kind, self.former_sectors, 0, self.slots);
        layout.filter(|_| is_wanted)
    }

    /// Size of the device in sectors, of a disk with this layout.
    pub const fn sectors(&self, layout: &Layout) -> u64 {
        match self.size {
            0 => layout.data_sectors(),
            sectors => sectors,
        }
    }

    /// Ids of all attaches that are remembered, the newest first; 0: none.
    pub fn known_attaches(&self) -> [u64; ATTACHES_MAX] {
        let mut known = self.former_attaches;
        if self.attach_id != 0 {
            known.rotate_right(1);
            if let Some(newest) = known.first_mut() {
                *newest = self.attach_id;
            }
        }
        known
    }

    /// Per attach of [`Self::known_attaches`], the age that the disk, which has `age` now, reached in it; 0: not known.
    pub fn known_ages(&self, age: u64) -> [u64; ATTACHES_MAX] {
        let mut known = self.former_ages;
        if self.attach_id != 0 {
            known.rotate_right(1);
            if let Some(newest) = known.first_mut() {
                *newest = age;
            }
        }
        known
    }

    /// One more attach, with a random id, of a disk that has this age.
    pub fn begin_attach(&mut self, id: u64, age: u64) {
        self.former_ages = self.known_ages(age);
        self.former_attaches = self.known_attaches();
        self.incarnation = Incarnation(self.incarnation.0.saturating_add(1));
        self.attach_id = id;
    }

    /// The block on disk.
    pub fn encode(&self, block: &mut MetaBlock) {
        block.fill(0);
        // In place: the stack of the kernel is small.
        if let Ok((raw, _)) = Raw::mut_from_prefix(block) {
            raw.set(self);
        }
        if let Some((body, crc)) = block.split_last_chunk_mut::<4>() {
            *crc = crc32c(body).to_le_bytes();
        }
    }

    /// Checks and decodes a block.
    pub fn parse(block: &MetaBlock) -> Result<Self, SuperblockError> {
        let (raw, _) = Raw::ref_from_prefix(block).map_err(|_| SuperblockError::Corrupt)?;
        if raw.magic != MAGIC {
            return Err(SuperblockError::None);
        }
        let Some((body, crc)) = block.split_last_chunk::<4>() else {
            return Err(SuperblockError::Corrupt);
        };
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(SuperblockError::Corrupt);
        }
        if !(ONDISK_VERSION_MIN..=ONDISK_VERSION).contains(&raw.version.get()) {
            return Err(SuperblockError::Version(raw.version.get()));
        }
        raw.decode().ok_or(SuperblockError::Corrupt)
    }
}

impl Raw {
    /// Takes over all fields.
    fn set(&mut self, block: &Superblock) {
        self.magic = MAGIC;
        let sizes = [block.size, block.area, block.former_sectors];
        self.version = U32::new(version_of(sizes));
        self.flags = U32::new(block.flags);
        self.sequence = U64::new(block.sequence);
        self.device = U64::new(block.device);
        self.disk_sectors = U64::new(block.disk_sectors);
        self.meta_kind = U32::new(block.meta_kind.number());
        self.slots = U32::new(block.slots);
        self.node = U32::new(block.node.get().into());
        self.volume = U32::new(block.volume.0.into());
        self.resource = block.resource;
        self.incarnation = U64::new(block.incarnation.0);
        self.attach_id = U64::new(block.attach_id);
        self.promised_term = U64::new(block.promised_term.0);
        self.tail_seq = U64::new(block.tail_seq);
        self.generation = block.generation.into();
        self.ancestry = block.ancestry.map(|id| U64::new(id.0));
        self.since = block.since.map(|id| U64::new(id.0));
        self.seen_incarnation = block.seen_incarnation.map(|number| U64::new(number.0));
        self.seen_attach_id = block.seen_attach_id.map(U64::new);
        self.slot_of_node = block.slot_of_node.map(|slot| slot.unwrap_or(SLOT_NONE));
        self.written = U64::new(block.written.0);
        self.former_attaches = block.former_attaches.map(U64::new);
        self.changes = U64::new(block.changes);
        self.former_ages = block.former_ages.map(U64::new);
        self.seen_age = block.seen_age.map(U64::new);
        self.left_at = U64::new(block.left_at.0);
        self.left = U32::new(block.generation.left.0);
        self.size = U64::new(block.size);
        self.area = U64::new(block.area);
        self.former_sectors = U64::new(block.former_sectors);
    }

    /// The typed form, or `None` when a field is out of its range.
    fn decode(&self) -> Option<Superblock> {
        let slots = self.slots.get();
        let volume = u16::try_from(self.volume.get())
            .ok()
            .filter(|&id| usize::from(id) < VOLUMES_MAX)?;
        let mut used = 0u32;
        for &slot in self.slot_of_node.iter().filter(|&&slot| slot != SLOT_NONE) {
            // Each slot belongs to one node at most.
            let bit = (u32::from(slot) < slots)
                .then(|| 1u32.checked_shl(slot.into()))
                .flatten()?;
            if used & bit != 0 {
                return None;
            }
            used |= bit;
        }
        let sizes = [self.size, self.area, self.former_sectors];
        let valid = self.flags.get() & !FLAGS_KNOWN == 0
            && (1..NODES_MAX as u32).contains(&slots)
            && self.version.get() >= version_of(sizes.map(U64::get))
            && self.resource.get(NAME_MAX) == Some(&0)
            && name_of(&self.resource).is_some();
        if !valid {
            return None;
        }
        Some(Superblock {
            sequence: self.sequence.get(),
            flags: self.flags.get(),
            device: self.device.get(),
            disk_sectors: self.disk_sectors.get(),
            meta_kind: MetaKind::from_number(self.meta_kind.get())?,
            slots,
            node: NodeId::new(self.node.get())?,
            volume: VolumeId(volume),
            resource: self.resource,
            incarnation: Incarnation(self.incarnation.get()),
            attach_id: self.attach_id.get(),
            promised_term: Term(self.promised_term.get()),
            tail_seq: self.tail_seq.get(),
            generation: self
                .generation
                .decode()?
                .with_left(self.left.get().into())?,
            ancestry: self.ancestry.map(|id| GenerationId(id.get())),
            since: self.since.map(|id| GenerationId(id.get())),
            seen_incarnation: self
                .seen_incarnation
                .map(|number| Incarnation(number.get())),
            seen_attach_id: self.seen_attach_id.map(U64::get),
            slot_of_node: self
                .slot_of_node
                .map(|slot| (slot != SLOT_NONE).then_some(slot)),
            written: GenerationId(self.written.get()),
            former_attaches: self.former_attaches.map(U64::get),
            changes: self.changes.get(),
            former_ages: self.former_ages.map(U64::get),
            seen_age: self.seen_age.map(U64::get),
            left_at: GenerationId(self.left_at.get()),
            size: self.size.get(),
            area: self.area.get(),
            former_sectors: self.former_sectors.get(),
        })
    }
}

/// The oldest version of the layout that knows of sizes and places, if they are not all zero.
const fn version_of(sizes: [u64; 3]) -> u32 {
    match sizes {
        [0, 0, 0] => ONDISK_VERSION_MIN,
        _ => ONDISK_VERSION,
    }
}

/// The valid superblock with the higher sequence number; when neither is valid, the more telling of both errors.
pub fn newest_superblock(
    first: &MetaBlock,
    second: &MetaBlock,
) -> Result<Superblock, SuperblockError> {
    match (sequence(first), sequence(second)) {
        (Ok(a), Ok(b)) => Superblock::parse(if b > a { second } else { first }),
        (Ok(_), Err(_)) => Superblock::parse(first),
        (Err(_), Ok(_)) => Superblock::parse(second),
        (Err(SuperblockError::None), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

/// Sequence number of a valid superblock. Apart, so that the stack never holds two of them.
#[inline(never)]
fn sequence(block: &MetaBlock) -> Result<u64, SuperblockError> {
    Superblock::parse(block).map(|superblock| superblock.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::padded_name;
    use crate::units::NodeSet;

    fn sample() -> Superblock {
        let node = NodeId::new(1).unwrap();
        let mut block = Superblock::created(
            padded_name("r0").unwrap(),
            VolumeId(0),
            node,
            77,
            MetaKind::Internal,
            1 << 21,
            7,
        );
        block.slot_of_node[0] = Some(3);
        block.generation = Generation {
            id: GenerationId(5),
            writer: Some(node),
            members: NodeSet(3),
            ..Generation::default()
        };
        block
    }

    fn encoded(superblock: &Superblock) -> MetaBlock {
        let mut block = [0; 4096];
        superblock.encode(&mut block);
        block
    }

    #[test]
    fn a_superblock_is_read_back_as_it_was_written() {
        assert_eq!(Superblock::parse(&encoded(&sample())), Ok(sample()));
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_a_superblock() {
        for at in (0..4096).step_by(7) {
            let mut block = encoded(&sample());
            block[at] ^= 0x10;
            assert!(Superblock::parse(&block).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_newer_valid_copy_wins_and_a_torn_one_is_passed_over() {
        let old = Superblock {
            sequence: 4,
            ..sample()
        };
        let new = Superblock {
            sequence: 5,
            ..sample()
        };
        assert_eq!(newest_superblock(&encoded(&old), &encoded(&new)), Ok(new));
        let mut torn = encoded(&new);
        torn[2048..].fill(0);
        assert_eq!(newest_superblock(&encoded(&old), &torn), Ok(old));
        assert_eq!(
            newest_superblock(&[0; 4096], &[0; 4096]),
            Err(SuperblockError::None)
        );
        assert_eq!(
            newest_superblock(&torn, &[0; 4096]),
            Err(SuperblockError::Corrupt)
        );
    }

    #[test]
    fn a_slot_given_to_two_nodes_is_corrupt() {
        let mut block = sample();
        block.slot_of_node[2] = Some(3);
        assert_eq!(
            Superblock::parse(&encoded(&block)),
            Err(SuperblockError::Corrupt)
        );
    }
}
