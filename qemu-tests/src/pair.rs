// SPDX-License-Identifier: GPL-2.0-only
//! Two machines, `alpha` and `beta`, with one mirrored volume: what most tests
//! and the demo start from.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use weft_uapi::ondisk::{Layout, MetaKind, BITMAP_SLOTS_DEFAULT};

use crate::{eventually, Builder, Cluster, Command, Machine};

/// The mirrored device on each machine.
pub const DEVICE: &str = "/dev/weft0";
/// How long a change of state may take; generous, since emulated machines share
/// a busy host.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a sync of a test's disk, or a long load, may take.
pub const LONG_PATIENCE: Duration = Duration::from_secs(400);

const CONFIG: &str = r#"[cluster]
name = "tests"
security = "none"

[[node]]
name = "alpha"
id = 0
address = "10.9.0.1:7790"

[[node]]
name = "beta"
id = 1
address = "10.9.0.2:7790"

[[resource]]
name = "r0"
protocol = "C"

[[resource.volume]]
id = 0
minor = 0
disk = "/dev/disk/by-serial/data"
meta = "internal"
"#;

/// Two machines whose disks `data` have `mib` MiB, with the configuration.
pub fn machines(mib: u64) -> Builder {
    Cluster::new(2)
        .disks(&[("data", mib << 20)])
        .file("/etc/weft/weft.toml", 0o644, CONFIG)
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

/// Creates metadata on both machines and connects them; nobody is primary.
pub fn connect(cluster: &Cluster) -> Result<()> {
    for machine in cluster.nodes() {
        prepare(machine)?;
        machine.sh("weft create-md r0")?;
        machine.sh("weft up r0")?;
    }
    for machine in cluster.nodes() {
        machine.sh("weft wait-connect r0 --timeout 60")?;
    }
    Ok(())
}

/// [`connect`], then makes `alpha` primary and waits until both disks are
/// uptodate.
pub fn weave(cluster: &Cluster) -> Result<()> {
    connect(cluster)?;
    cluster.node(0).sh("weft primary --force r0")?;
    wait_uptodate(cluster)
}

/// After a reboot: module, daemon, resource.
pub fn rejoin(machine: &Machine) -> Result<()> {
    prepare(machine)?;
    machine.sh("weft up r0").map(drop)
}

/// Waits until both sides say that both disks are uptodate and equal.
pub fn wait_uptodate(cluster: &Cluster) -> Result<()> {
    let mut last = String::new();
    eventually("both disks to be uptodate", LONG_PATIENCE, || {
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
    let mut last = String::new();
    eventually(what, PATIENCE, || {
        let view = View::of(machine)?;
        last = format!("{}: {}", machine.name(), view.summary());
        Ok(holds(&view).then_some(view))
    })
    .with_context(|| last)
}

/// Compares the data areas of both disks byte by byte, from outside.
pub fn ensure_equal_disks(cluster: &Cluster) -> Result<()> {
    let alpha = cluster.node(0).disk("data");
    let beta = cluster.node(1).disk("data");
    let layout = Layout::new(
        MetaKind::Internal,
        alpha.size() / 512,
        0,
        BITMAP_SLOTS_DEFAULT,
    )
    .context("the disk has no room for metadata")?;
    if let Some(offset) = alpha.first_difference(beta, 0..layout.data_sectors() * 512)? {
        bail!("the disks differ at byte {offset}");
    }
    Ok(())
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

/// What one machine's `weft status --json` says of the resource.
#[derive(Clone, Debug)]
pub struct View(Value);

impl View {
    /// Asks the machine.
    pub fn of(machine: &Machine) -> Result<Self> {
        let text = machine.sh("weft status r0 --json")?;
        let all: Value = serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        Ok(Self(
            all.get(0).cloned().context("no resource in the status")?,
        ))
    }

    fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    fn number(&self, pointer: &str) -> u64 {
        self.0
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX)
    }

    /// Role of this node.
    pub fn role(&self) -> &str {
        self.text("/role")
    }

    /// State of the local disk.
    pub fn disk(&self) -> &str {
        self.text("/devices/0/disk_state")
    }

    /// State of the peer's disk.
    pub fn peer_disk(&self) -> &str {
        self.text("/connections/0/peer_devices/0/peer_disk_state")
    }

    /// State of the connection.
    pub fn connection(&self) -> &str {
        self.text("/connections/0/connection_state")
    }

    /// Why the last session ended.
    pub fn reason(&self) -> &str {
        self.text("/connections/0/reason")
    }

    /// Rule of the last handshake.
    pub fn rule(&self) -> &str {
        self.text("/connections/0/peer_devices/0/rule")
    }

    /// What happens between the two copies.
    pub fn replication(&self) -> &str {
        self.text("/connections/0/peer_devices/0/replication_state")
    }

    /// Bytes that the last resync had to transfer.
    pub fn resync_total(&self) -> u64 {
        self.number("/connections/0/peer_devices/0/resync_total_bytes")
    }

    /// Bytes of them that are done.
    pub fn resync_done(&self) -> u64 {
        self.number("/connections/0/peer_devices/0/resync_done_bytes")
    }

    /// Bytes of device that are marked out of sync.
    pub fn out_of_sync(&self) -> u64 {
        self.number("/connections/0/peer_devices/0/out_of_sync_bytes")
    }

    /// Bytes that the application has written.
    pub fn written(&self) -> u64 {
        self.0
            .pointer("/devices/0/written_bytes")
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// Id of this side's last session.
    pub fn session(&self) -> &str {
        self.text("/connections/0/session")
    }

    /// Both disks uptodate, connected, nothing owed.
    pub fn is_settled(&self) -> bool {
        self.connection() == "connected"
            && self.replication() == "established"
            && self.disk() == "uptodate"
            && self.peer_disk() == "uptodate"
    }

    /// One line for messages.
    pub fn summary(&self) -> String {
        format!(
            "{} disk {} peer disk {} {} {} rule {:?} out of sync {} reason {:?}",
            self.role(),
            self.disk(),
            self.peer_disk(),
            self.connection(),
            self.replication(),
            self.rule(),
            self.out_of_sync(),
            self.reason(),
        )
    }
}

/// Writes records on `machine` until it dies, and knows which were
/// acknowledged.
pub struct Scribe(crate::Process);

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

/// A verifying random write load in the background on the primary.
pub fn load(machine: &Machine, seconds: u32) -> Result<crate::Process> {
    let fio = format!(
        "fio --name=load --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite --iodepth=8 \
         --bsrange=512-64k --blockalign=512 --size=48m --time_based --runtime={seconds} --fsync=64 --minimal"
    );
    machine.spawn(&Command::shell(&fio).limit(LONG_PATIENCE))
}
