// SPDX-License-Identifier: GPL-2.0-only

//! Generations: which history the data of each volume belong to.

use super::model::text as name;
use crate::kernel::netlink::record::Record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use weft_uapi::status::{GenerationInfo, GENERATION_INCONSISTENT, GENERATION_WRITER_ACTIVE};
use weft_uapi::units::NodeSet;

/// Generations of one volume. Ids are hexadecimal.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Generations {
    /// Name of the resource.
    pub resource: String,
    /// Volume number.
    pub volume: u32,
    /// The current one; `None`: the disk never held data.
    pub current: Option<String>,
    /// Node id of its writer.
    pub writer: Option<u32>,
    /// Node ids of its members.
    pub members: Vec<u8>,
    /// Node ids of those who left in order before it.
    #[serde(default)]
    pub left: Vec<u8>,
    /// Its term.
    pub term: u64,
    /// Highest term promised to anybody.
    pub promised_term: u64,
    /// How often the disk was attached.
    pub incarnation: u64,
    /// An unfinished sync target.
    pub inconsistent: bool,
    /// Primary and not demoted.
    pub writer_active: bool,
    /// Former ones, the newest first.
    pub ancestry: Vec<String>,
    /// Per node id, the newest one that it acknowledged as durable.
    pub since: BTreeMap<u8, String>,
}

impl From<&GenerationInfo> for Generations {
    fn from(info: &GenerationInfo) -> Self {
        let id = |id: &u64| (*id != 0).then(|| format!("{id:016x}"));
        let since = info.since.iter().enumerate();
        Self {
            resource: name(&info.resource),
            volume: info.volume,
            current: id(&info.current),
            writer: (info.writer != u32::MAX).then_some(info.writer),
            members: ids(info.members),
            left: ids(info.left),
            term: info.term,
            promised_term: info.promised_term,
            incarnation: info.incarnation,
            inconsistent: info.flags & GENERATION_INCONSISTENT != 0,
            writer_active: info.flags & GENERATION_WRITER_ACTIVE != 0,
            ancestry: info.ancestry.iter().map_while(id).collect(),
            since: since
                .filter_map(|(node, known)| Some((node as u8, id(known)?)))
                .collect(),
        }
    }
}

fn ids(nodes: u32) -> Vec<u8> {
    let nodes = NodeSet(nodes);
    nodes.iter().map(weft_uapi::units::NodeId::get).collect()
}

/// Those of a dump.
pub fn all(records: &[Record]) -> Vec<Generations> {
    let infos = records.iter().filter_map(|record| match record {
        Record::Generation(info) => Some(Generations::from(&**info)),
        _ => None,
    });
    infos.collect()
}

/// In words.
pub fn text(all: &[Generations]) -> String {
    let mut out = String::new();
    for one in all {
        // Writing to a string cannot fail.
        let _ = write_one(&mut out, one);
    }
    out
}

fn write_one(out: &mut String, one: &Generations) -> std::fmt::Result {
    writeln!(out, "{}  volume {}", one.resource, one.volume)?;
    match &one.current {
        None => writeln!(out, "  current      none: the disk never held data")?,
        Some(current) => {
            let writer = one
                .writer
                .map_or("nobody".to_owned(), |node| format!("node {node}"));
            let list = |nodes: &[u8]| {
                let nodes: Vec<_> = nodes.iter().map(u8::to_string).collect();
                nodes.join(", ")
            };
            let members = list(&one.members);
            writeln!(
                out,
                "  current      {current}  term {}  writer {writer}  members {members}",
                one.term
            )?;
            if !one.left.is_empty() {
                writeln!(out, "  left before  {}", list(&one.left))?;
            }
        }
    }
    writeln!(out, "  promised     term {}", one.promised_term)?;
    writeln!(out, "  incarnation  {}", one.incarnation)?;
    if one.inconsistent {
        writeln!(out, "  inconsistent: an unfinished sync target")?;
    }
    if one.writer_active {
        writeln!(out, "  writer active: primary, or crashed as one")?;
    }
    for (index, id) in one.ancestry.iter().enumerate() {
        writeln!(out, "  {:11}  {id}", if index == 0 { "before" } else { "" })?;
    }
    for (node, id) in &one.since {
        writeln!(out, "  node {node:<6}  acknowledged {id}")?;
    }
    Ok(())
}
