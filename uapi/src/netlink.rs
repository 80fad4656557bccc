// SPDX-License-Identifier: GPL-2.0-only

//! The generic netlink family `weft`: one table of commands, from which the module's handlers and policies, the
//! verbs of `weftsetup` and their help come.
//!
//! A request carries flat attributes ([`Attribute`]). The answer is exactly one message of the same command with
//! [`Attribute::Code`] (0: done, else a [`crate::refusal::Refusal`]) and, when refused, [`Attribute::Text`]. A dump
//! answers with one message per object instead, each with [`Attribute::RecordKind`] and [`Attribute::Record`]
//! (a struct of [`crate::status`]). Messages that the generic netlink core itself refuses (unknown command, missing
//! capability, malformed attribute) are answered by it with an errno and an extended ack.
//!
//! Events go to the multicast group [`EVENTS_GROUP`] as messages of command [`Command::Event`]: a gap-free
//! [`Attribute::EventSeq`], [`Attribute::EventKind`], record kind and record after the change, and a text.

use crate::limits::{NAME_MAX, PATH_MAX};
use crate::resync::{Csums, LATENCY_MS_MAX};
use crate::split_brain::{SplitBrain0, SplitBrain1};
use crate::state::{states, AutoPromote, Fencing, OnNoQuorum, Protocol, TwoPrimaries};

/// Name of the family.
pub const FAMILY: &str = "weft";

/// Name of the multicast group of events.
pub const EVENTS_GROUP: &str = "events";

states! {
    /// Number of a command in the generic netlink header. 0 is never used.
    Command {
        /// Creates a resource.
        NewResource = 1 "new-resource",
        /// Removes an empty resource.
        DelResource = 2 "del-resource",
        /// Creates a device.
        NewDevice = 3 "new-device",
        /// Removes a device without disk.
        DelDevice = 4 "del-device",
        /// Attaches a disk.
        Attach = 5 "attach",
        /// Lets a disk go.
        Detach = 6 "detach",
        /// Makes a peer known.
        NewPeer = 7 "new-peer",
        /// Forgets a peer.
        DelPeer = 8 "del-peer",
        /// Wants a connection.
        Connect = 9 "connect",
        /// Does not want a connection any more.
        Disconnect = 10 "disconnect",
        /// Promotes this node.
        Primary = 11 "primary",
        /// Demotes this node.
        Secondary = 12 "secondary",
        /// Changes options.
        Options = 13 "options",
        /// Dumps the configuration.
        Show = 14 "show",
        /// Dumps the state.
        Status = 15 "status",
        /// Dumps the generations.
        Generations = 16 "generations",
        /// Takes a resource down.
        Down = 17 "down",
        /// Makes the disks outdated.
        Outdate = 18 "outdate",
        /// Says that disks that were just created are equal.
        NewGeneration = 20 "new-generation",
        /// Gives the data of this node's disk up.
        Invalidate = 21 "invalidate",
        /// Gives the data of a peer's disk up.
        InvalidatePeer = 22 "invalidate-peer",
        /// Lets a resync with a peer wait.
        PauseSync = 23 "pause-sync",
        /// Lets it go on.
        ResumeSync = 24 "resume-sync",
        /// Lets the application's requests wait.
        SuspendIo = 25 "suspend-io",
        /// Lets them go on.
        ResumeIo = 26 "resume-io",
        /// Compares the disk with a peer's.
        Verify = 27 "verify",
        /// Ends that.
        VerifyStop = 28 "verify-stop",
        /// Copies what a verify found from the one disk to the other.
        Repair = 29 "repair",
        /// Makes the device larger.
        Resize = 30 "resize",
        /// An event (never a request).
        Event = 64 "event",
    }
}

