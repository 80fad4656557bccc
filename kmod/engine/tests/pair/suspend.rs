// SPDX-License-Identifier: GPL-2.0-only

//! A person lets the application's requests wait.

use crate::rig::Rig;
use weft_engine::event::{Command, Op};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Protocol;
use weft_uapi::status::SUSPENDED_COMMAND;

#[test]
fn nothing_begins_between_suspend_and_resume() {
    let mut rig = Rig::pair();
    assert_eq!(rig.command(0, Command::SuspendIo), Ok(()));
    let requests = [
        rig.begin_write(0, 0, 1, 4096),
        rig.begin_op(0, Op::Read, 0, 4096),
        rig.begin_op(0, Op::Flush, 0, 0),
    ];
    rig.wait(60_000);
    rig.idle();
    assert!(!requests.iter().any(|&request| rig.is_complete(request)));
    assert_eq!(rig.read_disk(0, 0, 4096), [0; 4096]);
    let info = rig.resource(0);
    assert_eq!(info.suspended & SUSPENDED_COMMAND, SUSPENDED_COMMAND);
    assert!(info.suspended_ms >= 60_000);
    assert_eq!(rig.command(0, Command::ResumeIo), Ok(()));
    rig.idle();
    for request in requests {
        assert_eq!(rig.result(request), Some(Ok(())));
    }
    assert_eq!(rig.resource(0).suspended, 0);
    rig.assert_whole();
    assert_eq!(rig.read_disk(1, 0, 4096), [1; 4096]);
}

#[test]
fn suspend_is_answered_when_nothing_is_under_way_on_any_disk() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for steps in 0..12 {
            let mut rig = Rig::pair();
            rig.set_protocol(0, protocol);
            rig.write(0, 800, 1, 4096).unwrap();
            let write = rig.begin_write(0, 0, 7, 4096);
            rig.steps(steps);
            let order = rig.order(0, Command::SuspendIo);
            let mut answer = rig.answered(order);
            while answer.is_none() {
                assert!(rig.steps(1), "{protocol}, {steps}: no answer");
                answer = rig.answered(order);
            }
            assert_eq!(answer, Some(Ok(())));
            let disks = [0, 1].map(|number| rig.read_disk(number, 0, 4096));
            assert_eq!(disks[0], disks[1], "{protocol}, {steps}");
            assert_eq!(rig.is_complete(write), disks[0] == [7; 4096]);
            assert_eq!(rig.command(0, Command::ResumeIo), Ok(()));
            rig.assert_whole();
        }
    }
}

#[test]
fn a_suspend_that_waits_for_a_silent_peer_ends_with_its_session_or_by_resume() {
    let mut rig = Rig::pair();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.break_wire();
    rig.begin_write(0, 0, 7, 4096);
    let order = rig.order(0, Command::SuspendIo);
    rig.idle();
    assert_eq!(rig.answered(order), None);
    assert_eq!(
        rig.command(0, Command::SuspendIo),
        Err(Refusal::IoSuspended)
    );
    assert_eq!(rig.command(0, Command::ResumeIo), Ok(()));
    assert_eq!(rig.answered(order), Some(Err(Refusal::Interrupted)));
    let order = rig.order(0, Command::SuspendIo);
    rig.idle();
    assert_eq!(rig.answered(order), None);
    rig.cut_at_once();
    rig.idle();
    assert_eq!(rig.answered(order), Some(Ok(())));
    let write = rig.begin_write(0, 8, 8, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    rig.heal();
    assert!(!rig.is_complete(write), "a new session changes nothing");
    assert_eq!(rig.command(0, Command::ResumeIo), Ok(()));
    rig.assert_whole();
    assert_eq!(rig.result(write), Some(Ok(())));
}

#[test]
fn what_is_not_suspended_is_not_resumed() {
    let mut rig = Rig::pair();
    assert_eq!(
        rig.command(0, Command::ResumeIo),
        Err(Refusal::IoNotSuspended)
    );
    assert_eq!(rig.command(1, Command::SuspendIo), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()), "it is for this node only");
    assert_eq!(rig.command(1, Command::ResumeIo), Ok(()));
}

#[test]
fn a_suspended_primary_that_a_majority_overtakes_lets_its_requests_fail() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.command(0, Command::SuspendIo), Ok(()));
    let write = rig.begin_write(0, 0, 1, 4096);
    rig.isolate(0);
    assert_eq!(rig.promote(1), Ok(()));
    rig.heal();
    assert!(matches!(rig.result(write), Some(Err(_))));
    assert_eq!(rig.primaries(), [1]);
    rig.assert_equal();
}

#[test]
fn a_resync_ends_while_requests_are_suspended() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(0, Command::SuspendIo), Ok(()));
    rig.heal();
    rig.assert_whole();
}
