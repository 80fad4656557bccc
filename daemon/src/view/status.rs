// SPDX-License-Identifier: GPL-2.0-only

//! The state in words: what is, and where something is not as it should be, why and what to do.

use super::congestion;
use super::model::{Connection, Device, PeerDevice, Promotion, Quorum, Resource};
use super::paused;
use super::resync;
use super::suspension;
use super::units::{size, span};
use std::fmt::Write;
use std::time::Duration;
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};

/// All resources.
pub fn text(resources: &[Resource]) -> String {
    if resources.is_empty() {
        return "no resource is up\n".to_owned();
    }
    let blocks: Vec<_> = resources.iter().map(resource).collect();
    blocks.join("\n")
}

fn resource(resource: &Resource) -> String {
    let kind = if resource.tie_breaker {
        "  tie-breaker"
    } else {
        ""
    };
    let by_open = resource.auto_promote.in_effect;
    let cause = if by_open { " (auto)" } else { "" };
    let mut out = format!(
        "{}  {}{cause}  protocol {}{kind}\n",
        resource.name, resource.role, resource.protocol
    );
    if by_open {
        let text =
            "primary because a device was opened, and until the last close; to keep the role:";
        line(
            &mut out,
            1,
            &format!("{text} weft primary {}", resource.name),
        );
    }
    if resource.quorum.is_on() {
        line(&mut out, 1, &quorum(&resource.quorum));
    }
    if let Some(server) = resource.server {
        line(
            &mut out,
            1,
            &format!("node {server} carries out the requests of this node"),
        );
    }
    if !resource.clients.is_empty() {
        let clients: Vec<_> = resource.clients.iter().map(u8::to_string).collect();
        let clients = clients.join(", ");
        line(
            &mut out,
            1,
            &format!("carries out the requests of node {clients}"),
        );
    } else if resource.role == Role::Secondary.name() && !resource.tie_breaker {
        line(&mut out, 1, &promotion(&resource.promotion));
    }
    for (reason, way_out) in resource.suspended.iter().zip(&resource.way_out) {
        let why = suspension::why(reason);
        let time = span(Duration::from_millis(resource.suspended_ms));
        let since = resource.suspended_since_s.unwrap_or_default();
        line(
            &mut out,
            1,
            &format!(
                "I/O has been waiting for {time} (since {since:.3} s of uptime): {why}; {way_out}"
            ),
        );
    }
    for device in &resource.devices {
        line(&mut out, 1, &self::device(device));
        let hint = disk_hint(&device.disk_state, &resource.name);
        if let Some(hint) = hint.filter(|_| !resource.tie_breaker) {
            line(&mut out, 2, hint.as_str());
        }
        if device.healed_blocks > 0 {
            let text = format!(
                "{} blocks of 4 KiB could not be read and were written anew with a peer's data: look after the disk",
                device.healed_blocks
            );
            line(&mut out, 2, &text);
        }
        if let Some(id) = &device.left_at {
            let text = format!(
                "this node left in order at generation {id}; its vote does not count before a primary has taken it in"
            );
            line(&mut out, 2, &text);
        }
    }
    for connection in &resource.connections {
        line(&mut out, 1, &self::connection(connection));
        if let Some(hint) = connection_hint(connection, &resource.name) {
            line(&mut out, 2, &hint);
        }
        for peer_device in &connection.peer_devices {
            let first = resource.resync_after.as_deref();
            line(&mut out, 2, &self::peer_device(peer_device, first));
            if let Some(verify) = &peer_device.verify {
                let target = match connection.name.as_str() {
                    "" => connection.node_id.to_string(),
                    name => name.to_owned(),
                };
                line(&mut out, 3, &verify.text(&resource.name, &target));
            }
        }
    }
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:1$}{text}", "", 2 * depth);
}

/// Who votes, who is there, and what that means.
fn quorum(quorum: &Quorum) -> String {
    let (present, all) = (quorum.present.len(), quorum.voters.len());
    let mut text = format!(
        "quorum {}  {present} of {all} voters present, {} needed",
        quorum.state, quorum.needed
    );
    if !quorum.left.is_empty() {
        let left: Vec<_> = quorum.left.iter().map(u8::to_string).collect();
        let _ = write!(text, "; left in order: node {}", left.join(", "));
    }
    if quorum.state == "no" {
        let _ = write!(text, "; without quorum: {}", quorum.on_no_quorum);
    }
    text
}

