// SPDX-License-Identifier: GPL-2.0-only

//! A node is told that newer data are elsewhere.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::DiskState;

/// A pair that was parted while node 0 led, which has written since.
fn parted() -> Rig {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig
}

#[test]
fn an_outdated_node_is_not_promoted_until_it_has_met_the_newer_data() {
    let mut rig = parted();
    assert_eq!(rig.command(1, Command::Outdate), Ok(()));
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    rig.heal();
    rig.assert_whole();
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn an_outdated_node_stays_so_after_a_crash_at_once_after_the_answer() {
    let mut rig = parted();
    assert_eq!(rig.command(1, Command::Outdate), Ok(()));
    rig.crash(1);
    rig.restart_alone(1);
    assert_eq!(rig.disk_state(1), DiskState::Outdated);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    assert_eq!(rig.command(1, Command::Primary { force: true }), Ok(()));
    rig.demote(1);
    rig.crash(1);
    rig.restart_alone(1);
    assert_eq!(
        rig.disk_state(1),
        DiskState::Consistent,
        "force is the last word"
    );
}

#[test]
fn who_leads_or_is_connected_is_not_outdated() {
    let mut rig = Rig::pair();
    assert_eq!(rig.command(0, Command::Outdate), Err(Refusal::IsPrimary));
    assert_eq!(rig.command(1, Command::Outdate), Err(Refusal::PeerPrimary));
    rig.demote(0);
    assert_eq!(
        rig.command(1, Command::Outdate),
        Err(Refusal::PeerConnected)
    );
    rig.detach(1);
    assert_eq!(rig.command(1, Command::Outdate), Err(Refusal::NoDisk));
    rig.assert_equal();
}

#[test]
fn a_tie_breaker_in_reach_does_not_keep_a_node_from_being_outdated() {
    let mut rig = Rig::with_tie_breaker();
    rig.demote(0);
    rig.cut_pair(0, 1);
    assert_eq!(rig.command(1, Command::Outdate), Ok(()));
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    assert_eq!(rig.promote(0), Ok(()));
    rig.heal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}
