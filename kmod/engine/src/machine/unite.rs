// SPDX-License-Identifier: GPL-2.0-only

//! The first record of disks that were just created and are equal because a person says so: no first sync.
//!
//! Goes the way of a promotion that a person insists on: all peers are met anew and promise the term, so of two nodes that
//! are told at the same time one makes the record. It names all connected disks as members and no writer, so nothing
//! is written in it before somebody is promoted. A member that is lost before it has the record is still blank, and fetches
//! everything.

use super::change::Reason;
use super::context::{Asker, Context};
use super::disk::Disk;
use super::replica::Replica;
use super::role::{Transition, PROMOTION_TIMEOUT_MS};
use super::said::Said;
use super::volume::Volume;
use super::Engine;
use crate::event::Token;
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::Generation;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, Role};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term};

/// Why not, and which peer is in the way.
type Denial = (Refusal, Option<NodeId>);

impl<H: Host> Engine<H> {
    /// The disks of this node and of all connected peers count as equal.
    #[inline(never)]
    pub(super) fn on_new_generation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
    ) {
        let denial = match self.transition {
            Some(_) => Err((Refusal::InTransition, None)),
            None => self.may_unite(),
        };
        match denial {
            // What passes is waited for.
            Ok(()) | Err((Refusal::InTransition, Some(_))) => {}
            Err(denial) => return cx.deny(token, denial),
        }
        for volume in self.each_volume_mut() {
            volume.negotiate_all(cx.now);
        }
        self.unites = true;
        self.transition = Some(Transition::Comparing {
            asker: token.into(),
            force: true,
            since: cx.now,
        });
    }

    /// Whether there are disks that may be called equal.
    pub(super) fn may_unite(&self) -> Result<(), Denial> {
        if self.volumes().next().is_none() {
            return Err((Refusal::NoVolume, None));
        }
        if self.role == Role::Primary || self.client.is_some() {
            return Err((Refusal::IsPrimary, None));
        }
        for id in self.peers() {
            let Some(peer) = self.peer(id) else {
                continue;
            };
            if peer.role == Role::Primary || peer.is_client {
                return Err((Refusal::PeerPrimary, Some(id)));
            }
            if peer.connection() == ConnectionState::Handshake || peer.is_promised {
                return Err((Refusal::InTransition, Some(id)));
            }
        }
        if !self.each_volume().all(Volume::has_running_disk) {
            return Err((Refusal::NoDisk, None));
        }
        if !self.each_volume().any(Volume::is_blank) {
            return Err((Refusal::NotJustCreated, None));
        }
        for volume in self.each_volume() {
            if volume.is_blank() {
                volume.may_unite()?;
            }
        }
        Ok(())
    }

    /// The peers promised: has the records made.
    pub(super) fn record_union<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        if let Err(denial) = self.may_unite() {
            self.give_up(cx);
            return cx.deny(asker, denial);
        }
        for volume in self.each_volume_mut() {
            volume.wants_union = volume.is_blank();
            volume.recheck = true;
        }
        self.transition = Some(Transition::Uniting {
            asker,
            since: cx.now,
        });
    }

    /// Answers once the records are in force.
    pub(super) fn unite<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        since: Time,
    ) {
        let is_under_way = |volume: &Volume<H>| {
            volume.wants_union || volume.change.is_some() || volume.stalled.is_some()
        };
        let is_late = since.after_ms(PROMOTION_TIMEOUT_MS) <= cx.now;
        if self.each_volume().any(is_under_way) && !is_late {
            return;
        }
        let is_done = |volume: &Volume<H>| volume.has_running_disk() && !volume.is_blank();
        let result = match self.each_volume().all(is_done) {
            true => Ok(()),
            false => Err(Refusal::NotAgreed),
        };
        self.give_up(cx);
        cx.reply(asker, result);
    }
}

