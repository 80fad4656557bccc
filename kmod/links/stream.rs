// SPDX-License-Identifier: GPL-2.0-only

//! What comes from a connection: bytes that may be cut anywhere, each read once.

use crate::sys::pages::PageBuf;
use crate::sys::socket::{Places, Socket};
use kernel::{prelude::*, sync::Arc};

/// Why there are no bytes.
pub(super) enum Stop {
    /// None has come yet.
    Dry,
    /// The peer closed the connection, and all was read.
    Closed,
    /// The connection failed.
    Failed(Error),
}

/// The reading end of a connection.
pub(super) struct Stream {
    socket: Arc<Socket>,
    /// What was read ahead lies between `start` and `end`.
    ahead: KVec<u8>,
    start: usize,
    end: usize,
    /// Bytes that came from the connection.
    received: u64,
    /// The connection had no more when it was asked last.
    is_dry: bool,
}

impl Stream {
    /// Reads up to `ahead` bytes more than were asked for, where that saves a call. May sleep.
    pub(super) fn new(socket: Arc<Socket>, ahead: usize) -> Result<Self> {
        Ok(Self {
            socket,
            ahead: KVec::from_elem(0, ahead, GFP_KERNEL)?,
            start: 0,
            end: 0,
            received: 0,
            is_dry: false,
        })
    }

    /// Bytes that came from the connection.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// More may have come since the connection was asked last.
    pub(super) fn refresh(&mut self) {
        self.is_dry = false;
    }

    /// Fills the beginning of `to`, which is not empty; returns how much of it.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, Stop> {
        if self.start < self.end {
            return Ok(self.take_ahead(to));
        }
        let mut places = Places::new();
        places.push(to);
        self.receive(places)
    }

    /// As [`read`](Self::read), into `buffer` from `offset` on.
    pub(super) fn read_data(&mut self, buffer: &mut PageBuf, offset: usize) -> Result<usize, Stop> {
        if self.start < self.end {
            return Ok(buffer.slice_at(offset).map_or(0, |to| self.take_ahead(to)));
        }
        let mut places = Places::new();
        buffer.slices_from(offset).for_each(|to| places.push(to));
        self.receive(places)
    }

    /// Fills the places, and what comes behind them ahead. A connection that gives less than that has no more.
    fn receive<'a>(&'a mut self, mut places: Places<'a>) -> Result<usize, Stop> {
        if self.is_dry {
            return Err(Stop::Dry);
        }
        let room = places.bytes();
        places.push(&mut self.ahead);
        let count = match self.socket.receive(&mut places) {
            Ok(0) => return Err(Stop::Closed),
            Ok(count) => count,
            Err(error) if error == EAGAIN => return Err(Stop::Dry),
            Err(error) => return Err(Stop::Failed(error)),
        };
        self.is_dry = count < places.bytes();
        self.received = self.received.saturating_add(count as u64);
        (self.start, self.end) = (0, count.saturating_sub(room));
        Ok(count.min(room))
    }

    fn take_ahead(&mut self, to: &mut [u8]) -> usize {
        let ahead = self.ahead.get(self.start..self.end).unwrap_or(&[]);
        let count = ahead.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), ahead.get(..count)) {
            to.copy_from_slice(from);
        }
        self.start = self.start.saturating_add(count);
        count
    }
}
