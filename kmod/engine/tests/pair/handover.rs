// SPDX-License-Identifier: GPL-2.0-only

//! A primary whose disk fails, or is taken away: its application goes on with a peer's.

use crate::rig::{Rig, VOLUME};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Op};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Fencing, Protocol, Role};
use weft_uapi::status::SUSPENDED_NO_SERVER;

/// A pair whose first node is primary and has written and opened the device.
fn led() -> Rig {
    let mut rig = Rig::pair();
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.open(0), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 8192), Ok(()));
    rig
}

fn server(rig: &Rig) -> Option<usize> {
    (rig.resource(0).server as usize).checked_sub(1)
}

#[test]
fn r10_a_write_that_the_disk_refuses_is_carried_out_by_the_peer() {
    let mut rig = led();
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
    assert_eq!(rig.primaries(), [0]);
    assert_eq!(server(&rig), Some(1));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.read(0, 8, 4096), Ok(vec![2; 4096]));
    assert_eq!(rig.flush(0), Ok(()));
    assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
}

#[test]
fn r10_a_read_that_the_disk_refuses_is_carried_out_by_the_peer() {
    let mut rig = led();
    rig.set_unreadable(0, true);
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.disk_state(0), DiskState::Diskless);
    assert_eq!(rig.write(0, 0, 2, 4096), Ok(()));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![2; 4096]));
}

#[test]
fn all_that_is_under_way_when_the_disk_fails_is_done_by_the_peer() {
    let mut rig = led();
    rig.set_slow(0, true);
    let read = rig.begin_op(0, Op::Read, 0, 4096);
    let flush = rig.begin_op(0, Op::Flush, 0, 0);
    let mut writes: Vec<_> = (0..20u8)
        .map(|at| rig.begin_write(0, u64::from(at % 7) * 8, 10 + at, 8192))
        .collect();
    rig.steps(10);
    rig.set_failing(0, true);
    writes.push(rig.begin_write(0, 0, 99, 4096));
    rig.idle();
    rig.set_slow(0, false);
    for request in writes.into_iter().chain([read, flush]) {
        rig.run_until(|rig| rig.is_complete(request));
        assert_eq!(rig.result(request), Some(Ok(())));
    }
    assert_eq!(server(&rig), Some(1));
    let shown = rig.read(0, 0, 65_536).unwrap();
    assert_eq!(rig.read_disk(1, 0, 65_536), shown);
}

#[test]
fn the_last_disk_has_nobody_who_takes_over() {
    let mut rig = led();
    rig.isolate(1);
    rig.idle();
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 3, 4096), Err(IoError::Disk));
    rig.heal();
    rig.idle();
    assert_eq!(rig.write(0, 8, 3, 4096), Err(IoError::NoData));
}

#[test]
fn a_peer_that_may_lack_what_was_answered_does_not_take_over() {
    let mut rig = led();
    (0..2).for_each(|node| rig.set_protocol(node, Protocol::A));
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 3, 4096), Err(IoError::Disk));
}

#[test]
fn requests_wait_when_the_peer_is_lost_while_it_takes_over() {
    let mut rig = led();
    rig.set_failing(0, true);
    let write = rig.begin_write(0, 8, 2, 4096);
    rig.run_until(|rig| rig.disk_state(0) != DiskState::UpToDate);
    rig.cut_at_once();
    rig.idle();
    assert_eq!(rig.result(write), None);
    assert_ne!(rig.resource(0).suspended & SUSPENDED_NO_SERVER, 0);
    assert_eq!(rig.role(0), Role::Primary);
    rig.heal();
    rig.run_until(|rig| rig.is_complete(write));
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
}

#[test]
fn an_application_does_not_go_on_with_a_copy_that_lost_its_cache_meanwhile() {
    let mut rig = led();
    rig.set_failing(0, true);
    let write = rig.begin_write(0, 8, 2, 4096);
    rig.run_until(|rig| rig.disk_state(0) != DiskState::UpToDate);
    rig.crash(1);
    rig.idle();
    rig.restart(1);
    rig.run_until(|rig| rig.is_complete(write));
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.role(0), Role::Secondary);
}

#[test]
fn with_three_copies_the_third_has_all_writes_too() {
    let mut rig = Rig::voting(3);
    assert_eq!(rig.promote(0), Ok(()));
    assert_eq!(rig.write(0, 0, 1, 8192), Ok(()));
    rig.set_failing(0, true);
    for at in 0..10 {
        assert_eq!(rig.write(0, u64::from(at) * 4, at, 4096), Ok(()));
    }
    rig.idle();
    assert!(server(&rig).is_some());
    let shown = rig.read(0, 0, 32_768).unwrap();
    for disk in 1..3 {
        assert_eq!(rig.read_disk(disk, 0, 32_768), shown);
    }
}

