// SPDX-License-Identifier: GPL-2.0-only

//! I1: if everything lost its power now, what the disks know of each other would repair every difference.
//!
//! Only what is stable counts: superblocks, activity logs and bitmaps as a power cut would leave them, and the engine's
//! own decision on them.

use super::stable::Stable;
use crate::world::World;
use std::collections::BTreeSet;
use weft_engine::decide::{decide, Decision, Outcome};

/// Sectors that are compared at once.
const STRIDE: usize = 1024;

pub(crate) fn coverage(world: &mut World) {
    let known = std::mem::take(&mut world.volume.stable).into_iter();
    let disks: Vec<Option<Stable>> = known
        .zip(&mut world.nodes)
        .map(|(known, node)| Stable::refresh(known, &mut node.disk))
        .collect();
    let found = world.pairs().into_iter().find_map(|[a, b]| {
        let (first, second) = (disks[a].as_ref()?, disks[b].as_ref()?);
        let decision = decide(
            &first.side(&world.nodes[a], b),
            &second.side(&world.nodes[b], a),
        );
        overwritten(world, [a, b], decision.outcome).or_else(|| {
            let is_covered = |sector| {
                decision.outcome != Outcome::None
                    && (first.names(b, sector) || second.names(a, sector))
            };
            uncovered(world, [a, b], decision, is_covered)
        })
    });
    world.volume.stable = disks;
    if let Some(text) = found {
        world.fail("coverage", text);
    }
}

/// Acknowledged writes that the decision would overwrite unseen.
fn overwritten(world: &World, [a, b]: [usize; 2], outcome: Outcome) -> Option<String> {
    let (target, source) = match outcome {
        Outcome::SyncTarget { .. } => (a, b),
        Outcome::SyncSource { .. } => (b, a),
        _ => return None,
    };
    // What the source only knows to be on record has left nothing out that came before.
    let to = world.volume.history.line(world.nodes[target].written());
    let from = world.volume.history.line(world.nodes[source].generation());
    let lost: BTreeSet<u64> = to.difference(&from).copied().collect();
    let is_lost =
        world.volume.history.has_acknowledged(&lost) && !world.nodes[target].may_lose_line;
    is_lost
        .then(|| format!("after a power cut n{target} would lose acknowledged writes to n{source}"))
}

/// A difference that the decision would leave.
fn uncovered(
    world: &World,
    nodes: [usize; 2],
    decision: Decision,
    is_covered: impl Fn(u64) -> bool,
) -> Option<String> {
    let is_partial = matches!(
        decision.outcome,
        Outcome::None | Outcome::SyncTarget { full: false } | Outcome::SyncSource { full: false }
    );
    let mut differences = is_partial.then(|| differences(world, nodes))?;
    let sector = differences.find(|&sector| !is_covered(sector))?;
    let [a, b] = nodes;
    let values = nodes.map(|node| world.nodes[node].disk.stable[sector as usize]);
    Some(format!(
        "sector {sector} of n{a} and n{b} may differ after a power cut (stable {values:?}), but neither bitmaps nor logs name it (rule {})",
        decision.rule.name()
    ))
}

/// Sectors of the device that may hold different values on both disks after a power cut: something that one of them holds or may hold
/// is not what the first one surely holds.
fn differences(world: &World, nodes: [usize; 2]) -> impl Iterator<Item = u64> + '_ {
    // Whoever knows of fewer sectors owes the others as soon as it hears of them.
    let device = nodes.map(|node| world.nodes[node].device_sectors());
    let end = device[0].min(device[1]);
    let [first, second] = nodes.map(|node| &world.nodes[node].disk.stable[..end as usize]);
    let strides = (0..)
        .step_by(STRIDE)
        .zip(first.chunks(STRIDE).zip(second.chunks(STRIDE)));
    let stable = strides
        .filter(|(_, (first, second))| first != second)
        .flat_map(|(start, (_, second))| (start..).zip(second.iter().copied()));
    let volatile = nodes.into_iter().flat_map(|node| {
        let node = &world.nodes[node];
        let cached = node.disk.volatile();
        let writes = cached
            .map(|(sector, content)| (sector, content.clone()))
            .chain(node.under_way());
        writes.flat_map(|(sector, content)| {
            let stamps = 0..content.len();
            (sector..).zip(stamps.map(move |at| content[at]))
        })
    });
    stable
        .chain(volatile)
        .filter(move |&(sector, value)| sector < end && value != first[sector as usize])
        .map(|(sector, _)| sector)
}
