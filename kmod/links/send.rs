// SPDX-License-Identifier: GPL-2.0-only

//! The outgoing queue of one link, and how it is sent.
//!
//! It is not bounded here: the engine bounds what it has in flight.

use crate::sys::pages::Payload;
use crate::sys::socket::{Fragments, Pieces, Socket, PIECES_MAX};
use core::ops::Range;
use kernel::{
    impl_list_arc_safe, impl_list_item,
    list::{List, ListArc, ListLinks},
    prelude::*,
    sync::{Arc, ArcBorrow},
};
use weft_uapi::crc32c::crc32c;
use weft_uapi::wire::{Header, FLAG_CRC, HEADER_BYTES};

/// A packet on its way to the peer.
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

    /// Into how many pieces it falls at most.
    fn pieces(&self) -> usize {
        let pages = self.data.as_ref().map_or(0, |data| data.count());
        pages.saturating_add(1)
    }
}

/// Packets that were not sent yet, in order.
pub(super) struct SendQueue {
    packets: List<Queued>,
    /// Bytes of the first packet that were sent already.
    sent: usize,
}

impl SendQueue {
    /// An empty queue.
    pub(super) const fn new() -> Self {
        Self {
            packets: List::new(),
            sent: 0,
        }
    }

    /// Whether everything was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds a packet at the end.
    pub(super) fn push(&mut self, packet: Packet) {
        self.packets.push_back(packet);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        while self.packets.pop_front().is_some() {}
        self.sent = 0;
    }

    /// Notes that `count` bytes were sent.
    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.packets.iter().next() {
            let left = first.len().saturating_sub(self.sent);
            if count < left {
                self.sent = self.sent.saturating_add(count);
                return;
            }
            count = count.saturating_sub(left);
            self.packets.pop_front();
            self.sent = 0;
        }
    }
}

/// The sending end of a link's connection.
pub(super) struct Sender {
    socket: Arc<Socket>,
    /// What is to be sent before anything else.
    pub(super) queue: SendQueue,
    /// Where heads are copied to.
    fragments: Fragments,
    /// Bytes that the connection took.
    sent: u64,
}

impl Sender {
    /// Nothing was sent yet.
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            queue: SendQueue::new(),
            fragments: Fragments::new(),
            sent: 0,
        }
    }

    /// Bytes that the connection took.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends the first part of what is queued; `EAGAIN` when the connection takes no more now. May sleep briefly.
    pub(super) fn send(&mut self) -> Result {
        let batch = Batch::new(&self.queue, &mut self.fragments)?;
        let mut pieces = Pieces::new();
        batch.gather(&self.fragments, &mut pieces)?;
        let count = self.socket.send(&mut pieces, batch.has_more)?;
        self.sent = self.sent.saturating_add(count as u64);
        self.queue.advance(count);
        Ok(())
    }
}

/// Packets that are sent at once, with copies of their heads in a row: those of packets without data become one piece.
struct Batch<'a> {
    packets: [Option<ArcBorrow<'a, Queued>>; PIECES_MAX],
    /// Bytes of the first one that were sent already.
    sent: usize,
    /// Where the heads lie; the last one may be cut.
    heads: Range<usize>,
    /// Others follow.
    has_more: bool,
}

impl<'a> Batch<'a> {
    fn new(queue: &'a SendQueue, fragments: &mut Fragments) -> Result<Self> {
        fragments.begin(HEADER_BYTES)?;
        let mut packets = [const { None }; PIECES_MAX];
        let heads = fragments.end();
        let mut skip = queue.sent;
        let mut pieces: usize = 0;
        let mut has_more = false;
        for (packet, place) in queue.packets.iter().zip(&mut packets) {
            pieces = pieces.saturating_add(packet.pieces());
            has_more = pieces > PIECES_MAX;
            if has_more {
                break;
            }
            let head = packet.head.get(skip..).unwrap_or(&[]);
            skip = 0;
            has_more = fragments.append(head) < head.len();
            *place = Some(packet);
            if has_more {
                break;
            }
        }
        Ok(Self {
            packets,
            sent: queue.sent,
            heads: heads..fragments.end(),
            has_more,
        })
    }

    fn gather<'p>(&'p self, fragments: &'p Fragments, pieces: &mut Pieces<'p>) -> Result {
        let mut skip = self.sent;
        let mut heads = self.heads.clone();
        for packet in self.packets.iter().flatten() {
            let head = packet.head.len().saturating_sub(skip);
            let copied = head.min(heads.len());
            pieces.push_fragment(fragments, heads.start, copied)?;
            heads.start = heads.start.saturating_add(copied);
            if copied < head {
                break;
            }
            if let Some(data) = &packet.data {
                pieces.push_data(data, skip.saturating_sub(packet.head.len()))?;
            }
            skip = 0;
        }
        Ok(())
    }
}
