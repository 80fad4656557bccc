// SPDX-License-Identifier: GPL-2.0-only

//! Messages on the control device `/dev/weft`, between the module and the daemon that owns it.
//!
//! Opening it needs CAP_NET_ADMIN in the initial user namespace. `read(2)` returns one whole message; a buffer too small
//! for the next message fails with `EINVAL` ([`MESSAGE_BYTES_MAX`] always suffices), one that is not memory loses it.
//! Offers are level-triggered: whoever opens the device is told every open offer again. `write(2)` takes one whole
//! message. Integers are in the machine's byte order.

use crate::limits::{NAME_MAX, NODES_MAX, VOLUMES_MAX};
use crate::ondisk::RawGeneration;
use zerocopy::FromBytes;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A message is never longer than this, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256;

/// Path of the control device.
pub const CONTROL_DEVICE: &str = "/dev/weft";

/// Module → daemon: a data link waits to be accepted ([`LinkOffer`]).
pub const KERN_HANDSHAKE_DATA: u32 = 1;
/// Module → daemon: a meta link waits to be accepted ([`LinkOffer`]).
pub const KERN_HANDSHAKE_META: u32 = 2;
/// Module → daemon: an offer is void, its session is over or not wanted any more ([`LinkOffer`]).
pub const KERN_WITHDRAWN: u32 = 3;
/// Module → daemon, on a tie-breaker: hand back what is kept of a volume ([`Memory`]). Asked again until it is answered.
pub const KERN_RECALL: u32 = 4;
/// Module → daemon, on a tie-breaker: keep this of a volume ([`Memory`]). Asked again until it is answered.
pub const KERN_KEEP: u32 = 5;
/// Module → daemon: run the fence-peer handler for a peer ([`Fence`]). Asked again until it is answered.
pub const KERN_FENCE: u32 = 6;
/// Daemon → module: which nodes the daemon is connected with ([`NodeConnState`]).
pub const NODE_CONN_STATE: u32 = 16;
/// Daemon → module: the answer to [`KERN_RECALL`] ([`Memory`]); all zeros if nothing was ever kept.
pub const RECALLED: u32 = 17;
/// Daemon → module: what came with this number is on disk ([`Memory`]).
pub const KEPT: u32 = 18;
/// Daemon → module: what the fence-peer handler said ([`Fence`]).
pub const FENCED: u32 = 19;

/// A daemon that writes no message for this long, in milliseconds, counts as hung: the sessions whose links it has
/// accepted end as if it had closed them. It writes a [`NodeConnState`] several times as often.
pub const DAEMON_SILENCE_MS_MAX: u32 = 20_000;

/// First bytes of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    /// One of the numbers above.
    pub kind: u32,
    /// Length of the whole message with this header, in bytes.
    pub length: u32,
}

/// The module offers one link of a peer, or withdraws both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkOffer {
    /// [`KERN_HANDSHAKE_DATA`], [`KERN_HANDSHAKE_META`] or [`KERN_WITHDRAWN`].
    pub header: MessageHeader,
    /// [`crate::version::CONTROL_ABI`] of the module.
    pub abi: u32,
    /// Node id of the peer.
    pub peer: u32,
    /// Number of the offer, for [`LinkAccept::offer`]; never reused. 0 when withdrawn.
    pub offer: u64,
    /// This side's number of the session that both links of the peer belong to.
    pub session: u64,
    /// This node's id in the resource.
    pub node: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Name of the resource, padded with zeros.
    pub resource: [u8; NAME_MAX + 1],
}

/// Which nodes are connected, level-triggered: sent on every change and on a slow period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeConnState {
    /// [`NODE_CONN_STATE`].
    pub header: MessageHeader,
    /// Grows with every message of one daemon; an older one that comes late is ignored.
    pub epoch: u64,
    /// Bit `n`: the daemon of node `n` answers.
    pub connected: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Name of the resource it is about, padded with zeros; all zeros means all resources.
    pub resource: [u8; NAME_MAX + 1],
}

