// SPDX-License-Identifier: GPL-2.0-only
//! A file system with one file, `disk`, kept in memory. It speaks just enough of the FUSE protocol for a loop device on
//! that file.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{mount, MsFlags},
};

/// While this file exists, writes fail for want of memory.
const SHORT: &str = "/run/short";

/// Largest write that is asked for.
const WRITE_LEN_MAX: usize = 64 << 10;
/// What a request has before its own fields.
const HEADER_LEN: usize = 40;
/// Fields of a read or a write before the data.
const TRANSFER_LEN: usize = 40;

const ROOT: u64 = 1;
const DISK: u64 = 2;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;

/// The file system.
struct Server {
    disk: Vec<u8>,
    refused: u32,
}

/// A request, or an answer under construction: fields in the machine's byte order.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    let field = bytes.get(at..at + 4).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes(
        field.try_into().map_err(|_| Errno::EINVAL)?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Errno> {
    let field = bytes.get(at..at + 8).ok_or(Errno::EINVAL)?;
    Ok(u64::from_ne_bytes(
        field.try_into().map_err(|_| Errno::EINVAL)?,
    ))
}

/// Mounts the file system and serves it until it is unmounted.
pub(crate) fn serve(folder: &str, bytes: usize) -> io::Result<()> {
    let mut channel = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        channel.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("weft-trouble"),
        Path::new(folder),
        Some("fuse"),
        flags,
        Some(options.as_str()),
    )?;
    println!("mounted");
    let mut server = Server {
        disk: vec![0; bytes],
        refused: 0,
    };
    let mut buffer = vec![0; HEADER_LEN + TRANSFER_LEN + WRITE_LEN_MAX + 4096];
    loop {
        let length = match channel.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(()),
            // The request was interrupted before it was read.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = server.answer(buffer.get(..length).unwrap_or_default())? {
            channel.write_all(&answer)?;
        }
    }
}

impl Server {
    /// The whole answer to a request; `None` when it gets none.
    fn answer(&mut self, request: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let (opcode, unique) = (u32_at(request, 4)?, u64_at(request, 8)?);
        if matches!(opcode, FORGET | INTERRUPT) {
            return Ok(None);
        }
        let (error, body) = match self.perform(opcode, request) {
            Ok(body) => (0, body.0),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).map_err(|_| Errno::EOVERFLOW)?;
        let header = Fields::default().u32(length).u32(error as u32).u64(unique);
        Ok(Some([header.0, body].concat()))
    }

    fn perform(&mut self, opcode: u32, request: &[u8]) -> Result<Fields, Errno> {
        let node = u64_at(request, 16)?;
        let fields = request.get(HEADER_LEN..).ok_or(Errno::EINVAL)?;
        let none = Fields::default();
        match opcode {
            // Version 7.31, no feature, and the largest write.
            INIT => Ok(none
                .u32(7)
                .u32(31)
                .zeros(12)
                .u32(WRITE_LEN_MAX as u32)
                .zeros(40)),
            LOOKUP if fields == b"disk\0" => {
                Ok(self.attributes(none.u64(DISK).zeros(8).zeros(24), DISK))
            }
            LOOKUP => Err(Errno::ENOENT),
            GETATTR | SETATTR => Ok(self.attributes(none.zeros(16), node)),
            // Every read and write comes here at once.
            OPEN => Ok(none.zeros(8).u32(1).zeros(4)),
            READ => self.range(fields).map(|range| Fields(range.to_vec())),
            WRITE => self.write(fields),
            RELEASE | FSYNC | FLUSH => Ok(none),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Adds the attributes of the folder or of the file.
    fn attributes(&self, fields: Fields, node: u64) -> Fields {
        let (size, mode) = match node {
            ROOT => (0, 0o040_755),
            _ => (self.disk.len() as u64, 0o100_600),
        };
        let times = 3 * 8 + 3 * 4;
        let fields = fields.u64(node).u64(size).u64(size / 512).zeros(times);
        fields.u32(mode).u32(1).zeros(12).u32(4096).zeros(4)
    }

    /// The bytes that a read or a write is about.
    fn range(&mut self, fields: &[u8]) -> Result<&mut [u8], Errno> {
        let start = usize::try_from(u64_at(fields, 8)?).map_err(|_| Errno::EINVAL)?;
        let length = u32_at(fields, 16)? as usize;
        let rest = self.disk.get_mut(start..).ok_or(Errno::EINVAL)?;
        rest.get_mut(..length).ok_or(Errno::EINVAL)
    }

    fn write(&mut self, fields: &[u8]) -> Result<Fields, Errno> {
        if Path::new(SHORT).exists() {
            self.refused += 1;
            println!("refused {}", self.refused);
            return Err(Errno::ENOMEM);
        }
        let data = fields.get(TRANSFER_LEN..).ok_or(Errno::EINVAL)?;
        let range = self.range(fields)?;
        if data.len() != range.len() {
            return Err(Errno::EINVAL);
        }
        range.copy_from_slice(data);
        Ok(Fields::default().u32(range.len() as u32).zeros(4))
    }
}
