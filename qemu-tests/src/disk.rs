// SPDX-License-Identifier: GPL-2.0-only
//! Disks of test machines, served to QEMU by this process, so that a power cut
//! loses exactly what the machine did not flush: a written sector stays in a
//! volatile cache until a flush or a FUA write makes it durable.
//!
//! A [`Disk`] outlives the machine's lives. Tests can make it fail, hang or go
//! back in time, count what happens on it, and compare it with another.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{ensure, Context, Result};
use nix::{
    errno::Errno,
    fcntl::{fallocate, FallocateFlags},
};

use self::{
    cache::{Media, WriteCache, SECTOR_LEN},
    nbd::Request,
};

mod cache;
mod nbd;

/// Bytes the cache holds before it is written back unasked, as real ones do.
const CACHE_LEN_MAX: u64 = 64 << 20;
/// Bytes compared at a time.
const COMPARE_LEN: usize = 1 << 20;

/// Which unflushed sectors a power cut spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None.
    Nothing,
    /// A random half, determined by the seed, whatever the order of the writes.
    Some(u64),
    /// All of them.
    Everything,
}

/// What a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes, discards and zeroing.
    Write,
    /// Flushes, wherever the fault lies.
    Flush,
}

/// What was asked of a disk since it was made or [`Disk::reset_counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read requests.
    pub reads: u64,
    /// Bytes they returned.
    pub read_bytes: u64,
    /// Write requests, those that fail included.
    pub writes: u64,
    /// Bytes they carried.
    pub written_bytes: u64,
    /// Writes that had to be durable at once.
    pub fua_writes: u64,
    /// Discards and requests to write zeroes.
    pub zeroings: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that a fault failed.
    pub errors: u64,
}

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

struct Shared {
    serial: String,
    size: u64,
    block_len: u32,
    path: PathBuf,
    state: Mutex<State>,
    moves: Condvar,
}

struct State {
    media: File,
    cache: WriteCache,
    faults: Vec<(Operation, Range<u64>)>,
    lost: Vec<Range<u64>>,
    hangs: bool,
    counters: Counters,
}

impl Media for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (to_signed(offset)?, to_signed(len)?);
        Ok(fallocate(self, flags, offset, len)?)
    }
}

fn to_signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| Errno::EFBIG.into())
}

impl Disk {
    /// Makes a blank disk of `size` bytes, in logical blocks of `block_len`, that
    /// is kept sparse in `folder`. The machine finds it at
    /// `/dev/disk/by-serial/SERIAL`.
    pub fn new(
        folder: &Path,
        owner: &str,
        serial: &str,
        size: u64,
        block_len: u32,
    ) -> Result<Self> {
        ensure!(
            size % 4096 == 0,
            "disk {serial}: {size} bytes are not whole 4 KiB blocks"
        );
        let path = folder.join(format!("{owner}-{serial}.disk"));
        let media = open_media(&path, true)?;
        media.set_len(size)?;
        Ok(Disk {
            shared: Arc::new(Shared {
                serial: serial.to_owned(),
                size,
                block_len,
                path,
                state: Mutex::new(State {
                    media,
                    cache: WriteCache::default(),
                    faults: Vec::new(),
                    lost: Vec::new(),
                    hangs: false,
                    counters: Counters::default(),
                }),
                moves: Condvar::new(),
            }),
        })
    }

    /// The serial number that the machine sees.
    pub fn serial(&self) -> &str {
        &self.shared.serial
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// Bytes of a logical block.
    pub(crate) fn block_len(&self) -> u32 {
        self.shared.block_len
    }

    /// What was asked of the disk so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Starts counting from zero.
    pub fn reset_counters(&self) {
        self.state().counters = Counters::default();
    }

    /// Fails every `operation` that touches `range` (in bytes) with an I/O error
    /// until [`Self::repair`].
    pub fn fail(&self, operation: Operation, range: Range<u64>) {
        self.state().faults.push((operation, range));
    }

    /// Fails every read that touches `range` (in bytes) until all of it was written in
    /// one go, or until [`Self::repair`].
    pub fn lose(&self, range: Range<u64>) {
        self.state().lost.push(range);
    }

    /// How many ranges are lost and were not written since.
    pub fn lost(&self) -> usize {
        self.state().lost.len()
    }

    /// Fails everything, as a disk does that was pulled out.
    pub fn fail_all(&self) {
        for operation in [Operation::Read, Operation::Write, Operation::Flush] {
            self.fail(operation, 0..self.size());
        }
    }

    /// Takes all faults back.
    pub fn repair(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.lost.clear();
    }

    /// Leaves every request unanswered until [`Self::go_on`].
    pub fn hang(&self) {
        self.state().hangs = true;
    }

    /// Answers again.
    pub fn go_on(&self) {
        self.state().hangs = false;
        self.shared.moves.notify_all();
    }

    /// Reads what the machine would read now.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.state()
            .read(offset, len)
            .with_context(|| format!("disk {}: reading at {offset}", self.serial()))
    }

    /// Overwrites durable bytes behind the machine's back. Offset and length are
    /// multiples of 512.
    pub fn corrupt(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        let State { media, cache, .. } = &mut *state;
        cache.commit(offset, bytes.len() as u64, media)?;
        Ok(media.write_all_at(bytes, offset)?)
    }

