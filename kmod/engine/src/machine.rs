// SPDX-License-Identifier: GPL-2.0-only

//! The state machine of one resource.

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
    config: Config,
    host: PhantomData<H>,
}

impl<H: Host> Engine<H> {
    /// A resource without volumes and peers. Context: may sleep.
    pub fn new(config: Config) -> Result<Self, NoMemory> {
        Ok(Self { config, host: PhantomData })
    }

    /// Takes one event and tells `out` what has to be done.
    pub fn handle(&mut self, now: Time, event: Event<'_, H>, out: &mut impl Output<H>) {
        let _ = (now, event, out);
    }

    /// When [`Event::Timer`] is wanted; `None`: not at all for now.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// Whether one more [`Event::Request`] can be taken.
    pub fn has_room(&self) -> bool {
        self.config.requests_max > 0
    }

    /// Whether one more [`Event::Packet`] from this peer can be taken.
    pub fn has_peer_room(&self, _peer: NodeId) -> bool {
        true
    }

    /// The device of a volume is being opened. `Ok` counts until [`Self::close`].
    pub fn open(&mut self, _volume: VolumeId, _write: bool) -> Result<(), Refusal> {
        Err(Refusal::NoSuchVolume)
    }

    /// The device of a volume was closed.
    pub fn close(&mut self, _volume: VolumeId) {}

    /// Whether the resource may go: it has neither volumes nor peers.
    pub fn may_remove(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        core::iter::empty()
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        core::iter::empty()
    }

    /// Status of the resource.
    pub fn resource_info(&self, _now: Time) -> ResourceInfo {
        zerocopy::FromZeros::new_zeroed()
    }

    /// Status of a volume; the host fills in the paths.
    pub fn volume_info(&self, _volume: VolumeId, _now: Time) -> Option<VolumeInfo> {
        None
    }

    /// Status of a peer; the host fills in its name.
    pub fn peer_info(&self, _peer: NodeId, _now: Time) -> Option<PeerInfo> {
        None
    }

    /// Status of a volume towards a peer.
    pub fn peer_volume_info(&self, _peer: NodeId, _volume: VolumeId, _now: Time) -> Option<PeerVolumeInfo> {
        None
    }

    /// The generations of a volume.
    pub fn generation_info(&self, _volume: VolumeId) -> Option<GenerationInfo> {
        None
    }
}
