// SPDX-License-Identifier: GPL-2.0-only

//! I3: with quorum there is one chain. Of any two generations with a writer that were durable on a majority of the voters
//! at some time, and that a disk took for data, one is in the past of the other; writes are acknowledged in such a
//! generation only, and who becomes primary goes on from the newest one. Only force may break the chain. A record of which
//! nobody learnt that it was in force is no part of it: nothing was written in it.

use crate::history::History;
use crate::node::node_id;
use crate::world::World;
use std::collections::BTreeSet;
use weft_engine::quorum::Quorum;
use weft_uapi::ondisk::Generation;
use weft_uapi::units::NodeSet;

/// The durable superblock of `node` changed.
pub(crate) fn one_chain(world: &mut World, node: usize) {
    if !world.quorum.is_on() {
        return;
    }
    world.volume.history.write_in(world.nodes[node].written());
    let lines = lines_of(world);
    let result = advance(
        &mut world.volume.history,
        world.quorum,
        world.volume.tip,
        &lines,
        node,
    );
    match result {
        Ok(tip) => world.volume.tip = tip,
        Err(text) => world.fail("chain", text),
    }
}

/// The lines of all nodes.
fn lines_of(world: &World) -> Vec<BTreeSet<u64>> {
    let nodes = world.nodes.iter();
    nodes
        .map(|node| world.volume.history.line(node.known()))
        .collect()
}

/// The newest generation with data that a majority knew at some time, now that the line of a node has changed; `lines`
/// are those of all nodes.
fn advance(
    history: &mut History,
    quorum: Quorum,
    mut tip: u64,
    lines: &[BTreeSet<u64>],
    node: usize,
) -> Result<u64, String> {
    for &generation in &lines[node] {
        let record = history.generation(generation);
        if record.is_none_or(|record| record.writer.is_none()) {
            continue;
        }
        let holders = knowers(history, lines, generation);
        if quorum.has_majority(holders) || is_majority_of_the_rest(quorum, record, holders) {
            history.learn(generation);
        }
        // What a person gave up on one node may come into force by the others all the same.
        let is_kept = !history.is_overruled(generation)
            || tip == 0
            || history.line(generation).contains(&tip);
        let is_in_chain = history.line(tip).contains(&generation);
        if !history.has_come_into_force(generation) || is_in_chain || !is_kept {
            continue;
        }
        if is_beside(history, lines, generation, tip) {
            history.set_apart(generation);
            continue;
        }
        if !follows(history, generation, tip) {
            return Err(format!(
                "generations {tip:016x} and {generation:016x} were on a majority each, and neither follows the other"
            ));
        }
        if !history.line(generation).contains(&tip) {
            history.overrule(tip);
        }
        tip = generation;
    }
    Ok(tip)
}

/// Who knows `generation`. A disk may be replaced while its acknowledgement is on the way; the new one has no vote against it.
fn knowers(history: &History, lines: &[BTreeSet<u64>], generation: u64) -> NodeSet {
    let knows = |node: &usize| lines[*node].contains(&generation);
    let nodes = (0..lines.len()).filter(knows).map(node_id);
    nodes.fold(history.holders(generation), NodeSet::with)
}

/// Whether `generation` is of those who stayed when the others had left, and against whom somebody used force meanwhile: two
/// chains then, until they meet. Nobody who knows `generation` has heard of the force.
fn is_beside(history: &History, lines: &[BTreeSet<u64>], generation: u64, tip: u64) -> bool {
    let line = history.line(generation);
    let who = knowers(history, lines, generation);
    let mut forced = history.line(tip).into_iter();
    history.is_apart(generation)
        || forced.any(|id| {
            let is_known = !who.intersection(knowers(history, lines, id)).is_empty();
            history.is_forgiven(id) && !line.contains(&id) && !is_known
        })
}

/// Whether more than half of the voters that had not left by a record know it: they need not wait for the others.
fn is_majority_of_the_rest(quorum: Quorum, record: Option<Generation>, holders: NodeSet) -> bool {
    let left = record.map_or(NodeSet::EMPTY, |record| record.left);
    let rest = NodeSet(quorum.voters.0 & !left.0);
    holders.intersection(rest).len() * 2 > rest.len()
}

/// Whether `generation` goes on from `tip`, or somebody used force or gave that up.
fn follows(history: &History, generation: u64, tip: u64) -> bool {
    let line = history.line(generation);
    tip == 0
        || history.is_overruled(tip)
        || line.contains(&tip)
        || line
            .iter()
            .any(|&id| history.is_forgiven(id) && !history.line(tip).contains(&id))
}

