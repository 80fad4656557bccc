// SPDX-License-Identifier: GPL-2.0-only

//! The control channel of one peer: frames, heartbeats, round-trip time.
//!
//! Every interval a ping goes out and the silence is counted: an interval in which nothing was heard, on this channel
//! or on any link of the peer, is a miss; too many in a row and the peer is down. Intervals are counted, not
//! time: when this process itself was stopped for long, that is one interval and not the peer's fault.

use super::assembler::Assembler;
use super::socket::Socket;
use crate::reactor::Readiness;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use weft_uapi::peer::{Frame, FrameKind, FRAME_MAGIC};
use zerocopy::IntoBytes;

/// Frames handled in one turn, so that a flood delays nobody else for long.
const FRAMES_PER_TURN: usize = 64;
/// Bytes that may wait for the peer to take them; more, and it asks without ever reading answers.
const OUTGOING_MAX: usize = 4096;

/// How pings are timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Time between two pings.
    pub interval: Duration,
    /// Silent intervals after which the peer is down.
    pub misses: u32,
}

impl Heartbeat {
    /// After how long a silent peer is down for sure.
    pub fn limit(self) -> Duration {
        self.interval * (self.misses + 1)
    }
}

/// Why a channel ends.
#[derive(Debug)]
pub enum ChannelEnd {
    /// The peer said goodbye.
    Bye,
    /// Nothing was heard for too long.
    Silent(u32),
    /// The connection failed or closed.
    Io(io::Error),
    /// What came is no frame, or the peer takes no answers.
    Protocol(&'static str),
}

impl std::fmt::Display for ChannelEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bye => f.write_str("the peer's daemon is stopping"),
            Self::Silent(misses) => write!(f, "no sign of life for {misses} ping intervals"),
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed the connection")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(why) => f.write_str(why),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    /// Random id of the peer's boot.
    pub boot: u64,
    incoming: Assembler<{ size_of::<Frame>() }>,
    outgoing: Vec<u8>,
    heartbeat: Heartbeat,
    heard: bool,
    misses: u32,
    next_ping: Instant,
    /// Zero of the clock that goes into pings; also when the daemon started.
    clock: Instant,
    round_trip: Option<Duration>,
}

impl Channel {
    /// Takes over a connection whose hello is done. `clock` is when this daemon started.
    pub fn new(
        socket: Socket,
        boot: u64,
        heartbeat: Heartbeat,
        clock: Instant,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            boot,
            incoming: Assembler::default(),
            outgoing: Vec::new(),
            heartbeat,
            heard: true,
            misses: 0,
            next_ping: now,
            clock,
            round_trip: None,
        }
    }

    /// The connection, when the channel is over.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// The last measured time from ping to pong.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Silent intervals so far.
    pub fn misses(&self) -> u32 {
        self.misses
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub fn next_ping(&self) -> Instant {
        self.next_ping
    }

    /// Something of the peer arrived, here or on a link.
    pub fn hear(&mut self) {
        self.heard = true;
        self.misses = 0;
    }

    /// Changes the timing from the next interval on.
    pub fn set_heartbeat(&mut self, heartbeat: Heartbeat) {
        self.heartbeat = heartbeat;
    }

    /// An interval is over: counts silence and sends a ping.
    ///
    /// # Errors
    /// The end of the channel.
    pub fn tick(&mut self, now: Instant) -> Result<(), ChannelEnd> {
        if !self.heard {
            self.misses += 1;
            if self.misses >= self.heartbeat.misses {
                return Err(ChannelEnd::Silent(self.misses));
            }
        }
        self.heard = false;
        self.next_ping = now + self.heartbeat.interval;
        // While older frames wait another ping would only make the queue longer.
        if self.outgoing.is_empty() {
            let stamp = now.duration_since(self.clock).as_nanos() as u64;
            self.send(FrameKind::Ping, stamp, now)?;
        }
        Ok(())
    }

    /// Attends to the connection. `true`: more may be waiting, come back without an event.
    ///
    /// # Errors
    /// The end of the channel.
    pub fn on_ready(&mut self, readiness: Readiness, now: Instant) -> Result<bool, ChannelEnd> {
        if readiness.writable {
            self.flush()?;
        }
        for _ in 0..FRAMES_PER_TURN {
            let Some(bytes) = self
                .incoming
                .read_from(&mut self.socket.stream)
                .map_err(ChannelEnd::Io)?
            else {
                return Ok(false);
            };
            let frame = Frame::parse(&bytes)
                .map_err(|_| ChannelEnd::Protocol("the peer sent something that is no frame"))?;
            self.on_frame(&frame, now)?;
        }
        Ok(true)
    }

    /// Says goodbye, as far as the connection takes it now.
    pub fn say_bye(&mut self, now: Instant) {
        // The channel ends anyway.
        let _ = self.send(FrameKind::Bye, 0, now);
    }

    fn on_frame(&mut self, frame: &Frame, now: Instant) -> Result<(), ChannelEnd> {
        self.hear();
        match FrameKind::from_number(frame.kind.get().into()) {
            Some(FrameKind::Ping) => self.send(FrameKind::Pong, frame.stamp.get(), now),
            Some(FrameKind::Pong) => {
                let sent = Duration::from_nanos(frame.stamp.get());
                // A stamp that we cannot have sent yet measures nothing.
                self.round_trip = now
                    .duration_since(self.clock)
                    .checked_sub(sent)
                    .or(self.round_trip);
                Ok(())
            }
            Some(FrameKind::Bye) => Err(ChannelEnd::Bye),
            None => Err(ChannelEnd::Protocol("the peer sent an unknown frame")),
        }
    }

    fn send(&mut self, kind: FrameKind, stamp: u64, now: Instant) -> Result<(), ChannelEnd> {
        let uptime = now.duration_since(self.clock).as_secs();
        let frame = Frame {
            magic: FRAME_MAGIC,
            kind: (kind.number() as u16).into(),
            reserved: 0.into(),
            stamp: stamp.into(),
            uptime: u32::try_from(uptime).unwrap_or(u32::MAX).into(),
            crc: 0.into(),
        }
        .sealed();
        if self.outgoing.len() + size_of::<Frame>() > OUTGOING_MAX {
            return Err(ChannelEnd::Protocol("the peer does not take its answers"));
        }
        self.outgoing.extend_from_slice(frame.as_bytes());
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ChannelEnd> {
        while !self.outgoing.is_empty() {
            match self.socket.stream.write(&self.outgoing) {
                Ok(0) => return Err(ChannelEnd::Io(io::ErrorKind::WriteZero.into())),
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(ChannelEnd::Io(error)),
            }
        }
        Ok(())
    }
}
