// SPDX-License-Identifier: GPL-2.0-only

//! Primaries without good data of their own: a peer leads and carries out what they ask for.

use crate::diskless::with_client;
use crate::rig::{all_vote, Rig};
use weft_engine::effect::IoError;
use weft_engine::event::{Command, Op};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::status::SUSPENDED_NO_SERVER;

/// The client of [`with_client`].
const CLIENT: usize = 2;

/// As [`with_client`], but node 2, which has no disk, is primary.
fn led_without_disk() -> Rig {
    let mut rig = with_client();
    rig.demote(0);
    assert_eq!(rig.promote(CLIENT), Ok(()));
    rig
}

/// Three disks that vote and a primary without disk, node 3; and its server.
fn led_with_voters() -> (Rig, usize) {
    let mut rig = Rig::configured(4, 131_072, all_vote(3));
    (0..3).for_each(|disk| rig.attach(disk));
    rig.connect();
    rig.idle();
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.idle();
    rig.demote(0);
    assert_eq!(rig.promote(3), Ok(()));
    assert_eq!(rig.write(3, 0, 1, 4096), Ok(()));
    let server = (rig.resource(3).server - 1) as usize;
    (rig, server)
}

/// The node that carries out the client's requests.
fn server(rig: &Rig) -> Option<usize> {
    (rig.resource(CLIENT).server as usize).checked_sub(1)
}

#[test]
fn a_node_without_disk_is_primary_with_the_disks_of_others() {
    let mut rig = led_without_disk();
    assert_eq!(rig.primaries(), [CLIENT]);
    assert_eq!(rig.open(CLIENT), Ok(()));
    assert_eq!(rig.write(CLIENT, 3, 7, 1536), Ok(()));
    assert_eq!(rig.flush(CLIENT), Ok(()));
    assert_eq!(rig.read(CLIENT, 3, 1536), Ok(vec![7; 1536]));
    rig.force(CLIENT, Op::Write, 100, 4096);
    let zeroes = Op::WriteZeroes { no_unmap: true };
    assert_eq!(rig.change(CLIENT, zeroes, 3, 512), Ok(()));
    assert_eq!(rig.change(CLIENT, Op::Discard, 4, 512), Ok(()));
    for disk in 0..2 {
        assert_eq!(rig.read_disk(disk, 3, 1024), [0; 1024]);
        assert_eq!(rig.read_disk(disk, 5, 512), [7; 512]);
        assert_eq!(rig.read_disk(disk, 100, 4096), [3; 4096]);
        assert!(rig.forced(disk).contains(&Op::Write));
    }
    let past_the_end = rig.data_sectors();
    assert_eq!(
        rig.write(CLIENT, past_the_end, 1, 4096),
        Err(IoError::Range)
    );
}

#[test]
fn a_node_without_disk_is_not_promoted_without_a_good_copy_in_reach() {
    let mut rig = with_client();
    rig.demote(0);
    rig.isolate(CLIENT);
    for force in [false, true] {
        let promotion = rig.command(CLIENT, Command::Primary { force });
        assert_eq!(promotion, Err(Refusal::NoUpToDateDisk));
    }
    assert_eq!(rig.promote(1), Ok(()));
    rig.heal();
    assert_eq!(rig.promote(CLIENT), Err(Refusal::PeerPrimary));
}

#[test]
fn nobody_else_is_promoted_beside_a_client_and_its_server() {
    let mut rig = led_without_disk();
    for other in 0..2 {
        assert_eq!(rig.promote(other), Err(Refusal::PeerPrimary));
    }
    assert_eq!(
        rig.command(CLIENT, Command::Secondary { force: false }),
        Ok(())
    );
    rig.idle();
    assert!(rig.primaries().is_empty());
    assert_eq!(rig.promote(1), Ok(()));
}

#[test]
fn r9_a_client_goes_on_when_its_server_dies() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    let first = server(&rig).unwrap();
    rig.crash(first);
    let other = 1 - first;
    assert_eq!(rig.write(CLIENT, 8, 2, 4096), Ok(()));
    assert_eq!(server(&rig), Some(other));
    assert_eq!(rig.read(CLIENT, 0, 4096), Ok(vec![1; 4096]));
    rig.restart(first);
    rig.idle();
    assert_eq!(rig.disk_state(first), DiskState::UpToDate);
    assert_eq!(rig.read_disk(first, 8, 4096), [2; 4096]);
}

