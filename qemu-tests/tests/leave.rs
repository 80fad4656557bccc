// SPDX-License-Identifier: GPL-2.0-only
//! Machines that leave in order, and the one that stays.

use anyhow::ensure;
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, wait_uptodate, Scribe,
    DEVICE,
};
use weft_qemu_tests::View;

const DISK_MIB: u64 = 32;

#[test]
fn r8_the_last_one_goes_on_when_the_others_left_in_order_and_leads_again_after_a_power_cut() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave_and_mount(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(10)?;
        for leaver in [gamma, beta] {
            leaver.sh("weft down r0")?;
            let before = scribe.acknowledged();
            scribe.wait_for(before + 10)?;
        }
        let told = alpha.sh("weft status r0")?;
        for text in [
            "quorum yes  1 of 3 voters present, 1 needed; left in order: node 1, 2",
            "left in order at generation",
        ] {
            ensure!(told.contains(text), "{text:?} is missing: {told}");
        }
        ensure!(!View::of(alpha)?.waits_for("quorum"));

        let last = scribe.acknowledged();
        alpha.power_cut()?;
        for leaver in [beta, gamma] {
            leaver.sh("weft up r0")?;
        }
        wait_for(beta, "the other one that left", |view| {
            view.peer(gamma).is_connected()
        })?;
        for leaver in [beta, gamma] {
            ensure_refused(leaver, "weft primary r0", &["no-uptodate-disk"])?;
        }
        let told = beta.sh("weft status r0")?;
        ensure!(told.contains("this node left in order"), "{told}");
        beta.sh("weft down r0")?;
        gamma.sh("weft down r0")?;

        alpha.start()?;
        mirror::rejoin(alpha)?;
        alpha.sh("weft primary r0")?;
        ensure_records(alpha, "/mnt/records", last)?;
        alpha.sh(&format!(
            "mount {DEVICE} /mnt && date >/mnt/note && umount /mnt"
        ))?;
        for leaver in [beta, gamma] {
            leaver.sh("weft up r0")?;
        }
        wait_uptodate(cluster)?;
        let told = alpha.sh("weft status r0")?;
        ensure!(told.contains("3 of 3 voters present, 2 needed"), "{told}");
        ensure!(!told.contains("left in order"), "{told}");
        ensure_equal_disks(cluster)
    });
}

#[test]
fn who_the_primary_needs_for_its_majority_leaves_only_by_force() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave(cluster)?;
        gamma.power_cut()?;
        mirror::wait_lost(alpha, gamma)?;
        ensure_refused(beta, "weft down r0", &["last-vote", "--force"])?;
        ensure!(View::of(beta)?.peer(alpha).is_connected());
        beta.sh("weft down --force r0")?;
        beta.sh("weft up r0")?;
        gamma.start()?;
        mirror::rejoin(gamma)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
