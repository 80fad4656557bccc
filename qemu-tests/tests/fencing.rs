// SPDX-License-Identifier: GPL-2.0-only
//! Two machines without a majority: who loses his peer goes on only once a program has stopped it.

use anyhow::{anyhow, ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_records, ensure_refused, ensure_switch, let_requests_wait, rejoin, wait_for,
    wait_lost, wait_uptodate, Scribe,
};
use weft_qemu_tests::{Builder, Cluster, Machine, View};

const DISK_MIB: u64 = 32;
/// Records that both have before they lose each other.
const SHARED: u64 = 20;
const SHOT: u32 = 7;
const FAILED: u32 = 1;

/// Answers what the test says, when it says it.
const HANDLER: &str = r#"#!/bin/bash
echo "$WEFT_RESOURCE on $WEFT_NODE: $WEFT_PEER $WEFT_PEER_ID $WEFT_MINORS" >/run/fence-asked
exit "$(cat /run/fence-answer)"
"#;

fn fenced_pair(policy: &str) -> Builder {
    let lines = format!(
        "protocol = \"C\"\nfencing = \"{policy}\"\n\
         [resource.handlers]\nfence-peer = \"/usr/local/lib/weft-fence\"\n"
    );
    let config = mirror::config(2).replace("protocol = \"C\"\n", &lines);
    mirror::pair(DISK_MIB)
        .file("/etc/weft/weft.toml", 0o644, config)
        .file("/usr/local/lib/weft-fence", 0o755, HANDLER)
}

fn weave(cluster: &Cluster) -> Result<()> {
    cluster.each(|machine| machine.sh("mkfifo /run/fence-answer").map(drop))?;
    mirror::weave_and_mount(cluster)
}

/// Lets the handler that runs, or the next one, end with that exit code.
fn answer(machine: &Machine, code: u32) -> Result<()> {
    machine
        .sh(&format!(
            "timeout 120 bash -c 'echo {code} >/run/fence-answer'"
        ))
        .map(drop)
}

/// Does something that waits for the handler.
fn while_answering(
    machine: &Machine,
    code: u32,
    act: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    std::thread::scope(|scope| {
        let act = scope.spawn(act);
        answer(machine, code)?;
        act.join().map_err(|_| anyhow!("what waited panicked"))?
    })
}

/// Loses the secondary, without a word, while the primary writes.
fn lose_beta(cluster: &Cluster, scribe: &mut Scribe) -> Result<()> {
    let_requests_wait(cluster.node(0))?;
    scribe.wait_for(SHARED)?;
    cluster.network().isolate(1);
    wait_lost(cluster.node(0), cluster.node(1)).map(drop)
}

#[test]
fn a_primary_waits_until_the_peer_that_it_lost_is_shot() {
    fenced_pair("resource-and-stonith").test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        lose_beta(cluster, &mut scribe)?;
        let is_waiting = |view: &View| view.waits_for("fencing");
        wait_for(alpha, "requests to wait for the handler", is_waiting)?;
        let told = alpha.sh("weft status r0")?;
        let before = scribe.acknowledged();
        ensure!(told.contains("until it is fenced"), "{told}");

        answer(alpha, FAILED)?;
        let asked = alpha.sh("cat /run/fence-asked")?;
        ensure!(asked.trim() == "r0 on alpha: beta 1 0", "{asked}");
        wait_for(alpha, "requests to wait on", is_waiting)?;
        ensure!(
            scribe.acknowledged() == before,
            "it went on with its peer alive"
        );

        beta.power_cut()?;
        answer(alpha, SHOT)?;
        scribe.wait_for(before + 20)?;
        let last = scribe.stop()?;

        cluster.network().heal_all();
        beta.start()?;
        beta.sh("mkfifo /run/fence-answer")?;
        rejoin(beta)?;
        wait_uptodate(cluster)?;
        ensure_switch(cluster, last)
    });
}

#[test]
fn a_node_is_promoted_once_the_primary_that_it_lost_is_shot() {
    fenced_pair("resource-only").test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave(cluster)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        lose_beta(cluster, &mut scribe)?;
        wait_lost(beta, alpha)?;
        // With this policy the primary goes on while it asks.
        let before = scribe.acknowledged();
        scribe.wait_for(before + 5)?;

        while_answering(beta, FAILED, || {
            ensure_refused(beta, "weft primary r0", &["peer-not-fenced"])
        })?;
        alpha.power_cut()?;
        while_answering(beta, SHOT, || beta.sh("weft primary r0").map(drop))?;
        ensure_records(beta, "/mnt/records", SHARED)
    });
}
