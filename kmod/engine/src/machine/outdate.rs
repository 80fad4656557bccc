// SPDX-License-Identifier: GPL-2.0-only

//! A person, or who fences this node, says that newer data are elsewhere: its disks are outdated until it has met them.

use super::context::Context;
use super::disk::{Disk, Stage};
use super::replica::Replica;
use super::said::Said;
use super::session::Peer;
use super::volume::Volume;
use super::Engine;
use crate::event::Token;
use crate::host::{Host, Output};
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_OUTDATED};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::units::NodeId;

impl<H: Host> Engine<H> {
    /// Makes the disks outdated; answered once that is on record.
    #[inline(never)]
    pub(super) fn on_outdate<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, token: Token) {
        if let Err(denial) = self.may_outdate() {
            return cx.deny(token, denial);
        }
        for volume in self.each_volume_mut() {
            volume.outdate(cx);
            volume.recheck = true;
        }
        self.outdating = Some(token);
    }

    /// Who is connected to a disk is not outdated by being told so, but by what the two decide.
    fn may_outdate(&self) -> Result<(), (Refusal, Option<NodeId>)> {
        if self.role == Role::Primary {
            return Err((Refusal::IsPrimary, None));
        }
        if self.transition.is_some() || self.outdating.is_some() {
            return Err((Refusal::Busy, None));
        }
        let mut disks = self.each_volume().filter_map(|volume| volume.disk.as_ref());
        if self.each_volume().all(|volume| volume.disk.is_none()) {
            return Err((Refusal::NoDisk, None));
        }
        if disks.any(|disk| disk.stage != Stage::Running) {
            return Err((Refusal::Busy, None));
        }
        let connected = self.connected();
        let leads = |id: &NodeId| self.peer(*id).is_some_and(Peer::leads);
        if let Some(id) = connected.iter().find(leads) {
            return Err((Refusal::PeerPrimary, Some(id)));
        }
        let has_disk = |id: &NodeId| {
            let is_there = |volume: &Volume<H>| {
                let replica = volume.replica(*id);
                replica.is_some_and(|replica| replica.peer_disk != DiskState::Diskless)
            };
            self.each_volume().any(is_there)
        };
        match connected.iter().find(has_disk) {
            Some(id) => Err((Refusal::PeerConnected, Some(id))),
            None => Ok(()),
        }
    }

    /// Answers once the disks are on record as outdated.
    pub(super) fn run_outdate<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(token) = self.outdating else {
            return;
        };
        let is_settled = |volume: &Volume<H>| volume.disk.as_ref().is_none_or(Disk::is_settled);
        if !self.each_volume().all(is_settled) {
            return;
        }
        let has_failed = |volume: &Volume<H>| volume.disk_state() == DiskState::Failed;
        let result = if self.each_volume().any(has_failed) {
            Err(Refusal::MetaIo)
        } else {
            Ok(())
        };
        self.outdating = None;
        cx.reply(token, result);
    }
}

impl<H: Host> Volume<H> {
    /// Newer data are elsewhere, so this disk, if it is a good one, does not count until it has met them.
    pub(super) fn outdate<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_good = matches!(
            self.disk_state(),
            DiskState::UpToDate | DiskState::Consistent
        );
        if is_good && !cx.facts.is_primary() {
            if let Some(disk) = self.disk.as_mut() {
                disk.set_flag(FLAG_OUTDATED, true);
            }
            self.set_disk_state(cx, DiskState::Outdated);
        }
    }

    /// Whether this outdated disk has another record than it told: once all members of one say that they have it, none of
    /// them is outdated.
    pub(super) fn may_be_redeemed(&self, own: &Said) -> bool {
        let told = own.side.ancestry.current().id;
        let has_another = |disk: &Disk<H>| disk.superblock.generation.id != told;
        self.disk_state() == DiskState::Outdated
            && !self.is_outrun()
            && self.disk.as_ref().is_some_and(has_another)
    }

    /// All members of the current record are here, and none of them knows a later one: nobody has newer data than this
    /// disk, whoever left or was told so.
    pub(super) fn redeem<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(disk) = self.disk.as_ref() else {
            return;
        };
        let record = disk.superblock.generation;
        let is_finished = !disk.has_flag(FLAG_INCONSISTENT);
        let has_the_same = |replica: &Replica<H>| {
            let side = replica.round.peer.map(|said| said.side);
            replica.receives
                && side.is_some_and(|side| {
                    side.ancestry.current().id == record.id && !side.is_inconsistent
                })
        };
        let here = self.peers_that(|_, replica| has_the_same(replica));
        let is_complete = record.members.0 & !here.with(cx.facts.node).0 == 0;
        let is_member = record.members.contains(cx.facts.node);
        if self.disk_state() != DiskState::Outdated || !is_finished || !is_complete || !is_member {
            return;
        }
        if self.is_outrun() {
            return;
        }
        if let Some(disk) = self.disk.as_mut() {
            disk.set_flag(FLAG_OUTDATED, false);
            disk.stay();
        }
        self.set_disk_state(cx, DiskState::UpToDate);
    }
}
