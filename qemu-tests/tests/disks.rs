// SPDX-License-Identifier: GPL-2.0-only
//! Disks of other kinds than the usual one, and in other moods.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_equal_disks, ensure_refused, wait_for, wait_uptodate, DEVICE, LONG_PATIENCE,
    PATIENCE,
};
use weft_qemu_tests::{Cluster, Command, Machine, View};

/// Says the volume's block size in the configuration.
fn say_block_size(node: &Machine, bytes: u32) -> Result<()> {
    node.sh(&format!(
        "sed -i '/^block-size/d; s/^minor = .*/&\\nblock-size = {bytes}/' /etc/weft/weft.toml"
    ))
    .map(drop)
}

/// Writes and checks all sizes that the device takes, and leaves a file system behind.
fn use_device(node: &Machine) -> Result<()> {
    ensure!(node.sh(&format!("blockdev --getss {DEVICE}"))? == "4096");
    let part = format!("dd if=/dev/zero of={DEVICE} bs=512 count=1 oflag=direct");
    ensure!(
        node.run(&Command::shell(&part))?.code != 0,
        "half a block was written"
    );
    let fio = format!(
        "fio --name=blocks --filename={DEVICE} --direct=1 --ioengine=libaio --rw=randwrite --iodepth=8 \
         --verify=crc32c --verify_fatal=1 --bsrange=4k-64k --blockalign=4k --size=16m --end_fsync=1 --minimal"
    );
    node.succeed(&Command::shell(&fio).limit(LONG_PATIENCE))?;
    node.sh(&format!("blkdiscard --offset 4M --length 4M {DEVICE}"))?;
    node.sh(&format!("mkfs.ext4 -q -F {DEVICE} && mount {DEVICE} /mnt"))?;
    node.sh("cp -a /usr/bin /mnt/ 2>/dev/null; sync; umount /mnt")
        .map(drop)
}

#[test]
fn disks_with_different_logical_blocks_work_together_in_the_larger_ones() {
    mirror::pair(64).block_len_of(1, 4096).test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        cluster.each(|node| {
            mirror::prepare(node)?;
            node.sh("weft create-md r0 && weft up r0").map(drop)
        })?;
        for (node, peer) in [(alpha, beta), (beta, alpha)] {
            wait_for(node, "the difference to be reported", |view| {
                let peer = view.peer(peer);
                peer.connection() == "standalone" && peer.reason().contains("block-size")
            })?;
        }

        // No smaller than the disk's own.
        beta.sh("weft down r0")?;
        say_block_size(beta, 512)?;
        ensure_refused(beta, "weft up r0", &["block-size", "4096"])?;

        for node in cluster.nodes() {
            node.sh("weft down r0")?;
            say_block_size(node, 4096)?;
            node.sh("weft up r0")?;
        }
        cluster.each(mirror::wait_connected)?;
        alpha.sh("weft primary --force r0")?;
        wait_uptodate(cluster)?;
        use_device(alpha)?;
        alpha.sh("weft secondary r0")?;
        wait_uptodate(cluster)?;
        beta.sh("weft primary r0")?;
        beta.sh(&format!("e2fsck -fn {DEVICE} 2>&1"))?;
        use_device(beta)?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)
    });
}

#[test]
fn disks_with_large_logical_blocks_need_no_configuration() {
    let machines = mirror::pair(64).block_len_of(0, 4096);
    machines.block_len_of(1, 4096).test(|cluster| {
        mirror::weave(cluster)?;
        use_device(cluster.node(0))?;
        wait_uptodate(cluster)?;
        ensure_equal_disks(cluster)?;
        let shown = cluster.node(0).sh("weftsetup show r0")?;
        ensure!(shown.contains("--block-size 4096"), "{shown}");
        Ok(())
    });
}

#[test]
fn a_disk_with_zones_is_refused() {
    Cluster::new(1).test(|cluster| {
        let node = cluster.node(0);
        node.load_module()?;
        node.sh("modprobe null_blk nr_devices=1 gb=1 zoned=1 zone_size=64")?;
        node.sh("weftsetup new-resource r0 0 && weftsetup new-device r0 0 0")?;
        let attach = "weftsetup attach r0 0 /dev/nullb0 internal";
        ensure_refused(node, attach, &["disk-unfit", "zones"])?;
        // It is not held any more.
        node.sh("modprobe --remove null_blk && weft down r0")
            .map(drop)
    });
}

#[test]
fn a_disk_that_is_short_of_memory_is_tried_again() {
    let config = mirror::config(1).replace("/dev/disk/by-serial/data", "/dev/loop0");
    let machine = Cluster::new(1).file("/etc/weft/weft.toml", 0o644, config);
    machine.test(|cluster| {
        let node = cluster.node(0);
        let serve = "exec weft-trouble short-disk /mnt $((64 << 20))";
        let mut disk = node.spawn(&Command::shell(serve).limit(LONG_PATIENCE))?;
        disk.wait_for_text("mounted", PATIENCE)?;
        node.sh("modprobe loop && losetup /dev/loop0 /mnt/disk")?;
        node.load_module()?;
        node.sh("weft create-md r0 && weft up r0 && weft primary --force r0")?;
        let write = format!("dd if=/dev/urandom of={DEVICE} bs=4096 count=1 oflag=direct 2>&1");
        node.sh(&write)?;

        // Data, metadata and zeroing.
        node.sh("touch /run/short")?;
        let zero = format!("blkdiscard --zeroout --offset 16M --length 64k {DEVICE}");
        let mut writers = Vec::new();
        for script in [&write, &zero] {
            writers.push(node.spawn(&Command::shell(script).limit(LONG_PATIENCE))?);
        }
        disk.wait_for_text("refused 8\n", PATIENCE)?;
        node.sh("rm /run/short")?;
        for mut writer in writers {
            let output = writer.wait(PATIENCE)?;
            ensure!(output.code == 0, "{}{}", output.text(), output.error_text());
        }
        ensure!(View::of(node)?.disk() == "uptodate");
        node.sh("weft down r0 && losetup --detach /dev/loop0 && umount /mnt")?;
        ensure!(disk.wait(PATIENCE)?.code == 0);
        Ok(())
    });
}
