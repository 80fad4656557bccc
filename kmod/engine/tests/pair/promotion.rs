// SPDX-License-Identifier: GPL-2.0-only

//! Who becomes primary, and when.

use crate::rig::{Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState, Role};

#[test]
fn a_blank_disk_is_promoted_only_by_force_and_then_takes_writes() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(
        rig.command(0, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    assert_eq!(rig.command(0, Command::Primary { force: true }), Ok(()));
    assert_eq!(rig.write(0, 8, 7, 4096), Ok(()));
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![7; 4096]));
    assert_eq!(rig.flush(0), Ok(()));
}

#[test]
fn a_secondary_takes_no_requests() {
    let mut rig = Rig::new();
    rig.attach(0);
    assert_eq!(rig.write(0, 0, 1, 512), Err(IoError::NoData));
    assert_eq!(rig.open(0), Err(Refusal::NotPrimary));
}

#[test]
fn only_one_of_a_connected_pair_is_primary() {
    let mut rig = Rig::pair();
    assert_eq!(
        rig.command(1, Command::Primary { force: true }),
        Err(Refusal::PeerPrimary)
    );
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.role(1), Role::Primary);
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn an_unfinished_target_is_not_promoted() {
    let mut rig = Rig::new();
    rig.attach(0);
    rig.attach(1);
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.connect();
    rig.run_until(|rig| rig.replication(1, 0) == ReplicationState::SyncTarget);
    rig.cut_at_once();
    assert_eq!(rig.disk_state(1), DiskState::Inconsistent);
    assert_eq!(
        rig.command(1, Command::Primary { force: false }),
        Err(Refusal::NoUpToDateDisk)
    );
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
}

#[test]
fn a_record_does_not_wait_for_a_disk_that_is_leaving() {
    let mut rig = Rig::pair();
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    rig.set_late(0, true);
    let promotion = rig.order(0, Command::Primary { force: false });
    rig.idle();
    let detach = rig.order(1, Command::Detach { volume: VOLUME });
    rig.idle();
    let session = rig.session(0, 1);
    rig.set_late(0, false);
    assert_eq!(rig.reply(promotion), Ok(()));
    assert_eq!(rig.reply(detach), Ok(()));
    assert_eq!(rig.session(0, 1), session, "nobody had to give up");
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
}

#[test]
fn a_synced_pair_swaps_its_roles_within_the_session() {
    let mut rig = Rig::pair();
    let session = rig.session(0, 1);
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    rig.idle();
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 0, 4, 4096), Ok(()));
    rig.assert_equal();
    assert_eq!(rig.session(0, 1), session);
}
