// SPDX-License-Identifier: GPL-2.0-only

//! Three nodes that vote.

use crate::rig::{node, Rig};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Options};
use weft_engine::quorum::OnNoQuorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::status::SUSPENDED_QUORUM;
use weft_uapi::units::NodeSet;

fn voters(voters: u32) -> Options {
    Options {
        voters: Some(NodeSet(voters)),
        ..Options::default()
    }
}

fn on_no_quorum(what: OnNoQuorum) -> Options {
    Options {
        on_no_quorum: Some(what),
        ..Options::default()
    }
}

/// Voters, those present, and whether they suffice, as a node says.
fn standing(rig: &Rig, number: usize) -> (u32, u32, bool) {
    let info = rig.resource(number);
    (info.voters, info.voters_present, info.has_quorum == 1)
}

#[test]
fn an_isolated_primary_waits_and_says_why_and_goes_on_with_a_majority() {
    let mut rig = Rig::voting(3);
    assert_eq!(standing(&rig, 0), (0b111, 0b111, true));
    assert_eq!(rig.resource(0).suspended, 0);
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.wait(3_000);
    assert!(!rig.is_complete(request));
    assert_eq!(standing(&rig, 0), (0b111, 0b001, false));
    assert_eq!(standing(&rig, 1), (0b111, 0b110, true));
    let info = rig.resource(0);
    assert_ne!(info.suspended & SUSPENDED_QUORUM, 0);
    assert!(info.suspended_since_ms > 0 && info.suspended_ms >= 3_000);
    rig.heal_pair(0, 1);
    assert_eq!(rig.result(request), Some(Ok(())));
    assert_eq!(standing(&rig, 0), (0b111, 0b011, true));
    let info = rig.resource(0);
    assert_eq!((info.suspended, info.suspended_since_ms), (0, 0));
}

#[test]
fn the_majority_promotes_and_the_old_primary_follows_it() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 2, 4096);
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 3, 4096), Ok(()));
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    rig.heal();
    assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.role(0), Role::Secondary);
    rig.assert_equal();
}

#[test]
fn a_minority_promotes_nobody() {
    let mut rig = Rig::voting(3);
    rig.crash(0);
    rig.isolate(1);
    let refused = rig.command(1, Command::Primary { force: false });
    assert_eq!(refused, Err(Refusal::NoQuorum));
}

#[test]
fn requests_that_wait_fail_once_they_shall_not_wait() {
    let mut rig = Rig::voting(3);
    rig.isolate(0);
    let request = rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    assert_eq!(rig.set_options(0, on_no_quorum(OnNoQuorum::Fail)), Ok(()));
    assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.write(0, 8, 1, 4096), Err(IoError::NoQuorum));
    assert_eq!(rig.read(0, 8, 4096), Err(IoError::NoQuorum));
}

#[test]
fn a_primary_without_majority_waits_once_votes_count_and_goes_on_once_they_do_not() {
    let mut rig = Rig::synced(3);
    rig.isolate(0);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.set_options(0, voters(0b111)), Ok(()));
    assert_eq!(standing(&rig, 0), (0b111, 0b001, false));
    let request = rig.begin_write(0, 0, 2, 4096);
    rig.idle();
    assert!(!rig.is_complete(request));
    assert_eq!(rig.set_options(0, voters(0)), Ok(()));
    rig.idle();
    assert_eq!(rig.result(request), Some(Ok(())));
}

#[test]
fn nodes_that_do_not_agree_who_votes_promote_nobody() {
    let mut rig = Rig::voting(3);
    rig.command(0, Command::Secondary).unwrap();
    assert_eq!(rig.set_options(2, voters(0b110)), Ok(()));
    let refused = rig.command(0, Command::Primary { force: false });
    assert_eq!(refused, Err(Refusal::VotersDiffer));
    assert_eq!(rig.set_options(2, voters(0b111)), Ok(()));
    assert_eq!(rig.command(0, Command::Primary { force: false }), Ok(()));
}

#[test]
fn a_voter_that_nobody_knows_is_refused_and_changes_nothing() {
    let mut rig = Rig::voting(3);
    let refused = rig.set_options(0, voters(0b1011));
    assert_eq!(refused, Err(Refusal::NoSuchVoter));
    assert_eq!(rig.resource(0).voters, 0b111);
    rig.command(0, Command::NewPeer { peer: node(3) }).unwrap();
    assert_eq!(rig.set_options(0, voters(0b1011)), Ok(()));
}
