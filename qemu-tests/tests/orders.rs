// SPDX-License-Identifier: GPL-2.0-only
//! What a person orders: new disks that are equal, disks given up, resyncs and requests that wait.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, wait_lost, wait_uptodate,
    Scribe, DEVICE,
};
use weft_qemu_tests::{Cluster, Machine, View};

const DISK_MIB: u64 = 32;

/// Writes random bytes to the beginning of the device.
fn write(node: &Machine, mib: u64) -> Result<()> {
    let script = format!("dd if=/dev/urandom of={DEVICE} bs=1M count={mib} oflag=direct 2>&1");
    node.sh(&script).map(drop)
}

fn ensure_nothing_was_fetched(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let fetched: u64 = View::of(node)?
            .peers()
            .map(|peer| peer.resync_total())
            .sum();
        ensure!(fetched == 0, "{}: {fetched} bytes", node.name());
    }
    Ok(())
}

#[test]
fn new_disks_that_a_person_calls_equal_need_no_first_sync() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::connect(cluster)?;
        beta.sh("weft new-generation r0")?;
        wait_uptodate(cluster)?;
        ensure_nothing_was_fetched(cluster)?;
        alpha.sh("weft primary r0")?;
        ensure_refused(alpha, "weft new-generation r0", &["is-primary"])?;
        write(alpha, 4)?;
        wait_uptodate(cluster)?;
        ensure_nothing_was_fetched(cluster)?;
        alpha.sh("weft secondary r0")?;
        ensure_refused(beta, "weft new-generation r0", &["not-just-created"])?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_primary_invalidates_its_peer_under_load() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        ensure_refused(alpha, "weft invalidate r0", &["is-primary"])?;
        ensure_refused(beta, "weft invalidate-peer r0 alpha", &["peer-primary"])?;
        mirror::refill_under_load(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_disk_given_up_is_not_trusted_after_a_power_cut_and_fetches_everything() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        write(alpha, 4)?;
        beta.disk("data").corrupt(1 << 20, b"something else")?;
        beta.sh("weft pause-sync r0")?;
        beta.sh("weft invalidate r0")?;
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        cluster.network().cut_both(0, 1);
        beta.start()?;
        mirror::rejoin(beta)?;
        ensure!(View::of(beta)?.disk() == "inconsistent");
        ensure_refused(beta, "weft primary r0", &["no-uptodate-disk"])?;
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        let device: u64 = alpha
            .sh(&format!("blockdev --getsize64 {DEVICE}"))?
            .parse()?;
        let fetched = View::of(beta)?.peer(alpha).resync_total();
        ensure!(fetched == device, "transferred {fetched} bytes of {device}");
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_paused_resync_stands_still_until_both_sides_resume_it() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        ensure_refused(beta, "weft resume-sync r0", &["pause-is-clear"])?;
        cluster.network().cut_both(0, 1);
        wait_lost(alpha, beta)?;
        wait_lost(beta, alpha)?;
        write(alpha, 4)?;
        beta.sh("weft pause-sync r0")?;
        ensure_refused(beta, "weft pause-sync r0 alpha", &["pause-is-set"])?;
        alpha.sh("weft pause-sync r0 beta")?;
        cluster.network().heal_all();
        let view = wait_for(beta, "the resync to wait", |view| {
            let peer = view.peer(alpha);
            peer.replication() == "paused-sync-target" && peer.waits_for("peer")
        })?;
        ensure!(view.peer(alpha).waits_for("here"));
        alpha.sh("weft resume-sync r0")?;
        let view = wait_for(beta, "the peer's word to be taken back", |view| {
            !view.peer(alpha).waits_for("peer")
        })?;
        ensure!(view.peer(alpha).replication() == "paused-sync-target");
        ensure!(view.peer(alpha).out_of_sync() >= 4 << 20);
        let told = beta.sh("weft status r0")?;
        ensure!(told.contains("resume-sync is due here"), "{told}");
        // What is written meanwhile goes to both.
        write(alpha, 1)?;
        beta.sh("weft resume-sync r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_suspended_writer_stands_still_until_it_is_resumed() {
    mirror::pair(64).test(|cluster| {
        let alpha = cluster.node(0);
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        alpha.sh("weft suspend-io r0")?;
        // Nothing is under way any more: both disks are the same, though a program writes.
        ensure_equal_disks(cluster)?;
        let written = View::of(alpha)?.written();
        let told = alpha.sh("weft status r0")?;
        ensure!(
            told.contains("a person suspended it; weft resume-io r0"),
            "{told}"
        );
        ensure_refused(alpha, "weft suspend-io r0", &["io-suspended"])?;
        ensure_equal_disks(cluster)?;
        ensure!(View::of(alpha)?.written() == written, "it went on");
        let acknowledged = scribe.acknowledged();
        alpha.sh("weft resume-io r0")?;
        scribe.wait_for(acknowledged + 20)?;
        let last = scribe.stop()?;
        ensure_refused(alpha, "weft resume-io r0", &["io-not-suspended"])?;
        alpha.sh("umount /mnt")?;
        ensure_records(alpha, "/mnt/records", last)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

/// Whether the file system on the disk of a node would have to replay its journal.
fn needs_recovery(node: &Machine) -> Result<bool> {
    // The flag EXT4_FEATURE_INCOMPAT_RECOVER of the superblock, past the cache.
    let script = "dd if=/dev/vdb iflag=direct bs=4096 count=1 2>/dev/null | od -An -tu4 -j1120 -N4";
    let features: u32 = node.sh(script)?.trim().parse()?;
    Ok(features & 4 != 0)
}

#[test]
fn a_frozen_file_system_is_clean_on_all_disks_until_it_is_resumed() {
    mirror::pair(64).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        alpha.sh("weft suspend-io r0")?;
        ensure!(needs_recovery(beta)?, "it is mounted, and not frozen");
        // What waits already would hold a freeze up.
        ensure_refused(alpha, "weft suspend-io --freeze r0", &["io-suspended"])?;
        alpha.sh("weft resume-io r0")?;

        alpha.sh("weft suspend-io --freeze r0")?;
        ensure_equal_disks(cluster)?;
        ensure!(!needs_recovery(alpha)? && !needs_recovery(beta)?);
        let told = alpha.sh("weft status r0")?;
        ensure!(
            told.contains("a person had its file systems frozen; weft resume-io r0"),
            "{told}"
        );
        ensure_refused(alpha, "weft suspend-io --freeze r0", &["io-suspended"])?;
        let acknowledged = scribe.acknowledged();
        alpha.sh("weft resume-io r0")?;
        scribe.wait_for(acknowledged + 20)?;

        // Who ordered it dies at some moment: either nothing was frozen, or the status says so, and how it ends.
        alpha.sh("timeout --signal=KILL 0.05 weft suspend-io --freeze r0; true")?;
        alpha.sh("timeout --signal=KILL 0.5 weft suspend-io --freeze r0; true")?;
        wait_for(alpha, "the freeze to be shown", |view| {
            view.waits_for("freeze")
        })?;
        let acknowledged = scribe.acknowledged();
        alpha.sh("weft resume-io r0")?;
        scribe.wait_for(acknowledged + 20)?;
        let told = alpha.sh("weft status r0")?;
        ensure!(!told.contains("frozen"), "{told}");

        let last = scribe.stop()?;
        alpha.sh("umount /mnt")?;
        ensure_records(alpha, "/mnt/records", last)?;
        // Nothing is mounted: it is as with suspend-io, and nothing can be mounted.
        alpha.sh("weft suspend-io --freeze r0")?;
        ensure!(alpha.sh(&format!("mount {DEVICE} /mnt")).is_err());
        alpha.sh("weft resume-io r0")?;
        alpha.sh(&format!("mount {DEVICE} /mnt && umount /mnt"))?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
