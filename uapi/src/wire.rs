// SPDX-License-Identifier: GPL-2.0-only

//! Packets on the links between two modules. What follows what, and why, stands in `PROTOCOL.md`.
//!
//! Every packet is a [`Header`] of 64 bytes and `payload_len` bytes of payload. The payload is either *data* of the
//! device (up to [`PAYLOAD_BYTES_MAX`], see [`PacketKind::carries_data`]) or a *body*, a small struct or a page of a
//! bitmap (up to [`BODY_BYTES_MAX`]).

mod body;

pub use body::{
    AgeBody, BitmapBody, DiskBody, FullStateBody, GenerationBody, HelloBody, InForceBody,
    PromoteBody, StateAgesBody, StateBody, STATE_CRASHED, STATE_DISCARDS, STATE_FOUND,
    STATE_INCONSISTENT, STATE_INVALIDATED, STATE_INVALIDATES, STATE_LED, STATE_LEFT,
    STATE_NEWCOMER, STATE_OUTDATED, STATE_REPAIRS, STATE_STALLED,
};

use crate::crc32c::crc32c;
use crate::limits::{DISCARD_BYTES_MAX, PAYLOAD_BYTES_MAX, SECTOR_BYTES, VOLUMES_MAX};
use crate::state::states;
use crate::units::{Sector, Seq, Term, VolumeId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of every packet.
pub const PACKET_MAGIC: [u8; 4] = *b"WEFT";

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 64;

/// Largest body of a packet that does not carry data, in bytes.
pub const BODY_BYTES_MAX: u32 = 4096;

/// Volume number of packets that concern the whole resource.
pub const NO_VOLUME: u16 = u16::MAX;

states! {
    /// The two links of a session.
    LinkKind {
        /// Writes, reads, resync, generations: everything whose order matters.
        Data = 1 "data",
        /// Acknowledgements.
        Meta = 2 "meta",
    }
}

states! {
    /// Kind of a packet. Numbers below 64 travel on the data link, the others on the meta link; a hello on both.
    PacketKind {
        /// First packet on each link of a session ([`HelloBody`]).
        Hello = 1 "hello",
        /// What one side knows of a volume ([`StateBody`]); answered by nothing, both sides send one. `arg`: who left before
        /// the record, bit `n` for node `n`.
        State = 2 "state",
        /// Application write; `arg` is the [`crate::state::Protocol`], for [`PacketKind::Received`].
        Write = 16 "write",
        /// Application discard; `bytes` is the length. The range reads as zeros afterwards, on every replica alike.
        Discard = 17 "discard",
        /// Application write-zeroes; `bytes` is the length.
        WriteZeroes = 18 "write-zeroes",
        /// Make everything before `seq` (inclusive) stable and say so with [`PacketKind::Stable`].
        Flush = 19 "flush",
        /// Everything up to `seq` is stable on all members: forget it. With the ages that their disks have reached ([`AgeBody`]).
        Trim = 20 "trim",
        /// The sender's disk cannot read a block any more: what is in it? `seq` is its own number of the question.
        HealRequest = 21 "heal-request",
        /// Answer to that, with its `seq`; without payload the sender cannot tell, and `arg` is a [`RequestError`].
        HealData = 22 "heal-data",
        /// Read for a node without good local data; `seq` is its own number of the request.
        ReadRequest = 24 "read-request",
        /// Answer to a read request, with its `seq`; without payload it failed, and `arg` is a [`RequestError`].
        ReadReply = 25 "read-reply",
        /// Write of a client's application, to be carried out as one of the server's own; `seq` as in a read request.
        ClientWrite = 26 "client-write",
        /// Discard of a client's application; `bytes` is the length.
        ClientDiscard = 27 "client-discard",
        /// Write-zeroes of a client's application; `bytes` is the length.
        ClientWriteZeroes = 28 "client-write-zeroes",
        /// Flush of a client's application.
        ClientFlush = 29 "client-flush",
        /// Answer to the four before, with their `seq`; `arg` is 0 (done) or a [`RequestError`].
        ClientDone = 30 "client-done",
        /// The target asks for a range; `arg` is echoed.
        ResyncRequest = 32 "resync-request",
        /// The source sends a range.
        ResyncData = 33 "resync-data",
        /// The target owes nothing any more; everything is stable there.
        ResyncDone = 35 "resync-done",
        /// The sender wants resyncs with the receiver to wait ([`FLAG_YES`]), or does not any more.
        PauseSync = 36 "pause-sync",
        /// Asks how large a device the receiver's disk has room for, to its end as it is now. `seq` is the sender's number of
        /// the question.
        ResizeAsk = 37 "resize-ask",
        /// Answer to that, with its `seq`: `arg` is the number of sectors ([`FLAG_YES`]), or a [`crate::refusal::Refusal`].
        ResizeRoom = 38 "resize-room",
        /// The device has `arg` sectors from now on; with [`FLAG_YES`] the disks hold the same in what is new.
        ResizeTo = 39 "resize-to",
        /// A page of a bitmap ([`BitmapBody`] and the words).
        Bitmap = 40 "bitmap",
        /// The bitmap is complete; with [`FLAG_YES`] it is all ones, whatever was sent before.
        BitmapEnd = 41 "bitmap-end",
        /// To who orders the writes: compare the two disks from `sector` up to sector `arg`. With [`FLAG_YES`] what was found
        /// before still counts.
        VerifyOrder = 42 "verify-order",
        /// Answer to a verify order that is not followed: `arg` is a [`crate::refusal::Refusal`].
        VerifyRefused = 43 "verify-refused",
        /// The sender, who orders the writes, begins run `seq`: from `sector` up to sector `arg`. Flag as in a verify order.
        VerifyBegin = 44 "verify-begin",
        /// In run `seq`: a range as it is after all that was sent before this and before all that is sent later, as a
        /// [`Digest`]. Everything before sector `arg` was compared.
        VerifyDigest = 45 "verify-digest",
        /// In run `seq`: the receiver's range has that digest ([`FLAG_YES`]), or another one.
        VerifyResult = 46 "verify-result",
        /// Run `seq` is over; `arg` is a [`crate::state::VerifyState`].
        VerifyEnd = 47 "verify-end",
        /// A new generation record ([`GenerationBody`]); to be made durable and acknowledged. `arg` as in a state.
        Generation = 48 "generation",
        /// A record is durable at all its holders ([`InForceBody`]): among them nothing differs. With [`FLAG_YES`] a
        /// majority of the voters knows it.
        InForce = 49 "in-force",
        /// Tells a client which record is in force ([`InForceBody`]), and `term` its term: its holders have every write
        /// that was answered.
        Exposed = 50 "exposed",
        /// The sender has an application and no good data of its own: the receiver is to lead and to carry out its requests;
        /// with [`FLAG_FORCE`] because a person insists.
        ServeRequest = 51 "serve-request",
        /// Answer to a serve request: with [`FLAG_YES`] it is done, else `arg` is a [`crate::refusal::Refusal`].
        ServeReply = 52 "serve-reply",
        /// The sender needs no server any more, or serves no more; it answers nothing that was not answered before.
        ServeEnd = 53 "serve-end",
        /// `arg` is 1: the sender has an application that is served, or that waits for a server; 0: it has none any more.
        Claimed = 54 "claimed",
        /// A node wants to become primary ([`PromoteBody`]), with [`FLAG_FORCE`] because a person insists; `arg` is the
        /// node whose application it is for plus one, 0: its own.
        PromoteRequest = 56 "promote-request",
        /// Answer to a promote request ([`PromoteBody`]).
        PromoteReply = 57 "promote-reply",
        /// The sender is no longer primary.
        Demoted = 58 "demoted",
        /// The sender leads now; `arg` is a set of nodes, bit `n` for node `n`, whose applications it does it for.
        Promoted = 59 "promoted",
        /// To the primary: the sender wants to leave in order; with [`FLAG_FORCE`] whatever that costs. With [`FLAG_YES`] and a
        /// volume: it has on record that it left, and the newest record of that volume it knows is `arg`.
        Leave = 60 "leave",
        /// Answer to a leave: the record without the receiver is in force ([`FLAG_YES`]); else refused, with a
        /// [`crate::refusal::Refusal`] in `arg`, or to be put on record (0).
        LeaveReply = 61 "leave-reply",
        /// As a resync request, unless the source's range has this [`Digest`].
        ResyncDigest = 62 "resync-digest",
        /// The source's range has the digest that the target told, and is what the target has by then.
        ResyncEqual = 63 "resync-equal",

        /// `seq` is in memory (protocol B).
        Received = 64 "received",
        /// `seq` is on disk, perhaps in a volatile cache.
        Written = 65 "written",
        /// Everything up to `seq` is stable on disk, which has reached an age ([`AgeBody`]).
        Stable = 66 "stable",
        /// The generation `arg` is durable here.
        GenerationDurable = 68 "generation-durable",
        /// To a secondary: from the answer on it is not sent every write, as long as the decision of round `arg` counts. Answered
        /// with the same `arg` and [`FLAG_YES`] once the disk is on record as outdated.
        Outrun = 69 "outrun",
    }
}

states! {
    /// Why the request of a client failed.
    RequestError {
        /// A disk reported an error, and nobody else could help.
        Disk = 1 "disk",
        /// No up-to-date data can be reached.
        NoData = 2 "no-data",
        /// No majority of the voters.
        NoQuorum = 3 "no-quorum",
        /// Outside of the device.
        Range = 4 "range",
        /// The disk cannot do this operation.
        Unsupported = 5 "unsupported",
    }
}

/// What stands for the content of a range: the first bytes of its SHA-256.
pub type Digest = [u8; 16];

/// Bit of [`Header::flags`]: write through the cache to stable storage. Of a write, a discard or a write-zeroes; the
/// receiver honours it for each of them.
pub const FLAG_FUA: u16 = 1 << 0;
/// Bit of [`Header::flags`]: yes, in an answer (and of a [`PacketKind::BitmapEnd`]).
pub const FLAG_YES: u16 = 1 << 1;
/// Bit of [`Header::flags`]: the payload's CRC-32C is in `payload_crc`. Only with a payload.
pub const FLAG_CRC: u16 = 1 << 2;
/// Bit of [`Header::flags`]: a write-zeroes must not deallocate.
pub const FLAG_NO_UNMAP: u16 = 1 << 3;
/// Bit of [`Header::flags`]: a person takes it that what no connected disk has is lost.
pub const FLAG_FORCE: u16 = 1 << 4;
/// Bit of [`Header::flags`]: what was answered before has to be stable before this write begins. Of a client's write.
pub const FLAG_PREFLUSH: u16 = 1 << 5;

/// Header of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    kind: U16,
    flags: U16,
    volume: U16,
    reserved: U16,
    payload_len: U32,
    seq: U64,
    sector: U64,
    bytes: U32,
    payload_crc: U32,
    arg: U64,
    term: U64,
    reserved_tail: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

/// A header whose syntax was checked: kind known, ranges kept, reserved bits zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the packet is.
    pub kind: PacketKind,
    /// Bits `FLAG_*`.
    pub flags: u16,
    /// The volume concerned; `None`: the resource.
    pub volume: Option<VolumeId>,
    /// Bytes of payload that follow.
    pub payload_len: u32,
    /// Sequence number, see `PROTOCOL.md`.
    pub seq: Seq,
    /// Start of the range.
    pub sector: Sector,
    /// Length of the range in bytes, a multiple of 512.
    pub bytes: u32,
    /// CRC-32C of the payload when [`FLAG_CRC`] is set.
    pub payload_crc: u32,
    /// Depends on the kind.
    pub arg: u64,
    /// Term of the sender's generation.
    pub term: Term,
}