#[test]
fn the_disk_of_a_primary_is_exchanged_under_its_application() {
    let mut rig = led();
    let writes: Vec<_> = (0..5)
        .map(|at| rig.begin_write(0, 8 * at, 9, 4096))
        .collect();
    rig.detach(0);
    for write in writes {
        assert_eq!(rig.result(write), Some(Ok(())));
    }
    assert_eq!(server(&rig), Some(1));
    assert_eq!(rig.write(0, 80, 5, 4096), Ok(()));
    rig.attach(0);
    rig.idle();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
    // It fetched what it missed, and leads itself again.
    assert!(rig.resynced(0, 1) < 100);
    assert_eq!(server(&rig), None);
    assert_eq!(rig.primaries(), [0]);
    assert_eq!(rig.write(0, 88, 6, 4096), Ok(()));
    rig.assert_equal();
}

#[test]
fn the_last_disk_of_a_primary_is_not_detached() {
    let mut rig = led();
    rig.isolate(1);
    rig.idle();
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    let detach = rig.command(0, Command::Detach { volume: VOLUME });
    assert_eq!(detach, Err(Refusal::LastCopy));
    assert_eq!(rig.write(0, 8, 3, 4096), Ok(()));
}

#[test]
fn who_kept_its_last_disk_is_no_client_when_it_meets_another_primary() {
    let mut rig = led();
    rig.isolate(1);
    rig.idle();
    let detach = rig.command(0, Command::Detach { volume: VOLUME });
    assert_eq!(detach, Err(Refusal::LastCopy));
    rig.close(0);
    rig.demote(0);
    assert_eq!(rig.promote(1), Ok(()));
    rig.heal();
    rig.idle();
    assert!(!rig.reason(0, 1).contains("both nodes are primary"));
}

#[test]
fn a_primary_that_hands_over_has_nobody_fenced() {
    let mut rig = led();
    (0..2).for_each(|node| rig.set_fencing(node, Fencing::ResourceAndStonith));
    rig.set_slow(0, true);
    let read = rig.begin_op(0, Op::Read, 0, 4096);
    let write = rig.begin_write(0, 8, 2, 4096);
    rig.steps(3);
    rig.set_failing(0, true);
    let refused = rig.begin_write(0, 16, 3, 4096);
    rig.idle();
    assert!(rig.resource(0).server == 0, "its disk still owes an answer");
    assert_eq!(rig.fence_wanted(0), None);
    rig.set_slow(0, false);
    for request in [read, write, refused] {
        rig.run_until(|rig| rig.is_complete(request));
        assert_eq!(rig.result(request), Some(Ok(())));
    }
    assert_eq!((rig.fence_wanted(0), rig.fence_wanted(1)), (None, None));
}

#[test]
fn a_peer_that_lacks_what_was_answered_under_another_protocol_does_not_take_over() {
    let mut rig = led();
    (0..2).for_each(|node| rig.set_protocol(node, Protocol::A));
    rig.set_stuck(1, true);
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    (0..2).for_each(|node| rig.set_protocol(node, Protocol::C));
    rig.set_failing(0, true);
    let write = rig.begin_write(0, 16, 3, 4096);
    rig.idle();
    assert_eq!(rig.result(write), Some(Err(IoError::Disk)));
    assert_eq!(rig.resource(0).server, 0);
}

#[test]
fn a_write_whose_preflush_was_under_way_does_not_wait_for_the_disk_that_fetches_it() {
    let mut rig = led();
    rig.set_failing(0, true);
    let write = rig.begin_write(0, 16, 3, 4096);
    let flushing = rig.begin_preflush(0, 8, 2, 4096);
    rig.run_until(|rig| rig.disk_state(0) != DiskState::UpToDate);
    rig.cut_at_once();
    rig.idle();
    rig.set_failing(0, false);
    rig.attach(0);
    rig.heal();
    for request in [flushing, write] {
        rig.run_until(|rig| rig.is_complete(request));
        assert_eq!(rig.result(request), Some(Ok(())));
    }
    rig.idle();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
    rig.assert_equal();
}

#[test]
fn where_those_that_are_left_can_elect_nobody_nobody_takes_over() {
    let mut rig = Rig::voting(2);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    let detach = rig.command(0, Command::Detach { volume: VOLUME });
    assert_eq!(detach, Err(Refusal::LastCopy));
    rig.set_failing(0, true);
    assert_eq!(rig.write(0, 8, 2, 4096), Err(IoError::Disk));
}

#[test]
fn a_primary_is_demoted_by_force_while_its_failed_disk_owes_answers() {
    let mut rig = led();
    rig.set_slow(0, true);
    let read = rig.begin_op(0, Op::Read, 0, 4096);
    rig.steps(2);
    rig.set_failing(0, true);
    let write = rig.begin_write(0, 8, 2, 4096);
    rig.idle();
    let quit = rig.order(0, Command::Secondary { force: true });
    rig.idle();
    assert!(matches!(rig.result(write), Some(Err(_))));
    assert_eq!(
        rig.answered(quit),
        None,
        "the disk still has the memory of the read"
    );
    rig.set_slow(0, false);
    rig.run_until(|rig| rig.is_complete(read));
    assert_eq!(rig.reply(quit), Ok(()));
    assert_eq!(rig.role(0), Role::Secondary);
    rig.close(0);
    rig.idle();
    assert_eq!(rig.promote(1), Ok(()));
}
