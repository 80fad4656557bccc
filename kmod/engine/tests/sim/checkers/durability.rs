// SPDX-License-Identifier: GPL-2.0-only

//! I2 and I6: an acknowledged write is on every member, a flushed one survives a power cut there, and a disk has what
//! its superblock claims.

use super::acknowledged_in;
use crate::host::Stamp;
use crate::node::{node_id, written_on};
use crate::world::World;
use weft_uapi::ondisk::{Generation, FLAG_INCONSISTENT};

/// The disk that a node works on: that of the peer that serves it, its own one, or that of the peer with the newest data.
pub(super) fn disk_of(world: &World, node: usize) -> usize {
    let newness = |&peer: &usize| {
        let is_connected = world
            .view(node, peer)
            .is_some_and(|view| view.is_connected());
        let term = world.nodes[peer]
            .superblock()
            .map_or(0, |block| block.generation.term.0);
        (is_connected && world.nodes[peer].is_attached, term)
    };
    if let Some(server) = world.nodes[node].server {
        server
    } else if world.nodes[node].is_attached {
        node
    } else {
        world.peers(node).max_by_key(newness).unwrap_or(node)
    }
}

/// The generation in force on the disk that a node works on. A record that a member has not made durable is not in
/// force; its parent is.
pub(crate) fn generation_of(world: &World, node: usize) -> Generation {
    generation_on(world, disk_of(world, node))
}

/// As [`generation_of`], by the disk of `node`.
pub(super) fn generation_on(world: &World, node: usize) -> Generation {
    let superblock = world.nodes[node].superblock();
    let written = superblock.map_or(0, |block| written_on(block));
    let mut generation = world.volume.history.generation(written).unwrap_or_default();
    while !world.volume.history.is_in_force(generation.id.0) {
        match world.volume.history.generation(generation.parent.0) {
            Some(parent) => generation = parent,
            None => break,
        }
    }
    generation
}

/// The durable superblock of `node` changed: what each member had at some time is in force, and stays so whatever
/// becomes of their disks; one may be exchanged while its acknowledgement is on the way.
pub(crate) fn enforce(world: &mut World, node: usize) {
    for id in world.volume.history.line(world.nodes[node].generation()) {
        world.volume.history.hold(id, node_id(node));
    }
}

/// The application on `node` was told that its write is done; `promised`: under protocol C. The other protocols promise
/// nothing before a flush, by definition.
pub(crate) fn write_done(world: &mut World, node: usize, stamp: Stamp, promised: bool, fua: bool) {
    let generation = generation_of(world, node);
    acknowledged_in(world, node, generation.id.0);
    world.volume.history.acknowledge(
        stamp,
        world.moment,
        generation.id.0,
        promised,
        promised && fua,
    );
    if promised {
        check_members(world, node, generation, stamp, fua);
    }
}

/// The application on `node` was told that a flush is done that it sent at `moment`.
pub(crate) fn flush_done(world: &mut World, node: usize, moment: u64) {
    let generation = generation_of(world, node);
    let writer = world.nodes[node].writer();
    for stamp in world.volume.history.flush(writer, moment, generation.id.0) {
        check_members(world, node, generation, stamp, true);
    }
}

/// All members of the generation must have the write now, but for those that are on record as unfinished.
fn check_members(
    world: &mut World,
    node: usize,
    generation: Generation,
    stamp: Stamp,
    stable: bool,
) {
    let Some(write) = world.volume.history.write(stamp) else {
        return;
    };
    let range = write.sector..write.sector + write.sectors;
    let mut missing = None;
    for member in generation.members.iter() {
        let this = &world.nodes[member.index()];
        let is_unfinished = this
            .superblock()
            .is_some_and(|block| block.flags & FLAG_INCONSISTENT != 0);
        // Its acknowledgement may be on the way for longer than its disk lives.
        let is_another = this.exchanged > write.submitted;
        if is_unfinished || this.is_void || is_another {
            continue;
        }
        let view = if stable {
            &this.disk.stable
        } else {
            &this.disk.current
        };
        let promise = |sector| {
            world
                .volume
                .history
                .promises(sector)
                .iter()
                .copied()
                .find(|p| p.write == stamp)
        };
        let mut others = range
            .clone()
            .filter(|&sector| view[sector as usize] != stamp);
        let lacks = others.find(|&sector| {
            promise(sector).is_some_and(|promise| {
                world
                    .volume
                    .history
                    .breaks(sector, view[sector as usize], promise)
                    && !world
                        .volume
                        .history
                        .is_excused(member.index(), sector, stamp)
            })
        });
        if let Some(sector) = lacks {
            missing = Some((member, sector, view[sector as usize]));
        }
    }
    if let Some((member, sector, value)) = missing {
        let what = if stable { "flushed" } else { "acknowledged" };
        let text = format!(
            "n{node} was told that write {stamp} is {what} in generation {}, but member n{member} has {value} in sector {sector}",
            generation.id
        );
        world.fail("durability", text);
    }
}

/// What the superblock of `node` claims is true, now and after a power cut.
pub(crate) fn claims(world: &mut World, node: usize) {
    let this = &world.nodes[node];
    if this.is_void {
        return;
    }
    let Some(superblock) = this.superblock() else {
        return world.fail(
            "claims",
            format!("n{node}: no superblock would survive a power cut"),
        );
    };
    if superblock.flags & FLAG_INCONSISTENT != 0 {
        return;
    }
    let current = superblock.generation.id.0;
    let generation = if world.volume.history.is_forgiven(current) {
        // Made by force: nothing is owed from before it.
        current
    } else {
        written_on(superblock)
    };
    let duties = world.volume.history.duties(generation);
    let now = world
        .volume
        .history
        .broken(node, &this.disk.current, &duties, false);
    let later = world
        .volume
        .history
        .broken(node, &this.disk.stable, &duties, true);
    for (broken, when) in [(now, "lacks"), (later, "would lack after a power cut")] {
        if let Some((sector, value, promise)) = broken {
            let text = format!(
                "n{node} of generation {generation:016x} {when} write {} of generation {:016x} in sector {sector}: it holds {value}",
                promise.write, promise.generation
            );
            world.fail("claims", text);
        }
    }
}
