// SPDX-License-Identifier: GPL-2.0-only

//! Bodies of packets that do not carry device data.

use super::Header;
use crate::limits::{is_block_size, ANCESTRY_MAX, ATTACHES_MAX, NODES_MAX};
use crate::ondisk::{Generation, RawGeneration};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Body of the first packet on each link: who speaks, to whom, and in which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloBody {
    /// Highest protocol version of the sender.
    pub version: U16,
    /// Lowest protocol version of the sender.
    pub version_min: U16,
    /// [`super::LinkKind`].
    pub link: U16,
    /// [`crate::state::Role`] of the sender.
    pub role: U16,
    /// Feature bits.
    pub features: U64,
    /// The sender's number of this session, equal on both links.
    pub session: U64,
    /// Node id of the sender.
    pub from: U32,
    /// Node id of the receiver.
    pub to: U32,
    /// CRC-32C of the resource's name.
    pub resource_crc: U32,
    /// Number of volumes whose [`StateBody`] follows on the data link.
    pub volumes: U32,
}

/// What one side knows of a volume when a session starts, or when its disk state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StateBody {
    /// Size of the device in sectors; 0: no disk.
    pub sectors: U64,
    /// [`crate::state::DiskState`].
    pub disk_state: U16,
    /// [`crate::state::Role`].
    pub role: U16,
    /// Bits `STATE_*`.
    pub flags: U32,
    /// Current generation.
    pub generation: RawGeneration,
    /// Former generations, the newest first; 0: none.
    pub ancestry: [U64; ANCESTRY_MAX],
    /// Incarnation of the sender's disk.
    pub incarnation: U64,
    /// Highest incarnation of the receiver's disk that the sender has seen.
    pub seen_incarnation: U64,
    /// Random id of this attach of the sender's disk: equal means the same live attach.
    pub attach_id: U64,
    /// The attach id of the receiver that the sender saw last.
    pub seen_attach_id: U64,
    /// The newest generation that the receiver acknowledged to the sender as durable.
    pub since: U64,
    /// Sequence number of the last write received in order in this generation (G5).
    pub tail_seq: U64,
    /// Bits set towards the receiver.
    pub bits: U64,
    /// Highest term promised.
    pub promised_term: U64,
    /// Round of the negotiation: 1 at the start of a session, one more each time that something has to be decided
    /// anew. Two states of the same round are decided together.
    pub round: U32,
    /// The primary whose writes the sender gets, itself included: its node id plus one; 0: none.
    pub leader: U16,
    /// The node that the sender fetches from: its node id plus one; 0: none.
    pub source: U16,
    /// The newest generation of the sender's line in which somebody could write; 0: the current one.
    pub written: U64,
    /// Logical block size of the device in bytes; 0: no disk.
    pub block_bytes: U32,
    /// What the sender wants done about a split brain, see [`crate::split_brain::Policies::encode`]; zeros to a peer without
    /// [`crate::version::FEATURE_SPLIT_BRAIN`].
    pub split_brain: [u8; 2],
    /// Must be zero.
    pub reserved: U16,
    /// Ids of the attaches of the sender's disk before this one, the newest first; 0: none.
    pub former_attaches: [U64; ATTACHES_MAX],
}

/// Bit of [`StateBody::flags`]: an unfinished sync target.
pub const STATE_INCONSISTENT: u32 = 1 << 0;
/// Bit of [`StateBody::flags`]: attached after a crash; writes may be lost that were acknowledged without a flush.
pub const STATE_CRASHED: u32 = 1 << 1;
/// Bit of [`StateBody::flags`]: a person gave this side's data up.
pub const STATE_DISCARDS: u32 = 1 << 2;
/// Bit of [`StateBody::flags`]: known to be of the past.
pub const STATE_OUTDATED: u32 = 1 << 3;

/// Bit of [`StateBody::flags`]: the sender is primary, but its current generation is not in force: nothing was ever
/// written in it.
pub const STATE_STALLED: u32 = 1 << 4;

/// Bit of [`StateBody::flags`]: the sender's disk took the place of another one, and its vote does not count yet.
pub const STATE_NEWCOMER: u32 = 1 << 5;

/// Bit of [`StateBody::flags`]: the sender left in order, and its vote does not count yet.
pub const STATE_LEFT: u32 = 1 << 6;

/// Bit of [`StateBody::flags`]: the leader that the sender names is primary, and not only about to be; of one that names none:
/// the source that it names is.
pub const STATE_LED: u32 = 1 << 7;

/// Bit of [`StateBody::flags`]: a person wants the sender's disk to fetch everything from the receiver's. Told only to a
/// peer with [`crate::version::FEATURE_ORDERS`], as is the next one.
pub const STATE_INVALIDATED: u32 = 1 << 8;

