// SPDX-License-Identifier: GPL-2.0-only

//! For two nodes, which have no majority: before one goes on without the other, somebody outside makes sure that the other
//! does not.
//!
//! | policy | a primary loses a peer | a promotion without a peer |
//! |---|---|---|
//! | dont-care | goes on | goes on |
//! | resource-only | goes on, and has it fenced | has it fenced first |
//! | resource-and-stonith | has it fenced first: all I/O waits | has it fenced first |
//!
//! Only a member of the current record needs it: who is left out there is known to be of the past. The host is asked
//! again until it answers, and after an answer that does not help.

use super::context::Context;
use super::session::Peer;
use super::Engine;
use crate::effect::{Effect, Level, Object};
use crate::host::{Host, Output, Time};
use weft_uapi::state::{ConnectionState, DiskState, FenceOutcome, Fencing, Role};
use weft_uapi::units::{NodeId, NodeSet};

/// The host is asked again after so long: what it was told before may be lost, in milliseconds.
const ASK_AGAIN_MS: u64 = 2_000;
/// A primary whose I/O waits has the peer fenced again so long after it did not work, in milliseconds.
const TRY_AGAIN_MS: u64 = 30_000;

/// How far a peer out of reach is fenced.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Fence {
    /// Number of the question.
    number: u64,
    /// When the host was asked, or answered.
    since: Option<Time>,
    outcome: Option<FenceOutcome>,
}

impl Fence {
    /// The peer is there again: what was asked before means nothing any more.
    pub(super) fn lift(&mut self) {
        *self = Self {
            number: self.number.saturating_add(1),
            ..Self::default()
        };
    }

    /// Whether the peer does not go on, as far as is known.
    fn holds(&self, is_uptodate: bool) -> bool {
        match self.outcome {
            Some(FenceOutcome::Inconsistent | FenceOutcome::Outdated | FenceOutcome::Stonithed) => {
                true
            }
            Some(FenceOutcome::Unreachable) => is_uptodate,
            Some(FenceOutcome::Primary | FenceOutcome::Failed) | None => false,
        }
    }

    fn deadline(&self) -> Option<Time> {
        let pause = match self.outcome {
            Some(_) => TRY_AGAIN_MS,
            None => ASK_AGAIN_MS,
        };
        Some(self.since?.after_ms(pause))
    }
}

/// What a promotion does about peers out of reach.
pub(super) enum Absent {
    /// None of them goes on.
    Fenced,
    /// That shows later.
    Open,
    /// This one may.
    Free(NodeId, FenceOutcome),
}

impl<H: Host> Engine<H> {
    /// Peers out of reach that may go on without this node.
    pub(super) fn unfenced(&self) -> NodeSet {
        match self.fencing {
            Fencing::DontCare => NodeSet::EMPTY,
            Fencing::ResourceOnly | Fencing::ResourceAndStonith => self.absent_members(),
        }
    }

    /// Members of the current record that are out of reach, and that nobody has fenced.
    pub(super) fn absent_members(&self) -> NodeSet {
        let disks = || self.each_volume().filter_map(|volume| volume.disk.as_ref());
        let members = disks().fold(NodeSet::EMPTY, |all, disk| {
            all.union(disk.superblock.generation.members)
        });
        let is_uptodate = self
            .each_volume()
            .all(|volume| volume.disk_state() == DiskState::UpToDate);
        let is_free = |peer: &Peer| {
            peer.connection() != ConnectionState::Connected && !peer.fence.holds(is_uptodate)
        };
        let free = members
            .iter()
            .filter(|&id| self.peer(id).is_some_and(is_free));
        free.fold(NodeSet::EMPTY, NodeSet::with)
    }

    /// Peers for which the I/O of this primary waits.
    pub(super) fn held_by(&self) -> NodeSet {
        if self.fencing == Fencing::ResourceAndStonith && self.role == Role::Primary {
            self.unfenced()
        } else {
            NodeSet::EMPTY
        }
    }

    /// Has peers fenced that a promotion cannot ask, and says how far that is.
    #[inline(never)]
    pub(super) fn fence_absent<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) -> Absent {
        let mut standing = Absent::Fenced;
        for id in self.unfenced().iter() {
            match self.peer(id).and_then(|peer| peer.fence.outcome) {
                Some(outcome) => return Absent::Free(id, outcome),
                None if !self.is_served => return Absent::Free(id, FenceOutcome::Failed),
                None => standing = Absent::Open,
            }
            self.fence(cx, id);
        }
        standing
    }

    /// A new promotion does not take an old refusal for an answer.
    pub(super) fn forget_free(&mut self) {
        for id in self.unfenced().iter() {
            if let Some(peer) = self.peer_mut(id).filter(|it| it.fence.outcome.is_some()) {
                peer.fence.lift();
            }
        }
    }

    /// Has the peers fenced that this primary has lost.
    #[inline(never)]
    pub(super) fn run_fencing<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if self.role != Role::Primary || self.client.is_some() {
            // Who hands its requests over has parted from its peers by itself.
            return;
        }
        for id in self.unfenced().iter() {
            self.fence(cx, id);
        }
    }

    /// Asks the host, if it is time.
    fn fence<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        let fence = &mut peer.fence;
        if fence.deadline().is_some_and(|deadline| deadline > cx.now) {
            return;
        }
        let is_new = fence.since.is_none() || fence.outcome.is_some();
        if is_new {
            fence.lift();
        }
        fence.since = Some(cx.now);
        let number = fence.number;
        if is_new {
            cx.log(
                Level::Warn,
                format_args!("peer {id}: out of reach: to be fenced"),
            );
        }
        cx.emit(Effect::Fence { peer: id, number });
    }

    /// The host says what became of a peer.
    #[inline(never)]
    pub(super) fn on_fenced<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        number: u64,
        outcome: FenceOutcome,
    ) {
        let is_asked = |fence: &Fence| {
            fence.number == number && fence.since.is_some() && fence.outcome.is_none()
        };
        let Some(peer) = self.peer_mut(id).filter(|peer| is_asked(&peer.fence)) else {
            return;
        };
        (peer.fence.outcome, peer.fence.since) = (Some(outcome), Some(cx.now));
        for volume in self.each_volume_mut() {
            volume.recheck = true;
        }
        cx.log(
            Level::Warn,
            format_args!("peer {id}: fence-peer: {outcome}"),
        );
        cx.notify(Object::Peer(id));
    }

    /// When somebody is to be fenced, or asked for.
    pub(super) fn fencing_deadline(&self) -> Option<Time> {
        let is_waiting = self.role == Role::Primary || self.transition.is_some();
        let open = self.unfenced().iter().filter(|_| is_waiting);
        open.filter_map(|id| self.peer(id)?.fence.deadline()).min()
    }
}
