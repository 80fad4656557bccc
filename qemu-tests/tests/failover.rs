// SPDX-License-Identifier: GPL-2.0-only
//! Machines die, daemons die, cables are pulled: nothing acknowledged is lost,
//! and what comes back fetches only what changed.

use anyhow::{ensure, Context, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_lost, wait_new_session,
    wait_uptodate, Load, Scribe, DEVICE,
};
use weft_qemu_tests::{Machine, View};

const DISK_MIB: u64 = 64;

/// Bytes that the data area has.
fn device_bytes(machine: &Machine) -> Result<u64> {
    Ok(machine
        .sh(&format!("blockdev --getsize64 {DEVICE}"))?
        .parse()?)
}

#[test]
fn every_acknowledged_record_survives_the_power_cut_of_the_primary() {
    mirror::pair(128).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(60)?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        wait_lost(beta, alpha)?;
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", last)?;

        // The old primary returns and fetches only what may differ.
        beta.sh(&format!(
            "mount {DEVICE} /mnt && dd if=/dev/urandom of=/mnt/more bs=64k count=8 conv=fsync 2>&1"
        ))?;
        alpha.start()?;
        mirror::rejoin(alpha)?;
        wait_uptodate(cluster)?;
        let view = View::of(alpha)?;
        ensure!(view.role() == "secondary");
        let fetched = view.peer(beta).resync_total();
        ensure!(
            (1..device_bytes(beta)? / 2).contains(&fetched),
            "transferred {fetched} bytes"
        );
        beta.sh("umount /mnt")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_node_that_was_outdated_is_not_promoted_before_it_has_met_the_newer_data() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        ensure_refused(beta, "weft outdate r0", &["peer-primary", "node 0"])?;
        ensure_refused(alpha, "weft outdate r0", &["is-primary"])?;
        cluster.network().cut_both(0, 1);
        wait_lost(beta, alpha)?;
        let told = beta.sh("weft status r0")?;
        ensure!(told.contains("may be promoted"), "{told}");
        beta.sh("weft outdate r0")?;
        beta.power_cut()?;
        beta.start()?;
        mirror::rejoin(beta)?;
        ensure!(View::of(beta)?.disk() == "outdated");
        let told = beta.sh("weft status r0")?;
        ensure!(
            told.contains("would not be promoted: no-uptodate-disk"),
            "{told}"
        );
        ensure_refused(beta, "weft primary r0", &["no-uptodate-disk"])?;
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        alpha.sh("weft secondary r0")?;
        beta.sh("weft primary r0").map(drop)
    });
}

#[test]
fn a_secondary_that_lost_power_under_load_fetches_only_what_it_missed() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        let load = Load::start(alpha)?;
        beta.power_cut()?;
        let view = wait_lost(alpha, beta)?;
        ensure!(view.disk() == "uptodate");
        beta.start()?;
        load.stop()?;
        mirror::rejoin(beta)?;
        wait_uptodate(cluster)?;
        let fetched = View::of(beta)?.peer(alpha).resync_total();
        ensure!(
            (1..device_bytes(alpha)? / 2).contains(&fetched),
            "transferred {fetched} bytes"
        );
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_cut_network_heals_ten_times_under_load() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        for round in 0..10 {
            let load = Load::start(alpha)?;
            let session = View::of(alpha)?.peer(beta).session().to_owned();
            match round % 3 {
                0 => cluster.network().cut_both(0, 1),
                1 => cluster.network().cut(0, 1),
                _ => cluster.network().cut(1, 0),
            }
            wait_lost(alpha, beta)?;
            wait_lost(beta, alpha)?;
            cluster.network().heal_all();
            wait_new_session(alpha, beta, &session)?;
            load.stop().with_context(|| format!("round {round}"))?;
            wait_uptodate(cluster)?;
            ensure_equal_disks(cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_killed_daemon_interrupts_the_mirror_and_not_the_device() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        for victim in cluster.nodes() {
            let load = Load::start(alpha)?;
            let session = View::of(alpha)?.peer(beta).session().to_owned();
            victim.sh("pkill -KILL -x weftd")?;
            wait_lost(alpha, beta)?;
            mirror::start_daemon(victim)?;
            wait_new_session(alpha, beta, &session)?;
            load.stop().context(victim.name().to_owned())?;
            wait_uptodate(cluster)?;
            ensure_equal_disks(cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_daemon_that_stops_in_good_order_leaves_the_device_working() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        alpha.sh("pkill -TERM -x weftd")?;
        wait_lost(alpha, beta)?;
        alpha.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=4k count=64 oflag=direct 2>&1"
        ))?;
        mirror::start_daemon(alpha)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn roles_can_be_exchanged_back_and_forth() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave_and_mount(cluster)?;
        mirror::ensure_refused(beta, "weft primary r0", &["peer-primary"])?;
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
