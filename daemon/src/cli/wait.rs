// SPDX-License-Identifier: GPL-2.0-only

//! Waiting for a resource to become connected or in sync.

use super::events::status;
use super::failure::Failure;
use super::output::print;
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::error::NetlinkError;
use crate::view::model::{self, Connection, PeerDevice, Resource};
use crate::view::units::{size, span};
use crate::view::verify::Verify;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState};

/// The state is looked at again after this time, or when an event comes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Without a terminal, progress is told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How far a resource is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Standing {
    /// There.
    Done,
    /// Not yet, and why.
    Waiting(String),
    /// Blocks are being copied or compared.
    Syncing(Progress),
    /// It will not come by itself.
    Hopeless(String),
}

/// All running resyncs of a resource, or comparisons, together.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Progress {
    total_bytes: u64,
    done_bytes: u64,
    speed: u64,
    seconds_left: u64,
}

/// What to wait for.
pub(super) type Goal = fn(&Resource) -> Standing;

/// Every peer is connected.
pub(super) fn connected(resource: &Resource) -> Standing {
    let states = resource
        .connections
        .iter()
        .map(|one| (one, ConnectionState::from_name(&one.connection_state)));
    let mut waiting = Vec::new();
    for (connection, state) in states {
        match state {
            Some(ConnectionState::Connected) => {}
            Some(ConnectionState::StandAlone) => {
                let why = if connection.reason.is_empty() {
                    "not wanted"
                } else {
                    &connection.reason
                };
                return Standing::Hopeless(format!("{}: standalone: {why}", name(connection)));
            }
            _ => waiting.push(format!(
                "{}: {}",
                name(connection),
                connection.connection_state
            )),
        }
    }
    match waiting.is_empty() {
        true => Standing::Done,
        false => Standing::Waiting(waiting.join(", ")),
    }
}

/// Every peer is connected and every copy is up to date.
pub(super) fn in_sync(resource: &Resource) -> Standing {
    // A tie-breaker has nothing to be synced.
    let connections = resource.connections.iter();
    let mirrors = connections.filter(|connection| !connection.tie_breaker);
    let peers = mirrors.clone().flat_map(|mirror| &mirror.peer_devices);
    let mut syncing = peers.filter(|peer| peer.is_syncing()).peekable();
    if syncing.peek().is_some() {
        return Standing::Syncing(syncing.fold(Progress::default(), Progress::with));
    }
    match connected(resource) {
        Standing::Done => {}
        other => return other,
    }
    if resource.tie_breaker {
        return Standing::Done;
    }
    let uptodate = DiskState::UpToDate.name();
    let own = resource
        .devices
        .iter()
        .find(|device| device.disk_state != uptodate);
    if let Some(device) = own {
        return Standing::Waiting(format!("volume {}: {}", device.volume, device.disk_state));
    }
    for mirror in mirrors {
        let open = mirror
            .peer_devices
            .iter()
            .find(|peer| !peer.is_mirrored() || peer.peer_disk_state != uptodate);
        if let Some(peer) = open {
            let (volume, peer_disk) = (peer.volume, &peer.peer_disk_state);
            return Standing::Waiting(format!(
                "{}: volume {volume}: {}, its disk {peer_disk}",
                name(mirror),
                peer.replication_state
            ));
        }
    }
    Standing::Done
}

/// No copies are being compared any more.
pub(super) fn compared(resource: &Resource) -> Standing {
    let peers = resource
        .connections
        .iter()
        .flat_map(|one| &one.peer_devices);
    let verifies = peers.filter_map(|peer| peer.verify.as_ref());
    let mut running = verifies.filter(|verify| verify.is_running()).peekable();
    match running.peek() {
        Some(_) => Standing::Syncing(running.fold(Progress::default(), Progress::with_verify)),
        None => Standing::Done,
    }
}

fn name(connection: &Connection) -> String {
    match connection.name.as_str() {
        "" => format!("node {}", connection.node_id),
        name => name.to_owned(),
    }
}

