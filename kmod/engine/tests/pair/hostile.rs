// SPDX-License-Identifier: GPL-2.0-only

//! Packets that no engine sends.

use crate::rig::{Rig, VOLUME};
use weft_engine::event::Command;
use weft_uapi::units::{Sector, Seq, Term};
use weft_uapi::wire::{AgeBody, Header, LinkKind, PacketKind};
use zerocopy::IntoBytes;

/// Small numbers mostly, so that many of them make sense; some at the ends of the range.
fn hostile_number(random: &mut u64) -> u64 {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let number = *random >> 33;
    match number % 8 {
        0 => u64::MAX - number / 8 % 4,
        1 => number << 20,
        _ => number / 8 % 300,
    }
}

#[test]
fn packets_that_no_engine_sends_end_the_session_at_most() {
    let mut random = 1;
    for _ in 0..4 {
        let mut rig = Rig::pair();
        rig.write(0, 0, 1, 4096).unwrap();
        for _ in 0..500 {
            let mut number = || hostile_number(&mut random);
            let to = number() as usize % 2;
            let kind = PacketKind::ALL[number() as usize % PacketKind::ALL.len()];
            let link = if kind.belongs_on(LinkKind::Data) {
                LinkKind::Data
            } else {
                LinkKind::Meta
            };
            let mut header = Header::new(kind, (number() % 16 != 1).then_some(VOLUME));
            header.flags = number() as u16 & 0xf;
            (header.seq, header.sector) = (Seq(number()), Sector(number() & 0xffff_ffff));
            (header.arg, header.term) = (number(), Term(number()));
            header.bytes = (number() as u32 % 33) * if number() % 2 == 0 { 4096 } else { 512 };
            let body: Vec<u8> = (0..number() % 700).map(|_| number() as u8 % 4).collect();
            let has_data = kind.carries_data() && header.bytes > 0;
            let data = has_data.then(|| vec![9; header.bytes as usize].into());
            rig.inject(
                (1 - to, to),
                link,
                header,
                if kind.carries_data() { &[] } else { &body },
                data,
            );
            rig.idle();
            rig.reconnect();
        }
    }
}

#[test]
fn a_peers_write_of_less_than_a_logical_block_never_reaches_the_disk() {
    let mut rig = Rig::new();
    (0..2).for_each(|node| rig.attach_with_blocks(node, 4096));
    rig.connect();
    rig.command(0, Command::Primary { force: true }).unwrap();
    rig.idle();
    let mut header = Header::new(PacketKind::Write, Some(VOLUME));
    (header.seq, header.sector, header.bytes) = (Seq(1 << 30), Sector(8), 512);
    rig.break_wire();
    let data = vec![9; 512].into();
    rig.inject((0, 1), LinkKind::Data, header, &[], Some(data));
    rig.run_until(|rig| rig.session(1, 0).is_none());
    assert_eq!(rig.session(1, 0), None);
    assert_eq!(rig.read_disk(1, 8, 512), [0; 512]);
}

#[test]
fn a_trim_of_what_is_not_stable_takes_nothing_away() {
    let mut rig = Rig::pair();
    rig.write(0, 0, 1, 4096).unwrap();
    let mut header = Header::new(PacketKind::Trim, Some(VOLUME));
    header.seq = Seq(1 << 40);
    rig.break_wire();
    rig.inject((0, 1), LinkKind::Data, header, &[], None);
    assert_eq!(rig.out_of_sync(1, 0), 8);
}

#[test]
fn an_age_that_is_malformed_or_not_the_peers_to_tell_ends_the_session() {
    let age = |node: u32, reserved: u32| AgeBody {
        attach_id: 1.into(),
        age: 1.into(),
        node: node.into(),
        reserved: reserved.into(),
    };
    let bytes = |age: AgeBody| age.as_bytes().to_vec();
    let (data, meta) = (LinkKind::Data, LinkKind::Meta);
    for (kind, link, body, is_taken) in [
        (PacketKind::Trim, data, bytes(age(0, 0)), true),
        (PacketKind::Trim, data, bytes(age(2, 0)), true),
        (PacketKind::Trim, data, bytes(age(1, 0)), false),
        (PacketKind::Trim, data, bytes(age(32, 0)), false),
        (PacketKind::Trim, data, bytes(age(0, 1)), false),
        (PacketKind::Trim, data, vec![0; 23], false),
        (PacketKind::Stable, meta, bytes(age(0, 0)), true),
        (PacketKind::Stable, meta, bytes(age(2, 0)), false),
    ] {
        let mut rig = Rig::pair();
        rig.break_wire();
        let before = rig.session(1, 0);
        rig.inject((0, 1), link, Header::new(kind, Some(VOLUME)), &body, None);
        rig.idle();
        assert_eq!(rig.session(1, 0) == before, is_taken, "{kind} {body:?}");
    }
}
