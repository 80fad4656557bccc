// SPDX-License-Identifier: GPL-2.0-only

//! What must hold, a file per rule. The checkers look at disks and at what the application was told; they ask the
//! engine for nothing but its status.

mod coverage;
mod durability;
mod equality;
mod forks;
mod reads;

pub(crate) use coverage::coverage;
pub(crate) use durability::{claims, flush_done, promoted, write_done};
use equality::equality;
pub(crate) use forks::line_changed;
pub(crate) use reads::read_done;

use crate::world::World;

/// From time to time.
pub(crate) fn inspect(world: &mut World) {
    coverage(world);
    equality(world);
    for node in 0..world.nodes.len() {
        claims(world, node);
    }
}

/// At the end, when all is well.
pub(crate) fn finished(world: &mut World) {
    inspect(world);
}
