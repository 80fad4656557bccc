// SPDX-License-Identifier: GPL-2.0-only

//! The states of node 0, each reached by a history.

use crate::rig::{all_vote, node, Rig, VOLUME};
use weft_engine::event::{Command, Options, Wanted};
use weft_engine::quorum::Quorum;
use weft_uapi::congestion::FILL_MIN;
use weft_uapi::state::{Protocol, ReplicationState};
use weft_uapi::units::{NodeSet, Sector};

/// Small, so that a state is reached fast: the matrix reaches each of them some forty times.
const SECTORS: u64 = 16_384;
/// A sector of an extent that no history has written before.
const COLD: u64 = 9000;

pub(super) struct State {
    pub(super) name: &'static str,
    /// For people.
    pub(super) story: &'static str,
    pub(super) reach: fn() -> Rig,
}

const PROMOTE: Command = Command::Primary { force: false };

fn new() -> Rig {
    Rig::configured(2, SECTORS, Quorum::default())
}

fn synced(nodes: usize) -> Rig {
    Rig::configured(nodes, SECTORS, Quorum::default()).sync()
}

/// A pair without a primary.
fn idle() -> Rig {
    let mut rig = synced(2);
    rig.demote(0);
    rig
}

/// A pair that node 1 leads.
fn follower() -> Rig {
    let mut rig = idle();
    assert_eq!(rig.promote(1), Ok(()));
    rig.idle();
    rig
}

/// The two disks of a pair are being compared.
fn compared(mut rig: Rig) -> Rig {
    let order = Command::Verify {
        volume: VOLUME,
        peer: node(1),
        wanted: Wanted::Range {
            start: Sector(0),
            stop: None,
        },
    };
    assert_eq!(rig.command(0, order), Ok(()));
    rig.run_until(|rig| rig.verify(0, 1).upto > 0);
    rig
}

/// A primary writes more to the other node of a pair than its data link takes.
fn outrun(rig: &mut Rig, primary: usize) {
    let options = Options {
        protocol: Some(Protocol::A),
        pull_ahead: Some(NodeSet::of(node(1 - primary))),
        congestion_fill: Some(FILL_MIN),
        ..Options::default()
    };
    assert_eq!(rig.set_options(primary, options), Ok(()));
    rig.clog(primary, 1 - primary);
    for at in 0..4 {
        assert_eq!(rig.write(primary, at * 64, 7, 4096), Ok(()));
    }
}

/// Three nodes that node 2 leads.
fn follower_of_three() -> Rig {
    let mut rig = synced(3);
    rig.demote(0);
    assert_eq!(rig.promote(2), Ok(()));
    rig.idle();
    rig
}

/// Node 1 leads and node 0 begins to fetch what it missed.
fn returning(state: ReplicationState) -> Rig {
    let mut rig = follower();
    rig.cut();
    assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(0, 1) == state);
    rig
}

/// Node 0 leads and node 1 begins to fetch what it missed.
fn serving(state: ReplicationState) -> Rig {
    let mut rig = synced(2);
    rig.cut();
    assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
    rig.heal_at_once();
    rig.run_until(|rig| rig.replication(0, 1) == state);
    rig
}

/// Three voters; node 0 is cut off with a write that waits.
fn suspended() -> Rig {
    let mut rig = Rig::configured(3, SECTORS, all_vote(3)).sync();
    rig.isolate(0);
    rig.begin_write(0, 0, 1, 4096);
    rig.idle();
    rig
}

