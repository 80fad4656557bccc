// SPDX-License-Identifier: GPL-2.0-only

//! Bytes on links.

use crate::module::Session;
use crate::rig::{connect, Cluster};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

/// More than all buffers on the way together hold.
const LONG: usize = 12 << 20;

/// Bytes that show when a piece is missing, repeated or misplaced.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, word) in bytes.chunks_mut(8).enumerate() {
        let value = (at as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
    bytes
}

fn send(link: &UnixStream, seed: u64, length: usize) -> thread::JoinHandle<()> {
    let mut link = link.try_clone().unwrap();
    thread::spawn(move || link.write_all(&pattern(seed, length)).unwrap())
}

/// Reads in small pieces when slow, so that everything on the way fills up.
fn expect(link: &UnixStream, seed: u64, length: usize, piece: usize) {
    let mut link = link.try_clone().unwrap();
    let wanted = pattern(seed, length);
    let mut at = 0;
    let mut buffer = vec![0; piece];
    while at < length {
        let count = link.read(&mut buffer).unwrap();
        assert!(count > 0, "the link ended at byte {at}");
        assert!(
            buffer[..count] == wanted[at..at + count],
            "bytes differ near {at}"
        );
        at += count;
    }
}

/// Fills all four directions at once and looks at each byte.
fn exchange(near: &Session, far: &Session, length: usize) {
    let lanes = [
        (&near.data, &far.data, 1, 1 << 16),
        (&far.data, &near.data, 2, 3001),
        (&near.meta, &far.meta, 3, 1 << 12),
        (&far.meta, &near.meta, 4, 1 << 16),
    ];
    let senders: Vec<_> = lanes
        .iter()
        .map(|(from, _, seed, _)| send(from, *seed, length))
        .collect();
    thread::scope(|scope| {
        for (_, to, seed, piece) in lanes {
            scope.spawn(move || expect(to, seed, length, piece));
        }
    });
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
}

#[test]
fn h8_bytes_cross_both_links_both_ways_intact_and_in_order() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    exchange(&near, &far, LONG);
    let report = nodes[0].connection(1, "r0").unwrap();
    assert_eq!(report.state, "running");
    for link in report.links {
        assert_eq!(
            (link.sent_bytes, link.received_bytes),
            (LONG as u64, LONG as u64),
            "{}",
            link.kind
        );
    }
}

#[test]
fn h9_three_nodes_and_two_resources_keep_their_bytes_apart() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all();
    let mut sessions = Vec::new();
    for resource in ["r0", "r1"] {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            sessions.push(connect(
                (&nodes[a], a as u32),
                (&nodes[b], b as u32),
                resource,
            ));
        }
    }
    thread::scope(|scope| {
        for (near, far) in &sessions {
            scope.spawn(|| exchange(near, far, LONG / 12));
        }
    });
    for (node, connected) in [(0, 0b110), (1, 0b101), (2, 0b011)] {
        nodes[node].module.wait_connected(connected);
    }
}

#[test]
fn h3_a_data_link_that_nobody_reads_delays_neither_meta_nor_another_peer() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all();
    let (near, far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    let (other_near, other_far) = connect((&nodes[0], 0), (&nodes[2], 2), "r0");
    // Written without waiting until nothing goes any more: all buffers up to the far module are full.
    let mut stuffed = near.data.try_clone().unwrap();
    let sender = thread::spawn(move || stuffed.write_all(&pattern(9, LONG)));
    for round in 0..200u64 {
        exchange_small(&near.meta, &far.meta, round);
        exchange_small(&other_near.data, &other_far.data, round);
    }
    // And nothing of what was held back is lost.
    expect(&far.data, 9, LONG, 1 << 16);
    sender.join().unwrap().unwrap();
}

fn exchange_small(from: &UnixStream, to: &UnixStream, round: u64) {
    let (mut from, mut to) = (from, to);
    let mut buffer = [0; 8];
    from.write_all(&round.to_le_bytes()).unwrap();
    to.read_exact(&mut buffer).unwrap();
    assert_eq!(u64::from_le_bytes(buffer), round);
    to.write_all(&buffer).unwrap();
    from.read_exact(&mut buffer).unwrap();
    assert_eq!(u64::from_le_bytes(buffer), round);
}
