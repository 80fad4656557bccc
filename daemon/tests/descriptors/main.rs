// SPDX-License-Identifier: GPL-2.0-only

//! Nothing is left open. A process of its own, because descriptors are counted per process.
#![allow(dead_code)] // the rig has more than this test needs

#[path = "../loopback/module.rs"]
mod module;
#[path = "../loopback/rig.rs"]
mod rig;

use rig::{connect, eventually, read_to_end, stranger, Cluster};
use std::io::Write;
use std::sync::Mutex;

/// One test at a time: each counts the descriptors of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn c3_the_number_of_open_descriptors_returns_to_its_base_after_many_connections() {
    let _alone = ALONE.lock();
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    nodes[0].module.wait_connected(0b10);
    nodes[1].module.wait_connected(0b01);
    let back_at = |base: usize, what: &str| {
        eventually(what, || (open_descriptors() == base).then_some(()));
    };
    let base = open_descriptors();

    // Sessions of many resources, each several times.
    for _ in 0..5 {
        let resources: Vec<_> = (0..40).map(|number| format!("r{number}")).collect();
        let sessions: Vec<_> = resources
            .iter()
            .map(|resource| connect((&nodes[0], 0), (&nodes[1], 1), resource))
            .collect();
        assert!(
            open_descriptors() >= base + 40 * 12,
            "sessions hold descriptors"
        );
        drop(sessions);
        back_at(base, "all descriptors of the sessions are closed");
    }
    // Strangers, silent or talking nonsense.
    for round in 0..2000 {
        let mut stream = stranger(cluster.address(0));
        if round % 2 == 0 {
            stream.write_all(&[0xa5; 128]).unwrap();
            read_to_end(&mut stream);
        }
    }
    back_at(base, "all descriptors of the strangers are closed");
    // Clients of the control socket.
    for _ in 0..500 {
        nodes[1].report();
    }
    back_at(base, "all descriptors of the clients are closed");
}

#[test]
fn c3_daemons_that_come_and_go_leave_nothing_open() {
    let _alone = ALONE.lock();
    let cluster = Cluster::new(2);
    let base = open_descriptors();
    for round in 0..20 {
        let mut nodes = cluster.start_all();
        connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        if round % 2 == 0 {
            nodes.drain(..).for_each(rig::Node::stop);
        } else {
            nodes.drain(..).for_each(rig::Node::kill);
        }
        eventually("everything is closed", || {
            (open_descriptors() == base).then_some(())
        });
    }
}
