// SPDX-License-Identifier: GPL-2.0-only
//! What is measured: the rows of the table, and the figures that each of them yields.

use serde::Serialize;

use super::{fio::Load, statistics::Better, system::System};

/// One thing that is done with every system, each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// For the command line and JSON.
    pub name: &'static str,
    /// For the table.
    pub title: &'static str,
    /// Unit of [`Figure::Rate`].
    pub unit: &'static str,
    /// How it is done.
    pub kind: Kind,
}

/// How a workload is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests by fio; their number counts.
    Requests(Load),
    /// Requests by fio; their bytes count.
    Bytes(Load),
    /// Requests by fio, while the kernels count what they do. That costs time, so
    /// the rate does not count.
    Traced(Load),
    /// Transactions of a database on a file system.
    Database,
    /// A copy of everything to a blank disk.
    FullResync,
    /// A copy of what was changed while the peer was away.
    PartialResync,
}

/// A figure of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// What was done per second.
    Rate,
    /// Completion time that half of the requests took at most.
    MedianLatency,
    /// Completion time that 99 of 100 requests took at most.
    SlowLatency,
    /// Context switches of all machines.
    Switches,
    /// Processor time of all QEMU processes.
    HostProcessors,
    /// System calls in all machines.
    SystemCalls,
}

impl Figure {
    /// Unit and meaning; none for a rate, whose unit the workload knows.
    pub fn title(self) -> Option<&'static str> {
        match self {
            Figure::Rate => None,
            Figure::MedianLatency => Some("median latency, us"),
            Figure::SlowLatency => Some("99 % latency, us"),
            Figure::Switches => Some("context switches each"),
            Figure::HostProcessors => Some("host CPU us each"),
            Figure::SystemCalls => Some("system calls each"),
        }
    }

    /// Which way it gets better.
    pub fn better(self) -> Better {
        match self {
            Figure::Rate => Better::Higher,
            _ => Better::Lower,
        }
    }
}

impl Workload {
    /// Whether it can be done with that system: a bare disk has no peer. With payload
    /// checksums, which are for information, only writes are measured.
    pub fn suits(&self, system: System) -> bool {
        let writes = !matches!(self.kind, Kind::Requests(load) if load.pattern == "randread");
        match system {
            System::Raw => !matches!(self.kind, Kind::FullResync | Kind::PartialResync),
            System::DrbdIntegrity => {
                writes && matches!(self.kind, Kind::Requests(_) | Kind::Bytes(_))
            }
            System::Weft | System::Drbd => true,
        }
    }
}

const fn random(pattern: &'static str, depth: u32, jobs: u32) -> Load {
    Load {
        pattern,
        block_kib: 4,
        depth,
        jobs,
        syncs: false,
    }
}

const RANDOM_WRITE_1: Load = random("randwrite", 1, 1);
const RANDOM_WRITE_32: Load = random("randwrite", 32, 1);

const fn requests(name: &'static str, title: &'static str, load: Load) -> Workload {
    Workload {
        name,
        title,
        unit: "IOPS",
        kind: Kind::Requests(load),
    }
}

const fn other(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    kind: Kind,
) -> Workload {
    Workload {
        name,
        title,
        unit,
        kind,
    }
}

/// All of them, in the order of the table.
pub const ALL: [Workload; 11] = [
    requests("write-qd1", "4 KiB random write, depth 1", RANDOM_WRITE_1),
    requests(
        "write-qd32",
        "4 KiB random write, depth 32",
        RANDOM_WRITE_32,
    ),
    requests(
        "write-jobs4",
        "4 KiB random write, 4 jobs of depth 8",
        random("randwrite", 8, 4),
    ),
    other(
        "sequential",
        "128 KiB sequential write, depth 8",
        "MB/s",
        Kind::Bytes(Load {
            pattern: "write",
            block_kib: 128,
            depth: 8,
            jobs: 1,
            syncs: false,
        }),
    ),
    requests(
        "read",
        "4 KiB random read, depth 32",
        random("randread", 32, 1),
    ),
    requests(
        "fsync",
        "4 KiB random read and write, fsync after each write",
        Load {
            syncs: true,
            ..random("randrw", 1, 1)
        },
    ),
    other(
        "database",
        "SQLite commits on ext4 (WAL, synchronous=FULL)",
        "commits/s",
        Kind::Database,
    ),
    other(
        "resync-full",
        "resync of a blank disk",
        "MB/s",
        Kind::FullResync,
    ),
    other(
        "resync-1",
        "resync of 1 % scattered changes",
        "MB/s",
        Kind::PartialResync,
    ),
    other(
        "trace-qd1",
        "4 KiB random write, depth 1, traced",
        "IOPS",
        Kind::Traced(RANDOM_WRITE_1),
    ),
    other(
        "trace-qd32",
        "4 KiB random write, depth 32, traced",
        "IOPS",
        Kind::Traced(RANDOM_WRITE_32),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn only_mirrors_are_resynced() {
        for workload in ALL {
            let resyncs = workload.name.starts_with("resync");
            assert_eq!(workload.suits(System::Raw), !resyncs);
            assert!(workload.suits(System::Weft) && workload.suits(System::Drbd));
        }
    }
}
