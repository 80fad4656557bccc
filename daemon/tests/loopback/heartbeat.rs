// SPDX-License-Identifier: GPL-2.0-only

//! Who is alive. The peer here is played by the test, so that it can fall silent.

use crate::rig::{eventually, read_to_end, Cluster, Node, PATIENCE};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use weft_daemon::config::Config;
use weft_daemon::peers::identity::Identity;
use weft_uapi::peer::{Channel, Frame, FrameKind, Hello, Verdict};
use zerocopy::IntoBytes;

/// Node 0, played by the test; node 1 dials it.
struct Actor {
    listener: TcpListener,
    identity: Identity,
}

impl Actor {
    fn new(cluster: &Cluster) -> Self {
        let config = Config::load(&cluster.config("")).unwrap();
        Self {
            listener: TcpListener::bind(cluster.address(0)).unwrap(),
            identity: Identity::new(&config, config.node("n0").unwrap()).unwrap(),
        }
    }

    /// Takes the next connection and welcomes it.
    fn welcome(&self, session: u64) -> (TcpStream, Hello) {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; size_of::<Hello>()];
        stream.read_exact(&mut hello).unwrap();
        let hello = Hello::parse(&hello).unwrap();
        let reply = self
            .identity
            .reply(Verdict::Welcome, hello.features.get(), session);
        stream.write_all(reply.as_bytes()).unwrap();
        (stream, hello)
    }
}

fn frame(stream: &mut TcpStream) -> Frame {
    let mut bytes = [0; size_of::<Frame>()];
    stream.read_exact(&mut bytes).unwrap();
    Frame::parse(&bytes).unwrap()
}

fn is(frame: &Frame, kind: FrameKind) -> bool {
    frame.kind.get() == kind.number() as u16
}

fn pong(ping: &Frame) -> Frame {
    Frame {
        kind: (FrameKind::Pong.number() as u16).into(),
        ..*ping
    }
    .sealed()
}

fn start() -> (Cluster, Actor, Node) {
    let cluster = Cluster::new(2).ping_every(50);
    let actor = Actor::new(&cluster);
    let node = cluster.start(1);
    (cluster, actor, node)
}

#[test]
fn h16_a_peer_that_falls_silent_is_down_after_the_allowed_misses_and_not_before() {
    let (_cluster, actor, node) = start();
    let (mut control, _) = actor.welcome(0);
    node.module.wait_connected(0b1);
    for _ in 0..3 {
        let ping = frame(&mut control);
        control.write_all(pong(&ping).as_bytes()).unwrap();
    }
    // Silent from here on, as a stopped process is: its socket still takes everything.
    let rest = read_to_end(&mut control);
    let pings = rest.len() / size_of::<Frame>();
    assert!(
        (4..=5).contains(&pings),
        "{pings} pings before the peer was given up"
    );
    node.module.wait_connected(0);
    let trouble = node.peer(0).trouble.unwrap();
    assert!(trouble.contains("no sign of life"), "{trouble}");
}

#[test]
fn c9_any_traffic_counts_as_life_and_a_dead_control_channel_takes_the_links_along() {
    let (_cluster, actor, node) = start();
    let (mut control, _) = actor.welcome(0);
    let session = node.module.offer(0, "r0");
    let (mut links, mut kinds) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (stream, hello) = actor.welcome(77);
        assert_eq!(hello.session.get(), session);
        kinds.push(Channel::from_number(hello.channel.get().into()).unwrap());
        links.push(stream);
    }
    kinds.sort();
    assert_eq!(kinds, [Channel::Data, Channel::Meta]);
    let accepted = node.module.session(session);
    assert_eq!(accepted.peer_session, 77);
    // Never a pong, but a byte on a link for each ping: the peer lives on for far longer than its misses.
    for _ in 0..20 {
        assert!(is(&frame(&mut control), FrameKind::Ping));
        links[1].write_all(b"x").unwrap();
    }
    assert_eq!(node.peer(0).state, "connected");
    // Nothing any more: control is given up, and the links with it.
    read_to_end(&mut control);
    for link in &mut links {
        read_to_end(link);
    }
    let (mut data, mut meta) = (accepted.data, accepted.meta);
    read_to_end(&mut data);
    read_to_end(&mut meta);
}

#[test]
fn h7_a_ping_is_answered_with_its_stamp_and_a_pong_measures_the_round_trip() {
    let (_cluster, actor, node) = start();
    let (mut control, _) = actor.welcome(0);
    let ping = frame(&mut control);
    assert!(is(&ping, FrameKind::Ping));
    control.write_all(pong(&ping).as_bytes()).unwrap();
    eventually("the round trip is shown", || node.peer(0).round_trip_us);
    let own = Frame {
        kind: (FrameKind::Ping.number() as u16).into(),
        stamp: 0x1234_5678.into(),
        ..ping
    };
    control.write_all(own.sealed().as_bytes()).unwrap();
    let answer = loop {
        let next = frame(&mut control);
        if is(&next, FrameKind::Pong) {
            break next;
        }
    };
    assert_eq!(answer.stamp.get(), 0x1234_5678);
}

#[test]
fn garbage_on_a_control_channel_ends_it_and_it_is_dialled_again() {
    let (_cluster, actor, node) = start();
    let (mut control, _) = actor.welcome(0);
    control.write_all(&[0x5a; 24]).unwrap();
    read_to_end(&mut control);
    let (_control, _) = actor.welcome(0);
    node.wait_up(0);
}

#[test]
fn c2_a_peer_that_floods_control_with_pings_does_not_grow_the_daemon_or_stop_it() {
    let (_cluster, actor, node) = start();
    let (mut control, _) = actor.welcome(0);
    let ping = frame(&mut control);
    let flood = [ping.as_bytes()].repeat(4096).concat();
    // Pongs are never read, so the daemon must end the channel sooner or later.
    while control.write_all(&flood).is_ok() {}
    let (_control, _) = actor.welcome(0);
    node.wait_up(0);
}

#[test]
fn h11_the_module_is_told_who_is_connected_again_and_again() {
    let cluster = Cluster::new(2);
    let node = cluster.start(1);
    let states: Vec<_> = (0..3).map(|_| node.module.conn_state()).collect();
    assert!(
        states.iter().all(|state| state.connected == 0),
        "{states:?}"
    );
    assert!(
        states.windows(2).all(|pair| pair[0].epoch < pair[1].epoch),
        "{states:?}"
    );
    let _peer = cluster.start(0);
    node.module.wait_connected(0b1);
    assert_eq!(
        node.module.conn_state().connected,
        0b1,
        "told again without a change"
    );
}
