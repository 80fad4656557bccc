// SPDX-License-Identifier: GPL-2.0-only
//! The two machines with every mirror on them, ready to be measured.

use anyhow::{Context, Result};

use super::{
    drbd,
    plan::Plan,
    resync::Mirror,
    system::{Lower, System, Volume},
    trace, weft,
};
use crate::{mirror, Builder, Cluster, Machine};

/// Size of every lower disk, in MiB. Loads use a little less of it.
pub(super) const DISK_MIB: u64 = 160;
const MIB: u64 = 1 << 20;
/// Memory for everything but the RAM disks.
const MEMORY_MIB: u64 = 768;
const NODES: usize = 2;

/// Describes machines with disks and configurations for all volumes of the plan.
pub(super) fn describe(plan: &Plan) -> Builder {
    let volumes = plan.volumes();
    let of = |lower| {
        let volumes = volumes.iter();
        volumes.filter(move |volume: &&Volume| volume.lower == lower)
    };
    let disks: Vec<_> = of(Lower::Virtio)
        .map(|volume| (volume.system.name(), DISK_MIB * MIB))
        .collect();
    let ram_mib = of(Lower::Ram).count() as u64 * DISK_MIB;
    // More memory than any plan needs costs nothing, and every size needs a template.
    let memory_mib = MEMORY_MIB + ram_mib.max(System::ALL.len() as u64 * DISK_MIB);
    Cluster::new(NODES)
        .disks(&disks)
        .memory_mib(u32::try_from(memory_mib).unwrap_or(u32::MAX))
        .file("/etc/weft/weft.toml", 0o644, weft::config(NODES, &volumes))
        .file("/etc/drbd.conf", 0o644, drbd::config(NODES, &volumes))
}

/// Loads modules, starts the daemon and makes all mirrors.
pub(super) fn prepare(cluster: &Cluster, plan: &Plan, tell: impl Fn(&str)) -> Result<()> {
    tell("disks, modules and the daemon");
    cluster.each(|machine| prepare_machine(machine, plan))?;
    trace::prepare(cluster).context("the counters of the kernels")?;
    for volume in plan.volumes() {
        if let Some(mirror) = Mirror::new(cluster, volume) {
            tell(&format!("first sync of {}", volume.resource()));
            mirror.make().with_context(|| volume.resource())?;
        }
    }
    Ok(())
}

fn prepare_machine(machine: &Machine, plan: &Plan) -> Result<()> {
    let volumes = plan.volumes();
    let has = |system| volumes.iter().any(|volume| volume.system == system);
    let (disks, kib) = (System::ALL.len(), DISK_MIB * 1024);
    machine.sh(&format!(
        "modprobe brd rd_nr={disks} rd_size={kib} max_part=0"
    ))?;
    for volume in &volumes {
        // A RAM disk has no memory where nothing was written.
        let disk = volume.disk();
        machine.sh(&format!(
            "dd if=/dev/zero of={disk} bs=1M count={DISK_MIB} oflag=direct status=none"
        ))?;
    }
    if has(System::Drbd) || has(System::DrbdIntegrity) {
        machine
            .sh("mkdir -p /var/lib/drbd /run/lock && modprobe drbd usermode_helper=/bin/true")?;
    }
    match has(System::Weft) {
        true => mirror::prepare(machine),
        false => Ok(()),
    }
}
