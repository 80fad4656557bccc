// SPDX-License-Identifier: GPL-2.0-only

//! What one side tells of its disk in a round of the negotiation.

use super::context::Facts;
use super::disk::Stage;
use super::invalidate::{GiveUp, Order};
use super::volume::Volume;
use crate::ancestry::Ancestry;
use crate::decide::{Side, Stance};
use crate::host::Host;
use crate::recovery::{Claim, Contender};
use weft_uapi::ondisk::{
    FLAG_GIVEN_UP, FLAG_INCONSISTENT, FLAG_LEFT, FLAG_NEWCOMER, FLAG_OUTDATED, FLAG_WRITER_ACTIVE,
};
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::units::{GenerationId, Incarnation, NodeId, Seq};
use weft_uapi::wire::{
    FullStateBody, Header, PacketKind, StateAgesBody, STATE_CRASHED, STATE_DISCARDS, STATE_FOUND,
    STATE_INCONSISTENT, STATE_INVALIDATED, STATE_INVALIDATES, STATE_LED, STATE_LEFT,
    STATE_NEWCOMER, STATE_OUTDATED, STATE_REPAIRS, STATE_STALLED,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::FromZeros;

/// What one side said about its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Said {
    pub(super) round: u32,
    pub(super) sectors: u64,
    pub(super) block_bytes: u32,
    pub(super) disk: DiskState,
    pub(super) role: Role,
    /// Primary, but it must not write.
    pub(super) is_stalled: bool,
    /// It left in order, and was not taken in since.
    pub(super) has_left: bool,
    /// The record by which its disk was complete again, if it was a sync target in this attach.
    pub(super) joined: GenerationId,
    pub(super) side: Side,
    pub(super) stance: Stance,
    pub(super) claim: Claim,
}

impl Said {
    /// `header`: of the packet. It names who left before the record that is told, and by which one the disk was complete.
    pub(super) fn from_body(
        told: &FullStateBody,
        header: &Header,
        peer: NodeId,
        role: Role,
    ) -> Option<Self> {
        let FullStateBody { state: body, ages } = told;
        let disk = DiskState::from_number(body.disk_state.get().into())?;
        let flag = |bit| body.flags.get() & bit != 0;
        let line = Ancestry::new(
            body.generation.decode()?.with_left(header.arg)?,
            body.ancestry.map(|id| GenerationId(id.get())),
            GenerationId(body.written.get()),
        );
        let side = Side {
            node: peer,
            ancestry: line,
            incarnation: Incarnation(body.incarnation.get()),
            attach_id: body.attach_id.get(),
            former_attaches: body.former_attaches.map(U64::get),
            former_ages: ages.former_ages.map(U64::get),
            age: ages.age.get(),
            seen_incarnation: Incarnation(body.seen_incarnation.get()),
            seen_attach_id: body.seen_attach_id.get(),
            seen_age: ages.seen_age.get(),
            since: GenerationId(body.since.get()),
            is_dirty: body.bits.get() > 0,
            is_inconsistent: flag(STATE_INCONSISTENT),
            is_primary: role == Role::Primary && disk == DiskState::UpToDate,
            is_writer: role == Role::Primary && disk == DiskState::UpToDate && !flag(STATE_STALLED),
            has_crashed: flag(STATE_CRASHED),
            discards: flag(STATE_DISCARDS),
            is_newcomer: flag(STATE_NEWCOMER),
            is_invalidated: flag(STATE_INVALIDATED),
            invalidates: flag(STATE_INVALIDATES),
            repairs: flag(STATE_REPAIRS),
            has_found: flag(STATE_FOUND),
            tail_seq: body.tail_seq.get(),
        };
        let stance = Stance {
            node: peer,
            leader: node_of(body.leader),
            source: node_of(body.source),
            is_led: flag(STATE_LED),
        };
        let claim = Claim {
            policies: Policies::decode(body.split_brain),
            changes: body.bits.get(),
            is_led: role == Role::Primary || stance.leader.is_some(),
            is_beside: role == Role::Primary && !side.is_primary,
        };
        Some(Self {
            round: body.round.get(),
            sectors: body.sectors.get(),
            block_bytes: body.block_bytes.get(),
            disk,
            role,
            is_stalled: flag(STATE_STALLED),
            has_left: flag(STATE_LEFT),
            joined: GenerationId(header.seq.0),
            side,
            stance,
            claim,
        })
    }

    /// What a person wants given up.
    pub(super) fn order(&self) -> Option<Order> {
        let whose = match (self.side.is_invalidated, self.side.invalidates) {
            (true, _) => GiveUp::Own,
            (false, true) => GiveUp::Peers,
            (false, false) => return None,
        };
        let is_repair = self.side.repairs;
        Some(Order { whose, is_repair })
    }

    /// Whether it tells what a person wants to be given up.
    pub(super) fn has_order(&self) -> bool {
        self.side.is_invalidated || self.side.invalidates
    }

    pub(super) fn contender(&self) -> Contender<'_> {
        Contender {
            side: &self.side,
            claim: &self.claim,
        }
    }

    /// What makes a decision outdated that somebody waits for.
    pub(super) fn gist(&self) -> (Stance, GenerationId, [bool; 3]) {
        let side = &self.side;
        (
            self.stance,
            side.ancestry.current().id,
            [side.is_inconsistent, side.is_dirty, side.is_writer],
        )
    }
}

/// A node as states name it: its id plus one.
fn number_of(node: Option<NodeId>) -> U16 {
    U16::new(node.map_or(0, |node| u16::from(node.get()).saturating_add(1)))
}

fn node_of(number: U16) -> Option<NodeId> {
    NodeId::new(u32::from(number.get()).checked_sub(1)?)
}

