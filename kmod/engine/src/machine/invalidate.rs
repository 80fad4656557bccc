// SPDX-License-Identifier: GPL-2.0-only

//! Disks that a person gives up: everything is fetched anew, from a peer that has all of it.
//!
//! ```text
//! order --told in a round--> rule invalidated --source stable--> on record: inconsistent, owes everything --> resync
//! ```
//! INVARIANT: the source's bits come when it has made its data stable, and only then the victim notes that it is given up;
//! both mark everything after that. So until it is on record nothing has happened, and from then on the victim is an
//! unfinished target that owes everything, whatever its bitmaps on disk say ([`FLAG_INVALIDATED`]); a power cut in between
//! turns nothing round. A node that somebody fetches from does not become a victim by the same order, else disks
//! could be given up for each other in a circle.

use super::context::{Context, Facts};
use super::disk::{Disk, Stage};
use super::replica::Replica;
use super::request;
use super::said::Said;
use super::target::Target;
use super::volume::Volume;
use super::Engine;
use crate::decide::Rule;
use crate::event::Token;
use crate::host::{Host, Output};
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_INVALIDATED};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{NodeId, SessionId, VolumeId};

/// Whose disk is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GiveUp {
    /// This node's, for the peer's.
    Own,
    /// The peer's, for this node's.
    Peers,
}

/// What a person wants to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) whose: GiveUp,
    /// Only the blocks in which a verify found a difference, if that will do.
    pub(super) is_repair: bool,
}

impl Order {
    /// All of a disk.
    fn all(whose: GiveUp) -> Self {
        let is_repair = false;
        Self { whose, is_repair }
    }

    /// What a verify found.
    pub(super) fn repair(whose: GiveUp) -> Self {
        let is_repair = true;
        Self { whose, is_repair }
    }

    /// Whether a rule decides by it.
    fn is_followed_by(self, rule: &str) -> bool {
        rule == Rule::Invalidated.name() || (self.is_repair && rule == Rule::Repair.name())
    }
}

/// How far it is that this disk is given up for its source's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// The source's data are not stable yet.
    Wanted,
    /// It is on record, or about to be: [`super::disk::Disk::given_up_by`].
    Made,
}

/// Who waits for a disk to be given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invalidation {
    token: Token,
    peer: NodeId,
    /// In this session.
    session: SessionId,
    order: Order,
}

/// Why not, and which peer is in the way.
pub(super) type Denial = (Refusal, Option<NodeId>);

impl<H: Host> Engine<H> {
    /// Gives this node's disk up.
    #[inline(never)]
    pub(super) fn on_invalidate<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: VolumeId,
        from: Option<NodeId>,
    ) {
        let facts = cx.facts;
        let Some(volume) = self.volume_mut(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        match volume.source_for(&facts, from) {
            Ok(peer) => volume.begin_invalidation(cx, token, peer, Order::all(GiveUp::Own)),
            Err(denial) => cx.deny(token, denial),
        }
    }

    /// Gives a peer's disk up.
    #[inline(never)]
    pub(super) fn on_invalidate_peer<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: VolumeId,
        peer: NodeId,
    ) {
        let facts = cx.facts;
        let Some(volume) = self.volume_mut(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        match volume.may_be_source_for(&facts, peer) {
            Ok(()) => volume.begin_invalidation(cx, token, peer, Order::all(GiveUp::Peers)),
            Err(denial) => cx.deny(token, denial),
        }
    }
}

impl<H: Host> Replica<H> {
    fn is_syncing(&self) -> bool {
        !matches!(
            self.replication,
            ReplicationState::Off | ReplicationState::Established
        )
    }
}

impl<H: Host> Volume<H> {
    /// What has to be so whichever disk is given up.
    pub(super) fn may_order(&self, facts: &Facts) -> Result<(), Denial> {
        let refusal = match self.disk.as_ref() {
            None => Refusal::NoDisk,
            Some(disk) if disk.stage != Stage::Running => Refusal::Busy,
            Some(_) if self.invalidation.is_some() => Refusal::Busy,
            Some(_) if facts.in_transition => Refusal::InTransition,
            Some(_) => return Ok(()),
        };
        Err((refusal, None))
    }

