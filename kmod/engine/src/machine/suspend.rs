// SPDX-License-Identifier: GPL-2.0-only

//! Requests of the application that wait because a person said so.
//!
//! Nothing new begins from the command on, reads included. It is answered once nothing is under way any more, here or at
//! a peer that gets the writes, so what all disks hold then is one point in time. It lasts until it is taken back or
//! the resource is removed, whatever becomes of role and peers. Resyncs go on, but for blocks that a waiting write is about to
//! change.

use super::context::Context;
use super::request::Stage;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::event::Token;
use crate::host::{Host, Output};
use crate::tail::{Entry, Kind};
use weft_uapi::refusal::Refusal;

/// Whether requests have to wait.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Suspension {
    /// They need not.
    #[default]
    None,
    /// They have to, and the command waits for those that are under way.
    Begun(Token),
    /// They do.
    Done,
}

impl Suspension {
    /// Whether nothing new may begin.
    pub(super) fn is_wanted(self) -> bool {
        self != Self::None
    }
}

impl<H: Host> Engine<H> {
    /// Lets requests wait; answered once none is under way.
    #[inline(never)]
    pub(super) fn on_suspend<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, token: Token) {
        if self.suspension.is_wanted() {
            return cx.reply(token, Err(Refusal::IoSuspended));
        }
        self.suspension = Suspension::Begun(token);
        cx.log(
            Level::Warn,
            format_args!("requests of the application wait by command"),
        );
        cx.notify(Object::Resource);
    }

    /// Lets requests go on.
    #[inline(never)]
    pub(super) fn on_resume<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
    ) -> Result<(), Refusal> {
        match core::mem::take(&mut self.suspension) {
            Suspension::None => return Err(Refusal::IoNotSuspended),
            Suspension::Begun(token) => cx.reply(token, Err(Refusal::Interrupted)),
            Suspension::Done => {}
        }
        for volume in self.each_volume_mut() {
            volume.recheck = true;
        }
        cx.log(
            Level::Info,
            format_args!("requests of the application go on by command"),
        );
        cx.notify(Object::Resource);
        Ok(())
    }

    /// Answers once nothing is under way.
    pub(super) fn run_suspension<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Suspension::Begun(token) = self.suspension else {
            return;
        };
        if self.each_volume().all(Volume::is_at_rest) {
            self.suspension = Suspension::Done;
            cx.reply(token, Ok(()));
        }
    }
}

impl<H: Host> Volume<H> {
    /// Whether no request of the application is under way, neither here nor at a peer.
    fn is_at_rest(&self) -> bool {
        let is_under_way =
            |entry: &Entry| entry.kind == Kind::Write && !entry.waits_written.is_empty();
        self.requests
            .iter()
            .all(|(_, request)| request.stage == Stage::Held)
            && !self.tail.entries().any(is_under_way)
    }
}
