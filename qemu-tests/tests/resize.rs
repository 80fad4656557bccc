// SPDX-License-Identifier: GPL-2.0-only
//! Disks grow, and the device with them, while it is in use.

use anyhow::{ensure, Result};
use weft_qemu_tests::mirror::{
    self, ensure_records, ensure_refused, wait_for, wait_lost, wait_uptodate, Scribe, DEVICE,
    LONG_PATIENCE, PATIENCE,
};
use weft_qemu_tests::{eventually, Builder, Cluster, Command, Machine, View};

/// What a node's volume is kept on: a part of its disk, as a logical volume is.
const PART: &str = "/dev/mapper/part";
/// Size of that at first, and at most.
const SMALL_MIB: u64 = 32;
const LARGE_MIB: u64 = 64;

/// Two machines whose volumes are kept on parts of their disks.
fn pair() -> Builder {
    let config = mirror::config(2).replace("/dev/disk/by-serial/data", PART);
    mirror::pair(LARGE_MIB).file("/etc/weft/weft.toml", 0o644, config)
}

fn table(mib: u64) -> String {
    format!("0 {} linear /dev/disk/by-serial/data 0", mib << 11)
}

/// Makes the part, on a machine that has just been started.
fn make_part(node: &Machine, mib: u64) -> Result<()> {
    node.sh(&format!(
        "modprobe dm-mod && DM_DISABLE_UDEV=1 dmsetup create part --table '{}'",
        table(mib)
    ))
    .map(drop)
}

/// Makes the part larger while it is in use.
fn enlarge(node: &Machine, mib: u64) -> Result<()> {
    node.sh(&format!(
        "dmsetup load part --table '{}' && DM_DISABLE_UDEV=1 dmsetup resume part",
        table(mib)
    ))
    .map(drop)
}

/// [`mirror::weave_and_mount`] on the parts.
fn weave_and_mount(cluster: &Cluster) -> Result<()> {
    cluster.each(|node| make_part(node, SMALL_MIB))?;
    mirror::weave_and_mount(cluster)
}

fn rejoin(node: &Machine, mib: u64) -> Result<()> {
    node.start()?;
    make_part(node, mib)?;
    mirror::rejoin(node)
}

/// Bytes of the device, also on a secondary, where it cannot be opened.
fn device_bytes(node: &Machine) -> Result<u64> {
    let sectors: u64 = node.sh("cat /sys/block/weft0/size")?.parse()?;
    Ok(sectors * 512)
}

/// A command that may take as long as a sync.
fn long(node: &Machine, script: &str) -> Result<String> {
    node.succeed(&Command::shell(script).limit(LONG_PATIENCE))
}

/// What both disks hold of the device is the same.
fn ensure_equal_hashes(cluster: &Cluster) -> Result<()> {
    let bytes = device_bytes(cluster.node(0))?;
    ensure!(device_bytes(cluster.node(1))? == bytes);
    let hash = format!(
        "dd if={PART} bs=64K count={} iflag=direct 2>/dev/null | sha256sum",
        bytes >> 16
    );
    let [first, second] = [0, 1].map(|node| long(cluster.node(node), &hash));
    let (first, second) = (first?, second?);
    ensure!(first == second, "{first} and {second}");
    Ok(())
}

