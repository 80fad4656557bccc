// SPDX-License-Identifier: GPL-2.0-only

//! Dumps: all objects of all resources, or of one, a buffer at a time.
//!
//! Between two calls only the place of the next object is kept, by ids that are never reused, so a dump goes on
//! correctly while objects come and go.

use super::record::Record;
use crate::registry::Registry;
use crate::resource::Resource;
use crate::sys::genl::{DumpPosition, DumpWriter};
use kernel::{error::Result, sync::Arc};
use weft_engine::effect::Object;
use weft_uapi::limits::{NODES_MAX, VOLUMES_MAX};
use weft_uapi::netlink::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, VolumeId};

/// Continues a dump; see [`crate::sys::genl::Handler::on_dump`].
pub(super) fn go_on(
    registry: &Registry,
    command: Command,
    only: Option<&str>,
    position: &mut DumpPosition,
    writer: &mut DumpWriter<'_>,
) -> Result {
    let DumpPosition([done_id, place, ..]) = position;
    if let Some(name) = only {
        let Some(resource) = registry.find(name) else {
            // A resource that went away in the middle of its dump ends it.
            return match *place {
                0 => refuse(writer, Refusal::NoSuchResource, name),
                _ => Ok(()),
            };
        };
        return write_resource(&resource, command, place, writer);
    }
    while let Some((id, resource)) = registry.next_after(*done_id) {
        write_resource(&resource, command, place, writer)?;
        *done_id = id;
        *place = 0;
    }
    Ok(())
}

fn refuse(writer: &mut DumpWriter<'_>, refusal: Refusal, name: &str) -> Result {
    writer.refuse(
        refusal,
        format_args!("{} Resource: {name}.", refusal.text()),
    )
}

/// Writes the objects of one resource from `place` on, which it moves behind what was written.
fn write_resource(
    resource: &Arc<Resource>,
    command: Command,
    place: &mut u64,
    writer: &mut DumpWriter<'_>,
) -> Result {
    while let Some((object, at)) = next_object(resource, *place) {
        if let Some(record) = Record::for_dump(resource, command, object) {
            writer.record(record.kind(), record.as_bytes())?;
        }
        *place = at.saturating_add(1);
    }
    Ok(())
}

/// Places of the objects of a resource: the resource, its volumes, its peers, each volume towards each peer.
const FIRST_VOLUME: u64 = 1;
const FIRST_PEER: u64 = FIRST_VOLUME + VOLUMES_MAX as u64;
const FIRST_PEER_VOLUME: u64 = FIRST_PEER + NODES_MAX as u64;

fn place_of_volume(volume: VolumeId) -> u64 {
    FIRST_VOLUME.saturating_add(volume.0.into())
}

fn place_of_peer(peer: NodeId) -> u64 {
    FIRST_PEER.saturating_add(peer.get().into())
}

fn place_of_peer_volume(peer: NodeId, volume: VolumeId) -> u64 {
    let of_peer = u64::from(peer.get()).saturating_mul(VOLUMES_MAX as u64);
    FIRST_PEER_VOLUME
        .saturating_add(of_peer)
        .saturating_add(volume.0.into())
}

/// The object with the lowest place from `from` on, and that place.
fn next_object(resource: &Resource, from: u64) -> Option<(Object, u64)> {
    if from == 0 {
        return Some((Object::Resource, 0));
    }
    resource.with_engine(|engine, _| {
        let volume = engine
            .volumes()
            .filter(|&volume| place_of_volume(volume) >= from)
            .min();
        if let Some(volume) = volume {
            return Some((Object::Volume(volume), place_of_volume(volume)));
        }
        let peer = engine
            .peers()
            .filter(|&peer| place_of_peer(peer) >= from)
            .min();
        if let Some(peer) = peer {
            return Some((Object::Peer(peer), place_of_peer(peer)));
        }
        let last_volume = engine.volumes().max()?;
        let peers = engine
            .peers()
            .filter(|&peer| place_of_peer_volume(peer, last_volume) >= from);
        // The lowest peer that has not all volumes behind `from`, then its lowest one.
        let peer = peers.min()?;
        let volume = engine
            .volumes()
            .filter(|&volume| place_of_peer_volume(peer, volume) >= from)
            .min()?;
        Some((
            Object::PeerVolume(peer, volume),
            place_of_peer_volume(peer, volume),
        ))
    })
}
