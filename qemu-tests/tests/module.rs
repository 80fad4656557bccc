// SPDX-License-Identifier: GPL-2.0-only
//! One machine: the module comes and goes, and refuses what it must.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{self, ensure_refused, DEVICE, LONG_PATIENCE, PATIENCE};
use weft_qemu_tests::{eventually, Builder, Command, Machine, View};

const DISK_MIB: u64 = 64;

fn one_machine() -> Builder {
    mirror::machines(1, DISK_MIB)
}

/// Creates metadata and makes the only node primary.
fn serve_alone(node: &Machine) -> Result<()> {
    node.load_module()?;
    node.sh("weft create-md r0")?;
    node.sh("weft up r0")?;
    node.sh("weft primary --force r0").map(drop)
}

#[test]
fn the_module_loads_and_unloads_twenty_times_with_devices_made_and_removed() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        node.sh("weft create-md r0")?;
        node.sh("rmmod weft")?;
        for round in 0..20 {
            node.load_module()?;
            node.sh("weft up r0 && weft primary --force r0")?;
            node.sh(&format!(
                "echo round {round} | dd of={DEVICE} bs=512 conv=sync,fsync 2>&1"
            ))?;
            ensure!(node
                .sh(&format!("head -c 8 {DEVICE}"))?
                .starts_with("round"));
            node.sh("weft down r0 && rmmod weft")?;
            ensure!(node.sh(&format!("test -e {DEVICE} && echo there || echo gone"))? == "gone");
        }
        Ok(())
    });
}

#[test]
fn unloading_is_refused_while_a_device_exists_or_is_open() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        serve_alone(node)?;
        ensure_refused(node, "rmmod weft", &["in use"])?;
        node.sh(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        ensure_refused(node, "rmmod weft", &["in use"])?;
        ensure_refused(
            node,
            "weft down r0",
            &["device-open", DEVICE.trim_end_matches('0')],
        )?;
        ensure_refused(node, "weft secondary r0", &["device-open"])?;
        node.sh("umount /mnt && weft down r0 && rmmod weft")
            .map(drop)
    });
}

#[test]
fn data_and_primary_work_survive_a_power_cut_of_a_lone_node() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        serve_alone(node)?;
        node.sh(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        node.sh("cp -a /usr/lib/systemd /mnt/ 2>/dev/null || cp -a /usr/bin /mnt/; sync")?;
        let sums = "cd /mnt && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
        let before = node.sh(sums)?;
        node.power_cut()?;
        node.start()?;
        node.load_module()?;
        node.sh("weft up r0 && weft primary r0")?;
        node.sh(&format!("mount {DEVICE} /mnt"))?;
        ensure!(node.sh(sums)? == before, "files changed");
        node.sh("umount /mnt").map(drop)
    });
}

#[test]
fn a_disk_without_metadata_is_not_attached_and_says_so() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        ensure_refused(node, "weft up r0", &["meta-none", "create-md"])?;
        Ok(())
    });
}

#[test]
fn foreign_or_damaged_metadata_are_refused_and_left_alone() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        node.sh("weft create-md r0")?;
        let disk = node.disk("data");

        // Of another resource.
        node.sh("sed -i 's/\"r0\"/\"r1\"/' /etc/weft/weft.toml")?;
        ensure_refused(node, "weft up r1", &["meta-foreign"])?;
        node.sh("weft down r1; sed -i 's/\"r1\"/\"r0\"/' /etc/weft/weft.toml")?;

        // One copy damaged: the other serves.
        let last = disk.size() - 4096;
        let second = last - 4096;
        let (good, also_good) = (disk.read(last, 4096)?, disk.read(second, 4096)?);
        disk.corrupt(last, &flipped(&good))?;
        node.sh("blockdev --flushbufs /dev/disk/by-serial/data; weft up r0 && weft down r0")?;

        // Both damaged: refused, and nothing is written.
        let newest = disk.read(last, 4096)?;
        disk.corrupt(last, &flipped(&newest))?;
        let other = disk.read(second, 4096)?;
        disk.corrupt(second, &flipped(&other))?;
        node.sh("blockdev --flushbufs /dev/disk/by-serial/data")?;
        let before = disk.read(second, 8192)?;
        ensure_refused(node, "weft up r0", &["meta-corrupt"])?;
        ensure!(
            disk.read(second, 8192)? == before,
            "damaged metadata were overwritten"
        );
        ensure!(also_good.starts_with(b"weftMETA"));
        Ok(())
    });
}

/// The same bytes with one bit in the middle turned over.
fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    if let Some(byte) = copy.get_mut(150) {
        *byte ^= 1;
    }
    copy
}

#[test]
fn existing_metadata_and_file_systems_are_not_overwritten_without_force() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        node.sh("weft create-md r0")?;
        ensure_refused(node, "weft create-md r0", &["--force"])?;
        node.sh("weft create-md --force r0").map(drop)
    });
}

