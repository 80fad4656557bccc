// SPDX-License-Identifier: GPL-2.0-only

//! The outgoing queue of one link.
//!
//! It is not bounded here: the engine bounds what it has in flight.

use super::link::LinkFile;
use crate::sys::pages::Payload;
use crate::sys::pipe::{Fragments, PipeWriter};
use kernel::{
    impl_list_arc_safe, impl_list_item,
    list::{List, ListArc, ListLinks},
    page::PAGE_SIZE,
    prelude::*,
};
use weft_uapi::crc32c::crc32c;
use weft_uapi::wire::{Header, FLAG_CRC, HEADER_BYTES};

/// A packet on its way to the daemon.
#[pin_data]
pub(super) struct Queued {
    /// Header and, in packets that do not carry data, the payload.
    head: KVec<u8>,
    data: Option<Payload>,
    #[pin]
    links: ListLinks,
}

/// A packet that is ready for [`SendQueue::push`].
pub(super) type Packet = ListArc<Queued>;

impl_list_arc_safe! {
    impl ListArcSafe<0> for Queued { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Queued { using ListLinks { self.links }; }
}

impl Queued {
    /// Makes a packet of `header` and either `body` or `data`; fills in what the header says of them.
    pub(super) fn new(mut header: Header, body: &[u8], data: Option<Payload>) -> Result<Packet> {
        if let Some(data) = &data {
            header.payload_len = data.bytes();
            header.payload_crc = data.crc32c();
            header.flags |= FLAG_CRC;
        } else if !body.is_empty() {
            header.payload_len = u32::try_from(body.len())?;
            header.payload_crc = crc32c(body);
            header.flags |= FLAG_CRC;
        }
        let body = if data.is_none() { body } else { &[] };
        let mut head = KVec::with_capacity(HEADER_BYTES.saturating_add(body.len()), GFP_KERNEL)?;
        head.extend_from_slice(&header.encode(), GFP_KERNEL)?;
        head.extend_from_slice(body, GFP_KERNEL)?;
        ListArc::pin_init(
            try_pin_init!(Self { head, data, links <- ListLinks::new() }),
            GFP_KERNEL,
        )
    }

    fn len(&self) -> usize {
        self.head
            .len()
            .saturating_add(self.data.as_ref().map_or(0, |data| data.bytes() as usize))
    }
}

/// Packets that the daemon has not fetched yet, in order.
pub(super) struct SendQueue {
    packets: List<Queued>,
    /// Bytes of the first packet that were fetched already.
    fetched: usize,
    /// Bytes of all packets that were not fetched.
    bytes: usize,
    /// Where heads are copied to when they are spliced.
    fragments: Fragments,
}

impl SendQueue {
    /// An empty queue.
    pub(super) const fn new() -> Self {
        Self {
            packets: List::new(),
            fetched: 0,
            bytes: 0,
            fragments: Fragments::new(),
        }
    }

    /// Bytes that were not fetched.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything was fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds a packet at the end.
    pub(super) fn push(&mut self, packet: Packet) {
        self.bytes = self.bytes.saturating_add(packet.len());
        self.packets.push_back(packet);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        while self.packets.pop_front().is_some() {}
        self.fetched = 0;
        self.bytes = 0;
    }

    /// Moves references to at most `bytes_max` bytes into a pipe; `EAGAIN` when it is full.
    pub(super) fn splice(
        &mut self,
        pipe: &mut PipeWriter<'_, LinkFile>,
        bytes_max: usize,
    ) -> Result<usize> {
        let mut total: usize = 0;
        while total < bytes_max && !self.is_empty() {
            let room = bytes_max.saturating_sub(total);
            let moved = match pipe.has_room() {
                Ok(true) if self.is_in_head() => self.splice_heads(pipe, room),
                Ok(true) => self.splice_data(pipe, room),
                Ok(false) => Err(EAGAIN),
                Err(error) => Err(error),
            };
            match moved {
                Ok(count) => total = total.saturating_add(count),
                Err(error) if total == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn is_in_head(&self) -> bool {
        self.packets
            .iter()
            .next()
            .is_some_and(|packet| self.fetched < packet.head.len())
    }

    /// Moves one run of head bytes: those of several packets in a row if there are no data between them, so that a
    /// batch of acknowledgements takes one slot of the pipe.
    fn splice_heads(
        &mut self,
        pipe: &mut PipeWriter<'_, LinkFile>,
        bytes_max: usize,
    ) -> Result<usize> {
        self.fragments.begin(HEADER_BYTES)?;
        let mut total: usize = 0;
        while total < bytes_max && self.is_in_head() {
            let Some(packet) = self.packets.iter().next() else {
                break;
            };
            let rest = packet.head.get(self.fetched..).unwrap_or(&[]);
            let wanted = rest.len().min(bytes_max.saturating_sub(total));
            let count = self.fragments.append(rest.get(..wanted).unwrap_or(&[]));
            if count == 0 {
                break;
            }
            self.advance(count);
            total = total.saturating_add(count);
        }
        self.fragments.push_to(pipe)?;
        Ok(total)
    }

    fn splice_data(
        &mut self,
        pipe: &mut PipeWriter<'_, LinkFile>,
        bytes_max: usize,
    ) -> Result<usize> {
        let packet = self.packets.iter().next().ok_or(EIO)?;
        let data = packet.data.as_ref().ok_or(EIO)?;
        let offset = self.fetched.saturating_sub(packet.head.len());
        let (page, bytes) = data.page(offset / PAGE_SIZE).ok_or(EIO)?;
        let skip = offset % PAGE_SIZE;
        let count = bytes.saturating_sub(skip).min(bytes_max);
        pipe.push(&page, skip, count)?;
        self.advance(count);
        Ok(count)
    }

    /// Notes that `count` bytes of the first packet were fetched.
    fn advance(&mut self, count: usize) {
        self.fetched = self.fetched.saturating_add(count);
        self.bytes = self.bytes.saturating_sub(count);
        if self
            .packets
            .iter()
            .next()
            .is_some_and(|packet| self.fetched >= packet.len())
        {
            self.packets.pop_front();
            self.fetched = 0;
        }
    }
}
