// SPDX-License-Identifier: GPL-2.0-only

//! Assembles the packets of one link from bytes that may be cut anywhere.

use super::stream::{Stop, Stream};
use super::DownReason;
use crate::sys::pages::{PageBuf, PageReserve, Payload};
use core::mem;
use kernel::{prelude::*, sync::Arc};
use weft_uapi::crc32c::crc32c;
use weft_uapi::wire::{Header, HeaderError, LinkKind, BODY_BYTES_MAX, FLAG_CRC, HEADER_BYTES};

/// Why bytes are no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveError {
    /// The header is not one.
    Header(HeaderError),
    /// The payload's checksum does not fit.
    PayloadChecksum,
}

impl ReceiveError {
    /// A short sentence for people.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Header(HeaderError::Magic) => "the peer's packets are out of step",
            Self::Header(HeaderError::Checksum) => {
                "a packet header of the peer has a wrong checksum"
            }
            Self::Header(HeaderError::Kind) => "the peer sent a packet of an unknown kind",
            Self::Header(HeaderError::Reserved) => "the peer sent a packet with reserved bits set",
            Self::Header(HeaderError::Range) => {
                "the peer sent a packet with a length or range out of bounds"
            }
            Self::Header(HeaderError::Link) => "the peer sent a packet on the wrong link",
            Self::PayloadChecksum => "data of the peer have a wrong checksum",
        }
    }
}

/// Why nothing is received any more.
pub(super) enum Halt {
    /// There are no bytes.
    Stopped(Stop),
    /// The session cannot go on.
    Broken(DownReason),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

impl From<DownReason> for Halt {
    fn from(reason: DownReason) -> Self {
        Self::Broken(reason)
    }
}

/// What a call of [`Receiver::take`] led to.
pub(super) enum Progress {
    /// A packet is complete. The payload of kinds that do not carry data is in [`Receiver::body`] until the next call.
    Packet(Header, Option<Payload>),
    /// More bytes are needed.
    Partial,
    /// There is no memory for data now.
    Lacking,
}

/// Where the payload of the current packet goes.
enum Target {
    Body,
    Data(PageBuf),
}

/// What the next byte belongs to.
enum Stage {
    Header,
    /// Data, for which memory is still to be had.
    Unplaced(Header),
    Payload {
        header: Header,
        target: Target,
    },
}

/// The receiving half of a link.
///
/// It never waits for memory: that would be a thread of the daemon, on which whoever has the memory may wait. Data have a
/// reserve of the link's own, so that they always come back without another link's doing.
pub(super) struct Receiver {
    link: LinkKind,
    /// None on the meta link, which carries no data.
    reserve: Option<Arc<PageReserve>>,
    stage: Stage,
    /// Bytes of the stage that are there.
    filled: usize,
    header: [u8; HEADER_BYTES],
    body: KVec<u8>,
}

impl Receiver {
    /// Waits for the first header of a link; has all memory that it cannot do without. May sleep.
    pub(super) fn new(link: LinkKind) -> Result<Self> {
        let reserve = match link {
            LinkKind::Data => Some(PageReserve::new(1)?),
            LinkKind::Meta => None,
        };
        Ok(Self {
            link,
            reserve,
            stage: Stage::Header,
            filled: 0,
            header: [0; HEADER_BYTES],
            body: KVec::with_capacity(BODY_BYTES_MAX as usize, GFP_KERNEL)?,
        })
    }

    /// Whether the next byte begins a packet.
    pub(super) fn is_between_packets(&self) -> bool {
        self.filled == 0 && matches!(self.stage, Stage::Header)
    }

    /// The payload of the packet that was completed last, if its kind does not carry data.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes bytes up to the end of the current header or payload.
    pub(super) fn take(&mut self, from: &mut Stream) -> Result<Progress, Halt> {
        match self.stage {
            Stage::Header => self.take_header(from),
            Stage::Unplaced(header) => match self.place_data(header)? {
                Progress::Partial => self.take_payload(from),
                lacking => Ok(lacking),
            },
            Stage::Payload { .. } => self.take_payload(from),
        }
    }

    fn take_header(&mut self, from: &mut Stream) -> Result<Progress, Halt> {
        let count = from.read(self.header.get_mut(self.filled..).unwrap_or(&mut []))?;
        self.filled = self.filled.saturating_add(count);
        if self.filled < HEADER_BYTES {
            return Ok(Progress::Partial);
        }
        let header = Header::parse(&self.header, self.link)
            .map_err(|error| DownReason::Garbage(ReceiveError::Header(error)))?;
        self.filled = 0;
        self.body.clear();
        if header.payload_len == 0 {
            return Ok(Progress::Packet(header, None));
        }
        if header.kind.carries_data() {
            return Ok(self.place_data(header)?);
        }
        // Within its capacity.
        self.body
            .resize(header.payload_len as usize, 0, GFP_KERNEL)
            .map_err(|_| DownReason::NoMemory)?;
        let target = Target::Body;
        self.stage = Stage::Payload { header, target };
        Ok(Progress::Partial)
    }

    /// Looks for memory for the data that follow.
    fn place_data(&mut self, header: Header) -> Result<Progress, DownReason> {
        self.stage = Stage::Unplaced(header);
        let reserve = self.reserve.as_ref().ok_or(DownReason::NoMemory)?;
        match reserve.try_alloc(header.payload_len) {
            Ok(buffer) => {
                let target = Target::Data(buffer);
                self.stage = Stage::Payload { header, target };
                Ok(Progress::Partial)
            }
            Err(error) if error == EAGAIN => Ok(Progress::Lacking),
            Err(_) => Err(DownReason::NoMemory),
        }
    }

    fn take_payload(&mut self, from: &mut Stream) -> Result<Progress, Halt> {
        let Stage::Payload { header, target } = &mut self.stage else {
            return Ok(Progress::Partial);
        };
        let count = match target {
            Target::Body => from.read(self.body.get_mut(self.filled..).unwrap_or(&mut []))?,
            Target::Data(buffer) => from.read_data(buffer, self.filled)?,
        };
        self.filled = self.filled.saturating_add(count);
        if self.filled < header.payload_len as usize {
            return Ok(Progress::Partial);
        }
        self.filled = 0;
        let Stage::Payload { header, target } = mem::replace(&mut self.stage, Stage::Header) else {
            return Ok(Progress::Partial);
        };
        let data = match target {
            Target::Body => None,
            Target::Data(buffer) => Some(buffer.share()),
        };
        if header.flags & FLAG_CRC != 0 {
            let sum = data
                .as_ref()
                .map_or_else(|| crc32c(&self.body), |data| data.crc32c());
            if sum != header.payload_crc {
                return Err(DownReason::Garbage(ReceiveError::PayloadChecksum).into());
            }
        }
        Ok(Progress::Packet(header, data))
    }
}
