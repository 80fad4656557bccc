// SPDX-License-Identifier: GPL-2.0-only
//! A machine that has booted and waits for its payload, kept in a file. On an
//! emulated processor, one that goes on from there is ready some seconds earlier
//! than one that boots, and otherwise no different: its disks, its network and
//! the product are still unknown to it, its clock is set after that moment, and its
//! kernel is told to think of new random numbers.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use crate::{
    dmesg,
    files::{cache, Boot, RunFolder},
    monitor::Monitor,
    qemu::{Hardware, Qemu, PROGRAM},
    wait::eventually,
};

/// What the first process of a machine says when it is as far.
const WAITING: &str = "init: waiting for the payload";
/// How long it takes to boot and to be written, on a busy host.
const LIMIT: Duration = Duration::from_secs(180);
/// How often it is tried. A kernel that boots changes its own code, which an emulated
/// processor does not always see in time: now and then it crashes. Nothing of ours runs
/// so early.
const ATTEMPTS: u32 = 3;

/// The template for such machines, made unless there is one. It is made of the same
/// files as the machines; when one of them changes there is a new one.
pub(crate) fn of(hardware: &Hardware, boot: &Boot) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache()?.join("templates");
    let Hardware { memory_mib, vcpus } = hardware;
    let template = folder.join(format!("{memory_mib}M-{vcpus}"));
    let made_of = template.with_extension("made-of");
    let wanted = description(hardware, boot)?;
    if fs::read_to_string(&made_of).is_ok_and(|found| found == wanted) {
        return Ok(template);
    }
    let workshop = RunFolder::new("template")?;
    let new = workshop.path().join("new");
    let mut attempt = 1;
    while let Err(error) = make(hardware, boot, &new) {
        let kept = workshop.keep()?;
        let error = error.context(format!("making a template, log in {}", kept.display()));
        if attempt == ATTEMPTS {
            return Err(error);
        }
        eprintln!("{error:#}; trying once more");
        attempt += 1;
    }
    fs::create_dir_all(&folder)?;
    if made_of.exists() {
        fs::remove_file(&made_of)?;
    }
    fs::rename(&new, &template)?;
    fs::write(&made_of, wanted)?;
    Ok(template)
}

/// Everything that a template depends on.
fn description(hardware: &Hardware, boot: &Boot) -> Result<String> {
    let mut text = Qemu::blank(hardware, boot)?.description();
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(PROGRAM))
        .find(|path| path.exists())
        .context(PROGRAM)?;
    for file in [&program, &boot.kernel, &boot.initramfs, &boot.image] {
        let found = fs::metadata(file).with_context(|| file.display().to_string())?;
        text += &format!(
            "\n{} {} bytes of {}.{:09} in {}",
            file.display(),
            found.len(),
            found.mtime(),
            found.mtime_nsec(),
            found.ino()
        );
    }
    Ok(text)
}

fn make(hardware: &Hardware, boot: &Boot, target: &Path) -> Result<()> {
    let log = target.with_extension("log");
    File::create(&log)?;
    let mut qemu = Qemu::blank(hardware, boot)?;
    qemu.console(&log);
    let (ours, theirs) = UnixStream::pair()?;
    qemu.monitor(theirs);
    let mut child = qemu.start(&log)?;
    let made = wait_for_boot(&mut child, &log).and_then(|()| write(ours, target));
    // It may have ended by itself.
    let _ = child.kill();
    child.wait()?;
    made
}

fn wait_for_boot(child: &mut Child, log: &Path) -> Result<()> {
    let mut said = String::new();
    eventually("a machine to boot", LIMIT, || {
        said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        ensure!(child.try_wait()?.is_none(), "it ended");
        Ok(said.contains(WAITING).then_some(()))
    })?;
    match dmesg::complaints(&said, &[]).first() {
        None => Ok(()),
        Some(complaint) => bail!("the kernel complains:\n{complaint}"),
    }
}

/// Writes the machine to a file. It must not be stopped for that: it would wait for
/// permission to go on in each of its lives.
fn write(monitor: UnixStream, target: &Path) -> Result<()> {
    let mut monitor = Monitor::new(monitor, LIMIT)?;
    // Bytes per second; the default is the speed of a slow network.
    monitor.execute(
        "migrate-set-parameters",
        json!({ "max-bandwidth": 1u64 << 40 }),
    )?;
    let uri = format!("file:{}", target.display());
    monitor.execute("migrate", json!({ "uri": uri }))?;
    eventually("the machine to be written", LIMIT, || {
        let state = monitor.execute("query-migrate", json!({}))?;
        match state["status"].as_str() {
            Some("completed") => Ok(Some(())),
            Some("failed" | "cancelled") => bail!("{state}"),
            _ => Ok(None),
        }
    })
}