impl<H: Host> Volume<H> {
    /// Whether the disk never held data.
    fn is_blank(&self) -> bool {
        let is_blank = |disk: &Disk<H>| disk.superblock.generation.id == GenerationId::NONE;
        self.disk.as_ref().is_some_and(is_blank)
    }

    /// The connected peers with disks.
    fn partners(&self) -> NodeSet {
        self.peers_that(|_, replica| {
            let said = replica.round.peer.filter(|_| replica.session.is_some());
            said.is_some_and(|said| said.disk != DiskState::Diskless)
        })
    }

    /// Whether all connected disks are as blank as this one.
    fn may_unite(&self) -> Result<(), Denial> {
        let partners = self.partners();
        if partners.is_empty() && !self.is_negotiating() {
            return Err((Refusal::NotConnected, None));
        }
        for (peer, replica) in self.each_replica() {
            if replica.session.is_some() && (replica.is_negotiating() || replica.verdict.is_some())
            {
                return Err((Refusal::InTransition, Some(peer)));
            }
            let said = replica.round.peer.filter(|_| partners.contains(peer));
            if said.is_some_and(|said| !said.side.ancestry.is_blank()) {
                return Err((Refusal::NotJustCreated, Some(peer)));
            }
            if said.is_some() && !replica.round.knows_orders {
                return Err((Refusal::PeerTooOld, Some(peer)));
            }
        }
        Ok(())
    }

    /// Makes the record.
    pub(super) fn begin_union<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if !self.is_blank() || self.may_unite().is_err() {
            return;
        }
        let partners = self.partners();
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        disk.forget_bits(partners);
        let term = disk.superblock.promised_term.max(Term(1));
        for peer in partners.iter() {
            if let Some(replica) = self.replica_mut(peer) {
                // It gets the record.
                replica.receives = true;
            }
        }
        self.begin_change(cx, Reason::Union(partners), term);
    }

    /// A peer has the record.
    pub(super) fn note_united(&mut self, peer: NodeId) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.is_united = true;
        }
    }

    /// Whether the disks have been united since the states were told that are being decided upon; both sides know.
    pub(super) fn has_united_since(&mut self, peer: NodeId, own: &Said) -> bool {
        let was_blank = own.side.ancestry.is_blank() && !self.is_blank();
        let is_united = |replica: &mut Replica<H>| core::mem::take(&mut replica.is_united);
        let said_blank = |replica: &Replica<H>| {
            let said = replica.round.peer;
            said.is_some_and(|said| said.side.ancestry.is_blank())
        };
        let is_stale = self.replica(peer).is_some_and(said_blank);
        self.replica_mut(peer).is_some_and(is_united) && is_stale || was_blank
    }

    /// The record is in force: those who have it say so in a new round.
    pub(super) fn on_united<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.set_disk_state(cx, DiskState::UpToDate);
        self.negotiate_all(cx.now);
    }
}

impl<H: Host> Disk<H> {
    /// What was noted towards these nodes before there were data means nothing.
    pub(super) fn forget_bits(&mut self, nodes: NodeSet) {
        for node in nodes.iter() {
            if let Some(slot) = self.slot(node) {
                self.bits.clear_all(slot);
            }
        }
        self.wants_bitmaps = true;
    }
}

/// Whether a peer makes the first record of disks that were just created, of which this node's is one.
///
/// INVARIANT: both disks were blank when they met last, so what the record says replaces nothing.
pub(super) fn is_first_record<H: Host>(
    replica: &Replica<H>,
    peer: NodeId,
    node: NodeId,
    record: &Generation,
) -> bool {
    let is_blank = |said: Option<Said>| {
        said.is_some_and(|said| said.side.ancestry.is_blank() && said.disk != DiskState::Diskless)
    };
    record.parent == GenerationId::NONE
        && record.writer.is_none()
        && record.members.contains(peer)
        && record.members.contains(node)
        && is_blank(replica.round.own)
        && is_blank(replica.round.peer)
        && replica.source.is_none()
        && replica.target.is_none()
}
