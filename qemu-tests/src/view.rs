// SPDX-License-Identifier: GPL-2.0-only
//! What one machine says of the mirrored resource.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Deserializer, Value};

use crate::{Command, Deadline, Machine, Process};

/// What one machine's `weft status --json` says of the resource.
#[derive(Clone, Debug)]
pub struct View(Value);

/// What it says of one of its peers; of one that it does not know, nothing.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a>(&'a Value);

impl View {
    /// Asks the machine.
    pub fn of(machine: &Machine) -> Result<Self> {
        let text = machine.sh("weft status r0 --json")?;
        let all = serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        Self::first(all)
    }

    fn first(mut all: Value) -> Result<Self> {
        let first = all.get_mut(0).context("no resource in the status")?;
        Ok(Self(first.take()))
    }

    /// Role of this node.
    pub fn role(&self) -> &str {
        text(&self.0, "/role")
    }

    /// State of the local disk.
    pub fn disk(&self) -> &str {
        text(&self.0, "/devices/0/disk_state")
    }

    /// Whether requests wait for this reason.
    pub fn waits_for(&self, reason: &str) -> bool {
        self.reasons().iter().any(|found| found == reason)
    }

    fn reasons(&self) -> &[Value] {
        let reasons = self.0.pointer("/suspended").and_then(Value::as_array);
        reasons.map_or(&[], Vec::as_slice)
    }

    /// The node that carries out the requests of this one.
    pub fn server(&self) -> Option<u64> {
        self.0["server"].as_u64()
    }

    /// Bytes that the application has written.
    pub fn written(&self) -> u64 {
        number(&self.0, "/devices/0/written_bytes").unwrap_or(0)
    }

    /// Blocks of its disk that it has written anew.
    pub fn healed(&self) -> u64 {
        number(&self.0, "/devices/0/healed_blocks").unwrap_or(0)
    }

    /// What it says of another machine.
    pub fn peer(&self, machine: &Machine) -> PeerView<'_> {
        let is_it = |peer: &PeerView<'_>| text(peer.0, "/name") == machine.name();
        self.peers().find(is_it).unwrap_or(PeerView(&Value::Null))
    }

    /// All its peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        let peers = self.0.pointer("/connections").and_then(Value::as_array);
        peers.into_iter().flatten().map(PeerView)
    }

    /// Every disk uptodate, every peer connected, nothing owed.
    pub fn is_settled(&self) -> bool {
        if is_tie_breaker(&self.0) {
            return self.peers().all(PeerView::is_connected);
        }
        self.disk() == "uptodate" && self.peers().all(PeerView::is_settled)
    }

    /// One line for messages.
    pub fn summary(&self) -> String {
        let mut line = format!("{} disk {}", self.role(), self.disk());
        for reason in self.reasons() {
            line += &format!(" waits for {reason}");
        }
        for peer in self.peers() {
            line += "; ";
            line += &peer.summary();
        }
        line
    }
}

