// SPDX-License-Identifier: GPL-2.0-only

//! Why a command was refused: one code for machines, one sentence for people and the next command to try.

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal, $text:literal, $hint:literal;)+) => {
        /// Code of a refusal. Numbers are stable; 0 stands for "done" and is not in the list.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Refusal {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Refusal {
            /// All codes in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The refusal with this number, or `None` when there is none.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable number.
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The code as it is printed, for example `no-quorum`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The cause, a full sentence without object.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What to try next; `RES` stands for the resource.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)+ }
            }
        }
    };
}

refusals! {
    /// The command is not in the table.
    UnknownCommand = 1 "unknown-command", "This module does not know that command.", "weftsetup --help";
    /// The sender lacks a capability in the initial user namespace.
    NotPermitted = 2 "not-permitted", "Changing something needs CAP_NET_ADMIN in the initial user namespace; naming a disk, CAP_SYS_ADMIN as well.", "run it as root, outside of any container";
    /// A mandatory argument is missing.
    MissingArgument = 3 "missing-argument", "A mandatory argument is missing.", "weftsetup VERB --help";
    /// An argument is out of range or malformed.
    BadArgument = 4 "bad-argument", "An argument is out of its range.", "weftsetup VERB --help";
    /// No memory for what was asked.
    NoMemory = 5 "no-memory", "The kernel has not enough memory for this.", "free memory and repeat the command";
    /// An internal rule was broken; the resource was stopped.
    Internal = 6 "internal", "An internal rule was broken; the resource stopped serving I/O.", "dmesg | grep weft";
    /// The command was interrupted by a removal.
    Interrupted = 7 "interrupted", "The object went away while the command was running.", "weft status RES";

    /// There is no such resource.
    NoSuchResource = 20 "no-such-resource", "There is no such resource in the kernel.", "weft status";
    /// A resource with this name exists.
    ResourceExists = 21 "resource-exists", "A resource with this name exists already.", "weft status RES";
    /// There is no such volume in the resource.
    NoSuchVolume = 22 "no-such-volume", "The resource has no such volume.", "weft status RES";
    /// The volume number or the minor is taken.
    VolumeExists = 23 "volume-exists", "The volume number or the minor is taken already.", "weft status";
    /// There is no such peer in the resource.
    NoSuchPeer = 24 "no-such-peer", "The resource has no such peer.", "weft status RES";
    /// The peer exists already, or it is this node itself.
    PeerExists = 25 "peer-exists", "That node id is taken already, or it is this node's own.", "weft status RES";
    /// The resource still has volumes or peers.
    ResourceBusy = 26 "resource-busy", "The resource still has devices or peers.", "weft down RES";
    /// The device is open.
    DeviceOpen = 27 "device-open", "A device of the resource is open.", "find who uses it: fuser -v /dev/weftN; then umount it; not to wait for that: weft secondary RES --force";
    /// The resource is primary.
    IsPrimary = 28 "is-primary", "The resource is primary on this node.", "weft secondary RES";
    /// A change of the same object is under way.
    Busy = 29 "busy", "Another change of this object is under way.", "repeat the command in a moment";

    /// A disk is attached already.
    DiskAttached = 40 "disk-attached", "A disk is attached to this volume already.", "weftsetup detach RES VOL";
    /// No disk is attached.
    NoDisk = 41 "no-disk", "No disk is attached to this volume.", "weft up RES";
    /// The backing device cannot be opened.
    DiskOpen = 42 "disk-open", "The disk cannot be opened exclusively.", "lsblk; is it mounted, in use by another program, or misspelt?";
    /// The metadata device cannot be opened.
    MetaOpen = 43 "meta-open", "The metadata device cannot be opened exclusively.", "lsblk; is it mounted, in use by another program, or misspelt?";
    /// The disk is too small.
    DiskTooSmall = 44 "disk-too-small", "The disk is too small for its metadata or for the peers' data.", "weft dump-md RES; use a disk at least as large as the peer's";
    /// No metadata was found.
    MetaNone = 45 "meta-none", "The disk holds no Weft metadata; it may hold somebody else's data.", "weft create-md RES (destroys nothing but the metadata area; check the disk first)";
    /// Metadata was found but both copies are damaged.
    MetaCorrupt = 46 "meta-corrupt", "The metadata on the disk is damaged.", "weft dump-md RES; restore it, or weft create-md --force RES and a full sync from a good peer";
    /// The metadata is of another layout version.
    MetaVersion = 47 "meta-version", "The metadata has a layout version that this module does not know.", "modinfo weft; use the module version that wrote it";
    /// The metadata belongs to another node, resource or device size.
    MetaForeign = 48 "meta-foreign", "The metadata belongs to another node or another device.", "weft dump-md RES; check the disk path in the configuration";
    /// Reading or writing metadata failed.
    MetaIo = 49 "meta-io", "Reading or writing the metadata failed.", "dmesg; smartctl -a DISK";
    /// The disk must stay: it is the last good copy in use.
    LastCopy = 50 "last-copy", "This is the only up-to-date copy that the primary can reach.", "connect a peer and wait: weft wait-sync RES";
    /// The disk's data are older than what the running primary showed to its users.
    DataNotCurrent = 51 "data-not-current", "The data on this disk are not the ones the running primary has shown to its users.", "connect the peer that has them: weftsetup connect RES PEER";
    /// The disk is of a kind that is not supported.
    DiskUnfit = 52 "disk-unfit", "The disk is of a kind that cannot be replicated.", "lsblk --output NAME,LOG-SEC,ZONED; use a disk without zones, with blocks of at most 4096 bytes";
    /// The block size asked for does not fit the disk.
    BlockSize = 53 "block-size", "The block size that was asked for does not fit the disk.", "blockdev --getss DISK; on every node, say the largest of the disks' as block-size of the volume";
    /// A tie-breaker gets no disk.
    IsTieBreaker = 54 "is-tie-breaker", "This node is a tie-breaker of the resource, which votes and keeps no disk.", "weft down RES; take it out of tie-breakers in the configuration, then weft up RES";

    /// Already connected, or connecting.
    AlreadyConnected = 60 "already-connected", "The connection to that peer is wanted already.", "weft status RES";
    /// Not connected and not wanted.
    AlreadyStandAlone = 61 "already-standalone", "The connection to that peer is not wanted already.", "weft status RES";
    /// The peer is still connected.
    PeerConnected = 62 "peer-connected", "The peer is still connected.", "weftsetup disconnect RES PEER";
    /// `--discard-my-data` while primary.
    DiscardPrimary = 63 "discard-primary", "A primary cannot throw away its own data.", "weft secondary RES";

    /// The local disk is not up to date and no connected peer's is.
    NoUpToDateDisk = 80 "no-uptodate-disk", "No up-to-date data can be reached from this node.", "connect a peer that has them, or, to accept the loss of newer data: weft primary --force RES";
    /// Another node is primary.
    PeerPrimary = 81 "peer-primary", "Another node is primary.", "on that node: weft secondary RES";
    /// A handshake with a peer is under way.
    InTransition = 82 "in-transition", "A handshake or a role change with a peer is under way.", "repeat the command in a moment";
    /// The election was lost or a peer did not answer.
    ElectionLost = 83 "election-lost", "A connected peer refused the promotion or did not answer.", "weft status RES";
    /// No volume in the resource.
    NoVolume = 84 "no-volume", "The resource has no volume.", "weft up RES";
    /// A device is to be opened, but this node is not primary.
    NotPrimary = 85 "not-primary", "This node is not primary.", "weft primary RES";
    /// Too few of the voters answered a promotion.
    NoQuorum = 86 "no-quorum", "This node does not reach a majority of the voters.", "weft status RES; start the missing nodes, or repair the network";
    /// A connected peer counts other voters.
    VotersDiffer = 87 "voters-differ", "The nodes do not agree on who votes, so that two of them could have a majority.", "weft adjust RES, on every node";
    /// A voter is neither this node nor one of its peers.
    NoSuchVoter = 88 "no-such-voter", "A voter is neither this node nor one of its peers.", "weftsetup show RES; make it known first: weftsetup new-peer RES PEER";
    /// A peer that cannot be reached was not fenced.
    PeerNotFenced = 89 "peer-not-fenced", "A peer that cannot be reached may go on by itself, and the fence-peer handler did not stop it.", "weft wait-connect RES; or see what the handler said: journalctl -u weftd; if you know that the peer is down: weft primary --force RES";
    /// The primary would lose its majority of the voters.
    LastVote = 90 "last-vote", "Without this node the primary has no majority of the voters, and its I/O would stop.", "start the missing nodes first; or, to leave all the same: weft down --force RES, weftsetup disconnect RES PEER --force";

    /// A node out of reach may be primary, and an open does not decide that it is not.
    PeerOutOfReach = 91 "peer-out-of-reach", "A node that cannot be reached may be primary, and without quorum and fencing only a person knows that it is not.", "weft wait-connect RES; if you know that it is not: weft primary RES; to have every open promote this node: auto-promote = \"yes\", weft adjust RES";

    /// No connected peer with a disk.
    NotConnected = 100 "not-connected", "No peer that this could be done with is connected.", "weft wait-connect RES";
    /// The peer has no disk.
    PeerNoDisk = 101 "peer-no-disk", "The peer has no disk attached.", "on that node: weft up RES";
    /// One of the disks is fetching, or being fetched from.
    ResyncRunning = 102 "resync-running", "A resync of this disk is running, or waits.", "weft wait-sync RES";
    /// The resync is to wait already.
    PauseIsSet = 103 "pause-is-set", "This node wants resyncs with the peer to wait already.", "weftsetup resume-sync RES PEER";
    /// The resync need not wait.
    PauseIsClear = 104 "pause-is-clear", "This node does not want resyncs with the peer to wait; the peer may.", "weft status RES; on the peer: weftsetup resume-sync RES PEER";
    /// A disk has held data.
    NotJustCreated = 105 "not-just-created", "Only disks that were just created can be called equal, and one of these has held data.", "weft status RES; it syncs by itself once a node leads: weft primary RES";
    /// I/O is suspended by command already.
    IoSuspended = 106 "io-suspended", "I/O is suspended by command already, or is about to be.", "weft resume-io RES";
    /// I/O is not suspended by command.
    IoNotSuspended = 107 "io-not-suspended", "I/O is not suspended by command.", "weft status RES";
    /// The peer does not know the command.
    PeerTooOld = 108 "peer-too-old", "The peer runs a version of Weft that does not know this command.", "install this version there as well";
    /// The peer was told the contrary at the same time, or has changed meanwhile.
    NotAgreed = 109 "not-agreed", "The two nodes did not agree on it: their state changed meanwhile.", "weft status RES, then repeat the command";
    /// The two disks are being compared.
    VerifyRunning = 110 "verify-running", "The two disks are being compared already.", "weft status RES; to end it: weft verify-stop RES";
    /// The two disks are not being compared.
    VerifyNotRunning = 111 "verify-not-running", "The two disks are not being compared.", "weft status RES; weft verify RES";
    /// There is nothing to go on with.
    NothingToResume = 112 "nothing-to-resume", "No verify of the two disks ended before it was through.", "weft verify RES";
    /// No difference is known.
    NothingFound = 113 "nothing-found", "No verify has found a difference between the two disks that is not repaired.", "weft verify RES";
    /// A third node writes to both disks.
    OtherWriter = 114 "other-writer", "Another node is primary: what it writes comes to the two disks at different times.", "on the primary: weft verify RES";
    /// The size of the device is being changed.
    ResizeRunning = 115 "resize-running", "The size of this device is being changed already.", "repeat the command in a moment";
    /// The disks have no more room.
    NothingToGrow = 116 "nothing-to-grow", "The device is as large as the smallest of the disks allows.", "make the disk larger on every node (lvextend, say), then weft resize RES";
    /// The disk has grown by less than the metadata take.
    GrownTooLittle = 117 "grown-too-little", "The disk has grown by less than its metadata take, which have to be copied before anything is written where they are now.", "weft dump-md RES shows how much that is; make the disk larger by more than that";
    /// The metadata device is too small for a larger disk.
    MetaTooSmall = 118 "meta-too-small", "The metadata device has no room for the metadata of a larger disk beside those in use.", "make the metadata device larger as well: twice as much as weft dump-md RES shows is enough";
    /// A disk has no room for the size that was asked for.
    SizeTooLarge = 119 "size-too-large", "A disk is too small for the size that was asked for.", "make that disk larger, or leave --size out: weft resize RES takes what all disks have";
    /// The size that was asked for is smaller than the device.
    NoShrink = 120 "no-shrink", "The device is larger than that, and this version does not make devices smaller.", "lsblk; ask for a larger size, or make a new, smaller resource and copy the data";
    /// Resources would wait for each other.
    AfterCircle = 130 "resync-after-circle", "Resyncs would wait for each other in a circle.", "weft status; weftsetup options RES --resync-after none";
    /// A file system could not be frozen.
    CannotFreeze = 131 "cannot-freeze", "What is mounted on the devices could not be frozen, and nothing is suspended.", "weft status RES; without --freeze the requests only wait";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_cause_and_a_next_step() {
        for &refusal in Refusal::ALL {
            assert_eq!(Refusal::from_number(refusal.number()), Some(refusal));
            assert!(
                refusal.text().ends_with('.') && !refusal.hint().is_empty(),
                "{}",
                refusal.name()
            );
        }
    }

    #[test]
    fn numbers_and_names_are_unique() {
        for (i, a) in Refusal::ALL.iter().enumerate() {
            for b in &Refusal::ALL[i + 1..] {
                assert!(a.number() < b.number() && a.name() != b.name());
            }
        }
    }
}
