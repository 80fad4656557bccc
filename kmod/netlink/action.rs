// SPDX-License-Identifier: GPL-2.0-only

//! What a resource is asked to do by a command.

use crate::disk::attach::{Backing, LowerDevice};
use crate::sys::genl::Arguments;
use kernel::prelude::*;
use weft_engine::event::{Growth, Options, Wanted};
use weft_uapi::control::padded_name;
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::netlink::{Attribute, Command, NO_RESOURCE};
use weft_uapi::resync::Csums;
use weft_uapi::split_brain::{SplitBrain0, SplitBrain1};
use weft_uapi::state::{AutoPromote, Fencing, OnNoQuorum, Protocol, TwoPrimaries};
use weft_uapi::status::Name;
use weft_uapi::units::{Minor, NodeId, NodeSet, Sector, VolumeId};

/// A mutation of one resource, carried out by its worker.
pub(crate) enum Action {
    /// Creates a device.
    NewDevice { volume: VolumeId, minor: Minor },
    /// Removes a device that has no disk.
    DelDevice { volume: VolumeId },
    /// Attaches a disk.
    Attach { volume: VolumeId, backing: Backing },
    /// Lets a disk go.
    Detach { volume: VolumeId },
    /// Makes a peer known.
    NewPeer {
        peer: NodeId,
        name: Name,
        is_tie_breaker: bool,
    },
    /// Forgets a peer.
    DelPeer { peer: NodeId },
    /// Wants a connection.
    Connect { peer: NodeId, discard_my_data: bool },
    /// Does not want it any more.
    Disconnect { peer: NodeId, force: bool },
    /// Promotes this node.
    Primary { force: bool },
    /// Demotes this node.
    Secondary { force: bool },
    /// Says that newer data are elsewhere.
    Outdate,
    /// Says that new disks are equal.
    NewGeneration,
    /// Gives this node's disk up.
    Invalidate {
        volume: VolumeId,
        from: Option<NodeId>,
    },
    /// Gives a peer's disk up.
    InvalidatePeer { volume: VolumeId, peer: NodeId },
    /// Lets resyncs with a peer wait.
    PauseSync { peer: NodeId },
    /// Lets them go on.
    ResumeSync { peer: NodeId },
    /// Compares the disk with a peer's.
    Verify {
        volume: VolumeId,
        peer: NodeId,
        wanted: Wanted,
    },
    /// Ends that.
    VerifyStop { volume: VolumeId, peer: NodeId },
    /// Copies what was found.
    Repair {
        volume: VolumeId,
        peer: NodeId,
        from: NodeId,
    },
    /// Makes the device larger.
    Resize { volume: VolumeId, growth: Growth },
    /// Lets the application's requests wait, perhaps with its file systems frozen first.
    SuspendIo { freezes: bool },
    /// Lets them go on.
    ResumeIo,
    /// Changes options.
    Options {
        options: Options,
        /// If it is said: for whose resyncs this resource's wait.
        after: Option<Option<Name>>,
    },
    /// Removes the empty resource.
    Remove,
    /// Disconnects, detaches and removes everything, and the resource.
    Down { force: bool },
}

impl Action {
    /// The action of a command whose arguments were checked; `None` for commands that are not about an existing
    /// resource.
    pub(super) fn parse(command: Command, arguments: &Arguments<'_>) -> Result<Option<Self>> {
        let volume = || volume(arguments).ok_or(EINVAL);
        let peer = || node(arguments, Attribute::Peer).ok_or(EINVAL);
        Ok(Some(match command {
            Command::NewDevice => Self::NewDevice {
                volume: volume()?,
                minor: Minor(arguments.number(Attribute::Minor).ok_or(EINVAL)?),
            },
            Command::DelDevice => Self::DelDevice { volume: volume()? },
            Command::Attach => Self::Attach {
                volume: volume()?,
                backing: Backing {
                    disk: LowerDevice::find(arguments.text(Attribute::Disk).ok_or(EINVAL)?)?,
                    meta: match arguments.text(Attribute::Meta).ok_or(EINVAL)? {
                        "internal" => None,
                        device => Some(LowerDevice::find(device)?),
                    },
                    block_bytes: arguments.number(Attribute::BlockSize),
                    former_sectors: sectors(arguments, Attribute::DiskSize),
                },
            },
            Command::Detach => Self::Detach { volume: volume()? },
            Command::NewPeer => Self::NewPeer {
                peer: peer()?,
                name: padded_name(arguments.text(Attribute::PeerName).unwrap_or(""))
                    .ok_or(EINVAL)?,
                is_tie_breaker: arguments.flag(Attribute::TieBreaker),
            },
            Command::DelPeer => Self::DelPeer { peer: peer()? },
            Command::Connect => Self::Connect {
                peer: peer()?,
                discard_my_data: arguments.flag(Attribute::DiscardMyData),
            },
            Command::Disconnect => Self::Disconnect {
                peer: peer()?,
                force: arguments.flag(Attribute::Force),
            },
            Command::Primary => Self::Primary {
                force: arguments.flag(Attribute::Force),
            },
            Command::Secondary => Self::Secondary {
                force: arguments.flag(Attribute::Force),
            },
            Command::Outdate => Self::Outdate,
            Command::NewGeneration => Self::NewGeneration,
            Command::Invalidate => Self::Invalidate {
                volume: volume()?,
                from: node(arguments, Attribute::SyncFrom),
            },
            Command::InvalidatePeer => Self::InvalidatePeer {
                volume: volume()?,
                peer: peer()?,
            },
            Command::PauseSync => Self::PauseSync { peer: peer()? },
            Command::ResumeSync => Self::ResumeSync { peer: peer()? },
            Command::Verify => Self::Verify {
                volume: volume()?,
                peer: peer()?,
                wanted: wanted(arguments)?,
            },
            Command::VerifyStop => Self::VerifyStop {
                volume: volume()?,
                peer: peer()?,
            },
            Command::Repair => Self::Repair {
                volume: volume()?,
                peer: peer()?,
                from: node(arguments, Attribute::From).ok_or(EINVAL)?,
            },
            Command::Resize => Self::Resize {
                volume: volume()?,
                growth: Growth {
                    sectors: sectors(arguments, Attribute::Size),
                    is_clean: arguments.flag(Attribute::AssumeClean),
                    assumes_room: arguments.flag(Attribute::AssumePeerHasSpace),
                },
            },
            Command::SuspendIo => Self::SuspendIo {
                freezes: arguments.flag(Attribute::Freeze),
            },
            Command::ResumeIo => Self::ResumeIo,
            Command::Options => Self::Options {
                options: options(arguments)?,
                after: after(arguments)?,
            },
            Command::DelResource => Self::Remove,
            Command::Down => Self::Down {
                force: arguments.flag(Attribute::Force),
            },
            Command::NewResource
            | Command::Show
            | Command::Status
            | Command::Generations
            | Command::Event => return Ok(None),
        }))
    }
}

