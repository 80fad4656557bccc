// SPDX-License-Identifier: GPL-2.0-only

//! What the daemon is told to do from outside, by signals.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// One order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Stop in good order; given twice, at once.
    Stop,
    /// Read the configuration again.
    Reload,
    /// Write the state to the log.
    Dump,
}

/// Where orders come from: a descriptor that is readable when there is one.
pub trait Orders {
    /// The descriptor to watch.
    fn fd(&self) -> RawFd;

    /// The next order, or `None` when there is none now.
    ///
    /// # Errors
    /// When the source is lost; the daemon then ends without any courtesy.
    fn next(&mut self) -> io::Result<Option<Order>>;
}

/// SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR1 dumps.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks those signals for this thread (and those started later) and takes them as orders.
    ///
    /// # Errors
    /// When the kernel refuses either.
    pub fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR1,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }
}

impl Orders for Signals {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Option<Order>> {
        let Some(info) = self.0.read_signal()? else {
            return Ok(None);
        };
        let order = match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGHUP) => Order::Reload,
            Ok(Signal::SIGUSR1) => Order::Dump,
            _ => Order::Stop,
        };
        Ok(Some(order))
    }
}
