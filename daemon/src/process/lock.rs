// SPDX-License-Identifier: GPL-2.0-only

//! One daemon per run directory: a locked file with its process id, and the control socket beside it.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
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

/// Holds the lock while it lives, and takes its files along when it goes. After a sudden death the kernel lets the
/// lock go, and the files that remain are taken over by the next daemon.
#[derive(Debug)]
pub struct RunLock {
    file: Flock<File>,
    path: PathBuf,
    socket: Option<PathBuf>,
}

impl RunLock {
    /// Takes the lock in `folder`, which is created when missing, and notes the process id in it.
    ///
    /// # Errors
    /// [`LockError::Running`] when another process holds it.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("weftd.pid");
        let failed = |error| LockError::Io(path.clone(), error);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed)?;
        let file = loop {
            let file = lock(&path)?;
            // Who held it before may have removed the file between our opening and our locking it.
            if is_at(&file, &path).map_err(failed)? {
                break file;
            }
        };
        let mut lock = Self {
            file,
            path: path.clone(),
            socket: None,
        };
        lock.note_process().map_err(failed)?;
        Ok(lock)
    }

    fn note_process(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Binds the control socket; only root may open it. What lies there is a dead daemon's and is replaced.
    ///
    /// # Errors
    /// [`LockError::NotASocket`] when something else lies there.
    pub fn bind(&mut self, path: &Path) -> Result<UnixListener, LockError> {
        let failed = |error| LockError::Io(path.to_owned(), error);
        match fs::symlink_metadata(path) {
            Ok(data) if data.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(LockError::NotASocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        self.socket = Some(path.to_owned());
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // While the lock is held: nobody else's files can lie there. What cannot be removed is taken over later.
        for path in self.socket.iter().chain([&self.path]) {
            let _ = fs::remove_file(path);
        }
    }
}

fn lock(path: &Path) -> Result<Flock<File>, LockError> {
    let failed = |error| LockError::Io(path.to_owned(), error);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(file),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Without it the message is less helpful, no more.
            let _ = file.read_to_string(&mut pid);
            Err(LockError::Running(path.to_owned(), pid.trim().to_owned()))
        }
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Whether `file` is what lies at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l4_a_second_daemon_is_told_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let Err(LockError::Running(_, pid)) = RunLock::take(folder.path()) else {
            panic!("locked twice");
        };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        RunLock::take(folder.path()).unwrap();
    }

    #[test]
    fn l4_a_dead_socket_is_replaced_and_a_regular_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut held = RunLock::take(folder.path()).unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let _listener = held.bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(held.bind(&path), Err(LockError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn g5_a_daemon_that_ends_leaves_neither_lock_nor_socket() {
        let folder = tempfile::tempdir().unwrap();
        let mut held = RunLock::take(folder.path()).unwrap();
        let _listener = held.bind(&folder.path().join("s")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(held);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
