// SPDX-License-Identifier: GPL-2.0-only
//! Two machines, one device: what is written on one is on both.

use anyhow::ensure;
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, wait_lost, wait_uptodate,
    Scribe, DEVICE, LONG_PATIENCE,
};
use weft_qemu_tests::{Command, View};

#[test]
fn the_initial_sync_copies_every_block_and_leaves_a_thin_disk_thin() {
    mirror::pair(128).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::connect(cluster)?;
        // What is on the disk before Weft knows it must arrive as well.
        alpha
            .disk("data")
            .corrupt(50 << 20, b"here before the first sync")?;
        ensure!(View::of(beta)?.disk() == "inconsistent");
        alpha.sh("weft primary --force r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        ensure!(beta.disk("data").read(50 << 20, 4)? == b"here");
        // All else was zeros, which a thin disk does not have to store.
        let counters = beta.disk("data").counters();
        ensure!(
            counters.zeroings > 0 && counters.written_bytes < 16 << 20,
            "{counters:?}"
        );
        Ok(())
    });
}

#[test]
fn a_resource_that_never_held_data_is_not_promoted_without_force() {
    mirror::pair(64).test(|cluster| {
        mirror::connect(cluster)?;
        ensure_refused(
            cluster.node(0),
            "weft primary r0",
            &["no-uptodate-disk", "--force"],
        )
    });
}

#[test]
fn an_inconsistent_node_is_not_promoted() {
    mirror::pair(32).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::connect(cluster)?;
        alpha.disk("data").corrupt(0, &vec![7; 16 << 20])?;
        // Slow enough that the sync cannot end meanwhile.
        cluster
            .network()
            .change(0, 1, |link| link.rate = Some(400_000));
        alpha.sh("weft primary --force r0")?;
        wait_for(beta, "the sync to start", |view| {
            view.peer(alpha).replication() == "sync-target"
        })?;
        cluster.network().cut_both(0, 1);
        let view = wait_lost(beta, alpha)?;
        ensure!(view.disk() == "inconsistent");
        ensure_refused(beta, "weft primary r0", &["no-uptodate-disk"])?;
        cluster.network().heal_all();
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn random_writes_of_all_sizes_read_back_and_reach_both_disks() {
    mirror::pair(64).test(|cluster| {
        let alpha = cluster.node(0);
        mirror::weave(cluster)?;
        for (name, options) in [
            (
                "sizes",
                "--bsrange=512-1m --blockalign=512 --iodepth=16 --size=40m",
            ),
            (
                "small",
                "--bsrange=512-4k --blockalign=512 --iodepth=4 --size=6m",
            ),
            ("pages", "--bs=4k --iodepth=32 --size=12m"),
        ] {
            let fio = format!(
                "fio --name={name} --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite \
                 --verify=crc32c --verify_fatal=1 --do_verify=1 {options} --minimal"
            );
            alpha.succeed(&Command::shell(&fio).limit(LONG_PATIENCE))?;
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn discards_and_zeroing_are_mirrored() {
    mirror::pair(64).test(|cluster| {
        let alpha = cluster.node(0);
        mirror::weave(cluster)?;
        alpha.sh(&format!(
            "dd if=/dev/urandom of={DEVICE} bs=1M count=32 oflag=direct 2>&1"
        ))?;
        alpha.sh(&format!("blkdiscard --offset 4M --length 8M {DEVICE}"))?;
        alpha.sh(&format!(
            "blkdiscard --zeroout --offset 16780288 --length 6291968 {DEVICE}"
        ))?;
        alpha.sh(&format!(
            "cmp --bytes=6291968 --ignore-initial=16780288:0 {DEVICE} /dev/zero"
        ))?;
        ensure!(
            alpha
                .run(&Command::shell(&format!(
                    "cmp --bytes=65536 {DEVICE} /dev/zero"
                )))?
                .code
                == 1
        );
        alpha.sh(&format!(
            "mkfs.ext4 -q {DEVICE} && mount -o discard {DEVICE} /mnt"
        ))?;
        alpha.sh(
            "cp -a /usr/bin /mnt/ && sync && rm -r /mnt/bin && sync && fstrim /mnt && umount /mnt",
        )?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn what_was_flushed_survives_the_power_cut_of_both() {
    mirror::pair(64).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        mirror::weave(cluster)?;
        alpha.sh(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(40)?;
        alpha.power_cut()?;
        beta.power_cut()?;
        let last = scribe.acknowledged();
        cluster.each(|machine| {
            machine.start()?;
            mirror::rejoin(machine)
        })?;
        wait_uptodate(cluster)?;
        for machine in [beta, alpha] {
            machine.sh("weft primary r0")?;
            ensure_records(machine, "/mnt/records", last)?;
            machine.sh("weft secondary r0")?;
        }
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn protocols_a_and_b_mirror_as_well() {
    mirror::pair(64).test(|cluster| {
        let alpha = cluster.node(0);
        mirror::weave(cluster)?;
        for protocol in ["A", "B"] {
            alpha.sh(&format!("weftsetup options r0 --protocol {protocol}"))?;
            let fio = format!(
                "fio --name={protocol} --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite \
                 --verify=crc32c --verify_fatal=1 --bsrange=512-64k --blockalign=512 --iodepth=8 --size=16m \
                 --end_fsync=1 --minimal"
            );
            alpha.succeed(&Command::shell(&fio).limit(LONG_PATIENCE))?;
            wait_uptodate(cluster)?;
        }
        alpha.sh("weft secondary r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
