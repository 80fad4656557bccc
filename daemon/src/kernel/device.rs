// SPDX-License-Identifier: GPL-2.0-only

//! The control device `/dev/weft`: link offers come from it, node states go to it, accepted links are its children.

use super::sys;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use weft_uapi::control::{
    LinkAccept, LinkOffer, MessageHeader, NodeConnState, KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META,
    KERN_WITHDRAWN, MESSAGE_BYTES_MAX,
};
use zerocopy::{FromBytes, IntoBytes};

/// The module's end of things, so that tests can put another in its place.
pub trait ControlDevice {
    /// The descriptor that becomes readable when a message waits.
    fn fd(&self) -> RawFd;

    /// Takes one message into `buffer`, or `None` when there is none now.
    ///
    /// # Errors
    /// When the device is lost.
    fn receive(&mut self, buffer: &mut [u8; MESSAGE_BYTES_MAX]) -> io::Result<Option<usize>>;

    /// Tells which nodes are connected.
    ///
    /// # Errors
    /// As the device reports them.
    fn send(&mut self, state: &NodeConnState) -> io::Result<()>;

    /// Accepts an offered link; its descriptor is non-blocking.
    ///
    /// # Errors
    /// `ENOENT` when the offer is void, `EPROTO` when the ABI differs, `EBUSY` when it was accepted already.
    fn accept(&mut self, accept: &LinkAccept) -> io::Result<OwnedFd>;
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

    fn send(&mut self, state: &NodeConnState) -> io::Result<()> {
        self.0.write_all(state.as_bytes())
    }

    fn accept(&mut self, accept: &LinkAccept) -> io::Result<OwnedFd> {
        sys::link_accept(self.0.as_fd(), accept)
    }
}

/// The syntax check of a message that the module wrote: a known kind with exactly its length.
pub fn parse_offer(bytes: &[u8]) -> Option<LinkOffer> {
    let offer = LinkOffer::read_from_bytes(bytes).ok()?;
    let kind = offer.header.kind;
    let known = [KERN_HANDSHAKE_DATA, KERN_HANDSHAKE_META, KERN_WITHDRAWN].contains(&kind);
    let valid =
        known && offer.header == MessageHeader::of::<LinkOffer>(kind) && offer.reserved == 0;
    valid.then_some(offer)
}

pub(crate) use sys::set_io_flusher;
