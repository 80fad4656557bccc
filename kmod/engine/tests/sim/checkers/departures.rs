// SPDX-License-Identifier: GPL-2.0-only

//! I3: a record names a node as left only if that node had it on its own disk before, with a record of the same line.
//! Voters that merely vanished are never among them.

use crate::node::node_id;
use crate::world::World;
use weft_uapi::ondisk::{Superblock, FLAG_LEFT};

/// The durable superblock of `node` is this one now.
pub(crate) fn departures(world: &mut World, node: usize, block: &Superblock) {
    if block.flags & FLAG_LEFT != 0 {
        world.volume.history.depart(node, block.left_at.0);
    }
    let record = block.generation;
    let Some(parent) = world.volume.history.generation(record.parent.0) else {
        return;
    };
    let line = world.volume.history.line(record.id.0);
    let is_new = |other: &usize| {
        let id = node_id(*other);
        record.left.contains(id) && !parent.left.contains(id)
    };
    let mut named = (0..world.nodes.len()).filter(is_new);
    if let Some(other) = named.find(|&other| !world.volume.history.has_departed(other, &line)) {
        let text = format!(
            "n{node} has generation {} before which n{other} is said to have left, and it has not",
            record.id
        );
        world.fail("chain", text);
    }
}
