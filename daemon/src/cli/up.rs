// SPDX-License-Identifier: GPL-2.0-only

//! `up`, `adjust` and `down`: from the configuration to what the module runs, and back.

use super::events::status;
use super::failure::Failure;
use super::output::print;
use super::resize::with_former_size;
use super::weft::Place;
use crate::config::AutoPromotion;
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::error::NetlinkError;
use crate::kernel::netlink::request::{Request, Value};
use crate::view::congestion::Congestion;
use crate::view::model::{self, Resource};
use crate::view::opening::Opening;
use crate::view::show::{self, command_line};
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::{Csums, Speed};
use weft_uapi::state::{ConnectionState, DiskState, TwoPrimaries};

/// All commands that make a resource, in order: resource, devices, peers, disks, connections.
fn plan(place: &Place<'_>) -> Vec<Request> {
    let resource = place.resource;
    let about = |command| Request::about(command, &resource.name);
    let number = |id: u16| u32::from(id);
    let peers = || resource.nodes.iter().filter(|&node| node != place.node.id);
    let new = about(Command::NewResource).number(Attribute::NodeId, place.node.id.get().into());
    let new = show::with_options(
        new,
        resource.protocol,
        resource.voters,
        resource.on_no_quorum,
        resource.fencing,
        resource.policies,
    )
    .flag(
        Attribute::TieBreaker,
        resource.tie_breakers.contains(place.node.id),
    );
    let new = show::with_two_primaries(new, resource.two_primaries, TwoPrimaries::default());
    let new = show::with_speed(new, resource.speed, Speed::default());
    let new = show::with_after(new, resource.resync_after.as_deref(), None);
    let new = show::with_csums(new, resource.csums, Csums::default());
    let congestion = resource.congestion_on(place.node.id);
    let new = Congestion::default().adjust(new, congestion);
    let AutoPromotion { mode, timeout_s } = resource.auto_promotion;
    let new = Opening::default().adjust(new, mode, timeout_s);
    let devices = resource.volumes.iter().map(|volume| {
        about(Command::NewDevice)
            .number(Attribute::Volume, number(volume.id.0))
            .number(Attribute::Minor, volume.minor.0)
    });
    let new_peers = peers().map(|node| {
        let name = place
            .config
            .nodes
            .get(&node)
            .map_or("", |node| node.name.as_str());
        about(Command::NewPeer)
            .number(Attribute::Peer, node.get().into())
            .text(Attribute::PeerName, name)
            .flag(Attribute::TieBreaker, resource.tie_breakers.contains(node))
    });
    let attaches = resource.volumes.iter().filter_map(|volume| {
        let backing = volume.disks.get(&place.node.id)?;
        let attach = about(Command::Attach)
            .number(Attribute::Volume, number(volume.id.0))
            .text(Attribute::Disk, &backing.disk)
            .text(Attribute::Meta, backing.meta_argument());
        Some(match volume.block_bytes {
            Some(bytes) => attach.number(Attribute::BlockSize, bytes),
            None => attach,
        })
    });
    let connects =
        peers().map(|node| about(Command::Connect).number(Attribute::Peer, node.get().into()));
    let steps = std::iter::once(new).chain(devices).chain(new_peers);
    steps.chain(attaches).chain(connects).collect()
}

/// The command that gives a running resource the configured options, where they are not the same.
fn options(place: &Place<'_>, running: &Resource) -> Option<Request> {
    let wanted = place.resource;
    let mut request = Request::about(Command::Options, &wanted.name);
    if running.protocol != wanted.protocol.name() {
        request = request.number(Attribute::Protocol, wanted.protocol.number());
    }
    if running.quorum.voters() != wanted.voters {
        request = request.number(Attribute::Voters, wanted.voters.0);
    }
    // Without voters it means nothing.
    let (now, then) = (&running.quorum.on_no_quorum, wanted.on_no_quorum);
    if !wanted.voters.is_empty() && now != then.name() {
        request = request.number(Attribute::OnNoQuorum, then.number());
    }
    if running.fencing != wanted.fencing.name() {
        request = request.number(Attribute::Fencing, wanted.fencing.number());
    }
    let request = show::with_policies(request, wanted.policies, running.split_brain.policies());
    let now = TwoPrimaries::from_name(&running.two_primaries).unwrap_or_default();
    let request = show::with_two_primaries(request, wanted.two_primaries, now);
    let request = show::with_speed(request, wanted.speed, running.resync.speed());
    let now = running.resync_after.as_deref();
    let request = show::with_after(request, wanted.resync_after.as_deref(), now);
    let now = Csums::from_name(&running.csums_resync).unwrap_or_default();
    let request = show::with_csums(request, wanted.csums, now);
    let congestion = wanted.congestion_on(place.node.id);
    let request = running.congestion.adjust(request, congestion);
    let AutoPromotion { mode, timeout_s } = wanted.auto_promotion;
    let request = running.auto_promote.adjust(request, mode, timeout_s);
    (request.arguments.len() > 1).then_some(request)
}

