// SPDX-License-Identifier: GPL-2.0-only

//! What follows from a split brain: whose data are given up, by a person's word or by the policies of both nodes.
//!
//! A pure function of what both sides tell in their state packets, as [`crate::decide`] is, so both sides come to mirrored
//! results. A policy does nothing that a person could not do: it names the side that gives its data up, and the decision is
//! made again with that. So the coverage is that of a manual choice, everything or what either bitmap names, and the
//! survivor loses nothing.
//!
//! A policy chooses between two good disks whose histories forked. It leaves to a person what is not known from the
//! states: an older image of a disk; how much was changed when a bitmap does not reach back to the fork; who became
//! primary first, since generations are numbered and not dated.

use crate::decide::{bits_reach_back_to_fork, decide, Decision, Outcome, Rule, Side};
use core::cmp::{Ordering, Reverse};
use weft_uapi::split_brain::{Policies, Recovery, SplitBrain0, SplitBrain1};
use weft_uapi::units::NodeId;

/// What one side tells besides its [`Side`] that matters in a split brain.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Claim {
    /// What it wants done.
    pub policies: Policies,
    /// Blocks of 4 KiB marked towards the other side: at least those that it changed since they were parted.
    pub changes: u64,
    /// It is primary, or follows one.
    pub is_led: bool,
    /// It is primary, but its application does not work on this disk.
    pub is_beside: bool,
}

/// One of two sides that meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contender<'a> {
    /// What it knows of its disk.
    pub side: &'a Side,
    /// What it claims.
    pub claim: &'a Claim,
}

/// What follows when two sides meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// Rule and outcome.
    pub decision: Decision,
    /// What came of a split brain, if it is one.
    pub recovery: Recovery,
    /// The node whose data are given up.
    pub victim: Option<NodeId>,
}

/// One of the two contenders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Own,
    Peer,
}

/// Decides for `own`, and solves a split brain if both sides' policies do; with the sides swapped it gives the mirrored
/// result.
#[inline(never)] // It needs room on the stack for two more sides.
pub fn resolve(own: &Contender<'_>, peer: &Contender<'_>) -> Resolution {
    let decision = decide(own.side, peer.side);
    if decision.outcome != Outcome::SplitBrain {
        let victim = victim_of(decision, own, peer).filter(|_| decision.rule == Rule::Forked);
        return Resolution {
            decision,
            recovery: victim.map_or(Recovery::None, |_| Recovery::GivenUp),
            victim,
        };
    }
    let left = |recovery| Resolution {
        decision,
        recovery,
        victim: None,
    };
    match choose(decision.rule, own, peer) {
        Ok((recovery, chosen)) => {
            let decision = decide(
                &giving_up(own, chosen == Victim::Own),
                &giving_up(peer, chosen == Victim::Peer),
            );
            match victim_of(decision, own, peer) {
                victim @ Some(_) => Resolution {
                    decision,
                    recovery,
                    victim,
                },
                None => left(Recovery::UnfitDisk),
            }
        }
        Err(recovery) => left(recovery),
    }
}

fn giving_up(contender: &Contender<'_>, discards: bool) -> Side {
    Side {
        discards,
        ..*contender.side
    }
}

/// The node that is about to fetch.
fn victim_of(decision: Decision, own: &Contender<'_>, peer: &Contender<'_>) -> Option<NodeId> {
    match decision.outcome {
        Outcome::SyncTarget { .. } => Some(own.side.node),
        Outcome::SyncSource { .. } => Some(peer.side.node),
        _ => None,
    }
}

/// The victim and the policy that names it, or why there is none.
fn choose(
    rule: Rule,
    own: &Contender<'_>,
    peer: &Contender<'_>,
) -> Result<(Recovery, Victim), Recovery> {
    let sides = [own, peer];
    let policies = own.claim.policies;
    if rule != Rule::Forked {
        return Err(Recovery::NoFork);
    }
    if sides.iter().all(|it| it.side.discards) {
        return Err(Recovery::BothGivenUp);
    }
    if sides
        .iter()
        .any(|it| it.side.is_inconsistent || it.claim.is_beside)
    {
        return Err(Recovery::UnfitDisk);
    }
    if policies != peer.claim.policies {
        return Err(Recovery::PoliciesDiffer);
    }
    let secondary = match (own.claim.is_led, peer.claim.is_led) {
        (false, false) => return without_primary(policies.none, own, peer),
        (true, true) => return Err(Recovery::TwoPrimaries),
        (true, false) => Victim::Peer,
        (false, true) => Victim::Own,
    };
    match policies.one {
        SplitBrain1::Disconnect => Err(Recovery::Disconnect),
        SplitBrain1::Secondary => Ok((Recovery::Secondary, secondary)),
        SplitBrain1::Consensus => match without_primary(policies.none, own, peer)? {
            (_, victim) if victim == secondary => Ok((Recovery::Consensus, victim)),
            _ => Err(Recovery::NoConsensus),
        },
    }
}

/// As [`choose`], whoever is primary.
fn without_primary(
    policy: SplitBrain0,
    own: &Contender<'_>,
    peer: &Contender<'_>,
) -> Result<(Recovery, Victim), Recovery> {
    if policy == SplitBrain0::Disconnect {
        return Err(Recovery::Disconnect);
    }
    if !bits_reach_back_to_fork(own.side, peer.side) {
        return Err(Recovery::UnknownChanges);
    }
    let changes = (own.claim.changes, peer.claim.changes);
    let fewer = match changes.0.cmp(&changes.1) {
        Ordering::Less => Victim::Own,
        Ordering::Greater => Victim::Peer,
        // Nothing differs: nobody loses anything.
        Ordering::Equal if changes == (0, 0) => {
            let rank = |it: &Contender<'_>| (it.claim.is_led, Reverse(it.side.node));
            if rank(own) > rank(peer) {
                Victim::Peer
            } else {
                Victim::Own
            }
        }
        Ordering::Equal if policy == SplitBrain0::LeastChanges => {
            return Err(Recovery::EqualChanges)
        }
        Ordering::Equal => return Err(Recovery::BothChanged),
    };
    match policy {
        SplitBrain0::LeastChanges => Ok((Recovery::LeastChanges, fewer)),
        _ if changes.0.min(changes.1) == 0 => Ok((Recovery::ZeroChanges, fewer)),
        _ => Err(Recovery::BothChanged),
    }
}

/// Why a person has to choose whose data to discard, for the log and the status of the connection.
pub const fn sentence(recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::TwoPrimaries => "split brain: both nodes are primary",
        Recovery::PoliciesDiffer => {
            "split brain: a person has to choose whose data to discard (the two nodes' policies differ)"
        }
        Recovery::Quorum => {
            "split brain: a person has to choose whose data to discard (policies do not count with quorum)"
        }
        Recovery::SeveralVolumes => {
            "split brain: a person has to choose whose data to discard (policies do not count with several volumes)"
        }
        Recovery::BothGivenUp => {
            "split brain: a person has to choose whose data to discard (both nodes were told to)"
        }
        Recovery::UnknownChanges => {
            "split brain: a person has to choose whose data to discard (how much each changed is not known)"
        }
        Recovery::BothChanged => {
            "split brain: a person has to choose whose data to discard (both nodes changed theirs)"
        }
        Recovery::EqualChanges => {
            "split brain: a person has to choose whose data to discard (both nodes changed as many blocks)"
        }
        Recovery::NoConsensus => {
            "split brain: a person has to choose whose data to discard (no consensus: the primary changed less)"
        }
        _ => "split brain: a person has to choose whose data to discard",
    }
}

#[cfg(test)]
mod tests;