/// What a tie-breaker has to know after a restart: its daemon keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Memory {
    /// [`KERN_RECALL`], [`KERN_KEEP`], [`RECALLED`] or [`KEPT`].
    pub header: MessageHeader,
    /// Volume number.
    pub volume: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Grows with every [`KERN_KEEP`] of a volume; repeated in [`KEPT`].
    pub number: u64,
    /// The highest term promised to anybody.
    pub promised_term: u64,
    /// The newest generation record that it knows.
    pub generation: RawGeneration,
    /// Name of the resource, padded with zeros.
    pub resource: [u8; NAME_MAX + 1],
}

/// A peer to be fenced, or what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fence {
    /// [`KERN_FENCE`] or [`FENCED`].
    pub header: MessageHeader,
    /// Node id of the peer.
    pub peer: u32,
    /// [`crate::state::FenceOutcome`]; 0 in a question.
    pub outcome: u32,
    /// Number of the question, repeated in the answer.
    pub number: u64,
    /// Name of the resource, padded with zeros.
    pub resource: [u8; NAME_MAX + 1],
}

/// Argument of [`LINK_ACCEPT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkAccept {
    /// [`crate::version::CONTROL_ABI`] of the daemon.
    pub abi: u32,
    /// [`KERN_HANDSHAKE_DATA`] or [`KERN_HANDSHAKE_META`]: the acknowledged message.
    pub kind: u32,
    /// [`LinkOffer::offer`].
    pub offer: u64,
    /// The peer side's session number, as its daemon told it.
    pub peer_session: u64,
}

/// `_IOW('w', 1, LinkAccept)` of the control device: acknowledges an offer and returns the link's file descriptor
/// (close-on-exec), which ends the session when it is closed. It polls as writable when [`LINK_CARRY`] may get on, and as hung
/// up when the session is over. Errors: `ENOENT` offer void, `EPROTO` other ABI, `EBUSY` accepted already, `EINVAL`.
pub const LINK_ACCEPT: u32 = ioctl::<LinkAccept>(1, WRITES);

/// `_IOW('w', 2, u32)` of a link: ties it to a connection, a descriptor of a connected TCP socket. From then on the module sends and
/// receives on it, and nobody else may. Errors: `EBUSY` tied already, `EPROTOTYPE` no TCP socket, `EBADF`, `ENOTSOCK`.
pub const LINK_TIE: u32 = ioctl::<u32>(2, WRITES);

/// `_IOR('w', 3, LinkCarried)` of a link that is tied: sends what is queued and takes what has come, as far as that goes at
/// once. To be called whenever the link or the connection reports that it is ready. Errors: `EPIPE` the session is over,
/// `EPROTO` the peer sent what is no packet, `ENOTCONN` not tied, and those of the connection.
pub const LINK_CARRY: u32 = ioctl::<LinkCarried>(3, READS);

/// Result of [`LINK_CARRY`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LinkCarried {
    /// Bytes that the connection has taken since it was tied.
    pub sent: u64,
    /// Bytes that came from it since then.
    pub received: u64,
    /// Bits `CARRIED_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// There is more to take: call again when others have had their turn.
pub const CARRIED_MORE: u32 = 1 << 0;
/// The peer has closed the connection, and all that came before was taken.
pub const CARRIED_CLOSED: u32 = 1 << 1;

/// Direction of an ioctl's argument, seen from the caller, as in `asm-generic/ioctl.h`.
const WRITES: u32 = 1;
const READS: u32 = 2;

/// Number of an ioctl with an argument `T`.
const fn ioctl<T>(number: u32, direction: u32) -> u32 {
    (direction << 30) | ((size_of::<T>() as u32) << 16) | ((b'w' as u32) << 8) | number
}

