// SPDX-License-Identifier: GPL-2.0-only

//! Options of the sockets between daemons.

use crate::events::Reactor;
use crate::reactor::Watch;
use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::time::Duration;

/// Makes a fresh connection fit for small messages that must not wait, and lets the kernel give it up when what was
/// sent stays unacknowledged for `patience`.
///
/// # Errors
/// When the kernel refuses an option, for instance because the connection is gone already.
pub fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}

/// A connection with its place in the reactor.
#[derive(Debug)]
pub struct Socket {
    /// The connection.
    pub stream: TcpStream,
    /// Its place.
    pub watch: Watch,
}

impl Socket {
    /// Closes with a reset: what is still queued is thrown away and never sent.
    ///
    /// The pages in a send queue may belong to requests that are about to be completed as "peer lost"; a polite close
    /// would go on sending them with whatever their owner puts in next.
    pub fn abort(self, reactor: &mut Reactor) {
        reactor.forget(self.watch);
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // Fails only when the connection is dead, and then nothing is queued.
        let _ = setsockopt(&self.stream, sockopt::Linger, &at_once);
    }
}