impl Progress {
    fn with(self, peer: &PeerDevice) -> Self {
        Self {
            total_bytes: self.total_bytes + peer.resync_total_bytes,
            done_bytes: self.done_bytes + peer.resync_done_bytes.min(peer.resync_total_bytes),
            speed: self.speed + peer.speed(),
            seconds_left: self
                .seconds_left
                .max(peer.seconds_left().unwrap_or_default()),
        }
    }

    fn with_verify(self, verify: &Verify) -> Self {
        Self {
            total_bytes: self.total_bytes + verify.total_bytes(),
            done_bytes: self.done_bytes + verify.done_bytes(),
            speed: self.speed + verify.speed(),
            seconds_left: self
                .seconds_left
                .max(verify.seconds_left().unwrap_or_default()),
        }
    }

    fn text(&self) -> String {
        let percent = 100.0 * self.done_bytes as f64 / self.total_bytes.max(1) as f64;
        let left = span(Duration::from_secs(self.seconds_left));
        format!("{percent:5.1} %  {}/s  {left} left", size(self.speed))
    }
}

/// Waits until `goal` is reached; `what` names it in messages.
///
/// # Errors
/// When the time is over, or it will not come by itself.
pub(super) fn wait(
    resource: &str,
    what: &str,
    goal: Goal,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut listener = Client::open()?;
    listener.subscribe()?;
    let mut client = Client::open()?;
    let mut teller = Teller::new(resource);
    loop {
        let tree = model::tree(&status(&mut client, Some(resource))?);
        let Some(found) = tree.iter().find(|found| found.name == resource) else {
            return Err(Failure::refusal(
                Refusal::NoSuchResource,
                format!("resource {resource}"),
                resource,
            ));
        };
        let standing = goal(found);
        teller.tell(&standing)?;
        let why = match standing {
            Standing::Done => return Ok(()),
            Standing::Hopeless(why) => {
                let hint = format!("weft status {resource}");
                return Err(Failure::new(
                    "standalone",
                    why,
                    format!("resource {resource}"),
                    hint,
                ));
            }
            Standing::Waiting(why) => why,
            Standing::Syncing(progress) => format!("syncing:{}", progress.text()),
        };
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let cause = format!("Not {what} in time: {why}.");
            let hint = format!("weft status {resource}; weft daemon-status");
            return Err(Failure::new(
                "timeout",
                cause,
                format!("resource {resource}"),
                hint,
            ));
        }
        let patience = deadline.map_or(LOOK_AGAIN, |deadline| LOOK_AGAIN.min(deadline - now));
        match listener.events(Some(patience)) {
            // What was lost is in the next dump.
            Ok(_) | Err(NetlinkError::Overrun) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells how far it is: a bar on a terminal, else a line now and then.
struct Teller {
    resource: String,
    bar: Option<ProgressBar>,
    told: Option<(Instant, String)>,
}

impl Teller {
    fn new(resource: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
        let bar = std::io::stderr().is_terminal().then(|| {
            ProgressBar::new(0)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(resource.to_owned())
        });
        Self {
            resource: resource.to_owned(),
            bar,
            told: None,
        }
    }

    fn tell(&mut self, standing: &Standing) -> Result<(), Failure> {
        let text = match standing {
            Standing::Done | Standing::Hopeless(_) => String::new(),
            Standing::Waiting(why) => why.clone(),
            Standing::Syncing(progress) => progress.text(),
        };
        if let Some(bar) = &self.bar {
            match standing {
                Standing::Syncing(progress) => {
                    bar.set_length(progress.total_bytes);
                    bar.set_position(progress.done_bytes);
                    bar.set_message(text);
                }
                Standing::Waiting(_) => bar.set_message(text),
                Standing::Done | Standing::Hopeless(_) => bar.finish_and_clear(),
            }
            return Ok(());
        }
        let is_news = self.told.as_ref().is_none_or(|(at, before)| {
            let is_late = at.elapsed() >= TELL_EVERY;
            *before != text && (is_late || !matches!(standing, Standing::Syncing(_)))
        });
        if is_news && !text.is_empty() {
            print(&format!("{}: {}\n", self.resource, text.trim_start()))?;
            self.told = Some((Instant::now(), text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(connection: &str, replication: &str, own_disk: &str, peer_disk: &str) -> Resource {
        let json = format!(
            r#"{{
            "name": "r0", "node_id": 0, "role": "secondary", "protocol": "C", "suspended": [], "suspended_ms": 0,
            "devices": [{{
                "volume": 0, "minor": 7, "disk_state": "{own_disk}", "disk": "/dev/vda", "meta": "internal",
                "size_bytes": 1, "generation": "", "open_count": 0, "read_bytes": 0, "written_bytes": 0,
                "in_flight": 0, "al_used": 0, "al_size": 0, "al_writes": 0, "block_bytes": 512
            }}],
            "connections": [{{
                "node_id": 1, "name": "beta", "connection_state": "{connection}", "role": "unknown",
                "daemon_connected": false, "session": "0", "reason": "split brain",
                "peer_devices": [{{
                    "volume": 0, "replication_state": "{replication}", "peer_disk_state": "{peer_disk}",
                    "out_of_sync_bytes": 0, "resync_total_bytes": 1000, "resync_done_bytes": 250, "resync_ms": 1000,
                    "sent_bytes": 0, "received_bytes": 0, "unacked": 0, "rule": ""
                }}]
            }}]
        }}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_standalone_peer_ends_the_wait_with_its_reason() {
        let standing = connected(&resource("standalone", "off", "uptodate", "unknown"));
        assert_eq!(
            standing,
            Standing::Hopeless("beta: standalone: split brain".to_owned())
        );
    }

    #[test]
    fn in_sync_means_connected_and_every_copy_up_to_date() {
        let standing = |connection, replication, own, peer| {
            in_sync(&resource(connection, replication, own, peer))
        };
        assert_eq!(
            standing("connected", "established", "uptodate", "uptodate"),
            Standing::Done
        );
        assert!(matches!(
            standing("connecting", "off", "uptodate", "unknown"),
            Standing::Waiting(_)
        ));
        assert!(matches!(
            standing("connected", "established", "consistent", "uptodate"),
            Standing::Waiting(_)
        ));
        assert!(matches!(
            standing("connected", "bitmap-source", "uptodate", "inconsistent"),
            Standing::Waiting(_)
        ));
        let Standing::Syncing(progress) =
            standing("connected", "sync-target", "inconsistent", "uptodate")
        else {
            panic!("not syncing");
        };
        assert_eq!(progress.text(), " 25.0 %  250 B/s  3 s left");
    }

    #[test]
    fn the_peer_that_is_waited_for_is_named_and_several_syncs_are_one() {
        let mut resource = resource("connected", "established", "uptodate", "uptodate");
        let mut gamma = resource.connections[0].clone();
        gamma.name = "gamma".to_owned();
        gamma.peer_devices[0].replication_state = "bitmap-source".to_owned();
        resource.connections.push(gamma);
        let waiting = "gamma: volume 0: bitmap-source, its disk uptodate".to_owned();
        assert_eq!(in_sync(&resource), Standing::Waiting(waiting));
        for connection in &mut resource.connections {
            connection.peer_devices[0].replication_state = "sync-source".to_owned();
        }
        resource.connections[1].peer_devices[0].resync_done_bytes = 750;
        let Standing::Syncing(progress) = in_sync(&resource) else {
            panic!("not syncing");
        };
        assert_eq!(progress.text(), " 50.0 %  1000 B/s  3 s left");
    }

    #[test]
    fn the_disk_that_a_tie_breaker_lacks_is_not_waited_for() {
        let mut resource = resource("connected", "established", "uptodate", "uptodate");
        let mut gamma = resource.connections[0].clone();
        gamma.peer_devices[0].peer_disk_state = "diskless".to_owned();
        resource.connections.push(gamma);
        assert!(matches!(in_sync(&resource), Standing::Waiting(_)));
        resource.connections[1].tie_breaker = true;
        assert_eq!(in_sync(&resource), Standing::Done);
    }
}