/// `arg` of [`PacketKind::PauseSync`]: a person wants resyncs to wait.
pub const PAUSE_PERSON: u64 = 0;

/// `arg` of [`PacketKind::PauseSync`]: they wait for those of another resource, and for nothing else.
pub const PAUSE_TURN: u64 = 1;

/// Why bytes are not a packet header. Each of them drops the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Wrong magic: the stream is out of step.
    Magic,
    /// The header's checksum does not fit.
    Checksum,
    /// Unknown kind.
    Kind,
    /// Reserved field set, or a flag that this kind does not have.
    Reserved,
    /// A length or a range out of its bounds.
    Range,
    /// A kind that does not belong on this link.
    Link,
}

impl PacketKind {
    /// Whether the payload is data of the device (then it is kept in pages) and not a body.
    pub const fn carries_data(self) -> bool {
        matches!(
            self,
            Self::Write | Self::HealData | Self::ReadReply | Self::ClientWrite | Self::ResyncData
        )
    }

    /// Whether the packet may come over this link.
    pub const fn belongs_on(self, link: LinkKind) -> bool {
        match link {
            LinkKind::Data => self.number() < 64,
            LinkKind::Meta => self.number() >= 64 || matches!(self, Self::Hello),
        }
    }

    /// Flags that mean something in a packet of this kind.
    const fn flags(self) -> u16 {
        let own = match self {
            Self::Write | Self::Discard => FLAG_FUA,
            Self::WriteZeroes => FLAG_FUA | FLAG_NO_UNMAP,
            Self::ClientWrite | Self::ClientDiscard => FLAG_FUA | FLAG_PREFLUSH,
            Self::ClientWriteZeroes => FLAG_FUA | FLAG_PREFLUSH | FLAG_NO_UNMAP,
            Self::BitmapEnd
            | Self::InForce
            | Self::PromoteReply
            | Self::ServeReply
            | Self::LeaveReply
            | Self::GenerationDurable
            | Self::Outrun
            | Self::PauseSync
            | Self::ResizeRoom
            | Self::ResizeTo
            | Self::VerifyOrder
            | Self::VerifyBegin
            | Self::VerifyResult => FLAG_YES,
            Self::Leave => FLAG_YES | FLAG_FORCE,
            Self::PromoteRequest | Self::ServeRequest => FLAG_FORCE,
            _ => 0,
        };
        own | FLAG_CRC
    }

