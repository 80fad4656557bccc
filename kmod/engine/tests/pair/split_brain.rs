// SPDX-License-Identifier: GPL-2.0-only

//! Histories that forked.

use crate::rig::{node, Rig};
use weft_engine::event::Command;
use weft_uapi::state::DiskState;

#[test]
fn two_that_were_primary_apart_refuse_to_meet_until_one_gives_up() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(0, Command::Secondary), Ok(()));
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.rule(0, 1), "forked");
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(
        rig.command(
            0,
            Command::Connect {
                peer: node(1),
                discard_my_data: true
            }
        ),
        Ok(())
    );
    assert_eq!(
        rig.command(
            1,
            Command::Connect {
                peer: node(0),
                discard_my_data: false
            }
        ),
        Ok(())
    );
    rig.idle();
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
    rig.assert_equal();
    assert_eq!(rig.disk_state(0), DiskState::UpToDate);
}

#[test]
fn two_that_are_primary_when_they_meet_are_a_split_brain() {
    let mut rig = Rig::pair();
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    assert_eq!(rig.command(1, Command::Primary { force: false }), Ok(()));
    assert_eq!(rig.write(1, 8, 2, 4096), Ok(()));
    rig.heal();
    assert_eq!(rig.rule(0, 1), "forked");
    assert_eq!(rig.rule(1, 0), "forked");
    assert!(rig.is_stand_alone(0, 1) && rig.is_stand_alone(1, 0));
    assert_eq!(rig.read(0, 0, 4096), Ok(vec![1; 4096]));
    assert_eq!(rig.read(1, 8, 4096), Ok(vec![2; 4096]));
}