pub(super) const STATES: &[State] = &[
    State {
        name: "new",
        story: "configured",
        reach: new,
    },
    State {
        name: "client connecting",
        story: "without disk, wants the peer",
        reach: || {
            let mut rig = new();
            rig.dial(0, 1, false);
            rig
        },
    },
    State {
        name: "client",
        story: "without disk, of a peer that leads",
        reach: || {
            let mut rig = follower();
            rig.detach(0);
            rig
        },
    },
    State {
        name: "attaching",
        story: "the new incarnation is on its way to the disk",
        reach: || {
            let mut rig = new();
            rig.set_late(0, true);
            rig.order_attach(0, 512);
            rig.idle();
            rig
        },
    },
    State {
        name: "blank",
        story: "with a disk that never held data",
        reach: || {
            let mut rig = new();
            rig.attach(0);
            rig
        },
    },
    State {
        name: "blank met",
        story: "so is the peer's",
        reach: || {
            let mut rig = new();
            (0..2).for_each(|node| rig.attach(node));
            rig.connect();
            rig.idle();
            rig
        },
    },
    State {
        name: "started",
        story: "started again, has met nobody",
        reach: || {
            let mut rig = idle();
            rig.crash(0);
            rig.restart_alone(0);
            rig
        },
    },
    State {
        name: "unserved",
        story: "started again, without a daemon",
        reach: || {
            let mut rig = idle();
            rig.crash(0);
            rig.restart_alone(0);
            rig.serve(0, false);
            rig.cut();
            rig.dial(0, 1, false);
            rig
        },
    },
    State {
        name: "greeting",
        story: "the links are there, no hello has come",
        reach: || {
            let mut rig = idle();
            rig.cut();
            rig.heal_at_once();
            rig.break_wire();
            rig.run_until(|rig| rig.session(0, 1).is_some());
            rig
        },
    },
    State {
        name: "nobody leads",
        story: "both are secondary",
        reach: idle,
    },
    State {
        name: "follower",
        story: "the peer is primary",
        reach: follower,
    },
    State {
        name: "cut off",
        story: "a secondary that lost its primary",
        reach: || {
            let mut rig = follower();
            rig.cut();
            rig
        },
    },
    State {
        name: "led from afar",
        story: "the peer follows a primary that is out of reach and has written nothing since",
        reach: || {
            let mut rig = follower_of_three();
            rig.cut_pair(0, 2);
            rig
        },
    },
    State {
        name: "outdated",
        story: "the peer follows a primary that is out of reach and has written",
        reach: || {
            let mut rig = follower_of_three();
            rig.isolate(0);
            assert_eq!(rig.write(2, 0, 1, 4096), Ok(()));
            rig.heal_pair(0, 1);
            rig
        },
    },
    State {
        name: "paused source",
        story: "the peer lacks what the primary is to give it",
        reach: || {
            let mut rig = follower_of_three();
            rig.isolate(1);
            assert_eq!(rig.write(2, 0, 1, 4096), Ok(()));
            rig.heal_pair(0, 1);
            rig
        },
    },
    State {
        name: "bitmap target",
        story: "behind; tells what it lacks",
        reach: || returning(ReplicationState::BitmapTarget),
    },
    State {
        name: "sync target",
        story: "fetches",
        reach: || returning(ReplicationState::SyncTarget),
    },
    State {
        name: "paused target",
        story: "a person lets the resync wait",
        reach: || {
            let mut rig = returning(ReplicationState::SyncTarget);
            let peer = node(1);
            rig.order(0, Command::PauseSync { peer });
            rig.idle();
            rig
        },
    },
    State {
        name: "ahead",
        story: "primary; the peer does not keep up, and is left behind",
        reach: || {
            let mut rig = synced(2);
            outrun(&mut rig, 0);
            rig.run_until(|rig| rig.replication(0, 1) == ReplicationState::Ahead);
            rig
        },
    },
    State {
        name: "behind",
        story: "does not keep up with the peer's writes",
        reach: || {
            let mut rig = follower();
            outrun(&mut rig, 1);
            rig.run_until(|rig| rig.replication(0, 1) == ReplicationState::Behind);
            rig
        },
    },
    State {
        name: "given up",
        story: "a person wants everything fetched from the peer, which leads",
        reach: || {
            let mut rig = follower();
            let (volume, from) = (VOLUME, None);
            rig.order(0, Command::Invalidate { volume, from });
            rig.run_until(|rig| rig.replication(0, 1) == ReplicationState::BitmapTarget);
            rig
        },
    },
    State {
        name: "unfinished",
        story: "a sync target that lost its source",
        reach: || {
            let mut rig = returning(ReplicationState::SyncTarget);
            rig.cut_at_once();
            rig.idle();
            rig
        },
    },
    State {
        name: "comparing",
        story: "about to be promoted: the peer is asked for its state",
        reach: || {
            let mut rig = idle();
            rig.break_wire();
            rig.order(0, PROMOTE);
            rig
        },
    },
    State {
        name: "recording",
        story: "about to be promoted: the record is on its way to the disk",
        reach: || {
            let mut rig = idle();
            rig.set_late(0, true);
            rig.order(0, PROMOTE);
            rig.idle();
            rig
        },
    },
    State {
        name: "draining",
        story: "about to be demoted: the last write is being made stable",
        reach: || {
            let mut rig = synced(2);
            assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
            rig.set_late(0, true);
            rig.order(0, Command::Secondary { force: false });
            rig.idle();
            rig
        },
    },
    State {
        name: "detaching",
        story: "the metadata are being written for the last time",
        reach: || {
            let mut rig = follower();
            assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
            rig.set_late(0, true);
            rig.order(0, Command::Detach { volume: VOLUME });
            rig.idle();
            rig
        },
    },
    State {
        name: "failed",
        story: "the disk reported an error and still owes an answer",
        reach: || {
            let mut rig = follower();
            assert_eq!(rig.write(1, 0, 1, 4096), Ok(()));
            rig.set_late(0, true);
            rig.begin_write(1, COLD, 2, 4096);
            rig.idle();
            rig.set_failing(0, true);
            rig.begin_write(1, 0, 2, 4096);
            rig.idle();
            rig
        },
    },
    State {
        name: "primary",
        story: "with a peer that has everything",
        reach: || synced(2),
    },
    State {
        name: "primary cut off",
        story: "lost its peer, has written nothing since",
        reach: || {
            let mut rig = synced(2);
            rig.cut();
            rig
        },
    },
    State {
        name: "primary alone",
        story: "lost its peer and went on",
        reach: || {
            let mut rig = synced(2);
            rig.cut();
            assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
            rig
        },
    },
    State {
        name: "bitmap source",
        story: "primary; the peer is behind",
        reach: || serving(ReplicationState::BitmapSource),
    },
    State {
        name: "sync source",
        story: "primary; the peer fetches",
        reach: || serving(ReplicationState::SyncSource),
    },
    State {
        name: "verify source",
        story: "primary; the peer compares its disk with this one",
        reach: || compared(synced(2)),
    },
    State {
        name: "verify target",
        story: "the peer leads, and this disk is compared with the peer's",
        reach: || compared(follower()),
    },
    State {
        name: "primary without disk",
        story: "the disk failed, and nobody could take over",
        reach: || {
            let mut rig = synced(2);
            rig.set_protocol(0, Protocol::A);
            rig.set_failing(0, true);
            assert!(rig.write(0, COLD, 1, 4096).is_err());
            rig.idle();
            rig.set_failing(0, false);
            rig
        },
    },
    State {
        name: "suspended by command",
        story: "primary; a write waits",
        reach: || {
            let mut rig = synced(2);
            rig.order(0, Command::SuspendIo);
            rig.begin_write(0, 0, 1, 4096);
            rig.idle();
            rig
        },
    },
    State {
        name: "suspended",
        story: "primary without a majority of three voters; a write waits",
        reach: suspended,
    },
    State {
        name: "split brain",
        story: "primary; met another one",
        reach: || {
            let mut rig = synced(2);
            rig.cut();
            assert_eq!(rig.write(0, 0, 1, 4096), Ok(()));
            assert_eq!(rig.promote(1), Ok(()));
            rig.heal();
            assert!(rig.is_stand_alone(0, 1));
            rig
        },
    },
    State {
        name: "disconnected",
        story: "secondary; a person took the connection back",
        reach: || {
            let mut rig = follower();
            let peer = node(1);
            assert_eq!(
                rig.command(0, Command::Disconnect { peer, force: false }),
                Ok(())
            );
            rig.idle();
            rig
        },
    },
];
