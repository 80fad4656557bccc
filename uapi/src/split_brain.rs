// SPDX-License-Identifier: GPL-2.0-only

//! What is done about a split brain without a person, and what came of it.

use crate::state::states;

states! {
    /// Whose data are given up after a split brain when no node is primary.
    #[derive(Default)]
    SplitBrain0 {
        /// Nobody's: the nodes stay apart until a person has chosen.
        #[default]
        Disconnect = 1 "disconnect",
        /// Those of the node that has changed nothing since the nodes were parted.
        ZeroChanges = 2 "discard-zero-changes",
        /// Those of the node that has changed fewer blocks since.
        LeastChanges = 3 "discard-least-changes",
    }
}

states! {
    /// Whose data are given up after a split brain when one node is primary.
    #[derive(Default)]
    SplitBrain1 {
        /// Nobody's: the nodes stay apart until a person has chosen.
        #[default]
        Disconnect = 1 "disconnect",
        /// The secondary's if [`SplitBrain0`] says so, too; else nobody's.
        Consensus = 2 "consensus",
        /// The secondary's.
        Secondary = 3 "discard-secondary",
    }
}

states! {
    /// What came of the last split brain with a peer: what solved it, or from 16 on why it is left to a person.
    #[derive(Default)]
    Recovery {
        /// There was none.
        #[default]
        None = 0 "none",
        /// One side's data had been given up, by a person or by a policy of which a lost session kept the end.
        GivenUp = 1 "given-up",
        /// [`SplitBrain0::ZeroChanges`].
        ZeroChanges = 2 "discard-zero-changes",
        /// [`SplitBrain0::LeastChanges`].
        LeastChanges = 3 "discard-least-changes",
        /// [`SplitBrain1::Secondary`].
        Secondary = 4 "discard-secondary",
        /// [`SplitBrain1::Consensus`].
        Consensus = 5 "consensus",
        /// The policy says so.
        Disconnect = 16 "disconnect",
        /// The two nodes have different policies.
        PoliciesDiffer = 17 "policies-differ",
        /// With quorum only force makes a fork.
        Quorum = 18 "quorum",
        /// Each volume is decided by itself, and the survivors have to be of one node.
        SeveralVolumes = 19 "several-volumes",
        /// Both nodes are primary.
        TwoPrimaries = 20 "two-primaries",
        /// It is no fork of two good disks: one is an older image of itself, or only the other one went on.
        NoFork = 21 "no-fork",
        /// Both nodes were told to give their data up.
        BothGivenUp = 22 "both-given-up",
        /// One of the disks is unfinished, or not what its primary works on.
        UnfitDisk = 23 "unfit-disk",
        /// The bitmaps do not reach back to the common past.
        UnknownChanges = 24 "unknown-changes",
        /// Neither node has changed nothing.
        BothChanged = 25 "both-changed",
        /// Both have changed as many blocks.
        EqualChanges = 26 "equal-changes",
        /// Without primary the primary's data would be given up.
        NoConsensus = 27 "no-consensus",
    }
}

/// The policies of a node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Policies {
    /// When no node is primary.
    pub none: SplitBrain0,
    /// When one is. There is none for two: the data under a running application are never replaced.
    pub one: SplitBrain1,
}

impl Policies {
    /// As they are told to a peer.
    pub const fn encode(self) -> [u8; 2] {
        [self.none as u8, self.one as u8]
    }

    /// What a peer told; what it did not tell, or what is not known here, stays as by default.
    pub fn decode([none, one]: [u8; 2]) -> Self {
        Self {
            none: SplitBrain0::from_number(none.into()).unwrap_or_default(),
            one: SplitBrain1::from_number(one.into()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_back_and_unknown_ones_choose_nobody() {
        for &none in SplitBrain0::ALL {
            for &one in SplitBrain1::ALL {
                let policies = Policies { none, one };
                assert_eq!(Policies::decode(policies.encode()), policies);
            }
        }
        for told in [[0, 0], [9, 200]] {
            assert_eq!(Policies::decode(told), Policies::default());
        }
    }
}
