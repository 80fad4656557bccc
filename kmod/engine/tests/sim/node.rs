// SPDX-License-Identifier: GPL-2.0-only

//! One machine: its engine, its disks, and what its administrator wants.

use crate::app::App;
use crate::disk::{Disk, Op};
use crate::history::Writer;
use crate::host::{Content, SimHost, Stamp};
use crate::io::{Doing, Pending};
use crate::opening::Handle;
use crate::random::Random;
use crate::resize::GROWTH_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use weft_engine::event::{Command, Kept};
use weft_engine::load::DiskInfo;
use weft_engine::Engine;
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::{MetaKind, Superblock, FLAG_INCONSISTENT};
use weft_uapi::state::{ReplicationState, Role, VerifyState};
use weft_uapi::units::{GenerationId, NodeId, SessionId, VolumeId};

const META_SECTORS: u64 = 1024;

pub(crate) struct Node {
    pub id: usize,
    /// Counts boots and crashes; events of an earlier life are void.
    pub life: u32,
    pub engine: Option<Engine<SimHost>>,
    /// What it has of the volume that everything is about.
    pub part: Part,
    /// What it has of the other one.
    pub other: Option<Part>,
    /// There is no disk for it: it only takes part, as a tie-breaker.
    pub is_diskless: bool,
    /// The peer that carries out what its application asks for.
    pub server: Option<usize>,
    pub serves: bool,
    /// Per peer: the session offered and not yet connected.
    pub offers: BTreeMap<usize, SessionId>,
    /// Connection and side of the open sessions of this life.
    pub sessions: BTreeMap<(usize, SessionId), (usize, usize)>,
    pub tokens: BTreeMap<u64, Option<Command>>,
    pub role: u32,
    /// What the administrator wants after a boot, by peer.
    pub wants_peer: Vec<bool>,
    /// No request may begin: a person was told so.
    pub is_suspended: bool,
    /// A promotion by force, or a first record, is under way.
    pub is_forcing: bool,
    /// Die after that many effects.
    pub dies_after: Option<u64>,
    pub timer: Option<u64>,
    pub next_op: u64,
}

/// What a machine has of one volume.
pub(crate) struct Part {
    pub disk: Disk,
    /// An older state of the disk, to be put back one day.
    pub image: Option<Disk>,
    /// The disk is a new one or an older image: it owes nothing until it was synced, or went its own way.
    pub is_void: bool,
    pub is_attached: bool,
    /// What its daemon keeps for it.
    pub kept: Kept,
    /// The number of that in this life.
    pub kept_number: u64,
    /// By session, writes of a client that died: they may be carried out here until that is over.
    pub late: BTreeMap<(usize, SessionId), Vec<Stamp>>,
    pub ops: BTreeMap<u64, Pending>,
    pub app: App,
    /// Counts the times that the role was taken from a primary, or given up by one without a disk to work on, or its data
    /// were given up: what it wrote before, no later flush makes good.
    pub tenure: u32,
    /// What the administrator wants after a boot.
    pub wants_disk: bool,
    /// The disk reports errors.
    pub is_failing: bool,
    /// It has done so in this life.
    pub has_failed: bool,
    /// The administrator, or a policy, gave this node's data up.
    pub may_lose_line: bool,
    /// Data were lost with its disk or given up by a person: others may know of a record that no disk has any more.
    pub has_given_up: bool,
    /// When its disk was exchanged last.
    pub exchanged: u64,
    /// By peer, as seen last.
    pub replication: Vec<ReplicationState>,
    /// Where this node fetched from last.
    pub source: Option<Source>,
    /// By peer, what became of the last comparison.
    pub verify: Vec<VerifyState>,
    /// By peer, the bad sectors here and there when the last comparison began.
    pub compared_since: Vec<Option<[BTreeSet<u64>; 2]>>,
    /// Content that came for a resync, to be told apart from writes.
    pub resync_buffers: Vec<Content>,
}

impl Deref for Node {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.part
    }
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u32).unwrap()
}

/// The newest generation of which a disk may hold data.
pub(crate) fn written_on(block: &Superblock) -> u64 {
    match block.written {
        GenerationId::NONE => block.generation.id.0,
        id => id.0,
    }
}

/// A disk with fresh metadata and some garbage.
fn new_disk(
    id: usize,
    volume: VolumeId,
    slots: u32,
    (sectors, room): (u64, u64),
    random: &mut Random,
) -> Disk {
    let info = DiskInfo {
        disk_sectors: sectors,
        meta_sectors: META_SECTORS,
        meta_end: META_SECTORS,
        block_bytes: 512,
        can_discard: true,
        volume,
        node: node_id(id),
        resource: padded_name("r0").unwrap(),
        meta_kind: MetaKind::External,
    };
    let garbage = random.next();
    Disk::created(info, slots, random.next(), room, |sector| {
        match (sector ^ garbage) % 5 {
            0 => 1 + id as u64,
            _ => 0,
        }
    })
}

pub(crate) fn is_target(state: ReplicationState) -> bool {
    matches!(
        state,
        ReplicationState::BitmapTarget | ReplicationState::SyncTarget
    )
}

/// Where a disk got its data from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Peer(usize),
    /// A disk that the peer has no more, and whether that was a wrong one.
    Former {
        was_void: bool,
    },
}

