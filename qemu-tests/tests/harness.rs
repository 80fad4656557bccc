// SPDX-License-Identifier: GPL-2.0-only
//! The harness itself: what tests build on must be true.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{ensure, Result};
use weft_qemu_tests::{disk::Operation, eventually, Cluster, Command, Machine, Survivors};

const PING: &str = "ping -c 1 -W 1";
const DISK: &str = "/dev/disk/by-serial/data";
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn a_command_returns_its_exit_code_and_both_outputs() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        let output = node.run(&Command::shell("echo out; echo err >&2; exit 7"))?;
        ensure!(
            (output.code, output.text(), output.error_text()) == (7, "out".into(), "err".into())
        );
        let killed = node.run(&Command::shell("kill -TERM $$"))?;
        ensure!(killed.code == 128 + 15);
        Ok(())
    });
}

#[test]
fn a_command_gets_its_input_and_files_travel_both_ways() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        let content: Vec<u8> = (0..1_000_000u32).map(|byte| (byte % 251) as u8).collect();
        node.write_file("/root/folder/file", 0o640, &content)?;
        ensure!(node.read_file("/root/folder/file")? == content);
        ensure!(node.sh("stat -c %a /root/folder/file")? == "640");
        let counted = node.succeed(&Command::new(["wc", "-c"]).stdin(content))?;
        ensure!(counted == "1000000");
        Ok(())
    });
}

#[test]
fn commands_run_side_by_side_and_can_be_killed() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        let script = "echo begun; sleep infinity & wait";
        let mut first = node.spawn(&Command::shell(script))?;
        let mut second = node.spawn(&Command::shell(script))?;
        first.wait_for_text("begun", LIMIT)?;
        second.wait_for_text("begun", LIMIT)?;
        ensure!(first.is_running() && second.is_running());
        ensure!(first.kill()?.code == 128 + 9);
        ensure!(second.is_running());
        let late = node.run(&Command::new(["sleep", "infinity"]).limit(Duration::from_secs(1)));
        ensure!(late.is_err_and(|error| error.to_string().contains("takes too long")));
        Ok(())
    });
}

#[test]
fn a_command_ends_although_what_it_started_holds_its_output() {
    Cluster::new(1).test(|cluster| {
        let printed = cluster.node(0).sh("sleep infinity & echo done")?;
        ensure!(printed == "done");
        Ok(())
    });
}

#[test]
fn every_life_has_random_numbers_of_its_own_and_the_time_of_day() {
    Cluster::new(2).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        beta.power_cut()?;
        let first = beta.start().and_then(|()| random_numbers(beta))?;
        beta.power_cut()?;
        beta.start()?;
        // Hardware clocks count whole seconds.
        ensure!(beta.sh("date +%s")?.parse::<u64>()? + 1 >= begun);
        let all = [first, random_numbers(beta)?, random_numbers(alpha)?].join("\n");
        let different: BTreeSet<&str> = all.lines().collect();
        ensure!(different.len() == 6, "{all}");
        Ok(())
    });
}

/// Two lines that no other life of a machine should print.
fn random_numbers(machine: &Machine) -> Result<String> {
    machine.sh("cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | base64")
}

#[test]
fn a_one_way_cut_stops_one_direction_until_it_heals() {
    Cluster::new(2).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        alpha.sh(&format!("{PING} beta"))?;
        cluster.network().cut(0, 1);
        let before = cluster.network().counters(1, 0);
        ensure!(alpha.run(&Command::shell(&format!("{PING} beta")))?.code == 1);
        ensure!(beta.run(&Command::shell(&format!("{PING} alpha")))?.code == 1);
        ensure!(
            cluster.network().counters(1, 0).frames > before.frames,
            "beta was cut as well"
        );
        cluster.network().heal(0, 1);
        eventually("a ping after the cut", LIMIT, || {
            Ok((alpha.run(&Command::shell(&format!("{PING} beta")))?.code == 0).then_some(()))
        })
    });
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        let write = |letter: &str, seek: u32, how: &str| {
            node.sh(&format!(
                "head -c 4096 /dev/zero | tr '\\0' {letter} |
                 dd of={DISK} bs=4096 seek={seek} oflag=direct {how} status=none"
            ))
        };
        write("a", 0, "conv=fsync")?;
        write("b", 1, "")?;
        node.power_cut()?;
        node.start()?;
        ensure!(node.disk("data").read(0, 4096)? == [b'a'; 4096]);
        ensure!(node.sh(&format!("head -c 4096 {DISK} | tr -d a | wc -c"))? == "0");
        ensure!(node.disk("data").read(4096, 4096)? == [0; 4096]);
        write("c", 1, "")?;
        node.power_cut_sparing(Survivors::Everything)?;
        ensure!(node.disk("data").read(4096, 4096)? == [b'c'; 4096]);
        Ok(())
    });
}

#[test]
fn a_clean_shutdown_keeps_everything() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        node.sh(&format!(
            "mkfs.ext4 -q {DISK} && mount {DISK} /mnt && echo kept >/mnt/file"
        ))?;
        node.shut_down()?;
        ensure!(!node.is_on());
        node.start()?;
        ensure!(node.sh(&format!("mount {DISK} /mnt && cat /mnt/file"))? == "kept");
        Ok(())
    });
}

#[test]
fn disk_faults_reach_the_machine() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        let read = Command::shell(&format!(
            "dd if={DISK} of=/dev/null iflag=direct bs=4k count=1"
        ));
        node.disk("data").fail(Operation::Read, 0..4096);
        ensure!(node.run(&read)?.error_text().contains("Input/output error"));
        node.disk("data").repair();
        node.disk("data").hang();
        let mut stuck = node.spawn(&read)?;
        eventually("the read to wait for the disk", LIMIT, || {
            let inflight = node.sh("cat /sys/block/vdb/inflight")?;
            Ok(inflight.trim_start().starts_with("1").then_some(()))
        })?;
        ensure!(stuck.is_running());
        node.disk("data").go_on();
        ensure!(stuck.wait(LIMIT)?.code == 0);
        Ok(())
    });
}

#[test]
fn a_frozen_machine_answers_nothing_until_it_is_resumed() {
    Cluster::new(2).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        beta.freeze()?;
        ensure!(alpha.run(&Command::shell(&format!("{PING} beta")))?.code == 1);
        beta.resume()?;
        eventually("a ping after the freeze", LIMIT, || {
            Ok((alpha.run(&Command::shell(&format!("{PING} beta")))?.code == 0).then_some(()))
        })
    });
}

#[test]
#[should_panic(expected = "the kernel complains")]
fn a_test_fails_when_a_kernel_complains() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        node.sh("echo 'WARNING: CPU: 0 PID: 1 at weft.rs:1' >/dev/kmsg")?;
        eventually("the warning on the console", LIMIT, || {
            Ok((!node.complaints()?.is_empty()).then_some(()))
        })
    });
}

#[test]
fn a_panic_of_the_kernel_is_seen() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        for text in ["sysrq", "Kernel panic", "Call Trace"] {
            node.expect_complaint(text);
        }
        let crash = node.spawn(&Command::shell("echo c >/proc/sysrq-trigger"))?;
        node.await_end(LIMIT)?;
        drop(crash);
        ensure!(!node.is_on());
        ensure!(node.console()?.contains("Kernel panic"));
        Ok(())
    });
}
