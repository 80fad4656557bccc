// SPDX-License-Identifier: GPL-2.0-only

//! What must hold, a file per rule. The checkers look at disks and at what the application was told; they ask the
//! engine for nothing but its status.

mod chain;
mod coverage;
mod departures;
mod durability;
mod equality;
mod forks;
mod primary;
mod reads;
mod rollback;
mod stable;
mod verify;

use chain::acknowledged_in;
pub(crate) use chain::{elected, one_chain};
pub(crate) use coverage::coverage;
pub(crate) use departures::departures;
pub(crate) use durability::{claims, enforce, flush_done, write_done};
use equality::equality;
pub(crate) use forks::line_changed;
pub(crate) use primary::one_primary;
pub(crate) use reads::read_done;
use rollback::noticed;
pub(crate) use rollback::{same_age, suspected};
pub(crate) use stable::Stable;
pub(crate) use verify::{no_false_difference, nothing_missed};

use crate::world::World;

/// From time to time.
pub(crate) fn inspect(world: &mut World) {
    coverage(world);
    equality(world);
    one_primary(world);
    noticed(world);
    world.count_states();
    for node in 0..world.nodes.len() {
        claims(world, node);
    }
}

/// At the end, when all is well: says whether nothing was under way, so that everything was checked.
pub(crate) fn finished(world: &mut World) -> bool {
    inspect(world);
    equality(world)
}
