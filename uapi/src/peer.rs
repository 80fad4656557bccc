// SPDX-License-Identifier: GPL-2.0-only

//! What two daemons say to each other before a TCP connection becomes a control channel or carries a link.
//!
//! The dialling side sends a [`Hello`], the accepting side answers with a [`HelloReply`]. On a control channel
//! [`Frame`]s follow; on a data or meta channel every further byte belongs to the link and is never looked at.

use crate::crc32c::crc32c;
use crate::limits::NAME_MAX;
use crate::state::states;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of a [`Hello`].
pub const HELLO_MAGIC: [u8; 8] = *b"weftHELO";
/// First bytes of a [`HelloReply`].
pub const REPLY_MAGIC: [u8; 8] = *b"weftRPLY";
/// First bytes of a [`Frame`].
pub const FRAME_MAGIC: [u8; 4] = *b"wfFR";

states! {
    /// What a connection is for.
    Channel {
        /// Between the daemons: heartbeats.
        Control = 1 "control",
        /// Carries the data link of one resource.
        Data = 2 "data",
        /// Carries the meta link of one resource.
        Meta = 3 "meta",
    }
}

states! {
    /// Answer to a hello.
    Verdict {
        /// Go on.
        Welcome = 1 "welcome",
        /// No common protocol version; the reply names ours.
        Version = 2 "version",
        /// Another cluster id.
        Cluster = 3 "cluster",
        /// The node id is not one of the configured peers, or the hello was meant for another node.
        Identity = 4 "identity",
        /// The resource is not configured here, or its module side offers no link now; try again later.
        NotReady = 5 "not-ready",
        /// A channel of that kind exists already.
        Duplicate = 6 "duplicate",
    }
}

/// First message of the dialling side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`HELLO_MAGIC`].
    pub magic: [u8; 8],
    /// Highest protocol version spoken.
    pub version: U16,
    /// Lowest protocol version spoken.
    pub version_min: U16,
    /// [`Channel`].
    pub channel: U16,
    /// Must be zero.
    pub reserved: U16,
    /// Feature bits of [`crate::version`].
    pub features: U64,
    /// First eight bytes of the SHA-256 of the cluster's name.
    pub cluster: U64,
    /// Random id of the sending machine's boot.
    pub boot: U64,
    /// Node id of the sender.
    pub from: U32,
    /// Node id of the node that is meant.
    pub to: U32,
    /// Data and meta channels: the sender's number of the session; else 0.
    pub session: U64,
    /// Data and meta channels: name of the resource; else zeros.
    pub resource: [u8; NAME_MAX + 1],
    /// CRC-32C of all bytes before it.
    pub crc: U32,
    /// Must be zero.
    pub tail: U32,
}

/// Answer of the accepting side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloReply {
    /// [`REPLY_MAGIC`].
    pub magic: [u8; 8],
    /// [`Verdict`].
    pub verdict: U16,
    /// Highest protocol version spoken.
    pub version: U16,
    /// Lowest protocol version spoken.
    pub version_min: U16,
    /// Must be zero.
    pub reserved: U16,
    /// Feature bits that both sides know.
    pub features: U64,
    /// Random id of the answering machine's boot.
    pub boot: U64,
    /// Data and meta channels: the answering side's number of the session; else 0.
    pub session: U64,
    /// CRC-32C of all bytes before it.
    pub crc: U32,
    /// Must be zero.
    pub tail: U32,
}

states! {
    /// Kind of a [`Frame`].
    FrameKind {
        /// Are you there? `stamp` comes back in the pong.
        Ping = 1 "ping",
        /// Yes.
        Pong = 2 "pong",
        /// The sender stops in good order.
        Bye = 3 "bye",
    }
}

/// One message on a control channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// [`FRAME_MAGIC`].
    pub magic: [u8; 4],
    /// [`FrameKind`].
    pub kind: U16,
    /// Must be zero.
    pub reserved: U16,
    /// The pinging side's clock in nanoseconds, opaque to the other.
    pub stamp: U64,
    /// Seconds since the sending daemon was started.
    pub uptime: U32,
    /// CRC-32C of all bytes before it.
    pub crc: U32,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Wrong length or magic.
    Foreign,
    /// The checksum does not fit.
    Checksum,
    /// A number out of its range, or a reserved field that is not zero.
    Field,
}

