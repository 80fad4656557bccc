// SPDX-License-Identifier: GPL-2.0-only

//! The state machine of one resource.

use crate::effect::Object;
use crate::event::Event;
use crate::host::{Host, NoMemory, Output, Time};
use core::marker::PhantomData;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Protocol;
use weft_uapi::status::{GenerationInfo, PeerInfo, PeerVolumeInfo, ResourceInfo, VolumeInfo};
use weft_uapi::units::{NodeId, VolumeId};

/// What never changes about a resource.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Name, padded with zeros.
    pub name: weft_uapi::status::Name,
    /// This node.
    pub node: NodeId,
    /// Protocol to begin with.
    pub protocol: Protocol,
    /// Requests of the application in flight at most (host memory: 128 KiB each).
    pub requests_max: usize,
}

/// The replication core of one resource on one node.
pub struct Engine<H: Host> {
    host: PhantomData<H>,
}
