// SPDX-License-Identifier: GPL-2.0-only

//! The daemon's process: only one of it, and never slower than the disks it serves.

pub mod lock;

use crate::kernel::device::set_io_flusher;
use nix::sys::mman::{mlockall, MlockAllFlags};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The last process to be killed when memory runs out, but not an immortal one.
const OOM_SCORE: &str = "-900";

/// Locks memory, declares this process part of the I/O path, asks the OOM killer to look elsewhere and takes all the
/// descriptors it may have. A daemon in the write path must not wait for a page that is to be swapped in from, or written
/// back to, the disk it serves; and each session needs a dozen descriptors.
///
/// Each step that fails is logged; the daemon works without it while memory and descriptors suffice.
pub fn protect() {
    let steps: [(&str, io::Result<()>); 4] = [
        (
            "locking memory",
            mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
                .map_err(io::Error::from),
        ),
        ("becoming an I/O flusher", set_io_flusher()),
        ("raising the limit of descriptors", raise_descriptors()),
        (
            "lowering the OOM score",
            std::fs::write("/proc/self/oom_score_adj", OOM_SCORE),
        ),
    ];
    for (what, result) in steps {
        if let Err(error) = result {
            log::warn!("{what}: {error}; under pressure this node may stall");
        }
    }
}

fn raise_descriptors() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Tells the service manager that the daemon is ready, when it was started by one.
pub fn notify_ready() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = notify(place.as_encoded_bytes(), b"READY=1\n") {
        log::warn!("telling the service manager: {error}");
    }
}

/// `place` is a path, or the name of an abstract socket after an `@`.
fn notify(place: &[u8], message: &[u8]) -> io::Result<()> {
    let address = match place {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => {
            let path = std::str::from_utf8(path).map_err(|_| io::ErrorKind::InvalidInput)?;
            SocketAddr::from_pathname(path)?
        }
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_of_readiness_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("weft-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&by_name).unwrap();
        let places = [
            (by_path, path.to_str().unwrap().to_owned()),
            (by_name, format!("@{name}")),
        ];
        for (socket, place) in places {
            notify(place.as_bytes(), b"READY=1\n").unwrap();
            let mut buffer = [0; 32];
            let count = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"READY=1\n");
        }
    }
}
