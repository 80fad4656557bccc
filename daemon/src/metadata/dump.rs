// SPDX-License-Identifier: GPL-2.0-only

//! Reading metadata for people.

use super::area::Area;
use super::find;
use crate::view::model::text as name;
use crate::view::units::{sector_bytes, size};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::io;
use weft_uapi::limits::{ANCESTRY_MAX, BITMAP_BLOCK_BYTES, META_BLOCK_BYTES, NODES_MAX};
use weft_uapi::ondisk::{
    newest_superblock, AlReplay, AlTransaction, Layout, Superblock, SuperblockError, AL_BLOCKS,
    AL_EXTENTS, AL_SLOT_FREE, FLAG_INCONSISTENT, FLAG_INVALIDATED, FLAG_OUTDATED,
    FLAG_WRITER_ACTIVE,
};
use weft_uapi::units::{GenerationId, NodeId, Sector};

/// Metadata of one disk.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Dump {
    /// Both copies of the superblock.
    pub copies: Vec<Copy>,
    /// The newer valid one; `None`: neither is valid.
    pub superblock: Option<Content>,
    /// The activity log.
    pub activity_log: Option<ActivityLog>,
    /// The bitmaps of peers that have one.
    pub bitmaps: Vec<Bitmap>,
}

/// State of one copy.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Copy {
    /// Where it lies on the metadata device, in sectors.
    pub sector: u64,
    /// `valid`, `none`, `corrupt` or `version N`.
    pub state: String,
    /// Its number, when valid.
    pub sequence: Option<u64>,
}

/// A superblock. Generation ids are hexadecimal.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Content {
    /// Name of the resource.
    pub resource: String,
    /// Volume number.
    pub volume: u16,
    /// The node that the disk belongs to.
    pub node: u8,
    /// Random id of the metadata.
    pub device: String,
    /// Size of the data disk when the metadata were laid out.
    pub disk_bytes: u64,
    /// Size of the device.
    pub data_bytes: Option<u64>,
    /// Size of the largest device that there is room for.
    #[serde(default)]
    pub room_bytes: Option<u64>,
    /// What the metadata take.
    #[serde(default)]
    pub meta_bytes: Option<u64>,
    /// `internal` or `external`.
    pub meta_kind: String,
    /// Number of bitmap slots.
    pub slots: u32,
    /// `inconsistent`, `writer-active`, `outdated`.
    pub flags: Vec<String>,
    /// How often the disk was attached.
    pub incarnation: u64,
    /// Highest term promised to anybody.
    pub promised_term: u64,
    /// The current generation; `None`: the disk never held data.
    pub generation: Option<String>,
    /// Its term.
    pub term: u64,
    /// Its writer.
    pub writer: Option<u8>,
    /// Its members.
    pub members: Vec<u8>,
    /// Former generations, the newest first.
    pub ancestry: Vec<String>,
    /// What is known of each peer.
    pub peers: Vec<PeerNote>,
}

/// What a superblock says of one peer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct PeerNote {
    /// Its node id.
    pub node: u8,
    /// The newest generation that it acknowledged as durable.
    pub since: Option<String>,
    /// The highest incarnation of its disk that was seen.
    pub seen_incarnation: u64,
    /// The slot of its bitmap.
    pub slot: Option<u8>,
}

/// The activity log.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct ActivityLog {
    /// Blocks of the ring that hold a valid transaction.
    pub valid_blocks: usize,
    /// Number of the newest transaction.
    pub last_sequence: Option<u64>,
    /// Extents that may have been written and not be the same everywhere.
    pub hot_extents: Vec<u32>,
}

/// One peer's bitmap.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Bitmap {
    /// The peer.
    pub node: u8,
    /// Its slot.
    pub slot: u8,
    /// What is marked out of sync.
    pub out_of_sync_bytes: u64,
}

