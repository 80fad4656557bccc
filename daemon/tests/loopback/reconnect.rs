// SPDX-License-Identifier: GPL-2.0-only

//! Sessions that end and begin.

use crate::module::Session;
use crate::rig::{connect, eventually, read_to_end, Cluster, Node};
use std::io::{Read, Write};
use std::net::TcpListener;
use weft_daemon::links::kind::LinkKind;
use weft_uapi::control::KERN_HANDSHAKE_DATA;

/// Both links of a session are closed from the other side.
fn expect_end(mut session: Session) {
    read_to_end(&mut session.data);
    read_to_end(&mut session.meta);
}

fn greet(from: &Session, to: &Session, word: &[u8; 8]) {
    let mut buffer = [0; 8];
    (&from.data).write_all(word).unwrap();
    (&to.data).read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, word);
}

#[test]
fn a_killed_daemon_ends_its_sessions_and_the_next_one_begins_new_ones() {
    for victim in [0, 1] {
        let cluster = Cluster::new(2);
        let mut nodes = cluster.start_all();
        let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        greet(&near, &far, b"session1");
        nodes.remove(victim).kill();
        // The survivor's module and the victim's both see the end.
        expect_end(near);
        expect_end(far);
        nodes.insert(victim, cluster.start(victim as u8));
        let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        greet(&near, &far, b"session2");
    }
}

#[test]
fn h10_a_link_that_the_module_closes_takes_the_whole_session_down_on_both_sides() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    for kind in LinkKind::ALL {
        let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        let (closed, other) = match kind {
            LinkKind::Data => (near.data, near.meta),
            LinkKind::Meta => (near.meta, near.data),
        };
        drop(closed);
        expect_end(far);
        read_to_end(&mut (&other));
    }
}

#[test]
fn h19_no_byte_of_an_old_session_reaches_a_new_one() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    let mut old = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    for round in 0..12u64 {
        // Bytes of the old session are under way in both directions when it is cut.
        let _ = old
            .0
            .data
            .set_nonblocking(true)
            .and_then(|()| (&old.0.data).write(&[0xff; 60_000]));
        let _ = old
            .1
            .meta
            .set_nonblocking(true)
            .and_then(|()| (&old.1.meta).write(&[0xff; 60_000]));
        drop(old);
        let new = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        greet(&new.0, &new.1, &round.to_be_bytes());
        greet(&new.1, &new.0, &round.to_be_bytes());
        old = new;
    }
}

#[test]
fn h13_nodes_that_start_together_have_exactly_one_connection_per_channel() {
    let cluster = Cluster::new(2);
    for _ in 0..200 {
        let listeners = [0, 1].map(|node| TcpListener::bind(cluster.address(node)).unwrap());
        let [first, second] = listeners;
        let nodes = [
            cluster.start_listening(0, first),
            cluster.start_listening(1, second),
        ];
        connect((&nodes[0], 0), (&nodes[1], 1), "r0");
        for (node, peer) in [(0, 1), (1, 0)] {
            assert_eq!(nodes[node].peer(peer).connects, 1);
            assert_eq!(nodes[node].module.accepts(), 2);
        }
        nodes.into_iter().for_each(Node::kill);
    }
}

#[test]
fn a_side_whose_module_offers_later_is_reached_without_a_new_start() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    // The dialling side is refused for a while.
    let second = nodes[1].module.offer(0, "r0");
    eventually("the dialler is told to wait", || {
        let trouble = nodes[1].connection(0, "r0")?.trouble?;
        trouble.contains("offers no link").then_some(())
    });
    let first = nodes[0].module.offer(1, "r0");
    let (near, far) = (
        nodes[0].module.session(first),
        nodes[1].module.session(second),
    );
    greet(&near, &far, b"later on");
}

#[test]
fn one_offered_link_is_not_enough() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    let session = nodes[0].module.number();
    nodes[0].module.offer_one(1, "r0", LinkKind::Data, session);
    let second = nodes[1].module.offer(0, "r0");
    eventually("the dialler is told to wait", || {
        let trouble = nodes[1].connection(0, "r0")?.trouble?;
        trouble.contains("offers no link").then_some(())
    });
    assert_eq!(nodes[0].module.accepts() + nodes[1].module.accepts(), 0);
    nodes[0].module.offer_one(1, "r0", LinkKind::Meta, session);
    nodes[0].module.session(session);
    nodes[1].module.session(second);
}

#[test]
fn a_withdrawn_session_ends_and_a_withdrawn_offer_is_not_accepted() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    let first = nodes[0].module.offer(1, "r0");
    let second = nodes[1].module.offer(0, "r0");
    let (near, far) = (
        nodes[0].module.session(first),
        nodes[1].module.session(second),
    );
    nodes[0].module.withdraw(1, "r0", first);
    expect_end(near);
    expect_end(far);
    // An offer that is withdrawn before the other side is ready.
    let void = nodes[0].module.offer(1, "r0");
    nodes[0].module.withdraw(1, "r0", void);
    connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    assert_eq!(nodes[0].module.accepts(), 4);
}

#[test]
fn h4_an_offer_of_another_abi_or_for_another_node_is_left_alone() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    let module = &nodes[0].module;
    let mut foreign = module.message(KERN_HANDSHAKE_DATA, 1, "r0", 1, 1);
    foreign.abi += 1;
    module.tell(&foreign);
    let mut misplaced = module.message(KERN_HANDSHAKE_DATA, 1, "r0", 1, 1);
    misplaced.node = 5;
    module.tell(&misplaced);
    // The daemon lives on and serves what makes sense.
    connect((&nodes[0], 0), (&nodes[1], 1), "r0");
}

#[test]
fn h14_a_peer_that_is_away_is_tried_again_and_the_next_attempt_is_shown() {
    let cluster = Cluster::new(2);
    let dialler = cluster.start(1);
    let report = eventually("several attempts have failed", || {
        let peer = dialler.peer(0);
        (peer.failed_attempts >= 3).then_some(peer)
    });
    assert!(report.trouble.unwrap().contains("refused"));
    eventually("the next attempt is shown", || {
        dialler.peer(0).next_attempt_ms
    });
    let listener = cluster.start(0);
    dialler.wait_up(0);
    assert_eq!(dialler.peer(0).failed_attempts, 0);
    listener.stop();
}

#[test]
fn l9_a_daemon_that_stops_says_goodbye_and_tells_its_module() {
    let cluster = Cluster::new(2);
    let mut nodes: Vec<Node> = cluster.start_all();
    let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    let stopped = nodes.remove(0);
    let module = stopped.module.clone();
    stopped.stop();
    expect_end(near);
    expect_end(far);
    module.wait_connected(0);
    eventually("the peer knows why", || {
        let trouble = nodes[0].peer(0).trouble?;
        (trouble.contains("stopping") || trouble.contains("refused")).then_some(())
    });
}
