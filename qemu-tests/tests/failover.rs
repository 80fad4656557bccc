// SPDX-License-Identifier: GPL-2.0-only
//! Machines die, daemons die, cables are pulled: nothing acknowledged is lost,
//! and what comes back fetches only what changed.

use anyhow::{ensure, Result};
use weft_qemu_tests::pair::{
    self, ensure_equal_disks, ensure_records, load, wait_for, wait_uptodate, Scribe, View, DEVICE,
    LONG_PATIENCE,
};
use weft_qemu_tests::{Cluster, Machine};

const DISK_MIB: u64 = 128;

/// A woven pair with a file system on alpha, mounted.
fn weave_and_mount(cluster: &Cluster) -> Result<()> {
    pair::weave(cluster)?;
    cluster
        .node(0)
        .sh(&format!(
            "mkfs.ext4 -q -E nodiscard {DEVICE} && mount {DEVICE} /mnt"
        ))
        .map(drop)
}

/// Bytes that the data area has.
fn device_bytes(machine: &Machine) -> Result<u64> {
    Ok(machine
        .sh(&format!("blockdev --getsize64 {DEVICE}"))?
        .parse()?)
}

#[test]
fn every_acknowledged_record_survives_the_power_cut_of_the_primary() {
    pair::machines(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(60)?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        wait_for(beta, "the loss to be noticed", |view| {
            view.connection() != "connected"
        })?;
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", last)?;

        // The old primary returns and fetches only what may differ.
        beta.sh(&format!(
            "mount {DEVICE} /mnt && dd if=/dev/urandom of=/mnt/more bs=64k count=8 conv=fsync 2>&1"
        ))?;
        alpha.start()?;
        pair::rejoin(alpha)?;
        wait_uptodate(cluster)?;
        let view = View::of(alpha)?;
        ensure!(view.role() == "secondary");
        ensure!(
            (1..device_bytes(beta)? / 2).contains(&view.resync_total()),
            "transferred {} bytes",
            view.resync_total()
        );
        beta.sh("umount /mnt")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_secondary_that_lost_power_under_load_fetches_only_what_it_missed() {
    pair::machines(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        pair::weave(cluster)?;
        let mut writer = load(alpha, 25)?;
        wait_for(alpha, "some load", |view| view.written() > 1 << 20)?;
        beta.power_cut()?;
        wait_for(alpha, "the loss to be noticed", |view| {
            view.connection() != "connected"
        })?;
        ensure!(View::of(alpha)?.disk() == "uptodate");
        let output = writer.wait(LONG_PATIENCE)?;
        ensure!(
            output.code == 0,
            "the application noticed: {}",
            output.error_text()
        );
        beta.start()?;
        pair::rejoin(beta)?;
        wait_uptodate(cluster)?;
        let view = View::of(beta)?;
        ensure!(
            (1..device_bytes(alpha)? / 2 + 1).contains(&view.resync_total()),
            "{}",
            view.resync_total()
        );
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_cut_network_heals_ten_times_under_load() {
    pair::machines(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        pair::weave(cluster)?;
        for round in 0..10 {
            let mut writer = load(alpha, 10)?;
            let session = View::of(alpha)?.session().to_owned();
            match round % 3 {
                0 => cluster.network().cut_both(0, 1),
                1 => cluster.network().cut(0, 1),
                _ => cluster.network().cut(1, 0),
            }
            wait_for(alpha, "alpha to notice the cut", |view| {
                view.connection() != "connected"
            })?;
            wait_for(beta, "beta to notice the cut", |view| {
                view.connection() != "connected"
            })?;
            cluster.network().heal_all();
            wait_for(alpha, "a new session", |view| {
                view.connection() == "connected" && view.session() != session
            })?;
            let output = writer.wait(LONG_PATIENCE)?;
            ensure!(output.code == 0, "round {round}: {}", output.error_text());
            wait_uptodate(cluster)?;
            ensure_equal_disks(cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_killed_daemon_interrupts_the_mirror_and_not_the_device() {
    pair::machines(DISK_MIB).test(|cluster| {
        let alpha = cluster.node(0);
        pair::weave(cluster)?;
        for victim in cluster.nodes() {
            let mut writer = load(alpha, 15)?;
            let session = View::of(alpha)?.session().to_owned();
            victim.sh("pkill -KILL -x weftd")?;
            wait_for(alpha, "the session to end", |view| {
                view.connection() != "connected"
            })?;
            pair::start_daemon(victim)?;
            wait_for(alpha, "a new session", |view| {
                view.connection() == "connected" && view.session() != session
            })?;
            let output = writer.wait(LONG_PATIENCE)?;
            ensure!(
                output.code == 0,
                "{}: {}",
                victim.name(),
                output.error_text()
            );
            wait_uptodate(cluster)?;
            ensure_equal_disks(cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_daemon_that_stops_in_good_order_leaves_the_device_working() {
    pair::machines(64).test(|cluster| {
        let alpha = cluster.node(0);
        pair::weave(cluster)?;
        alpha.sh("pkill -TERM -x weftd")?;
        wait_for(alpha, "the session to end", |view| {
            view.connection() != "connected"
        })?;
        alpha.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=4k count=64 oflag=direct 2>&1"
        ))?;
        pair::start_daemon(alpha)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn roles_can_be_exchanged_back_and_forth() {
    pair::machines(64).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave_and_mount(cluster)?;
        pair::ensure_refused(beta, "weft primary r0", &["peer-primary"])?;
        alpha.sh("echo from alpha >/mnt/note && umount /mnt && weft secondary r0")?;
        for (number, node) in [beta, alpha, beta].into_iter().enumerate() {
            node.sh("weft primary r0")?;
            let notes = node.sh(&format!("mount {DEVICE} /mnt && cat /mnt/note"))?;
            ensure!(notes.lines().count() == number + 1, "lost a note: {notes}");
            node.sh("echo more >>/mnt/note && umount /mnt && weft secondary r0")?;
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
