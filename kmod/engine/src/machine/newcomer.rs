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
//! it. A blank disk is one, and an older image from the moment that a peer sees that; what it fetches then is durable
//! together with [`FLAG_NEWCOMER`]. A person who insists on a promotion lets the new disks count until there is a majority
//! without them; so begins every resource.

use super::context::{Context, Facts};
use super::disk::Disk;
use super::replica::Replica;
use super::volume::Volume;
use super::Engine;
use crate::host::{Host, Output};
use crate::quorum::Ballot;
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_NEWCOMER};
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
    pub(super) fn has_votes_for(&self, facts: &Facts, nodes: NodeSet, is_forced: bool) -> bool {
        let quorum = facts.quorum;
        let has_all = quorum.voters.0 & !nodes.0 == 0;
        quorum.is_won(&self.ballot(facts, nodes))
            || (quorum.has_majority(nodes) && (is_forced || has_all))
    }

    /// What these nodes' votes are worth by what this node knows.
    pub(super) fn ballot(&self, facts: &Facts, nodes: NodeSet) -> Ballot {
        Ballot {
            nodes,
            newcomers: self.newcomers(facts),
            left: self.left(),
            leavers: self.leavers(facts),
        }
    }

    /// Whether these nodes may decide here, where a person may have insisted.
    pub(super) fn has_votes(&self, facts: &Facts, nodes: NodeSet) -> bool {
        self.has_votes_for(facts, nodes, self.insists)
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

    /// Takes newcomers in that were not when the record in force was made, since it took until now that a majority is
    /// known to have it, or since the notice got lost. All members hear of it once more: those that met the new disk only
    /// as one to be filled learn that it was.
    pub(super) fn take_in<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let here = NodeSet::of(cx.facts.node);
        let whole = self.whole().intersection(self.lasting());
        let settled = self.newcomers(&cx.facts).intersection(whole.union(here));
        if settled.is_empty() || self.change.is_some() || self.stalled.is_some() {
            return;
        }
        let Some(disk) = self.disk.as_ref().filter(|_| self.has_running_disk()) else {
            return;
        };
        let record = disk.superblock.generation;
        let is_in_force = record.writer.is_none() || disk.may_hold_data();
        if !is_in_force || disk.has_flag(FLAG_INCONSISTENT) {
            return;
        }
        let has_it =
            |peer, replica: &Replica<H>| replica.session.is_some() && disk.since(peer) == record.id;
        let knowers = self.peers_that(has_it).union(here);
        if !self.has_votes(&cx.facts, knowers) {
            return;
        }
        self.settle_in();
        let holders = whole.intersection(record.members);
        self.send_in_force(cx, record.id, holders, holders, true);
    }

    /// Peers whose disk is the one that this node heard of last: others may have met a new one in its place already, while
    /// the session with the node of the old one is not noticed to be dead.
    fn lasting(&self) -> NodeSet {
        let Some(disk) = self.disk.as_ref() else {
            return NodeSet::EMPTY;
        };
        self.peers_that(|peer, replica| {
            let attach_id = replica.round.peer.map(|said| said.side.attach_id);
            attach_id == Some(disk.seen(peer).1)
        })
    }

    /// A majority has taken this disk in. Peers hear of it by the next state: every promotion begins with one.
    pub(super) fn settle_in(&mut self) {
        let is_leaving = self.is_leaving;
        if let Some(disk) = self.disk.as_mut() {
            disk.set_flag(FLAG_NEWCOMER, false);
            let record = disk.superblock.generation;
            // INVARIANT (I3): a record that it knew when it left does not take it in: others may count on that it has left.
            // Nor does one without writer: those who left may make one among themselves.
            let is_later = disk.superblock.left_at != record.id && record.writer.is_some();
            if is_later && !is_leaving && !record.left.contains(disk.superblock.node) {
                disk.stay();
            }
        }
    }
}
