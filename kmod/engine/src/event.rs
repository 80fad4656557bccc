// SPDX-License-Identifier: GPL-2.0-only

//! Everything that can happen to the engine.

use crate::host::Host;
use crate::load::LoadedDisk;
use crate::quorum::OnNoQuorum;
use crate::room::Room;
use weft_uapi::congestion::Congestion;
use weft_uapi::ondisk::Generation;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::{SplitBrain0, SplitBrain1};
use weft_uapi::state::{AutoPromote, FenceOutcome, Fencing, Protocol};
use weft_uapi::units::{Minor, NodeId, NodeSet, Sector, SessionId, Term, VolumeId};
use weft_uapi::wire::{Digest, Header, LinkKind};

/// One input of the engine.
pub enum Event<'a, H: Host> {
    /// An administrator's command. Answered by exactly one [`crate::effect::Effect::Reply`], now or later.
    Command {
        /// Comes back in the reply.
        token: Token,
        /// What to do.
        command: Command,
    },
    /// The host opened a disk and read its metadata; answered by a reply as well.
    ///
    /// Refused: the engine drops the disk and emits [`crate::effect::Effect::CloseDisk`].
    Attach {
        /// Comes back in the reply.
        token: Token,
        /// The volume.
        volume: VolumeId,
        /// The disk; by reference because it is large, and always taken.
        disk: &'a mut Option<LoadedDisk<H>>,
    },
    /// The device of a volume is being opened; answered by exactly one [`crate::effect::Effect::Opened`], now or later. No
    /// open or close of the same device comes before that.
    Open {
        /// The volume.
        volume: VolumeId,
        /// It may wait for this node to become primary, if the options say that an open leads to that.
        promotes: bool,
    },
    /// Who opens the device of a volume does not wait any longer. Ignored when that was answered meanwhile.
    OpenInterrupted {
        /// The volume.
        volume: VolumeId,
    },
    /// The device of a volume was closed once; answered by exactly one [`crate::effect::Effect::Closed`], as for
    /// [`Event::Open`].
    Close {
        /// The volume.
        volume: VolumeId,
    },
    /// A request of the application. Only while [`crate::Engine::has_room`] says so; else the host keeps it, in order.
    Request {
        /// The volume.
        volume: VolumeId,
        /// The host's handle.
        request: H::Request,
        /// What is asked.
        io: Io,
    },
    /// A [`crate::effect::Effect::Disk`] is done.
    DiskDone {
        /// From the effect.
        cookie: Cookie,
        /// For a read without a request: the data.
        result: Result<Option<H::Buffer>, DiskError>,
    },
    /// As before, of an [`Op::Digest`] that worked.
    Digested {
        /// From the effect.
        cookie: Cookie,
        /// Of what the disk holds.
        digest: Digest,
        /// What it holds.
        data: H::Buffer,
    },
    /// A [`crate::effect::Effect::Meta`] is done: durable when it was asked to flush.
    MetaDone {
        /// From the effect.
        cookie: Cookie,
        /// Whether it worked.
        result: Result<(), DiskError>,
    },
    /// Both links of the session offered by [`crate::effect::Effect::Offer`] are connected.
    SessionUp {
        /// The peer.
        peer: NodeId,
        /// From the offer.
        session: SessionId,
    },
    /// A packet came in; its header was parsed and its payload's checksum, if any, was right.
    Packet {
        /// The peer.
        peer: NodeId,
        /// The session that the link belongs to.
        session: SessionId,
        /// Which link.
        link: LinkKind,
        /// The header.
        header: Header,
        /// The payload of kinds that do not carry data; else empty.
        body: &'a [u8],
        /// The payload of kinds that carry data; `None` when it is empty.
        data: Option<H::Buffer>,
    },
    /// A link of the session died, or was refused.
    SessionDown {
        /// The peer.
        peer: NodeId,
        /// The session; an old one is ignored.
        session: SessionId,
        /// A short sentence for people.
        reason: &'a str,
    },
    /// The daemon told which nodes it reaches; without a daemon the set is empty and `served` false.
    Daemon {
        /// Whether a daemon owns the control device.
        served: bool,
        /// The nodes.
        connected: NodeSet,
    },
    /// What was kept for a tie-breaker, the answer to [`crate::effect::Effect::Recall`].
    Recalled {
        /// The volume.
        volume: VolumeId,
        /// What was kept last; the default if there never was anything.
        kept: Kept,
    },
    /// A [`crate::effect::Effect::Keep`] is done, and will outlive this machine.
    Kept {
        /// The volume.
        volume: VolumeId,
        /// From the effect.
        number: u64,
    },
    /// A [`crate::effect::Effect::Fence`] is done.
    Fenced {
        /// The peer.
        peer: NodeId,
        /// From the effect.
        number: u64,
        /// What became of it.
        outcome: FenceOutcome,
    },
    /// Resyncs of this resource have to wait for those of another one, or not any more.
    Turn {
        /// They have to.
        waits: bool,
    },
    /// A [`crate::effect::Effect::Measure`] is done.
    Measured {
        /// The volume.
        volume: VolumeId,
        /// From the effect.
        attach_id: u64,
        /// Room for the metadata of a larger disk, or why there is none; `None`: the disk is as large as it was. By
        /// reference because it is large, and always taken.
        room: Result<&'a mut Option<Room<H>>, Refusal>,
    },
    /// [`crate::Engine::deadline`] has come.
    Timer,
}

