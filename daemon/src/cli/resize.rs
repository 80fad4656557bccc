// SPDX-License-Identifier: GPL-2.0-only

//! `resize`, and disks that have become larger while nobody had them.

use super::failure::Failure;
use super::orders::Running;
use super::output::print;
use super::weft::{for_each, Place};
use crate::config::Backing;
use crate::kernel::netlink::request::{Request, Value};
use crate::metadata::area::{Access, Area};
use crate::metadata::find;
use crate::view::model::Resource;
use crate::view::units::{bytes_of, sector_bytes, size};
use clap::Args;
use weft_uapi::netlink::{Attribute, Command};

/// What is typed after `resize`.
#[derive(Args, Debug)]
pub(super) struct ResizeArguments {
    /// Name of the resource
    resource: String,
    /// Only this volume
    #[arg(long)]
    volume: Option<u16>,
    /// Size of the device; K, M, G and T stand for binary units [default: what the smallest of the disks has room for]
    #[arg(long, value_name = "SIZE", value_parser = bytes_of)]
    size: Option<u64>,
    /// What is new is the same on all disks, as on new thin volumes, or does not matter: it is not synced
    #[arg(long)]
    assume_clean: bool,
    /// Go on although a node with a disk is not connected; if that is too small it stays away later
    #[arg(long)]
    assume_peer_has_space: bool,
}

/// Makes devices larger.
pub(super) fn resize(arguments: &ResizeArguments) -> Result<(), Failure> {
    let mut running = Running::find(&arguments.resource)?;
    let requests = running.of_volumes(Command::Resize, arguments.volume);
    let done = for_each(&requests, |request| {
        let request = match arguments.size {
            Some(bytes) => request.clone().with(Attribute::Size, Value::U64(bytes)),
            None => request.clone(),
        };
        let request = request
            .flag(Attribute::AssumeClean, arguments.assume_clean)
            .flag(
                Attribute::AssumePeerHasSpace,
                arguments.assume_peer_has_space,
            );
        running.perform(&request)
    });
    let resource = running.look_again()?;
    for device in &resource.devices {
        if done.is_ok()
            && arguments
                .volume
                .is_none_or(|it| u32::from(it) == device.volume)
        {
            tell(&resource, device.volume, device.size_bytes)?;
        }
    }
    done
}

fn tell(resource: &Resource, volume: u32, bytes: u64) -> Result<(), Failure> {
    print(&format!(
        "{} volume {volume}: {}\n",
        resource.name,
        size(bytes)
    ))
}

/// An attach of a disk that has become larger says how large it was; any other one is given back as it is.
pub(super) fn with_former_size(place: &Place<'_>, attach: Request) -> Request {
    let former = backing(place, &attach).and_then(former_bytes);
    match former {
        Some(bytes) => attach.with(Attribute::DiskSize, Value::U64(bytes)),
        None => attach,
    }
}

/// The disk of an attach, if it keeps its metadata itself.
fn backing<'a>(place: &Place<'a>, attach: &Request) -> Option<&'a Backing> {
    let mut volumes = place.resource.volumes.iter();
    let volume = volumes.find(|volume| {
        let argument = (Attribute::Volume, Value::U32(volume.id.0.into()));
        attach.arguments.contains(&argument)
    })?;
    let backing = volume.disks.get(&place.node.id)?;
    backing.meta.is_none().then_some(backing)
}

/// Bytes that a disk had when its metadata were written, if it has more by now. One that cannot be read the module
/// refuses itself.
fn former_bytes(backing: &Backing) -> Option<u64> {
    let area = Area::open(backing, Access::Read).ok()?;
    let end = find::end(&area).ok().flatten()?;
    (end < area.disk_sectors).then(|| sector_bytes(end))
}
