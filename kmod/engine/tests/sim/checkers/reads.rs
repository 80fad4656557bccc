// SPDX-License-Identifier: GPL-2.0-only

//! An application reads what it wrote last, or what it may not have written yet; never less, never something else.

use super::durability::{disk_of, generation_on};
use crate::history::FIRST_WRITE;
use crate::host::Stamp;
use crate::world::World;

/// The application on `node` has read `content`; the request was submitted at `moment`.
pub(crate) fn read_done(
    world: &mut World,
    node: usize,
    sector: u64,
    content: &[Stamp],
    moment: u64,
) {
    let mut disk = disk_of(world, node);
    let knows = |&(peer, _): &(usize, _)| peer == node;
    if world.nodes[node].is_attached && !world.nodes[disk].sessions.keys().any(knows) {
        // Its server goes on without it, and it has not noticed: it reads what it was sent until then.
        disk = node;
    }
    if world.nodes[disk].is_void {
        return;
    }
    let generation = generation_on(world, disk).id.0;
    let duties = world.volume.history.duties(generation);
    let writer = world.nodes[node].writer();
    for (sector, &value) in (sector..).zip(content) {
        let history = &world.volume.history;
        if value >= FIRST_WRITE {
            let write = history.write(value);
            if !write
                .is_some_and(|write| (write.sector..write.sector + write.sectors).contains(&sector))
            {
                return world.fail(
                    "reads",
                    format!("n{node} read {value} in sector {sector}, where it was never written"),
                );
            }
        }
        let broken = history.promises(sector).iter().copied().find(|&promise| {
            let ended = history.write(promise.write).and_then(|write| write.ended);
            duties.contains(&promise.generation)
                && ended.is_some_and(|ended| ended <= moment)
                && history.breaks(sector, value, promise)
                && !history.is_excused(disk, sector, promise.write)
        });
        if let Some(promise) = broken {
            let text = format!(
                "n{node} read {value} in sector {sector} after write {} was acknowledged",
                promise.write
            );
            return world.fail("reads", text);
        }
        // A write that was never acknowledged has shown itself: from now on it stays.
        let has_surfaced = history.write(value).is_some_and(|write| {
            write.acknowledged.is_none()
                && write.writer != writer
                && write.ended.is_some_and(|ended| ended <= moment)
        });
        if has_surfaced {
            world.volume.history.observe(sector, value, generation);
        }
    }
}