#[test]
fn r9_a_client_goes_on_when_another_copy_dies() {
    let mut rig = led_without_disk();
    let first = server(&rig).unwrap();
    rig.crash(1 - first);
    assert_eq!(rig.write(CLIENT, 8, 2, 4096), Ok(()));
    assert_eq!(server(&rig), Some(first));
    rig.restart(1 - first);
    rig.assert_equal_disks(2);
}

/// What was asked for and not answered is asked again.
#[test]
fn r9_requests_under_way_outlive_the_server_at_every_step() {
    let mut steps = 0;
    loop {
        let mut rig = led_without_disk();
        assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
        let writes = [
            rig.begin_write(CLIENT, 0, 2, 4096),
            rig.begin_write(CLIENT, 0, 3, 4096),
            rig.begin_write(CLIENT, 64, 4, 4096),
        ];
        let went_on = rig.steps(steps);
        let first = server(&rig).unwrap();
        rig.crash(first);
        rig.run_until(|rig| writes.iter().all(|write| rig.is_complete(*write)));
        for write in writes {
            assert_eq!(rig.result(write), Some(Ok(())), "after {steps} steps");
        }
        assert_eq!(rig.read(CLIENT, 0, 4096), Ok(vec![3; 4096]));
        rig.restart(first);
        rig.assert_equal_disks(2);
        assert_eq!(rig.read_disk(first, 64, 4096), [4; 4096]);
        if !went_on {
            return;
        }
        steps += 1;
    }
}

#[test]
fn a_client_without_server_waits_and_says_so_and_goes_on_with_a_copy_that_has_everything() {
    let mut rig = led_without_disk();
    rig.isolate(CLIENT);
    let write = rig.begin_write(CLIENT, 0, 1, 4096);
    rig.idle();
    assert!(!rig.is_complete(write));
    assert_ne!(rig.resource(CLIENT).suspended & SUSPENDED_NO_SERVER, 0);
    rig.heal();
    assert_eq!(rig.result(write), Some(Ok(())));
    assert_eq!(rig.resource(CLIENT).suspended, 0);
}

#[test]
fn a_copy_that_missed_what_a_client_was_answered_serves_only_after_it_has_fetched_it() {
    let mut rig = led_without_disk();
    let first = server(&rig).unwrap();
    let other = 1 - first;
    rig.isolate(other);
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    rig.isolate(first);
    rig.heal_pair(other, CLIENT);
    let read = rig.begin_op(CLIENT, Op::Read, 0, 4096);
    rig.wait(30_000);
    assert!(!rig.is_complete(read));
    rig.heal();
    assert_eq!(rig.result(read), Some(Ok(())));
    assert_eq!(rig.read(CLIENT, 0, 4096), Ok(vec![1; 4096]));
    rig.assert_equal_disks(2);
}

/// All copies lost their caches while the application lived on: it must not go on as if they had not.
#[test]
fn a_client_does_not_go_on_with_copies_that_may_have_lost_what_it_did_not_flush() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    (0..2).for_each(|disk| rig.crash(disk));
    rig.restart(0);
    let read = rig.begin_op(CLIENT, Op::Read, 0, 4096);
    rig.wait(5_000);
    // The other one may have it.
    assert!(!rig.is_complete(read));
    rig.restart(1);
    rig.run_until(|rig| rig.is_complete(read));
    assert_eq!(rig.result(read), Some(Err(IoError::NoData)));
    assert_eq!(rig.role(CLIENT), Role::Secondary);
    rig.idle();
    assert_eq!(rig.promote(CLIENT), Ok(()));
}

#[test]
fn a_client_goes_on_with_restarted_copies_when_everything_was_flushed() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    assert_eq!(rig.flush(CLIENT), Ok(()));
    (0..2).for_each(|disk| rig.crash(disk));
    (0..2).for_each(|disk| rig.restart(disk));
    assert_eq!(rig.read(CLIENT, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.write(CLIENT, 0, 2, 4096), Ok(()));
}

#[test]
fn a_client_that_others_went_on_without_loses_its_role() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    rig.isolate(CLIENT);
    rig.wait(1_000);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.demote(1);
    let write = rig.begin_write(CLIENT, 0, 3, 4096);
    rig.heal();
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.role(CLIENT), Role::Secondary);
    assert_eq!(rig.read_disk(0, 0, 4096), [2; 4096]);
}

