// SPDX-License-Identifier: GPL-2.0-only
//! Copies are compared while they are in use, and what differs is repaired.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, wait_for, wait_lost, wait_uptodate, Load, DEVICE,
    LONG_PATIENCE,
};
use weft_qemu_tests::{Command, Machine, View};

const DISK_MIB: u64 = 32;

/// A command that may take as long as a sync.
fn long(node: &Machine, script: &str) -> Result<String> {
    node.succeed(&Command::shell(script).limit(LONG_PATIENCE))
}

/// Changes one byte of a block on the node's disk, behind its back.
fn flip(node: &Machine, offset: u64) -> Result<()> {
    let disk = node.disk("data");
    let mut sector = disk.read(offset, 512)?;
    sector[100] ^= 0x40;
    disk.corrupt(offset, &sector)
}

fn ensure_equal_hashes(one: &Machine, other: &Machine) -> Result<()> {
    // Without what is behind the device, which is each disk's own.
    let mib = DISK_MIB - 1;
    let hash = format!(
        "dd if=/dev/disk/by-serial/data bs=1M count={mib} iflag=direct 2>/dev/null | sha256sum"
    );
    let [first, second] = [one.sh(&hash)?, other.sh(&hash)?];
    ensure!(first == second, "{first} and {second}");
    Ok(())
}

#[test]
fn a_flipped_byte_is_found_under_load_and_repaired() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        alpha.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M count=24 oflag=direct 2>&1"
        ))?;
        wait_uptodate(cluster)?;
        ensure!(long(alpha, "weft verify r0")?.contains("equal (31"));
        flip(beta, (20 << 20) + 512)?;
        // It writes to the first 16 MiB.
        let load = Load::start(alpha)?;
        let found = "bytes 20971520-20975615";
        ensure_refused(alpha, "weft verify r0 beta", &["differences-found", found])?;
        for (node, peer) in [(alpha, beta), (beta, alpha)] {
            let view = wait_for(node, "the difference", |view| {
                view.peer(peer).differing() == 4096
            })?;
            ensure!(view.peer(peer).verify() == "finished");
            ensure!(node.sh("weft status r0")?.contains(found));
            ensure!(node.sh("dmesg")?.contains("sectors 40960 to 40968 differ"));
        }
        // Nothing was repaired by that.
        ensure_refused(beta, "weft verify r0 --start 20M --stop 21M", &[found])?;
        long(alpha, "weft verify r0 --repair-from alpha")?;
        wait_uptodate(cluster)?;
        ensure!(View::of(alpha)?.peer(beta).resync_total() < 24 << 20);
        long(beta, "weft verify r0")?;
        load.stop()?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        ensure_equal_hashes(alpha, beta)?;
        ensure_refused(
            alpha,
            "weft repair r0 beta --from alpha",
            &["nothing-found"],
        )
    });
}

#[test]
fn a_primary_whose_copy_is_wrong_is_repaired_once_it_is_none() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        flip(alpha, 8 << 20)?;
        ensure_refused(alpha, "weft verify r0", &["bytes 8388608-8392703"])?;
        ensure_refused(alpha, "weft repair r0 beta --from beta", &["is-primary"])?;
        alpha.sh("weft secondary r0")?;
        alpha.sh("weft repair r0 beta --from beta")?;
        wait_uptodate(cluster)?;
        ensure!(View::of(alpha)?.peer(beta).rule() == "repair");
        ensure_equal_disks(cluster)?;
        long(beta, "weft verify r0 alpha").map(drop)
    });
}

#[test]
fn a_verify_that_loses_its_connection_goes_on_by_order() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        ensure_refused(alpha, "weft verify-stop r0", &["verify-not-running"])?;
        ensure_refused(alpha, "weft verify r0 --resume", &["nothing-to-resume"])?;
        flip(beta, 30 << 20)?;
        // It stands still, so that it is cut off in the middle.
        beta.sh("weft pause-sync r0")?;
        alpha.sh("weft verify r0 --no-wait")?;
        ensure!(View::of(alpha)?.peer(beta).replication() == "verify-source");
        ensure_refused(beta, "weft verify r0", &["verify-running"])?;
        cluster.network().cut_both(0, 1);
        for (node, peer) in [(alpha, beta), (beta, alpha)] {
            let view = wait_lost(node, peer)?;
            ensure!(view.peer(peer).verify() == "disconnected");
        }
        ensure_refused(alpha, "weft verify r0", &["not-connected"])?;
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        let told = alpha.sh("weft status r0")?;
        ensure!(told.contains("weft verify r0 beta --resume"), "{told}");
        alpha.sh("weft verify r0 --resume --no-wait")?;
        alpha.sh("weft verify-stop r0")?;
        ensure!(View::of(alpha)?.peer(beta).verify() == "stopped");
        beta.sh("weft resume-sync r0")?;
        ensure_refused(
            beta,
            "weft verify r0 --resume",
            &["bytes 31457280-31461375"],
        )?;
        beta.sh("weft repair r0 alpha --from alpha")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn of_three_copies_the_one_that_alone_differs_is_repaired() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let [alpha, beta, gamma] = [0, 1, 2].map(|node| cluster.node(node));
        mirror::weave(cluster)?;
        ensure_refused(beta, "weft verify r0 gamma", &["other-writer", "node 0"])?;
        flip(beta, 4 << 20)?;
        flip(gamma, 12 << 20)?;
        long(alpha, "weft verify r0 --majority")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        flip(alpha, 20 << 20)?;
        let texts = ["no-majority", "bytes 20971520-20975615"];
        ensure_refused(alpha, "weft verify r0 --majority", &texts)?;
        // Without a primary any two can be compared, and the wrong one be repaired.
        alpha.sh("weft secondary r0")?;
        long(beta, "weft verify r0 gamma")?;
        alpha.sh("weft repair r0 beta --from beta")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
