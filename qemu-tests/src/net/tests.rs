// SPDX-License-Identifier: GPL-2.0-only
//! The switch between machines that are plain sockets.

use super::*;

/// A frame from one node to another (255: to all) with a recognisable content.
fn frame(from: u8, to: u8, content: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let receiver = if to == 255 { [255; 6] } else { address(to) };
    frame.extend_from_slice(&receiver);
    frame.extend_from_slice(&address(from));
    frame.extend_from_slice(&[content; 1000]);
    frame
}

fn address(node: u8) -> [u8; 6] {
    let [a, b, c, d, e] = MAC_PREFIX;
    [a, b, c, d, e, node]
}

fn send(machine: &mut UnixStream, frame: &[u8]) {
    machine
        .write_all(&(frame.len() as u32).to_be_bytes())
        .unwrap();
    machine.write_all(frame).unwrap();
}

fn plug_all(network: &Network) -> Vec<UnixStream> {
    let nodes = 0..network.shared.ports.len();
    nodes.map(|node| network.plug(node).unwrap()).collect()
}

#[test]
fn a_frame_reaches_its_receiver_alone_and_a_broadcast_everybody_else() {
    let network = Network::new(3);
    let mut machines = plug_all(&network);
    send(&mut machines[0], &frame(0, 2, 1));
    send(&mut machines[0], &frame(0, 255, 2));
    assert_eq!(read_frame(&mut machines[2]).unwrap(), frame(0, 2, 1));
    assert_eq!(read_frame(&mut machines[2]).unwrap(), frame(0, 255, 2));
    assert_eq!(read_frame(&mut machines[1]).unwrap(), frame(0, 255, 2));
}

#[test]
fn a_cut_stops_one_direction_until_it_heals() {
    let network = Network::new(2);
    let mut machines = plug_all(&network);
    network.cut(0, 1);
    send(&mut machines[0], &frame(0, 1, 1));
    send(&mut machines[1], &frame(1, 0, 2));
    assert_eq!(read_frame(&mut machines[0]).unwrap(), frame(1, 0, 2));
    while network.counters(0, 1).dropped == 0 {
        thread::yield_now();
    }
    network.heal(0, 1);
    send(&mut machines[0], &frame(0, 1, 3));
    assert_eq!(read_frame(&mut machines[1]).unwrap(), frame(0, 1, 3));
}

#[test]
fn frames_on_a_delayed_link_keep_their_order_and_arrive_no_earlier() {
    let network = Network::new(2);
    let mut machines = plug_all(&network);
    let delay = Duration::from_millis(50);
    network.change(0, 1, |condition| condition.delay = delay);
    let sent_at = Instant::now();
    for content in 0..10 {
        send(&mut machines[0], &frame(0, 1, content));
    }
    for content in 0..10 {
        assert_eq!(read_frame(&mut machines[1]).unwrap(), frame(0, 1, content));
    }
    assert!(sent_at.elapsed() >= delay);
}

#[test]
fn a_limited_link_spreads_frames_and_drops_what_its_queue_cannot_hold() {
    let mut link = Link::default();
    link.condition.rate = Some(1000);
    let now = Instant::now();
    assert_eq!(
        link.transmit(500, now),
        Some(now + Duration::from_millis(500))
    );
    assert_eq!(
        link.transmit(500, now),
        Some(now + Duration::from_millis(1000))
    );
    link.free_at = Some(now + Duration::from_secs(LINK_QUEUE_LEN_MAX / 1000 + 2));
    assert_eq!(link.transmit(500, now), None);
}

#[test]
fn a_lossy_link_loses_about_its_share() {
    let network = Network::new(2);
    network.change(0, 1, |condition| condition.loss_percent = 50);
    let mut links = network.shared.links();
    let passed = (0..1000)
        .filter(|_| links.admit(0, 1, 100).is_some())
        .count();
    assert!((400..600).contains(&passed), "{passed} of 1000 passed");
}

#[test]
fn a_machine_that_takes_no_frames_does_not_stop_the_others() {
    let network = Network::new(3);
    let mut machines = plug_all(&network);
    for _ in 0..2 * PORT_QUEUE_LEN_MAX / 1000 {
        send(&mut machines[0], &frame(0, 1, 0));
    }
    send(&mut machines[0], &frame(0, 2, 7));
    assert_eq!(read_frame(&mut machines[2]).unwrap(), frame(0, 2, 7));
}

#[test]
fn a_machine_that_comes_back_gets_no_frames_of_its_former_life() {
    let network = Network::new(2);
    let mut machines = plug_all(&network);
    network.change(0, 1, |condition| {
        condition.delay = Duration::from_secs(3600)
    });
    send(&mut machines[0], &frame(0, 1, 1));
    while network.counters(0, 1).frames == 0 {
        thread::yield_now();
    }
    machines[1] = network.plug(1).unwrap();
    network.heal_all();
    send(&mut machines[0], &frame(0, 1, 2));
    assert_eq!(read_frame(&mut machines[1]).unwrap(), frame(0, 1, 2));
}
