// SPDX-License-Identifier: GPL-2.0-only

//! How this node becomes secondary: its last writes are made stable everywhere first.

use super::context::{Asker, Context};
use super::disk::Stage;
use super::role::Transition;
use super::volume::Volume;
use super::Engine;
use crate::host::{Host, Output};
use weft_uapi::ondisk::FLAG_WRITER_ACTIVE;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::wire::PacketKind;

impl<H: Host> Engine<H> {
    /// Wants this node to be secondary.
    #[inline(never)]
    pub(super) fn on_secondary<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        if let Some(Transition::Draining { asker: first }) = self.transition.as_mut() {
            if *first == Asker::Nobody {
                // It is under way already, after the last close.
                *first = asker;
                return;
            }
        }
        let refusal = if self.transition.is_some() {
            Some(Refusal::InTransition)
        } else if self.each_volume().any(|volume| volume.open_count > 0) {
            Some(Refusal::DeviceOpen)
        } else {
            None
        };
        if refusal.is_some() {
            cx.reply(asker, refusal.map_or(Ok(()), Err));
        } else if self.client.is_some() {
            self.leave_server(cx, asker);
        } else if !core::mem::take(&mut self.is_claimed) || !self.clients.is_empty() {
            if self.role == Role::Primary {
                self.tell_leading(cx);
            }
            cx.reply(asker, Ok(()));
        } else {
            self.transition = Some(Transition::Draining { asker });
        }
    }

    /// Whether this node is about to be secondary, though it may be shown as that already: [`crate::event::Command::Secondary`]
    /// waits for the end.
    pub fn is_demoting(&self) -> bool {
        matches!(self.transition, Some(Transition::Draining { .. }))
    }

    /// Wants this node to be secondary at once: whatever was asked of it and is not complete fails.
    #[inline(never)]
    pub(super) fn on_quit<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        if !matches!(self.transition, None | Some(Transition::Draining { .. })) {
            return cx.reply(asker, Err(Refusal::InTransition));
        }
        if self.client.is_some() {
            if self.role == Role::Primary {
                // Its disk may be long in answering what is under way.
                self.step_down(cx, "by command");
            }
            return self.quit_server(cx, asker);
        }
        if self.role == Role::Primary {
            self.is_claimed = false;
            self.step_down(cx, "by command");
        }
        cx.reply(asker, Ok(()));
    }

    /// Goes on with the demotion, and ends it.
    pub(super) fn drain<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        let mut is_drained = true;
        let is_client = self.client.is_some();
        for volume in self.each_volume_mut() {
            is_drained &= volume.drain(is_client);
        }
        if !is_drained {
            return;
        }
        self.transition = None;
        self.set_role(cx, Role::Secondary);
        self.tell_peers(cx, PacketKind::Demoted, 0);
        self.dismiss_clients(cx);
        if is_client {
            self.look_around(cx);
        }
        cx.reply(asker, Ok(()));
    }
}

impl<H: Host> Volume<H> {
    /// Makes the last writes stable everywhere and says on disk that nobody writes; whether that is done.
    fn drain(&mut self, is_client: bool) -> bool {
        if self.has_begun(is_client) || self.change.is_some() {
            return false;
        }
        let Some(disk) = self.disk.as_mut() else {
            return true;
        };
        if disk.stage == Stage::Running && disk.log.referenced() > 0 {
            // One that was asked for and takes long at a peer is not asked for again and again.
            if !self.tail_flush.is_wanted && self.tail_flush.asked != self.tail.last_seq() {
                self.tail_flush.is_wanted = true;
                self.recheck = true;
            }
            return false;
        }
        if disk.has_flag(FLAG_WRITER_ACTIVE) {
            disk.set_flag(FLAG_WRITER_ACTIVE, false);
            self.recheck = true;
            return false;
        }
        disk.is_settled()
    }
}