states! {
    /// Number of an attribute; its type stands in [`Attribute::kind`].
    Attribute {
        /// Name of the resource.
        Resource = 1 "resource",
        /// Volume number.
        Volume = 2 "volume",
        /// Minor number.
        Minor = 3 "minor",
        /// Node id of a peer.
        Peer = 4 "peer",
        /// Node id of this node.
        NodeId = 5 "node-id",
        /// Name of a peer, for people.
        PeerName = 6 "name",
        /// Path of the disk.
        Disk = 7 "disk",
        /// `internal`, or the path of the metadata device.
        Meta = 8 "meta",
        /// Do it although data newer than the local ones may be lost, or a primary loses what it needs.
        Force = 9 "force",
        /// Replication protocol, see [`crate::state::Protocol`].
        Protocol = 10 "protocol",
        /// In case of split brain the data of this node are the ones to throw away.
        DiscardMyData = 11 "discard-my-data",
        /// Logical block size of the device, in bytes.
        BlockSize = 12 "block-size",
        /// The nodes that vote; none: there is no quorum to be had or lost.
        Voters = 13 "voters",
        /// What becomes of requests without quorum, see [`crate::state::OnNoQuorum`].
        OnNoQuorum = 14 "on-no-quorum",
        /// The node, this one or the peer, keeps no disk: it only votes.
        TieBreaker = 15 "tie-breaker",
        /// What is done about a peer out of reach, see [`crate::state::Fencing`].
        Fencing = 16 "fencing",
        /// Whose data are given up after a split brain without primary, see [`crate::split_brain::SplitBrain0`].
        SplitBrain0 = 17 "split-brain-0",
        /// Whose data are given up after a split brain with one primary, see [`crate::split_brain::SplitBrain1`].
        SplitBrain1 = 18 "split-brain-1",
        /// Whether two nodes may be primary at the same time, see [`crate::state::TwoPrimaries`].
        TwoPrimaries = 19 "two-primaries",
        /// Whether opening a device makes a node primary, see [`crate::state::AutoPromote`].
        AutoPromote = 21 "auto-promote",
        /// For how long an open waits for that, in seconds.
        AutoPromoteTimeout = 22 "auto-promote-timeout",
        /// Node id of the peer to fetch from.
        SyncFrom = 24 "sync-from",
        /// First byte of the device that is meant.
        Start = 25 "start",
        /// The byte after the last one.
        Stop = 26 "stop",
        /// Go on from where it ended.
        Resume = 27 "resume",
        /// Node id of the node whose data are right.
        From = 28 "from",
        /// Size that the disk had when its metadata were written, in bytes.
        DiskSize = 29 "disk-size",
        /// Size of the device, in bytes.
        Size = 30 "size",
        /// What is new is the same on all disks, or does not matter.
        AssumeClean = 31 "assume-clean",
        /// Answer: 0 or a refusal.
        Code = 32 "code",
        /// Answer or event: a sentence for people.
        Text = 33 "text",
        /// Dump or event: which struct [`Attribute::Record`] holds.
        RecordKind = 34 "record-kind",
        /// Dump or event: a struct of [`crate::status`].
        Record = 35 "record",
        /// Event: gap-free sequence number.
        EventSeq = 36 "event-seq",
        /// Event: what happened to the object, see [`crate::status::EventKind`].
        EventKind = 37 "event-kind",
        /// Disks that are not there are large enough.
        AssumePeerHasSpace = 38 "assume-peer-has-space",
        /// Bytes per second below which no resync gets for the sake of applications.
        ResyncMinRate = 40 "resync-min-rate",
        /// Bytes per second above which no resync gets; 0: there is no such bound.
        ResyncMaxRate = 41 "resync-max-rate",
        /// Milliseconds that requests of applications may take before resyncs are slowed down.
        ResyncLatencyTarget = 42 "resync-latency-target",
        /// Name of the resource whose resyncs come first, or [`NO_RESOURCE`].
        ResyncAfter = 43 "resync-after",
        /// Whether ranges are asked for by digest, see [`crate::resync::Csums`].
        CsumsResync = 44 "csums-resync",
        /// Freeze what is mounted on the devices first.
        Freeze = 45 "freeze",
        /// Peers that this node goes ahead of when they do not keep up with its writes.
        PullAhead = 46 "pull-ahead",
        /// How many bytes of writes that are not answered are too many then.
        CongestionFill = 47 "congestion-fill",
    }
}

