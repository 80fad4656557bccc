// SPDX-License-Identifier: GPL-2.0-only

//! Who is let in.

use crate::rig::{connect, read_to_end, stranger, Cluster};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use weft_daemon::config::Config;
use weft_daemon::peers::identity::{Identity, Place};
use weft_uapi::peer::{Channel, Hello, HelloReply, Verdict};
use weft_uapi::units::NodeId;
use weft_uapi::version::PROTOCOL_VERSION;
use zerocopy::IntoBytes;

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The hello of node 1 to node 0 of a cluster.
fn hello(cluster: &Cluster, channel: Channel, place: Option<&Place>) -> Hello {
    let config = Config::load(&cluster.config("")).unwrap();
    let identity = Identity::new(&config, config.node("n1").unwrap()).unwrap();
    identity.hello(node(0), channel, place).unwrap()
}

/// Greets and reads the answer.
fn greet(address: SocketAddr, hello: Hello) -> (TcpStream, HelloReply) {
    let mut stream = stranger(address);
    stream.write_all(hello.sealed().as_bytes()).unwrap();
    let mut answer = [0; size_of::<HelloReply>()];
    stream.read_exact(&mut answer).unwrap();
    (stream, HelloReply::parse(&answer).unwrap())
}

fn verdict(address: SocketAddr, hello: Hello) -> Verdict {
    let (_, reply) = greet(address, hello);
    Verdict::from_number(reply.verdict.get().into()).unwrap()
}

#[test]
fn c10_a_foreign_version_cluster_or_node_is_refused_with_its_reason() {
    let cluster = Cluster::new(2);
    let listener = cluster.start(0);
    let address = cluster.address(0);
    let good = hello(&cluster, Channel::Control, None);
    let mut newer = good;
    newer.version = (PROTOCOL_VERSION + 2).into();
    newer.version_min = (PROTOCOL_VERSION + 1).into();
    let (_, reply) = greet(address, newer);
    assert_eq!(reply.verdict.get(), Verdict::Version.number() as u16);
    assert_eq!(
        reply.version.get(),
        PROTOCOL_VERSION,
        "the answer names our version"
    );

    let mut foreign = good;
    foreign.cluster = (good.cluster.get() ^ 1).into();
    assert_eq!(verdict(address, foreign), Verdict::Cluster);
    // A node that is not configured, one that meant another node, one with a lower id, and ourselves.
    for (from, to) in [(7, 0), (1, 3), (0, 1), (0, 0)] {
        let mut misplaced = good;
        misplaced.from = from.into();
        misplaced.to = to.into();
        assert_eq!(
            verdict(address, misplaced),
            Verdict::Identity,
            "{from} to {to}"
        );
    }
    assert_eq!(verdict(address, good), Verdict::Welcome);
    listener.stop();
}

#[test]
fn a_newer_peer_that_still_speaks_our_version_is_welcome() {
    let cluster = Cluster::new(2);
    let _listener = cluster.start(0);
    let mut newer = hello(&cluster, Channel::Control, None);
    newer.version = (PROTOCOL_VERSION + 5).into();
    newer.features = u64::MAX.into();
    let (_stream, reply) = greet(cluster.address(0), newer);
    assert_eq!(reply.verdict.get(), Verdict::Welcome.number() as u16);
    assert_eq!(
        reply.features.get(),
        weft_uapi::version::FEATURES,
        "features that both know"
    );
}

#[test]
fn a_link_is_not_ready_without_control_and_without_offers() {
    let cluster = Cluster::new(2);
    let listener = cluster.start(0);
    let place = Place {
        resource: "r0".to_owned(),
        session: 5,
    };
    let data = hello(&cluster, Channel::Data, Some(&place));
    let address = cluster.address(0);
    listener.module.offer(1, "r0");
    assert_eq!(
        verdict(address, data),
        Verdict::NotReady,
        "no control channel"
    );
    let (_control, _) = greet(address, hello(&cluster, Channel::Control, None));
    listener.wait_up(1);
    let other = Place {
        resource: "r1".to_owned(),
        session: 5,
    };
    assert_eq!(
        verdict(address, hello(&cluster, Channel::Data, Some(&other))),
        Verdict::NotReady,
        "no offer"
    );
    assert_eq!(verdict(address, data), Verdict::Welcome);
}

#[test]
fn another_machine_with_the_same_node_id_is_refused_while_the_first_lives() {
    let cluster = Cluster::new(2);
    let nodes = cluster.start_all();
    nodes[0].wait_up(1);
    let mut twin = hello(&cluster, Channel::Control, None);
    twin.boot = (twin.boot.get() ^ 1).into();
    assert_eq!(verdict(cluster.address(0), twin), Verdict::Duplicate);
    assert_eq!(nodes[0].peer(1).connects, 1);
}

#[test]
fn a_peer_that_dials_anew_replaces_its_stale_connection_and_sessions() {
    let cluster = Cluster::new(2);
    let listener = cluster.start(0);
    let good = hello(&cluster, Channel::Control, None);
    let (mut first, _) = greet(cluster.address(0), good);
    listener.wait_up(1);
    let (_second, reply) = greet(cluster.address(0), good);
    assert_eq!(reply.verdict.get(), Verdict::Welcome.number() as u16);
    read_to_end(&mut first);
    assert_eq!(listener.peer(1).connects, 2);
}

#[test]
fn h15_half_a_hello_and_then_silence_disturbs_nobody() {
    let cluster = Cluster::new(3);
    let first = cluster.start(0);
    let good = hello(&cluster, Channel::Control, None);
    // More than the daemon keeps, some silent, some with half a header, some with garbage.
    let mut strangers: Vec<_> = (0..200).map(|_| stranger(cluster.address(0))).collect();
    for (number, stream) in strangers.iter_mut().enumerate() {
        let bytes = match number % 3 {
            0 => &[][..],
            1 => &good.as_bytes()[..60],
            _ => &[0xa5; 128][..],
        };
        // The daemon may have closed it already.
        let _ = stream.write_all(bytes);
    }
    let (second, third) = (cluster.start(1), cluster.start(2));
    connect((&first, 0), (&second, 1), "r0");
    connect((&first, 0), (&third, 2), "r0");
    // The silent ones are closed, too.
    for mut stream in strangers {
        read_to_end(&mut stream);
    }
    assert_eq!(first.report().strangers, 0);
}

#[test]
fn c5_a_hello_in_single_bytes_is_as_good_as_one_in_one_piece() {
    let cluster = Cluster::new(2);
    let _listener = cluster.start(0);
    let mut stream = stranger(cluster.address(0));
    stream.set_nodelay(true).unwrap();
    for byte in hello(&cluster, Channel::Control, None).as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = [0; size_of::<HelloReply>()];
    stream.read_exact(&mut answer).unwrap();
    let reply = HelloReply::parse(&answer).unwrap();
    assert_eq!(reply.verdict.get(), Verdict::Welcome.number() as u16);
}
