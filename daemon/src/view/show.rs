// SPDX-License-Identifier: GPL-2.0-only

//! The configuration that the module runs, as the `weftsetup` commands that make it.

use super::model::Resource;
use crate::kernel::netlink::request::{Request, Value};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::netlink::{spec, Attribute, AttributeKind, Command, NO_RESOURCE};
use weft_uapi::resync::{Csums, Speed};
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{ConnectionState, DiskState, Fencing, OnNoQuorum, Protocol, TwoPrimaries};
use weft_uapi::units::NodeSet;

/// The commands that would make these resources as they are.
pub fn requests(resources: &[Resource]) -> Vec<Request> {
    resources.iter().flat_map(resource).collect()
}

fn resource(resource: &Resource) -> Vec<Request> {
    let about = |command| Request::about(command, &resource.name);
    let protocol = Protocol::from_name(&resource.protocol).unwrap_or(Protocol::C);
    let on_no_quorum = OnNoQuorum::from_name(&resource.quorum.on_no_quorum).unwrap_or_default();
    let new = about(Command::NewResource).number(Attribute::NodeId, resource.node_id);
    let fencing = Fencing::from_name(&resource.fencing).unwrap_or_default();
    let voters = resource.quorum.voters();
    let policies = resource.split_brain.policies();
    let new = with_options(new, protocol, voters, on_no_quorum, fencing, policies)
        .flag(Attribute::TieBreaker, resource.tie_breaker);
    let two_primaries = TwoPrimaries::from_name(&resource.two_primaries).unwrap_or_default();
    let new = with_two_primaries(new, two_primaries, TwoPrimaries::default());
    let new = with_speed(new, resource.resync.speed(), Speed::default());
    let new = with_after(new, resource.resync_after.as_deref(), None);
    let csums = Csums::from_name(&resource.csums_resync).unwrap_or_default();
    let new = with_csums(new, csums, Csums::default());
    let new = resource.congestion.request(new);
    let new = resource.auto_promote.request(new);
    let devices = resource.devices.iter().map(|device| {
        about(Command::NewDevice)
            .number(Attribute::Volume, device.volume)
            .number(Attribute::Minor, device.minor)
    });
    let peers = resource.connections.iter().map(|connection| {
        let peer = about(Command::NewPeer).number(Attribute::Peer, connection.node_id);
        let peer = match connection.name.as_str() {
            "" => peer,
            name => peer.text(Attribute::PeerName, name),
        };
        peer.flag(Attribute::TieBreaker, connection.tie_breaker)
    });
    let attached = resource
        .devices
        .iter()
        .filter(|device| device.disk_state != DiskState::Diskless.name());
    let attaches = attached.map(|device| {
        let attach = about(Command::Attach)
            .number(Attribute::Volume, device.volume)
            .text(Attribute::Disk, &device.disk)
            .text(Attribute::Meta, &device.meta);
        // Asked for, or the disk's own: asked for again it is the same.
        if device.block_bytes > SECTOR_BYTES {
            attach.number(Attribute::BlockSize, device.block_bytes)
        } else {
            attach
        }
    });
    let wanted = resource
        .connections
        .iter()
        .filter(|connection| connection.connection_state != ConnectionState::StandAlone.name());
    let connects = wanted
        .map(|connection| about(Command::Connect).number(Attribute::Peer, connection.node_id));
    std::iter::once(new)
        .chain(devices)
        .chain(peers)
        .chain(attaches)
        .chain(connects)
        .collect()
}

/// A request with the options that are not as they are anyway.
pub fn with_options(
    request: Request,
    protocol: Protocol,
    voters: NodeSet,
    on_no_quorum: OnNoQuorum,
    fencing: Fencing,
    policies: Policies,
) -> Request {
    let request = request.number(Attribute::Protocol, protocol.number());
    let request = match fencing {
        Fencing::DontCare => request,
        fencing => request.number(Attribute::Fencing, fencing.number()),
    };
    let request = with_policies(request, policies, Policies::default());
    if voters.is_empty() {
        return request;
    }
    request
        .number(Attribute::Voters, voters.0)
        .number(Attribute::OnNoQuorum, on_no_quorum.number())
}

/// A request with the policies that are not as they are now.
pub fn with_policies(request: Request, policies: Policies, now: Policies) -> Request {
    let request = match policies.none {
        none if none == now.none => request,
        none => request.number(Attribute::SplitBrain0, none.number()),
    };
    match policies.one {
        one if one == now.one => request,
        one => request.number(Attribute::SplitBrain1, one.number()),
    }
}

