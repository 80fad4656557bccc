// SPDX-License-Identifier: GPL-2.0-only

//! Orders about volumes and peers of a running resource: all of them unless one is named.

use super::events::status;
use super::failure::Failure;
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::request::Request;
use crate::view::model::{self, Connection, Resource};
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;

/// A resource that runs, and the way to the module.
pub(super) struct Running {
    client: Client,
    resource: Resource,
}

impl Running {
    /// Finds it.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn find(name: &str) -> Result<Self, Failure> {
        let mut client = Client::open()?;
        let tree = model::tree(&status(&mut client, Some(name))?);
        let found = tree.into_iter().find(|resource| resource.name == name);
        let object = || format!("resource {name}");
        let missing = || Failure::refusal(Refusal::NoSuchResource, object(), name);
        let resource = found.ok_or_else(missing)?;
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
        let devices = self.resource.devices.iter().map(|device| device.volume);
        let volumes: Vec<u32> = match only {
            Some(volume) => vec![volume.into()],
            None => devices.collect(),
        };
        let about = |volume| self.request(command).number(Attribute::Volume, volume);
        volumes.into_iter().map(about).collect()
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