    /// Largest range that a packet of this kind may name, in bytes.
    const fn range_bytes_max(self) -> u32 {
        match self {
            Self::Discard | Self::WriteZeroes | Self::ClientDiscard | Self::ClientWriteZeroes => {
                DISCARD_BYTES_MAX
            }
            _ => PAYLOAD_BYTES_MAX,
        }
    }
}

impl Header {
    /// A header of this kind with all other fields zero.
    pub const fn new(kind: PacketKind, volume: Option<VolumeId>) -> Self {
        Self {
            kind,
            flags: 0,
            volume,
            payload_len: 0,
            seq: Seq(0),
            sector: Sector(0),
            bytes: 0,
            payload_crc: 0,
            arg: 0,
            term: Term(0),
        }
    }

    /// The 64 bytes on the wire, with their checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = RawHeader {
            magic: PACKET_MAGIC,
            kind: U16::new(self.kind as u16),
            flags: U16::new(self.flags),
            volume: U16::new(self.volume.map_or(NO_VOLUME, |volume| volume.0)),
            reserved: U16::ZERO,
            payload_len: U32::new(self.payload_len),
            seq: U64::new(self.seq.0),
            sector: U64::new(self.sector.0),
            bytes: U32::new(self.bytes),
            payload_crc: U32::new(self.payload_crc),
            arg: U64::new(self.arg),
            term: U64::new(self.term.0),
            reserved_tail: U32::ZERO,
            header_crc: U32::ZERO,
        };
        raw.header_crc = U32::new(header_crc(raw.as_bytes()));
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Checks and decodes a header that came over `link`.
    pub fn parse(bytes: &[u8; HEADER_BYTES], link: LinkKind) -> Result<Self, HeaderError> {
        let raw = RawHeader::read_from_bytes(bytes).map_err(|_| HeaderError::Magic)?;
        if raw.magic != PACKET_MAGIC {
            return Err(HeaderError::Magic);
        }
        if raw.header_crc.get() != header_crc(bytes) {
            return Err(HeaderError::Checksum);
        }
        let kind = PacketKind::from_number(raw.kind.get().into()).ok_or(HeaderError::Kind)?;
        if !kind.belongs_on(link) {
            return Err(HeaderError::Link);
        }
        let has_payload = raw.payload_len.get() > 0;
        if raw.flags.get() & !kind.flags() != 0
            || (raw.flags.get() & FLAG_CRC != 0 && !has_payload)
            || raw.reserved.get() != 0
            || raw.reserved_tail.get() != 0
        {
            return Err(HeaderError::Reserved);
        }
        let header = Self {
            kind,
            flags: raw.flags.get(),
            volume: volume_of(raw.volume.get())?,
            payload_len: raw.payload_len.get(),
            seq: Seq(raw.seq.get()),
            sector: Sector(raw.sector.get()),
            bytes: raw.bytes.get(),
            payload_crc: raw.payload_crc.get(),
            arg: raw.arg.get(),
            term: Term(raw.term.get()),
        };
        if header.is_in_range() {
            Ok(header)
        } else {
            Err(HeaderError::Range)
        }
    }

    /// Whether lengths and range keep to their limits; whether the range lies on the device is the engine's to say.
    fn is_in_range(&self) -> bool {
        let payload_max = if self.kind.carries_data() {
            PAYLOAD_BYTES_MAX
        } else {
            BODY_BYTES_MAX
        };
        let data_fits =
            !self.kind.carries_data() || self.payload_len == 0 || self.payload_len == self.bytes;
        self.payload_len <= payload_max
            && data_fits
            && self.bytes <= self.kind.range_bytes_max()
            && self.bytes % SECTOR_BYTES == 0
            && self
                .sector
                .0
                .checked_add(u64::from(self.bytes / SECTOR_BYTES))
                .is_some()
    }
}

