// SPDX-License-Identifier: GPL-2.0-only
//! Where things lie: what `scripts/setup` and `scripts/build` made, the folder of
//! a run, and what a failed test leaves behind.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{ensure, Context, Result};

/// Where what is left of a failed run is kept.
pub(crate) fn artefacts() -> Result<PathBuf> {
    Ok(cache()?.join("artefacts"))
}

/// The cache folder that the scripts use as well.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = base
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("weft"))
}

/// Kernel, initramfs and root image of the machines.
pub(crate) struct Boot {
    pub(crate) release: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) image: PathBuf,
}

impl Boot {
    /// The kernel that `scripts/setup` chose, or the one that `WEFT_KERNEL` names.
    pub(crate) fn find() -> Result<Self> {
        let kernels = cache()?.join("kernel");
        let release = match env::var("WEFT_KERNEL") {
            Ok(release) if !release.is_empty() => release,
            _ => fs::read_link(kernels.join("current"))
                .context("no kernel is set up; next: scripts/setup")?
                .to_string_lossy()
                .into_owned(),
        };
        let home = kernels.join(&release);
        ensure!(
            home.join("guest.img").exists(),
            "there is no guest image for {release}; next: scripts/setup"
        );
        Ok(Boot {
            kernel: home.join("vmlinux"),
            initramfs: home.join("initramfs"),
            image: home.join("guest.img"),
            release,
        })
    }
}

/// The folder with the module and the programs of this clone, as `scripts/enter` tells.
pub(crate) fn products() -> Result<PathBuf> {
    std::env::var_os("WEFT_OUT")
        .map(PathBuf::from)
        .context("WEFT_OUT is not set; next: run this by scripts/test, or scripts/enter")
}

/// A folder for one run, gone when it is dropped.
pub(crate) struct RunFolder {
    path: PathBuf,
    name: String,
}

impl RunFolder {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let runs = cache()?.join("run");
        fs::create_dir_all(&runs)?;
        remove_orphans(&runs)?;
        let path = runs.join(format!("{name}.{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(RunFolder {
            path,
            name: name.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the logs and transcripts of a failed run, and tells where.
    pub(crate) fn keep(&self) -> Result<PathBuf> {
        let kept = artefacts()?.join(&self.name);
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::create_dir_all(&kept)?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.path().extension().is_some_and(|kind| kind == "log") {
                fs::copy(entry.path(), kept.join(name))?;
            }
        }
        Ok(kept)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes what runs left that were killed: their names end with a process id.
fn remove_orphans(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        let pid = path.extension().and_then(|pid| pid.to_str());
        if pid.is_none_or(|pid| !Path::new("/proc").join(pid).exists()) {
            match fs::remove_dir_all(&path) {
                // Another test, which begins at the same time, was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("removing {}", path.display()))?,
            }
        }
    }
    Ok(())
}
