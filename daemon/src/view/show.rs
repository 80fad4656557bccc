// SPDX-License-Identifier: GPL-2.0-only

//! The configuration that the module runs, as the `weftsetup` commands that make it.

use super::model::Resource;
use crate::kernel::netlink::request::{Request, Value};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::netlink::{spec, Attribute, Command};
use weft_uapi::state::{ConnectionState, DiskState, Protocol};

/// The commands that would make these resources as they are.
pub fn requests(resources: &[Resource]) -> Vec<Request> {
    resources.iter().flat_map(resource).collect()
}

fn resource(resource: &Resource) -> Vec<Request> {
    let about = |command| Request::about(command, &resource.name);
    let protocol = Protocol::from_name(&resource.protocol).unwrap_or(Protocol::C);
    let new = about(Command::NewResource)
        .number(Attribute::NodeId, resource.node_id)
        .number(Attribute::Protocol, protocol.number());
    let devices = resource.devices.iter().map(|device| {
        about(Command::NewDevice)
            .number(Attribute::Volume, device.volume)
            .number(Attribute::Minor, device.minor)
    });
    let peers = resource.connections.iter().map(|connection| {
        let peer = about(Command::NewPeer).number(Attribute::Peer, connection.node_id);
        match connection.name.as_str() {
            "" => peer,
            name => peer.text(Attribute::PeerName, name),
        }
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
            Value::U32(number) if *attribute == Attribute::Protocol => {
                words.push(
                    Protocol::from_number(*number)
                        .map_or_else(|| number.to_string(), |p| p.name().to_owned()),
                );
            }
            Value::U32(number) => words.push(number.to_string()),
            Value::Text(text) => words.push(quoted(text)),
        }
    }
    words.join(" ")
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
    }
}
