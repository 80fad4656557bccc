// SPDX-License-Identifier: GPL-2.0-only

//! Every limit in one place; relations between them are asserted at compile time.

/// Bytes of a sector, the unit of all block addresses.
pub const SECTOR_BYTES: u32 = 512;

/// Largest logical block of a disk and of a device of ours, in bytes: metadata are written in blocks of this size.
pub const BLOCK_BYTES_MAX: u32 = 4096;

/// Whether a device may have logical blocks of so many bytes: a power of two from 512 to [`BLOCK_BYTES_MAX`].
pub const fn is_block_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && bytes >= SECTOR_BYTES && bytes <= BLOCK_BYTES_MAX
}

/// Most nodes of a resource, also the end of the node id range (`0..NODES_MAX`).
pub const NODES_MAX: usize = 32;

/// Most volumes of a resource, also the end of the volume id range.
pub const VOLUMES_MAX: usize = 255;

/// End of the range of minors: `/dev/weft0` to `/dev/weft1048574`.
pub const MINORS_MAX: u32 = (1 << 20) - 1;

/// Longest name of a resource or a node, in bytes (without a final NUL).
pub const NAME_MAX: usize = 63;

/// Longest path of a disk, in bytes.
pub const PATH_MAX: usize = 255;

/// Largest device: 1 PiB, in sectors.
pub const DEVICE_SECTORS_MAX: u64 = 1 << 41;

/// Largest data request that the block device accepts without splitting, in bytes. Also the largest payload of a
/// data packet: a header and 32 pages are half of what goes in one send (kmod/sys/socket.rs).
pub const IO_BYTES_MAX: u32 = 128 * 1024;

/// Largest discard or write-zeroes request, in bytes: at most two activity-log extents.
pub const DISCARD_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Largest payload of any packet, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = IO_BYTES_MAX;

/// Bytes of device that one bitmap bit stands for.
pub const BITMAP_BLOCK_BYTES: u32 = 4096;

/// Bytes of device that one activity-log extent covers.
pub const AL_EXTENT_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes of every metadata block: a superblock, an activity-log transaction, a page of the bitmap.
pub const META_BLOCK_BYTES: u32 = 4096;

/// Ids of former generations that a superblock keeps.
pub const ANCESTRY_MAX: usize = 32;

/// Ids of former attaches that a superblock keeps.
pub const ATTACHES_MAX: usize = 16;

/// For how long an open waits for a promotion unless told otherwise, in seconds.
pub const AUTO_PROMOTE_TIMEOUT_S: u32 = 2;

/// As above, at most.
pub const AUTO_PROMOTE_TIMEOUT_S_MAX: u32 = 60;

/// Pieces of a volume that a verify remembers as different.
pub const FOUND_MAX: usize = 32;

const _: () = assert!(IO_BYTES_MAX <= AL_EXTENT_BYTES && DISCARD_BYTES_MAX <= AL_EXTENT_BYTES);
const _: () =
    assert!(IO_BYTES_MAX % BITMAP_BLOCK_BYTES == 0 && AL_EXTENT_BYTES % BITMAP_BLOCK_BYTES == 0);
const _: () = assert!(BLOCK_BYTES_MAX <= META_BLOCK_BYTES && BLOCK_BYTES_MAX <= BITMAP_BLOCK_BYTES);
const _: () = assert!(NODES_MAX <= 32, "NodeSet is a u32");
