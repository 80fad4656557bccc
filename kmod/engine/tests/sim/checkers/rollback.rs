// SPDX-License-Identifier: GPL-2.0-only

//! G7: a new disk, or an older image of a disk, does not count as up to date before it was synced; a disk that is neither
//! is not taken for one.

use crate::admin::View;
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
    let is_another = |node: usize| world.nodes[node].exchanged > 0;
    let is_justified = is_another(node) || peer.is_some_and(is_another);
    // Who makes disks forget has them suspected.
    if world.plan.canary.is_none() && !is_justified {
        world.fail(
            "rollback",
            format!("n{node}: {line}, but both have the disks that they always had"),
        );
    }
}
