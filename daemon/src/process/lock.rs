// SPDX-License-Identifier: GPL-2.0-only

//! One daemon per run directory: a locked file with its process id, and the control socket beside it.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why the run directory cannot be had.
#[derive(Debug)]
pub enum LockError {
    /// Another daemon runs; its process id as far as it told.
    Running(PathBuf, String),
    /// Something that is no socket lies where the control socket belongs.
    NotASocket(PathBuf),
    /// A file operation failed.
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(path, pid) => {
                write!(
                    f,
                    "another weftd runs already (process {pid}, lock {})",
                    path.display()
                )
            }
            Self::NotASocket(path) => {
                write!(
                    f,
                    "{} is no socket and is left alone; remove it or choose another --run-dir",
                    path.display()
                )
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for LockError {}

/// Holds the lock while it lives; the kernel lets it go with the process.
#[derive(Debug)]
pub struct RunLock {
    _file: Flock<File>,
}

/// Takes the lock in `folder`, which is created when missing, and notes the process id in it.
///
/// # Errors
/// [`LockError::Running`] when another process holds it.
pub fn lock(folder: &Path) -> Result<RunLock, LockError> {
    let path = folder.join("weftd.pid");
    let failed = |error| LockError::Io(path.clone(), error);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = match Flock::lock(options.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Without it the message is less helpful, no more.
            let _ = file.read_to_string(&mut pid);
            return Err(LockError::Running(path, pid.trim().to_owned()));
        }
        Err((_, errno)) => return Err(failed(errno.into())),
    };
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(failed)?;
    Ok(RunLock { _file: file })
}

/// Binds the control socket; only root may open it. To be called with the lock held, so that a socket that lies there
/// is a dead daemon's and is replaced.
///
/// # Errors
/// [`LockError::NotASocket`] when something else lies there.
pub fn bind(_lock: &RunLock, path: &Path) -> Result<UnixListener, LockError> {
    let failed = |error| LockError::Io(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(LockError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l4_a_second_daemon_is_told_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let Err(LockError::Running(_, pid)) = lock(folder.path()) else {
            panic!("locked twice");
        };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn l4_a_dead_socket_is_replaced_and_a_regular_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let path = folder.path().join("s");
        drop(bind(&held, &path).unwrap());
        assert!(path.exists());
        let listener = bind(&held, &path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&held, &path), Err(LockError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
