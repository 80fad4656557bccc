// SPDX-License-Identifier: GPL-2.0-only

//! Where the metadata of a disk are that has become larger while no module had it: still at the end of what it was.
//!
//! Nobody says how large that was, so a bounded number of places is looked at, those in which volumes and disks usually
//! end. Everywhere else a person has to say it (`weftsetup attach --disk-size`).

use super::area::Area;
use std::collections::BTreeSet;
use std::io;
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::ondisk::{newest_superblock, Layout, MetaKind, Superblock};

/// Sectors of a mebibyte.
const MIB: u64 = (1 << 20) / SECTOR_BYTES as u64;
/// Multiples of this many sectors at which disks end, and how many of each are looked at: all within 2 GiB, extents of LVM
/// within 16 GiB, whole gibibytes within 4 TiB.
const STEPS: [(u64, u64); 3] = [(MIB, 2048), (4 * MIB, 4096), (1024 * MIB, 4096)];

/// Sectors of the disk at whose end its metadata are: all of them, or as many as it had when they were written. `None`:
/// there are none, as far as can be seen, or there are several that could be meant.
///
/// # Errors
/// As the device reports them.
pub fn end(area: &Area) -> io::Result<Option<u64>> {
    if superblock_at(area, area.meta_sectors)?.is_some() {
        return Ok(Some(area.meta_sectors));
    }
    if area.kind() == MetaKind::External {
        return Ok(None);
    }
    let mut newest: Option<Superblock> = None;
    for end in ends(area.disk_sectors) {
        let found = superblock_at(area, end)?;
        let Some(found) = found.filter(|found| found.disk_sectors == end) else {
            continue;
        };
        match &newest {
            Some(other) if other.device != found.device => return Ok(None),
            Some(other) if other.sequence > found.sequence => {}
            _ => newest = Some(found),
        }
    }
    Ok(newest.map(|found| found.disk_sectors))
}

/// Where a smaller disk may have ended, each once.
fn ends(disk_sectors: u64) -> BTreeSet<u64> {
    let of_step = |(step, count): (u64, u64)| {
        let last = disk_sectors.saturating_sub(1) / step;
        (last.saturating_sub(count)..=last).map(move |number| number * step)
    };
    STEPS.into_iter().flat_map(of_step).collect()
}

fn superblock_at(area: &Area, end: u64) -> io::Result<Option<Superblock>> {
    let Some([first, second]) = Layout::superblock_sectors(area.kind(), end) else {
        return Ok(None);
    };
    Ok(newest_superblock(&area.read(first)?, &area.read(second)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;
    use crate::metadata::area::Access;
    use crate::metadata::create::{self, Owner};
    use std::fs::File;
    use weft_uapi::units::{NodeId, VolumeId};

    fn area(path: &std::path::Path) -> Area {
        let backing = Backing {
            disk: path.to_str().unwrap().to_owned(),
            meta: None,
        };
        Area::open(&backing, Access::Exclusive).unwrap()
    }

    fn make(path: &std::path::Path) {
        let area = area(path);
        let owner = Owner {
            resource: "r0",
            volume: VolumeId(0),
            node: NodeId::new(0).unwrap(),
            slots: 1,
        };
        let layout = create::check(&area, owner, true).unwrap();
        create::create(&area, owner, &layout, |_, _| {}).unwrap();
    }

    #[test]
    fn metadata_of_a_disk_that_has_grown_are_found_where_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::create_new(&path).unwrap();
        let sectors = |mib: u64| mib * MIB;
        file.set_len(12 << 20).unwrap();
        assert_eq!(end(&area(&path)).unwrap(), None);
        make(&path);
        assert_eq!(end(&area(&path)).unwrap(), Some(sectors(12)));
        file.set_len(40 << 20).unwrap();
        assert_eq!(end(&area(&path)).unwrap(), Some(sectors(12)));
        // Fresh ones beside them, of another life.
        file.set_len(20 << 20).unwrap();
        make(&path);
        file.set_len(40 << 20).unwrap();
        assert_eq!(end(&area(&path)).unwrap(), None);
    }

    #[test]
    fn few_places_are_looked_at_however_large_the_disk_is() {
        let places: u64 = STEPS.iter().map(|(_, count)| count).sum();
        assert!(ends(1 << 41).len() as u64 <= places + 3);
        assert!(ends(3 * MIB).into_iter().eq([0, MIB, 2 * MIB]));
    }
}