/// What there is to be done for a resource to run as configured: what is missing, and, if `changes`, options that are
/// not the configured ones, once all peers are known.
fn steps(place: &Place<'_>, running: Option<&Resource>, changes: bool) -> Vec<Request> {
    let mut steps = plan(place);
    steps.retain(|step| !is_done(step, running));
    let options = running
        .filter(|_| changes)
        .and_then(|it| options(place, it));
    let is_late = |step: &Request| matches!(step.command, Command::Attach | Command::Connect);
    let at = steps.iter().position(is_late).unwrap_or(steps.len());
    steps.splice(at..at, options);
    steps
}

/// Whether a step's result is there already. What is there but different is not: the module then says so.
fn is_done(step: &Request, running: Option<&Resource>) -> bool {
    let Some(running) = running else {
        return false;
    };
    let number = |wanted| {
        step.arguments
            .iter()
            .find_map(|(attribute, value)| match value {
                Value::U32(number) if *attribute == wanted => Some(*number),
                _ => None,
            })
    };
    let text = |wanted| {
        step.arguments
            .iter()
            .find_map(|(attribute, value)| match value {
                Value::Text(text) if *attribute == wanted => Some(text.as_str()),
                _ => None,
            })
    };
    let device = || {
        running
            .devices
            .iter()
            .find(|device| Some(device.volume) == number(Attribute::Volume))
    };
    let peer = || {
        running
            .connections
            .iter()
            .find(|peer| Some(peer.node_id) == number(Attribute::Peer))
    };
    match step.command {
        Command::NewResource => Some(running.node_id) == number(Attribute::NodeId),
        Command::NewDevice => {
            device().is_some_and(|device| Some(device.minor) == number(Attribute::Minor))
        }
        Command::NewPeer => peer().is_some(),
        Command::Attach => device().is_some_and(|device| {
            device.disk_state != DiskState::Diskless.name()
                && Some(device.disk.as_str()) == text(Attribute::Disk)
                && number(Attribute::BlockSize).is_none_or(|bytes| bytes == device.block_bytes)
        }),
        Command::Connect => {
            peer().is_some_and(|peer| peer.connection_state != ConnectionState::StandAlone.name())
        }
        _ => false,
    }
}

/// Takes a resource up as far as it is not. Prints the commands instead when `dry_run`.
///
/// # Errors
/// The first step that failed; what worked before it stays.
pub(super) fn up(place: &Place<'_>, dry_run: bool) -> Result<(), Failure> {
    if dry_run {
        return print(&show::text(&plan(place)));
    }
    let mut client = Client::open()?;
    let steps = steps(place, running(place, &mut client)?.as_ref(), false);
    carry_out(&found(place, steps), |step| client.perform(step))
}

/// Takes a resource up as far as it is not, and gives it the configured options. Only prints the commands for that when
/// `dry_run`.
///
/// # Errors
/// The first step that failed; what worked before it stays.
pub(super) fn adjust(place: &Place<'_>, dry_run: bool) -> Result<(), Failure> {
    let mut client = Client::open()?;
    let steps = steps(place, running(place, &mut client)?.as_ref(), true);
    if dry_run {
        return print(&show::text(&steps));
    }
    carry_out(&found(place, steps), |step| client.perform(step))
}

/// The same steps; where a disk has become larger, they say where its metadata are.
fn found(place: &Place<'_>, steps: Vec<Request>) -> Vec<Request> {
    let steps = steps.into_iter().map(|step| match step.command {
        Command::Attach => with_former_size(place, step),
        _ => step,
    });
    steps.collect()
}

/// The resource as it runs, if it does.
fn running(place: &Place<'_>, client: &mut Client) -> Result<Option<Resource>, Failure> {
    let tree = model::tree(&status(client, None)?);
    let is_meant = |resource: &Resource| resource.name == place.resource.name;
    Ok(tree.into_iter().find(is_meant))
}

