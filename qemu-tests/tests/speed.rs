// SPDX-License-Identifier: GPL-2.0-only
//! How fast resyncs are served.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, wait_for, wait_lost, wait_uptodate, Load, DEVICE,
};
use weft_qemu_tests::{Cluster, Machine};

const DISK_MIB: u64 = 48;
/// What a node misses while it is away.
const MISSED_MIB: u64 = 24;

/// Cuts the two nodes apart, and lets the second one miss something.
fn miss(cluster: &Cluster) -> Result<()> {
    let (alpha, beta) = (cluster.node(0), cluster.node(1));
    cluster.network().cut_both(0, 1);
    wait_lost(alpha, beta)?;
    wait_lost(beta, alpha)?;
    let script =
        format!("dd if=/dev/urandom of={DEVICE} bs=1M count={MISSED_MIB} oflag=direct 2>&1");
    alpha.sh(&script)?;
    Ok(())
}

/// Waits until a node's resync of its peer is held up by this.
fn wait_held(node: &Machine, peer: &Machine, limit: &str) -> Result<()> {
    let what = format!("the resync to be held up by {limit}");
    wait_for(node, &what, |view| view.peer(peer).resync_limit() == limit).map(drop)
}

#[test]
fn r15_a_resync_keeps_to_its_upper_bound_until_that_is_taken_back() {
    mirror::pair_with(DISK_MIB, "resync-max-rate = \"64K\"\n").test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::connect(cluster)?;
        ensure_refused(
            alpha,
            "weftsetup options r0 --resync-min-rate 1M",
            &["bad-argument", "at least 1048576 and at most 65536"],
        )?;
        // The first sync would take 12 minutes.
        alpha.sh("weft primary --force r0")?;
        wait_held(alpha, beta, "max-rate")?;
        let told = alpha.sh("weft status r0")?;
        ensure!(
            told.contains("held at 64.0 KiB/s by resync-max-rate"),
            "{told}"
        );
        let shown = alpha.sh("weftsetup show r0")?;
        ensure!(shown.contains("--resync-max-rate 65536"), "{shown}");
        alpha.sh("weftsetup options r0 --resync-max-rate 0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r15_a_resync_gives_way_to_a_load_that_waits_and_ends_all_the_same() {
    let lines = "resync-latency-target = 1\nresync-min-rate = \"256K\"\n";
    mirror::pair_with(DISK_MIB, lines).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        miss(cluster)?;
        // In emulated machines no write over the network takes less than a millisecond.
        let load = Load::start(alpha)?;
        cluster.network().heal_all();
        wait_held(alpha, beta, "min-rate")?;
        load.stop()?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