/// Reads all of it.
///
/// # Errors
/// As the device reports them. Damaged blocks are no error but a state.
pub fn dump(area: &Area) -> io::Result<Dump> {
    let mut dump = Dump {
        copies: Vec::new(),
        superblock: None,
        activity_log: None,
        bitmaps: Vec::new(),
    };
    let end = find::end(area)?.unwrap_or(area.meta_sectors);
    let Some(places) = Layout::superblock_sectors(area.kind(), end) else {
        return Ok(dump);
    };
    let blocks = [area.read(places[0])?, area.read(places[1])?];
    for (at, block) in places.iter().zip(&blocks) {
        dump.copies.push(copy(*at, Superblock::parse(block)));
    }
    let Ok(superblock) = newest_superblock(&blocks[0], &blocks[1]) else {
        return Ok(dump);
    };
    let layout = superblock.layout(area.meta_sectors);
    dump.superblock = Some(content(&superblock, layout.as_ref()));
    if let Some(layout) = layout {
        dump.activity_log = Some(activity_log(area, &layout, superblock.device)?);
        for node in NodeId::all() {
            let slot = superblock.slot_of_node.get(node.index()).copied().flatten();
            if let Some(slot) = slot {
                dump.bitmaps.push(bitmap(area, &layout, node, slot)?);
            }
        }
    }
    Ok(dump)
}

fn copy(at: Sector, parsed: Result<Superblock, SuperblockError>) -> Copy {
    let state = match parsed {
        Ok(_) => "valid".to_owned(),
        Err(SuperblockError::None) => "none".to_owned(),
        Err(SuperblockError::Corrupt) => "corrupt".to_owned(),
        Err(SuperblockError::Version(version)) => format!("version {version}"),
    };
    Copy {
        sector: at.0,
        state,
        sequence: parsed.ok().map(|superblock| superblock.sequence),
    }
}

fn id(id: GenerationId) -> Option<String> {
    (id != GenerationId::NONE).then(|| id.to_string())
}

fn content(superblock: &Superblock, layout: Option<&Layout>) -> Content {
    let flags = [
        (FLAG_INCONSISTENT, "inconsistent"),
        (FLAG_WRITER_ACTIVE, "writer-active"),
        (FLAG_OUTDATED, "outdated"),
        (FLAG_INVALIDATED, "invalidated"),
    ];
    let flags = flags.iter().filter(|(bit, _)| superblock.flags & bit != 0);
    let generation = superblock.generation;
    let ancestry: [GenerationId; ANCESTRY_MAX] = superblock.ancestry;
    let peers = (0..NODES_MAX).map(|node| PeerNote {
        node: node as u8,
        since: id(superblock.since[node]),
        seen_incarnation: superblock.seen_incarnation[node].0,
        slot: superblock.slot_of_node[node],
    });
    Content {
        resource: name(&superblock.resource),
        volume: superblock.volume.0,
        node: superblock.node.get(),
        device: format!("{:016x}", superblock.device),
        disk_bytes: sector_bytes(superblock.disk_sectors),
        data_bytes: layout.map(|layout| sector_bytes(superblock.sectors(layout))),
        room_bytes: layout.map(|layout| sector_bytes(layout.data_sectors())),
        meta_bytes: layout.map(|layout| layout.area().1 * u64::from(META_BLOCK_BYTES)),
        meta_kind: superblock.meta_kind.name().to_owned(),
        slots: superblock.slots,
        flags: flags.map(|(_, name)| (*name).to_owned()).collect(),
        incarnation: superblock.incarnation.0,
        promised_term: superblock.promised_term.0,
        generation: id(generation.id),
        term: generation.term.0,
        writer: generation.writer.map(NodeId::get),
        members: generation.members.iter().map(NodeId::get).collect(),
        ancestry: ancestry.into_iter().map_while(id).collect(),
        peers: peers
            .filter(|peer| peer.since.is_some() || peer.slot.is_some() || peer.seen_incarnation > 0)
            .collect(),
    }
}

