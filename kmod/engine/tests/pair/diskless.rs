// SPDX-License-Identifier: GPL-2.0-only

//! Nodes without disk.

use crate::rig::Rig;
use weft_engine::event::Command;
use weft_uapi::state::{DiskState, ReplicationState};

/// Two synced disks, and a third node without one; node 0 is primary.
pub(crate) fn with_client() -> Rig {
    let mut rig = Rig::with(3);
    (0..2).for_each(|node| rig.attach(node));
    rig.connect();
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.idle();
    assert_eq!(rig.disk_state(1), DiskState::UpToDate);
    rig
}

#[test]
fn a_node_without_disk_comes_and_goes_and_disturbs_nobody() {
    let mut rig = with_client();
    let session = rig.session(0, 1);
    for turn in 0..3u8 {
        assert_eq!(rig.replication(0, 2), ReplicationState::Established);
        assert_eq!(rig.write(0, 0, turn, 4096), Ok(()));
        rig.crash(2);
        assert_eq!(rig.write(0, 8, turn, 4096), Ok(()));
        rig.restart_diskless(2);
    }
    assert_eq!(rig.members(0), 0b011);
    assert_eq!(rig.session(0, 1), session);
    assert_eq!(rig.rule(0, 2), "no-disk");
    assert_eq!(rig.read_disk(1, 8, 4096), [2; 4096]);
}

#[test]
fn a_node_that_gets_a_disk_becomes_a_member_and_leaves_without_a_trace() {
    let mut rig = with_client();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.attach(2);
    rig.idle();
    assert_eq!(rig.members(0), 0b111);
    rig.assert_whole();
    rig.detach(2);
    assert_eq!(rig.write(0, 8, 2, 4096), Ok(()));
    assert_eq!(rig.members(0), 0b011);
    rig.attach(2);
    rig.assert_whole();
    assert_eq!(rig.resynced(0, 2), 8);
}