/// What the host keeps of a volume for a tie-breaker, which has no disk of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// The highest term promised to anybody.
    pub promised: Term,
    /// The newest record that it knows.
    pub generation: Generation,
}

/// Who waits for the reply to a command; opaque to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub u64);

/// Which disk or metadata operation is meant; opaque to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie(pub u64);

/// A disk reported an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskError;

/// Commands that need no disk to be opened first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Adds a volume without disk.
    NewDevice {
        /// Volume number.
        volume: VolumeId,
        /// Minor number, for status only.
        minor: Minor,
    },
    /// Removes a volume that has no disk and is not open.
    DelDevice {
        /// Volume number.
        volume: VolumeId,
    },
    /// Lets a disk go; the reply comes when nothing uses it any more, after [`crate::effect::Effect::CloseDisk`].
    Detach {
        /// Volume number.
        volume: VolumeId,
    },
    /// Makes a peer known, standalone.
    NewPeer {
        /// Its id.
        peer: NodeId,
    },
    /// Forgets a standalone peer.
    DelPeer {
        /// Its id.
        peer: NodeId,
    },
    /// Wants a connection; the reply does not wait for it.
    Connect {
        /// The peer.
        peer: NodeId,
        /// After a split brain, give this node's data up.
        discard_my_data: bool,
    },
    /// Does not want the connection any more. From a primary a secondary with a disk leaves in order: the reply comes when
    /// the primary has a record without it, or after 10 seconds.
    Disconnect {
        /// The peer.
        peer: NodeId,
        /// Leave even if the primary loses its last good copy or its majority by it.
        force: bool,
    },
    /// Promotes this node.
    Primary {
        /// Accept the loss of data newer than the local ones.
        force: bool,
    },
    /// Demotes this node; refused while a device is open.
    Secondary {
        /// Do not wait for requests: they fail, and who has a device open finds it of no use.
        force: bool,
    },
    /// Newer data are elsewhere: no promotion without force before this node has met them.
    Outdate,
    /// The disks of this node and of all connected peers were just created, and count as equal.
    NewGeneration,
    /// This node's disk fetches everything from a peer's. Answered once it is on record that its data are given up.
    Invalidate {
        /// Volume number.
        volume: VolumeId,
        /// From whom; `None`: the primary, else whoever is up to date.
        from: Option<NodeId>,
    },
    /// A peer's disk fetches everything from this node's. Answered as [`Command::Invalidate`] is.
    InvalidatePeer {
        /// Volume number.
        volume: VolumeId,
        /// The peer.
        peer: NodeId,
    },
    /// Resyncs with a peer wait until this is taken back, also in later sessions.
    PauseSync {
        /// The peer.
        peer: NodeId,
    },
    /// Takes [`Command::PauseSync`] back.
    ResumeSync {
        /// The peer.
        peer: NodeId,
    },
    /// Compares a disk with a peer's. Answered once that has begun.
    Verify {
        /// Volume number.
        volume: VolumeId,
        /// The peer.
        peer: NodeId,
        /// What of it.
        wanted: Wanted,
    },
    /// Ends that.
    VerifyStop {
        /// Volume number.
        volume: VolumeId,
        /// The peer.
        peer: NodeId,
    },
    /// What the last verify found is copied from one disk to the other. Answered once it is on record that it is owed.
    Repair {
        /// Volume number.
        volume: VolumeId,
        /// The peer.
        peer: NodeId,
        /// This node or the peer: whose data are right.
        from: NodeId,
    },
    /// The device becomes larger. Answered once it is.
    Resize {
        /// Volume number.
        volume: VolumeId,
        /// How.
        growth: Growth,
    },
    /// Requests of the application wait until this is taken back. Answered once none is under way any more.
    SuspendIo,
    /// Takes [`Command::SuspendIo`] back.
    ResumeIo,
    /// Changes options.
    SetOptions {
        /// From now on.
        options: Options,
    },
}

