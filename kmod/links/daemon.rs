// SPDX-License-Identifier: GPL-2.0-only

//! The daemon as the module sees it: the process that has the control device open, for as long as it writes to it.

use kernel::{
    task::Pid,
    time::{Delta, Instant, Monotonic},
};
use weft_uapi::control::{NodeConnState, DAEMON_SILENCE_MS_MAX};
use weft_uapi::units::NodeSet;

/// How long a daemon may be silent.
const SILENCE_MAX: Delta = Delta::from_millis(DAEMON_SILENCE_MS_MAX as i64);

/// The owner of the control device.
pub(super) struct Daemon {
    pub(super) pid: Pid,
    /// Of the last message.
    epoch: u64,
    connected: NodeSet,
    last_heard: Instant<Monotonic>,
    silent: bool,
}

impl Daemon {
    /// A daemon that has just opened the device.
    pub(super) fn new(pid: Pid) -> Self {
        Self {
            pid,
            epoch: 0,
            connected: NodeSet::EMPTY,
            last_heard: Instant::now(),
            silent: false,
        }
    }

    /// Whether it serves, and which nodes it reaches.
    pub(super) fn state(&self) -> (bool, NodeSet) {
        if self.silent {
            (false, NodeSet::EMPTY)
        } else {
            (true, self.connected)
        }
    }

    /// Takes a message that is about all resources or about one; says whether it is newer than all before.
    pub(super) fn take(&mut self, message: &NodeConnState, about_all: bool) -> bool {
        self.last_heard = Instant::now();
        if message.epoch <= self.epoch {
            return false;
        }
        self.epoch = message.epoch;
        if about_all {
            self.connected = NodeSet(message.connected);
        }
        true
    }

    /// Whether it was silent until now; it is not any more.
    pub(super) fn did_wake(&mut self) -> bool {
        core::mem::replace(&mut self.silent, false)
    }

    /// Whether it has just become silent.
    pub(super) fn did_fall_silent(&mut self) -> bool {
        !self.silent && {
            self.silent = self.last_heard.elapsed() >= SILENCE_MAX;
            self.silent
        }
    }

    /// When to look again, in nanoseconds from now.
    pub(super) fn next_look(&self) -> u64 {
        let heard = self.last_heard.elapsed().as_nanos();
        let left = SILENCE_MAX.as_nanos().saturating_sub(heard);
        match u64::try_from(left) {
            Ok(left) if left > 0 => left,
            _ => SILENCE_MAX.as_nanos().unsigned_abs(),
        }
    }
}
