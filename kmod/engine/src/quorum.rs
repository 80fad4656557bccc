// SPDX-License-Identifier: GPL-2.0-only

//! Who has a vote, and what happens to requests without a majority.

pub use weft_uapi::state::OnNoQuorum;
use weft_uapi::units::NodeSet;

/// The voters of a resource. The same on all of them, or it is no quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quorum {
    /// Nodes with a vote; empty: there is no quorum to be had or lost.
    pub voters: NodeSet,
    /// What becomes of requests without it.
    pub on_lost: OnNoQuorum,
}

impl Quorum {
    /// Whether votes count at all.
    pub fn is_on(&self) -> bool {
        !self.voters.is_empty()
    }

    /// Votes that make a majority; 0 when votes do not count.
    pub fn needed(&self) -> u32 {
        match self.voters.len() {
            0 => 0,
            votes => (votes / 2).saturating_add(1),
        }
    }

    /// Whether these nodes are a majority.
    pub fn has_majority(&self, nodes: NodeSet) -> bool {
        nodes.intersection(self.voters).len() >= self.needed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_majorities_have_a_voter_in_common() {
        for voters in 1..32u32 {
            let quorum = Quorum {
                voters: NodeSet(voters),
                ..Quorum::default()
            };
            for (a, b) in (0..32).flat_map(|a| (0..32).map(move |b| (NodeSet(a), NodeSet(b)))) {
                if quorum.has_majority(a) && quorum.has_majority(b) {
                    assert!(!a.intersection(b).intersection(quorum.voters).is_empty());
                }
            }
        }
    }

    #[test]
    fn without_voters_everybody_is_a_majority() {
        assert!(!Quorum::default().is_on() && Quorum::default().has_majority(NodeSet::EMPTY));
    }
}