#[test]
fn a_mounted_device_grows_under_load_on_both_nodes() {
    pair().test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave_and_mount(cluster)?;
        let small = device_bytes(alpha)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;
        ensure_refused(alpha, "weft resize r0", &["nothing-to-grow", "lvextend"])?;
        enlarge(alpha, LARGE_MIB)?;
        ensure_refused(alpha, "weft resize r0", &["nothing-to-grow", "node 1"])?;
        enlarge(beta, LARGE_MIB)?;
        ensure_refused(alpha, "weft resize r0 --size 1G", &["size-too-large"])?;
        ensure_refused(alpha, "weft resize r0 --size 16M", &["no-shrink"])?;
        let told = long(alpha, "weft resize r0")?;
        ensure!(told.contains("63.9 MiB"), "{told}");
        let large = device_bytes(alpha)?;
        ensure!(large > small + (30 << 20), "{large} bytes");
        alpha.sh(&format!("resize2fs {DEVICE} 2>&1"))?;
        let so_far = scribe.acknowledged();
        scribe.wait_for(so_far + 20)?;
        // More than there was room for before.
        alpha.sh("dd if=/dev/urandom of=/mnt/big bs=1M count=40 conv=fsync 2>&1")?;
        let sum = alpha.sh("sha256sum /mnt/big")?;
        wait_uptodate(cluster)?;
        let last = scribe.stop()?;
        alpha.sh("umount /mnt && weft secondary r0")?;
        wait_uptodate(cluster)?;
        ensure_equal_hashes(cluster)?;
        beta.sh("weft primary r0")?;
        ensure_records(beta, "/mnt/records", last)?;
        ensure!(beta.sh(&format!("mount {DEVICE} /mnt && sha256sum /mnt/big"))? == sum);
        // The metadata are where a restart looks for them.
        beta.sh("umount /mnt && weft down r0 && weft up r0 && weft wait-connect r0")?;
        wait_uptodate(cluster)?;
        ensure!(device_bytes(alpha)? == large && device_bytes(beta)? == large);
        Ok(())
    });
}

#[test]
fn a_power_cut_before_or_in_the_middle_of_a_resize_loses_nothing() {
    pair().test(|cluster| {
        let (alpha, beta) = (cluster.node(0), cluster.node(1));
        weave_and_mount(cluster)?;
        let small = device_bytes(alpha)?;
        let mut scribe = Scribe::start(alpha, "/mnt/records")?;
        scribe.wait_for(20)?;

        // The disk has grown, and nobody has been told when the power fails.
        enlarge(beta, LARGE_MIB)?;
        beta.power_cut()?;
        wait_lost(alpha, beta)?;
        rejoin(beta, LARGE_MIB)?;
        wait_uptodate(cluster)?;
        ensure!(beta.sh("weft dump-md r0")?.contains("valid"));

        // The metadata are on their way to the new end.
        enlarge(alpha, LARGE_MIB)?;
        beta.disk("data").hang();
        let resize = Command::shell("weft resize r0").limit(LONG_PATIENCE);
        let mut ordered = alpha.spawn(&resize)?;
        let at_work = "dmesg | grep 'the metadata are where'";
        eventually("alpha to move its metadata", PATIENCE, || {
            Ok((alpha.run(&Command::shell(at_work))?.code == 0).then_some(()))
        })?;
        beta.power_cut()?;
        let refused = ordered.wait(LONG_PATIENCE)?;
        ensure!(refused.error_text().contains("not-connected"));
        ensure!(device_bytes(alpha)? == small);
        rejoin(beta, LARGE_MIB)?;
        wait_uptodate(cluster)?;

        // The primary dies as soon as the peer has the new size on record.
        let has_size = "dmesg | grep 'the device is to have'";
        let mut ordered = alpha.spawn(&resize)?;
        eventually("beta to know the size", PATIENCE, || {
            Ok((beta.run(&Command::shell(has_size))?.code == 0).then_some(()))
        })?;
        alpha.power_cut()?;
        let last = scribe.acknowledged();
        // It went with its machine.
        let _ = ordered.wait(PATIENCE);
        wait_lost(beta, alpha)?;
        rejoin(alpha, LARGE_MIB)?;
        alpha.sh("weft wait-connect r0")?;
        wait_for(alpha, "both disks to agree", View::is_settled)?;
        alpha.sh("weft primary r0")?;
        let now = device_bytes(alpha)?;
        if now == small {
            long(alpha, "weft resize r0")?;
        }
        ensure!(device_bytes(alpha)? > small + (30 << 20));
        wait_uptodate(cluster)?;
        alpha.sh(&format!("e2fsck -fp {DEVICE} 2>&1 || [ $? = 1 ]"))?;
        alpha.sh(&format!("resize2fs {DEVICE} 2>&1"))?;
        ensure_records(alpha, "/mnt/records", last)?;
        wait_uptodate(cluster)?;
        alpha.sh("weft secondary r0")?;
        ensure_equal_hashes(cluster)
    });
}
