// SPDX-License-Identifier: GPL-2.0-only

//! One direction of one link: source → pipe → sink, by reference, never looked at.
//!
//! The pipe is filled only when it is empty. So "would block" from the source means that the source is empty (and not
//! that the pipe is full, which the kernel reports in the same way), and a sink that takes nothing stops its own source
//! and nobody else's.
//!
//! Nor is a source asked again that has just given very little: it had no more, and what comes later makes it ready again.

use nix::errno::Errno;
use nix::fcntl::{fcntl, splice, FcntlArg, OFlag, SpliceFFlags};
use nix::unistd::{sysconf, SysconfVar};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use weft_uapi::wire::HEADER_BYTES;

/// Wanted pipe sizes, the best first: 1024 slots hold many of the largest messages, each page in a slot of its own; 256 are
/// what the kernel gives to users without privilege.
const PIPE_BYTES: [i32; 2] = [4 << 20, 1 << 20];
/// Bytes asked for at once.
const FILL_BYTES: usize = 256 << 10;
/// A source that gives less than this for each slot of the pipe has no more. The slots were not what stopped it: pieces are as
/// long as the smallest packet, [`HEADER_BYTES`], but for where a page or a segment ends. A write of a page is less than
/// 1024 such pieces.
const DRAINED_BYTES_PER_SLOT: usize = HEADER_BYTES / 4;
/// System calls that fill or drain in one step: at most 1 MiB of one direction before everybody else has a turn, so that
/// neither acknowledgements nor heartbeats wait long behind bulk data.
const MOVES_PER_STEP: usize = 8;

/// Which end of a flow gave up.
#[derive(Debug)]
pub enum FlowEnd {
    /// Nothing comes any more, or reading failed.
    Source(Option<io::Error>),
    /// Nothing can be written any more.
    Sink(io::Error),
}

impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(None) => f.write_str("closed"),
            Self::Source(Some(error)) | Self::Sink(error) => write!(f, "{error}"),
        }
    }
}

/// See the module.
///
/// # Invariants
/// `held` is the number of bytes in the pipe: nobody else has its ends.
#[derive(Debug)]
pub struct Flow {
    pipe_out: OwnedFd,
    pipe_in: OwnedFd,
    /// A source that gives less has no more.
    drained_bytes: usize,
    held: usize,
    readable: bool,
    writable: bool,
    /// Bytes that reached the sink.
    pub moved: u64,
}

/// Less than fills the slots of a pipe of so many bytes, however small the pieces: a slot holds a page.
fn drained_bytes(pipe_bytes: i32) -> usize {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let slots = page.map_or(0, |page| i64::from(pipe_bytes) / page);
    usize::try_from(slots).unwrap_or(0) * DRAINED_BYTES_PER_SLOT
}

impl Flow {
    /// A flow with an empty pipe.
    ///
    /// # Errors
    /// When the kernel gives no pipe.
    pub fn new() -> io::Result<Self> {
        let (pipe_out, pipe_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller pipe only costs more system calls.
        let grow = |bytes| fcntl(&pipe_in, FcntlArg::F_SETPIPE_SZ(bytes)).is_ok();
        if !PIPE_BYTES.into_iter().any(grow) {
            log::debug!("a pipe keeps its default size");
        }
        let size = fcntl(&pipe_in, FcntlArg::F_GETPIPE_SZ)?;
        Ok(Self {
            pipe_out,
            pipe_in,
            drained_bytes: drained_bytes(size),
            held: 0,
            readable: true,
            writable: true,
            moved: 0,
        })
    }

    /// The source has something, or an end.
    pub fn source_ready(&mut self) {
        self.readable = true;
    }

    /// The sink takes something again.
    pub fn sink_ready(&mut self) {
        self.writable = true;
    }

    /// Whether a step could get on.
    pub fn is_ready(&self) -> bool {
        if self.held > 0 {
            self.writable
        } else {
            self.readable
        }
    }

    /// Moves bytes until neither end gets on or this turn's share is used up (then [`is_ready`](Self::is_ready) is
    /// still true). Returns how many bytes were taken from the source.
    ///
    /// # Errors
    /// When an end is dead.
    pub fn step(&mut self, source: &impl AsFd, sink: &impl AsFd) -> Result<usize, FlowEnd> {
        let mut taken = 0;
        for _ in 0..MOVES_PER_STEP {
            if !self.is_ready() {
                break;
            }
            if self.held > 0 {
                self.drain(sink)?;
            } else {
                taken += self.fill(source)?;
            }
        }
        Ok(taken)
    }

    fn fill(&mut self, source: &impl AsFd) -> Result<usize, FlowEnd> {
        match splice_some(source, &self.pipe_in, FILL_BYTES) {
            Ok(0) => Err(FlowEnd::Source(None)),
            Ok(count) => {
                self.held += count;
                self.readable = count >= self.drained_bytes;
                Ok(count)
            }
            Err(Errno::EAGAIN) => {
                self.readable = false;
                Ok(0)
            }
            Err(errno) => Err(FlowEnd::Source(Some(errno.into()))),
        }
    }

    fn drain(&mut self, sink: &impl AsFd) -> Result<(), FlowEnd> {
        match splice_some(&self.pipe_out, sink, self.held) {
            Ok(0) => Err(FlowEnd::Sink(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                self.held = self.held.saturating_sub(count);
                self.moved += count as u64;
                Ok(())
            }
            Err(Errno::EAGAIN) => {
                self.writable = false;
                Ok(())
            }
            Err(errno) => Err(FlowEnd::Sink(errno.into())),
        }
    }
}

fn splice_some(from: &impl AsFd, to: &impl AsFd, length: usize) -> Result<usize, Errno> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    loop {
        match splice(from, None, to, None, length, flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn stream() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn h20_a_full_sink_stops_the_flow_until_it_is_ready_again_and_nothing_is_lost() {
        let (mut writer, source) = stream();
        let (sink, mut reader) = stream();
        let mut flow = Flow::new().unwrap();
        let (mut sent, mut received) = (0u64, 0u64);
        let mut buffer = [0; 5000];
        while sent < 4_000_000 {
            let block: Vec<u8> = (sent..sent + 5000).map(|at| at as u8).collect();
            if let Ok(count) = writer.write(&block) {
                sent += count as u64;
                flow.source_ready();
            }
            flow.step(&source, &sink).unwrap();
            if flow.is_ready() {
                continue;
            }
            // The flow is stuck behind the sink, or empty: take some of what came out.
            while let Ok(count) = reader.read(&mut buffer) {
                for &byte in &buffer[..count] {
                    assert_eq!(byte, received as u8);
                    received += 1;
                }
            }
            flow.sink_ready();
        }
        while received < sent {
            flow.source_ready();
            flow.sink_ready();
            flow.step(&source, &sink).unwrap();
            let count = reader.read(&mut buffer).unwrap();
            for &byte in &buffer[..count] {
                assert_eq!(byte, received as u8);
                received += 1;
            }
        }
        assert_eq!(flow.moved, sent);
    }

    #[test]
    fn the_end_of_the_source_is_reported_after_its_last_byte() {
        let (mut writer, source) = stream();
        let (sink, mut reader) = stream();
        let mut flow = Flow::new().unwrap();
        writer.write_all(b"last words").unwrap();
        drop(writer);
        assert_eq!(flow.step(&source, &sink).unwrap(), 10);
        flow.source_ready();
        let end = flow.step(&source, &sink).unwrap_err();
        assert!(matches!(end, FlowEnd::Source(None)), "{end:?}");
        let mut buffer = [0; 32];
        assert_eq!(reader.read(&mut buffer).unwrap(), 10);
    }
}
