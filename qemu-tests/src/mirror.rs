// SPDX-License-Identifier: GPL-2.0-only
//! Machines with one mirrored volume: what most tests and the demo start from.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use nix::sys::signal::Signal;
use weft_uapi::ondisk::{Layout, MetaKind, BITMAP_SLOTS_DEFAULT};

use crate::{
    eventually, view::Watch, vm, Builder, Cluster, Command, Deadline, Machine, Process, View,
};

/// The mirrored device on each machine.
pub const DEVICE: &str = "/dev/weft0";
/// How long a change of state may take; generous, since emulated machines share
/// a busy host.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long a sync of a test's disk, or a long load, may take.
pub const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Bytes that a load has written before a test goes on.
const LOAD_MIN: u64 = 1 << 20;

/// So many machines whose disks `data` have `mib` MiB, with the configuration.
pub fn machines(nodes: usize, mib: u64) -> Builder {
    Cluster::new(nodes).disks(&[("data", mib << 20)]).file(
        "/etc/weft/weft.toml",
        0o644,
        config(nodes),
    )
}

/// [`machines`] `alpha` and `beta`.
pub fn pair(mib: u64) -> Builder {
    machines(2, mib)
}

/// [`machines`] `alpha`, `beta` and `gamma`.
pub fn trio(mib: u64) -> Builder {
    machines(3, mib)
}

/// [`pair`] with `gamma` to break the tie between them, which has no disk.
pub fn pair_and_tie_breaker(mib: u64) -> Builder {
    let config = config(3).replace(
        "name = \"r0\"\n",
        "name = \"r0\"\ntie-breakers = [\"gamma\"]\n",
    );
    trio(mib)
        .disks_of(2, &[])
        .file("/etc/weft/weft.toml", 0o644, config)
}

/// [`pair`] whose resource has these lines as well.
pub fn pair_with(mib: u64, lines: &str) -> Builder {
    let name = "name = \"r0\"\n";
    let config = config(2).replace(name, &format!("{name}{lines}"));
    pair(mib).file("/etc/weft/weft.toml", 0o644, config)
}

/// Whether a machine has a disk for the volume.
fn keeps_data(machine: &Machine) -> bool {
    machine.disks.iter().any(|disk| disk.serial() == "data")
}

/// What every node's `weft.toml` says: one resource `r0` with one volume.
pub fn config(nodes: usize) -> String {
    cluster_config(nodes)
        + r#"[[resource]]
name = "r0"
protocol = "C"
[[resource.volume]]
id = 0
minor = 0
disk = "/dev/disk/by-serial/data"
meta = "internal"
"#
}

/// What it says of the nodes, for configurations with other resources.
pub(crate) fn cluster_config(nodes: usize) -> String {
    let mut text = "[cluster]\nname = \"tests\"\nsecurity = \"none\"\n".to_owned();
    for node in 0..nodes {
        let (name, address) = (vm::name(node), vm::address(node));
        text +=
            &format!("[[node]]\nname = \"{name}\"\nid = {node}\naddress = \"{address}:7790\"\n");
    }
    text
}

/// Module and daemon on a freshly booted machine.
pub fn prepare(machine: &Machine) -> Result<()> {
    machine.load_module()?;
    start_daemon(machine)
}

/// Starts weftd and waits until it answers.
pub fn start_daemon(machine: &Machine) -> Result<()> {
    machine.sh("setsid weftd >/dev/console 2>&1 </dev/null & disown")?;
    eventually("weftd answers", PATIENCE, || {
        let asked = machine.run(&Command::shell("weft daemon-status"))?;
        Ok((asked.code == 0).then_some(()))
    })
}

/// Creates metadata on all machines with a disk and connects all; nobody is primary.
pub fn connect(cluster: &Cluster) -> Result<()> {
    cluster.each(|machine| {
        prepare(machine)?;
        if keeps_data(machine) {
            machine.sh("weft create-md r0")?;
        }
        machine.sh("weft up r0").map(drop)
    })?;
    cluster.each(wait_connected)
}

/// [`connect`], then makes `alpha` primary and waits until all disks are
/// uptodate.
pub fn weave(cluster: &Cluster) -> Result<()> {
    connect(cluster)?;
    cluster.node(0).sh("weft primary --force r0")?;
    wait_uptodate(cluster)
}

