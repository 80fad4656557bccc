// SPDX-License-Identifier: GPL-2.0-only
//! Two machines, one device: what is written on one is on both.

use anyhow::ensure;
use weft_qemu_tests::pair::{
    self, ensure_equal_disks, ensure_records, ensure_refused, wait_for, Scribe, View, DEVICE,
    LONG_PATIENCE,
};
use weft_qemu_tests::Command;

#[test]
fn the_initial_sync_copies_every_block() {
    pair::machines(128).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        pair::connect(cluster)?;
        // What is on the disk before Weft knows it must arrive as well.
        alpha
            .disk("data")
            .corrupt(50 << 20, b"here before the first sync")?;
        ensure!(View::of(beta)?.disk() == "inconsistent");
        alpha.sh("weft primary --force r0")?;
        let waiting = Command::shell("weft wait-sync r0 --timeout 300").limit(LONG_PATIENCE);
        alpha.succeed(&waiting)?;
        beta.succeed(&waiting)?;
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        ensure!(beta.disk("data").read(50 << 20, 4)? == b"here");
        Ok(())
    });
}

#[test]
fn a_resource_that_never_held_data_is_not_promoted_without_force() {
    pair::machines(64).test(|cluster| {
        pair::connect(cluster)?;
        ensure_refused(
            cluster.node(0),
            "weft primary r0",
            &["no-uptodate-disk", "--force"],
        )
    });
}

#[test]
fn an_inconsistent_node_is_not_promoted() {
    pair::machines(96).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        pair::connect(cluster)?;
        // Slow enough that the sync cannot end meanwhile.
        cluster
            .network()
            .change(0, 1, |link| link.rate = Some(400_000));
        alpha.sh("weft primary --force r0")?;
        wait_for(beta, "the sync to start", |view| {
            view.replication() == "sync-target"
        })?;
        cluster.network().cut_both(0, 1);
        wait_for(beta, "the cut to be noticed", |view| {
            view.connection() != "connected"
        })?;
        ensure!(View::of(beta)?.disk() == "inconsistent");
        ensure_refused(beta, "weft primary r0", &["no-uptodate-disk"])?;
        cluster.network().heal_all();
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn random_writes_of_all_sizes_read_back_and_reach_both_disks() {
    pair::machines(128).test(|cluster| {
        let alpha = cluster.node(0);
        pair::weave(cluster)?;
        for (name, options) in [
            ("sizes", "--bsrange=512-1m --blockalign=512 --iodepth=16"),
            ("small", "--bsrange=512-4k --blockalign=512 --iodepth=4"),
            ("pages", "--bs=4k --iodepth=32"),
        ] {
            let fio = format!(
                "fio --name={name} --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite \
                 --verify=crc32c --verify_fatal=1 --do_verify=1 --size=40m {options} --minimal"
            );
            alpha.succeed(&Command::shell(&fio).limit(LONG_PATIENCE))?;
        }
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn discards_and_zeroing_are_mirrored() {
    pair::machines(128).test(|cluster| {
        let alpha = cluster.node(0);
        pair::weave(cluster)?;
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
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn what_was_flushed_survives_the_power_cut_of_both() {
    pair::machines(64).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        pair::weave(cluster)?;
        alpha.sh(&format!("mkfs.ext4 -q {DEVICE} && mount {DEVICE} /mnt"))?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(40)?;
        alpha.power_cut()?;
        beta.power_cut()?;
        let last = scribe.acknowledged();
        for machine in [alpha, beta] {
            machine.start()?;
            pair::rejoin(machine)?;
        }
        pair::wait_uptodate(cluster)?;
        for machine in [beta, alpha] {
            machine.sh("weft primary r0")?;
            ensure_records(machine, "/mnt/records", last)?;
            machine.sh("weft secondary r0")?;
        }
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn protocols_a_and_b_mirror_as_well() {
    pair::machines(64).test(|cluster| {
        let alpha = cluster.node(0);
        pair::weave(cluster)?;
        for protocol in ["A", "B"] {
            alpha.sh(&format!("weftsetup options r0 --protocol {protocol}"))?;
            let fio = format!(
                "fio --name={protocol} --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite \
                 --verify=crc32c --verify_fatal=1 --bsrange=512-64k --blockalign=512 --iodepth=8 --size=16m \
                 --end_fsync=1 --minimal"
            );
            alpha.succeed(&Command::shell(&fio).limit(LONG_PATIENCE))?;
            pair::wait_uptodate(cluster)?;
        }
        alpha.sh("weft secondary r0")?;
        pair::wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}
