// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's own control channel: JSON, one object per line.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{bail, ensure, Result};
use serde_json::{json, Value};

/// What shows where a machine is that does not go on.
const INSPECTIONS: [&str; 5] = [
    "info status",
    "info registers -a",
    "info lapic",
    "info pic",
    "info block",
];

/// The connection to one QEMU.
pub(crate) struct Monitor {
    from: BufReader<UnixStream>,
    to: UnixStream,
}

impl Monitor {
    /// An answer may take so long.
    pub(crate) fn new(stream: UnixStream, limit: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(limit))?;
        let mut monitor = Self {
            to: stream.try_clone()?,
            from: BufReader::new(stream),
        };
        monitor.receive()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives an order and waits for what comes of it.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.to.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.from.read_line(&mut line)? > 0, "QEMU is gone");
        Ok(serde_json::from_str(&line)?)
    }

    /// Everything that tells where the machine is stuck, for a person.
    pub(crate) fn inspect(&mut self) -> Result<String> {
        let mut found = String::new();
        for command in INSPECTIONS {
            let line = json!({ "command-line": command });
            let answer = self.execute("human-monitor-command", line)?;
            found += &format!("== {command}\n{}\n", answer.as_str().unwrap_or_default());
        }
        Ok(found)
    }
}