/// [`weave`], then makes a file system on the device and mounts it on `alpha`.
pub fn weave_and_mount(cluster: &Cluster) -> Result<()> {
    weave(cluster)?;
    let script = format!("mkfs.ext4 -q -E nodiscard {DEVICE} && mount {DEVICE} /mnt");
    cluster.node(0).sh(&script).map(drop)
}

/// After a reboot: module, daemon, resource.
pub fn rejoin(machine: &Machine) -> Result<()> {
    prepare(machine)?;
    machine.sh("weft up r0").map(drop)
}

/// Waits until `machine` is connected to all its peers.
pub fn wait_connected(machine: &Machine) -> Result<()> {
    let waiting = format!("weft wait-connect r0 --timeout {}", PATIENCE.as_secs());
    machine
        .succeed(&Command::shell(&waiting).limit(2 * PATIENCE))
        .map(drop)
}

/// Waits until all sides say that all disks are uptodate and equal.
pub fn wait_uptodate(cluster: &Cluster) -> Result<()> {
    let waiting = format!("weft wait-sync r0 --timeout {}", LONG_PATIENCE.as_secs());
    let waiting = Command::shell(&waiting).limit(LONG_PATIENCE + PATIENCE);
    let mut last = String::new();
    eventually("all disks to be uptodate", LONG_PATIENCE, || {
        cluster.each(|machine| machine.succeed(&waiting).map(drop))?;
        // What one machine saw may have changed while another one still waited.
        last.clear();
        let mut settled = true;
        for machine in cluster.nodes() {
            let view = View::of(machine)?;
            settled &= view.is_settled();
            last += &format!("{}: {}\n", machine.name(), view.summary());
        }
        Ok(settled.then_some(()))
    })
    .with_context(|| last)
}

/// Waits until `machine` says this of its resource.
pub fn wait_for(machine: &Machine, what: &str, holds: impl Fn(&View) -> bool) -> Result<View> {
    let deadline = Deadline::after(PATIENCE);
    let mut watch = Watch::begin(machine)?;
    let mut last = String::new();
    loop {
        let context = || format!("waiting for {what}\n{}: {last}", machine.name());
        let view = watch.next(deadline).with_context(context)?;
        if holds(&view) {
            return Ok(view);
        }
        last = view.summary();
    }
}

/// Lets requests of a machine wait for as long as a test does.
pub fn let_requests_wait(machine: &Machine) -> Result<()> {
    machine
        .sh("echo 0 >/proc/sys/kernel/hung_task_timeout_secs")
        .map(drop)
}

/// Waits until `machine` knows that it has lost `peer`.
pub fn wait_lost(machine: &Machine, peer: &Machine) -> Result<View> {
    let what = format!("the loss of {} to be noticed", peer.name());
    wait_for(machine, &what, |view| !view.peer(peer).is_connected())
}

/// Waits until `machine` has a session with `peer` that is not the `old` one.
pub fn wait_new_session(machine: &Machine, peer: &Machine, old: &str) -> Result<View> {
    let what = format!("a new session with {}", peer.name());
    wait_for(machine, &what, |view| {
        let peer = view.peer(peer);
        peer.is_connected() && peer.session() != old
    })
}

/// Compares the data areas of all disks byte by byte, from outside.
pub fn ensure_equal_disks(cluster: &Cluster) -> Result<()> {
    let first = cluster.node(0).disk("data");
    let slots = BITMAP_SLOTS_DEFAULT.max(cluster.nodes().len() as u32 - 1);
    let layout = Layout::new(MetaKind::Internal, first.size() / 512, 0, slots)
        .context("the disk has no room for metadata")?;
    for machine in cluster
        .nodes()
        .iter()
        .skip(1)
        .filter(|machine| keeps_data(machine))
    {
        let data = 0..layout.data_sectors() * 512;
        if let Some(offset) = first.first_difference(machine.disk("data"), data)? {
            bail!(
                "the disks of alpha and {} differ at byte {offset}",
                machine.name()
            );
        }
    }
    Ok(())
}

/// Gives the second node's disk, which holds something that nobody knows of, up under load, and waits until it has been
/// filled anew.
pub fn refill_under_load(cluster: &Cluster) -> Result<()> {
    let (primary, victim) = (cluster.node(0), cluster.node(1));
    // The load does not reach it.
    victim.disk("data").corrupt(20 << 20, b"something else")?;
    let load = Load::start(primary)?;
    primary.sh(&format!("weft invalidate-peer r0 {}", victim.name()))?;
    wait_for(victim, "the disk to be given up", |view| {
        view.peer(primary).rule() == "invalidated"
    })?;
    load.stop()?;
    wait_uptodate(cluster)
}