/// What stands for no resource in [`Attribute::ResyncAfter`].
pub const NO_RESOURCE: &str = "none";

/// Largest attribute number.
pub const ATTRIBUTE_MAX: u32 = Attribute::CongestionFill.number();

/// Type and bound of an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttributeKind {
    /// 32 bits, at most this.
    U32(u32),
    /// 32 bits, one of these numbers, each with its name.
    Choice(&'static [(u32, &'static str)]),
    /// 32 bits, a set of nodes: bit `n` for node `n`.
    Nodes,
    /// 64 bits.
    U64,
    /// A string of at most this many bytes with its final NUL not counted.
    Text(usize),
    /// Present or not.
    Flag,
    /// Bytes, only in answers.
    Binary,
}

impl Attribute {
    /// Type and bound.
    pub const fn kind(self) -> AttributeKind {
        use crate::limits::{
            AUTO_PROMOTE_TIMEOUT_S_MAX, BLOCK_BYTES_MAX, MINORS_MAX, NODES_MAX, VOLUMES_MAX,
        };
        match self {
            Self::Resource | Self::PeerName | Self::ResyncAfter => AttributeKind::Text(NAME_MAX),
            Self::Disk | Self::Meta | Self::Text => AttributeKind::Text(PATH_MAX),
            Self::Volume => AttributeKind::U32(VOLUMES_MAX as u32 - 1),
            Self::Minor => AttributeKind::U32(MINORS_MAX - 1),
            Self::Peer | Self::NodeId | Self::SyncFrom | Self::From => {
                AttributeKind::U32(NODES_MAX as u32 - 1)
            }
            Self::Protocol => AttributeKind::Choice(Protocol::CHOICES),
            Self::Voters | Self::PullAhead => AttributeKind::Nodes,
            Self::OnNoQuorum => AttributeKind::Choice(OnNoQuorum::CHOICES),
            Self::Fencing => AttributeKind::Choice(Fencing::CHOICES),
            Self::SplitBrain0 => AttributeKind::Choice(SplitBrain0::CHOICES),
            Self::SplitBrain1 => AttributeKind::Choice(SplitBrain1::CHOICES),
            Self::TwoPrimaries => AttributeKind::Choice(TwoPrimaries::CHOICES),
            Self::CsumsResync => AttributeKind::Choice(Csums::CHOICES),
            Self::AutoPromote => AttributeKind::Choice(AutoPromote::CHOICES),
            Self::AutoPromoteTimeout => AttributeKind::U32(AUTO_PROMOTE_TIMEOUT_S_MAX),
            Self::BlockSize => AttributeKind::U32(BLOCK_BYTES_MAX),
            Self::Force
            | Self::DiscardMyData
            | Self::TieBreaker
            | Self::Resume
            | Self::AssumeClean
            | Self::AssumePeerHasSpace
            | Self::Freeze => AttributeKind::Flag,
            Self::Code | Self::RecordKind | Self::EventKind => AttributeKind::U32(u32::MAX),
            Self::Start
            | Self::Stop
            | Self::EventSeq
            | Self::DiskSize
            | Self::Size
            | Self::ResyncMinRate
            | Self::ResyncMaxRate
            | Self::CongestionFill => AttributeKind::U64,
            Self::ResyncLatencyTarget => AttributeKind::U32(LATENCY_MS_MAX),
            Self::Record => AttributeKind::Binary,
        }
    }
}

/// One argument of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Argument {
    /// The attribute that carries it.
    pub attribute: Attribute,
    /// Whether the command is refused without it.
    pub mandatory: bool,
    /// What it says, for the help of the command line.
    pub help: &'static str,
}

