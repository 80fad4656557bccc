// SPDX-License-Identifier: GPL-2.0-only

//! Golden files: bytes of every version of the wire and disk formats. A change that alters them needs a new version.
//!
//! `WEFT_BLESS=1 cargo test -p weft_uapi --test golden` writes the files of a new version.

use std::path::PathBuf;
use weft_uapi::control::padded_name;
use weft_uapi::limits::AL_EXTENT_BYTES;
use weft_uapi::ondisk::{
    AlTransaction, AlUpdate, Generation, MetaKind, Superblock, AL_EXTENTS, AL_SLOT_FREE,
    FLAG_WRITER_ACTIVE,
};
use weft_uapi::peer::{Hello, HELLO_MAGIC};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Sector, Seq, Term, VolumeId};
use weft_uapi::wire::{Header, LinkKind, PacketKind, FLAG_CRC};
use zerocopy::IntoBytes;

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(&path, bytes).expect("writing a golden file");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(bytes == golden, "{name} is not what version 1 says");
}

fn superblock() -> Superblock {
    let node = NodeId::new(1).unwrap();
    let mut block = Superblock::created(
        padded_name("r0").unwrap(),
        VolumeId(0),
        node,
        0x0123_4567_89ab_cdef,
        MetaKind::Internal,
        1 << 21,
        7,
    );
    block.sequence = 42;
    block.flags = FLAG_WRITER_ACTIVE;
    block.generation = Generation {
        id: GenerationId(0xaaaa),
        parent: GenerationId(0xbbbb),
        term: Term(3),
        writer: Some(node),
        members: NodeSet(0b11),
    };
    block.ancestry[0] = GenerationId(0xbbbb);
    block.since[0] = GenerationId(0xaaaa);
    block.slot_of_node[0] = Some(0);
    block
}

#[test]
fn the_superblock_of_version_1_is_unchanged() {
    let mut block = [0; 4096];
    superblock().encode(&mut block);
    check("superblock-v1.bin", &block);
    assert_eq!(Superblock::parse(&block), Ok(superblock()));
}

#[test]
fn the_activity_log_transaction_of_version_1_is_unchanged() {
    let mut table = vec![AL_SLOT_FREE; AL_EXTENTS.into()];
    table[600] = 1 << 30 >> AL_EXTENT_BYTES.trailing_zeros();
    let updates = [AlUpdate {
        slot: 600,
        extent: table[600],
    }];
    let mut block = [0; 4096];
    assert!(AlTransaction::encode(
        &mut block,
        0x0123_4567_89ab_cdef,
        7,
        &updates,
        &table
    ));
    check("activity-log-v1.bin", &block);
}

#[test]
fn the_packet_header_of_version_1_is_unchanged() {
    let mut header = Header::new(PacketKind::Write, Some(VolumeId(0)));
    header.flags = FLAG_CRC;
    header.payload_len = 4096;
    header.bytes = 4096;
    header.seq = Seq(9);
    header.sector = Sector(1 << 20);
    header.payload_crc = 0xdead_beef;
    header.term = Term(3);
    check("header-v1.bin", &header.encode());
    assert_eq!(Header::parse(&header.encode(), LinkKind::Data), Ok(header));
}

#[test]
fn the_hello_of_version_1_is_unchanged() {
    let hello = Hello {
        magic: HELLO_MAGIC,
        version: 1.into(),
        version_min: 1.into(),
        channel: 2.into(),
        reserved: 0.into(),
        features: 1.into(),
        cluster: 5.into(),
        boot: 6.into(),
        from: 1.into(),
        to: 0.into(),
        session: 9.into(),
        resource: padded_name("r0").unwrap(),
        crc: 0.into(),
        tail: 0.into(),
    }
    .sealed();
    check("hello-v1.bin", hello.as_bytes());
    assert_eq!(Hello::parse(hello.as_bytes()), Ok(hello));
}