fn carry_out(
    steps: &[Request],
    mut perform: impl FnMut(&Request) -> Result<String, NetlinkError>,
) -> Result<(), Failure> {
    for step in steps {
        perform(step).map_err(|error| {
            let mut failure = Failure::of_request(step, &error);
            failure.object = format!("{} (at step: {})", failure.object, command_line(step));
            failure
        })?;
    }
    Ok(())
}

/// Takes a resource down. One that is not up is down.
pub(super) fn down(resource: &str, force: bool, dry_run: bool) -> Result<(), Failure> {
    let request = Request::about(Command::Down, resource).flag(Attribute::Force, force);
    if dry_run {
        return print(&show::text(&[request]));
    }
    match Client::open()?.perform(&request) {
        Err(error) if !error.is(Refusal::NoSuchResource) => {
            Err(Failure::of_request(&request, &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::kernel::netlink::error::Refused;

    const TEXT: &str = r#"
        [cluster]
        name = "demo"
        security = "none"
        [[node]]
        name = "alpha"
        id = 0
        address = "10.9.0.1:7790"
        [[node]]
        name = "beta"
        id = 1
        address = "10.9.0.2:7790"
        [[resource]]
        name = "r0"
        protocol = "B"
        [[resource.volume]]
        id = 0
        minor = 7
        block-size = 4096
        disk = "/dev/vda"
        [resource.volume.on.beta]
        disk = "/dev/vdb"
        meta = "/dev/vdc"
    "#;

    fn steps_of(text: &str, node: &str, running: Option<&Resource>, changes: bool) -> Vec<Request> {
        let config = Config::parse(text).unwrap();
        let place = Place {
            config: &config,
            node: config.node(node).unwrap(),
            resource: config.resource("r0").unwrap(),
        };
        steps(&place, running, changes)
    }

    /// What `weft adjust` types in on alpha.
    fn adjusted(text: &str, running: &Resource) -> Vec<String> {
        let steps = steps_of(text, "alpha", Some(running), true);
        steps.iter().map(command_line).collect()
    }

    #[test]
    fn up_makes_resource_devices_peers_disks_and_connections_in_this_order() {
        let steps = steps_of(TEXT, "beta", None, false);
        let lines: Vec<_> = steps.iter().map(command_line).collect();
        assert_eq!(
            lines,
            [
                "weftsetup new-resource r0 1 --protocol B",
                "weftsetup new-device r0 0 7",
                "weftsetup new-peer r0 0 --name alpha",
                "weftsetup attach r0 0 /dev/vdb /dev/vdc --block-size 4096",
                "weftsetup connect r0 0",
            ]
        );
    }

    /// What runs after the plan of alpha was carried out.
    fn running() -> Resource {
        let json = r#"{
            "name": "r0", "node_id": 0, "role": "secondary", "protocol": "B", "suspended": [], "suspended_ms": 0,
            "devices": [{
                "volume": 0, "minor": 7, "disk_state": "consistent", "disk": "/dev/vda", "meta": "internal",
                "size_bytes": 1, "generation": "", "open_count": 0, "read_bytes": 0, "written_bytes": 0,
                "in_flight": 0, "al_used": 0, "al_size": 0, "al_writes": 0, "block_bytes": 4096
            }],
            "connections": [{
                "node_id": 1, "name": "beta", "connection_state": "connecting", "role": "unknown",
                "daemon_connected": false, "session": "0", "reason": ""
            }]
        }"#;
        serde_json::from_str(json).unwrap()
    }

    fn performed(running: Option<&Resource>) -> Vec<Command> {
        let mut performed = Vec::new();
        carry_out(&steps_of(TEXT, "alpha", running, false), |step| {
            performed.push(step.command);
            Ok(String::new())
        })
        .unwrap();
        performed
    }

    /// `TEXT` with these lines about the resource, and a third node.
    fn with_quorum(lines: &str) -> String {
        let gamma = "[[node]]\nname = \"gamma\"\nid = 2\naddress = \"10.9.0.3:7790\"\n[[resource]]";
        let text = TEXT.replace("[[resource]]", gamma);
        text.replace("protocol = \"B\"", &format!("protocol = \"B\"\n{lines}"))
    }

    #[test]
    fn up_sets_the_quorum_before_there_is_a_device() {
        let text = with_quorum("on-no-quorum = \"io-error\"");
        let steps = steps_of(&text, "alpha", None, false);
        assert_eq!(
            command_line(&steps[0]),
            "weftsetup new-resource r0 0 --protocol B --voters 0,1,2 --on-no-quorum io-error"
        );
    }

    #[test]
    fn adjust_changes_the_options_that_differ_once_all_peers_are_known() {
        let lines = |text: &str, running: &Resource| -> Vec<String> {
            let steps = steps_of(text, "alpha", Some(running), true);
            steps.iter().map(command_line).collect()
        };
        let mut running = running();
        assert_eq!(lines(TEXT, &running), [""; 0]);
        assert_eq!(
            lines(&with_quorum("on-no-quorum = \"io-error\""), &running),
            [
                "weftsetup new-peer r0 2 --name gamma",
                "weftsetup options r0 --voters 0,1,2 --on-no-quorum io-error",
                "weftsetup connect r0 2"
            ]
        );
        running.protocol = "C".to_owned();
        running.quorum.voters = vec![0, 1];
        assert_eq!(
            lines(TEXT, &running),
            ["weftsetup options r0 --protocol B --voters none"]
        );
    }

    #[test]
    fn policies_for_a_split_brain_are_set_at_the_start_and_adjusted_later() {
        let lines =
            "split-brain-0 = \"discard-zero-changes\"\nsplit-brain-1 = \"discard-secondary\"";
        let text = TEXT.replace("protocol = \"B\"", &format!("protocol = \"B\"\n{lines}"));
        let options = "--split-brain-0 discard-zero-changes --split-brain-1 discard-secondary";
        assert_eq!(
            command_line(&steps_of(&text, "alpha", None, false)[0]),
            format!("weftsetup new-resource r0 0 --protocol B {options}")
        );
        let mut running = running();
        assert_eq!(
            adjusted(&text, &running),
            [format!("weftsetup options r0 {options}")]
        );
        running.split_brain.without_primary = "discard-zero-changes".to_owned();
        running.split_brain.with_primary = "consensus".to_owned();
        assert_eq!(
            adjusted(&text, &running),
            ["weftsetup options r0 --split-brain-1 discard-secondary"]
        );
        running.split_brain.with_primary = "discard-secondary".to_owned();
        assert_eq!(adjusted(&text, &running), [""; 0]);
    }

    #[test]
    fn two_primaries_are_allowed_at_the_start_or_later_and_refused_again() {
        let line = "protocol = \"B\"\ntwo-primaries = \"allowed\"";
        let text = TEXT.replace("protocol = \"B\"", line);
        assert_eq!(
            command_line(&steps_of(&text, "alpha", None, false)[0]),
            "weftsetup new-resource r0 0 --protocol B --two-primaries allowed"
        );
        let mut running = running();
        assert_eq!(
            adjusted(&text, &running),
            ["weftsetup options r0 --two-primaries allowed"]
        );
        running.two_primaries = "allowed".to_owned();
        assert_eq!(adjusted(&text, &running), [""; 0]);
        assert_eq!(
            adjusted(TEXT, &running),
            ["weftsetup options r0 --two-primaries refused"]
        );
    }

    #[test]
    fn r15_the_speed_of_resyncs_is_set_at_the_start_and_adjusted_later() {
        let lines = "protocol = \"B\"\nresync-max-rate = \"100M\"\nresync-latency-target = 5\ncsums-resync = \"yes\"";
        let text = TEXT.replace("protocol = \"B\"", lines);
        assert_eq!(
            command_line(&steps_of(&text, "alpha", None, false)[0]),
            "weftsetup new-resource r0 0 --protocol B --resync-max-rate 104857600 --resync-latency-target 5 --csums-resync yes"
        );
        let mut running = running();
        assert_eq!(
            adjusted(&text, &running),
            ["weftsetup options r0 --resync-max-rate 104857600 --resync-latency-target 5 --csums-resync yes"]
        );
        running.resync.max_rate_bytes = 100 << 20;
        running.resync.latency_target_ms = 5;
        running.csums_resync = "yes".to_owned();
        assert_eq!(adjusted(&text, &running), [""; 0]);
        assert_eq!(
            adjusted(TEXT, &running),
            ["weftsetup options r0 --resync-max-rate 0 --resync-latency-target 20 --csums-resync no"]
        );
    }

    #[test]
    fn whose_resyncs_come_first_is_set_at_the_start_and_adjusted_later() {
        let base = TEXT.replace(
            "protocol = \"B\"",
            "protocol = \"B\"\nresync-after = \"base\"",
        );
        let text = base
            + "[[resource]]\nname = \"base\"\n[[resource.volume]]\nid = 0\nminor = 8\ndisk = \"/dev/vdx\"\n";
        assert_eq!(
            command_line(&steps_of(&text, "alpha", None, false)[0]),
            "weftsetup new-resource r0 0 --protocol B --resync-after base"
        );
        let mut running = running();
        assert_eq!(
            adjusted(&text, &running),
            ["weftsetup options r0 --resync-after base"]
        );
        running.resync_after = Some("base".to_owned());
        assert_eq!(adjusted(&text, &running), [""; 0]);
        assert_eq!(
            adjusted(TEXT, &running),
            ["weftsetup options r0 --resync-after none"]
        );
    }

    #[test]
    fn what_an_open_does_is_said_at_the_start_or_later() {
        let line = "protocol = \"B\"\nauto-promote = \"yes\"\nauto-promote-timeout = 5";
        let text = TEXT.replace("protocol = \"B\"", line);
        let options = "--auto-promote yes --auto-promote-timeout 5";
        assert_eq!(
            command_line(&steps_of(&text, "alpha", None, false)[0]),
            format!("weftsetup new-resource r0 0 --protocol B {options}")
        );
        let mut running = running();
        assert_eq!(
            adjusted(&text, &running),
            [format!("weftsetup options r0 {options}")]
        );
        (running.auto_promote.mode, running.auto_promote.timeout_s) = ("yes".to_owned(), 5);
        assert_eq!(adjusted(&text, &running), [""; 0]);
    }

    #[test]
    fn up_does_only_what_is_missing() {
        use Command::{Attach, Connect, NewDevice, NewPeer, NewResource};
        assert_eq!(
            performed(None),
            [NewResource, NewDevice, NewPeer, Attach, Connect]
        );
        assert_eq!(performed(Some(&running())), []);
        let mut partly = running();
        partly.devices[0].disk_state = "diskless".to_owned();
        partly.connections[0].connection_state = "standalone".to_owned();
        assert_eq!(performed(Some(&partly)), [Attach, Connect]);
        let mut other = running();
        other.devices[0].disk = "/dev/sdz".to_owned();
        assert_eq!(performed(Some(&other)), [Attach]);
        let mut finer = running();
        finer.devices[0].block_bytes = 512;
        assert_eq!(performed(Some(&finer)), [Attach]);
    }

    #[test]
    fn a_resource_of_32_nodes_has_31_peers_and_metadata_with_room_for_them() {
        let mut text = TEXT.replace("[[resource]]", "");
        text.truncate(text.find("name = \"r0\"").unwrap());
        for id in 2..32 {
            text +=
                &format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddress = \"10.9.1.{id}:7790\"\n");
        }
        text += "[[resource]]\nname = \"r0\"\n[[resource.volume]]\nid = 0\nminor = 7\ndisk = \"/dev/vda\"\n";
        let steps = steps_of(&text, "n31", None, false);
        let count = |command| steps.iter().filter(|step| step.command == command).count();
        assert_eq!((count(Command::NewPeer), count(Command::Connect)), (31, 31));
        let voters = steps[0]
            .arguments
            .iter()
            .find(|it| it.0 == Attribute::Voters);
        assert_eq!(voters.map(|it| &it.1), Some(&Value::U32(u32::MAX)));
        let config = Config::parse(&text).unwrap();
        let place = Place {
            config: &config,
            node: config.node("alpha").unwrap(),
            resource: config.resource("r0").unwrap(),
        };
        let slots = |wanted| super::super::metadata::slots(&place, wanted).map_err(|it| it.code);
        assert_eq!((slots(None), slots(Some(31))), (Ok(31), Ok(31)));
        assert_eq!(slots(Some(30)), Err("bad-argument".to_owned()));
    }

    #[test]
    fn a_step_that_fails_is_named_and_ends_the_work() {
        let mut count = 0;
        let failure = carry_out(&steps_of(TEXT, "alpha", None, false), |step| {
            count += 1;
            match step.command {
                Command::Attach => Err(NetlinkError::Refused(Refused {
                    code: Refusal::DiskOpen.number(),
                    text: String::new(),
                })),
                _ => Ok(String::new()),
            }
        })
        .unwrap_err();
        assert_eq!((count, failure.code.as_str()), (4, "disk-open"));
        assert!(
            failure
                .object
                .ends_with("(at step: weftsetup attach r0 0 /dev/vda internal --block-size 4096)"),
            "{failure}"
        );
    }
}
