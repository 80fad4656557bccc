// SPDX-License-Identifier: GPL-2.0-only

//! The daemon's state in words.

use super::units::{size, span};
use crate::control::report::{ConnectionReport, PeerReport, Report};
use std::fmt::{self, Write};
use std::time::Duration;

/// All of it.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report) -> fmt::Result {
    let uptime = span(Duration::from_secs(report.uptime_s));
    writeln!(
        out,
        "weftd {}  process {}  running for {uptime}\ncluster {}  node {} ({})  listening at {}",
        report.version, report.pid, report.cluster, report.node_id, report.node, report.address
    )?;
    report
        .peers
        .iter()
        .try_for_each(|peer| write_peer(out, peer))
}

fn write_peer(out: &mut String, peer: &PeerReport) -> fmt::Result {
    write!(
        out,
        "  {} (node {})  {}  {}",
        peer.name, peer.node_id, peer.address, peer.state
    )?;
    if let Some(ms) = peer.connected_ms {
        write!(out, " for {}", span(Duration::from_millis(ms)))?;
    }
    if let Some(us) = peer.round_trip_us {
        write!(out, "  round trip {us} us")?;
    }
    if peer.missed_pings > 0 {
        write!(out, "  silent for {} pings", peer.missed_pings)?;
    }
    if let Some(ms) = peer.next_attempt_ms {
        write!(
            out,
            "  next attempt in {ms} ms, {} failed",
            peer.failed_attempts
        )?;
    }
    writeln!(out)?;
    if let Some(trouble) = &peer.trouble {
        writeln!(out, "    {trouble}")?;
    }
    peer.connections
        .iter()
        .try_for_each(|connection| write_connection(out, connection))
}

fn write_connection(out: &mut String, connection: &ConnectionReport) -> fmt::Result {
    write!(out, "    {}  {}", connection.resource, connection.state)?;
    if let (Some(session), Some(ms)) = (&connection.session, connection.running_ms) {
        write!(
            out,
            "  session {session} for {}",
            span(Duration::from_millis(ms))
        )?;
    }
    for link in &connection.links {
        write!(
            out,
            "  {} sent {} received {}",
            link.kind,
            size(link.sent_bytes),
            size(link.received_bytes)
        )?;
    }
    writeln!(out)?;
    match &connection.trouble {
        Some(trouble) => writeln!(out, "      {trouble}"),
        None => Ok(()),
    }
}