fn volume_of(number: u16) -> Result<Option<VolumeId>, HeaderError> {
    match number {
        NO_VOLUME => Ok(None),
        number if usize::from(number) < VOLUMES_MAX => Ok(Some(VolumeId(number))),
        _ => Err(HeaderError::Range),
    }
}

/// CRC-32C of all bytes of a raw header before its checksum, which stands last.
fn header_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes.get(..HEADER_BYTES - 4).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_of(kind: PacketKind) -> LinkKind {
        if kind.belongs_on(LinkKind::Data) {
            LinkKind::Data
        } else {
            LinkKind::Meta
        }
    }

    fn parsed(header: &Header) -> Result<Header, HeaderError> {
        Header::parse(&header.encode(), link_of(header.kind))
    }

    #[test]
    fn a_flag_is_taken_only_where_it_means_something() {
        use PacketKind::{
            BitmapEnd, ClientDiscard, ClientWrite, ClientWriteZeroes, Discard, GenerationDurable,
            InForce, Leave, LeaveReply, Outrun, PauseSync, PromoteReply, PromoteRequest,
            ResizeRoom, ResizeTo, ServeReply, ServeRequest, VerifyBegin, VerifyOrder, VerifyResult,
            Write, WriteZeroes,
        };
        let kinds_of = |flag| match flag {
            FLAG_FUA => &[
                Write,
                Discard,
                WriteZeroes,
                ClientWrite,
                ClientDiscard,
                ClientWriteZeroes,
            ][..],
            FLAG_YES => &[
                BitmapEnd,
                InForce,
                PromoteReply,
                ServeReply,
                GenerationDurable,
                Leave,
                LeaveReply,
                Outrun,
                PauseSync,
                ResizeRoom,
                ResizeTo,
                VerifyOrder,
                VerifyBegin,
                VerifyResult,
            ],
            FLAG_NO_UNMAP => &[WriteZeroes, ClientWriteZeroes],
            FLAG_FORCE => &[PromoteRequest, ServeRequest, Leave],
            FLAG_PREFLUSH => &[ClientWrite, ClientDiscard, ClientWriteZeroes],
            _ => &[],
        };
        for &kind in PacketKind::ALL {
            for bit in 0..16 {
                let mut header = Header::new(kind, Some(VolumeId(0)));
                header.flags = 1 << bit;
                let expected = if kinds_of(header.flags).contains(&kind) {
                    Ok(header)
                } else {
                    Err(HeaderError::Reserved)
                };
                assert_eq!(parsed(&header), expected, "{kind}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_checksum_needs_a_payload() {
        for &kind in PacketKind::ALL {
            let mut header = Header::new(kind, Some(VolumeId(0)));
            header.flags = FLAG_CRC;
            assert_eq!(parsed(&header), Err(HeaderError::Reserved), "{kind}");
            (header.payload_len, header.bytes) = (512, 512);
            assert_eq!(parsed(&header), Ok(header), "{kind}");
        }
    }

    #[test]
    fn a_packet_is_taken_from_its_own_link_only() {
        for &kind in PacketKind::ALL {
            let bytes = Header::new(kind, None).encode();
            for &link in LinkKind::ALL {
                let is_taken = Header::parse(&bytes, link).is_ok();
                assert_eq!(is_taken, kind.belongs_on(link), "{kind} on {link}");
            }
        }
    }

    #[test]
    fn ranges_and_lengths_out_of_their_bounds_are_no_header() {
        let write = |bytes, payload_len, sector| {
            let mut header = Header::new(PacketKind::Write, Some(VolumeId(0)));
            (header.bytes, header.payload_len) = (bytes, payload_len);
            header.sector = Sector(sector);
            parsed(&header).is_ok()
        };
        assert!(write(4096, 4096, 8));
        assert!(!write(4096, 512, 8), "less data than the range has");
        assert!(!write(100, 100, 8), "no whole sectors");
        let most = PAYLOAD_BYTES_MAX;
        assert!(write(most, most, 8));
        assert!(!write(most + 512, most + 512, 8), "too long");
        assert!(!write(512, 512, u64::MAX), "beyond all sectors");
    }
}
