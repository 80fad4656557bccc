// SPDX-License-Identifier: GPL-2.0-only

//! Versions and feature bits. A number is never reused; each change adds a line here and one in `PROTOCOL.md`
//! or `ONDISK.md`.

/// Version of the link packets and of the daemons' hello.
///
/// | version | since | what |
/// |---|---|---|
/// | 1 | 0.1.0 | first protocol |
pub const PROTOCOL_VERSION: u16 = 1;

/// Oldest protocol version that this build still speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;

/// Version of `/dev/weft` messages and ioctls.
pub const CONTROL_ABI: u32 = 2;

/// Version of the on-disk layout.
///
/// | version | since | what |
/// |---|---|---|
/// | 1 | 0.1.0 | first layout |
/// | 2 | 0.1.0 | the size of the device, and where the metadata lie after the disk has grown |
///
/// A superblock that needs none of what came later is written as of version 1.
pub const ONDISK_VERSION: u32 = 2;

/// Oldest version of the on-disk layout that this build still reads.
pub const ONDISK_VERSION_MIN: u32 = 1;

/// Version of the generic netlink family.
pub const NETLINK_VERSION: u8 = 1;

/// Feature bit: data packets carry a CRC-32C of their payload.
pub const FEATURE_PAYLOAD_CRC: u64 = 1 << 0;

/// Feature bit: states tell what is to be done about a split brain.
pub const FEATURE_SPLIT_BRAIN: u64 = 1 << 1;

/// Feature bit: states, acknowledgements of flushes and trims tell the ages of disks.
pub const FEATURE_AGES: u64 = 1 << 2;

/// Feature bit: a node may leave in order, and records name those who did.
pub const FEATURE_LEAVE: u64 = 1 << 3;

/// Feature bit: carries out the requests of a primary without good data of its own.
pub const FEATURE_CLIENTS: u64 = 1 << 4;

/// Feature bit: a person's orders reach the peer: resyncs that wait, disks that are given up, and just-created disks that
/// are equal.
pub const FEATURE_ORDERS: u64 = 1 << 5;

/// Feature bit: compares disks while they are in use, and repairs what differs.
pub const FEATURE_VERIFY: u64 = 1 << 6;

/// Feature bit: resync data that are zeros throughout come without payload.
pub const FEATURE_ZEROES: u64 = 1 << 7;

/// Feature bit: agrees with others on the size of the device.
pub const FEATURE_RESIZE: u64 = 1 << 8;

/// Feature bit: a target may say by digests which ranges it need not be sent.
pub const FEATURE_CSUMS: u64 = 1 << 9;

/// Feature bit: gives a peer what that one's disk cannot read any more.
pub const FEATURE_HEAL: u64 = 1 << 10;

/// Feature bit: a disk may be left behind by a primary that it does not keep up with, and puts that on record.
pub const FEATURE_CONGESTION: u64 = 1 << 11;

/// All features that this build knows.
pub const FEATURES: u64 = FEATURE_PAYLOAD_CRC
    | FEATURE_SPLIT_BRAIN
    | FEATURE_AGES
    | FEATURE_LEAVE
    | FEATURE_CLIENTS
    | FEATURE_ORDERS
    | FEATURE_VERIFY
    | FEATURE_ZEROES
    | FEATURE_RESIZE
    | FEATURE_CSUMS
    | FEATURE_HEAL
    | FEATURE_CONGESTION;
