// SPDX-License-Identifier: GPL-2.0-only
//! R13: a blank disk, or an older image of one, is noticed, filled and not trusted before.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, wait_lost, wait_uptodate,
    Scribe, DEVICE,
};
use weft_qemu_tests::{Cluster, Machine, View};

const DISK_MIB: u64 = 32;

/// A new disk takes the place of the one of a machine that is off, which is started then.
fn replace_disk(machine: &Machine) -> Result<()> {
    machine.disk("data").replace_by_blank()?;
    machine.start()?;
    mirror::prepare(machine)?;
    machine.sh("weft create-md r0 && weft up r0").map(drop)
}

/// The disk was noticed to be another one, and all of it was fetched.
fn ensure_filled(cluster: &Cluster, node: &Machine, source: &Machine) -> Result<()> {
    wait_uptodate(cluster)?;
    node.sh("dmesg | grep 'rule rolled-back'")?;
    let fetched = View::of(node)?.peer(source).resync_total();
    let device: u64 = source
        .sh(&format!("blockdev --getsize64 {DEVICE}"))?
        .parse()?;
    ensure!(fetched == device, "transferred {fetched} bytes of {device}");
    ensure_equal_disks(cluster)
}

fn write(node: &Machine, text: &str) -> Result<()> {
    let script = format!("echo {text} | dd of={DEVICE} bs=4096 conv=sync,fsync 2>&1");
    node.sh(&script).map(drop)
}

#[test]
fn r13_a_blank_disk_in_the_place_of_another_one_is_filled() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        write(alpha, "before")?;
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        write(alpha, "after")?;
        replace_disk(beta)?;
        ensure_filled(cluster, beta, alpha)
    });
}

#[test]
fn r13_an_older_image_of_a_disk_is_noticed_and_overwritten() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        write(alpha, "old")?;
        beta.power_cut()?;
        let image = beta.disk("data").snapshot()?;
        beta.start()?;
        mirror::rejoin(beta)?;
        wait_uptodate(cluster)?;
        write(alpha, "new")?;
        beta.power_cut()?;
        beta.disk("data").roll_back(&image)?;
        beta.start()?;
        mirror::rejoin(beta)?;
        ensure_filled(cluster, beta, alpha)
    });
}

#[test]
fn r13_an_image_of_a_running_disk_is_noticed_and_overwritten() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        write(alpha, "old")?;
        let image = beta.disk("data").snapshot()?;
        // Beyond what is hot in the image.
        let script = format!("echo new | dd of={DEVICE} bs=4096 seek=5120 conv=sync,fsync 2>&1");
        alpha.sh(&script)?;
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        beta.disk("data").roll_back(&image)?;
        beta.start()?;
        mirror::rejoin(beta)?;
        ensure_filled(cluster, beta, alpha)
    });
}

#[test]
fn r13_a_replaced_disk_and_a_node_that_was_away_are_no_majority() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave_and_mount(cluster)?;
        gamma.power_cut()?;
        wait_lost(alpha, gamma)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        beta.power_cut()?;

        // Of three voters one knows nothing of the records, and one has forgotten them.
        gamma.start()?;
        mirror::rejoin(gamma)?;
        replace_disk(beta)?;
        wait_for(beta, "the new disk to be filled", |view| {
            view.disk() == "uptodate"
        })?;
        for node in [beta, gamma] {
            ensure_refused(node, "weft primary r0", &["no-quorum", "new"])?;
        }
        alpha.start()?;
        mirror::rejoin(alpha)?;
        wait_uptodate(cluster)?;
        gamma.sh("weft primary r0")?;
        ensure_records(gamma, "/mnt/records", last)
    });
}
