// SPDX-License-Identifier: GPL-2.0-only

//! Who waits for the end of an action.

use crate::sys::genl::Reply;
use weft_engine::effect::Refused;

/// Takes the result of an action, exactly once. Dropped instead, the sender of the command is told that it was
/// interrupted.
pub(crate) struct Answer(Reply);

impl Answer {
    pub(super) const fn new(reply: Reply) -> Self {
        Self(reply)
    }

    /// Gives the result. Process context; does not block.
    pub(crate) fn give(self, result: Result<(), Refused<'_>>) {
        match result {
            Ok(()) => self.0.done(),
            Err(Refused { refusal, detail }) => self
                .0
                .refuse(refusal, format_args!("{} {detail}", refusal.text())),
        }
    }
}
