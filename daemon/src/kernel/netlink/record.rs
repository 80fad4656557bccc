// SPDX-License-Identifier: GPL-2.0-only

//! Records of dumps and events.

use super::error::NetlinkError;
use super::message::Message;
use weft_uapi::netlink::Attribute;
use weft_uapi::status::{
    read_record, EventKind, GenerationInfo, PeerInfo, PeerVolumeInfo, RecordKind, ResourceInfo,
    VolumeInfo,
};

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A resource.
    Resource(Box<ResourceInfo>),
    /// A volume.
    Volume(Box<VolumeInfo>),
    /// A peer of a resource.
    Peer(Box<PeerInfo>),
    /// A volume towards a peer.
    PeerVolume(Box<PeerVolumeInfo>),
    /// The generations of a volume.
    Generation(Box<GenerationInfo>),
}

/// Something that changed in the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Gap-free number.
    pub sequence: u64,
    /// What happened to the object.
    pub kind: EventKind,
    /// The object after the change; `None` when this version does not know the kind of object.
    pub record: Option<Record>,
    /// What happened, for people; may be empty.
    pub text: String,
}

/// The record in a dump or event message; `None` for a kind that a later version may have added.
pub(super) fn decode(message: &Message) -> Result<Option<Record>, NetlinkError> {
    let kind = message.u32(Attribute::RecordKind);
    let kind = kind.ok_or(NetlinkError::Malformed("a record without kind"))?;
    let bytes = message.bytes(Attribute::Record);
    let bytes = bytes.ok_or(NetlinkError::Malformed("a record without content"))?;
    Ok(RecordKind::from_number(kind).map(|kind| match kind {
        RecordKind::Resource => Record::Resource(Box::new(read_record(bytes))),
        RecordKind::Volume => Record::Volume(Box::new(read_record(bytes))),
        RecordKind::Peer => Record::Peer(Box::new(read_record(bytes))),
        RecordKind::PeerVolume => Record::PeerVolume(Box::new(read_record(bytes))),
        RecordKind::Generation => Record::Generation(Box::new(read_record(bytes))),
    }))
}

/// The event in a multicast message.
pub(super) fn decode_event(message: &Message) -> Result<Event, NetlinkError> {
    let sequence = message.u64(Attribute::EventSeq);
    let kind = message
        .u32(Attribute::EventKind)
        .and_then(EventKind::from_number);
    let has_record = message.bytes(Attribute::Record).is_some();
    Ok(Event {
        sequence: sequence.ok_or(NetlinkError::Malformed("an event without number"))?,
        kind: kind.unwrap_or(EventKind::Change),
        record: if has_record { decode(message)? } else { None },
        text: message.text(Attribute::Text).unwrap_or_default(),
    })
}