/// The application on `node` was told that something written in `generation` is done.
pub(crate) fn acknowledged_in(world: &mut World, node: usize, generation: u64) {
    let history = &world.volume.history;
    // What a person gave up or broke with may be in force all the same, where that came to nothing or is not known yet.
    let is_outside = history.is_overruled(generation) && history.is_known(generation);
    let is_in_chain = history.line(world.volume.tip).contains(&generation);
    let is_expected = is_in_chain || is_outside || is_of_the_other_chain(world, generation);
    if world.quorum.is_on() && !is_expected {
        let text = format!(
            "n{node} acknowledged a write in generation {generation:016x}, which no majority knows"
        );
        world.fail("chain", text);
    }
}

/// See [`is_beside`].
fn is_of_the_other_chain(world: &World, generation: u64) -> bool {
    let history = &world.volume.history;
    history.has_come_into_force(generation)
        && is_beside(history, &lines_of(world), generation, world.volume.tip)
}

/// `node` became primary.
pub(crate) fn elected(world: &mut World, node: usize) {
    let generation = world.nodes[node].generation();
    // A majority may have gone on before it heard of its own election: then it is one that was overtaken.
    let was_overtaken = world
        .volume
        .history
        .line(world.volume.tip)
        .contains(&generation);
    let is_next = was_overtaken
        || follows(&world.volume.history, generation, world.volume.tip)
        || is_of_the_other_chain(world, generation);
    if world.quorum.is_on() && !is_next {
        let text = format!(
            "n{node} became primary in generation {generation:016x}, though a majority knows {:016x}",
            world.volume.tip
        );
        world.fail("chain", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::units::{GenerationId, VolumeId};

    /// 1, with the children 2 and 3.
    fn forked(written: &[u64]) -> History {
        let mut history = History::new(3, VolumeId(0));
        for (id, parent) in [(1, 0), (2, 1), (3, 1)] {
            history.record(Generation {
                id: GenerationId(id),
                parent: GenerationId(parent),
                writer: Some(node_id(0)),
                ..Generation::default()
            });
        }
        written.iter().for_each(|&id| history.write_in(id));
        history
    }

    /// The tip of three voters whose lines end so, after the change of the last one.
    fn advanced(written: &[u64], tip: u64, ends: [u64; 3]) -> Result<u64, String> {
        let mut history = forked(written);
        let lines = ends.map(|end| history.line(end));
        let quorum = Quorum {
            voters: NodeSet(0b111),
            ..Quorum::default()
        };
        advance(&mut history, quorum, tip, &lines, 2)
    }

    #[test]
    fn a_record_of_a_minority_is_not_in_the_chain() {
        assert_eq!(advanced(&[1, 2, 3], 0, [1, 1, 2]), Ok(1));
        assert_eq!(advanced(&[1, 2, 3], 1, [2, 3, 3]), Ok(3));
    }

    #[test]
    fn a_record_in_which_nothing_was_written_is_not_in_the_chain() {
        assert_eq!(advanced(&[1, 2], 2, [2, 3, 3]), Ok(2));
    }

    /// 2 was made by force while the node that stayed alone was out of reach, which goes on with 3.
    #[test]
    fn who_stayed_alone_goes_on_beside_a_chain_that_was_forced_unless_it_has_heard_of_that() {
        for has_heard in [false, true] {
            let mut history = forked(&[1, 2, 3]);
            history.forgive(2);
            history.learn(3);
            if has_heard {
                history.hold(2, node_id(2));
            }
            let lines = [2, 2, 3].map(|end| history.line(end));
            let quorum = Quorum {
                voters: NodeSet(0b111),
                ..Quorum::default()
            };
            let result = advance(&mut history, quorum, 2, &lines, 2);
            assert_eq!(result.is_ok(), !has_heard);
            assert_eq!(history.is_apart(3), !has_heard);
        }
    }

    #[test]
    fn a_record_that_was_given_up_on_one_node_is_in_the_chain_when_others_put_it_in_force() {
        let mut history = forked(&[1, 2]);
        history.discard(2, 0);
        let lines = [2, 2, 1].map(|end| history.line(end));
        let quorum = Quorum {
            voters: NodeSet(0b111),
            ..Quorum::default()
        };
        assert_eq!(advance(&mut history, quorum, 0, &lines, 0), Ok(2));
    }

    #[test]
    fn two_majorities_that_disagree_break_the_chain() {
        assert_eq!(advanced(&[1, 2, 3], 1, [2, 1, 2]), Ok(2));
        assert!(advanced(&[1, 2, 3], 2, [2, 3, 3]).is_err());
    }
}
