// SPDX-License-Identifier: GPL-2.0-only

//! The control socket and reloading.

use crate::rig::{connect, eventually, Cluster, PATIENCE};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

fn client(socket: &std::path::Path) -> (BufReader<UnixStream>, UnixStream) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (BufReader::new(stream.try_clone().unwrap()), stream)
}

fn line(reader: &mut impl BufRead) -> Value {
    let mut text = String::new();
    reader.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn c7_pipelined_requests_are_answered_in_order_with_their_ids_and_bad_ones_leave_the_client_connected(
) {
    let cluster = Cluster::new(1);
    let node = cluster.start(0);
    let (mut reader, mut writer) = client(node.socket());
    let requests: Vec<_> = (1..=100)
        .map(|id| format!("{{\"id\":{id},\"method\":\"status\"}}\n"))
        .collect();
    writer.write_all(requests.concat().as_bytes()).unwrap();
    for id in 1..=100 {
        let reply = line(&mut reader);
        assert_eq!(reply["id"], id);
        assert_eq!(reply["result"]["cluster"], "loop");
    }
    writer
        .write_all(b"this is no JSON\n{\"id\":7,\"method\":\"dance\"}\n")
        .unwrap();
    assert_eq!(line(&mut reader)["error"]["code"], "bad-request");
    let reply = line(&mut reader);
    assert_eq!(
        (&reply["id"], &reply["error"]["code"]),
        (&Value::from(7), &Value::from("unknown-method"))
    );
}

#[test]
fn c4_a_client_that_dies_or_floods_harms_nobody() {
    let cluster = Cluster::new(1);
    let node = cluster.start(0);
    for _ in 0..100 {
        let (_, mut writer) = client(node.socket());
        writer.write_all(b"{\"id\":1,\"method\":\"sta").unwrap();
    }
    // A request without end is cut off.
    let (mut reader, mut writer) = client(node.socket());
    while writer.write_all(&[b'x'; 4096]).is_ok() {}
    let mut rest = String::new();
    assert_eq!(reader.read_line(&mut rest).unwrap_or(0), 0);
    assert_eq!(node.report().cluster, "loop");
}

#[test]
fn c1_a_reload_takes_new_peers_in_and_lets_old_ones_go_while_sessions_run_on() {
    let cluster = Cluster::new(2);
    let mut nodes = cluster.start_all();
    let (_near, _far) = connect((&nodes[0], 0), (&nodes[1], 1), "r0");
    cluster.config("[[node]]\nname = \"n9\"\nid = 9\naddress = \"127.0.0.1:9\"\n");
    nodes[1].reload();
    eventually("the new peer is there", || {
        let peers = nodes[1].report().peers;
        (peers.len() == 2).then_some(())
    });
    assert_eq!(nodes[1].connection(0, "r0").unwrap().state, "running");
    cluster.config("");
    nodes[1].reload();
    eventually("the peer is gone", || {
        (nodes[1].report().peers.len() == 1).then_some(())
    });
    // A broken file changes nothing.
    cluster.config("[[node]]\nname = \"n1\"\nid = 0\n");
    nodes[1].reload();
    assert_eq!(nodes[1].connection(0, "r0").unwrap().sessions, 1);
}