/// A request that says whether two nodes may be primary, if that is not as it is now.
pub fn with_two_primaries(request: Request, wanted: TwoPrimaries, now: TwoPrimaries) -> Request {
    match wanted {
        wanted if wanted == now => request,
        wanted => request.number(Attribute::TwoPrimaries, wanted.number()),
    }
}

/// A request with the bounds for resyncs that are not as they are now.
pub fn with_speed(request: Request, wanted: Speed, now: Speed) -> Request {
    let rates = [
        (Attribute::ResyncMinRate, wanted.min, now.min),
        (Attribute::ResyncMaxRate, wanted.max, now.max),
    ];
    let changed = rates.iter().filter(|(_, wanted, now)| wanted != now);
    let request = changed.fold(request, |request, &(attribute, wanted, _)| {
        request.with(attribute, Value::U64(wanted))
    });
    match wanted.latency_ms {
        wanted if wanted == now.latency_ms => request,
        wanted => request.number(Attribute::ResyncLatencyTarget, wanted),
    }
}

/// A request that says whether ranges are asked for by digest, if that is not as it is now.
pub fn with_csums(request: Request, wanted: Csums, now: Csums) -> Request {
    match wanted {
        wanted if wanted == now => request,
        wanted => request.number(Attribute::CsumsResync, wanted.number()),
    }
}

/// A request that says whose resyncs come first, if that is not as it is now.
pub fn with_after(request: Request, wanted: Option<&str>, now: Option<&str>) -> Request {
    match wanted {
        wanted if wanted == now => request,
        wanted => request.text(Attribute::ResyncAfter, wanted.unwrap_or(NO_RESOURCE)),
    }
}

/// Requests as they are typed, one per line.
pub fn text(requests: &[Request]) -> String {
    let lines: Vec<_> = requests.iter().map(command_line).collect();
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// A request as it is typed.
pub fn command_line(request: &Request) -> String {
    let mut words = vec!["weftsetup".to_owned(), request.command.name().to_owned()];
    for (attribute, value) in &request.arguments {
        let arguments = spec(request.command)
            .map(|spec| spec.arguments)
            .unwrap_or_default();
        let is_positional = arguments
            .iter()
            .any(|argument| argument.attribute == *attribute && argument.mandatory);
        if !is_positional {
            words.push(format!("--{attribute}"));
        }
        match value {
            Value::Flag => {}
            Value::U32(number) => words.push(number_text(*attribute, *number)),
            Value::U64(number) => words.push(number.to_string()),
            Value::Text(text) => words.push(quoted(text)),
        }
    }
    words.join(" ")
}

/// What an empty set of nodes is called.
pub const NO_NODES: &str = "none";

/// A number as it is typed.
pub fn number_text(attribute: Attribute, number: u32) -> String {
    match attribute.kind() {
        AttributeKind::Choice(choices) => {
            let found = choices.iter().find(|(choice, _)| *choice == number);
            found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
        }
        AttributeKind::Nodes if number == 0 => NO_NODES.to_owned(),
        AttributeKind::Nodes => {
            let ids: Vec<_> = NodeSet(number)
                .iter()
                .map(|node| node.to_string())
                .collect();
            ids.join(",")
        }
        _ => number.to_string(),
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named_and_odd_paths_quoted() {
        let request = Request::about(Command::Attach, "r0")
            .number(Attribute::Volume, 0)
            .text(Attribute::Disk, "/dev/disk/by-label/it's mine")
            .text(Attribute::Meta, "internal");
        assert_eq!(
            command_line(&request),
            r"weftsetup attach r0 0 '/dev/disk/by-label/it'\''s mine' internal"
        );
        let request = Request::about(Command::Options, "r0").number(Attribute::Protocol, 1);
        assert_eq!(command_line(&request), "weftsetup options r0 --protocol A");
        let request = Request::about(Command::Primary, "r0").flag(Attribute::Force, true);
        assert_eq!(command_line(&request), "weftsetup primary r0 --force");
        let request = Request::about(Command::Options, "r0")
            .number(Attribute::Voters, 0b1011)
            .number(Attribute::OnNoQuorum, OnNoQuorum::Fail.number());
        assert_eq!(
            command_line(&request),
            "weftsetup options r0 --voters 0,1,3 --on-no-quorum io-error"
        );
    }
}