/// Whether the node would be promoted, and why not.
fn promotion(promotion: &Promotion) -> String {
    match (promotion.possible, promotion.node_id) {
        (true, None) => "may be promoted".to_owned(),
        (true, Some(node)) => format!("may be promoted once node {node} is fenced"),
        (false, node) => {
            let about = node.map_or_else(String::new, |node| format!(" (node {node})"));
            let Promotion {
                code, why, hint, ..
            } = promotion;
            format!("would not be promoted: {code}{about}: {why} Try: {hint}")
        }
    }
}

fn device(device: &Device) -> String {
    let mut text = format!(
        "volume {}  /dev/weft{}  {}",
        device.volume, device.minor, device.disk_state
    );
    if device.size_bytes > 0 {
        let _ = write!(text, "  {}", size(device.size_bytes));
    }
    if device.block_bytes > SECTOR_BYTES {
        let _ = write!(text, " in blocks of {}", device.block_bytes);
    }
    if !device.disk.is_empty() {
        let _ = write!(text, "  on {} (metadata {})", device.disk, device.meta);
    }
    if device.open_count > 0 {
        let _ = write!(text, "  open");
    }
    text
}

fn disk_hint(state: &str, resource: &str) -> Option<String> {
    let hint = match DiskState::from_name(state)? {
        DiskState::Diskless => format!("no disk is attached; weft up {resource}"),
        DiskState::Failed => {
            "the disk reported an error and is being let go; dmesg shows it".to_owned()
        }
        DiskState::Inconsistent => {
            "an unfinished sync: parts are older than others until it is done".to_owned()
        }
        DiskState::Outdated => "a peer has newer data; connect it to get them".to_owned(),
        DiskState::Consistent => {
            "whether newer data exist shows at the next contact with the peers".to_owned()
        }
        DiskState::Attaching | DiskState::Unknown | DiskState::UpToDate => return None,
    };
    Some(hint)
}

fn connection(connection: &Connection) -> String {
    let name = if connection.name.is_empty() {
        "peer"
    } else {
        &connection.name
    };
    let mut text = format!(
        "{name} (node {})  {}",
        connection.node_id, connection.connection_state
    );
    if connection.role != "unknown" {
        let _ = write!(text, ", {}", connection.role);
    }
    if connection.tie_breaker {
        text.push_str(", tie-breaker");
    }
    text
}

fn connection_hint(connection: &Connection, resource: &str) -> Option<String> {
    let state = ConnectionState::from_name(&connection.connection_state)?;
    let node = connection.node_id;
    let last = if connection.reason.is_empty() {
        String::new()
    } else {
        format!("; last: {}", connection.reason)
    };
    let hint = match state {
        ConnectionState::Connected => return None,
        ConnectionState::StandAlone if connection.reason.is_empty() => {
            format!("not wanted; weftsetup connect {resource} {node}")
        }
        ConnectionState::StandAlone if connection.reason.starts_with("split brain") => {
            format!(
                "{}; nothing is overwritten. On the node whose data shall be lost: weft secondary {resource}; \
                 weftsetup connect {resource} PEER --discard-my-data; here: weftsetup connect {resource} {node}",
                connection.reason
            )
        }
        ConnectionState::StandAlone => {
            format!(
                "given up: {}; when that is settled: weftsetup connect {resource} {node}",
                connection.reason
            )
        }
        ConnectionState::Unserved => {
            format!("no daemon serves this node; systemctl start weftd{last}")
        }
        ConnectionState::Connecting if connection.daemon_connected => {
            format!("the peer's daemon answers, its module does not offer {resource} (yet); weft up {resource} there{last}")
        }
        ConnectionState::Connecting => {
            format!("the peer's daemon does not answer; weft daemon-status shows why{last}")
        }
        ConnectionState::Handshake => "the modules are exchanging their states".to_owned(),
    };
    Some(hint)
}