    /// Whether the peer is there, with a disk as good as this one and nothing under way between the two.
    pub(super) fn may_order_with(&self, peer: NodeId) -> Result<(), Denial> {
        let replica = self
            .replica(peer)
            .ok_or((Refusal::NoSuchPeer, Some(peer)))?;
        let refusal = if replica.session.is_none() || replica.round.decided == 0 {
            Refusal::NotConnected
        } else if replica.peer_disk == DiskState::Diskless {
            Refusal::PeerNoDisk
        } else if replica.is_syncing() {
            Refusal::ResyncRunning
        } else if replica.round.is_open() || replica.verdict.is_some() {
            Refusal::InTransition
        } else if replica.peer_disk != DiskState::UpToDate || !replica.receives {
            Refusal::NoUpToDateDisk
        } else if !replica.round.knows_orders {
            Refusal::PeerTooOld
        } else {
            return Ok(());
        };
        Err((refusal, Some(peer)))
    }

    /// From whom this disk is to fetch everything.
    pub(super) fn source_for(&self, facts: &Facts, from: Option<NodeId>) -> Result<NodeId, Denial> {
        self.may_order(facts)?;
        if facts.is_primary() {
            return Err((Refusal::IsPrimary, None));
        }
        // Who fetches from here would have no source any more.
        if let Some((peer, _)) = self
            .each_replica()
            .find(|(_, replica)| replica.is_syncing())
        {
            return Err((Refusal::ResyncRunning, Some(peer)));
        }
        let leader = self.leader(facts);
        let source = match (from, leader) {
            (Some(from), Some(leader)) if from != leader => {
                return Err((Refusal::PeerPrimary, Some(leader)));
            }
            (Some(source), _) | (None, Some(source)) => source,
            (None, None) => self.best_source()?,
        };
        self.may_order_with(source).map(|()| source)
    }

    fn best_source(&self) -> Result<NodeId, Denial> {
        let mut last = Err((Refusal::NotConnected, None));
        for peer in self.sessions().iter() {
            last = self.may_order_with(peer).map(|()| peer);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Whether the peer's disk may fetch everything from this one.
    pub(super) fn may_be_source_for(&self, facts: &Facts, peer: NodeId) -> Result<(), Denial> {
        self.may_order(facts)?;
        self.may_order_with(peer)?;
        if self.disk_state() != DiskState::UpToDate {
            return Err((Refusal::NoUpToDateDisk, None));
        }
        match self.leader(facts) {
            Some(leader) if leader != facts.node => Err((Refusal::PeerPrimary, Some(leader))),
            _ => Ok(()),
        }
    }

    pub(super) fn begin_invalidation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        peer: NodeId,
        order: Order,
    ) {
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        let Some(session) = replica.session else {
            return;
        };
        replica.round.order = Some(order);
        replica.round.renew(cx.now);
        self.invalidation = Some(Invalidation {
            token,
            peer,
            session,
            order,
        });
        self.recheck = true;
    }

    /// Answers once it is on record that the disk is given up, or will not be.
    pub(super) fn run_invalidation<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(invalidation) = self.invalidation else {
            return;
        };
        let replica = self
            .replica(invalidation.peer)
            .filter(|replica| replica.session == Some(invalidation.session));
        let result = match replica {
            _ if !self.has_running_disk() => Err(Refusal::NoDisk),
            None => Err(Refusal::NotConnected),
            Some(replica) if replica.round.order.is_some() => return,
            Some(replica) => match replica.given_up(invalidation.order) {
                Some(true) if !self.is_half_given_up(invalidation.peer) => Ok(()),
                Some(_) => return,
                None if replica.knows_nothing_of(invalidation.order) => Err(Refusal::NothingFound),
                None => Err(Refusal::NotAgreed),
            },
        };
        if let Some(replica) = self.replica_mut(invalidation.peer) {
            replica.round.order = None;
        }
        self.invalidation = None;
        let result = result.map_err(|refusal| (refusal, Some(invalidation.peer)));
        match result {
            Ok(()) => cx.reply(invalidation.token, Ok(())),
            Err(denial) => cx.deny(invalidation.token, denial),
        }
    }

