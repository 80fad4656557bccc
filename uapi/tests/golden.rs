// SPDX-License-Identifier: GPL-2.0-only

//! Golden files: bytes of every version of the wire and disk formats. A change that alters them needs a new version.
//!
//! `WEFT_BLESS=1 cargo test -p weft_uapi --test golden` writes the files of a new version.

use std::path::PathBuf;
use weft_uapi::control::padded_name;
use weft_uapi::limits::AL_EXTENT_BYTES;
use weft_uapi::ondisk::{
    AlTransaction, AlUpdate, Generation, MetaKind, Superblock, AL_EXTENTS, AL_SLOT_FREE, FLAG_LEFT,
    FLAG_OUTDATED, FLAG_WRITER_ACTIVE,
};
use weft_uapi::peer::{Hello, HELLO_MAGIC};
use weft_uapi::split_brain::{Policies, SplitBrain0, SplitBrain1};
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Sector, Seq, Term, VolumeId};
use weft_uapi::wire::{
    AgeBody, FullStateBody, Header, LinkKind, PacketKind, StateBody, FLAG_CRC, STATE_CRASHED,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(&path, bytes).expect("writing a golden file");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(bytes == golden, "{name} is not what its version says");
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
    block.former_attaches[0] = 0xeeee;
    block.flags = FLAG_WRITER_ACTIVE;
    block.generation = Generation {
        id: GenerationId(0xaaaa),
        parent: GenerationId(0xbbbb),
        term: Term(3),
        writer: Some(node),
        members: NodeSet(0b11),
        left: NodeSet::EMPTY,
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
fn the_superblock_of_version_1_with_ages_is_unchanged() {
    let mut superblock = superblock();
    superblock.changes = 11;
    superblock.former_ages[0] = 17;
    superblock.seen_attach_id[0] = 0xdddd;
    superblock.seen_age[0] = 23;
    let mut block = [0; 4096];
    superblock.encode(&mut block);
    check("superblock-ages-v1.bin", &block);
    assert_eq!(Superblock::parse(&block), Ok(superblock));
}

#[test]
fn the_superblock_of_version_1_of_a_node_that_left_is_unchanged() {
    let mut superblock = superblock();
    superblock.flags = FLAG_OUTDATED | FLAG_LEFT;
    superblock.left_at = GenerationId(0xaaaa);
    superblock.generation.left = NodeSet(0b100);
    let mut block = [0; 4096];
    superblock.encode(&mut block);
    check("superblock-left-v1.bin", &block);
    assert_eq!(Superblock::parse(&block), Ok(superblock));
}

#[test]
fn the_superblock_of_version_2_is_unchanged() {
    let mut superblock = superblock();
    superblock.size = 1 << 20;
    superblock.former_sectors = 1 << 20;
    let mut block = [0; 4096];
    superblock.encode(&mut block);
    check("superblock-v2.bin", &block);
    assert_eq!(Superblock::parse(&block), Ok(superblock));
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

fn state() -> StateBody {
    let mut state = StateBody::new_zeroed();
    state.sectors = (1 << 21).into();
    state.disk_state = 7.into();
    state.role = 1.into();
    state.flags = STATE_CRASHED.into();
    state.generation = superblock().generation.into();
    state.ancestry[0] = 0xbbbb.into();
    state.incarnation = 4.into();
    state.seen_incarnation = 3.into();
    state.attach_id = 0xcccc.into();
    state.seen_attach_id = 0xdddd.into();
    state.since = 0xaaaa.into();
    state.tail_seq = 9.into();
    state.bits = 5.into();
    state.promised_term = 3.into();
    state.round = 2.into();
    state.leader = 2.into();
    state.source = 1.into();
    state.written = 0xaaaa.into();
    state.block_bytes = 4096.into();
    state.former_attaches[0] = 0xeeee.into();
    state
}

#[test]
fn the_state_of_version_1_is_unchanged() {
    check("state-v1.bin", state().as_bytes());
    let read = StateBody::read_from_bytes(state().as_bytes()).unwrap();
    assert!(read == state() && read.is_valid());
}

#[test]
fn the_state_of_version_1_with_policies_is_unchanged() {
    let mut state = state();
    let policies = Policies {
        none: SplitBrain0::LeastChanges,
        one: SplitBrain1::Consensus,
    };
    state.split_brain = policies.encode();
    check("state-split-brain-v1.bin", state.as_bytes());
    assert!(state.is_valid());
    assert_eq!(Policies::decode(state.split_brain), policies);
}

#[test]
fn the_state_of_version_1_with_ages_is_unchanged() {
    let mut full = FullStateBody::new_zeroed();
    full.state = state();
    assert_eq!(FullStateBody::parse(state().as_bytes()), Some(full));
    full.ages.age = 29.into();
    full.ages.seen_age = 23.into();
    full.ages.former_ages[0] = 17.into();
    check("state-ages-v1.bin", full.as_bytes());
    let bytes = full.as_bytes();
    assert_eq!(FullStateBody::parse(bytes), Some(full));
    let is_state = |len: usize| FullStateBody::parse(&bytes[..len]).is_some();
    let lengths: Vec<usize> = (0..=bytes.len()).filter(|&len| is_state(len)).collect();
    assert_eq!(lengths, [state().as_bytes().len(), bytes.len()]);
}

#[test]
fn the_age_of_version_1_is_unchanged() {
    let age = AgeBody {
        attach_id: 0xcccc.into(),
        age: 29.into(),
        node: 1.into(),
        reserved: 0.into(),
    };
    check("age-v1.bin", age.as_bytes());
}

#[test]
fn a_state_with_a_block_size_that_no_device_has_is_malformed() {
    let is_valid = |bytes: u32| {
        let mut state = state();
        state.block_bytes = bytes.into();
        state.is_valid()
    };
    let sizes = [1, 256, 511, 513, 1536, 8192, 1 << 31, u32::MAX];
    assert!(sizes.iter().all(|&bytes| !is_valid(bytes)));
    let sizes = [0, 512, 1024, 2048, 4096];
    assert!(sizes.iter().all(|&bytes| is_valid(bytes)));
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
