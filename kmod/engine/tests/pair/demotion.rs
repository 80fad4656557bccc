// SPDX-License-Identifier: GPL-2.0-only

//! A person does not wait: a primary is demoted although its application waits for something.

use crate::diskless::with_client;
use crate::rig::Rig;
use weft_engine::effect::IoError;
use weft_engine::event::Command;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};

const GENTLY: Command = Command::Secondary { force: false };
const AT_ONCE: Command = Command::Secondary { force: true };

#[test]
fn a_primary_that_waits_for_votes_is_demoted_by_force_and_its_requests_fail() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.open(0), Ok(()));
    rig.isolate(0);
    let [begun, waiting] = [0, 8].map(|sector| rig.begin_write(0, sector, 1, 4096));
    rig.idle();
    assert_eq!(rig.command(0, GENTLY), Err(Refusal::DeviceOpen));
    assert!(!rig.is_complete(begun) && !rig.is_complete(waiting));
    assert_eq!(rig.command(0, AT_ONCE), Ok(()));
    for request in [begun, waiting] {
        assert_eq!(rig.result(request), Some(Err(IoError::NoQuorum)));
    }
    assert_eq!(rig.role(0), Role::Secondary);
    assert_eq!(rig.write(0, 0, 2, 4096), Err(IoError::NoData));
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 3, 4096), Ok(()));
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.read_disk(0, 0, 4096), [3; 4096]);
}

#[test]
fn who_was_demoted_by_force_leads_again_only_after_the_old_application_has_let_go() {
    let mut rig = Rig::pair();
    assert_eq!(rig.open(0), Ok(()));
    let write = rig.begin_write(0, 0, 1, 4096);
    assert_eq!(rig.command(0, AT_ONCE), Ok(()));
    rig.idle();
    assert!(rig.is_complete(write));
    assert_eq!(rig.promote(0), Err(Refusal::DeviceOpen));
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.demote(1);
    rig.close(0);
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![2; 4096]));
    rig.assert_equal();
}

#[test]
fn a_client_that_waits_for_a_server_is_demoted_by_force() {
    const CLIENT: usize = 2;
    let mut rig = with_client();
    rig.demote(0);
    assert_eq!(rig.promote(CLIENT), Ok(()));
    assert_eq!(rig.open(CLIENT), Ok(()));
    rig.isolate(CLIENT);
    let write = rig.begin_write(CLIENT, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    assert_eq!(rig.command(CLIENT, AT_ONCE), Ok(()));
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.role(CLIENT), Role::Secondary);
    rig.heal();
    assert_eq!(rig.promote(1), Ok(()));
    rig.assert_equal_disks(2);
}

#[test]
fn a_served_client_is_demoted_by_force_and_its_server_leads_nobody() {
    const CLIENT: usize = 2;
    let mut rig = with_client();
    rig.demote(0);
    assert_eq!(rig.promote(CLIENT), Ok(()));
    assert_eq!(rig.open(CLIENT), Ok(()));
    rig.begin_write(CLIENT, 0, 1, 4096);
    assert_eq!(rig.command(CLIENT, AT_ONCE), Ok(()));
    rig.idle();
    assert!(rig.primaries().is_empty());
    assert_eq!(rig.promote(1), Ok(()));
    rig.assert_equal_disks(2);
}

#[test]
fn a_demotion_that_takes_long_ends_when_a_person_does_not_wait() {
    let mut rig = Rig::pair();
    rig.break_wire();
    let write = rig.begin_write(0, 0, 1, 4096);
    let gentle = rig.order(0, GENTLY);
    rig.idle();
    assert_eq!(rig.answered(gentle), None);
    assert_eq!(rig.command(0, AT_ONCE), Ok(()));
    assert_eq!(rig.answered(gentle), Some(Ok(())));
    assert_eq!(rig.result(write), Some(Err(IoError::NoQuorum)));
    rig.cut_at_once();
    rig.heal();
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn a_demotion_that_takes_long_ends_when_a_majority_goes_on() {
    let mut rig = Rig::voting(3);
    rig.isolate(0);
    let write = rig.begin_write(0, 0, 1, 4096);
    let gentle = rig.order(0, GENTLY);
    rig.idle();
    assert_eq!(rig.answered(gentle), None);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.answered(gentle), Some(Ok(())));
    assert_eq!(rig.result(write), Some(Err(IoError::NoQuorum)));
    assert_eq!(rig.role(0), Role::Secondary);
    rig.assert_equal();
}
