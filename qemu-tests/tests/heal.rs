// SPDX-License-Identifier: GPL-2.0-only
//! Blocks that a disk cannot read any more are written anew with a peer's data.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{self, ensure_equal_disks, wait_for, wait_uptodate, Load, DEVICE};
use weft_qemu_tests::{Cluster, Command, Machine, View};

const DISK_MIB: u64 = 32;
const MIB: u64 = 1 << 20;

/// A mirror with random content beyond what [`Load`] writes to.
fn fill(cluster: &Cluster) -> Result<()> {
    mirror::weave(cluster)?;
    cluster.node(0).sh(&format!(
        "dd if=/dev/urandom of={DEVICE} bs=1M count=24 oflag=direct 2>&1"
    ))?;
    wait_uptodate(cluster)
}

/// What the machine reads of the device, or the refusal.
fn read(machine: &Machine, mib: u64) -> Result<bool> {
    let script = format!(
        "dd if={DEVICE} of=/dev/null bs=64k count=16 iflag=direct,skip_bytes skip={} 2>&1",
        mib * MIB
    );
    Ok(machine.run(&Command::shell(&script))?.code == 0)
}

#[test]
fn r10_blocks_that_either_disk_cannot_read_are_written_anew_under_load() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        fill(cluster)?;
        let load = Load::start(alpha)?;
        for offset in [20 * MIB, 20 * MIB + 40_960, 21 * MIB - 4096] {
            alpha.disk("data").lose(offset..offset + 4096);
        }
        beta.disk("data").lose(22 * MIB..22 * MIB + 4096);
        ensure!(read(alpha, 20)?);
        ensure!(alpha.disk("data").lost() == 0);
        wait_for(alpha, "three blocks", |view| view.healed() == 3)?;
        ensure!(alpha
            .sh("weft status r0")?
            .contains("3 blocks of 4 KiB could not be read"));
        ensure!(alpha
            .sh("dmesg")?
            .contains("written anew with the data of node 1"));
        // The other disk is read by a verify.
        alpha.succeed(&Command::shell("weft verify r0").limit(mirror::LONG_PATIENCE))?;
        ensure!(beta.disk("data").lost() == 0);
        wait_for(beta, "one block", |view| view.healed() == 1)?;
        load.stop()?;
        for machine in [alpha, beta] {
            ensure!(View::of(machine)?.disk() == "uptodate");
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r10_a_block_that_both_disks_have_lost_is_an_error_of_that_block_only() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let alpha = cluster.node(0);
        fill(cluster)?;
        for machine in cluster.nodes() {
            machine.disk("data").lose(20 * MIB..20 * MIB + 4096);
        }
        ensure!(!read(alpha, 20)?);
        ensure!(read(alpha, 21)?);
        alpha.sh(&format!(
            "dd if=/dev/zero of={DEVICE} bs=4k count=1 seek=5120 oflag=direct conv=notrunc 2>&1"
        ))?;
        ensure!(read(alpha, 20)?);
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
