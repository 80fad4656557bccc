// SPDX-License-Identifier: GPL-2.0-only
//! A primary without disk: another machine carries out its requests.

use anyhow::{ensure, Context, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, wait_lost, wait_uptodate,
    Scribe, DEVICE,
};
use weft_qemu_tests::{Cluster, View};

const DISK_MIB: u64 = 64;

/// The machine without disk.
const GAMMA: usize = 2;

/// Has gamma lead, with a file system of its own on the disks of the others.
fn lead_without_disk(cluster: &Cluster) -> Result<()> {
    mirror::weave(cluster)?;
    cluster.node(0).sh("weft secondary r0")?;
    let gamma = cluster.node(GAMMA);
    gamma.sh("weft primary r0")?;
    gamma
        .sh(&format!(
            "mkfs.ext4 -q -E nodiscard {DEVICE} && mount {DEVICE} /mnt"
        ))
        .map(drop)
}

/// The number of the machine that carries out gamma's requests.
fn server(cluster: &Cluster) -> Result<usize> {
    let view = View::of(cluster.node(GAMMA))?;
    let server = view.server().with_context(|| view.summary())?;
    Ok(server as usize)
}

#[test]
fn r9_a_primary_without_disk_goes_on_when_the_machine_that_serves_it_dies() {
    mirror::pair_and_tie_breaker(DISK_MIB).test(|cluster| {
        let gamma = cluster.node(GAMMA);
        lead_without_disk(cluster)?;
        gamma.sh("cp -a /usr/sbin /mnt/ && sync")?;
        let hashes = "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
        let copied = gamma.sh(&format!("cd /usr/sbin && {hashes}"))?;
        let first = server(cluster)?;
        let (first, other) = (cluster.node(first), cluster.node(1 - first));
        let told = first.sh("weft status r0")?;
        ensure!(
            told.contains("carries out the requests of node 2"),
            "{told}"
        );
        ensure_refused(other, "weft primary r0", &["peer-primary"])?;

        let mut scribe = Scribe::start(gamma, "/mnt/records")?;
        scribe.wait_for(20)?;
        first.power_cut()?;
        let before = scribe.acknowledged();
        scribe.wait_for(before + 20)?;
        ensure!(server(cluster)? == usize::from(first.name() == "alpha"));

        first.start()?;
        mirror::rejoin(first)?;
        wait_uptodate(cluster)?;
        let last = scribe.stop()?;
        ensure!(gamma.sh(&format!("cd /mnt/sbin && {hashes}"))? == copied);
        gamma.sh("umount /mnt && weft secondary r0")?;
        first.sh("weft primary r0")?;
        ensure_records(first, "/mnt/records", last)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn a_primary_without_disk_writes_on_when_a_mirror_dies_and_waits_when_no_copy_is_left() {
    mirror::pair_and_tie_breaker(DISK_MIB).test(|cluster| {
        let gamma = cluster.node(GAMMA);
        lead_without_disk(cluster)?;
        let first = server(cluster)?;
        let (first, other) = (cluster.node(first), cluster.node(1 - first));
        let mut scribe = Scribe::start(gamma, "/mnt/records")?;
        scribe.wait_for(10)?;
        other.power_cut()?;
        wait_lost(first, other)?;
        let before = scribe.acknowledged();
        scribe.wait_for(before + 20)?;

        gamma.sh("echo 0 >/proc/sys/kernel/hung_task_timeout_secs")?;
        cluster.network().isolate(GAMMA);
        wait_for(gamma, "the lack of a server to be noticed", |view| {
            view.waits_for("no-server")
        })?;
        let told = gamma.sh("weft status r0")?;
        ensure!(
            told.contains("this node has no good data of its own"),
            "{told}"
        );
        cluster.network().heal_all();
        let before = scribe.acknowledged();
        scribe.wait_for(before + 20)?;
        scribe.stop()?;
        gamma.sh("umount /mnt && weft secondary r0").map(drop)
    });
}
