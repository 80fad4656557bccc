// SPDX-License-Identifier: GPL-2.0-only
//! A link of 1 Mbit/s, and an application that writes more than fits through it.

use anyhow::{ensure, Result};
use nix::sys::signal::Signal;
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, wait_for, wait_lost, wait_uptodate, DEVICE,
    LONG_PATIENCE, PATIENCE,
};
use weft_qemu_tests::{Cluster, Command, Machine, Process};

const DISK_MIB: u64 = 32;
/// Bytes per second that fit through the link.
const RATE: u64 = 125_000;
/// What an application gets done before a test goes on: the link would need half a minute for it.
const WRITTEN: u64 = 4 << 20;
const AHEAD: &str = "on-congestion = \"pull-ahead\"\ncongestion-fill = \"64K\"\n";

fn slow_down(cluster: &Cluster) {
    for (from, to) in [(0, 1), (1, 0)] {
        cluster
            .network()
            .change(from, to, |link| link.rate = Some(RATE));
    }
}

/// Random writes to 4 MiB, as many as the device takes.
fn flood(machine: &Machine) -> Result<Process> {
    let fio = format!(
        "fio --name=flood --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite --bs=16k \
         --iodepth=16 --size=4m --fsync=64 --time_based --runtime={} --minimal",
        LONG_PATIENCE.as_secs()
    );
    machine.spawn(&Command::shell(&fio))
}

/// Ends it; fails if a write or a flush has failed.
fn end(mut flood: Process) -> Result<()> {
    flood.signal(Signal::SIGINT)?;
    let output = flood.wait(PATIENCE)?;
    ensure!(
        output.code == 128,
        "the application noticed: {}",
        output.error_text()
    );
    Ok(())
}

/// Waits until `machine` has written a lot and `peer` is left behind.
fn wait_ahead(machine: &Machine, peer: &Machine, before: u64) -> Result<()> {
    wait_for(machine, "the peer to be left behind", |view| {
        ["ahead", "sync-only"].contains(&view.peer(peer).pace())
    })?;
    let view = wait_for(machine, "writes to go on", |view| {
        view.written() > before + WRITTEN
    })?;
    ensure!(view.peer(peer).lag().0 > 0, "{}", view.summary());
    Ok(())
}

#[test]
fn r16_a_link_of_1_mbit_overflows_and_both_copies_are_equal_after_every_switch() {
    mirror::pair_with(DISK_MIB, AHEAD).test(|cluster| {
        mirror::weave(cluster)?;
        slow_down(cluster);
        for round in 0..3 {
            let (from, to) = (round % 2, 1 - round % 2);
            let (primary, secondary) = (cluster.node(from), cluster.node(to));
            let before = wait_for(primary, "its role", |view| view.role() == "primary")?.written();
            let flood = flood(primary)?;
            wait_ahead(primary, secondary, before)?;
            let told = primary.sh("weft status r0")?;
            ensure!(told.contains("does not keep up: "), "{told}");
            match round {
                0 => {
                    cluster.network().cut_both(0, 1);
                    wait_lost(secondary, primary)?;
                    ensure_refused(secondary, "weft primary r0", &["no-uptodate-disk"])?;
                    cluster.network().heal_all();
                    slow_down(cluster);
                }
                1 => {
                    secondary.power_cut()?;
                    secondary.start()?;
                    mirror::rejoin(secondary)?;
                }
                _ => {}
            }
            end(flood)?;
            wait_uptodate(cluster)?;
            ensure_equal_disks(cluster)?;
            primary.sh("weft secondary r0")?;
            secondary.sh("weft primary r0")?;
        }
        Ok(())
    });
}

#[test]
fn r14_writes_wait_for_a_slow_peer_unless_it_is_to_be_left_behind() {
    mirror::pair(DISK_MIB).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        slow_down(cluster);
        let flood = flood(alpha)?;
        let before = wait_for(alpha, "writes", |view| view.written() > 0)?.written();
        ensure_refused(
            alpha,
            "weftsetup options r0 --pull-ahead 1 --congestion-fill 1G",
            &["bad-argument"],
        )?;
        ensure_refused(
            alpha,
            "weftsetup options r0 --pull-ahead 5",
            &["no-such-peer", "node 5"],
        )?;
        let told = wait_for(alpha, "a lag", |view| view.peer(beta).lag().1 > 0)?;
        ensure!(told.peer(beta).replication() == "established");
        alpha.sh("weftsetup options r0 --pull-ahead 1 --congestion-fill 64K")?;
        wait_ahead(alpha, beta, before)?;
        let shown = alpha.sh("weftsetup show r0")?;
        ensure!(
            shown.contains("--pull-ahead 1 --congestion-fill 65536"),
            "{shown}"
        );
        alpha.sh("weftsetup options r0 --pull-ahead none")?;
        end(flood)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
