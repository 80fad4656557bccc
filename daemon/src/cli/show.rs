// SPDX-License-Identifier: GPL-2.0-only

//! `status`, `generations` and `daemon-status`.

use super::events;
use super::failure::Failure;
use super::output::{print, print_json};
use crate::control::client;
use crate::control::report::Report;
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::request::Request;
use crate::view::{self, generation, model};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;
use weft_uapi::netlink::Command;

/// A watched status is looked at again after this time, or when an event comes.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What runs; again and again when `watch`.
pub(super) fn status(resource: Option<&str>, json: bool, watch: bool) -> Result<(), Failure> {
    let mut client = Client::open()?;
    let mut listener = Client::open()?;
    if watch {
        listener.subscribe()?;
    }
    loop {
        let tree = model::tree(&events::status(&mut client, resource)?);
        let clear = if watch && io::stdout().is_terminal() {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        if json {
            print_json(&tree)?;
        } else {
            print(&format!("{clear}{}", view::status::text(&tree)))?;
        }
        if !watch {
            return Ok(());
        }
        // Whatever came, or nothing: look again.
        let _ = listener.events(Some(WATCH_EVERY));
    }
}

/// Which history the data of a resource belong to.
pub(super) fn generations(resource: &str, json: bool) -> Result<(), Failure> {
    let request = Request::about(Command::Generations, resource);
    let records = Client::open()?
        .dump(&request)
        .map_err(|error| Failure::of_request(&request, &error))?;
    let all = generation::all(&records);
    if json {
        print_json(&all)
    } else {
        print(&generation::text(&all))
    }
}

/// What the daemon behind `socket` does.
pub(super) fn daemon(socket: &Path, json: bool) -> Result<(), Failure> {
    let answer = client::ask(socket, "status").map_err(|error| {
        let place = socket.display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
                "no-daemon",
                "No daemon runs.",
                place,
                "systemctl start weftd",
            ),
            _ => Failure::io(&place, &error, "run it as root; journalctl -u weftd"),
        }
    })?;
    if json {
        return print_json(&answer);
    }
    let report: Report = serde_json::from_value(answer).map_err(|error| {
        Failure::new(
            "internal",
            error.to_string(),
            "",
            "use the weft that belongs to the daemon, or --json",
        )
    })?;
    print(&view::daemon::text(&report))
}
