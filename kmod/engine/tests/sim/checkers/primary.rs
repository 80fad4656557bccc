// SPDX-License-Identifier: GPL-2.0-only

//! Of two nodes that are connected, one is primary at most.

use crate::world::World;

pub(crate) fn one_primary(world: &mut World) {
    let rivals = |&[a, b]: &[usize; 2]| {
        world.nodes[a].is_primary() && world.nodes[b].is_primary() && are_connected(world, a, b)
    };
    if let Some([a, b]) = world.pairs().into_iter().find(rivals) {
        world.fail(
            "primary",
            format!("n{a} and n{b} are connected and both are primary"),
        );
    }
}

/// Whether both nodes call each other connected within the same session.
fn are_connected(world: &World, a: usize, b: usize) -> bool {
    let is_connected = |node, peer| {
        world
            .view(node, peer)
            .is_some_and(|view| view.is_connected())
    };
    let mut sessions = world.nodes[a].sessions.iter();
    let shared = sessions.find(|((peer, _), _)| *peer == b);
    let is_shared = shared.is_some_and(|(_, &(connection, _))| {
        let ends = &world.connections[connection].ends;
        ends.iter().all(|end| end.is_up && !end.is_closed)
    });
    is_shared && is_connected(a, b) && is_connected(b, a)
}