#[test]
fn wrong_use_of_a_command_line_exits_with_2() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        for wrong in [
            "weft",
            "weft promote r0",
            "weft primary",
            "weft primary r0 --forse",
            "weftsetup",
            "weftsetup new-resource",
            "weftsetup new-resource r0 thirty-two",
            "weftsetup attach r0 0",
            "weftd --no-such-flag",
        ] {
            let output = node.run(&Command::shell(wrong))?;
            ensure!(output.code == 2, "{wrong}: exit code {}", output.code);
            ensure!(!output.error_text().is_empty(), "{wrong} says nothing");
        }
        ensure_refused(node, "weft primary no-such-resource", &["no-such-resource"])?;
        ensure_refused(
            node,
            "weftsetup primary r9",
            &["no-such-resource", "weft status"],
        )?;
        Ok(())
    });
}

#[test]
fn a_command_from_an_ordinary_user_is_refused_and_changes_nothing() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        serve_alone(node)?;
        let output = node.run(&Command::shell(
            "setpriv --reuid 65534 --clear-groups weftsetup secondary r0",
        ))?;
        ensure!(output.code == 1, "exit code {}", output.code);
        ensure!(View::of(node)?.role() == "primary");
        let asked = node.run(&Command::shell(
            "setpriv --reuid 65534 --clear-groups weftsetup status",
        ))?;
        ensure!(
            asked.code == 0,
            "queries need no capability: {}",
            asked.error_text()
        );
        Ok(())
    });
}

#[test]
fn the_capabilities_of_a_container_do_not_suffice() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        serve_alone(node)?;
        let in_namespace = "unshare --user --map-root-user --net weftsetup secondary r0";
        ensure_refused(node, in_namespace, &["not-permitted"])?;
        ensure!(View::of(node)?.role() == "primary");
        node.sh("weft down r0 && weftsetup new-resource r0 0 && weftsetup new-device r0 0 0")?;
        let attach = "weftsetup attach r0 0 /dev/disk/by-serial/data internal";
        ensure_refused(
            node,
            &format!("setpriv --bounding-set=-sys_admin {attach}"),
            &["not-permitted", "CAP_SYS_ADMIN"],
        )?;
        ensure_refused(
            node,
            "setpriv --bounding-set=-net_admin cat /dev/weft",
            &["not permitted"],
        )?;
        node.sh(attach).map(drop)
    });
}

#[test]
fn commands_that_would_wait_for_a_disk_that_hangs_are_refused_at_some_point() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        node.sh("weft create-md r0 && weftsetup new-resource r0 0 && weftsetup new-device r0 0 0")?;
        node.disk("data").hang();
        let attach = "weftsetup attach r0 0 /dev/disk/by-serial/data internal";
        let mut attach = node.spawn(&Command::shell(attach).limit(LONG_PATIENCE))?;
        let mut others = node.spawn(
            &Command::shell(
                "touch /run/said
                 for i in {1..200}; do
                     weftsetup options r0 --protocol C >>/run/said 2>&1 &
                     if grep -q busy /run/said; then echo bounded; break; fi
                 done
                 wait; cat /run/said",
            )
            .limit(LONG_PATIENCE),
        )?;
        others.wait_for_text("bounded", LONG_PATIENCE)?;
        node.disk("data").go_on();
        ensure!(attach.wait(PATIENCE)?.code == 0, "the attach failed");
        let said = others.wait(PATIENCE)?.text();
        ensure!(!said.contains("interrupted"), "{said}");
        node.sh("weft down r0").map(drop)
    });
}

#[test]
fn a_reader_whose_memory_is_long_in_coming_holds_nobody_up() {
    let disks = [("data", DISK_MIB << 20), ("slow", DISK_MIB << 20)];
    one_machine().disks(&disks).test(|cluster| {
        let node = cluster.node(0);
        serve_alone(node)?;
        // An offer for the reader of the control device.
        node.sh("weftsetup new-peer r0 1 && weftsetup connect r0 1")?;
        node.disk("slow").hang();
        let read = "exec weft-trouble late-reader /dev/weft /dev/disk/by-serial/slow";
        let mut reader = node.spawn(&Command::shell(read).limit(LONG_PATIENCE))?;
        eventually("the reader to wait for its memory", PATIENCE, || {
            let state = node.sh("ps -C weft-trouble -o state= || true")?;
            Ok((state == "D").then_some(()))
        })?;
        node.sh("weftsetup disconnect r0 1")?;
        node.sh(&format!(
            "dd if=/dev/zero of={DEVICE} bs=4096 count=1 oflag=direct 2>&1"
        ))?;
        node.disk("slow").go_on();
        let output = reader.wait(PATIENCE)?;
        ensure!(
            output.text().starts_with("read "),
            "{}{}",
            output.text(),
            output.error_text()
        );
        Ok(())
    });
}

#[test]
fn a_second_daemon_is_refused_while_the_first_serves() {
    one_machine().test(|cluster| {
        let node = cluster.node(0);
        mirror::prepare(node)?;
        ensure_refused(node, "weftd", &["weftd"])?;
        node.sh("pkill -TERM -x weftd").map(drop)
    });
}
