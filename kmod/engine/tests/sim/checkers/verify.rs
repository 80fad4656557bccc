// SPDX-License-Identifier: GPL-2.0-only

//! A verify reports no difference that is not there, and misses none that it came across.

use crate::world::World;
use weft_uapi::status::PeerVolumeInfo;

/// The blocks that a node says differ.
fn blocks(info: &PeerVolumeInfo) -> impl Iterator<Item = u64> + '_ {
    let ranges = info.verify_found.iter().take(info.verify_ranges as usize);
    ranges.flat_map(|range| range.start / 8..range.end.div_ceil(8))
}

/// Whatever `node` found has once gone bad here or there.
pub(crate) fn no_false_difference(
    world: &mut World,
    node: usize,
    peer: usize,
    info: &PeerVolumeInfo,
) {
    if let Some(block) = blocks(info).find(|block| !world.volume.bad_ever.contains(block)) {
        let text = format!(
            "n{node} takes block {block} for one that differs on n{peer}, and it never went bad"
        );
        world.fail("verify", text);
    }
}

/// What was bad when `node` began a comparison that is through, and still is, was found.
pub(crate) fn nothing_missed(world: &mut World, node: usize, peer: usize, info: &PeerVolumeInfo) {
    let Some(before) = world.nodes[node].compared_since[peer].take() else {
        return;
    };
    let range = info.verify_start..info.verify_stop;
    for (disk, bad) in [node, peer].into_iter().zip(before) {
        let still_bad = &world.nodes[disk].disk.bad;
        let mut missed = bad.intersection(still_bad);
        let is_missed = |sector: &&u64| {
            range.contains(*sector) && !blocks(info).any(|block| block == *sector / 8)
        };
        if let Some(sector) = missed.find(is_missed) {
            let text = format!(
                "n{node} and n{peer} were compared from {} to {}, and bad sector {sector} of n{disk} was not found",
                range.start, range.end
            );
            return world.fail("verify", text);
        }
    }
    world.tally.reach.count("verify", "through");
}
