// SPDX-License-Identifier: GPL-2.0-only

//! Records of the status: one object as dumps and events show it.

use crate::resource::Resource;
use weft_engine::effect::Object;
use weft_uapi::control::padded_name;
use weft_uapi::limits::NAME_MAX;
use weft_uapi::netlink::Command;
use weft_uapi::status::{
    GenerationInfo, Name, PeerInfo, PeerVolumeInfo, RecordKind, ResourceInfo, VolumeInfo,
};
use zerocopy::{FromZeros, IntoBytes};

/// One object as it is now.
pub(crate) enum Record {
    Resource(ResourceInfo),
    Volume(VolumeInfo),
    Peer(PeerInfo),
    PeerVolume(PeerVolumeInfo),
    Generation(GenerationInfo),
}

impl Record {
    /// The object as it is, if it is there. Takes the engine's lock.
    pub(super) fn of(resource: &Resource, object: Object) -> Option<Self> {
        Some(match object {
            Object::Resource if resource.is_removed() => return None,
            Object::Resource => {
                let mut info = resource.with_engine(|engine, now| engine.resource_info(now));
                if let Some(other) = resource.host.registry.after(resource.padded_name()) {
                    info.resync_after = other;
                }
                resource.describe_freeze(&mut info);
                Self::Resource(info)
            }
            Object::Volume(volume) => {
                let mut info =
                    resource.with_engine(|engine, now| engine.volume_info(volume, now))?;
                info.read_sectors = info
                    .read_sectors
                    .saturating_add(resource.sectors_read(volume));
                if let Some((disk, meta)) = resource.volume_paths(volume) {
                    (info.disk, info.meta) = (disk, meta);
                }
                Self::Volume(info)
            }
            Object::Peer(peer) => {
                let mut info = resource.with_engine(|engine, now| engine.peer_info(peer, now))?;
                info.name = resource.peer_name(peer);
                info.tie_breaker = resource.is_tie_breaker(peer).into();
                Self::Peer(info)
            }
            Object::PeerVolume(peer, volume) => Self::PeerVolume(
                resource.with_engine(|engine, now| engine.peer_volume_info(peer, volume, now))?,
            ),
        })
    }

    /// What `command` shows of the object, if anything. Takes the engine's lock.
    pub(super) fn for_dump(resource: &Resource, command: Command, object: Object) -> Option<Self> {
        match (command, object) {
            (Command::Generations, Object::Volume(volume)) => resource
                .with_engine(|engine, _| engine.generation_info(volume))
                .map(Self::Generation),
            (Command::Generations, _) | (Command::Show, Object::PeerVolume(..)) => None,
            _ => Self::of(resource, object),
        }
    }

    /// A record of an object that is gone: nothing but what names it.
    pub(super) fn gone(resource: &Resource, object: Object) -> Self {
        let name: Name = padded_name(resource.name()).unwrap_or([0; NAME_MAX + 1]);
        match object {
            Object::Resource => Self::Resource(ResourceInfo {
                name,
                ..FromZeros::new_zeroed()
            }),
            Object::Volume(volume) => Self::Volume(VolumeInfo {
                resource: name,
                volume: volume.0.into(),
                ..FromZeros::new_zeroed()
            }),
            Object::Peer(peer) => Self::Peer(PeerInfo {
                resource: name,
                peer: peer.get().into(),
                ..FromZeros::new_zeroed()
            }),
            Object::PeerVolume(peer, volume) => Self::PeerVolume(PeerVolumeInfo {
                resource: name,
                peer: peer.get().into(),
                volume: volume.0.into(),
                ..FromZeros::new_zeroed()
            }),
        }
    }

    /// Which struct it is.
    pub(super) fn kind(&self) -> RecordKind {
        match self {
            Self::Resource(_) => RecordKind::Resource,
            Self::Volume(_) => RecordKind::Volume,
            Self::Peer(_) => RecordKind::Peer,
            Self::PeerVolume(_) => RecordKind::PeerVolume,
            Self::Generation(_) => RecordKind::Generation,
        }
    }

    /// The struct's bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Resource(info) => info.as_bytes(),
            Self::Volume(info) => info.as_bytes(),
            Self::Peer(info) => info.as_bytes(),
            Self::PeerVolume(info) => info.as_bytes(),
            Self::Generation(info) => info.as_bytes(),
        }
    }
}