/// Checks length, magic and checksum of a message whose last `tail` bytes are the checksum and what follows it.
fn checked<T: FromBytes + Immutable + KnownLayout>(
    bytes: &[u8],
    magic: &[u8],
    tail: usize,
) -> Result<T, ParseError> {
    let message = T::read_from_bytes(bytes).map_err(|_| ParseError::Foreign)?;
    if !bytes.starts_with(magic) {
        return Err(ParseError::Foreign);
    }
    let (body, rest) = bytes
        .len()
        .checked_sub(tail)
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(ParseError::Foreign)?;
    match rest.first_chunk::<4>() {
        Some(crc) if u32::from_le_bytes(*crc) == crc32c(body) => Ok(message),
        _ => Err(ParseError::Checksum),
    }
}

fn sum<T: IntoBytes + Immutable>(message: &T, tail: usize) -> U32 {
    let bytes = message.as_bytes();
    U32::new(crc32c(
        bytes.get(..bytes.len().saturating_sub(tail)).unwrap_or(&[]),
    ))
}

impl Hello {
    /// The message with its checksum.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc = sum(&self, 8);
        self
    }

    /// Checks the syntax of exactly one hello.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let hello: Self = checked(bytes, &HELLO_MAGIC, 8)?;
        let valid = Channel::from_number(hello.channel.get().into()).is_some()
            && hello.version_min.get() <= hello.version.get()
            && hello.reserved.get() == 0
            && hello.tail.get() == 0
            && hello.resource.last() == Some(&0);
        if valid {
            Ok(hello)
        } else {
            Err(ParseError::Field)
        }
    }
}

impl HelloReply {
    /// The message with its checksum.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc = sum(&self, 8);
        self
    }

    /// Checks the syntax of exactly one reply.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let reply: Self = checked(bytes, &REPLY_MAGIC, 8)?;
        let valid = Verdict::from_number(reply.verdict.get().into()).is_some()
            && reply.reserved.get() == 0
            && reply.tail.get() == 0;
        if valid {
            Ok(reply)
        } else {
            Err(ParseError::Field)
        }
    }
}

impl Frame {
    /// The message with its checksum.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc = sum(&self, 4);
        self
    }

    /// Checks the syntax of exactly one frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let frame: Self = checked(bytes, &FRAME_MAGIC, 4)?;
        let valid =
            FrameKind::from_number(frame.kind.get().into()).is_some() && frame.reserved.get() == 0;
        if valid {
            Ok(frame)
        } else {
            Err(ParseError::Field)
        }
    }
}

const _: () =
    assert!(size_of::<Hello>() == 128 && size_of::<HelloReply>() == 48 && size_of::<Frame>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::padded_name;

    fn hello() -> Hello {
        Hello {
            magic: HELLO_MAGIC,
            version: 1.into(),
            version_min: 1.into(),
            channel: 2.into(),
            reserved: 0.into(),
            features: 1.into(),
            cluster: 5.into(),
            boot: 6.into(),
            from: 0.into(),
            to: 1.into(),
            session: 9.into(),
            resource: padded_name("r0").unwrap(),
            crc: 0.into(),
            tail: 0.into(),
        }
        .sealed()
    }

    #[test]
    fn a_sealed_hello_is_read_back() {
        assert_eq!(Hello::parse(hello().as_bytes()), Ok(hello()));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let good = hello();
        for at in 0..size_of::<Hello>() {
            let mut bytes = [0; size_of::<Hello>()];
            bytes.copy_from_slice(good.as_bytes());
            bytes[at] ^= 1;
            assert!(Hello::parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_cut_hello_is_refused() {
        assert_eq!(
            Hello::parse(&hello().as_bytes()[..127]),
            Err(ParseError::Foreign)
        );
    }
}
