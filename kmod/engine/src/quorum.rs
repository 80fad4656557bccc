// SPDX-License-Identifier: GPL-2.0-only

//! Who has a vote, and what happens to requests without a majority.

pub use weft_uapi::state::OnNoQuorum;
use weft_uapi::units::NodeSet;

/// Nodes that are to decide something, and what is known of their votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ballot {
    /// Those who say yes.
    pub nodes: NodeSet,
    /// Those whose disks are new: they have forgotten what they promised.
    pub newcomers: NodeSet,
    /// Those who had left when the record was made that is decided upon, or that the candidate knows.
    pub left: NodeSet,
    /// Those who say themselves that they left, and were not taken in since: they remember, but decide nothing alone.
    pub leavers: NodeSet,
}

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

    /// The voters whose votes are asked for: those who left on record do not count, nor does one that is there and says so.
    pub fn electorate(&self, ballot: &Ballot) -> NodeSet {
        let leavers = ballot.leavers.intersection(ballot.nodes);
        NodeSet(self.voters.0 & !ballot.left.union(leavers).0)
    }

    /// Whether the nodes of a ballot may decide: more than half of the electorate, or half of it with a majority of all
    /// voters.
    ///
    /// INVARIANT (I3): of two ballots that are won one has a node that knows what the other decided, as long as nobody is in
    /// `left` before it says itself that it left, and whoever counts it there knows what it knew (`ARCHITECTURE.md`).
    pub fn is_won(&self, ballot: &Ballot) -> bool {
        let electorate = self.electorate(ballot);
        let remembering = NodeSet(ballot.nodes.0 & !ballot.newcomers.0);
        let twice = remembering.intersection(electorate).len().saturating_mul(2);
        twice > electorate.len()
            || !self.is_on()
            || (twice == electorate.len() && self.has_majority(remembering))
    }

    /// Whether these nodes are a majority of all voters.
    pub fn has_majority(&self, nodes: NodeSet) -> bool {
        nodes.intersection(self.voters).len() >= self.needed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::units::NodeId;

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

    /// All ballots of voters that nobody's disk is new of: each voter is absent, there, there and says that it left, or on
    /// record as one that left (and absent, or there and says so).
    fn ballots(voters: u32) -> impl Iterator<Item = Ballot> {
        (0..5u32.pow(voters)).map(move |code| {
            let mut ballot = Ballot::default();
            for node in (0..voters).filter_map(NodeId::new) {
                let kind = code / 5u32.pow(node.get().into()) % 5;
                let put = |set: &mut NodeSet, is_in: bool| {
                    *set = if is_in { set.with(node) } else { *set };
                };
                put(&mut ballot.nodes, [1, 2, 4].contains(&kind));
                put(&mut ballot.leavers, [2, 4].contains(&kind));
                put(&mut ballot.left, [3, 4].contains(&kind));
            }
            ballot
        })
    }

    #[test]
    fn of_two_ballots_that_are_won_one_has_a_node_that_knows_what_the_other_decided() {
        for voters in 1..6u32 {
            let quorum = Quorum {
                voters: NodeSet((1 << voters) - 1),
                ..Quorum::default()
            };
            let won: Vec<_> = ballots(voters).filter(|it| quorum.is_won(it)).collect();
            for (first, later) in won.iter().flat_map(|a| won.iter().map(move |b| (a, b))) {
                // Who decided then and counts as left now took what it knew along to the one that counts it so.
                let is_told = first.nodes.0 & !first.leavers.0 & later.left.0 != 0;
                // Who had left then and votes now was taken in by a record that came later, and knows that.
                let had_left = first.left.union(first.leavers);
                let is_back = later.nodes.0 & !later.leavers.0 & had_left.0 != 0;
                let has_both = !first.nodes.intersection(later.nodes).is_empty();
                assert!(is_told || is_back || has_both, "{first:?} {later:?}");
            }
        }
    }

    #[test]
    fn the_last_one_decides_alone_and_those_who_left_do_not_decide_without_it() {
        let quorum = Quorum {
            voters: NodeSet(0b111),
            ..Quorum::default()
        };
        let ballot = |nodes, left, leavers| Ballot {
            nodes: NodeSet(nodes),
            left: NodeSet(left),
            leavers: NodeSet(leavers),
            ..Ballot::default()
        };
        assert!(quorum.is_won(&ballot(0b001, 0b110, 0)));
        assert!(!quorum.is_won(&ballot(0b001, 0b100, 0)));
        assert!(!quorum.is_won(&ballot(0b110, 0b100, 0b110)));
        assert!(
            quorum.is_won(&ballot(0b101, 0b100, 0b100)),
            "half of the rest, and two of three"
        );
    }

    #[test]
    fn where_nobody_left_a_majority_decides() {
        for voters in 1..6u32 {
            let quorum = Quorum {
                voters: NodeSet((1 << voters) - 1),
                ..Quorum::default()
            };
            for nodes in (0..32).map(NodeSet) {
                let ballot = Ballot {
                    nodes,
                    ..Ballot::default()
                };
                assert_eq!(quorum.is_won(&ballot), quorum.has_majority(nodes));
            }
        }
    }

    #[test]
    fn without_voters_everybody_is_a_majority() {
        assert!(!Quorum::default().is_on() && Quorum::default().has_majority(NodeSet::EMPTY));
    }
}