impl Part {
    /// What node `id` of a cluster of `nodes` has of a volume at first.
    pub(crate) fn new(
        id: usize,
        nodes: usize,
        volume: VolumeId,
        sectors: u64,
        random: &mut Random,
    ) -> Self {
        let slots = nodes as u32 - 1;
        let disk = new_disk(id, volume, slots, (sectors, GROWTH_MAX), random);
        Self {
            disk,
            image: None,
            is_void: false,
            is_attached: false,
            kept: Kept::default(),
            kept_number: 0,
            late: BTreeMap::new(),
            ops: BTreeMap::new(),
            app: App::default(),
            tenure: 0,
            wants_disk: true,
            is_failing: false,
            has_failed: false,
            may_lose_line: false,
            has_given_up: false,
            exchanged: 0,
            replication: vec![ReplicationState::Off; nodes],
            source: None,
            verify: vec![VerifyState::Never; nodes],
            compared_since: vec![None; nodes],
            resync_buffers: Vec::new(),
        }
    }
}

impl Node {
    /// Node `id` of a cluster of `nodes`.
    pub(crate) fn new(id: usize, nodes: usize, part: Part) -> Self {
        Self {
            id,
            life: 0,
            engine: None,
            part,
            other: None,
            is_diskless: false,
            server: None,
            serves: false,
            offers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            role: Role::Secondary.number(),
            wants_peer: vec![true; nodes],
            is_suspended: false,
            is_forcing: false,
            dies_after: None,
            timer: None,
            next_op: 0,
        }
    }

    /// What it has of each volume.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        iter::once(&self.part).chain(&self.other)
    }

    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        iter::once(&mut self.part).chain(&mut self.other)
    }

    /// Whether the last close of a device ends its role.
    pub(crate) fn is_demoted_by_close(&self) -> bool {
        let mut parts = self.parts();
        parts.any(|part| part.app.is_demoted)
            && !self.parts().any(|part| part.app.handle == Handle::Open)
    }

    /// Its data are given up, by a person or a policy; whatever it had not flushed, with the rest.
    pub(crate) fn give_up(&mut self) {
        self.may_lose_line = true;
        self.has_given_up = true;
        self.tenure += 1;
    }

    /// The disk is replaced while the machine is down.
    pub(crate) fn replace_disk(&mut self, random: &mut Random, moment: u64) {
        let (slots, sectors) = (self.disk.layout.slots(), self.disk.info.disk_sectors);
        let room = (sectors, self.disk.current.len() as u64 - sectors);
        let volume = self.disk.info.volume;
        self.exchange_disk(new_disk(self.id, volume, slots, room, random), moment);
    }

    /// Another disk, or another content of it, while the machine is down.
    pub(crate) fn exchange_disk(&mut self, disk: Disk, moment: u64) {
        let sectors = self.disk.info.disk_sectors;
        self.disk = disk;
        self.disk.info.disk_sectors = sectors;
        self.exchanged = moment;
        self.image = None;
        self.is_void = true;
        self.has_given_up = true;
        self.may_lose_line = false;
    }

    /// The disk never held data.
    pub(crate) fn is_blank(&self) -> bool {
        self.generation() == 0
    }

    /// The generation of the disk; 0 when there is none.
    pub(crate) fn generation(&self) -> u64 {
        self.superblock().map_or(0, |block| block.generation.id.0)
    }

    /// The newest generation that it would name in an election; 0 when there is none.
    pub(crate) fn known(&self) -> u64 {
        match self.is_diskless {
            true => self.kept.generation.id.0,
            false => self.generation(),
        }
    }

    /// The newest generation of which its disk may hold data; 0 when there is none.
    pub(crate) fn written(&self) -> u64 {
        self.superblock().map_or(0, |block| written_on(block))
    }

    /// The disk holds data and is not, or about to be, an unfinished sync target.
    pub(crate) fn has_good_disk(&self) -> bool {
        let is_finished = |block: &Rc<Superblock>| block.flags & FLAG_INCONSISTENT == 0;
        !self.is_void
            && !self.is_blank()
            && self.superblock().is_some_and(is_finished)
            && !self.replication.iter().copied().any(is_target)
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.engine.is_some() && self.role == Role::Primary.number()
    }

    /// Nobody has the device of any volume open, or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        let mut parts = self.parts();
        parts.all(|part| part.app.handle == Handle::Closed)
    }

    /// Applications stop, or go on.
    pub(crate) fn set_leaving(&mut self, is_leaving: bool) {
        let parts = self.parts_mut();
        parts.for_each(|part| part.app.is_leaving = is_leaving);
    }

    /// Writes that the disk was given and has not answered.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (u64, Content)> + '_ {
        self.ops
            .values()
            .filter(|pending| !pending.is_swallowed)
            .filter_map(|pending| match &pending.doing {
                Doing::Change(Op::Write {
                    sector, content, ..
                }) => Some((*sector, content.clone())),
                _ => None,
            })
    }

    /// The application that runs now.
    pub(crate) fn writer(&self) -> Writer {
        (self.id, self.life, self.tenure)
    }

    /// What would be found after a power cut now.
    pub(crate) fn superblock(&self) -> Option<&Rc<Superblock>> {
        self.disk.superblock()
    }
}
