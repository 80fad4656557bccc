// SPDX-License-Identifier: GPL-2.0-only

//! What the daemon is asked to do besides links, one message each.
//!
//! A question is forgotten once it was read: whoever asks repeats it until the answer comes, so nothing is lost with a daemon
//! that dies. The same question asked again takes the place of the former one.

use super::Message;
use kernel::prelude::*;

/// Questions that no daemon has read yet.
pub(super) struct Asks(KVec<Message>);

impl Asks {
    /// None.
    pub(super) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Asks. Does not wait for memory where the caller must not; without, it fails.
    pub(super) fn put(&mut self, question: Message) -> Result {
        let mut same = self.0.iter_mut();
        match same.find(|other| other.topic() == question.topic()) {
            Some(place) => *place = question,
            None => self.0.push(question, GFP_KERNEL)?,
        }
        Ok(())
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Takes the oldest.
    pub(super) fn take(&mut self) -> Option<Message> {
        self.0.remove(0).ok()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