/// One row of the command table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandSpec {
    /// Its number; its name is the verb of `weftsetup`.
    pub command: Command,
    /// Whether it changes something and so needs CAP_NET_ADMIN in the initial user namespace.
    pub mutates: bool,
    /// Whether it opens disks by their paths and so needs CAP_SYS_ADMIN there as well: who may configure networks, as the
    /// root of a container often may, shall not get at the disks of the host by that.
    pub opens_disks: bool,
    /// Whether it is a dump.
    pub dump: bool,
    /// Its arguments in the order of the command line.
    pub arguments: &'static [Argument],
    /// One sentence.
    pub help: &'static str,
}

const fn must(attribute: Attribute, help: &'static str) -> Argument {
    Argument {
        attribute,
        mandatory: true,
        help,
    }
}

const fn may(attribute: Attribute, help: &'static str) -> Argument {
    Argument {
        attribute,
        mandatory: false,
        help,
    }
}

const fn mutation(
    command: Command,
    arguments: &'static [Argument],
    help: &'static str,
) -> CommandSpec {
    CommandSpec {
        command,
        mutates: true,
        opens_disks: false,
        dump: false,
        arguments,
        help,
    }
}

const fn dump(command: Command, help: &'static str) -> CommandSpec {
    const ONLY: &[Argument] = &[may(Attribute::Resource, "only this resource")];
    CommandSpec {
        command,
        mutates: false,
        opens_disks: false,
        dump: true,
        arguments: ONLY,
        help,
    }
}

const RESOURCE: Argument = must(Attribute::Resource, "name of the resource");
const VOLUME: Argument = must(Attribute::Volume, "volume number");
const PEER: Argument = must(Attribute::Peer, "node id of the peer");
const LEAVE_FORCE: Argument = may(
    Attribute::Force,
    "leave even if the primary loses its last good copy or its majority of the voters by it",
);
const VOTERS: Argument = may(
    Attribute::Voters,
    "node ids of all voters, as 0,1,2, the same on every node; 'none': no quorum (default none)",
);
const FENCING: Argument = may(
    Attribute::Fencing,
    "what is done about a peer out of reach: the daemon runs its fence-peer handler (default dont-care)",
);
const SPLIT_BRAIN_0: Argument = may(
    Attribute::SplitBrain0,
    "whose data are given up after a split brain when no node is primary, the same on both (default disconnect: a person chooses)",
);
const SPLIT_BRAIN_1: Argument = may(
    Attribute::SplitBrain1,
    "whose data are given up after a split brain when one node is primary, the same on both (default disconnect: a person chooses)",
);
const TWO_PRIMARIES: Argument = may(
    Attribute::TwoPrimaries,
    "whether two nodes may be primary at the same time, as for the live migration of a virtual machine, the same on all (default refused)",
);
const RESYNC_MIN_RATE: Argument = may(
    Attribute::ResyncMinRate,
    "bytes per second that a resync served here gets however long applications wait, with K, M, G or T (default 4M)",
);
const RESYNC_MAX_RATE: Argument = may(
    Attribute::ResyncMaxRate,
    "bytes per second that a resync served here gets at most; 0: as fast as it goes (default 0)",
);
const RESYNC_LATENCY_TARGET: Argument = may(
    Attribute::ResyncLatencyTarget,
    "milliseconds that requests of applications may take in the mean before resyncs served here slow down (default 20)",
);
const RESYNC_AFTER: Argument = may(
    Attribute::ResyncAfter,
    "resource whose resyncs on this node come first; 'none': none do (default none)",
);
const CSUMS_RESYNC: Argument = may(
    Attribute::CsumsResync,
    "whether this node asks by digest for what it has to fetch, and is sent only what differs (default no)",
);
const PULL_AHEAD: Argument = may(
    Attribute::PullAhead,
    "node ids of the peers, as 0,1,2, that writes do not wait for when they do not keep up: they are left behind, and synced afterwards; 'none': writes wait for all (default none)",
);
const CONGESTION_FILL: Argument = may(
    Attribute::CongestionFill,
    "so many bytes of writes sent to such a peer and not answered are too many, with K or M, 4K to 6M (default 2M)",
);
const AUTO_PROMOTE: Argument = may(
    Attribute::AutoPromote,
    "whether opening a device for writing makes this node primary until the last close; guarded: without quorum and fencing only while no other member is out of reach (default guarded)",
);
const AUTO_PROMOTE_TIMEOUT: Argument = may(
    Attribute::AutoPromoteTimeout,
    "for how long an open waits for that, and the last close for the end of it, in seconds, at most 60 (default 2)",
);
const PROTOCOL: Argument = may(
    Attribute::Protocol,
    "replication protocol A, B or C (default C)",
);
const ON_NO_QUORUM: Argument = may(
    Attribute::OnNoQuorum,
    "what becomes of requests without quorum (default suspend-io)",
);

