// SPDX-License-Identifier: GPL-2.0-only

//! `create-md` and `dump-md`.

use super::failure::Failure;
use super::output::{print, print_json};
use super::weft::Place;
use crate::config::{Backing, Volume};
use crate::metadata::area::{Access, Area, OpenError};
use crate::metadata::create::{self, Obstacle, Owner};
use crate::metadata::dump::{self, Dump};
use crate::view::units::size;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io;
use weft_uapi::ondisk::BITMAP_SLOTS_DEFAULT;
use weft_uapi::refusal::Refusal;

/// Metadata of one volume, as `dump-md --json` prints them.
#[derive(Serialize, Debug)]
struct VolumeDump {
    volume: u16,
    disk: String,
    meta: String,
    #[serde(flatten)]
    dump: Dump,
}

/// Makes metadata for all volumes of a resource, or one. Everything is checked before anything is written.
pub(super) fn create(
    place: &Place<'_>,
    volume: Option<u16>,
    max_peers: Option<u32>,
    force: bool,
) -> Result<(), Failure> {
    let slots = slots(place, max_peers)?;
    let mut prepared = Vec::new();
    for (volume, backing) in volumes(place, volume)? {
        let area = open(place, backing, Access::Exclusive)?;
        let owner = Owner {
            resource: &place.resource.name,
            volume: volume.id,
            node: place.node.id,
            slots,
        };
        let layout =
            create::check(&area, owner, force).map_err(|why| obstacle(place, backing, why))?;
        prepared.push((volume, backing, area, owner, layout));
    }
    for (volume, backing, area, owner, layout) in prepared {
        let bar = ProgressBar::new(layout.area().1).with_style(style());
        bar.set_message(format!("volume {}", volume.id));
        let made = create::create(&area, owner, &layout, |done, _| bar.set_position(done));
        bar.finish_and_clear();
        made.map_err(|error| {
            Failure::io(
                &device(backing),
                &error,
                "dmesg; the disk has no valid metadata now",
            )
        })?;
        print(&format!(
            "{} volume {}: metadata made on {}, {} remain for data\n",
            place.resource.name,
            volume.id,
            device(backing),
            size(layout.data_sectors() * 512)
        ))?;
    }
    Ok(())
}

/// For how many peers there is to be room.
pub(super) fn slots(place: &Place<'_>, wanted: Option<u32>) -> Result<u32, Failure> {
    let peers = place.resource.nodes.len().saturating_sub(1);
    match wanted {
        None => Ok(BITMAP_SLOTS_DEFAULT.max(peers)),
        Some(slots) if slots >= peers => Ok(slots),
        Some(slots) => Err(Failure::new(
            Refusal::BadArgument.name(),
            format!("The resource has {peers} peers, more than there would be room for."),
            format!("resource {}, max-peers {slots}", place.resource.name),
            format!("weft create-md {} --max-peers {peers}", place.resource.name),
        )),
    }
}

/// Shows metadata of all volumes of a resource, or one.
pub(super) fn dump(place: &Place<'_>, volume: Option<u16>, json: bool) -> Result<(), Failure> {
    let mut dumps = Vec::new();
    for (volume, backing) in volumes(place, volume)? {
        let area = open(place, backing, Access::Read)?;
        let dump =
            dump::dump(&area).map_err(|error| Failure::io(&device(backing), &error, "dmesg"))?;
        dumps.push(VolumeDump {
            volume: volume.id.0,
            disk: backing.disk.clone(),
            meta: backing.meta_argument().to_owned(),
            dump,
        });
    }
    if json {
        return print_json(&dumps);
    }
    for one in &dumps {
        print(&format!(
            "{} volume {} on {} (metadata {})\n{}",
            place.resource.name,
            one.volume,
            one.disk,
            one.meta,
            one.dump.text()
        ))?;
    }
    Ok(())
}

/// The volumes that are meant, with this node's disks.
fn volumes<'a>(
    place: &Place<'a>,
    wanted: Option<u16>,
) -> Result<Vec<(&'a Volume, &'a Backing)>, Failure> {
    if place.resource.tie_breakers.contains(place.node.id) {
        let object = format!("resource {}", place.resource.name);
        return Err(Failure::refusal(
            Refusal::IsTieBreaker,
            object,
            &place.resource.name,
        ));
    }
    let all = place.resource.volumes.iter();
    let found: Vec<_> = all
        .filter(|volume| wanted.is_none_or(|wanted| volume.id.0 == wanted))
        .filter_map(|volume| Some((volume, volume.disks.get(&place.node.id)?)))
        .collect();
    if found.is_empty() {
        let object = format!(
            "resource {}, volume {}",
            place.resource.name,
            wanted.unwrap_or_default()
        );
        return Err(Failure::refusal(
            Refusal::NoSuchVolume,
            object,
            &place.resource.name,
        ));
    }
    Ok(found)
}

/// The device that holds the metadata.
fn device(backing: &Backing) -> String {
    backing.meta.clone().unwrap_or_else(|| backing.disk.clone())
}

fn open(place: &Place<'_>, backing: &Backing, access: Access) -> Result<Area, Failure> {
    Area::open(backing, access).map_err(|OpenError { path, error }| {
        let busy = error.kind() == io::ErrorKind::ResourceBusy;
        let hint = if busy {
            format!(
                "it is in use: lsblk {path}; if Weft has it, weft down {}",
                place.resource.name
            )
        } else {
            "check the path in the configuration; lsblk".to_owned()
        };
        Failure::new(Refusal::DiskOpen.name(), error.to_string(), path, hint)
    })
}

fn obstacle(place: &Place<'_>, backing: &Backing, why: Obstacle) -> Failure {
    let device = device(backing);
    let name = &place.resource.name;
    match why {
        Obstacle::TooSmall => Failure::refusal(Refusal::DiskTooSmall, device, name),
        Obstacle::Existing(what) => Failure::new(
            "meta-exists",
            format!("There are {what} already; fresh ones would forget what is out of sync with the peers."),
            device,
            format!("weft dump-md {name}; to throw them away: weft create-md {name} --force"),
        ),
        Obstacle::Occupied(found, free) => Failure::new(
            "disk-in-use",
            format!("The disk holds a {found}, and the metadata would lie in it (only the first {} remain for data).", size(free)),
            device,
            format!("shrink it first, or use an empty disk; to destroy it: weft create-md {name} --force"),
        ),
        Obstacle::Io(error) => Failure::io(&device, &error, "dmesg"),
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} [{bar:40}] {percent} %")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
