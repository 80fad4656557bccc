// SPDX-License-Identifier: GPL-2.0-only
//! Ends a run in order when somebody interrupts it: the machines lose their power,
//! so that whatever waits for them fails, and everything is cleaned up on the way out.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{bail, Result};
use nix::{
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        eventfd::EventFd,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::Cluster;

/// Signals that interrupt the run. They are blocked from the moment this exists, in
/// this thread and all that it starts later.
pub(super) struct Stop {
    signals: SignalFd,
    interrupted: AtomicBool,
}

impl Stop {
    pub(super) fn new() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self {
            signals: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            interrupted: AtomicBool::new(false),
        })
    }

    /// Does something with the machines, which are switched off when a signal comes.
    pub(super) fn watch<T>(&self, cluster: &Cluster, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let over = EventFd::new()?;
        thread::scope(|scope| {
            scope.spawn(|| self.wait(cluster, &over));
            let done = act();
            over.write(1)?;
            done
        })
    }

    /// An error if a signal came.
    pub(super) fn check(&self) -> Result<()> {
        match self.interrupted.load(Ordering::Acquire) {
            true => bail!("interrupted"),
            false => Ok(()),
        }
    }

    fn wait(&self, cluster: &Cluster, over: &EventFd) {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(over.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            let woken = poll(&mut fds, PollTimeout::NONE).is_ok();
            if matches!(self.signals.read_signal(), Ok(Some(_))) {
                self.interrupted.store(true, Ordering::Release);
                eprintln!("interrupted: the machines are switched off");
                cluster.switch_off();
                return;
            }
            if woken {
                return;
            }
        }
    }
}
