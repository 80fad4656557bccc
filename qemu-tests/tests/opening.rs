// SPDX-License-Identifier: GPL-2.0-only
//! Programs that open the device on a secondary, and so make it primary until the last close.

use std::thread;

use anyhow::{anyhow, ensure, Result};
use weft_qemu_tests::mirror::{self, ensure_equal_disks, wait_lost, wait_uptodate, DEVICE};
use weft_qemu_tests::{Cluster, Command, Machine, View};

const DISK_MIB: u64 = 32;

/// The device is mounted, something is written, and it is unmounted again.
fn visit(note: &str) -> String {
    format!("mount {DEVICE} /mnt && echo {note} >>/mnt/notes && umount /mnt")
}

/// A mirror with a file system, and nobody is primary.
fn prepare(cluster: &Cluster) -> Result<[&Machine; 2]> {
    mirror::weave(cluster)?;
    let nodes = [0, 1].map(|node| cluster.node(node));
    nodes[0].sh(&format!(
        "mkfs.ext4 -q -E nodiscard {DEVICE} && weft secondary r0"
    ))?;
    Ok(nodes)
}

fn ensure_secondary(machine: &Machine) -> Result<()> {
    let view = View::of(machine)?;
    ensure!(view.role() == "secondary", "{}", view.summary());
    Ok(())
}

#[test]
fn a_mount_makes_a_node_primary_and_the_umount_leaves_the_device_to_the_other_one() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let [alpha, beta] = prepare(cluster)?;
        // Nobody wants the role who only looks.
        let looked = beta.run(&Command::shell(&format!("head -c 1 {DEVICE}")))?;
        ensure!(looked.code != 0, "a secondary was read");
        ensure!(
            looked.error_text().contains("medium"),
            "{}",
            looked.error_text()
        );

        for round in 0..3 {
            for machine in [beta, alpha] {
                machine.sh(&visit(&format!("{}-{round}", machine.name())))?;
                ensure_secondary(machine)?;
            }
        }

        // What many opens write to the kernel log hides no refusal.
        alpha.sh(&format!("for i in $(seq 30); do (exec 3<>{DEVICE}); done"))?;
        beta.sh(&format!("mount {DEVICE} /mnt"))?;
        let told = beta.sh("weft status r0")?;
        ensure!(told.contains("primary (auto)"), "{told}");
        let mounted = alpha.run(&Command::shell(&format!("mount {DEVICE} /mnt")))?;
        ensure!(mounted.code != 0, "mounted on both nodes");
        let opened = alpha.run(&Command::shell(&format!("exec 3<>{DEVICE}")))?;
        let error = opened.error_text();
        ensure!(error.contains("busy"), "{error}");
        let log = alpha.sh("dmesg | grep 'not opened, not promoted'")?;
        ensure!(
            log.contains("Another node is primary.") && log.contains("weft secondary"),
            "{log}"
        );
        let notes = beta.sh("wc -l </mnt/notes")?;
        ensure!(notes.trim() == "6", "{notes}");
        // A person's word outlasts the close.
        beta.sh("weft primary r0 && umount /mnt")?;
        ensure!(View::of(beta)?.role() == "primary");
        beta.sh("weft secondary r0")?;
        alpha.sh(&format!("e2fsck -fy {DEVICE} && {}", visit("last")))?;
        ensure_secondary(alpha)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn of_two_mounts_at_the_same_time_one_succeeds() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let [alpha, beta] = prepare(cluster)?;
        for _ in 0..5 {
            let mount =
                |machine: &Machine| machine.run(&Command::shell(&format!("mount {DEVICE} /mnt")));
            let mounted = thread::scope(|scope| -> Result<Vec<bool>> {
                let mounts = [alpha, beta].map(|machine| scope.spawn(move || mount(machine)));
                let codes = mounts.map(|it| it.join().map_err(|_| anyhow!("a mount panicked"))?);
                codes.into_iter().map(|it| Ok(it?.code == 0)).collect()
            })?;
            let winners: Vec<&Machine> = [alpha, beta]
                .into_iter()
                .zip(&mounted)
                .filter_map(|(machine, is_mounted)| is_mounted.then_some(machine))
                .collect();
            ensure!(winners.len() == 1, "mounted: {mounted:?}");
            winners[0].sh("date >/mnt/note && umount /mnt")?;
            ensure_secondary(winners[0])?;
        }
        alpha.sh(&format!("e2fsck -fy {DEVICE} 2>&1"))?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn who_opens_in_vain_can_be_killed_and_forks_nothing() {
    let lines = "auto-promote-timeout = 60\n";
    mirror::pair_with(DISK_MIB, lines).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        alpha.sh("weft secondary r0")?;
        cluster.network().isolate(0);
        wait_lost(beta, alpha)?;
        let open = format!("exec 3<>{DEVICE}");
        let killed = beta.run(&Command::shell(&format!(
            "timeout 3 bash -c '{open}'; echo $?"
        )))?;
        ensure!(killed.text().trim() == "124", "{}", killed.text());
        ensure_secondary(beta)?;
        let told = beta.run(&Command::shell(&format!(
            "weftsetup options r0 --auto-promote-timeout 1 && {open}"
        )))?;
        ensure!(told.code != 0, "opened although the peer may be primary");
        beta.sh("dmesg | grep 'not opened, not promoted' | grep 'weft primary'")?;
        cluster.network().heal_all();
        beta.sh("weft wait-connect r0")?;
        beta.sh(&format!("{open} && exec 3>&-"))?;
        ensure_secondary(beta)
    });
}