impl<'a> PeerView<'a> {
    /// State of its disk.
    pub fn disk(self) -> &'a str {
        text(self.0, "/peer_devices/0/peer_disk_state")
    }

    /// Its role, as far as is known.
    pub fn role(self) -> &'a str {
        text(self.0, "/role")
    }

    /// State of the connection.
    pub fn connection(self) -> &'a str {
        text(self.0, "/connection_state")
    }

    /// Why the last session ended.
    pub fn reason(self) -> &'a str {
        text(self.0, "/reason")
    }

    /// Rule of the last handshake.
    pub fn rule(self) -> &'a str {
        text(self.0, "/peer_devices/0/rule")
    }

    /// What came of the last handshake if that was a split brain, and whose data were given up.
    pub fn recovery(self) -> (&'a str, Option<u64>) {
        let device = "/peer_devices/0";
        let victim = number(self.0, &format!("{device}/victim"));
        (text(self.0, "/peer_devices/0/recovery"), victim)
    }

    /// How it keeps up with the writes.
    pub fn pace(self) -> &'a str {
        text(self.0, "/peer_devices/0/pace")
    }

    /// What of the writes it may lack, in bytes, and for how long, in milliseconds.
    pub fn lag(self) -> (u64, u64) {
        let of = |pointer| number(self.0, pointer).unwrap_or(0);
        (
            of("/peer_devices/0/lag_bytes"),
            of("/peer_devices/0/lag_ms"),
        )
    }

    /// What happens between the two copies.
    pub fn replication(self) -> &'a str {
        text(self.0, "/peer_devices/0/replication_state")
    }

    /// Bytes of the last resync that were found equal, and not sent.
    pub fn found_equal(self) -> u64 {
        number(self.0, "/peer_devices/0/resync_equal_bytes").unwrap_or(0)
    }

    /// What holds up the resync that the node serves; empty: nothing.
    pub fn resync_limit(self) -> &'a str {
        text(self.0, "/peer_devices/0/resync_limit")
    }

    /// Whether resyncs wait for this reason.
    pub fn waits_for(self, reason: &str) -> bool {
        let reasons = self.0.pointer("/peer_devices/0/paused");
        let reasons = reasons.and_then(Value::as_array);
        reasons.is_some_and(|all| all.iter().any(|found| found == reason))
    }

    /// Id of this side's last session with it.
    pub fn session(self) -> &'a str {
        text(self.0, "/session")
    }

    /// Bytes that the last resync had to transfer.
    pub fn resync_total(self) -> u64 {
        number(self.0, "/peer_devices/0/resync_total_bytes").unwrap_or(u64::MAX)
    }

    /// Bytes of them that are done.
    pub fn resync_done(self) -> u64 {
        number(self.0, "/peer_devices/0/resync_done_bytes").unwrap_or(u64::MAX)
    }

    /// What became of the last verify; empty: there was none.
    pub fn verify(self) -> &'a str {
        text(self.0, "/peer_devices/0/verify/state")
    }

    /// Bytes of the blocks that it found to differ.
    pub fn differing(self) -> u64 {
        number(self.0, "/peer_devices/0/verify/differing_bytes").unwrap_or(0)
    }

    /// Bytes of device that are marked out of sync.
    pub fn out_of_sync(self) -> u64 {
        number(self.0, "/peer_devices/0/out_of_sync_bytes").unwrap_or(u64::MAX)
    }

    /// Whether it is connected; one that has not noticed a loss yet says so too.
    pub fn is_connected(self) -> bool {
        self.connection() == "connected"
    }

    /// Connected, its disk uptodate, nothing owed.
    pub fn is_settled(self) -> bool {
        let is_equal = self.replication() == "established" && self.disk() == "uptodate";
        self.is_connected() && (is_equal || is_tie_breaker(self.0))
    }

    fn summary(self) -> String {
        format!(
            "{} {} disk {} {} rule {:?} out of sync {} reason {:?}",
            text(self.0, "/name"),
            self.connection(),
            self.disk(),
            self.replication(),
            self.rule(),
            self.out_of_sync(),
            self.reason(),
        )
    }
}

/// Looks at a machine's resource whenever something changes there, and every second.
pub struct Watch {
    watcher: Process,
    /// Bytes of its output that were looked at.
    seen: usize,
}

impl Watch {
    /// Begins to look.
    pub fn begin(machine: &Machine) -> Result<Self> {
        let watcher = machine.spawn(&Command::shell("exec weft status r0 --json --watch"))?;
        Ok(Self { watcher, seen: 0 })
    }

    /// The first view, then the one after each change.
    pub fn next(&mut self, deadline: Deadline) -> Result<View> {
        loop {
            let unseen = &self.watcher.output_so_far().stdout[self.seen..];
            let mut values = Deserializer::from_slice(unseen).into_iter();
            match values.next() {
                Some(Ok(all)) => {
                    self.seen += values.byte_offset();
                    return View::first(all);
                }
                Some(Err(error)) if !error.is_eof() => return Err(error.into()),
                _ => self.watcher.wait_for_output(deadline)?,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The machine may be gone as well.
        let _ = self.watcher.signal(Signal::SIGKILL);
    }
}

/// Whether a node keeps no disk and only votes.
fn is_tie_breaker(node: &Value) -> bool {
    node["tie_breaker"] == true
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}
