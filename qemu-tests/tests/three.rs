// SPDX-License-Identifier: GPL-2.0-only
//! Three machines, one device: every mirror stands by itself.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, wait_for, wait_lost, wait_uptodate, Load, Scribe,
    DEVICE,
};
use weft_qemu_tests::{Builder, Machine, View};

const DISK_MIB: u64 = 64;

/// Three machines of which none gives up another one only because the host is busy.
fn patient_trio() -> Builder {
    let config = mirror::config(3).replace("[cluster]\n", "[cluster]\nping_misses = 20\n");
    mirror::trio(DISK_MIB).file("/etc/weft/weft.toml", 0o644, config)
}

/// What a machine's sessions and syncs with a peer amount to: it changes whenever
/// the two had to begin anew.
fn history(machine: &Machine, peer: &Machine) -> Result<(String, u64)> {
    let view = View::of(machine)?;
    let peer = view.peer(peer);
    Ok((peer.session().to_owned(), peer.resync_total()))
}

#[test]
fn files_on_the_primary_are_on_all_three_disks() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::connect(cluster)?;
        // What is on the disk before Weft knows it must arrive as well.
        alpha
            .disk("data")
            .corrupt(50 << 20, b"here before the first sync")?;
        alpha.sh("weft primary --force r0")?;
        wait_uptodate(cluster)?;
        alpha.sh(&format!(
            "mkfs.ext4 -q -E nodiscard {DEVICE} && mount {DEVICE} /mnt && cp -a /usr/sbin /mnt/ && umount /mnt"
        ))?;
        for mirror in [beta, gamma] {
            ensure!(mirror.disk("data").read(50 << 20, 4)? == b"here");
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn status_and_events_tell_of_each_peer() {
    mirror::trio(32).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave(cluster)?;
        let told = alpha.sh("weft status r0")?;
        let each = "connected, secondary\n    volume 0  established  peer disk uptodate";
        for peer in ["beta (node 1)", "gamma (node 2)"] {
            ensure!(told.contains(&format!("{peer}  {each}")), "{told}");
        }
        ensure!(View::of(alpha)?.peers().count() == 2);
        gamma.power_cut()?;
        let view = wait_lost(alpha, gamma)?;
        ensure!(view.peer(beta).is_settled(), "{}", view.summary());
        mirror::ensure_refused(alpha, "weft wait-sync r0 --timeout 1", &["gamma"])?;
        mirror::ensure_refused(alpha, "weft wait-connect r0 --timeout 1", &["gamma"])?;
        let told = alpha.sh("timeout 2 weft events r0 || test $? = 124")?;
        for peer in [
            "peer:1 name:beta",
            "peer:2 name:gamma",
            "peer:1 volume:0",
            "peer:2 volume:0",
        ] {
            ensure!(told.contains(peer), "{told}");
        }
        Ok(())
    });
}

#[test]
fn r7_a_secondary_that_lost_power_fetches_what_it_missed_and_disturbs_nobody() {
    patient_trio().test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave(cluster)?;
        let before = [history(alpha, beta)?, history(beta, alpha)?];
        let load = Load::start(alpha)?;
        gamma.power_cut()?;
        let view = wait_lost(alpha, gamma)?;
        ensure!(
            view.disk() == "uptodate" && view.peer(beta).is_settled(),
            "{}",
            view.summary()
        );
        wait_lost(beta, gamma)?;
        let written = view.written();
        wait_for(alpha, "the load to go on", |view| view.written() > written)?;
        gamma.start()?;
        mirror::rejoin(gamma)?;
        load.stop()?;
        wait_uptodate(cluster)?;
        let view = View::of(gamma)?;
        let fetched = view.peer(alpha).resync_total();
        ensure!(
            (1..(DISK_MIB << 20) / 2).contains(&fetched),
            "transferred {fetched} bytes"
        );
        ensure!(
            before == [history(alpha, beta)?, history(beta, alpha)?],
            "the other mirror was disturbed"
        );
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r7_a_survivor_of_the_primary_has_every_acknowledged_record() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(60)?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        for (survivor, other) in [(beta, gamma), (gamma, beta)] {
            wait_lost(survivor, alpha)?;
            wait_for(survivor, "the survivors to agree", |view| {
                view.disk() == "uptodate" && view.peer(other).is_settled()
            })?;
        }
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", last)?;
        alpha.start()?;
        mirror::rejoin(alpha)?;
        wait_uptodate(cluster)?;
        ensure!(View::of(alpha)?.role() == "secondary");
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r7_a_cut_between_the_secondaries_stops_neither_mirror() {
    patient_trio().test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave(cluster)?;
        let before = [history(alpha, beta)?, history(alpha, gamma)?];
        let load = Load::start(alpha)?;
        cluster.network().cut_both(1, 2);
        wait_lost(beta, gamma)?;
        wait_lost(gamma, beta)?;
        let view = View::of(alpha)?;
        ensure!(view.is_settled(), "{}", view.summary());
        let written = view.written();
        wait_for(alpha, "the load to go on", |view| view.written() > written)?;
        for mirror in [beta, gamma] {
            let view = View::of(mirror)?;
            ensure!(
                view.disk() == "uptodate" && view.peer(alpha).is_settled(),
                "{}: {}",
                mirror.name(),
                view.summary()
            );
        }
        cluster.network().heal_all();
        mirror::wait_connected(beta)?;
        load.stop()?;
        wait_uptodate(cluster)?;
        ensure!(
            before == [history(alpha, beta)?, history(alpha, gamma)?],
            "a mirror was disturbed"
        );
        ensure_equal_disks(cluster)
    });
}