/// Bit of [`StateBody::flags`]: a person wants the receiver's disk to fetch everything from the sender's.
pub const STATE_INVALIDATES: u32 = 1 << 9;

/// Bit of [`StateBody::flags`]: what the two bits before say is about the blocks in which the victim knows of a difference,
/// and no others. Told only to a peer with [`crate::version::FEATURE_VERIFY`], as is the next one.
pub const STATE_REPAIRS: u32 = 1 << 10;

/// Bit of [`StateBody::flags`]: a verify with the receiver has found differences, and the sender knows where.
pub const STATE_FOUND: u32 = 1 << 11;

const STATE_FLAGS_KNOWN: u32 = STATE_LED
    | STATE_INCONSISTENT
    | STATE_CRASHED
    | STATE_DISCARDS
    | STATE_OUTDATED
    | STATE_STALLED
    | STATE_NEWCOMER
    | STATE_LEFT
    | STATE_INVALIDATED
    | STATE_INVALIDATES
    | STATE_REPAIRS
    | STATE_FOUND;

impl StateBody {
    /// Whether unknown flags and reserved fields are zero, node ids in their range, and the block size is one.
    pub fn is_valid(&self) -> bool {
        let is_node = |number: U16| usize::from(number.get()) <= NODES_MAX;
        let block_bytes = self.block_bytes.get();
        self.flags.get() & !STATE_FLAGS_KNOWN == 0
            && self.reserved.get() == 0
            && is_node(self.leader)
            && is_node(self.source)
            && (block_bytes == 0 || is_block_size(block_bytes))
    }
}

/// What a state tells of ages, behind its [`StateBody`], to a peer with [`crate::version::FEATURE_AGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StateAgesBody {
    /// Age of the sender's disk.
    pub age: U64,
    /// Highest age of the receiver's disk that the sender saw in [`StateBody::seen_attach_id`]; 0: none.
    pub seen_age: U64,
    /// Per attach of [`StateBody::former_attaches`], the age that the sender's disk reached in it; 0: not known.
    pub former_ages: [U64; ATTACHES_MAX],
}

/// A state as it is sent to a peer with [`crate::version::FEATURE_AGES`]; others get the first part alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FullStateBody {
    /// What every version tells.
    pub state: StateBody,
    /// The ages.
    pub ages: StateAgesBody,
}

impl FullStateBody {
    /// A state with or without ages; without them they are not known.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(full) = Self::read_from_bytes(bytes) {
            return Some(full);
        }
        let mut full = Self::new_zeroed();
        full.state = StateBody::read_from_bytes(bytes).ok()?;
        Some(full)
    }
}

/// An age that a disk has reached, in a [`super::PacketKind::Stable`] or a [`super::PacketKind::Trim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AgeBody {
    /// Id of the attach in which it has.
    pub attach_id: U64,
    /// The age.
    pub age: U64,
    /// Node id of the disk's node.
    pub node: U32,
    /// Must be zero.
    pub reserved: U32,
}

/// A generation record to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GenerationBody {
    /// The record.
    pub generation: RawGeneration,
}

impl GenerationBody {
    /// The record with those who left, whom the packet's header names; `None` when it is malformed.
    pub fn record(&self, header: &Header) -> Option<Generation> {
        self.generation.decode()?.with_left(header.arg)
    }
}

/// A generation record is in force: every holder has it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InForceBody {
    /// The generation.
    pub generation: U64,
    /// Members that have it durable, the sender included; bit n: node n.
    pub holders: U32,
    /// Must be zero.
    pub reserved: U32,
    /// Per node, for the holders: incarnation and attach id of the disk that has it.
    pub disks: [DiskBody; NODES_MAX],
}

/// Which image of a disk a node has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiskBody {
    /// How often the disk was attached.
    pub incarnation: U64,
    /// Random id of its last attach.
    pub attach_id: U64,
}

/// Question and answer of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PromoteBody {
    /// The term asked for, or the highest one promised.
    pub term: U64,
    /// Answer: a [`crate::refusal::Refusal`], 0 when granted. Granted all the same: the sender has no objection and no vote.
    pub refusal: U32,
    /// Nodes that vote as far as the sender knows, bit `n` for node `n`; they must be the same on both sides.
    pub voters: U32,
}

/// Start of a bitmap packet's body; the words follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BitmapBody {
    /// Index of the first 64-bit word.
    pub first_word: U64,
    /// Number of words that follow.
    pub words: U32,
    /// Must be zero.
    pub reserved: U32,
}
