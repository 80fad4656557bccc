// SPDX-License-Identifier: GPL-2.0-only

//! Packets that were received and not handed up yet: the resource takes several in one turn.

use crate::sys::pages::Payload;
use weft_uapi::wire::Header;

/// Most packets of one turn.
const PACKETS_MAX: usize = 16;

/// Bytes of data after which what came is handed up, so that a disk begins with the first ones while others come.
const BYTES_MAX: u32 = 64 << 10;

/// Packets in order, without those whose payload is a body.
pub(super) struct Arrived {
    packets: [Option<(Header, Option<Payload>)>; PACKETS_MAX],
    /// The first one that is there.
    next: usize,
    /// Behind the last one.
    end: usize,
    /// Of all data.
    bytes: u32,
}

impl Arrived {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            packets: [const { None }; PACKETS_MAX],
            next: 0,
            end: 0,
            bytes: 0,
        }
    }

    /// Whether all were handed up.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// Whether no more are to be added.
    pub(super) fn is_full(&self) -> bool {
        self.end == PACKETS_MAX || self.bytes >= BYTES_MAX
    }

    /// Adds one, unless it is full.
    pub(super) fn push(&mut self, header: Header, data: Option<Payload>) {
        if let Some(place) = self.packets.get_mut(self.end) {
            let bytes = data.as_ref().map_or(0, |data| data.bytes());
            self.bytes = self.bytes.saturating_add(bytes);
            *place = Some((header, data));
            self.end = self.end.saturating_add(1);
        }
    }

    /// Takes the next one.
    pub(super) fn pop(&mut self) -> Option<(Header, Option<Payload>)> {
        let packet = self.packets.get_mut(self.next)?.take()?;
        self.next = self.next.saturating_add(1);
        if self.is_empty() {
            *self = Self::new();
        }
        Some(packet)
    }
}
