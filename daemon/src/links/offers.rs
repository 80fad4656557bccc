// SPDX-License-Identifier: GPL-2.0-only

//! What the module offers for one peer of one resource.

use super::kind::{ByKind, LinkKind};

/// The open offers of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offers {
    /// This side's number of the session.
    pub session: u64,
    numbers: ByKind<Option<u64>>,
}

impl Offers {
    /// None yet of a session.
    pub fn of(session: u64) -> Self {
        Self {
            session,
            numbers: ByKind::default(),
        }
    }

    /// Notes one offer. A repeated one is the same offer, told again.
    pub fn note(&mut self, kind: LinkKind, offer: u64) {
        *self.numbers.get_mut(kind) = Some(offer);
    }

    /// The numbers for `LINK_ACCEPT` once both links are offered.
    pub fn complete(&self) -> Option<ByKind<u64>> {
        self.numbers.complete().ok()
    }
}
