// SPDX-License-Identifier: GPL-2.0-only

//! Events as lines of text or JSON.

use super::generation::Generations;
use super::model::{text as name, Connection, Device, PeerDevice, Resource};
use crate::kernel::netlink::record::Record;
use serde::{Deserialize, Serialize};
use weft_uapi::congestion::Pace;
use weft_uapi::status::EventKind;

/// One line of `events`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Line {
    /// `exists` (of the snapshot), `snapshot-end`, `create`, `change`, `destroy`, or `lost`.
    pub event: String,
    /// Gap-free number of an event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sequence: Option<u64>,
    /// Name of the resource that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource: Option<String>,
    /// The object, as in the JSON of `weft status`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<Object>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// The object of an event.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A resource, without what belongs to it.
    Resource(Box<Resource>),
    /// A volume.
    Device(Device),
    /// A peer, without its volumes.
    Connection(Connection),
    /// A volume towards the peer with this node id.
    PeerDevice {
        /// Node id of the peer.
        node_id: u32,
        /// The volume.
        #[serde(flatten)]
        state: Box<PeerDevice>,
    },
    /// Generations of a volume.
    Generations(Generations),
}

impl Line {
    /// About a record.
    pub fn of(event: &str, sequence: Option<u64>, record: Option<&Record>, text: &str) -> Self {
        let (resource, object) = match record {
            Some(record) => {
                let (resource, object) = object(record);
                (Some(resource), Some(object))
            }
            None => (None, None),
        };
        Self {
            event: event.to_owned(),
            sequence,
            resource,
            object,
            text: (!text.is_empty()).then(|| text.to_owned()),
        }
    }

    /// An event.
    pub fn event(event: &crate::kernel::netlink::record::Event) -> Self {
        let kind: EventKind = event.kind;
        Self::of(
            kind.name(),
            Some(event.sequence),
            event.record.as_ref(),
            &event.text,
        )
    }

    /// In words.
    pub fn text(&self) -> String {
        let sequence = self
            .sequence
            .map(|sequence| sequence.to_string())
            .unwrap_or_default();
        let mut words = vec![format!("{sequence:>6}"), self.event.clone()];
        words.extend(self.resource.clone());
        words.extend(self.object.as_ref().map(describe));
        words.extend(self.text.as_ref().map(|text| format!("- {text}")));
        words.join(" ")
    }
}

fn object(record: &Record) -> (String, Object) {
    match record {
        Record::Resource(info) => (
            name(&info.name),
            Object::Resource(Box::new(Resource::from(&**info))),
        ),
        Record::Volume(info) => (name(&info.resource), Object::Device(Device::from(&**info))),
        Record::Peer(info) => (
            name(&info.resource),
            Object::Connection(Connection::from(&**info)),
        ),
        Record::PeerVolume(info) => {
            let state = Box::new(PeerDevice::from(&**info));
            let node_id = info.peer;
            (name(&info.resource), Object::PeerDevice { node_id, state })
        }
        Record::Generation(info) => (
            name(&info.resource),
            Object::Generations(Generations::from(&**info)),
        ),
    }
}

fn describe(object: &Object) -> String {
    match object {
        Object::Resource(resource) => {
            let suspended = match resource.suspended.join(",") {
                reasons if reasons.is_empty() => String::new(),
                reasons => format!(" suspended:{reasons}"),
            };
            let quorum = match &resource.quorum {
                quorum if quorum.is_on() => {
                    let (present, all) = (quorum.present.len(), quorum.voters.len());
                    format!(" quorum:{} voters:{present}/{all}", quorum.state)
                }
                _ => String::new(),
            };
            format!("role:{}{quorum}{suspended}", resource.role)
        }
        Object::Device(device) => format!("volume:{} disk:{}", device.volume, device.disk_state),
        Object::Connection(connection) => {
            let Connection {
                node_id,
                name,
                connection_state,
                role,
                ..
            } = connection;
            format!("peer:{node_id} name:{name} connection:{connection_state} role:{role}")
        }
        Object::PeerDevice { node_id, state } => {
            let mut text = format!(
                "peer:{node_id} volume:{} replication:{} peer-disk:{}",
                state.volume, state.replication_state, state.peer_disk_state
            );
            if state.is_syncing() {
                text.push_str(&format!(" done:{:.1}%", state.percent_done()));
            }
            if let Some(verify) = &state.verify {
                let (state, differing) = (&verify.state, verify.differing_bytes);
                text.push_str(&format!(" verify:{state} differing:{differing}"));
            }
            if state.pace != Pace::Together.name() {
                let (pace, bytes, ms) = (&state.pace, state.lag_bytes, state.lag_ms);
                text.push_str(&format!(" pace:{pace} lag-bytes:{bytes} lag-ms:{ms}"));
            }
            if !state.paused.is_empty() {
                text.push_str(&format!(" paused:{}", state.paused.join(",")));
            }
            text
        }
        Object::Generations(generations) => {
            let current = generations.current.as_deref().unwrap_or("none");
            format!("volume:{} generation:{current}", generations.volume)
        }
    }
}
