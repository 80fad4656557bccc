// SPDX-License-Identifier: GPL-2.0-only
//! How fast resyncs are served, whose come first, and what they need not send.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, wait_connected, wait_for, wait_lost, wait_uptodate,
    Load, DEVICE, PATIENCE,
};
use weft_qemu_tests::{eventually, Cluster, Machine, View};

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

#[test]
fn a_resource_waits_for_the_resync_of_another_one() {
    let first = mirror::config(2).replace(
        "name = \"r0\"\n",
        "name = \"r0\"\nresync-max-rate = \"64K\"\n",
    );
    let second =
        mirror::config(2).replace("name = \"r0\"\n", "name = \"r1\"\nresync-after = \"r0\"\n");
    let second = second[second.find("[[resource]]").unwrap()..].to_owned();
    let second = second.replace("minor = 0", "minor = 1");
    let config = first + &second.replace("by-serial/data", "by-serial/more");
    let disks = [("data", DISK_MIB << 20), ("more", DISK_MIB << 20)];
    let machines = Cluster::new(2).disks(&disks);
    let machines = machines.file("/etc/weft/weft.toml", 0o644, config);
    machines.test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        cluster.each(|machine| {
            mirror::prepare(machine)?;
            machine.sh("weft create-md r0 && weft create-md r1")?;
            machine.sh("weft up r1 && weft up r0").map(drop)
        })?;
        cluster.each(wait_connected)?;
        ensure_refused(
            alpha,
            "weftsetup options r0 --resync-after r1",
            &["resync-after-circle", "r0 after r1"],
        )?;
        alpha.sh("weft primary --force r1 && weft primary --force r0")?;
        wait_held(alpha, beta, "max-rate")?;
        for machine in cluster.nodes() {
            eventually("r1 to wait for r0", PATIENCE, || {
                let told = machine.sh("weft status r1")?;
                let waits = told.contains("waits: the resyncs of r0 come first (resync-after)");
                Ok((waits && told.contains("paused-sync-")).then_some(()))
            })?;
        }
        alpha.sh("weftsetup options r0 --resync-max-rate 0")?;
        wait_uptodate(cluster)?;
        cluster.each(|machine| machine.sh("weft wait-sync r1 --timeout 600").map(drop))
    });
}

#[test]
fn only_what_differs_is_sent_when_it_is_asked_for_by_digest() {
    mirror::pair_with(DISK_MIB, "csums-resync = \"yes\"\n").test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        mirror::refill_under_load(cluster)?;
        for (node, peer) in [(alpha, beta), (beta, alpha)] {
            let view = View::of(node)?;
            let (equal, total) = (
                view.peer(peer).found_equal(),
                view.peer(peer).resync_total(),
            );
            // The load is in the first 16 MiB.
            ensure!(equal >= total / 2, "{equal} of {total} bytes");
            ensure!(equal + (128 << 10) <= total, "{equal} of {total} bytes");
        }
        ensure_equal_disks(cluster)
    });
}