fn activity_log(area: &Area, layout: &Layout, device: u64) -> io::Result<ActivityLog> {
    let mut transactions = Vec::new();
    for index in 0..u64::from(AL_BLOCKS) {
        let block = area.read(layout.al_block(index))?;
        transactions.extend(AlTransaction::parse(&block, device));
    }
    transactions.sort_by_key(|transaction| transaction.sequence);
    let mut table = vec![AL_SLOT_FREE; usize::from(AL_EXTENTS)];
    let mut last_sequence = None;
    if let Some(mut replay) = AlReplay::new(&mut table) {
        for transaction in &transactions {
            replay.apply(transaction);
        }
        last_sequence = replay.last_sequence();
    }
    let mut hot_extents: Vec<_> = table
        .into_iter()
        .filter(|&extent| extent != AL_SLOT_FREE)
        .collect();
    hot_extents.sort_unstable();
    Ok(ActivityLog {
        valid_blocks: transactions.len(),
        last_sequence,
        hot_extents,
    })
}

fn bitmap(area: &Area, layout: &Layout, node: NodeId, slot: u8) -> io::Result<Bitmap> {
    let mut bits = 0u64;
    for index in 0..layout.bitmap_blocks() {
        if let Some(at) = layout.bitmap_block(slot.into(), index) {
            let block = area.read(at)?;
            bits += block
                .iter()
                .map(|byte| u64::from(byte.count_ones()))
                .sum::<u64>();
        }
    }
    Ok(Bitmap {
        node: node.get(),
        slot,
        out_of_sync_bytes: bits * u64::from(BITMAP_BLOCK_BYTES),
    })
}

impl Dump {
    /// In words.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        for (index, copy) in self.copies.iter().enumerate() {
            let sequence = copy
                .sequence
                .map(|sequence| format!("  sequence {sequence}"))
                .unwrap_or_default();
            writeln!(
                out,
                "superblock {index}  at sector {}  {}{sequence}",
                copy.sector, copy.state
            )?;
        }
        let Some(content) = &self.superblock else {
            return writeln!(out, "no valid superblock");
        };
        content.write(out)?;
        if let Some(log) = &self.activity_log {
            let last = log
                .last_sequence
                .map_or("none".to_owned(), |sequence| sequence.to_string());
            let (valid, hot) = (log.valid_blocks, log.hot_extents.len());
            writeln!(
                out,
                "activity log  {valid} of {AL_BLOCKS} blocks valid  last {last}  {hot} hot extents"
            )?;
        }
        for bitmap in &self.bitmaps {
            let marked = size(bitmap.out_of_sync_bytes);
            writeln!(
                out,
                "bitmap  node {}  slot {}  {marked} out of sync",
                bitmap.node, bitmap.slot
            )?;
        }
        Ok(())
    }
}

impl Content {
    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "resource {}  volume {}  node {}  device {}",
            self.resource, self.volume, self.node, self.device
        )?;
        let known = |bytes: Option<u64>| bytes.map_or("?".to_owned(), size);
        writeln!(
            out,
            "{} metadata for {} peers, {}  disk {}  data {} of {}",
            self.meta_kind,
            self.slots,
            known(self.meta_bytes),
            size(self.disk_bytes),
            known(self.data_bytes),
            known(self.room_bytes),
        )?;
        if !self.flags.is_empty() {
            writeln!(out, "flags {}", self.flags.join(", "))?;
        }
        writeln!(
            out,
            "incarnation {}  promised term {}",
            self.incarnation, self.promised_term
        )?;
        match &self.generation {
            None => writeln!(out, "generation none: the disk never held data")?,
            Some(generation) => {
                let writer = self
                    .writer
                    .map_or("nobody".to_owned(), |node| format!("node {node}"));
                let members: Vec<_> = self.members.iter().map(u8::to_string).collect();
                let members = members.join(", ");
                writeln!(
                    out,
                    "generation {generation}  term {}  writer {writer}  members {members}",
                    self.term
                )?;
            }
        }
        for id in &self.ancestry {
            writeln!(out, "before     {id}")?;
        }
        for peer in &self.peers {
            let since = peer.since.as_deref().unwrap_or("nothing");
            let slot = peer.slot.map_or("none".to_owned(), |slot| slot.to_string());
            let seen = peer.seen_incarnation;
            writeln!(
                out,
                "peer {}  acknowledged {since}  incarnation seen {seen}  slot {slot}",
                peer.node
            )?;
        }
        Ok(())
    }
}