#[test]
fn an_unfinished_target_is_primary_with_the_data_of_its_source() {
    let mut rig = Rig::synced(2);
    rig.isolate(1);
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.demote(0);
    rig.detach(1);
    rig.replace_disk(1);
    rig.heal();
    rig.set_late(1, true);
    let attached = rig.order_attach(1, 512);
    rig.set_late(1, false);
    assert_eq!(rig.reply(attached), Ok(()));
    let session = rig.session(0, 1);
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.session(0, 1), session);
    assert_eq!(rig.read(1, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.assert_whole();
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
}

#[test]
fn r8_a_client_goes_on_with_the_majority_of_the_voters() {
    let (mut rig, first) = led_with_voters();
    // The server is alone with its client: no majority.
    for other in (0..3).filter(|other| *other != first) {
        rig.cut_pair(first, other);
    }
    let write = rig.begin_write(3, 8, 2, 4096);
    rig.wait(3_000);
    assert!(!rig.is_complete(write));
    rig.cut_pair(first, 3);
    rig.run_until(|rig| rig.is_complete(write));
    assert_eq!(rig.result(write), Some(Ok(())));
    rig.heal();
    rig.idle();
    assert_eq!(rig.read_disk(first, 8, 4096), [2; 4096]);
    assert_eq!(rig.role(3), Role::Primary);
}

#[test]
fn a_replaced_disk_below_a_client_is_filled_and_does_not_serve_before() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    let first = server(&rig).unwrap();
    let other = 1 - first;
    rig.crash(other);
    assert_eq!(rig.write(CLIENT, 8, 2, 4096), Ok(()));
    rig.replace_disk(other);
    rig.isolate(first);
    rig.restart(other);
    let read = rig.begin_op(CLIENT, Op::Read, 0, 4096);
    rig.wait(30_000);
    assert!(!rig.is_complete(read));
    rig.heal();
    assert_eq!(rig.result(read), Some(Ok(())));
    assert_eq!(rig.read(CLIENT, 8, 4096), Ok(vec![2; 4096]));
    rig.assert_equal_disks(2);
}

/// Without majority the server and another node lead on both sides of a cut.
#[test]
fn a_client_stands_alone_from_one_that_leads_beside_its_server() {
    let mut rig = led_without_disk();
    assert_eq!(rig.write(CLIENT, 0, 1, 4096), Ok(()));
    let first = server(&rig).unwrap();
    let other = 1 - first;
    rig.isolate(other);
    assert_eq!(rig.promote(other), Ok(()));
    rig.heal_pair(other, CLIENT);
    assert!(rig.is_stand_alone(CLIENT, other));
    assert_eq!(server(&rig), Some(first));
    assert_eq!(rig.write(CLIENT, 8, 2, 4096), Ok(()));
}

/// Its server waits for a majority that has elected somebody else.
#[test]
fn a_client_ends_when_it_meets_a_majority_that_went_on_without_its_server() {
    let (mut rig, first) = led_with_voters();
    let others = [(first + 1) % 3, (first + 2) % 3];
    for other in others {
        rig.cut_pair(first, other);
        rig.cut_pair(other, 3);
    }
    assert_eq!(rig.promote(others[0]), Ok(()));
    let write = rig.begin_write(3, 0, 2, 4096);
    rig.heal_pair(others[0], 3);
    assert_eq!(rig.result(write), Some(Err(IoError::NoData)));
    assert_eq!(rig.primaries(), [others[0]]);
}

#[test]
fn nobody_is_served_over_a_session_that_is_about_to_end_for_a_split_brain() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.promote(1), Ok(()));
    assert_eq!(rig.write(1, 0, 2, 4096), Ok(()));
    rig.demote(0);
    rig.demote(1);
    assert_eq!(rig.command(1, Command::Outdate), Ok(()));
    rig.detach(1);
    rig.heal();
    rig.attach(1);
    assert_eq!(rig.promote(1), Err(Refusal::NoUpToDateDisk));
    rig.idle();
    assert!(rig.is_stand_alone(1, 0));
}

#[test]
fn a_server_is_declined_when_another_primary_has_come_into_reach() {
    let mut rig = with_client();
    rig.cut_pair(0, 1);
    rig.cut_pair(0, CLIENT);
    rig.set_late(1, true);
    let promotion = rig.order(CLIENT, Command::Primary { force: false });
    rig.heal_pair(0, CLIENT);
    rig.set_late(1, false);
    assert_eq!(rig.reply(promotion), Err(Refusal::PeerPrimary));
    rig.idle();
    assert_eq!(rig.primaries(), [0]);
}
