// SPDX-License-Identifier: GPL-2.0-only

//! The control device `/dev/weft`: link offers come from it, node states go to it, accepted links are its children.

use super::sys;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use weft_uapi::control::{
    Fence, LinkAccept, LinkCarried, LinkOffer, Memory, MessageHeader, KERN_FENCE,
    KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META, KERN_KEEP, KERN_RECALL, KERN_WITHDRAWN,
    MESSAGE_BYTES_MAX,
};
use zerocopy::FromBytes;

/// The module's end of things, so that tests can put another in its place.
pub trait ControlDevice {
    /// The descriptor that becomes readable when a message waits.
    fn fd(&self) -> RawFd;

    /// Takes whole messages into `buffer` and returns their bytes' number, or `None` when there is none now.
    ///
    /// # Errors
    /// When the device is lost.
    fn receive(&mut self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> io::Result<Option<usize>>;

    /// Tells the module one whole message.
    ///
    /// # Errors
    /// As the device reports them.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Accepts an offered link.
    ///
    /// # Errors
    /// `ENOENT` when the offer is void, `EPROTO` when the ABI differs, `EBUSY` when it was accepted already.
    fn accept(&mut self, accept: &LinkAccept) -> io::Result<OwnedFd>;

    /// Ties an accepted link to its connection, on which nobody else sends and receives from now on.
    ///
    /// # Errors
    /// When the module does not take the connection.
    fn tie(&mut self, link: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> io::Result<()>;

    /// Has a tied link send and take as much as goes at once.
    ///
    /// # Errors
    /// `EPIPE` when the session is over, `EPROTO` when the peer sent what is no packet, and those of the connection.
    fn carry(&mut self, link: BorrowedFd<'_>) -> io::Result<LinkCarried>;
}

/// The real one.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device and becomes its owner.
    ///
    /// # Errors
    /// `NotFound` when the module is not loaded, `EBUSY` when another process owns it.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(path)
            .map(Self)
    }
}

impl ControlDevice for Device {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn receive(&mut self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> io::Result<Option<usize>> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.write_all(message)
    }

    fn accept(&mut self, accept: &LinkAccept) -> io::Result<OwnedFd> {
        sys::link_accept(self.0.as_fd(), accept)
    }

    fn tie(&mut self, link: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> io::Result<()> {
        sys::link_tie(link, connection)
    }

    fn carry(&mut self, link: BorrowedFd<'_>) -> io::Result<LinkCarried> {
        sys::link_carry(link)
    }
}

/// A message of the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// A link is offered, or withdrawn.
    Offer(LinkOffer),
    /// A tie-breaker's module wants something kept, or handed back.
    Memory(Memory),
    /// A peer is to be fenced.
    Fence(Fence),
}

/// The messages in what the device gave. `Err` stands for the rest of the bytes, which are no message that is known here.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Message, usize>> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = rest.len();
        if length == 0 {
            return None;
        }
        let message = MessageHeader::read_from_prefix(rest).ok();
        let message = message.and_then(|(header, _)| rest.split_at_checked(header.length as usize));
        let Some(message) = message.and_then(|(message, after)| {
            rest = after;
            parse(message)
        }) else {
            rest = &[];
            return Some(Err(length));
        };
        Some(Ok(message))
    })
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let memory = || Memory::parse(bytes, &[KERN_RECALL, KERN_KEEP]).map(Message::Memory);
    let fence = || Fence::parse(bytes, KERN_FENCE).map(Message::Fence);
    let offer = parse_offer(bytes).map(Message::Offer);
    offer.or_else(memory).or_else(fence)
}

/// The syntax check of one offer: a known kind with exactly its length.
fn parse_offer(bytes: &[u8]) -> Option<LinkOffer> {
    let offer = LinkOffer::read_from_bytes(bytes).ok()?;
    let kind = offer.header.kind;
    let known = [KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META, KERN_WITHDRAWN].contains(&kind);
    let valid =
        known && offer.header == MessageHeader::of::<LinkOffer>(kind) && offer.reserved == 0;
    valid.then_some(offer)
}

pub(crate) use sys::set_io_flusher;

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::control::padded_name;
    use zerocopy::IntoBytes;

    fn offer(kind: u32) -> LinkOffer {
        LinkOffer {
            header: MessageHeader::of::<LinkOffer>(kind),
            abi: 1,
            peer: 1,
            offer: 2,
            session: 3,
            node: 0,
            reserved: 0,
            resource: padded_name("r0").unwrap(),
        }
    }

    #[test]
    fn several_messages_of_one_read_are_told_apart() {
        let all = [KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META].map(offer);
        let bytes = [all[0].as_bytes(), all[1].as_bytes()].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read, all.map(Message::Offer).map(Ok));
    }

    #[test]
    fn what_is_no_message_ends_the_reading_and_never_panics() {
        let good = offer(KERN_WITHDRAWN);
        for length in [0, 1, 7, 8, 103, 105, u32::MAX] {
            let mut bad = good;
            bad.header.length = length;
            let bytes = [good.as_bytes(), bad.as_bytes()].concat();
            let read: Vec<_> = messages(&bytes).collect();
            assert_eq!(
                read,
                [Ok(Message::Offer(good)), Err(size_of::<LinkOffer>())],
                "length {length}"
            );
        }
        let mut unknown = good;
        unknown.header.kind = 99;
        assert_eq!(messages(unknown.as_bytes()).count(), 1);
        let cut = &good.as_bytes()[..5];
        assert_eq!(messages(cut).collect::<Vec<_>>(), [Err(5)]);
    }
}