    /// Keeps a copy of the durable content, to go back to.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let path = self.shared.path.with_extension("snapshot");
        copy_sparse(&self.shared.path, &path)?;
        Ok(Snapshot(path))
    }

    /// Puts the disk back to an older content. The machine is off.
    pub fn roll_back(&self, snapshot: &Snapshot) -> Result<()> {
        let mut state = self.state();
        state.cache.lose_all();
        copy_sparse(&snapshot.0, &self.shared.path)?;
        state.media = open_media(&self.shared.path, false)?;
        Ok(())
    }

    /// Replaces the disk by a blank one of the same size. The machine is off.
    pub fn replace_by_blank(&self) -> Result<()> {
        let mut state = self.state();
        state.cache.lose_all();
        Ok(state.media.zero_at(0, self.size())?)
    }

    /// The offset of the first byte within `range` that is not the same on the
    /// other disk.
    pub fn first_difference(&self, other: &Disk, range: Range<u64>) -> Result<Option<u64>> {
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(COMPARE_LEN as u64) as usize;
            let (ours, theirs) = (self.read(offset, len)?, other.read(offset, len)?);
            if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
                return Ok(Some(offset + at as u64));
            }
            offset += len as u64;
        }
        Ok(None)
    }

    /// The power is gone: keeps the durable content and what `survivors` says.
    pub(crate) fn power_cut(&self, survivors: Survivors) -> Result<()> {
        let mut state = self.state();
        let State { media, cache, .. } = &mut *state;
        match survivors {
            Survivors::Nothing => cache.lose_all(),
            Survivors::Some(seed) => cache.commit_some(seed, media)?,
            Survivors::Everything => cache.commit_all(media)?,
        }
        state.hangs = false;
        self.shared.moves.notify_all();
        Ok(())
    }

    /// Serves one life of a machine; the thread ends when QEMU does.
    pub(crate) fn serve(&self, stream: UnixStream) -> JoinHandle<io::Result<()>> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || nbd::serve(stream, shared.size, |request| shared.handle(request)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

/// A content that a disk had.
pub struct Snapshot(PathBuf);

impl Drop for Snapshot {
    fn drop(&mut self) {
        // At worst the run's folder is larger than need be.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, request: Request) -> Result<Vec<u8>, Errno> {
        let mut state = self
            .moves
            .wait_while(self.lock(), |state| state.hangs)
            .unwrap_or_else(PoisonError::into_inner);
        state.count(&request);
        let (operation, offset, len) = request.extent(self.size);
        let is_whole = offset % SECTOR_LEN == 0 && len % SECTOR_LEN == 0;
        let end = offset
            .checked_add(len)
            .filter(|end| is_whole && *end <= self.size);
        let end = end.ok_or(Errno::EINVAL)?;
        if state.has_fault(operation, offset..end) {
            state.counters.errors += 1;
            return Err(Errno::EIO);
        }
        state.perform(request).map_err(|error| {
            eprintln!("disk {}: {error}", self.serial);
            Errno::EIO
        })
    }
}

impl Request {
    /// What it does to which range, as offset and length.
    fn extent(&self, disk_size: u64) -> (Operation, u64, u64) {
        match self {
            Request::Read { offset, len } => (Operation::Read, *offset, u64::from(*len)),
            Request::Write { offset, bytes, .. } => (Operation::Write, *offset, bytes.len() as u64),
            Request::Zero { offset, len, .. } => (Operation::Write, *offset, u64::from(*len)),
            Request::Flush => (Operation::Flush, 0, disk_size),
        }
    }
}

impl State {
    fn count(&mut self, request: &Request) {
        let counters = &mut self.counters;
        match request {
            Request::Read { len, .. } => {
                counters.reads += 1;
                counters.read_bytes += u64::from(*len);
            }
            Request::Write { bytes, fua, .. } => {
                counters.writes += 1;
                counters.written_bytes += bytes.len() as u64;
                counters.fua_writes += u64::from(*fua);
            }
            Request::Zero { .. } => counters.zeroings += 1,
            Request::Flush => counters.flushes += 1,
        }
    }

    fn has_fault(&self, operation: Operation, range: Range<u64>) -> bool {
        let touches = |broken: &Range<u64>| broken.start < range.end && range.start < broken.end;
        let mut faults = self.faults.iter();
        faults.any(|(faulty, broken)| *faulty == operation && touches(broken))
            || operation == Operation::Read && self.lost.iter().any(touches)
    }

    fn perform(&mut self, request: Request) -> io::Result<Vec<u8>> {
        match request {
            Request::Read { offset, len } => return self.read(offset, len as usize),
            Request::Write { offset, bytes, fua } => {
                self.cache.write(offset, &bytes);
                self.settle(offset, bytes.len() as u64, fua)?;
            }
            Request::Zero { offset, len, fua } => {
                self.cache.zero(offset, u64::from(len));
                self.settle(offset, u64::from(len), fua)?;
            }
            Request::Flush => self.cache.commit_all(&self.media)?,
        }
        Ok(Vec::new())
    }

    fn settle(&mut self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        let end = offset + len;
        self.lost
            .retain(|lost| lost.start < offset || end < lost.end);
        if fua {
            self.cache.commit(offset, len, &self.media)
        } else if self.cache.size() > CACHE_LEN_MAX {
            self.cache.commit_all(&self.media)
        } else {
            Ok(())
        }
    }

    /// Any offset and length; the cache wants whole sectors.
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let start = offset - offset % SECTOR_LEN;
        let end = (offset + len as u64).next_multiple_of(SECTOR_LEN);
        let mut sectors = vec![0; (end - start) as usize];
        self.media.read_exact_at(&mut sectors, start)?;
        self.cache.overlay(start, &mut sectors);
        let skip = (offset - start) as usize;
        Ok(sectors[skip..skip + len].to_vec())
    }
}

fn open_media(path: &Path, create: bool) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    if create {
        options.create_new(true);
    }
    let open = options.open(path);
    open.with_context(|| format!("opening {}", path.display()))
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([from, to])
        .status()?;
    ensure!(
        status.success(),
        "copying {} to {}",
        from.display(),
        to.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests;
