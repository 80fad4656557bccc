// SPDX-License-Identifier: GPL-2.0-only

//! What the module of a tie-breaker has its daemon keep.

use crate::rig::Cluster;
use weft_uapi::control::{
    padded_name, Memory, MessageHeader, KEPT, KERN_KEEP, KERN_RECALL, RECALLED,
};
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{GenerationId, NodeSet, Term};
use zerocopy::FromZeros;

fn question(kind: u32) -> Memory {
    Memory {
        header: MessageHeader::of::<Memory>(kind),
        resource: padded_name("r0").unwrap(),
        generation: Generation::default().into(),
        ..Memory::new_zeroed()
    }
}

#[test]
fn what_a_tie_breaker_promised_outlives_its_daemon() {
    let cluster = Cluster::new(1);
    let node = cluster.start(0);
    node.module.ask(&question(KERN_RECALL));
    assert_eq!(node.module.answer(RECALLED).promised_term, 0);
    let record = Generation {
        id: GenerationId(3),
        term: Term(8),
        members: NodeSet(1),
        ..Generation::default()
    };
    let keep = Memory {
        number: 5,
        promised_term: 9,
        generation: record.into(),
        ..question(KERN_KEEP)
    };
    node.module.ask(&keep);
    assert_eq!(node.module.answer(KEPT).number, 5);
    node.kill();
    let node = cluster.start(0);
    node.module.ask(&question(KERN_RECALL));
    let found = node.module.answer(RECALLED);
    assert_eq!(found.promised_term, 9);
    assert_eq!(found.generation.decode(), Some(record));
}
