// SPDX-License-Identifier: GPL-2.0-only

//! Everything that the engine wants done.

use crate::event::{Cookie, Io, Kept, Token};
use crate::host::Host;
use core::fmt;
use weft_uapi::ondisk::{Layout, MetaBlock};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, SessionId, VolumeId};
use weft_uapi::wire::{Header, LinkKind, RequestError};

/// One output of the engine.
pub enum Effect<'a, H: Host> {
    /// Do this on the local disk and answer with [`crate::event::Event::DiskDone`].
    Disk {
        /// The volume.
        volume: VolumeId,
        /// For the answer.
        cookie: Cookie,
        /// What to do; `preflush` is never set.
        io: Io,
        /// Where the data are.
        data: Data<H>,
    },
    /// Write a metadata block and answer with [`crate::event::Event::MetaDone`].
    Meta {
        /// The volume.
        volume: VolumeId,
        /// For the answer.
        cookie: Cookie,
        /// First sector on the metadata device.
        sector: Sector,
        /// The content; to be copied during the call.
        block: &'a MetaBlock,
        /// Everything completed on *both* the data disk and the metadata device before must be stable before this is
        /// written, and this must be stable when it is answered.
        flush: bool,
    },
    /// Queue a packet on a link; never refused. Sends of one link keep their order.
    Send {
        /// The peer.
        peer: NodeId,
        /// The session; if it is over, the packet is dropped.
        session: SessionId,
        /// Which link.
        link: LinkKind,
        /// Header; the host fills in `payload_len`, `payload_crc` and the CRC flag when there is data.
        header: Header,
        /// Payload of kinds that do not carry data; to be copied during the call.
        body: &'a [u8],
        /// Payload of kinds that do.
        data: Data<H>,
    },
    /// Complete a request of the application, exactly once.
    Complete {
        /// The request.
        request: H::Request,
        /// Whether it worked.
        result: Result<(), IoError>,
        /// For a read that a peer answered: the data to copy into it.
        data: Option<H::Buffer>,
    },
    /// Offer the data and the meta link of a new session to the daemon.
    Offer {
        /// The peer.
        peer: NodeId,
        /// This side's number of the session.
        session: SessionId,
    },
    /// Close both links of a session or withdraw its offer. No [`crate::event::Event::SessionDown`] follows.
    EndSession {
        /// The peer.
        peer: NodeId,
        /// The session.
        session: SessionId,
    },
    /// Answer a command.
    Reply {
        /// From the command.
        token: Token,
        /// Done, or refused.
        result: Result<(), Refused<'a>>,
    },
    /// The device of a volume may be used, or not. `Ok` counts until [`crate::event::Event::Close`].
    Opened {
        /// The volume.
        volume: VolumeId,
        /// Whether it may; the log says more about a refusal that was waited for.
        result: Result<(), Refusal>,
    },
    /// A close is done; if it was the last one, this node is primary only if that was ordered, or if it takes long to change.
    Closed {
        /// The volume.
        volume: VolumeId,
    },
    /// The size of the device changed: [`crate::Engine::volume_info`] has it.
    Capacity {
        /// The volume.
        volume: VolumeId,
    },
    /// Look how large the disk and its metadata device are now, and answer with [`crate::event::Event::Measured`].
    Measure {
        /// The volume.
        volume: VolumeId,
        /// For the answer.
        attach_id: u64,
        /// Where its metadata are, for [`crate::room::Room::find`].
        layout: Layout,
    },
    /// Nothing uses the disk any more: close it.
    CloseDisk {
        /// The volume.
        volume: VolumeId,
    },
    /// On a tie-breaker: answer with [`crate::event::Event::Recalled`]. Asked again until then.
    Recall {
        /// The volume.
        volume: VolumeId,
    },
    /// On a tie-breaker: make this durable instead of what was kept before, and answer with
    /// [`crate::event::Event::Kept`]. Asked again until then.
    Keep {
        /// The volume.
        volume: VolumeId,
        /// For the answer; a later one replaces an earlier one.
        number: u64,
        /// What to keep.
        kept: Kept,
    },
    /// Make sure that a peer out of reach does not go on by itself, and answer with
    /// [`crate::event::Event::Fenced`]. Asked again until then, with the same number.
    Fence {
        /// The peer.
        peer: NodeId,
        /// For the answer.
        number: u64,
    },
    /// Something visible in the status changed: send an event.
    Notify(Object),
    /// A line for the kernel log; also the text of the next [`Effect::Notify`].
    Log {
        /// How bad it is.
        level: Level,
        /// The line without prefix.
        line: fmt::Arguments<'a>,
    },
}

/// Where the data of an operation are.
pub enum Data<H: Host> {
    /// There are none: a flush, a discard, or a read whose buffer the host allocates.
    None,
    /// In the application's request (all of it).
    Request(H::Request),
    /// In a buffer.
    Buffer(H::Buffer),
}

impl<H: Host> Clone for Data<H> {
    fn clone(&self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Request(request) => Self::Request(request.clone()),
            Self::Buffer(buffer) => Self::Buffer(buffer.clone()),
        }
    }
}

/// Why a request of the application failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// The disk reported an error and no peer could help.
    Disk,
    /// No up-to-date data can be reached, or this node is not primary.
    NoData,
    /// No majority of the voters knows the current generation, or one went on without this node.
    NoQuorum,
    /// Outside of the device.
    Range,
    /// The lower disk cannot do this operation.
    Unsupported,
}

impl From<RequestError> for IoError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Disk => Self::Disk,
            RequestError::NoData => Self::NoData,
            RequestError::NoQuorum => Self::NoQuorum,
            RequestError::Range => Self::Range,
            RequestError::Unsupported => Self::Unsupported,
        }
    }
}

impl From<IoError> for RequestError {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Disk => Self::Disk,
            IoError::NoData => Self::NoData,
            IoError::NoQuorum => Self::NoQuorum,
            IoError::Range => Self::Range,
            IoError::Unsupported => Self::Unsupported,
        }
    }
}

/// A refusal with what the sentence in the table cannot say.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The code.
    pub refusal: Refusal,
    /// The object and the numbers concerned; may be empty.
    pub detail: fmt::Arguments<'a>,
}

/// An object of the status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// The resource itself.
    Resource,
    /// A volume.
    Volume(VolumeId),
    /// A peer.
    Peer(NodeId),
    /// A volume towards a peer.
    PeerVolume(NodeId, VolumeId),
}

/// Severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// A normal change.
    Info,
    /// Something a person should look at.
    Warn,
    /// Data are at stake.
    Error,
}
