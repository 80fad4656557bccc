// SPDX-License-Identifier: GPL-2.0-only
//! Weft's main job, shown: two machines, one mirrored disk, real files, a power
//! cut in the middle of a write, and all the data on the other machine.
//!
//! Ends with exit code 0 only if every claim that it prints was checked.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use weft_qemu_tests::mirror::{self, Scribe, DEVICE, LONG_PATIENCE};
use weft_qemu_tests::{eventually, Cluster, Command, Machine, View};

const DISK_MIB: u64 = 512;
/// Acknowledged records after which the power is cut.
const RECORDS: u64 = 100;
/// Hash of every file below /mnt/usr, in one line.
const HASHES: &str =
    "cd /mnt/usr && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";

/// Prints what happens, one step after the other.
struct Story {
    begun: Instant,
    step: u32,
}

impl Story {
    fn step(&mut self, title: &str) {
        self.step += 1;
        println!(
            "\n[{:>2}] {title}   ({} s)",
            self.step,
            self.begun.elapsed().as_secs()
        );
    }

    fn say(&self, line: &str) {
        for line in line.lines() {
            println!("     {line}");
        }
    }

    /// Runs a command in a machine as somebody would type it, and shows both.
    fn type_in(&self, machine: &Machine, script: &str) -> Result<String> {
        println!("     {}# {script}", machine.name());
        let output = machine.succeed(&Command::shell(script).limit(LONG_PATIENCE))?;
        self.say(&output);
        Ok(output)
    }
}

/// A line that is drawn over on a terminal, and printed every tenth otherwise.
struct Progress {
    terminal: bool,
    tenth: u64,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            tenth: 0,
        }
    }

    fn show(&mut self, done: u64, total: u64, since: Instant) {
        let percent = done * 100 / total.max(1);
        let seconds = since.elapsed().as_secs_f64().max(0.1);
        let rate = done as f64 / seconds;
        let left = (total.saturating_sub(done)) as f64 / rate.max(1.0);
        let line = format!(
            "{percent:>3} % of {} MiB, {:.1} MiB/s, {left:.0} s left",
            total >> 20,
            rate / f64::from(1 << 20)
        );
        if self.terminal {
            print!("\r     {line}        ");
            let _ = std::io::stdout().flush();
        } else if percent / 10 > self.tenth {
            self.tenth = percent / 10;
            println!("     {line}");
        }
    }
}

/// Shows the sync from `source` to `target` until both disks are uptodate; returns its bytes.
fn watch_sync(cluster: &Cluster, source: &Machine, target: &Machine) -> Result<u64> {
    let (since, mut progress) = (Instant::now(), Progress::new());
    let total = eventually("the sync to end", LONG_PATIENCE, || {
        let view = View::of(target)?;
        let peer = view.peer(source);
        if peer.replication() == "sync-target" {
            progress.show(peer.resync_done(), peer.resync_total(), since);
        }
        Ok(view.is_settled().then(|| peer.resync_total()))
    })?;
    mirror::wait_uptodate(cluster)?;
    if progress.terminal {
        println!();
    }
    Ok(total)
}

