// SPDX-License-Identifier: GPL-2.0-only

//! When the host may read past the engine; the rig checks at every read that it would have gone to the disk at once.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::state::DiskState;

#[test]
fn only_a_primary_with_good_data_is_read_past_the_engine() {
    let mut rig = Rig::pair();
    assert!(rig.serves_reads(0) && !rig.serves_reads(1));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![1; 4096]));
    rig.demote(0);
    assert!(!rig.serves_reads(0));
}

#[test]
fn nothing_is_read_past_the_engine_while_a_person_suspends() {
    let mut rig = Rig::pair();
    rig.order(0, Command::SuspendIo);
    assert!(!rig.serves_reads(0));
    rig.idle();
    assert_eq!(rig.command(0, Command::ResumeIo), Ok(()));
    assert!(rig.serves_reads(0));
}

#[test]
fn a_primary_that_lost_a_member_is_read_past_the_engine_once_that_is_on_record() {
    let mut rig = Rig::pair();
    rig.cut_at_once();
    assert!(!rig.serves_reads(0));
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert!(rig.serves_reads(0));
    let mut rig = Rig::voting(3);
    rig.isolate(0);
    rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    assert!(!rig.serves_reads(0), "a majority may have gone on");
}

#[test]
fn a_disk_that_failed_is_not_read_past_the_engine() {
    let mut rig = Rig::pair();
    rig.set_failing(0, true);
    rig.begin_write(0, 0, 1, 4096);
    rig.run_until(|rig| rig.disk_state(0) != DiskState::UpToDate);
    assert!(!rig.serves_reads(0));
}