/// What is to be compared. `EINVAL` when that is said in two ways.
fn wanted(arguments: &Arguments<'_>) -> Result<Wanted> {
    let start = arguments.long_number(Attribute::Start);
    let stop = arguments.long_number(Attribute::Stop);
    match (arguments.flag(Attribute::Resume), start, stop) {
        (true, None, None) => Ok(Wanted::Rest),
        (true, ..) => Err(EINVAL),
        (false, ..) => Ok(Wanted::Range {
            start: Sector(start.unwrap_or(0) / u64::from(SECTOR_BYTES)),
            stop: stop.map(|stop| Sector(stop.div_ceil(SECTOR_BYTES.into()))),
        }),
    }
}

/// Whole sectors of the bytes in `attribute`, if it is there.
fn sectors(arguments: &Arguments<'_>, attribute: Attribute) -> Option<u64> {
    let bytes = arguments.long_number(attribute)?;
    Some(bytes / u64::from(SECTOR_BYTES))
}

/// The node in `attribute`, if it is there.
pub(super) fn node(arguments: &Arguments<'_>, attribute: Attribute) -> Option<NodeId> {
    NodeId::new(arguments.number(attribute)?)
}

/// The options that are there; `EINVAL` when one has no such value.
pub(super) fn options(arguments: &Arguments<'_>) -> Result<Options> {
    Ok(Options {
        protocol: choice(arguments, Attribute::Protocol, Protocol::from_number)?,
        voters: arguments.number(Attribute::Voters).map(NodeSet),
        on_no_quorum: choice(arguments, Attribute::OnNoQuorum, OnNoQuorum::from_number)?,
        fencing: choice(arguments, Attribute::Fencing, Fencing::from_number)?,
        split_brain_0: choice(arguments, Attribute::SplitBrain0, SplitBrain0::from_number)?,
        split_brain_1: choice(arguments, Attribute::SplitBrain1, SplitBrain1::from_number)?,
        two_primaries: choice(
            arguments,
            Attribute::TwoPrimaries,
            TwoPrimaries::from_number,
        )?
        .map(|choice| choice == TwoPrimaries::Allowed),
        resync_min_rate: arguments.long_number(Attribute::ResyncMinRate),
        resync_max_rate: arguments.long_number(Attribute::ResyncMaxRate),
        resync_latency_ms: arguments.number(Attribute::ResyncLatencyTarget),
        csums: choice(arguments, Attribute::CsumsResync, Csums::from_number)?
            .map(|choice| choice == Csums::Yes),
        pull_ahead: arguments.number(Attribute::PullAhead).map(NodeSet),
        congestion_fill: arguments.long_number(Attribute::CongestionFill),
        auto_promote: choice(arguments, Attribute::AutoPromote, AutoPromote::from_number)?,
        auto_promote_timeout_s: arguments.number(Attribute::AutoPromoteTimeout),
    })
}

/// For whose resyncs a resource's wait, if it is said. `EINVAL` when that is no name.
pub(super) fn after(arguments: &Arguments<'_>) -> Result<Option<Option<Name>>> {
    match arguments.text(Attribute::ResyncAfter) {
        None => Ok(None),
        Some(NO_RESOURCE) => Ok(Some(None)),
        Some("") => Err(EINVAL),
        Some(name) => Ok(Some(Some(padded_name(name).ok_or(EINVAL)?))),
    }
}

fn choice<T>(
    arguments: &Arguments<'_>,
    attribute: Attribute,
    of: fn(u32) -> Option<T>,
) -> Result<Option<T>> {
    let number = arguments.number(attribute);
    number.map(|number| of(number).ok_or(EINVAL)).transpose()
}

fn volume(arguments: &Arguments<'_>) -> Option<VolumeId> {
    u16::try_from(arguments.number(Attribute::Volume)?)
        .ok()
        .map(VolumeId)
}
