// SPDX-License-Identifier: GPL-2.0-only
//! What the harness and the agent in a machine say to each other over a virtio
//! serial port: frames of `length u32 | id u32 | kind u8 | payload`, little
//! endian, where `length` counts what follows it.
//!
//! The harness chooses an id for every command; all about that command carries
//! it. Id 0 belongs to the machine itself.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Name of the virtio serial port.
pub const PORT_NAME: &str = "weft.agent";
/// Longest payload in bytes; longer output travels in several frames.
pub const PAYLOAD_LEN_MAX: usize = 256 * 1024;

const HEADER_LEN: usize = 5;

/// A program to run in the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment variables besides the usual ones.
    pub env: Vec<(String, String)>,
}

/// The content of a frame.
#[derive(Debug)]
pub enum Message {
    /// To the agent: run a program in a process group of its own.
    Start(Start),
    /// To the agent: bytes for its standard input; none means end of file.
    Stdin(Vec<u8>),
    /// To the agent: send a signal to its process group.
    Signal(i32),
    /// To the agent: write everything back and switch the machine off.
    PowerOff,
    /// To the harness: the machine is up.
    Ready,
    /// To the harness: bytes from standard output.
    Stdout(Vec<u8>),
    /// To the harness: bytes from standard error.
    Stderr(Vec<u8>),
    /// To the harness, last about a command: exit code, or 128 + signal.
    Exit(i32),
    /// To the harness, last about a command: it could not be started.
    Refused(String),
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Start(_) => 1,
            Message::Stdin(_) => 2,
            Message::Signal(_) => 3,
            Message::PowerOff => 4,
            Message::Ready => 16,
            Message::Stdout(_) => 17,
            Message::Stderr(_) => 18,
            Message::Exit(_) => 19,
            Message::Refused(_) => 20,
        }
    }

    fn payload(&self) -> io::Result<Vec<u8>> {
        Ok(match self {
            Message::Start(start) => serde_json::to_vec(start)?,
            Message::Stdin(bytes) | Message::Stdout(bytes) | Message::Stderr(bytes) => {
                bytes.clone()
            }
            Message::Signal(number) | Message::Exit(number) => number.to_le_bytes().to_vec(),
            Message::PowerOff | Message::Ready => Vec::new(),
            Message::Refused(reason) => reason.clone().into_bytes(),
        })
    }

    fn parse(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            1 => Message::Start(serde_json::from_slice(&payload)?),
            2 => Message::Stdin(payload),
            3 => Message::Signal(number(&payload)?),
            4 => Message::PowerOff,
            16 => Message::Ready,
            17 => Message::Stdout(payload),
            18 => Message::Stderr(payload),
            19 => Message::Exit(number(&payload)?),
            20 => Message::Refused(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(invalid(format!("unknown frame kind {kind}"))),
        })
    }
}

/// Writes one frame with a single `write_all`.
pub fn send(to: &mut impl Write, id: u32, message: &Message) -> io::Result<()> {
    let payload = message.payload()?;
    let length = u32::try_from(HEADER_LEN + payload.len()).map_err(invalid)?;
    let mut frame = Vec::with_capacity(4 + HEADER_LEN + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&id.to_le_bytes());
    frame.push(message.kind());
    frame.extend_from_slice(&payload);
    to.write_all(&frame)
}

/// Reads one frame. The error is `UnexpectedEof` when the other side is gone.
pub fn receive(from: &mut impl Read) -> io::Result<(u32, Message)> {
    let mut header = [0; 4 + HEADER_LEN];
    from.read_exact(&mut header)?;
    let [l0, l1, l2, l3, i0, i1, i2, i3, kind] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let payload_len = length
        .checked_sub(HEADER_LEN)
        .filter(|len| *len <= PAYLOAD_LEN_MAX)
        .ok_or_else(|| invalid(format!("frame of {length} bytes")))?;
    let mut payload = vec![0; payload_len];
    from.read_exact(&mut payload)?;
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    Ok((id, Message::parse(kind, payload)?))
}

fn number(payload: &[u8]) -> io::Result<i32> {
    payload.try_into().map(i32::from_le_bytes).map_err(invalid)
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
