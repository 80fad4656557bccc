// SPDX-License-Identifier: GPL-2.0-only

//! I4: what was acknowledged in a generation is never left behind unless a person said so.

use crate::node::written_on;
use crate::world::World;
use std::collections::BTreeSet;
use weft_uapi::ondisk::Superblock;

/// The durable superblock of `node` changed.
pub(crate) fn line_changed(world: &mut World, node: usize, old: &Superblock, new: &Superblock) {
    let (was, is) = (
        world.volume.history.line(written_on(old)),
        world.volume.history.line(new.generation.id.0),
    );
    let lost: BTreeSet<u64> = was.difference(&is).copied().collect();
    if lost.is_empty() {
        return;
    }
    let is_allowed = std::mem::take(&mut world.nodes[node].may_lose_line);
    if !is_allowed && world.volume.history.has_acknowledged(&lost) {
        let text = format!(
            "n{node} left generation {} for {} though writes were acknowledged in it and nobody gave them up",
            old.generation.id, new.generation.id
        );
        world.fail("forks", text);
    }
}