const _: () = assert!(
    size_of::<LinkOffer>() <= MESSAGE_BYTES_MAX
        && size_of::<NodeConnState>() <= MESSAGE_BYTES_MAX
        && size_of::<Memory>() <= MESSAGE_BYTES_MAX
        && size_of::<Fence>() <= MESSAGE_BYTES_MAX
);
const _: () = assert!(NODES_MAX <= 32, "NodeConnState::connected is a u32");

impl MessageHeader {
    /// A header for a message of type `T`.
    pub const fn of<T>(kind: u32) -> Self {
        Self {
            kind,
            length: size_of::<T>() as u32,
        }
    }
}

impl NodeConnState {
    /// Checks the syntax of a message that the daemon wrote: exact length, kind, reserved bytes, a terminated name.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Self::read_from_bytes(bytes).ok()?;
        let valid = message.header == MessageHeader::of::<Self>(NODE_CONN_STATE)
            && message.reserved == 0
            && message.resource.last() == Some(&0);
        valid.then_some(message)
    }
}

impl Memory {
    /// Checks the syntax of a message of one of these kinds: exact length, reserved bytes, a terminated name.
    pub fn parse(bytes: &[u8], kinds: &[u32]) -> Option<Self> {
        let message = Self::read_from_bytes(bytes).ok()?;
        let kind = message.header.kind;
        let valid = kinds.contains(&kind)
            && message.header == MessageHeader::of::<Self>(kind)
            && message.reserved == 0
            && (message.volume as usize) < VOLUMES_MAX
            && message.resource.last() == Some(&0);
        valid.then_some(message)
    }
}

impl Fence {
    /// Checks the syntax of a message of this kind: exact length, a node id, a terminated name.
    pub fn parse(bytes: &[u8], kind: u32) -> Option<Self> {
        let message = Self::read_from_bytes(bytes).ok()?;
        let valid = message.header == MessageHeader::of::<Self>(kind)
            && (message.peer as usize) < NODES_MAX
            && message.resource.last() == Some(&0);
        valid.then_some(message)
    }
}

/// `name` padded with zeros, or `None` when it is longer than [`NAME_MAX`] or holds a zero byte.
pub fn padded_name(name: &str) -> Option<[u8; NAME_MAX + 1]> {
    let mut padded = [0; NAME_MAX + 1];
    if name.len() > NAME_MAX || name.as_bytes().contains(&0) {
        return None;
    }
    padded
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(padded)
}

/// The name in a zero-padded field, or `None` when it is not UTF-8 or not terminated.
pub fn name_of(padded: &[u8]) -> Option<&str> {
    let end = padded.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(padded.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromZeros, IntoBytes};

    #[test]
    fn a_name_survives_its_padded_field() {
        assert_eq!(name_of(&padded_name("r0").unwrap()), Some("r0"));
        assert!(padded_name(&"x".repeat(NAME_MAX + 1)).is_none());
    }

    #[test]
    fn a_memory_of_another_kind_or_length_is_no_message() {
        let mut memory = Memory {
            header: MessageHeader::of::<Memory>(KEPT),
            ..Memory::new_zeroed()
        };
        assert_eq!(Memory::parse(memory.as_bytes(), &[KEPT]), Some(memory));
        assert_eq!(Memory::parse(memory.as_bytes(), &[RECALLED]), None);
        assert_eq!(Memory::parse(&memory.as_bytes()[1..], &[KEPT]), None);
        memory.volume = VOLUMES_MAX as u32;
        assert_eq!(Memory::parse(memory.as_bytes(), &[KEPT]), None);
    }

    #[test]
    fn a_connection_state_with_reserved_bits_is_no_message() {
        let mut state = NodeConnState {
            header: MessageHeader::of::<NodeConnState>(NODE_CONN_STATE),
            epoch: 1,
            connected: 2,
            reserved: 0,
            resource: [0; NAME_MAX + 1],
        };
        assert_eq!(NodeConnState::parse(state.as_bytes()), Some(state));
        state.reserved = 1;
        assert_eq!(NodeConnState::parse(state.as_bytes()), None);
    }
}
