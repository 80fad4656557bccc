// SPDX-License-Identifier: GPL-2.0-only

//! I3: with quorum there is one chain. Of any two generations that were durable on a majority of the voters at some
//! time, one is in the past of the other.

use crate::history::History;
use crate::world::World;

/// The durable superblock of `node` changed.
pub(crate) fn one_chain(world: &mut World, node: usize) {
    if !world.has_quorum {
        return;
    }
    let ends: Vec<u64> = world.nodes.iter().map(|node| node.generation()).collect();
    let mut tip = world.tip;
    let result = advance(&world.history, &mut tip, &ends, ends[node]);
    world.tip = tip;
    if let Err(text) = result {
        world.fail("chain", text);
    }
}

/// Takes note of the generations that a majority has now that the line of a node ends at `end`; `ends` are those of all
/// voters.
fn advance(history: &History, tip: &mut u64, ends: &[u64], end: u64) -> Result<(), String> {
    let lines: Vec<_> = ends.iter().map(|&end| history.line(end)).collect();
    for generation in history.line(end) {
        let voters = lines
            .iter()
            .filter(|line| line.contains(&generation))
            .count();
        if 2 * voters <= ends.len() || history.line(*tip).contains(&generation) {
            continue;
        }
        if *tip != 0 && !history.line(generation).contains(tip) && !history.is_forgiven(generation)
        {
            return Err(format!(
                "generations {tip:016x} and {generation:016x} were on a majority each, and neither follows the other"
            ));
        }
        *tip = generation;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::ondisk::Generation;
    use weft_uapi::units::GenerationId;

    /// 1, with the children 2 and 3.
    fn forked() -> History {
        let mut history = History::new(3);
        for (id, parent) in [(1, 0), (2, 1), (3, 1)] {
            history.record(Generation {
                id: GenerationId(id),
                parent: GenerationId(parent),
                ..Generation::default()
            });
        }
        history
    }

    #[test]
    fn a_record_of_a_minority_is_not_in_the_chain() {
        let (history, mut tip) = (forked(), 0);
        assert_eq!(advance(&history, &mut tip, &[2, 1, 1], 2), Ok(()));
        assert_eq!(tip, 1);
        assert_eq!(advance(&history, &mut tip, &[2, 3, 3], 3), Ok(()));
        assert_eq!(tip, 3);
    }

    #[test]
    fn two_majorities_that_disagree_break_the_chain() {
        let (history, mut tip) = (forked(), 0);
        assert_eq!(advance(&history, &mut tip, &[2, 2, 1], 2), Ok(()));
        assert!(advance(&history, &mut tip, &[2, 3, 3], 3).is_err());
    }
}