fn tell(story: &mut Story, cluster: &Cluster) -> Result<()> {
    let (alpha, beta) = (cluster.node(0), cluster.node(1));

    story.step("A disk of each machine becomes one half of a mirror");
    for machine in cluster.nodes() {
        mirror::prepare(machine)?;
        story.type_in(machine, "weft create-md r0")?;
        story.type_in(machine, "weft up r0")?;
    }
    story.type_in(beta, "weft wait-connect r0 --timeout 60")?;

    story.step("alpha becomes primary; its disk is copied to beta");
    story.type_in(alpha, "weft primary --force r0")?;
    let copied = watch_sync(cluster, alpha, beta)?;
    story.say(&format!("{} MiB copied", copied >> 20));
    story.type_in(alpha, "weft status r0")?;

    story.step("Real data: a file system with the machine's own /usr on it");
    story.type_in(
        alpha,
        &format!("mkfs.ext4 -q -E nodiscard {DEVICE} && mount {DEVICE} /mnt"),
    )?;
    story.type_in(
        alpha,
        "mkdir /mnt/usr && cp -a /usr/bin /usr/sbin /usr/share /mnt/usr/ && sync",
    )?;
    let files: u64 = alpha.sh("find /mnt/usr -type f | wc -l")?.parse()?;
    story.say(&format!(
        "{files} files, {}",
        alpha.sh("du -sh /mnt/usr | cut -f1")?
    ));
    ensure!(
        files >= 2000,
        "only {files} files: too few to prove anything"
    );
    let hashes = alpha.succeed(&Command::shell(HASHES).limit(LONG_PATIENCE))?;

    story.step("A program on alpha writes records, each with fsync. In the middle of it, alpha loses power");
    let mut scribe = Scribe::start(alpha, "/mnt/records")?;
    scribe.wait_for(RECORDS)?;
    let cut = Instant::now();
    alpha.power_cut()?;
    let last = scribe.acknowledged();
    story.say(&format!(
        "power cut; the last record that fsync had confirmed is number {last}"
    ));

    story.step("beta takes over");
    mirror::wait_lost(beta, alpha)?;
    story.say(&format!(
        "beta noticed after {:.1} s",
        cut.elapsed().as_secs_f64()
    ));
    story.type_in(beta, "weft primary r0")?;
    story.type_in(
        beta,
        &format!("mount {DEVICE} /mnt && umount /mnt && e2fsck -fn {DEVICE} 2>&1"),
    )?;
    story.type_in(beta, &format!("mount {DEVICE} /mnt"))?;
    story.say(&format!(
        "the data is there {:.1} s after the cut",
        cut.elapsed().as_secs_f64()
    ));
    let found = story.type_in(beta, &format!("weft-records check /mnt/records {last}"))?;
    story.say(&format!("{found} whole records, {last} were promised"));
    let after = beta.succeed(&Command::shell(HASHES).limit(LONG_PATIENCE))?;
    ensure!(
        after == hashes,
        "the files are not what alpha wrote: {after} instead of {hashes}"
    );
    story.say(&format!(
        "all {files} files have the hashes that alpha computed"
    ));

    story.step("Life goes on: beta writes, alpha comes back and fetches what it missed");
    story.type_in(
        beta,
        "cp -a /usr/lib/udev /mnt/usr/ 2>/dev/null; date >/mnt/usr/note; sync",
    )?;
    alpha.start()?;
    mirror::rejoin(alpha)?;
    mirror::wait_connected(alpha)?;
    let fetched = watch_sync(cluster, beta, alpha)?;
    let size: u64 = beta
        .sh(&format!("blockdev --getsize64 {DEVICE}"))?
        .parse()?;
    story.say(&format!(
        "alpha fetched {:.1} MiB of {} MiB: {:.1} %",
        fetched as f64 / f64::from(1 << 20),
        size >> 20,
        fetched as f64 * 100.0 / size as f64
    ));
    ensure!(fetched < size / 2, "that is not a partial resync");
    story.type_in(beta, "umount /mnt && weft secondary r0")?;
    mirror::wait_uptodate(cluster)?;
    story.type_in(alpha, "weft status r0")?;

    story.step("Both disks, compared byte by byte from outside");
    mirror::ensure_equal_disks(cluster)?;
    story.say("the data areas are identical");
    cluster.check_kernel_logs()?;
    story.say("no kernel has warned of anything");
    Ok(())
}

fn show() -> Result<Duration> {
    let mut story = Story {
        begun: Instant::now(),
        step: 0,
    };
    story.step("Two machines are switched on");
    let cluster = mirror::pair(DISK_MIB).boot("demo").context("booting")?;
    let told = tell(&mut story, &cluster);
    if told.is_err() {
        println!(
            "\nlogs of both machines: {}",
            cluster.keep_artefacts()?.display()
        );
    }
    told.map(|()| story.begun.elapsed())
}

fn main() -> ExitCode {
    match show() {
        Ok(time) => {
            println!("\nAll of it held. {} s in total.", time.as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nThe demo failed: {error:?}");
            ExitCode::FAILURE
        }
    }
}
