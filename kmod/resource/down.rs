// SPDX-License-Identifier: GPL-2.0-only

//! Taking a resource down: demote, disconnect and forget the peers, detach and remove the volumes, remove the resource.
//!
//! A secondary leaves in order when it disconnects from the primary, see `engine/machine/leave.rs`.
//!
//! There is no list of steps: after each of them the engine's state says which is next. The first refusal ends it.

use super::orders::Purpose;
use super::Resource;
use crate::error::Failure;
use crate::netlink::Answer;
use crate::pump::Kernel;
use kernel::sync::Arc;
use weft_engine::event::Command;
use weft_engine::host::Time;
use weft_engine::Engine;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, Role};

/// How far it is, and who waits for it.
pub(super) struct Down {
    pub(super) answer: Answer,
    /// Also if a primary loses its last good copy or its majority by that.
    force: bool,
    last: Option<Command>,
}

impl Down {
    pub(super) fn new(answer: Answer, force: bool) -> Self {
        Self {
            answer,
            force,
            last: None,
        }
    }
}

impl Resource {
    /// Does the next step.
    pub(super) fn go_down(self: &Arc<Self>, mut down: Down) {
        match self.with_engine(|engine, now| next_step(engine, now, down.force)) {
            None => self.remove(down.answer),
            // Done, and yet to be done: somebody works against it.
            step if step == down.last => Failure::from(Refusal::Busy).give(down.answer),
            Some(command) => {
                down.last = Some(command);
                self.command(command, Purpose::Down(down));
            }
        }
    }

    /// A step was done or refused.
    pub(super) fn went_down(self: &Arc<Self>, down: Down, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.go_down(down),
            Err(failure) => failure.give(down.answer),
        }
    }
}

/// What stands first in the way of removing the resource.
fn next_step(engine: &Engine<Kernel>, now: Time, force: bool) -> Option<Command> {
    if engine.resource_info(now).role == Role::Primary.number() || engine.is_demoting() {
        return Some(Command::Secondary { force: false });
    }
    if let Some(peer) = engine.peers().next() {
        let alone = engine
            .peer_info(peer, now)
            .is_none_or(|info| info.connection == ConnectionState::StandAlone.number());
        return Some(if alone {
            Command::DelPeer { peer }
        } else {
            Command::Disconnect { peer, force }
        });
    }
    let volume = engine.volumes().next()?;
    let diskless = engine
        .volume_info(volume, now)
        .is_none_or(|info| info.disk_state == DiskState::Diskless.number());
    Some(if diskless {
        Command::DelDevice { volume }
    } else {
        Command::Detach { volume }
    })
}
