// SPDX-License-Identifier: GPL-2.0-only

//! Resyncs that wait for those of another resource (`resync-after`).
//!
//! ```text
//! a turn of the pump sees that resyncs begin or end -> slow queue: Registry::give_turns -> Event::Turn to whom it concerns
//! ```

use super::orders::Purpose;
use super::{Resource, TURN};
use crate::disk::Patience;
use crate::error::Failure;
use crate::netlink::Answer;
use crate::sys::work::SlowQueue;
use kernel::{
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc,
    },
    workqueue::WorkItem,
};
use weft_engine::effect::Object;
use weft_engine::event::{Command, Event, Options};
use weft_uapi::control::name_of;
use weft_uapi::refusal::Refusal;
use weft_uapi::status::Name;

/// What a resource has to do with others.
pub(crate) struct Turns {
    /// A resync is under way that does not wait.
    is_resyncing: Atomic<bool>,
    /// The engine was told that resyncs have to wait.
    waits: Atomic<bool>,
}

impl Turns {
    pub(super) const fn new() -> Self {
        Self {
            is_resyncing: Atomic::new(false),
            waits: Atomic::new(false),
        }
    }
}

impl Resource {
    /// Whether a resync is under way that does not wait.
    pub(crate) fn is_resyncing(&self) -> bool {
        self.turns.is_resyncing.load(Relaxed)
    }

    /// Takes note of that, under the engine's lock.
    pub(crate) fn note_resyncing(self: &Arc<Self>, is_resyncing: bool) {
        if self.turns.is_resyncing.xchg(is_resyncing, Full) != is_resyncing {
            self.change_turns();
        }
    }

    /// Resyncs began or ended here, or an administrator says who waits for whom. Process context.
    pub(crate) fn change_turns(self: &Arc<Self>) {
        SlowQueue::enqueue::<_, TURN>(self.clone());
    }

    /// Whether its resyncs have to wait. Not twice at the same time; no disk is waited for, or its resource held up others.
    pub(crate) fn set_turn(self: &Arc<Self>, waits: bool) {
        if self.turns.waits.xchg(waits, Full) != waits {
            self.feed(Event::Turn { waits }, Patience::Hurry);
        }
    }
}

impl WorkItem<TURN> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.host.registry.give_turns();
    }
}

impl Resource {
    /// Changes options, and perhaps for whose resyncs this resource's wait: all of them or none.
    pub(super) fn set_options(
        self: &Arc<Self>,
        options: Options,
        after: Option<Option<Name>>,
        answer: Answer,
    ) {
        let command = Command::SetOptions { options };
        match after {
            None => self.command(command, Purpose::Itself(answer)),
            Some(other) => match self.host.registry.may_wait(self.padded_name(), other) {
                Ok(()) => self.command(command, Purpose::After(answer, other)),
                Err(refusal) => self.refuse_to_wait(answer, refusal, other),
            },
        }
    }

    /// The other options are set.
    pub(super) fn let_wait(self: &Arc<Self>, answer: Answer, other: Option<Name>) {
        match self.host.registry.set_after(self.padded_name(), other) {
            Ok(()) => {
                self.change_turns();
                self.tell(Object::Resource);
                answer.give(Ok(()));
            }
            Err(refusal) => self.refuse_to_wait(answer, refusal, other),
        }
    }

    fn refuse_to_wait(&self, answer: Answer, refusal: Refusal, other: Option<Name>) {
        let other = other.as_ref().and_then(|name| name_of(name)).unwrap_or("");
        let name = self.name();
        Failure::new(refusal, format_args!("Resource {name} after {other}.")).give(answer);
    }
}
