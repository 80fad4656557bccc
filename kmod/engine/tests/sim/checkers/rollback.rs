// SPDX-License-Identifier: GPL-2.0-only

//! G7: a new disk, or an older image of a disk, does not count as up to date before it was synced; a disk that is neither
//! is not taken for one.

use super::stable::Stable;
use crate::admin::View;
use crate::disk::Disk;
use crate::world::World;

pub(crate) fn noticed(world: &mut World) {
    let is_well = |view: View| view.is_well();
    let is_trusted = |node: usize, peer: usize| {
        world.nodes[node].is_void
            && !world.nodes[peer].is_void
            && world.view(node, peer).is_some_and(is_well)
            && world.view(peer, node).is_some_and(is_well)
    };
    let mut pairs = world
        .pairs()
        .into_iter()
        .flat_map(|[a, b]| [(a, b), (b, a)]);
    if let Some((node, peer)) = pairs.find(|&(node, peer)| is_trusted(node, peer)) {
        world.fail(
            "rollback",
            format!("n{node} has another disk than before, but it and n{peer} call it up to date"),
        );
    }
}

/// The engine of `node` says so in its log.
pub(crate) fn suspected(world: &mut World, node: usize, line: &str) {
    let Some((object, _)) = line.split_once(": rule rolled-back: ") else {
        return;
    };
    let peer = object.rsplit(' ').next().and_then(|id| id.parse().ok());
    // Nothing is decided without a disk, whatever rule would apply.
    let is_another = |node: usize| {
        let this = &world.nodes[node];
        this.exchanged > 0 || !this.is_attached
    };
    let is_justified = is_another(node) || peer.is_some_and(is_another);
    // Who makes disks forget has them suspected.
    if world.plan.canary.is_none() && !is_justified {
        world.fail(
            "rollback",
            format!("n{node}: {line}, but both have the disks that they always had"),
        );
    }
}

/// What an image of the disk of `node` that is of the same age lacks, it names itself.
pub(crate) fn same_age(world: &mut World, node: usize, image: &Disk) {
    let this = &world.nodes[node];
    let (Some(older), Some(newer)) = (Stable::read(image), Stable::read(&this.disk)) else {
        return;
    };
    if older.age() != newer.age() {
        return;
    }
    world.tally.reach.count("image", "of the same age");
    let is_named = |sector| world.peers(node).any(|peer| older.names(peer, sector));
    let sectors = (0u64..).zip(image.stable.iter().zip(&this.disk.stable));
    let mut different = sectors.filter(|(_, (old, new))| old != new);
    if let Some((sector, _)) = different.find(|&(sector, _)| !is_named(sector)) {
        let text = format!(
            "an image of n{node} is of the same age as the disk, but sector {sector} differs and is not named"
        );
        world.fail("rollback", text);
    }
}