fn peer_device(peer: &PeerDevice, first: Option<&str>) -> String {
    let mut text = format!("volume {}  {}", peer.volume, peer.replication_state);
    if peer.is_syncing() {
        let _ = write!(
            text,
            "  {:.1} %  {}/s",
            peer.percent_done(),
            size(peer.speed())
        );
        if let Some(left) = peer.seconds_left() {
            let _ = write!(text, "  {} left", span(Duration::from_secs(left)));
        }
        if peer.resync_equal_bytes > 0 {
            let _ = write!(text, "  {} found equal", size(peer.resync_equal_bytes));
        }
        let limit = peer.resync_limit.as_deref();
        if let Some(why) = limit.and_then(|limit| resync::why(limit, peer.resync_rate_bytes)) {
            let _ = write!(text, "  {why}");
        }
    }
    let _ = write!(text, "  peer disk {}", peer.peer_disk_state);
    let is_off = peer.replication_state == ReplicationState::Off.name();
    if let Some(why) = congestion::why(peer).filter(|_| !is_off) {
        let _ = write!(text, "  {why}");
    } else if peer.out_of_sync_bytes > 0 && !peer.is_syncing() {
        let _ = write!(text, "  {} out of sync", size(peer.out_of_sync_bytes));
    }
    if let Some(id) = &peer.left_at {
        let _ = write!(text, "  left in order at generation {id}");
    }
    if let Some(why) = paused::why(&peer.paused, first).filter(|_| !is_off) {
        let _ = write!(text, "  {why}");
    }
    if !peer.rule.is_empty() && !is_off {
        let _ = write!(text, "  (rule {}", peer.rule);
        if let Some(victim) = peer.victim {
            let _ = write!(
                text,
                "; {}: the data of node {victim} were given up",
                peer.recovery
            );
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::model::SplitBrain;
    use super::super::opening::Opening;
    use super::super::resync::Resync;
    use super::*;
    use weft_uapi::refusal::Refusal;
    use weft_uapi::state::OnNoQuorum;
    use weft_uapi::status::{
        ResourceInfo, PAUSED_AFTER, PAUSED_AFTER_THERE, PAUSED_HERE, PAUSED_THERE,
        SUSPENDED_NO_DATA, SUSPENDED_QUORUM,
    };
    use zerocopy::FromZeros;

    fn sample() -> Resource {
        let peer_device = PeerDevice {
            volume: 0,
            replication_state: "sync-source".to_owned(),
            peer_disk_state: "inconsistent".to_owned(),
            out_of_sync_bytes: 3 << 20,
            resync_total_bytes: 4 << 20,
            resync_done_bytes: 1 << 20,
            resync_equal_bytes: 0,
            resync_ms: 2000,
            sent_bytes: 1 << 20,
            received_bytes: 0,
            unacked: 2,
            pace: "together".to_owned(),
            on_congestion: "block".to_owned(),
            lag_bytes: 0,
            lag_ms: 0,
            paused: Vec::new(),
            resync_limit: None,
            resync_rate_bytes: 0,
            rule: "behind".to_owned(),
            recovery: "none".to_owned(),
            victim: None,
            left_at: None,
            verify: None,
        };
        let connection = Connection {
            node_id: 1,
            name: "beta".to_owned(),
            connection_state: "connected".to_owned(),
            role: "secondary".to_owned(),
            daemon_connected: true,
            session: "5".to_owned(),
            reason: String::new(),
            tie_breaker: false,
            peer_devices: vec![peer_device],
        };
        let device = Device {
            volume: 0,
            minor: 0,
            disk_state: "uptodate".to_owned(),
            disk: "/dev/vda".to_owned(),
            meta: "internal".to_owned(),
            size_bytes: 4 << 30,
            generation: "0000000000000005".to_owned(),
            open_count: 1,
            read_bytes: 0,
            written_bytes: 0,
            in_flight: 0,
            al_used: 0,
            al_size: 1024,
            al_writes: 0,
            block_bytes: 512,
            healed_blocks: 0,
            left_at: None,
        };
        Resource {
            name: "r0".to_owned(),
            node_id: 0,
            role: "primary".to_owned(),
            protocol: "C".to_owned(),
            tie_breaker: false,
            fencing: "dont-care".to_owned(),
            two_primaries: "refused".to_owned(),
            auto_promote: Opening::default(),
            split_brain: SplitBrain::default(),
            resync: Resync::default(),
            resync_after: None,
            congestion: congestion::Congestion::default(),
            csums_resync: "no".to_owned(),
            promotion: Promotion::default(),
            server: None,
            clients: vec![],
            quorum: Quorum::default(),
            suspended: vec![],
            suspended_ms: 0,
            suspended_since_s: None,
            way_out: vec![],
            devices: vec![device],
            connections: vec![connection],
        }
    }

    #[test]
    fn a_running_sync_shows_share_speed_time_left_and_the_rule() {
        assert_eq!(
            text(&[sample()]),
            "r0  primary  protocol C\n\
             \x20 volume 0  /dev/weft0  uptodate  4.0 GiB  on /dev/vda (metadata internal)  open\n\
             \x20 beta (node 1)  connected, secondary\n\
             \x20   volume 0  sync-source  25.0 %  512.0 KiB/s  6 s left  peer disk inconsistent  (rule behind)\n"
        );
    }

    #[test]
    fn r15_what_holds_a_resync_up_is_named_with_the_rate_that_is_left_to_it() {
        let mut resource = sample();
        let peer = &mut resource.connections[0].peer_devices[0];
        peer.resync_rate_bytes = 4 << 20;
        peer.resync_equal_bytes = 1 << 20;
        let told = [
            (
                "max-rate",
                "6 s left  1.0 MiB found equal  held at 4.0 MiB/s by resync-max-rate  peer",
            ),
            (
                "latency",
                "held at 4.0 MiB/s for the latency of applications",
            ),
            (
                "min-rate",
                "held at 4.0 MiB/s (resync-min-rate) for the latency",
            ),
        ];
        for (limit, want) in told {
            resource.connections[0].peer_devices[0].resync_limit = Some(limit.to_owned());
            let text = text(&[resource.clone()]);
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn who_is_primary_because_of_an_open_says_so() {
        let mut resource = sample();
        resource.auto_promote.in_effect = true;
        let text = text(&[resource]);
        assert!(
            text.starts_with(
                "r0  primary (auto)  protocol C\n\
                 \x20 primary because a device was opened, and until the last close; to keep the role: weft primary r0\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn who_left_in_order_is_named_with_the_generation_that_it_knew_then() {
        let mut resource = sample();
        let id = "00000000000000aa";
        resource.quorum = Quorum::from(&ResourceInfo {
            voters: 0b111,
            voters_present: 0b001,
            voters_left: 0b110,
            has_quorum: 1,
            ..ResourceInfo::new_zeroed()
        });
        let peer = &mut resource.connections[0].peer_devices[0];
        peer.replication_state = "off".to_owned();
        peer.left_at = Some(id.to_owned());
        resource.devices[0].left_at = Some(id.to_owned());
        let text = text(&[resource]);
        for want in [
            "quorum yes  1 of 3 voters present, 1 needed; left in order: node 1, 2\n",
            "this node left in order at generation 00000000000000aa; its vote does not count before",
            "volume 0  off  peer disk inconsistent  3.0 MiB out of sync  left in order at generation 00000000000000aa",
        ] {
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn a_client_names_its_server_and_the_server_its_clients() {
        let mut resource = sample();
        resource.server = Some(1);
        let shown = text(&[resource.clone()]);
        let want = "  node 1 carries out the requests of this node\n";
        assert!(shown.contains(want), "{shown}");
        (resource.server, resource.clients) = (None, vec![2]);
        resource.role = "secondary".to_owned();
        let shown = text(&[resource]);
        assert!(shown.contains("  carries out the requests of node 2\n"));
        assert!(!shown.contains("promoted"), "{shown}");
    }

    #[test]
    fn a_resync_that_waits_says_who_wants_that() {
        let mut resource = sample();
        let peer = &mut resource.connections[0].peer_devices[0];
        peer.replication_state = "paused-sync-source".to_owned();
        peer.paused = paused::reasons(PAUSED_HERE | PAUSED_THERE);
        let text = text(&[resource]);
        let want = "volume 0  paused-sync-source  peer disk inconsistent  3.0 MiB out of sync  \
                    waits: resume-sync is due here and on the peer  (rule behind)";
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn a_resync_that_waits_for_its_turn_names_the_resource_that_comes_first() {
        let mut resource = sample();
        resource.resync_after = Some("base".to_owned());
        for (bit, want) in [
            (
                PAUSED_AFTER,
                "waits: the resyncs of base come first (resync-after)",
            ),
            (
                PAUSED_AFTER_THERE,
                "waits: those of another resource come first on the peer",
            ),
        ] {
            let peer = &mut resource.connections[0].peer_devices[0];
            peer.replication_state = "paused-sync-source".to_owned();
            peer.paused = paused::reasons(bit);
            let text = text(&[resource.clone()]);
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn a_solved_split_brain_names_the_policy_and_the_victim() {
        let mut resource = sample();
        let peer = &mut resource.connections[0].peer_devices[0];
        peer.rule = "forked".to_owned();
        peer.recovery = "discard-least-changes".to_owned();
        peer.victim = Some(1);
        let text = text(&[resource]);
        let want = "(rule forked; discard-least-changes: the data of node 1 were given up)";
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn a_secondary_says_whether_it_would_be_promoted_and_why_not() {
        let mut info = ResourceInfo {
            role: Role::Secondary.number(),
            ..FromZeros::new_zeroed()
        };
        info.name[..2].copy_from_slice(b"r0");
        let shown = |info: &ResourceInfo| text(&[Resource::from(info)]);
        assert!(shown(&info).contains("  may be promoted\n"));
        info.may_promote_peer = 2;
        assert!(shown(&info).contains("  may be promoted once node 1 is fenced\n"));
        info.may_promote = Refusal::PeerPrimary.number();
        let want = "  would not be promoted: peer-primary (node 1): Another node is primary. \
                    Try: on that node: weft secondary r0\n";
        assert!(shown(&info).contains(want), "{}", shown(&info));
        info.role = Role::Primary.number();
        assert!(!shown(&info).contains("promoted"));
    }

    #[test]
    fn logical_blocks_are_shown_when_they_are_not_the_usual_ones() {
        let mut resource = sample();
        resource.devices[0].block_bytes = 4096;
        let text = text(&[resource]);
        assert!(text.contains("4.0 GiB in blocks of 4096  on"), "{text}");
    }

    #[test]
    fn blocks_that_were_written_anew_are_counted() {
        let mut resource = sample();
        assert!(!text(&[resource.clone()]).contains("written anew"));
        resource.devices[0].healed_blocks = 3;
        let text = text(&[resource]);
        assert!(
            text.contains("3 blocks of 4 KiB could not be read"),
            "{text}"
        );
    }

    #[test]
    fn suspended_io_shows_reason_duration_and_way_out() {
        let info = ResourceInfo {
            suspended: SUSPENDED_NO_DATA,
            suspended_ms: 61_000,
            suspended_since_ms: 5_250,
            ..FromZeros::new_zeroed()
        };
        let text = text(&[Resource::from(&info)]);
        let want = "I/O has been waiting for 1 min 1 s (since 5.250 s of uptime): no up-to-date data can be reached; \
                    connect a peer";
        assert!(text.contains(want), "{text}");
    }

    #[test]
    fn a_lost_quorum_shows_who_is_missing_and_what_to_try() {
        let mut info = ResourceInfo {
            voters: 0b111,
            voters_present: 0b111,
            has_quorum: 1,
            on_no_quorum: OnNoQuorum::Suspend.number(),
            ..FromZeros::new_zeroed()
        };
        let shown = text(&[Resource::from(&info)]);
        assert!(
            shown.contains("  quorum yes  3 of 3 voters present, 2 needed\n"),
            "{shown}"
        );
        (info.voters_present, info.has_quorum) = (0b001, 0);
        info.suspended = SUSPENDED_QUORUM;
        let shown = text(&[Resource::from(&info)]);
        let wanted = [
            "  quorum no  1 of 3 voters present, 2 needed; without quorum: suspend-io\n",
            "start the missing voters (node 1, 2)",
            "--on-no-quorum io-error",
        ];
        for part in wanted {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn without_voters_nothing_is_said_about_quorum() {
        let resource = Resource::from(&ResourceInfo::new_zeroed());
        assert_eq!(resource.quorum.state, "off");
        assert!(!text(&[resource]).contains("quorum"));
    }

    #[test]
    fn every_state_of_a_connection_that_is_not_connected_says_why() {
        for &state in ConnectionState::ALL
            .iter()
            .filter(|&&state| state != ConnectionState::Connected)
        {
            let mut resource = sample();
            resource.connections[0].connection_state = state.name().to_owned();
            let hint = connection_hint(&resource.connections[0], "r0");
            assert!(hint.is_some_and(|hint| !hint.is_empty()), "{state}");
        }
    }
}
