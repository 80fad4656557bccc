// SPDX-License-Identifier: GPL-2.0-only

//! How large a model is, and which of its rules are broken on purpose.

use crate::set::Set;
use crate::state::{Budget, Disk, Node, Phase, Record, State, NODES};

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Broken {
    /// G1: a record is acknowledged while it is only in memory.
    RecordInMemory,
    /// G2: a write is done when those who are left have it.
    AcknowledgeBeforeShrink,
    /// G3: a sync target becomes a member with a block missing.
    GrowBeforeEqual,
    /// G3: who joined by a record without writer meets others before it is in force.
    TellEarly,
    /// G4: a resync sets no bits for third nodes.
    ResyncSetsNoBits,
    /// G4: members set no bits for those who are none.
    MembersSetNoBits,
    /// G4: a bit is cleared while the block is only in the target's cache.
    ClearBeforeStable,
    /// G4: a source keeps in its cache what its target is about to lose.
    SourceIsUnstable,
    /// G4: a source takes a record over that its targets do not get.
    KeepTargets,
    /// G4: with a record in force, bits are dropped also towards members that were lost meanwhile.
    DropBitsEarly,
    /// G5: a block is cold when everybody has it, stable or not.
    TrimBeforeStable,
    /// G5: a new record drops the tail.
    RecordDropsTail,
    /// G5: only the writer keeps a tail.
    PeersKeepNoTail,
    /// G5: who lost its cache counts like others once it has met one of them.
    ForgetCrash,
    /// G6: those who can be reached are enough.
    PromoteWithoutMajority,
    /// G6: whom a node follows and fetches from is not looked at.
    FollowTwoWriters,
    /// G6: two that were equal stay so when only one of them follows a writer.
    SecondariesGoOn,
    /// G7: an older image of a disk is not noticed.
    TrustOldImages,
}

/// Bounds of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) nodes: usize,
    pub(crate) blocks: usize,
    /// Every node votes, and a record needs a majority of them.
    pub(crate) has_quorum: bool,
    /// Writes in all, and at the same time.
    pub(crate) writes: usize,
    pub(crate) open_writes: usize,
    pub(crate) left: Budget,
    /// Begins with disks that never held data, else with a running writer, node 0, and every disk equal.
    pub(crate) is_blank: bool,
    pub(crate) broken: Option<Broken>,
}

impl Scope {
    /// Equal disks of two blocks without quorum.
    pub(crate) const fn mirror(nodes: usize) -> Self {
        Self {
            nodes,
            blocks: 2,
            has_quorum: false,
            writes: 1,
            open_writes: 2,
            left: Budget {
                faults: 2,
                promotions: 1,
                forces: 0,
                discards: 0,
                rollbacks: 0,
            },
            is_blank: false,
            broken: None,
        }
    }

    pub(crate) const fn with_quorum(mut self) -> Self {
        self.has_quorum = true;
        self
    }

    pub(crate) const fn with_blocks(mut self, blocks: usize) -> Self {
        self.blocks = blocks;
        self
    }

    pub(crate) const fn with_writes(mut self, writes: usize) -> Self {
        self.writes = writes;
        self
    }

    pub(crate) const fn with_faults(mut self, faults: u8) -> Self {
        self.left.faults = faults;
        self
    }

    pub(crate) const fn with_promotions(mut self, promotions: u8) -> Self {
        self.left.promotions = promotions;
        self
    }

    pub(crate) const fn with_rollbacks(mut self, rollbacks: u8) -> Self {
        self.left.rollbacks = rollbacks;
        self
    }

    /// Disks that never held data, two forced promotions, and one person who gives data up.
    pub(crate) const fn just_created(mut self) -> Self {
        self.is_blank = true;
        self.left.forces = 2;
        self.left.discards = 1;
        self
    }

    pub(crate) const fn with(mut self, broken: Broken) -> Self {
        self.broken = Some(broken);
        self
    }

    pub(crate) fn breaks(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Whether these nodes are a majority of the voters; without quorum everybody is.
    pub(crate) fn is_majority(&self, nodes: Set) -> bool {
        !self.has_quorum || nodes.len() * 2 > self.nodes
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = usize> {
        0..self.nodes
    }

    pub(crate) fn all_nodes(&self) -> Set {
        Set::below(self.nodes)
    }

    pub(crate) fn peers(&self, node: usize) -> impl Iterator<Item = usize> {
        self.all().filter(move |&peer| peer != node)
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let nodes = self.nodes;
        (0..nodes).flat_map(move |low| (low + 1..nodes).map(move |high| (low, high)))
    }

    /// Where the model begins.
    pub(crate) fn first(&self) -> State {
        let mut state = State::new(self.left);
        state.attaches = 1;
        for node in self.all() {
            state.nodes[node] = Node {
                disk: Disk {
                    incarnation: (1, 1),
                    seen: [(1, 1); NODES],
                    ..Disk::default()
                },
                is_up: true,
                ..Node::default()
            };
        }
        if !self.is_blank {
            self.establish(&mut state);
        }
        state
    }

    fn establish(&self, state: &mut State) {
        let members = self.all_nodes();
        state.records.push(Record {
            parent: 0,
            term: 1,
            writer: Some(0),
            members,
            is_apart: false,
            was_in_force: true,
            is_forced: false,
        });
        for node in self.all() {
            let it = &mut state.nodes[node];
            it.required = members;
            it.is_uptodate = true;
            it.disk.current = 1;
            it.disk.promised = 1;
            for peer in self.peers(node) {
                it.disk.since[peer] = 1;
            }
        }
        for (a, b) in self.pairs() {
            let phase = Phase::Equal {
                told: 1,
                were_outdated: false,
            };
            state.set_phase(a, b, phase);
        }
        state.nodes[0].is_primary = true;
        state.disk_mut(0).is_unclean = true;
    }
}