    /// By a person's order this disk is to fetch everything from the peer, or what a verify found.
    pub(super) fn on_given_up<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        target: Target,
    ) {
        let is_source = |(_, replica): (NodeId, &Replica<H>)| replica.source.is_some();
        if self.each_replica().any(is_source) {
            return self.meet_again(peer, cx.now);
        }
        self.on_target(cx, peer, rule, target);
    }

    /// Puts it on record that this disk is given up, as soon as the source's data are stable.
    pub(super) fn record_given_up<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
    ) {
        let is_told = self.has_told();
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        let is_due = |target: &&mut Target| {
            target.given_up == Some(Record::Wanted) && target.pages.is_received && !is_told
        };
        if let Some(target) = replica.target.as_mut().filter(is_due) {
            target.given_up = Some(Record::Made);
            disk.set_flag(FLAG_INCONSISTENT | FLAG_INVALIDATED, true);
            disk.given_up_by = Some(disk.touch());
            self.set_disk_state(cx, DiskState::Inconsistent);
            self.void_reads();
        }
    }

    /// What the disk answers from now on is not what the application is to see.
    fn void_reads(&mut self) {
        for request in self.requests.iter_mut() {
            request.has_failed |= request.stage == request::Stage::Reading;
        }
    }

    /// The peer from which this disk is to fetch only what a verify found.
    fn repaired_from(&self) -> Option<NodeId> {
        let is_repair = |(_, replica): &(NodeId, &Replica<H>)| {
            let target = replica.target.as_ref();
            let is_made = target.is_some_and(|target| target.given_up == Some(Record::Made));
            is_made && replica.rule == Rule::Repair.name()
        };
        self.each_replica().find(is_repair).map(|(peer, _)| peer)
    }

    /// This disk owes everything from when it is on record that it is given up, whatever became of the session since.
    pub(super) fn mark_given_up(&mut self) {
        let is_recorded = |disk: &Disk<H>| {
            disk.given_up_by
                .is_some_and(|number| disk.is_durable(number))
        };
        if let Some(disk) = self.disk.as_mut().filter(|disk| is_recorded(disk)) {
            disk.given_up_by = None;
            match self.repaired_from().filter(|&peer| self.has_found(peer)) {
                Some(peer) => self.owe_found(peer),
                // What was found went with the session, or all was given up.
                None => self.mark_everything(),
            }
            self.recheck = true;
        }
    }

    /// Whether this disk is about to be given up and does not owe everything yet.
    pub(super) fn is_half_given_up(&self, peer: NodeId) -> bool {
        let target = self
            .replica(peer)
            .and_then(|replica| replica.target.as_ref());
        let is_wanted = |target: &Target| target.given_up == Some(Record::Wanted);
        let is_writing = |disk: &Disk<H>| disk.given_up_by.is_some();
        target.is_some_and(is_wanted) || self.disk.as_ref().is_some_and(is_writing)
    }
}

impl<H: Host> Replica<H> {
    /// Whether the peer's disk is to be repaired, and the peer does not know what differs.
    fn knows_nothing_of(&self, order: Order) -> bool {
        let knows = |said: Said| said.side.has_found;
        order == Order::repair(GiveUp::Peers) && !self.round.peer.is_some_and(knows)
    }

    /// Whether it is on record that the disk is given up; `None`: it is not about to be.
    fn given_up(&self, order: Order) -> Option<bool> {
        if !order.is_followed_by(self.rule) {
            return None;
        }
        match order.whose {
            GiveUp::Own => Some(self.target.as_ref()?.given_up == Some(Record::Made)),
            GiveUp::Peers => Some(self.source.as_ref()?.pages.is_received),
        }
    }
}
