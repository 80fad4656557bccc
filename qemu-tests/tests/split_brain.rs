// SPDX-License-Identifier: GPL-2.0-only
//! Two histories of one device are reported, never merged.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, wait_for, wait_lost, wait_uptodate, DEVICE,
};
use weft_qemu_tests::{Cluster, Machine, View};

/// Lets both nodes be primary while apart, each with a write of its own.
fn part(cluster: &Cluster) -> Result<()> {
    let (alpha, beta) = (cluster.node(0), cluster.node(1));
    cluster.network().cut_both(0, 1);
    wait_lost(alpha, beta)?;
    wait_lost(beta, alpha)?;
    beta.sh("weft primary --force r0")?;
    write(alpha, "alpha was here")?;
    write(beta, "beta was here")
}

/// [`part`], and joins them again.
fn fork(cluster: &Cluster) -> Result<()> {
    let (alpha, beta) = (cluster.node(0), cluster.node(1));
    mirror::weave(cluster)?;
    part(cluster)?;
    cluster.network().heal_all();
    for (node, peer) in [(alpha, beta), (beta, alpha)] {
        wait_for(node, "the split brain to be reported", |view| {
            let peer = view.peer(peer);
            peer.connection() == "standalone" && peer.reason().contains("split brain")
        })?;
    }
    Ok(())
}

fn write(node: &Machine, text: &str) -> Result<()> {
    node.sh(&format!(
        "echo {text} | dd of={DEVICE} bs=4096 conv=sync,fsync 2>&1"
    ))
    .map(drop)
}

fn first_words(node: &Machine) -> Result<String> {
    let content = node.disk("data").read(0, 14)?;
    Ok(String::from_utf8_lossy(&content)
        .trim_end_matches(['\0', '\n', ' '])
        .to_owned())
}

#[test]
fn r5_a_split_brain_is_reported_on_both_sides_and_neither_is_overwritten() {
    mirror::pair(64).test(|cluster| {
        fork(cluster)?;
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        for (node, peer) in [(alpha, beta), (beta, alpha)] {
            let view = View::of(node)?;
            ensure!(view.peer(peer).rule() == "forked", "{}", view.summary());
            ensure!(
                view.role() == "primary" && view.disk() == "uptodate",
                "{}",
                view.summary()
            );
            let told = node.sh("weft status r0")?;
            ensure!(
                told.contains("split brain") && told.contains("discard-my-data"),
                "{told}"
            );
            node.sh("dmesg | grep -i 'split brain'")?;
        }
        ensure!(first_words(alpha)? == "alpha was here");
        ensure!(first_words(beta)?.starts_with("beta was here"));
        Ok(())
    });
}

#[test]
fn r5_the_victim_that_was_chosen_takes_over_the_other_data() {
    mirror::pair(64).test(|cluster| {
        fork(cluster)?;
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::ensure_refused(
            beta,
            "weftsetup connect r0 0 --discard-my-data",
            &["discard-primary"],
        )?;
        beta.sh("weft secondary r0")?;
        beta.sh("weftsetup connect r0 0 --discard-my-data")?;
        alpha.sh("weftsetup connect r0 1")?;
        wait_uptodate(cluster)?;
        ensure!(first_words(beta)? == "alpha was here");
        ensure_equal_disks(cluster)
    });
}

/// Joins the nodes again and waits until a policy has made the data of `victim` the other one's.
fn heal(cluster: &Cluster, policy: &str, victim: u64) -> Result<()> {
    cluster.network().heal_all();
    for (number, peer) in [(0, 1), (1, 0)] {
        let peer = cluster.node(peer);
        wait_for(
            cluster.node(number),
            "the split brain to be solved",
            |view| view.peer(peer).recovery() == (policy, Some(victim)),
        )?;
    }
    wait_uptodate(cluster)?;
    ensure_equal_disks(cluster)?;
    for node in cluster.nodes() {
        let told = node.sh("weft status r0")?;
        let want = format!("(rule forked; {policy}: the data of node {victim} were given up)");
        ensure!(told.contains(&want), "{told}");
        node.sh(&format!("dmesg | grep 'split brain solved by {policy}'"))?;
    }
    Ok(())
}

#[test]
fn r5_a_split_brain_heals_by_itself_as_the_policies_say() {
    let lines =
        "split-brain-0 = \"discard-least-changes\"\nsplit-brain-1 = \"discard-secondary\"\n";
    mirror::pair_with(64, lines).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        part(cluster)?;
        beta.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M seek=8 count=4 oflag=direct"
        ))?;
        beta.sh("weft secondary r0")?;
        heal(cluster, "discard-secondary", 1)?;
        ensure!(first_words(beta)? == "alpha was here");
        ensure!(View::of(alpha)?.role() == "primary");
        part(cluster)?;
        beta.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M seek=8 count=4 oflag=direct"
        ))?;
        cluster.each(|node| node.sh("weft secondary r0").map(drop))?;
        heal(cluster, "discard-least-changes", 0)?;
        ensure!(first_words(alpha)?.starts_with("beta was here"));
        Ok(())
    });
}
