// SPDX-License-Identifier: GPL-2.0-only

//! Of two nodes that are connected, one is primary at most.

use crate::world::World;

pub(crate) fn one_primary(world: &mut World) {
    if world.two_primaries {
        return at_most_two(world);
    }
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

/// Of those that are connected all with each other.
fn at_most_two(world: &mut World) {
    let nodes: Vec<usize> = (0..world.nodes.len())
        .filter(|&node| world.nodes[node].is_primary())
        .collect();
    for (at, &a) in nodes.iter().enumerate() {
        let friends: Vec<usize> = nodes[at + 1..]
            .iter()
            .copied()
            .filter(|&b| are_connected(world, a, b))
            .collect();
        let are_three = |&[b, c]: &[usize; 2]| are_connected(world, b, c);
        let mut pairs = friends
            .iter()
            .enumerate()
            .flat_map(|(at, &b)| friends[at + 1..].iter().map(move |&c| [b, c]));
        if let Some([b, c]) = pairs.find(are_three) {
            let text = format!("n{a}, n{b} and n{c} are connected and all are primary");
            return world.fail("primary", text);
        }
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
