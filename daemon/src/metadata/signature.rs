// SPDX-License-Identifier: GPL-2.0-only

//! What else may live on a disk: signatures of file systems and other users of block devices.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What was found on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its name.
    pub name: &'static str,
    /// How far it reaches, in bytes; `None` when it does not tell.
    pub bytes: Option<u64>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.bytes {
            Some(bytes) => write!(f, " of {}", crate::view::units::size(bytes)),
            None => Ok(()),
        }
    }
}

/// A magic number at a fixed place.
struct Signature {
    name: &'static str,
    offset: usize,
    magic: &'static [u8],
    size: fn(&[u8]) -> Option<u64>,
}

/// Bytes from the start of a device in which all signatures lie.
const HEAD_BYTES: usize = 72 << 10;

const SIGNATURES: &[Signature] = &[
    Signature {
        name: "ext2/3/4 file system",
        offset: 0x438,
        magic: &[0x53, 0xef],
        size: ext_size,
    },
    Signature {
        name: "XFS file system",
        offset: 0,
        magic: b"XFSB",
        size: xfs_size,
    },
    Signature {
        name: "btrfs file system",
        offset: 0x1_0040,
        magic: b"_BHRfS_M",
        size: |head| le_u64(head, 0x1_0070),
    },
    Signature {
        name: "swap space",
        offset: 4086,
        magic: b"SWAPSPACE2",
        size: unknown,
    },
    Signature {
        name: "LVM physical volume",
        offset: 512 + 24,
        magic: b"LVM2 001",
        size: unknown,
    },
    Signature {
        name: "LUKS container",
        offset: 0,
        magic: b"LUKS\xba\xbe",
        size: unknown,
    },
    Signature {
        name: "MD RAID member",
        offset: 4096,
        magic: &[0xfc, 0x4e, 0x2b, 0xa9],
        size: unknown,
    },
    Signature {
        name: "NTFS file system",
        offset: 3,
        magic: b"NTFS    ",
        size: unknown,
    },
    Signature {
        name: "GPT partition table",
        offset: 512,
        magic: b"EFI PART",
        size: unknown,
    },
    Signature {
        name: "boot sector or MBR partition table",
        offset: 510,
        magic: &[0x55, 0xaa],
        size: unknown,
    },
];

/// Looks for the first signature on a device.
///
/// # Errors
/// When the device cannot be read.
pub fn find(device: &File) -> io::Result<Option<Found>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match device.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let found = SIGNATURES.iter().find(|signature| {
        head.get(signature.offset..)
            .is_some_and(|rest| rest.starts_with(signature.magic))
    });
    Ok(found.map(|signature| Found {
        name: signature.name,
        bytes: (signature.size)(&head),
    }))
}

fn unknown(_: &[u8]) -> Option<u64> {
    None
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at + N)?.try_into().ok()
}

fn le_u64(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_le_bytes)
}

/// Blocks times block size; the upper half of the count is there with the feature "64bit" only.
fn ext_size(head: &[u8]) -> Option<u64> {
    const SUPERBLOCK: usize = 1024;
    const INCOMPAT_64BIT: u32 = 0x80;
    let field = |at| bytes(head, SUPERBLOCK + at).map(u32::from_le_bytes);
    let high = if field(0x60)? & INCOMPAT_64BIT != 0 {
        field(0x150)?
    } else {
        0
    };
    let blocks = (u64::from(high) << 32) | u64::from(field(0x4)?);
    blocks.checked_mul(1024u64.checked_shl(field(0x18)?)?)
}

fn xfs_size(head: &[u8]) -> Option<u64> {
    let block_bytes = u64::from(bytes(head, 4).map(u32::from_be_bytes)?);
    bytes(head, 8)
        .map(u64::from_be_bytes)?
        .checked_mul(block_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn device(parts: &[(usize, &[u8])]) -> File {
        let mut image = vec![0; HEAD_BYTES + 4096];
        for (at, bytes) in parts {
            image[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        file
    }

    #[test]
    fn an_ext4_file_system_is_found_with_its_size() {
        let ext4 = device(&[
            (0x438, &[0x53, 0xef]),
            (0x404, &1000u32.to_le_bytes()),
            (0x418, &2u32.to_le_bytes()),
        ]);
        let found = find(&ext4).unwrap().unwrap();
        assert_eq!(found.bytes, Some(1000 * 4096));
        assert_eq!(found.to_string(), "ext2/3/4 file system of 3.9 MiB");
    }

    #[test]
    fn every_signature_of_the_list_is_found_and_an_empty_device_has_none() {
        assert_eq!(find(&device(&[])).unwrap(), None);
        assert_eq!(find(&tempfile::tempfile().unwrap()).unwrap(), None);
        for signature in SIGNATURES {
            let found = find(&device(&[(signature.offset, signature.magic)])).unwrap();
            assert_eq!(found.map(|found| found.name), Some(signature.name));
        }
    }
}
