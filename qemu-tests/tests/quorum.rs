// SPDX-License-Identifier: GPL-2.0-only
//! Three machines that vote: a majority goes on, and nobody else does.

use std::thread;

use anyhow::{anyhow, ensure, Context, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, ensure_switch, let_requests_wait,
    wait_for, wait_lost, wait_uptodate, Scribe, DEVICE,
};
use weft_qemu_tests::{Cluster, Command, Machine, View};

const DISK_MIB: u64 = 32;

/// Weaves the mirror, and cuts its primary, the first node, off when that many records are written.
fn isolate_writer(cluster: &Cluster, records: u64) -> Result<Scribe> {
    let alpha = cluster.node(0);
    mirror::weave_and_mount(cluster)?;
    let_requests_wait(alpha)?;
    let mut scribe = Scribe::start(alpha, "/mnt/records")?;
    scribe.wait_for(records)?;
    cluster.network().isolate(0);
    wait_for(alpha, "the lack of a majority to be noticed", |view| {
        view.waits_for("quorum")
    })?;
    Ok(scribe)
}

#[test]
fn r8_an_isolated_primary_waits_and_says_why_and_the_majority_goes_on() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        let mut scribe = isolate_writer(cluster, 40)?;
        let told = alpha.sh("weft status r0")?;
        for text in [
            "quorum no  1 of 3 voters present",
            "no majority of the voters",
        ] {
            ensure!(told.contains(text), "{text:?} is missing: {told}");
        }

        for survivor in [beta, gamma] {
            wait_lost(survivor, alpha)?;
        }
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", scribe.acknowledged())?;
        beta.sh(&format!(
            "mount {DEVICE} /mnt && date >/mnt/note && umount /mnt"
        ))?;
        let view = View::of(alpha)?;
        ensure!(view.waits_for("quorum"), "{}", view.summary());
        let acknowledged = scribe.acknowledged();

        cluster.network().heal_all();
        let code = scribe.wait_for_end()?;
        ensure!(code != 0, "what waited did not fail");
        ensure!(scribe.acknowledged() == acknowledged, "it went on alone");
        wait_for(alpha, "alpha to step down", |view| {
            view.role() == "secondary"
        })?;
        alpha.sh("umount /mnt")?;
        wait_uptodate(cluster)?;
        beta.sh("weft secondary r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        alpha.sh("weft primary r0")?;
        ensure_records(alpha, "/mnt/records", acknowledged)?;
        alpha
            .sh(&format!(
                "mount {DEVICE} /mnt && test -s /mnt/note && umount /mnt"
            ))
            .map(drop)
    });
}

#[test]
fn r8_a_primary_that_waits_for_a_majority_is_demoted_by_force() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        let mut scribe = isolate_writer(cluster, 10)?;
        ensure_refused(alpha, "weft secondary r0", &["device-open"])?;
        alpha.sh("weft secondary r0 --force")?;
        ensure!(scribe.wait_for_end()? != 0, "what waited did not fail");
        ensure!(View::of(alpha)?.role() == "secondary");
        ensure_refused(alpha, "weft primary r0", &["device-open"])?;
        // A file system that cannot write its last blocks says so.
        alpha.sh("umount /mnt || umount -l /mnt")?;

        for survivor in [beta, gamma] {
            wait_lost(survivor, alpha)?;
        }
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", scribe.acknowledged())?;
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        beta.sh("weft secondary r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r8_a_primary_that_waits_goes_on_when_one_voter_is_back() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        let mut scribe = isolate_writer(cluster, 10)?;
        let before = scribe.acknowledged();
        wait_lost(beta, alpha)?;
        cluster.network().heal(0, 1);
        cluster.network().heal(1, 0);
        scribe.wait_for(before + 10)?;
        cluster.network().heal_all();
        ensure_switch(cluster, scribe.stop()?)
    });
}

#[test]
fn r8_a_minority_promotes_nobody() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, gamma) = (cluster.node(0), cluster.node(2));
        mirror::weave(cluster)?;
        cluster.network().isolate(2);
        wait_lost(gamma, alpha)?;
        wait_lost(gamma, cluster.node(1))?;
        ensure_refused(gamma, "weft primary r0", &["no-quorum"])?;
        ensure!(View::of(alpha)?.role() == "primary");
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn r8_a_tie_breaker_keeps_the_device_alive_whichever_disk_is_lost() {
    mirror::pair_and_tie_breaker(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave_and_mount(cluster)?;
        ensure_refused(gamma, "weft create-md r0", &["is-tie-breaker"])?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(10)?;
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        let before = scribe.acknowledged();
        scribe.wait_for(before + 20)?;
        let told = alpha.sh("weft status r0")?;
        ensure!(told.contains("quorum yes  2 of 3 voters present"), "{told}");
        beta.start()?;
        mirror::rejoin(beta)?;
        wait_uptodate(cluster)?;

        let before = scribe.acknowledged();
        scribe.wait_for(before + 10)?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        for survivor in [beta, gamma] {
            wait_lost(survivor, alpha)?;
        }
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", last)?;
        alpha.start()?;
        mirror::rejoin(alpha)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

/// Whether a promotion went well; if not, it must have lost against another one.
fn promote(machine: &Machine) -> Result<bool> {
    let output = machine.run(&Command::shell("weft primary r0"))?;
    let said = output.error_text();
    let lost = ["in-transition", "peer-primary", "election-lost"];
    ensure!(
        output.code == 0 || lost.iter().any(|code| said.contains(code)),
        "{}: {said}",
        machine.name()
    );
    Ok(output.code == 0)
}

/// Both of them, at the same time.
fn promote_both(one: &Machine, other: &Machine) -> Result<[bool; 2]> {
    thread::scope(|scope| {
        let asked = scope.spawn(|| promote(one));
        let theirs = promote(other);
        let ours = asked.join().map_err(|_| anyhow!("panicked"))?;
        Ok([ours?, theirs?])
    })
}

#[test]
fn r8_of_two_promotions_at_once_one_wins() {
    mirror::trio(DISK_MIB).test(|cluster| {
        let (alpha, beta, gamma) = (cluster.node(0), cluster.node(1), cluster.node(2));
        mirror::weave(cluster)?;
        alpha.sh("weft secondary r0")?;
        for round in 0..4 {
            wait_uptodate(cluster)?;
            let won = promote_both(beta, gamma)?;
            ensure!(won[0] != won[1], "round {round}: {won:?}");
            let (winner, loser) = if won[0] { (beta, gamma) } else { (gamma, beta) };
            wait_for(loser, "the winner to be known", |view| {
                view.role() == "secondary" && view.peer(winner).role() == "primary"
            })?;
            let write = format!("dd if=/dev/urandom of={DEVICE} bs=4k count=16 oflag=direct 2>&1");
            winner
                .sh(&write)
                .with_context(|| format!("round {round}"))?;
            winner.sh("weft secondary r0")?;
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
