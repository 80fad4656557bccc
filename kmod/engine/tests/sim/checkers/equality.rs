// SPDX-License-Identifier: GPL-2.0-only

//! I5: both sides up to date, connected and idle means equal disks.

use crate::world::World;

/// Checks if everything is idle; says whether it was.
pub(crate) fn equality(world: &mut World) -> bool {
    let is_idle = world.nodes.iter().all(|node| {
        node.app.outstanding.is_empty()
            && node.ops.is_empty()
            && node.is_attached
            && node.engine.is_some()
    }) && world
        .connections
        .iter()
        .all(|connection| connection.is_over() || connection.is_quiet());
    let views = [0, 1].map(|node| world.view(node));
    let is_well = views
        .iter()
        .all(|view| view.is_some_and(|view| view.is_well() && view.unacked == 0));
    if !is_idle || !is_well {
        return false;
    }
    let [first, second] = [0, 1].map(|node| &world.nodes[node].disk.current);
    let mut pairs = (0u64..).zip(first.iter().zip(second));
    if let Some((sector, (a, b))) = pairs.find(|(_, (a, b))| a != b) {
        let text = format!(
            "both are up to date and idle, but sector {sector} holds {a} on n0 and {b} on n1"
        );
        world.fail("equality", text);
    }
    true
}
