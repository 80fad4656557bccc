// SPDX-License-Identifier: GPL-2.0-only

//! What is told of a promotion before anybody wants one.

use crate::rig::Rig;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Fencing;

/// Why a promotion of the node would be refused, and the peer that it is about.
fn told(rig: &Rig, number: usize) -> (Option<Refusal>, Option<usize>) {
    let info = rig.resource(number);
    let peer = (info.may_promote_peer as usize).checked_sub(1);
    (Refusal::from_number(info.may_promote), peer)
}

#[test]
fn a_node_knows_whether_it_would_be_promoted() {
    let mut rig = Rig::pair();
    assert_eq!(told(&rig, 0), (None, None), "it is");
    assert_eq!(told(&rig, 1), (Some(Refusal::PeerPrimary), Some(0)));
    rig.demote(0);
    assert_eq!(told(&rig, 1), (None, None));
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn a_node_without_majority_knows_that_it_would_not_be_promoted() {
    let mut rig = Rig::voting(3);
    rig.isolate(1);
    assert_eq!(told(&rig, 1), (Some(Refusal::NoQuorum), None));
    assert_eq!(rig.promote(1), Err(Refusal::NoQuorum));
    rig.heal();
    rig.demote(0);
    assert_eq!(told(&rig, 1), (None, None));
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn a_node_knows_whom_to_fence_before_it_is_promoted() {
    let mut rig = Rig::pair();
    rig.demote(0);
    rig.set_fencing(1, Fencing::ResourceOnly);
    rig.isolate(1);
    assert_eq!(told(&rig, 1), (None, Some(0)));
}
