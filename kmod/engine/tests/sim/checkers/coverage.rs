// SPDX-License-Identifier: GPL-2.0-only

//! I1: if everything lost its power now, what the disks know of each other would repair every difference.
//!
//! Only what is stable counts: superblocks, activity logs and bitmaps as a power cut would leave them, and the engine's
//! own decision on them.

use crate::host::{SimHost, Stamp};
use crate::node::{node_id, Node};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use weft_engine::ancestry::Ancestry;
use weft_engine::decide::{decide, Outcome, Side};
use weft_engine::load::{LoadedDisk, Read};
use weft_uapi::limits::{AL_EXTENT_BYTES, BITMAP_BLOCK_BYTES, SECTOR_BYTES};
use weft_uapi::ondisk::{AL_SLOT_FREE, FLAG_INCONSISTENT, FLAG_WRITER_ACTIVE};
use weft_uapi::units::Incarnation;

const SECTORS_PER_BIT: u64 = (BITMAP_BLOCK_BYTES / SECTOR_BYTES) as u64;
const SECTORS_PER_EXTENT: u64 = (AL_EXTENT_BYTES / SECTOR_BYTES) as u64;

/// What one disk would know after a power cut.
struct Knowledge {
    side: Side,
    bits: Vec<u64>,
    extents: BTreeSet<u64>,
}

pub(crate) fn coverage(world: &mut World) {
    for [a, b] in world.pairs() {
        coverage_of(world, [a, b]);
    }
}

/// Looks at the disks of two nodes.
fn coverage_of(world: &mut World, nodes: [usize; 2]) {
    let [a, b] = nodes;
    let (Some(first), Some(second)) =
        (knowledge(&world.nodes[a], b), knowledge(&world.nodes[b], a))
    else {
        return;
    };
    let outcome = decide(&first.side, &second.side).outcome;
    let (is_partial, target) = match outcome {
        Outcome::None => (true, None),
        Outcome::SyncTarget { full } => (!full, Some((a, b))),
        Outcome::SyncSource { full } => (!full, Some((b, a))),
        Outcome::NoSource | Outcome::Wait | Outcome::SplitBrain | Outcome::Refuse => return,
    };
    if let Some((target, source)) = target {
        if let Some(text) = overwritten(world, target, source) {
            return world.fail("coverage", text);
        }
    }
    if !is_partial {
        return;
    }
    let is_covered = |sector: u64| {
        outcome != Outcome::None
            && [&first, &second].iter().any(|side| {
                let bit = sector / SECTORS_PER_BIT;
                let word = side.bits.get((bit / 64) as usize).copied().unwrap_or(0);
                (word >> (bit % 64)) & 1 == 1
                    || side.extents.contains(&(sector / SECTORS_PER_EXTENT))
            })
    };
    if let Some(sector) = differences(world, nodes)
        .into_iter()
        .find(|&sector| !is_covered(sector))
    {
        let values = nodes.map(|node| world.nodes[node].disk.stable[sector as usize]);
        let rule = decide(&first.side, &second.side).rule;
        let text = format!(
            "sector {sector} of n{a} and n{b} may differ after a power cut (stable {values:?}), but neither bitmaps nor logs name it (rule {})",
            rule.name()
        );
        world.fail("coverage", text);
    }
}

/// Acknowledged writes that the decision would overwrite unseen.
fn overwritten(world: &World, target: usize, source: usize) -> Option<String> {
    let line = |node: usize| world.history.line(world.nodes[node].generation());
    let (to, from) = (line(target), line(source));
    let lost: BTreeSet<u64> = to.difference(&from).copied().collect();
    let is_lost = world.history.has_acknowledged(&lost) && !world.nodes[target].may_lose_line;
    is_lost
        .then(|| format!("after a power cut n{target} would lose acknowledged writes to n{source}"))
}

/// Sectors that may hold different values on both disks after a power cut.
fn differences(world: &World, nodes: [usize; 2]) -> BTreeSet<u64> {
    let mut maybe: BTreeMap<u64, BTreeSet<Stamp>> = BTreeMap::new();
    let stable = nodes.map(|node| &world.nodes[node].disk.stable);
    let pairs = (0u64..).zip(stable[0].iter().zip(stable[1]));
    for (sector, (&a, &b)) in pairs.filter(|(_, (a, b))| a != b) {
        maybe.entry(sector).or_default().extend([a, b]);
    }
    for node in nodes.map(|node| &world.nodes[node]) {
        let volatile = node
            .disk
            .volatile()
            .map(|(sector, content)| (sector, content.clone()));
        for (sector, content) in volatile.chain(node.under_way()) {
            for (sector, &value) in (sector..).zip(content.iter()) {
                let values = maybe.entry(sector).or_default();
                values.insert(value);
                values.extend(stable.map(|stable| stable[sector as usize]));
            }
        }
    }
    maybe
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(sector, _)| sector)
        .collect()
}

/// Reads the stable metadata as an attach would; `None`: the attach would be refused.
fn knowledge(node: &Node, peer: usize) -> Option<Knowledge> {
    let disk = &node.disk;
    let read = |sector: u64| disk.meta_read_stable(sector);
    let [first, second] = [0, 1].map(|copy| read(disk.layout.superblock(copy).0));
    let mut loaded = LoadedDisk::<SimHost>::begin(disk.info, &first, &second).ok()?;
    let reads: Vec<(Read, _)> = loaded.reads().collect();
    for (what, sector) in reads {
        loaded.take(what, &read(sector.0));
    }
    loaded.finish().ok()?;
    let block = loaded.superblock;
    let slot = block.slot_of_node[peer];
    let words = loaded.layout.bitmap_words() as usize;
    let bits = slot.map_or(Vec::new(), |slot| {
        loaded.bitmaps[usize::from(slot) * words..][..words].to_vec()
    });
    let extents: BTreeSet<u64> = loaded
        .al_table
        .iter()
        .filter(|&&extent| extent != AL_SLOT_FREE)
        .map(|&extent| extent.into())
        .collect();
    let is_dirty = !extents.is_empty() || bits.iter().any(|&word| word != 0);
    let side = Side {
        node: node_id(node.id),
        ancestry: Ancestry::new(block.generation, block.ancestry, block.written),
        incarnation: Incarnation(block.incarnation.0 + 1),
        attach_id: 0,
        seen_incarnation: block.seen_incarnation[peer],
        seen_attach_id: block.seen_attach_id[peer],
        since: block.since[peer],
        is_dirty,
        is_inconsistent: block.flags & FLAG_INCONSISTENT != 0,
        is_writer: false,
        has_crashed: !extents.is_empty() || block.flags & FLAG_WRITER_ACTIVE != 0,
        discards: node.may_lose_line,
        tail_seq: block.tail_seq,
    };
    Some(Knowledge {
        side,
        bits,
        extents,
    })
}
