// SPDX-License-Identifier: GPL-2.0-only

//! What would become of a promotion, told before anybody wants one.

use super::Engine;
use crate::host::Host;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::units::{NodeId, NodeSet};

/// Whether a promotion would work now, as far as this node knows without asking.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Prospect {
    /// Why not.
    pub(super) refusal: Option<Refusal>,
    /// The peer that is in the way; without a refusal: the one that has to be fenced first.
    pub(super) peer: Option<NodeId>,
}

impl<H: Host> Engine<H> {
    /// What [`crate::event::Command::Primary`] would be answered now, without force.
    pub(super) fn prospect(&self, voters_present: NodeSet) -> Prospect {
        if self.transition.is_some() || self.leave.is_some() {
            return Prospect {
                refusal: Some(Refusal::InTransition),
                peer: None,
            };
        }
        if self.role == Role::Primary || self.client.is_some() {
            return Prospect::default();
        }
        let refused = match self.may_promote(false, None) {
            Ok(()) if !self.may_decide(voters_present) => Err((Refusal::NoQuorum, None)),
            // A peer that has them carries out what this node's application asks for.
            Err((Refusal::NoUpToDateDisk, _)) if self.has_server_in_sight() => {
                return Prospect::default();
            }
            refused => refused,
        };
        match refused {
            Err((refusal, peer)) => Prospect {
                refusal: Some(refusal),
                peer,
            },
            Ok(()) => Prospect {
                refusal: None,
                peer: self.unfenced().iter().next(),
            },
        }
    }
}
