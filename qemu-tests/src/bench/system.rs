// SPDX-License-Identifier: GPL-2.0-only
//! What is compared, and on which disks.

use serde::Serialize;

/// What lies between the load and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Nothing.
    Raw,
    /// Weft with its defaults.
    Weft,
    /// The DRBD of the same kernel, tuned.
    Drbd,
    /// That with a checksum of every payload, as Weft has by default. For information.
    DrbdIntegrity,
}

/// What kind of disk lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lower {
    /// A RAM disk of the machine (brd): the cost of the mirror alone.
    Ram,
    /// A virtio disk with a volatile cache, served by this process.
    Virtio,
}

/// One system on a disk of one kind; exists on both machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// What lies above the disk.
    pub system: System,
    /// The kind of disk.
    pub lower: Lower,
}

impl System {
    /// All, in the order of the table.
    pub const ALL: [System; 4] = [
        System::Raw,
        System::Weft,
        System::Drbd,
        System::DrbdIntegrity,
    ];

    /// For tables and names of disks.
    pub fn name(self) -> &'static str {
        match self {
            System::Raw => "raw",
            System::Weft => "weft",
            System::Drbd => "drbd",
            System::DrbdIntegrity => "drbd-crc",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Lower {
    /// All, in the order of the tables.
    pub const ALL: [Lower; 2] = [Lower::Ram, Lower::Virtio];

    /// For the command line and tables.
    pub fn name(self) -> &'static str {
        match self {
            Lower::Ram => "ram",
            Lower::Virtio => "virtio",
        }
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lower| lower.name() == name)
    }
}

impl Volume {
    /// The disk below it.
    pub fn disk(self) -> String {
        match self.lower {
            Lower::Ram => format!("/dev/ram{}", self.system.index()),
            Lower::Virtio => format!("/dev/disk/by-serial/{}", self.system.name()),
        }
    }

    /// Where loads go.
    pub fn device(self) -> String {
        match self.system {
            System::Raw => self.disk(),
            System::Weft => format!("/dev/weft{}", self.minor()),
            System::Drbd | System::DrbdIntegrity => format!("/dev/drbd{}", self.minor()),
        }
    }

    /// Name of the resource, and of a virtio disk's owner.
    pub fn resource(self) -> String {
        format!("{}-{}", self.system.name(), self.lower.name())
    }

    /// Number of its device, unique among all systems.
    pub fn minor(self) -> usize {
        self.lower as usize * System::ALL.len() + self.system.index()
    }
}