/// Runs a command that must be refused with exit code 1 and say all of `texts`.
pub fn ensure_refused(machine: &Machine, script: &str, texts: &[&str]) -> Result<()> {
    let output = machine.run(&Command::shell(script))?;
    let said = output.text() + &output.error_text();
    ensure!(
        output.code == 1,
        "{script}: exit code {} and: {said}",
        output.code
    );
    for text in texts {
        ensure!(
            said.contains(text),
            "{script} does not say {text:?} but: {said}"
        );
    }
    Ok(())
}

/// Writes records on `machine` until it dies, and knows which were
/// acknowledged.
pub struct Scribe(Process);

impl Scribe {
    /// Starts to write `path`.
    pub fn start(machine: &Machine, path: &str) -> Result<Self> {
        let script = format!("exec weft-records write {path}");
        Ok(Self(
            machine.spawn(&Command::shell(&script).limit(LONG_PATIENCE))?,
        ))
    }

    /// Waits until record `number` is acknowledged.
    pub fn wait_for(&mut self, number: u64) -> Result<()> {
        eventually("records to be acknowledged", PATIENCE, || {
            Ok((self.acknowledged() >= number).then_some(()))
        })
    }

    /// The last record whose fsync has returned, as far as is known here.
    pub fn acknowledged(&mut self) -> u64 {
        let text = self.0.output_so_far().text();
        text.lines()
            .filter_map(|line| line.parse().ok())
            .max()
            .unwrap_or(0)
    }

    /// Waits until the writer ends by itself, as it does when a write fails, and returns
    /// its exit code.
    pub fn wait_for_end(&mut self) -> Result<i32> {
        Ok(self.0.wait(PATIENCE)?.code)
    }

    /// Ends the writer and returns the last acknowledged record.
    pub fn stop(mut self) -> Result<u64> {
        self.0.kill()?;
        Ok(self.acknowledged())
    }
}

/// Mounts the device on `machine`, which must be primary, after checking the
/// file system, and finds every record up to `last` in `path` below it.
pub fn ensure_records(machine: &Machine, path: &str, last: u64) -> Result<()> {
    machine.sh(&format!(
        "mount {DEVICE} /mnt && umount /mnt && e2fsck -fn {DEVICE} 2>&1"
    ))?;
    machine.sh(&format!(
        "mount {DEVICE} /mnt && weft-records check {path} {last}"
    ))?;
    machine.sh("umount /mnt").map(drop)
}

/// Moves the role from the first node, where [`weave_and_mount`]'s file system is still mounted, to the second one, and finds
/// equal disks and every record up to `last`.
pub fn ensure_switch(cluster: &Cluster, last: u64) -> Result<()> {
    let (from, to) = (cluster.node(0), cluster.node(1));
    from.sh("umount /mnt && weft secondary r0")?;
    wait_uptodate(cluster)?;
    ensure_equal_disks(cluster)?;
    to.sh("weft primary r0")?;
    ensure_records(to, "/mnt/records", last)
}

/// Random writes of all sizes on a primary, until they are stopped.
pub struct Load(Process);

impl Load {
    /// Starts to write, and waits until some of it is done.
    pub fn start(machine: &Machine) -> Result<Self> {
        let fio = format!(
            "fio --name=load --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite \
             --iodepth=8 --bsrange=512-64k --blockalign=512 --size=16m --fsync=64 --time_based \
             --runtime={} --minimal",
            LONG_PATIENCE.as_secs()
        );
        let before = View::of(machine)?.written();
        let load = Self(machine.spawn(&Command::shell(&fio))?);
        wait_for(machine, "some load", |view| {
            view.written() > before + LOAD_MIN
        })?;
        Ok(load)
    }

    /// Ends it; fails if a write or a flush has failed.
    pub fn stop(mut self) -> Result<()> {
        /// What fio returns when a signal ended it and nothing else went wrong.
        const ENDED_BY_SIGNAL: i32 = 128;
        self.0.signal(Signal::SIGINT)?;
        let output = self.0.wait(PATIENCE)?;
        ensure!(
            output.code == ENDED_BY_SIGNAL,
            "the application noticed: exit code {}\n{}",
            output.code,
            output.error_text()
        );
        Ok(())
    }
}
