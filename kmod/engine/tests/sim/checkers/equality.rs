// SPDX-License-Identifier: GPL-2.0-only

//! I5: both sides up to date, connected and idle means equal disks.

use crate::link::Connection;
use crate::node::Node;
use crate::world::World;
use weft_uapi::ondisk::FLAG_LEFT;

/// Checks every pair of disks that is idle; says whether all were.
pub(crate) fn equality(world: &mut World) -> bool {
    let is_waiting = |node: &Node| !node.app.outstanding.is_empty();
    if world.nodes.iter().any(is_waiting) {
        return false;
    }
    let has_disk = |&node: &usize| !world.nodes[node].is_diskless;
    let mut pairs = world.pairs();
    pairs.retain(|nodes| nodes.iter().all(has_disk));
    let all = pairs.len();
    pairs.retain(|&[a, b]| is_well(world, a, b) && is_well(world, b, a));
    for &[a, b] in &pairs {
        compare(world, a, b);
    }
    pairs.len() == all
}

/// Whether `node` and `peer` should be equal, and nothing is on its way to the disk of `node`.
fn is_well(world: &World, node: usize, peer: usize) -> bool {
    let this = &world.nodes[node];
    // Who has not noticed yet that the writer is gone may hold more than who has, or less. So may who is gone for the
    // writer before that one has noticed.
    let sessions = world.nodes.iter().flat_map(|node| node.sessions.values());
    let mut connections = sessions.map(|&(number, _)| &world.connections[number]);
    let has_noticed = connections.all(|it| it.is_whole() || !it.has(node));
    // Who is leaving may be left out of the record of this volume already, and waits for that of the other one.
    let stays = |node: usize| {
        let block = world.nodes[node].superblock();
        block.is_some_and(|block| block.flags & FLAG_LEFT == 0)
    };
    let is_idle = this.is_attached && this.ops.is_empty() && has_noticed;
    let is_quiet = |connection: &Connection| !connection.has(node) || connection.is_quiet();
    let mut connections = world.live.iter().map(|&number| &world.connections[number]);
    let view = world.view(node, peer);
    let is_well = view.is_some_and(|view| view.is_well() && view.unacked == 0);
    is_idle && is_well && stays(node) && connections.all(is_quiet)
}

fn compare(world: &mut World, a: usize, b: usize) {
    let device = [a, b].map(|node| world.offered_sectors(node).unwrap_or(0));
    let end = device[0].min(device[1]) as usize;
    let [first, second] = [a, b].map(|node| &world.nodes[node].disk.current[..end]);
    let mut sectors = (0u64..).zip(first.iter().zip(second));
    if let Some((sector, (first, second))) = sectors.find(|(_, (first, second))| first != second) {
        let text = format!(
            "both are up to date and idle, but sector {sector} holds {first} on n{a} and {second} on n{b}"
        );
        world.fail("equality", text);
    }
}
