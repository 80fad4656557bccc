// SPDX-License-Identifier: GPL-2.0-only

//! The asking side of the control socket.

use super::{Reply, Request};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A daemon that does not answer within this time is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the daemon behind `socket` for one thing.
///
/// # Errors
/// When nobody listens there, the daemon does not answer or refuses.
pub fn ask(socket: &Path, method: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request {
        id: 1,
        method: method.to_owned(),
    };
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let reply: Reply = serde_json::from_str(&answer)?;
    match (reply.result, reply.error) {
        (Some(result), None) => Ok(result),
        (_, Some(fault)) => Err(io::Error::other(format!("{}: {}", fault.code, fault.text))),
        (None, None) => Err(io::ErrorKind::InvalidData.into()),
    }
}
