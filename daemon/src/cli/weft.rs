// SPDX-License-Identifier: GPL-2.0-only

//! `weft`: the everyday command, working from the configuration file.

use super::failure::Failure;
use super::orders::Running;
use super::output::print;
use super::{events, metadata, resize, show, up, verify, wait};
use crate::config::{self, Config, Node, Resource};
use crate::control::{RUN_DIR, SOCKET_NAME};
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::request::Request;
use crate::view::model;
use clap::{value_parser, Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use weft_uapi::limits::NODES_MAX;
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;

/// Stands for every resource.
const ALL: &str = "all";
/// Manages Weft resources on this node, as the configuration file describes them.
#[derive(Parser, Debug)]
#[command(name = "weft", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 refused with reason, 2 wrong usage.")]
pub struct Arguments {
    /// Configuration file
    #[arg(long, global = true, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Which of the configured nodes this machine is [default: the host name]
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Write fresh metadata to the disks of a resource
    ///
    /// The data on the disk stay, but the peers will be synced from or to it as a whole. Refused when there are metadata already, or when
    /// something else lives where they would go.
    CreateMd {
        /// Name of the resource
        resource: String,
        /// Only this volume
        #[arg(long)]
        volume: Option<u16>,
        /// Leave room for so many peers, 1 to 31 [default: 7, or as many as are configured]
        #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..NODES_MAX as i64))]
        max_peers: Option<u32>,
        /// Destroy what is there
        #[arg(long)]
        force: bool,
    },
    /// Show the metadata on the disks of a resource
    DumpMd {
        /// Name of the resource
        resource: String,
        /// Only this volume
        #[arg(long)]
        volume: Option<u16>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a resource run: devices, peers, disks, connections; what runs already stays
    Up {
        /// Name of the resource, or 'all'
        resource: String,
        /// Only print the weftsetup commands
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a resource run as configured: what 'up' does, and options that have changed
    ///
    /// What runs and is not configured any more stays. Options that nodes have to agree on, as who votes, are to be changed
    /// on every node, while all are connected.
    Adjust {
        /// Name of the resource, or 'all'
        resource: String,
        /// Only print the weftsetup commands
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop a resource; a secondary leaves in order: the primary goes on without it at once
    Down {
        /// Name of the resource, or 'all'
        resource: String,
        /// Leave even if the primary loses its last good copy or its majority of the voters by it
        #[arg(long)]
        force: bool,
        /// Only print the weftsetup commands
        #[arg(long)]
        dry_run: bool,
    },
    /// Promote this node: the devices of the resource may be opened and written here
    Primary {
        /// Name of the resource
        resource: String,
        /// Accept that data newer than the local ones are lost
        #[arg(long)]
        force: bool,
    },
    /// Demote this node
    Secondary {
        /// Name of the resource
        resource: String,
        /// Do not wait: requests that are not complete fail, and so does all that an open device is asked for
        #[arg(long)]
        force: bool,
    },
    /// Say that newer data are elsewhere: this node is not promoted before it has met them, also after a restart
    ///
    /// For whoever fences this node. Refused on a primary, and while a peer with a disk is connected.
    Outdate {
        /// Name of the resource
        resource: String,
    },
    /// Say that the disks of all nodes, which were just created, are equal: they need no first sync
    ///
    /// True of disks that hold the same bytes, as new thin volumes do. All of them have to be connected. What differs all the
    /// same stays different. Refused when one of the disks has ever held data of this resource.
    NewGeneration {
        /// Name of the resource
        resource: String,
    },
    /// Give the data of this node up and fetch everything from a peer
    ///
    /// Done when that is on record: from then on it goes on by itself, also after a power cut. Refused on a primary, and
    /// when no connected peer has the same data.
    Invalidate {
        /// Name of the resource
        resource: String,
        /// Only this volume
        #[arg(long)]
        volume: Option<u16>,
        /// Node to fetch from, by name or id [default: the primary, else whoever is up to date]
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
    },
    /// Give the data of a peer up: it fetches everything from this node, which may be primary
    InvalidatePeer {
        /// Name of the resource
        resource: String,
        /// The peer, by name or id
        peer: String,
        /// Only this volume
        #[arg(long)]
        volume: Option<u16>,
    },
    /// Make the device larger on all nodes, while it is in use
    ///
    /// Make the disk larger on every node first (lvextend, say). Done when all nodes have the new size on record and the
    /// device here has it; then grow the file system. What is new is synced from the primary meanwhile, unless
    /// --assume-clean is given. A device does not become smaller.
    Resize {
        #[command(flatten)]
        resize: resize::ResizeArguments,
    },
    /// Compare this node's data with a peer's while both are in use
    ///
    /// Nothing is changed unless --repair-from is given. Waits for the end and shows how far it is; when that is interrupted
    /// (Ctrl-C), the comparison goes on. The exit code is 1 when the copies differ and were not repaired.
    Verify {
        #[command(flatten)]
        verify: verify::VerifyArguments,
    },
    /// End a verify; 'verify --resume' goes on from there
    VerifyStop {
        #[command(flatten)]
        copies: verify::Copies,
    },
    /// Copy what the last verify found from one node to the other
    ///
    /// Done when it is on record that it is owed: from then on it goes on by itself. A primary is not repaired: make it
    /// secondary first.
    Repair {
        #[command(flatten)]
        repair: verify::RepairArguments,
    },
    /// Let resyncs with the peers wait, until resume-sync here or a restart of this machine
    PauseSync {
        /// Name of the resource
        resource: String,
        /// Only with this peer, by name or id
        peer: Option<String>,
    },
    /// Let resyncs with the peers go on, unless those want them to wait
    ResumeSync {
        /// Name of the resource
        resource: String,
        /// Only with this peer, by name or id
        peer: Option<String>,
    },
    /// Let the application's requests wait, until resume-io; done when none is under way any more on any node
    SuspendIo {
        /// Name of the resource
        resource: String,
        /// Freeze what is mounted on its devices here first, so that snapshots of the disks need no repair; resume-io thaws it
        #[arg(long)]
        freeze: bool,
    },
    /// Let the application's requests go on
    ResumeIo {
        /// Name of the resource
        resource: String,
    },
    /// Show what runs, and where something is not as it should be, why
    Status {
        /// Only this resource
        resource: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Show what is, then every change as it happens
    Events {
        /// Only this resource
        resource: Option<String>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Wait until all peers of a resource are connected
    WaitConnect {
        #[command(flatten)]
        wait: Wait,
    },
    /// Wait until all copies of a resource are up to date, with progress
    WaitSync {
        #[command(flatten)]
        wait: Wait,
    },
    /// Show which history the data of a resource belong to
    Generations {
        /// Name of the resource
        resource: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look after the configuration file
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Show what the daemon does: peers, links, round trips
    DaemonStatus {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Folder of the daemon's control socket
        #[arg(long, value_name = "PATH", default_value = RUN_DIR)]
        run_dir: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Show {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it again and again
    #[arg(long)]
    watch: bool,
}

#[derive(Args, Debug)]
struct Wait {
    /// Name of the resource
    resource: String,
    /// Give up after so many seconds [default: never]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Check the file
    Check,
}

/// A configured resource on this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) config: &'a Config,
    pub(super) node: &'a Node,
    pub(super) resource: &'a Resource,
}

impl Arguments {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }

    /// The resources that `name` means, all of which must live on this node.
    fn places<'a>(&self, config: &'a Config, name: &str) -> Result<Vec<Place<'a>>, Failure> {
        let node = config.this_node(self.node.as_deref())?;
        let place = |resource| Place {
            config,
            node,
            resource,
        };
        if name == ALL {
            let own = config
                .resources
                .iter()
                .filter(|resource| resource.nodes.contains(node.id));
            return Ok(own.map(place).collect());
        }
        let resource = config.resource(name).ok_or_else(|| {
            let names: Vec<_> = config
                .resources
                .iter()
                .map(|resource| resource.name.as_str())
                .collect();
            let cause = format!(
                "The configuration has no resource '{name}', only: {}.",
                names.join(", ")
            );
            Failure::new(
                Refusal::NoSuchResource.name(),
                cause,
                self.config.display().to_string(),
                "weft status",
            )
        })?;
        if !resource.nodes.contains(node.id) {
            let cause = format!("The resource does not live on node {}.", node.name);
            return Err(Failure::new(
                "not-here",
                cause,
                format!("resource {name}"),
                "run it on one of its nodes",
            ));
        }
        Ok(vec![place(resource)])
    }
}

/// Does what was typed.
///
/// # Errors
/// Why not.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.verb {
        Verb::CreateMd {
            resource,
            volume,
            max_peers,
            force,
        } => {
            let config = arguments.load()?;
            for_each(&arguments.places(&config, resource)?, |place| {
                metadata::create(place, *volume, *max_peers, *force)
            })
        }
        Verb::DumpMd {
            resource,
            volume,
            json,
        } => {
            let config = arguments.load()?;
            for_each(&arguments.places(&config, resource)?, |place| {
                metadata::dump(place, *volume, *json)
            })
        }
        Verb::Up { resource, dry_run } => {
            let config = arguments.load()?;
            for_each(&arguments.places(&config, resource)?, |place| {
                up::up(place, *dry_run)
            })
        }
        Verb::Adjust { resource, dry_run } => {
            let config = arguments.load()?;
            for_each(&arguments.places(&config, resource)?, |place| {
                up::adjust(place, *dry_run)
            })
        }
        Verb::Down {
            resource,
            force,
            dry_run,
        } if resource == ALL => for_each(&running()?, |name| up::down(name, *force, *dry_run)),
        Verb::Down {
            resource,
            force,
            dry_run,
        } => up::down(resource, *force, *dry_run),
        Verb::Primary { resource, force } => {
            perform(&Request::about(Command::Primary, resource).flag(Attribute::Force, *force))
        }
        Verb::Secondary { resource, force } => {
            perform(&Request::about(Command::Secondary, resource).flag(Attribute::Force, *force))
        }
        Verb::Outdate { resource } => perform(&Request::about(Command::Outdate, resource)),
        Verb::NewGeneration { resource } => {
            perform(&Request::about(Command::NewGeneration, resource))
        }
        Verb::Invalidate {
            resource,
            volume,
            from,
        } => {
            let mut running = Running::find(resource)?;
            let from = from.as_deref().map(|typed| running.peer(typed));
            let from = from.transpose()?;
            let requests = running.of_volumes(Command::Invalidate, *volume);
            for_each(&requests, |request| match from {
                Some(peer) => running.perform(&request.clone().number(Attribute::SyncFrom, peer)),
                None => running.perform(request),
            })
        }
        Verb::InvalidatePeer {
            resource,
            peer,
            volume,
        } => {
            let mut running = Running::find(resource)?;
            let peer = running.peer(peer)?;
            let requests = running.of_volumes(Command::InvalidatePeer, *volume);
            for_each(&requests, |request| {
                running.perform(&request.clone().number(Attribute::Peer, peer))
            })
        }
        Verb::Resize { resize } => resize::resize(resize),
        Verb::Verify { verify } => verify::verify(verify),
        Verb::VerifyStop { copies } => verify::stop(copies),
        Verb::Repair { repair } => verify::repair(repair),
        Verb::PauseSync { resource, peer } => {
            order_peers(Command::PauseSync, resource, peer.as_deref())
        }
        Verb::ResumeSync { resource, peer } => {
            order_peers(Command::ResumeSync, resource, peer.as_deref())
        }
        Verb::SuspendIo { resource, freeze } => {
            perform(&Request::about(Command::SuspendIo, resource).flag(Attribute::Freeze, *freeze))
        }
        Verb::ResumeIo { resource } => perform(&Request::about(Command::ResumeIo, resource)),
        Verb::Status { resource, show } => show::status(resource.as_deref(), show.json, show.watch),
        Verb::Events { resource, json } => events::follow(resource.as_deref(), *json),
        Verb::WaitConnect { wait } => {
            wait::wait(&wait.resource, "connected", wait::connected, wait.timeout())
        }
        Verb::WaitSync { wait } => {
            wait::wait(&wait.resource, "in sync", wait::in_sync, wait.timeout())
        }
        Verb::Generations { resource, json } => show::generations(resource, *json),
        Verb::Config {
            verb: ConfigVerb::Check,
        } => check(arguments),
        Verb::DaemonStatus { json, run_dir } => show::daemon(&run_dir.join(SOCKET_NAME), *json),
    }
}

impl Wait {
    fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }
}

/// Does all and tells the last failure; the others are printed as they happen.
pub(super) fn for_each<T>(
    all: &[T],
    mut act: impl FnMut(&T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last = Ok(());
    for failure in all.iter().filter_map(|one| act(one).err()) {
        if let Err(earlier) = std::mem::replace(&mut last, Err(failure)) {
            eprintln!("weft: {earlier}");
        }
    }
    last
}

/// Names of the resources that run.
fn running() -> Result<Vec<String>, Failure> {
    let tree = model::tree(&events::status(&mut Client::open()?, None)?);
    Ok(tree.into_iter().map(|resource| resource.name).collect())
}

fn perform(request: &Request) -> Result<(), Failure> {
    let done = Client::open()?.perform(request);
    done.map(drop)
        .map_err(|error| Failure::of_request(request, &error))
}

fn order_peers(command: Command, resource: &str, peer: Option<&str>) -> Result<(), Failure> {
    let mut running = Running::find(resource)?;
    let requests = running.of_peers(command, peer)?;
    for_each(&requests, |request| running.perform(request))
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    let (nodes, resources) = (config.nodes.len(), config.resources.len());
    print(&format!(
        "{}: {nodes} nodes, {resources} resources, no fault found\n",
        arguments.config.display()
    ))?;
    // Also useful on a machine that is none of the nodes.
    match config.this_node(arguments.node.as_deref()) {
        Ok(node) => print(&format!(
            "this machine is node {} ({})\n",
            node.id, node.name
        )),
        Err(error) => print(&format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_parser_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn each_failure_of_several_is_told() {
        let failure = |n: &u32| Err(Failure::new(&n.to_string(), "", "", ""));
        let result = for_each(&[1, 2, 3], |n| if *n == 2 { Ok(()) } else { failure(n) });
        assert_eq!(result.map_err(|failure| failure.code), Err("3".to_owned()));
        let result = for_each(&[1, 2], |n| if *n == 2 { Ok(()) } else { failure(n) });
        assert_eq!(result.map_err(|failure| failure.code), Err("1".to_owned()));
    }
}
