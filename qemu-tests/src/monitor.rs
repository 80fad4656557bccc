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
    /// Whether it was greeted: that waits for QEMU, which may still be starting.
    is_open: bool,
}

impl Monitor {
    /// An answer may take so long.
    pub(crate) fn new(stream: UnixStream, limit: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(limit))?;
        Ok(Self {
            to: stream.try_clone()?,
            from: BufReader::new(stream),
            is_open: false,
        })
    }

    /// Gives an order and waits for what comes of it.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        if !self.is_open {
            self.receive()?;
            self.is_open = true;
            self.execute("qmp_capabilities", json!({}))?;
        }
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
            found += &format!("== {command}\n{}\n", self.ask(command)?);
        }
        Ok(found)
    }

    /// Where each of the machine's processors is.
    pub(crate) fn program_counters(&mut self) -> Result<Vec<u64>> {
        let registers = self.ask("info registers -a")?;
        let words = registers.split_ascii_whitespace();
        let counters = words.filter_map(|word| word.strip_prefix("RIP="));
        Ok(counters
            .map(|hex| u64::from_str_radix(hex, 16))
            .collect::<Result<_, _>>()?)
    }

    /// What a command for people prints.
    fn ask(&mut self, command: &str) -> Result<String> {
        let line = json!({ "command-line": command });
        let answer = self.execute("human-monitor-command", line)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}