impl<H: Host> Volume<H> {
    /// The primary whose writes this disk gets, all of them. One without disk leads nobody, nor one that must not write
    /// or that fetches itself.
    pub(super) fn leader(&self, facts: &Facts) -> Option<NodeId> {
        let leads = |node: &NodeId| {
            if *node == facts.node {
                let fetches = self.source_node().is_some();
                return self.has_running_disk() && self.stalled.is_none() && !fetches;
            }
            self.replica(*node).is_some_and(|replica| {
                let may_write = |said: Said| !said.is_stalled && said.stance.source.is_none();
                let is_there = !matches!(
                    replica.peer_disk,
                    DiskState::Diskless | DiskState::Unknown | DiskState::Failed
                );
                let may_write = replica.round.peer.is_none_or(may_write);
                replica.receives && is_there && may_write && replica.verdict.is_none()
            })
        };
        facts.leaders.iter().find(leads)
    }

    /// The node that this disk fetches from.
    pub(super) fn source_node(&self) -> Option<NodeId> {
        self.each_replica()
            .find_map(|(node, replica)| replica.target.is_some().then_some(node))
    }

    /// Whether that is a primary that may write.
    pub(super) fn is_source_leader(&self, facts: &Facts) -> bool {
        let leads = |node: NodeId| {
            let said = self.replica(node).and_then(|replica| replica.round.peer);
            facts.primaries.contains(node)
                && said.is_some_and(|said| said.stance.leader == Some(node))
        };
        self.source_node().is_some_and(leads)
    }

    /// The header of the packet that tells [`Self::state_body`].
    pub(super) fn state_header(&self) -> Header {
        let mut header = Header::new(PacketKind::State, Some(self.id));
        header.arg = self.left().0.into();
        let joined = self.disk.as_ref().map(|disk| disk.joined);
        header.seq = Seq(joined.unwrap_or_default().0);
        header
    }

    /// What is told to a peer in a round.
    pub(super) fn state_body(&self, facts: &Facts, peer: NodeId, round: u32) -> FullStateBody {
        let role = facts.role;
        let mut full = FullStateBody::new_zeroed();
        let body = &mut full.state;
        body.round = U32::new(round);
        body.role = U16::new(role as u16);
        body.disk_state = U16::new(DiskState::Diskless as u16);
        body.generation = weft_uapi::ondisk::Generation::default().into();
        let Some(disk) = self
            .disk
            .as_ref()
            .filter(|disk| disk.stage == Stage::Running)
        else {
            return full;
        };
        let superblock = &disk.superblock;
        let round_with = self.replica(peer).map(|replica| replica.round);
        let discards = round_with.is_some_and(|round| round.discards);
        let leader = self.leader(facts);
        let is_led = match leader {
            Some(leader) => facts.primaries.contains(leader),
            None => self.is_source_leader(facts),
        };
        let order = round_with.and_then(|round| round.order);
        let whose = order.map(|order| order.whose);
        let knows_verify = round_with.is_some_and(|round| round.knows_verify);
        let has_found = knows_verify && self.has_found(peer);
        let flags = [
            (is_led, STATE_LED),
            (disk.has_flag(FLAG_INCONSISTENT), STATE_INCONSISTENT),
            (
                disk.has_flag(FLAG_WRITER_ACTIVE) && role != Role::Primary,
                STATE_CRASHED,
            ),
            (disk.has_flag(FLAG_OUTDATED), STATE_OUTDATED),
            (discards || disk.has_flag(FLAG_GIVEN_UP), STATE_DISCARDS),
            (self.stalled.is_some(), STATE_STALLED),
            (disk.has_flag(FLAG_NEWCOMER), STATE_NEWCOMER),
            (disk.has_flag(FLAG_LEFT), STATE_LEFT),
            (whose == Some(GiveUp::Own), STATE_INVALIDATED),
            (whose == Some(GiveUp::Peers), STATE_INVALIDATES),
            (order.is_some_and(|order| order.is_repair), STATE_REPAIRS),
            (has_found, STATE_FOUND),
        ];
        body.sectors = U64::new(self.told_sectors(peer));
        body.block_bytes = U32::new(disk.block_bytes);
        body.disk_state = U16::new(self.disk_state() as u16);
        body.flags = U32::new(
            flags
                .iter()
                .filter(|(is_set, _)| *is_set)
                .fold(0, |all, (_, bit)| all | bit),
        );
        body.generation = superblock.generation.into();
        body.ancestry = superblock.ancestry.map(|id| U64::new(id.0));
        body.incarnation = U64::new(superblock.incarnation.0);
        body.attach_id = U64::new(superblock.attach_id);
        body.former_attaches = superblock.former_attaches.map(U64::new);
        let (seen, seen_attach_id) = disk.seen(peer);
        body.seen_incarnation = U64::new(seen.0);
        body.seen_attach_id = U64::new(seen_attach_id);
        body.since = U64::new(disk.since(peer).0);
        body.tail_seq = U64::new(superblock.tail_seq);
        body.bits = U64::new(disk.marked(peer));
        body.written = U64::new(superblock.written.0);
        body.leader = number_of(leader);
        body.source = number_of(self.source_node());
        body.promised_term = U64::new(superblock.promised_term.0);
        if round_with.is_some_and(|round| round.tells_policies) {
            body.split_brain = facts.policies.encode();
        }
        if round_with.is_some_and(|round| round.tells_ages) {
            full.ages = StateAgesBody {
                age: disk.age().into(),
                seen_age: disk.seen_age(peer).into(),
                former_ages: superblock.former_ages.map(U64::new),
            };
        }
        full
    }
}
