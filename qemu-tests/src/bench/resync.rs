// SPDX-License-Identifier: GPL-2.0-only
//! Mirrors are made, and brought up to date again, by the same steps whatever makes
//! them. `alpha` is primary, `beta` comes and goes.
//!
//! How long a resync takes is read from the kernel log of its target, which says
//! when the two nodes have agreed on it and when the disk is up to date: commands
//! and connecting take no part in it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::system::{System, Volume};
use crate::{
    bench::{drbd, weft},
    eventually,
    mirror::{LONG_PATIENCE, PATIENCE},
    Cluster, Command, Machine,
};

/// What to type; `{}` stands for the resource, `{minor}` for the number of its device.
pub(super) struct Commands {
    pub(super) create: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) connected: &'static str,
    pub(super) promote: &'static str,
    pub(super) synced: &'static str,
    /// What the kernel log says when the nodes have agreed on a resync, and when the
    /// disk of its target is up to date.
    pub(super) began: &'static str,
    pub(super) ended: &'static str,
}

/// A volume that is mirrored.
pub(super) struct Mirror<'a> {
    cluster: &'a Cluster,
    volume: Volume,
    commands: &'static Commands,
}

impl<'a> Mirror<'a> {
    /// None for a bare disk.
    pub(super) fn new(cluster: &'a Cluster, volume: Volume) -> Option<Self> {
        let commands = match volume.system {
            System::Raw => return None,
            System::Weft => &weft::COMMANDS,
            System::Drbd | System::DrbdIntegrity => &drbd::COMMANDS,
        };
        Some(Self {
            cluster,
            volume,
            commands,
        })
    }

    /// Makes it on both machines, `alpha` primary, and waits for the first sync.
    pub(super) fn make(&self) -> Result<()> {
        self.cluster.each(|machine| {
            self.type_in(machine, self.commands.create)?;
            self.type_in(machine, self.commands.up)
        })?;
        self.type_in(self.source(), self.commands.connected)?;
        self.type_in(self.source(), self.commands.promote)?;
        self.wait_synced()
    }

    /// Replaces the target's metadata, so that all of its disk is copied; returns how
    /// long that took. The device is full of data: zeros would not be copied by all.
    pub(super) fn resync_all(&self) -> Result<Duration> {
        let device = self.volume.device();
        self.source().sh(&format!(
            "yes weft | dd of={device} bs=1M count=$(($(blockdev --getsize64 {device}) >> 20)) \
             iflag=fullblock oflag=direct status=none"
        ))?;
        self.type_in(self.target(), self.commands.down)?;
        self.type_in(self.target(), self.commands.create)?;
        self.rejoin()
    }

    /// Takes the target away while `change` happens on the source; returns how long
    /// it took to catch up.
    pub(super) fn resync_after(
        &self,
        change: impl FnOnce(&Machine) -> Result<()>,
    ) -> Result<Duration> {
        self.type_in(self.target(), self.commands.down)?;
        change(self.source())?;
        self.rejoin()
    }

    fn rejoin(&self) -> Result<Duration> {
        let target = self.target();
        target.sh("dmesg --clear")?;
        self.type_in(target, self.commands.up)?;
        let (began, ended) = (self.commands.began, self.commands.ended);
        let time = eventually("the end of a resync in the kernel log", PATIENCE, || {
            self.wait_synced()?;
            Ok(between(&target.sh("dmesg")?, began, ended))
        });
        time.with_context(|| self.volume.resource())
    }

    fn wait_synced(&self) -> Result<()> {
        for machine in self.cluster.nodes() {
            self.type_in(machine, self.commands.connected)?;
            self.type_in(machine, self.commands.synced)?;
        }
        Ok(())
    }

    fn type_in(&self, machine: &Machine, command: &str) -> Result<()> {
        let script = command
            .replace("{}", &self.volume.resource())
            .replace("{minor}", &self.volume.minor().to_string());
        let command = Command::shell(&script).limit(LONG_PATIENCE);
        machine.succeed(&command).map(drop)
    }

    fn source(&self) -> &Machine {
        self.cluster.node(0)
    }

    fn target(&self) -> &Machine {
        self.cluster.node(1)
    }
}

/// The time from the first line with `began` to the first one after it with `ended`.
fn between(log: &str, began: &str, ended: &str) -> Option<Duration> {
    let mut lines = log.lines();
    let first = lines.find(|line| line.contains(began))?;
    let last = lines.find(|line| line.contains(ended))?;
    seconds(last)?.checked_sub(seconds(first)?)
}

/// The moment of a line in the kernel log: `[   12.345678] text`.
fn seconds(line: &str) -> Option<Duration> {
    let (stamp, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    Duration::try_from_secs_f64(stamp.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "[   10.000000] disk inconsistent -> uptodate\n\
        [   11.500000] weft: resource a: volume 0, peer 0: rule behind: bitmap-target\n\
        [   11.600000] something else\n\
        [   13.750000] weft: resource a: volume 0: disk inconsistent -> uptodate\n";

    #[test]
    fn a_resync_lasts_from_its_handshake_to_the_end_after_it() {
        let time = between(LOG, weft::COMMANDS.began, weft::COMMANDS.ended);
        assert_eq!(time, Some(Duration::from_millis(2250)));
    }

    #[test]
    fn a_resync_that_has_not_ended_has_no_time() {
        let unfinished = LOG.replace("13.750000] weft: resource a: volume 0: disk", "13.7] ");
        assert_eq!(
            between(&unfinished, ": rule ", "disk inconsistent -> uptodate"),
            None
        );
        assert_eq!(between("", ": rule ", "uptodate"), None);
    }
}
