// SPDX-License-Identifier: GPL-2.0-only

//! A disk comes and goes.
//!
//! ```text
//! Diskless -> Attaching -> Inconsistent | Outdated | Consistent (-> UpToDate)
//!    ^            |                        |
//!    +- leaving: peers told, nothing in flight, metadata clean (unless failed), closed
//! ```

use super::context::Context;
use super::disk::{Disk, Stage};
use super::volume::Volume;
use crate::effect::{Effect, Level};
use crate::event::Token;
use crate::host::{Host, Output};
use crate::load::LoadedDisk;
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_OUTDATED};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::DiskState;
use weft_uapi::units::{GenerationId, NodeId, NodeSet};

impl<H: Host> Volume<H> {
    /// Takes a disk, or refuses it.
    #[inline(never)]
    pub(super) fn on_attach<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        loaded: &mut Option<LoadedDisk<H>>,
    ) {
        let result = self.take_disk(cx, token, loaded);
        *loaded = None;
        match result {
            Ok(()) => self.recheck = true,
            Err(refusal) => {
                cx.reply(token, Err(refusal));
                if self.disk.is_none() {
                    cx.emit(Effect::CloseDisk { volume: self.id });
                }
            }
        }
    }

    fn take_disk<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        loaded: &mut Option<LoadedDisk<H>>,
    ) -> Result<(), Refusal> {
        if self.disk.is_some() {
            return Err(Refusal::DiskAttached);
        }
        if cx.facts.is_primary() || cx.facts.in_transition {
            return Err(Refusal::IsPrimary);
        }
        if self.witness.is_some() {
            return Err(Refusal::IsTieBreaker);
        }
        let age = loaded.as_ref().map(LoadedDisk::age).unwrap_or_default();
        let al_extents = self.al_extents;
        // Made where it is to stay: it is too large to be moved about on the kernel's stack.
        self.disk
            .put_with(|place| Disk::make(place, loaded, token, al_extents))
            .map_err(|_| Refusal::NoMemory)?;
        let peers = self.peers_that(|_, _| true);
        let Some(disk) = self.disk.as_mut() else {
            return Err(Refusal::NoMemory);
        };
        for peer in peers.iter() {
            disk.ensure_slot(peer);
        }
        // INVARIANT: an incarnation is durable before anything else is allowed with the disk (G7).
        disk.superblock.begin_attach(cx.random_id(), age);
        disk.touch();
        self.required = disk.superblock.generation.members;
        self.offered = disk.sectors();
        self.set_disk_state(cx, DiskState::Attaching);
        Ok(())
    }

    /// Finishes an attach once the new incarnation is durable.
    #[inline(never)]
    pub(super) fn run_attach<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        let Stage::Attaching(token) = disk.stage else {
            return;
        };
        if !disk.is_settled() {
            return;
        }
        disk.stage = Stage::Running;
        disk.resume_relocation();
        let state = if disk.superblock.generation.id == GenerationId::NONE
            || disk.has_flag(FLAG_INCONSISTENT)
        {
            DiskState::Inconsistent
        } else if disk.has_flag(FLAG_OUTDATED) {
            DiskState::Outdated
        } else {
            DiskState::Consistent
        };
        self.set_disk_state(cx, state);
        self.tell_capacity(cx);
        self.negotiate_all(cx.now);
        cx.reply(token, Ok(()));
    }

    /// Lets the disk go in good order.
    #[inline(never)]
    pub(super) fn on_detach<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, token: Token) {
        let refusal = match self.disk.as_ref() {
            None => Some(Refusal::NoDisk),
            Some(disk) if disk.stage != Stage::Running => Some(Refusal::Busy),
            Some(_) if cx.facts.in_transition || self.change.is_some() => Some(Refusal::Busy),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            cx.reply(token, Err(refusal));
            return;
        }
        if let Some(disk) = self.disk.as_mut() {
            disk.stage = Stage::Leaving(Some(token));
        }
        self.negotiate_all(cx.now);
        self.recheck = true;
    }

    /// The disk cannot be trusted any more: nothing new is started, and it is closed when all is answered.
    pub(super) fn fail_disk<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, sentence: &str) {
        if self.disk_state() == DiskState::Failed {
            return;
        }
        let Some(disk) = self.disk.as_ref() else {
            return;
        };
        let token = match disk.stage {
            Stage::Attaching(token) => {
                cx.reply(token, Err(Refusal::MetaIo));
                None
            }
            Stage::Running => None,
            Stage::Leaving(token) => token,
        };
        self.hands_over = self.note_holders(cx);
        if let Some(disk) = self.disk.as_mut() {
            disk.stage = Stage::Leaving(token);
        }
        cx.log(
            Level::Error,
            format_args!("volume {}: {}; the disk is let go", self.id, sentence),
        );
        self.set_disk_state(cx, DiskState::Failed);
        self.negotiate_all(cx.now);
    }

    /// Takes the leave of a disk as far as it goes.
    #[inline(never)]
    pub(super) fn run_leaving<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let has_failed = self.disk_state() == DiskState::Failed;
        let Some(Stage::Leaving(token)) = self.disk.as_ref().map(|disk| disk.stage) else {
            return;
        };
        // A failed disk is not waited for; a good one leaves when the peers send nothing more.
        // Those of a client are another node's.
        let has_requests = self.requests.used() > 0 && !cx.facts.is_client;
        let is_needed = cx.facts.is_primary() || has_requests || self.ops.used() > 0;
        if !has_failed && (self.is_negotiating() || is_needed) {
            return;
        }
        self.forget_tails();
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        if !has_failed {
            disk.wants_clean = true;
            if !disk.is_clean() {
                return;
            }
        }
        if disk.io_pending > 0 {
            return;
        }
        self.fail_requests(cx);
        // Another disk may come before the peers have learnt of this: nothing meant for this one may reach it.
        for replica in self.replicas.iter_mut().flatten() {
            replica.accepts = false;
            replica.receives = false;
            replica.adopting = None;
            replica.source = None;
            replica.target = None;
        }
        self.disk.clear();
        for replica in self.replicas.iter_mut().flatten() {
            replica.forget_decision();
        }
        self.required = NodeSet::EMPTY;
        self.change = None;
        self.stalled = None;
        self.wants_shrink = false;
        self.wants_vote = false;
        self.wants_union = false;
        self.insists = false;
        self.set_disk_state(cx, DiskState::Diskless);
        self.tell_capacity(cx);
        cx.emit(Effect::CloseDisk { volume: self.id });
        if let Some(token) = token {
            cx.reply(token, Ok(()));
        }
    }

    /// Turns what is not known to be stable everywhere into bits and gives the references to the log back.
    fn forget_tails(&mut self) {
        for node in NodeId::all() {
            // Acknowledgements that are on their way are of no disk any more.
            self.void_sent(node);
            self.lose_received(node);
        }
    }
}
