// SPDX-License-Identifier: GPL-2.0-only

//! Voters whose disk took the place of another one, or is an older image of itself.
//!
//! Their node forgot what it promised and which records it acknowledged. With it, and somebody who was away meanwhile,
//! there would be a majority that knows nothing of what the former one decided:
//!
//! ```text
//! n0 writes with n1, n2 is away -> n0 dies, n1 gets a new disk, n2 is back -> n2 and n1 are two of three
//! ```
//!
//! INVARIANT (I3): a newcomer's vote does not count before a record that includes it is in force by a majority without
//! it. It is one from the moment that a peer sees that its disk is another one than before; what it fetches then is
//! durable together with [`FLAG_NEWCOMER`].

use super::context::Facts;
use super::disk::Disk;
use super::volume::Volume;
use super::Engine;
use crate::host::Host;
use weft_uapi::ondisk::FLAG_NEWCOMER;
use weft_uapi::units::NodeSet;

impl<H: Host> Engine<H> {
    /// Nodes, perhaps this one, whose vote does not count yet.
    pub(super) fn newcomers(&self) -> NodeSet {
        let facts = self.facts();
        self.each_volume().fold(NodeSet::EMPTY, |all, volume| {
            all.union(volume.newcomers(&facts))
        })
    }
}

impl<H: Host> Volume<H> {
    /// Whether these nodes may decide: a majority that remembers what it promised; all voters, since nobody is left who
    /// could know more; or any majority when a person insists.
    pub(super) fn has_votes(&self, facts: &Facts, nodes: NodeSet, is_forced: bool) -> bool {
        let quorum = facts.quorum;
        let remembers = NodeSet(nodes.0 & !self.newcomers(facts).0);
        let has_all = quorum.voters.0 & !nodes.0 == 0;
        quorum.has_majority(remembers) || (quorum.has_majority(nodes) && (is_forced || has_all))
    }

    /// Nodes, perhaps this one, whose vote does not count yet.
    fn newcomers(&self, facts: &Facts) -> NodeSet {
        let peers = self.peers_that(|_, replica| replica.is_newcomer);
        let is_one = |disk: &Disk<H>| disk.has_flag(FLAG_NEWCOMER);
        if self.disk.as_ref().is_some_and(is_one) {
            return peers.with(facts.node);
        }
        peers
    }

    /// A majority has taken this disk in.
    pub(super) fn settle_in(&mut self) {
        if let Some(disk) = self.disk.as_mut() {
            disk.set_flag(FLAG_NEWCOMER, false);
        }
    }
}