/// What a verify is to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The blocks that this range touches.
    Range {
        /// First sector.
        start: Sector,
        /// The sector after the last one; `None`: the end of the device.
        stop: Option<Sector>,
    },
    /// What the last verify did not come to.
    Rest,
}

/// How a device is to become larger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    /// Sectors that it is to have; `None`: as many as all disks have room for.
    pub sectors: Option<u64>,
    /// What is new is the same on all disks, or does not matter: it is not synced.
    pub is_clean: bool,
    /// Disks that are not there have room, too.
    pub assumes_room: bool,
}

/// Options of a resource; `None` stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// When writes are complete.
    pub protocol: Option<Protocol>,
    /// Who has a vote; the empty set: votes do not count.
    pub voters: Option<NodeSet>,
    /// What becomes of requests without quorum.
    pub on_no_quorum: Option<OnNoQuorum>,
    /// What is done about a peer out of reach.
    pub fencing: Option<Fencing>,
    /// Whose data are given up after a split brain without primary.
    pub split_brain_0: Option<SplitBrain0>,
    /// Whose data are given up after a split brain with one primary.
    pub split_brain_1: Option<SplitBrain1>,
    /// Two nodes may be primary at the same time.
    pub two_primaries: Option<bool>,
    /// The parts of [`Speed`] with which this node serves resyncs.
    pub resync_min_rate: Option<u64>,
    /// As above.
    pub resync_max_rate: Option<u64>,
    /// As above, in milliseconds.
    pub resync_latency_ms: Option<u32>,
    /// Peers that this node goes ahead of when they do not keep up.
    pub pull_ahead: Option<NodeSet>,
    /// How many bytes that are not answered are too many then.
    pub congestion_fill: Option<u64>,
    /// What this node has to fetch it asks for by digest.
    pub csums: Option<bool>,
    /// Whether an open makes a node primary.
    pub auto_promote: Option<AutoPromote>,
    /// For how long an open waits for that, in seconds.
    pub auto_promote_timeout_s: Option<u32>,
}

impl Options {
    /// What is done about peers that do not keep up, given what it is now.
    pub fn congestion(&self, now: Congestion) -> Congestion {
        Congestion {
            pull_ahead: self.pull_ahead.unwrap_or(now.pull_ahead),
            fill: self.congestion_fill.unwrap_or(now.fill),
        }
    }

    /// The bounds for resyncs, given what they are now.
    pub fn speed(&self, now: Speed) -> Speed {
        Speed {
            min: self.resync_min_rate.unwrap_or(now.min),
            max: self.resync_max_rate.unwrap_or(now.max),
            latency_ms: self.resync_latency_ms.unwrap_or(now.latency_ms),
        }
    }
}

/// What a request of the application asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// The operation.
    pub op: Op,
    /// First sector; 0 for a flush.
    pub sector: Sector,
    /// Bytes, a multiple of 512; 0 for a flush.
    pub bytes: u32,
    /// Stable before it completes.
    pub fua: bool,
    /// What was completed before must be stable before this one starts.
    pub preflush: bool,
}

/// Operation on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read data.
    Read,
    /// Read data and make a [`Digest`] of them. Never asked of an application's request.
    Digest,
    /// Write data.
    Write,
    /// Make everything completed before stable.
    Flush,
    /// The range is not needed any more. Reads give zeros or old data afterwards.
    Discard,
    /// The range reads as zeros afterwards; may be deallocated unless `no_unmap`.
    WriteZeroes {
        /// Keep the space allocated.
        no_unmap: bool,
    },
}

impl Op {
    /// Whether the operation changes data.
    pub const fn changes_data(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes { .. })
    }
}