/// Arguments of a resource, those given and whatever may be chosen for it: what can be changed later can be said when it is
/// made, too.
macro_rules! with_options {
    ($($argument:expr),* $(,)?) => {
        &[
            RESOURCE,
            $($argument,)*
            PROTOCOL,
            VOTERS,
            ON_NO_QUORUM,
            FENCING,
            SPLIT_BRAIN_0,
            SPLIT_BRAIN_1,
            TWO_PRIMARIES,
            RESYNC_MIN_RATE,
            RESYNC_MAX_RATE,
            RESYNC_LATENCY_TARGET,
            RESYNC_AFTER,
            CSUMS_RESYNC,
            PULL_AHEAD,
            CONGESTION_FILL,
            AUTO_PROMOTE,
            AUTO_PROMOTE_TIMEOUT,
        ]
    };
}

/// The command table.
pub const COMMANDS: &[CommandSpec] = &[
    mutation(
        Command::NewResource,
        with_options![
            must(Attribute::NodeId, "node id of this node"),
            may(
                Attribute::TieBreaker,
                "this node keeps no disk, it only votes; its daemon remembers for it",
            ),
        ],
        "Create a resource.",
    ),
    mutation(
        Command::DelResource,
        &[RESOURCE],
        "Remove a resource that has no devices and no peers.",
    ),
    mutation(
        Command::NewDevice,
        &[
            RESOURCE,
            VOLUME,
            must(Attribute::Minor, "minor number: N of /dev/weftN"),
        ],
        "Create a device of a resource.",
    ),
    mutation(
        Command::DelDevice,
        &[RESOURCE, VOLUME],
        "Remove a device that has no disk.",
    ),
    CommandSpec {
        opens_disks: true,
        ..mutation(
            Command::Attach,
            &[
                RESOURCE,
                VOLUME,
                must(Attribute::Disk, "path of the disk"),
                must(
                    Attribute::Meta,
                    "'internal', or the path of the metadata device",
                ),
                may(
                    Attribute::BlockSize,
                    "logical block size of the device in bytes, 512 to 4096 (default: that of the disk)",
                ),
                may(
                    Attribute::DiskSize,
                    "with internal metadata, the size that the disk had when they were written, if it has grown since while it was not attached",
                ),
            ],
            "Attach a disk to a device.",
        )
    },
    mutation(
        Command::Detach,
        &[RESOURCE, VOLUME],
        "Let the disk of a device go.",
    ),
    mutation(
        Command::NewPeer,
        &[
            RESOURCE,
            PEER,
            may(Attribute::PeerName, "name of the peer, for status output"),
            may(
                Attribute::TieBreaker,
                "the peer keeps no disk, it only votes; for status output",
            ),
        ],
        "Make a peer known.",
    ),
    mutation(
        Command::DelPeer,
        &[RESOURCE, PEER],
        "Forget a peer that is not connected.",
    ),
    mutation(
        Command::Connect,
        &[
            RESOURCE,
            PEER,
            may(
                Attribute::DiscardMyData,
                "after a split brain, throw away the data of this node",
            ),
        ],
        "Want a connection to a peer.",
    ),
    mutation(
        Command::Disconnect,
        &[RESOURCE, PEER, LEAVE_FORCE],
        "Give a connection up; a secondary leaves its primary in order.",
    ),
    mutation(
        Command::Primary,
        &[
            RESOURCE,
            may(
                Attribute::Force,
                "accept the loss of data newer than the local ones",
            ),
        ],
        "Promote this node: its devices may be opened.",
    ),
    mutation(
        Command::Secondary,
        &[
            RESOURCE,
            may(
                Attribute::Force,
                "do not wait: requests that are not complete fail, and so does all that an open device is asked for",
            ),
        ],
        "Demote this node.",
    ),
    mutation(
        Command::Outdate,
        &[RESOURCE],
        "Say that newer data are elsewhere: no promotion before this node has met them.",
    ),
    mutation(
        Command::NewGeneration,
        &[RESOURCE],
        "Say that the disks of this node and of all connected peers, which were just created, are equal: they need no first sync.",
    ),
    mutation(
        Command::Invalidate,
        &[
            RESOURCE,
            VOLUME,
            may(
                Attribute::SyncFrom,
                "node id of the peer to fetch from (default: the primary, else whoever is up to date)",
            ),
        ],
        "Give the data of this node's disk up and fetch everything from a peer.",
    ),
    mutation(
        Command::InvalidatePeer,
        &[RESOURCE, VOLUME, PEER],
        "Give the data of a peer's disk up: it fetches everything from this node.",
    ),
    mutation(
        Command::PauseSync,
        &[RESOURCE, PEER],
        "Let a resync with a peer wait, now and later, until resume-sync.",
    ),
    mutation(
        Command::ResumeSync,
        &[RESOURCE, PEER],
        "Let a resync with a peer go on, unless the peer wants it to wait as well.",
    ),
    mutation(
        Command::Verify,
        &[
            RESOURCE,
            VOLUME,
            PEER,
            may(
                Attribute::Start,
                "first byte to be compared, with K, M, G or T for binary units (default: 0)",
            ),
            may(
                Attribute::Stop,
                "the byte after the last one (default: the end of the device)",
            ),
            may(
                Attribute::Resume,
                "go on from where the last verify ended before it was through",
            ),
        ],
        "Compare the disk with a peer's while both are in use; repairs nothing.",
    ),
    mutation(
        Command::VerifyStop,
        &[RESOURCE, VOLUME, PEER],
        "End a verify; verify --resume goes on from there.",
    ),
    mutation(
        Command::Repair,
        &[
            RESOURCE,
            VOLUME,
            PEER,
            must(
                Attribute::From,
                "node id of the node whose data are right: this one or the peer",
            ),
        ],
        "Copy what the last verify found from one disk to the other.",
    ),
    mutation(
        Command::Resize,
        &[
            RESOURCE,
            VOLUME,
            may(
                Attribute::Size,
                "size of the device, with K, M, G or T for binary units (default: what the smallest of the disks has room for)",
            ),
            may(
                Attribute::AssumeClean,
                "what is new is the same on all disks, or does not matter: it is not synced",
            ),
            may(
                Attribute::AssumePeerHasSpace,
                "go on although a node with a disk is not connected; if that is too small it stays away later",
            ),
        ],
        "Make the device larger on all nodes, after their disks have become larger.",
    ),
    mutation(
        Command::SuspendIo,
        &[
            RESOURCE,
            may(
                Attribute::Freeze,
                "freeze what is mounted on the devices of this node first; resume-io thaws it",
            ),
        ],
        "Let the application's requests wait; done when none is under way any more, on no node.",
    ),
    mutation(
        Command::ResumeIo,
        &[RESOURCE],
        "Let the application's requests go on.",
    ),
    mutation(
        Command::Options,
        with_options![],
        "Change options of a running resource.",
    ),
    dump(
        Command::Show,
        "Show the configuration that the module runs.",
    ),
    dump(Command::Status, "Show the state."),
    dump(
        Command::Generations,
        "Show the generations and their ancestry.",
    ),
    mutation(
        Command::Down,
        &[RESOURCE, LEAVE_FORCE],
        "Disconnect, detach and remove all of a resource.",
    ),
];

/// The row of a command, or `None` when it is not a request.
pub fn spec(command: Command) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.command == command)
}

#[cfg(test)]
mod tests;
