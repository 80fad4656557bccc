// SPDX-License-Identifier: GPL-2.0-only
//! A primary loses its disk, and the application on it notices nothing.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, ensure_switch, wait_for, wait_lost, wait_uptodate,
    Load, Scribe, DEVICE,
};
use weft_qemu_tests::{Cluster, View};

const DISK_MIB: u64 = 32;

/// Has the application write on, with the disk of the other machine.
fn ensure_served(cluster: &Cluster, scribe: &mut Scribe) -> Result<()> {
    let alpha = cluster.node(0);
    wait_for(alpha, "beta to serve", |view| view.server() == Some(1))?;
    ensure!(View::of(alpha)?.role() == "primary");
    let before = scribe.acknowledged();
    scribe.wait_for(before + 20)
}

/// Gives the disk back, and finds all records on both.
fn ensure_whole_again(cluster: &Cluster, mut scribe: Scribe) -> Result<()> {
    let alpha = cluster.node(0);
    alpha.sh("weft up r0")?;
    wait_uptodate(cluster)?;
    wait_for(alpha, "alpha to lead itself", |view| {
        view.server().is_none()
    })?;
    let before = scribe.acknowledged();
    scribe.wait_for(before + 20)?;
    ensure_switch(cluster, scribe.stop()?)
}

#[test]
fn r10_an_application_goes_on_when_the_disk_of_its_primary_fails() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let alpha = cluster.node(0);
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        alpha.disk("data").fail_all();
        ensure_served(cluster, &mut scribe)?;
        wait_for(alpha, "the disk to be let go", |view| {
            view.disk() == "diskless"
        })?;
        alpha.disk("data").repair();
        ensure_whole_again(cluster, scribe)
    });
}

#[test]
fn a_disk_is_exchanged_under_an_application() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        alpha.sh("weftsetup detach r0 0")?;
        ensure_served(cluster, &mut scribe)?;
        ensure_refused(beta, "weftsetup detach r0 0", &["last-copy"])?;
        ensure_whole_again(cluster, scribe)
    });
}

#[test]
fn r10_reads_and_writes_of_all_sizes_survive_the_failure_of_a_disk_and_the_last_one_is_kept() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        let load = Load::start(alpha)?;
        alpha.disk("data").fail_all();
        wait_for(alpha, "beta to serve", |view| view.server() == Some(1))?;
        let before = View::of(alpha)?.written();
        wait_for(alpha, "the load to go on", |view| view.written() > before)?;
        load.stop()?;
        alpha.sh(&format!(
            "dd if={DEVICE} of=/dev/null bs=64k iflag=direct 2>&1"
        ))?;
        alpha.disk("data").repair();
        alpha.sh("weft up r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        // Without a second copy there is nobody to take over.
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        ensure_refused(alpha, "weftsetup detach r0 0", &["last-copy"])
    });
}
