// SPDX-License-Identifier: GPL-2.0-only

//! Orders about volumes and peers of a running resource: all of them unless one is named.

use super::events::status;
use super::failure::Failure;
use crate::config::host_names;
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::request::Request;
use crate::view::model::{self, Connection, Resource};
use crate::view::verify::Verify;
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;

/// A resource that runs, and the way to the module.
pub(super) struct Running {
    client: Client,
    resource: Resource,
}

/// A volume here and the same one at a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    /// Node id of the peer.
    pub(super) peer: u32,
    /// Volume number.
    pub(super) volume: u32,
}

impl Pair {
    /// What a resource says of the last time the two were compared.
    pub(super) fn verify_in(self, resource: &Resource) -> Option<&Verify> {
        let mut connections = resource.connections.iter();
        let connection = connections.find(|one| one.node_id == self.peer)?;
        let mut devices = connection.peer_devices.iter();
        let device = devices.find(|device| device.volume == self.volume)?;
        device.verify.as_ref()
    }
}

fn find(client: &mut Client, name: &str) -> Result<Resource, Failure> {
    let tree = model::tree(&status(client, Some(name))?);
    let found = tree.into_iter().find(|resource| resource.name == name);
    let object = || format!("resource {name}");
    let missing = || Failure::refusal(Refusal::NoSuchResource, object(), name);
    found.ok_or_else(missing)
}

impl Running {
    /// Finds it.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn find(name: &str) -> Result<Self, Failure> {
        let mut client = Client::open()?;
        let resource = find(&mut client, name)?;
        Ok(Self { client, resource })
    }

    /// The node id of a peer that is named, or given by its id.
    ///
    /// # Errors
    /// When there is no such peer.
    pub(super) fn peer(&self, typed: &str) -> Result<u32, Failure> {
        let is_meant = |one: &&Connection| one.name == typed || one.node_id.to_string() == typed;
        let found = self.resource.connections.iter().find(is_meant);
        let name = &self.resource.name;
        let missing = || {
            let object = format!("resource {name}, peer {typed}");
            Failure::refusal(Refusal::NoSuchPeer, object, name)
        };
        found.map(|one| one.node_id).ok_or_else(missing)
    }

    /// A request about each of its volumes, or the one that is named.
    pub(super) fn of_volumes(&self, command: Command, only: Option<u16>) -> Vec<Request> {
        let volumes = self.volumes(only);
        let about = |volume| self.request(command).number(Attribute::Volume, volume);
        volumes.into_iter().map(about).collect()
    }

    /// Its volumes, or the one that is named.
    fn volumes(&self, only: Option<u16>) -> Vec<u32> {
        let devices = self.resource.devices.iter();
        match only {
            Some(volume) => vec![volume.into()],
            None => devices.map(|device| device.volume).collect(),
        }
    }

    /// A request about each of its peers that has data, or the one that is named.
    ///
    /// # Errors
    /// When there is no such peer.
    pub(super) fn of_peers(
        &self,
        command: Command,
        only: Option<&str>,
    ) -> Result<Vec<Request>, Failure> {
        let mirrors = self.resource.connections.iter();
        let mirrors = mirrors.filter(|one| !one.tie_breaker);
        let peers = match only {
            Some(typed) => vec![self.peer(typed)?],
            None => mirrors.map(|one| one.node_id).collect(),
        };
        let about = |peer| self.request(command).number(Attribute::Peer, peer);
        Ok(peers.into_iter().map(about).collect())
    }

    /// The node id of this node.
    pub(super) fn own_id(&self) -> u32 {
        self.resource.node_id
    }

    /// The node id of this node or a peer, named or given by its id.
    ///
    /// # Errors
    /// When there is no such node.
    pub(super) fn node(&self, typed: &str) -> Result<u32, Failure> {
        let own = self.own_id();
        let is_own = typed == own.to_string() || host_names().iter().any(|name| name == typed);
        match is_own {
            true => Ok(own),
            false => self.peer(typed),
        }
    }

    /// The copies that are meant: of all volumes unless one is named, here and at the peer that is named, or at those whose
    /// writes come in one order with those of this node.
    ///
    /// # Errors
    /// When there is no such peer.
    pub(super) fn pairs(
        &self,
        peer: Option<&str>,
        volume: Option<u16>,
    ) -> Result<Vec<Pair>, Failure> {
        let is_primary = |role: &str| role == Role::Primary.name();
        let mirrors = self.resource.connections.iter();
        let mirrors: Vec<_> = mirrors.filter(|one| !one.tie_breaker).collect();
        let leader = mirrors.iter().find(|one| is_primary(&one.role));
        let peers = match (peer, leader) {
            (Some(typed), _) => vec![self.peer(typed)?],
            (None, Some(leader)) if !is_primary(&self.resource.role) => vec![leader.node_id],
            (None, _) => mirrors.iter().map(|one| one.node_id).collect(),
        };
        let volumes = self.volumes(volume);
        let of_peer = |&peer: &u32| {
            let volumes = volumes.iter();
            volumes.map(move |&volume| Pair { peer, volume })
        };
        Ok(peers.iter().flat_map(of_peer).collect())
    }

    /// A request about two copies.
    pub(super) fn about(&self, command: Command, pair: Pair) -> Request {
        let request = self.request(command);
        let request = request.number(Attribute::Volume, pair.volume);
        request.number(Attribute::Peer, pair.peer)
    }

    /// The running or last verify of two copies.
    pub(super) fn verify(&self, pair: Pair) -> Option<&Verify> {
        pair.verify_in(&self.resource)
    }

    /// The resource as it is now.
    ///
    /// # Errors
    /// When it does not run any more.
    pub(super) fn look_again(&mut self) -> Result<Resource, Failure> {
        find(&mut self.client, &self.resource.name)
    }

    fn request(&self, command: Command) -> Request {
        Request::about(command, &self.resource.name)
    }

    /// Has the module do one thing.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn perform(&mut self, request: &Request) -> Result<(), Failure> {
        let done = self.client.perform(request);
        done.map(drop)
            .map_err(|error| Failure::of_request(request, &error))
    }
}
