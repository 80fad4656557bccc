// SPDX-License-Identifier: GPL-2.0-only

//! Everything that the model remembers: disks, nodes, sessions, packets, and what only the checker knows.

use crate::set::Set;
use std::fmt;

/// Most nodes of a scope.
pub(crate) const NODES: usize = 3;
/// Most blocks of a disk.
pub(crate) const BLOCKS: usize = 2;

/// Number of a generation record in the order of creation; 0 is none.
pub(crate) type RecordId = u8;
/// Number of an application's write in the order of issue; 0 is what was there before.
pub(crate) type WriteId = u8;

/// A generation record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Record {
    pub(crate) parent: RecordId,
    pub(crate) term: u8,
    pub(crate) writer: Option<u8>,
    pub(crate) members: Set,
    /// It was made of a disk that did not have all of its parent.
    pub(crate) is_apart: bool,
    /// Seen by the checker only: it has been in force.
    pub(crate) was_in_force: bool,
    /// Seen by the checker only: a person accepted the loss of what the disk lacked.
    pub(crate) is_forced: bool,
}

/// What a power cut leaves, except for `cache`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) current: RecordId,
    /// The newest generation that somebody could write in, unless that is the current one (0).
    pub(crate) written: RecordId,
    pub(crate) promised: u8,
    pub(crate) since: [RecordId; NODES],
    /// Blocks that may differ from those of each peer.
    pub(crate) bits: [Set; NODES],
    /// Blocks written by each node, this one included, that are not known to be stable everywhere (`U`).
    pub(crate) hot: [Set; NODES],
    /// The last write received in order.
    pub(crate) tail: WriteId,
    pub(crate) is_inconsistent: bool,
    pub(crate) is_outdated: bool,
    /// Its node was writing, or its log was not empty, when it was last heard of.
    pub(crate) is_unclean: bool,
    /// Seen by the checker only: it was put back and not made good since.
    pub(crate) is_old_image: bool,
    pub(crate) stable: [WriteId; BLOCKS],
    /// What a read gives.
    pub(crate) cache: [WriteId; BLOCKS],
    /// Attaches so far, and a number that only this attach has.
    pub(crate) incarnation: (u8, u8),
    /// The numbers of those before, the newest first.
    pub(crate) former: [u8; 3],
    pub(crate) seen: [(u8, u8); NODES],
}

impl Disk {
    /// Whether this or a former attach had this number.
    pub(crate) fn was_attached_as(&self, number: u8) -> bool {
        number != 0 && (self.incarnation.1 == number || self.former.contains(&number))
    }

    /// Blocks that the activity log names.
    pub(crate) fn logged(&self) -> Set {
        self.hot.iter().copied().fold(Set::EMPTY, Set::or)
    }
}

/// A node: its disk, and what is gone with a power cut.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Node {
    pub(crate) disk: Disk,
    pub(crate) is_up: bool,
    pub(crate) is_primary: bool,
    pub(crate) is_uptodate: bool,
    /// Who has to have a write before it is complete.
    pub(crate) required: Set,
    pub(crate) transition: Option<Transition>,
    pub(crate) wants_promotion: Option<Promotion>,
    /// A record on its way to those who have to know it.
    pub(crate) change: Option<Change>,
    /// A record that waits for a majority.
    pub(crate) stalled: Option<Change>,
    /// A lost member is to be left out by a record.
    pub(crate) wants_shrink: bool,
    /// Peers that have this node's promise and have not said what became of it.
    pub(crate) promised_to: Set,
    /// Peers that could not write when they were met.
    pub(crate) stalled_peers: Set,
    /// Peers that made the current record, which has no writer, and have not said that it is in force.
    pub(crate) awaits_force: Set,
    /// Only when rule G1 is broken: the record on disk, while memory has a newer one.
    pub(crate) unsaved: Option<RecordId>,
}

impl Node {
    /// Whether its data are of the past, unless somebody found them good since.
    pub(crate) fn is_outdated(&self) -> bool {
        self.disk.is_outdated && !self.is_uptodate
    }
}

/// A node on its way to be primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Transition {
    /// Every peer is met anew.
    Comparing { is_forced: bool },
    /// Peers are asked for their promise.
    Asking {
        is_forced: bool,
        term: u8,
        waits: Set,
        yes: Set,
    },
    /// The record of this term is on its way.
    Recording { term: u8 },
}

/// A record of a promotion that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Promotion {
    pub(crate) term: u8,
    pub(crate) is_forced: bool,
    /// Everything that peers acknowledged is forgotten.
    pub(crate) is_anew: bool,
}

/// A record and who has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Change {
    pub(crate) id: RecordId,
    pub(crate) reason: Reason,
    pub(crate) waits: Set,
    pub(crate) knowers: Set,
    /// Those of them that have all data.
    pub(crate) holders: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Reason {
    Promotion(Promotion),
    Shrink,
    Grow(Set),
}

/// An application's write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Write {
    pub(crate) block: u8,
    pub(crate) writer: u8,
    /// The generation in which it was issued.
    pub(crate) issued: RecordId,
    /// Nodes known to have it, while it waits.
    pub(crate) acked: Set,
    /// The generation in force in which the application was told that it is done; 0: it was not.
    pub(crate) done: RecordId,
    /// The generation in which a later flush was done.
    pub(crate) flushed: RecordId,
    /// The writer is gone or gave up: nobody waits for it any more.
    pub(crate) is_orphan: bool,
    /// Seen by the checker only: disks that may have lost it, since their power was cut before a flush.
    pub(crate) excused: Set,
    /// Seen by the checker only: disks that have to keep it, since others gave up their copies for theirs.
    pub(crate) kept: Set,
}

/// What two nodes are to each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Phase {
    /// Not connected.
    #[default]
    None,
    /// Connected; a round of the negotiation is due.
    Open {
        /// Until it is decided they count as equal.
        were_equal: bool,
    },
    /// Connected; nothing to do until what they told changes: that of the lower node comes first.
    Waiting {
        told: [Gist; 2],
        behind: Option<u8>,
    },
    /// Connected, with equal disks but for what is on its way.
    Equal {
        /// The generation that they told.
        told: RecordId,
        were_outdated: bool,
    },
    /// A person has to choose; not connected.
    Alone,
    Sync {
        target: u8,
        stage: Stage,
    },
}

/// What makes a decision outdated that somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Gist {
    pub(crate) leader: Option<u8>,
    pub(crate) source: Option<u8>,
    pub(crate) current: RecordId,
    pub(crate) is_inconsistent: bool,
    pub(crate) is_dirty: bool,
    pub(crate) is_writer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    /// Bitmaps are exchanged; of the source's line it was told that this is the newest generation written.
    Decided {
        written: RecordId,
    },
    /// The target has taken over the source's line, and said so.
    Adopted,
    Running,
    /// The target has everything, and said so.
    Done,
    /// The target has a record that makes it a member.
    Joined,
    /// The source knows it; what remains is that such a record comes into force.
    Whole,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Body {
    Data(WriteId),
    Written(WriteId),
    /// These blocks are stable everywhere.
    Trim(Set),
    Record(RecordId),
    /// The record is durable, by a disk that has all data or not.
    Durable(RecordId, bool),
    /// The record is in force; these members have all data.
    InForce(RecordId, Set),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) body: Body,
}

/// What the scope still allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Budget {
    /// Crashes and lost sessions.
    pub(crate) faults: u8,
    pub(crate) promotions: u8,
    pub(crate) forces: u8,
    pub(crate) discards: u8,
    pub(crate) rollbacks: u8,
}

/// What a step did wrong; states that are wrong by themselves are found by the properties.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wrong {
    /// The two sides came to different conclusions.
    NotMirrored,
    /// A write that counts was overwritten without a person's word.
    Overwritten,
    /// A copy of a write that counts was given up for a disk that had lost it.
    GivenUp,
    /// A person was called although one side had never gone on.
    FalseAlarm,
    /// The disk of a running application became a sync target.
    WriterIsTarget,
    /// A node became primary although its disk is no good.
    UnfitPrimary,
    /// The nodes ask each other for rounds without end.
    Restless,
}

/// A state of the whole cluster.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: [Node; NODES],
    phases: [Phase; NODES * (NODES - 1) / 2],
    /// In order per direction of each session; sorted by sender and receiver, so that equal states look equal.
    pub(crate) packets: Vec<Packet>,
    pub(crate) records: Vec<Record>,
    pub(crate) writes: Vec<Write>,
    pub(crate) left: Budget,
    /// An older image of the disk of node 0.
    pub(crate) image: Option<Box<Disk>>,
    pub(crate) attaches: u8,
    pub(crate) wrong: Option<Wrong>,
}

fn place(a: usize, b: usize) -> usize {
    let (low, high) = (a.min(b), a.max(b));
    high * (high - 1) / 2 + low
}

impl State {
    pub(crate) fn new(left: Budget) -> Self {
        Self {
            nodes: Default::default(),
            phases: Default::default(),
            packets: Vec::new(),
            records: Vec::new(),
            writes: Vec::new(),
            left,
            image: None,
            attaches: 0,
            wrong: None,
        }
    }

    pub(crate) fn phase(&self, a: usize, b: usize) -> Phase {
        self.phases[place(a, b)]
    }

    pub(crate) fn set_phase(&mut self, a: usize, b: usize, phase: Phase) {
        self.phases[place(a, b)] = phase;
    }

    pub(crate) fn has_session(&self, a: usize, b: usize) -> bool {
        a != b && !matches!(self.phase(a, b), Phase::None | Phase::Alone)
    }

    pub(crate) fn disk(&self, node: usize) -> &Disk {
        &self.nodes[node].disk
    }

    pub(crate) fn disk_mut(&mut self, node: usize) -> &mut Disk {
        &mut self.nodes[node].disk
    }

    pub(crate) fn record(&self, id: RecordId) -> Record {
        self.records[usize::from(id) - 1]
    }

    pub(crate) fn record_mut(&mut self, id: RecordId) -> &mut Record {
        &mut self.records[usize::from(id) - 1]
    }

    /// The record that a disk is in.
    pub(crate) fn current(&self, node: usize) -> Option<Record> {
        let id = self.disk(node).current;
        (id != 0).then(|| self.record(id))
    }

    /// The records from this one back to the first.
    pub(crate) fn line(&self, id: RecordId) -> impl Iterator<Item = RecordId> + '_ {
        let existing = |id: &RecordId| *id != 0;
        std::iter::successors(Some(id).filter(existing), move |&id| {
            Some(self.record(id).parent).filter(existing)
        })
    }

    /// Whether `old` is `new` or one of its ancestors, and the data of `new` came from all of its data.
    pub(crate) fn precedes(&self, old: RecordId, new: RecordId) -> bool {
        self.had(new).any(|id| id == old)
    }

    /// The records of whose data all went into those of this one.
    pub(crate) fn had(&self, id: RecordId) -> impl Iterator<Item = RecordId> + '_ {
        let past = self.past(id).filter(|(_, is_whole)| *is_whole);
        past.map(|(id, _)| id)
    }

    /// The records from this one back to the first, and whether all of each was had.
    pub(crate) fn past(&self, id: RecordId) -> impl Iterator<Item = (RecordId, bool)> + '_ {
        let mut is_whole = true;
        self.line(id).map(move |id| {
            let was_whole = std::mem::replace(&mut is_whole, !self.record(id).is_apart);
            (id, was_whole)
        })
    }

    /// The write that made this content.
    pub(crate) fn write(&self, id: WriteId) -> Option<&Write> {
        self.writes.get(usize::from(id).checked_sub(1)?)
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, body: Body) {
        let packet = Packet {
            from: from as u8,
            to: to as u8,
            body,
        };
        let at = self
            .packets
            .partition_point(|other| (other.from, other.to) <= (packet.from, packet.to));
        self.packets.insert(at, packet);
    }

    /// Whether packets are on their way between the two.
    pub(crate) fn has_packets(&self, a: usize, b: usize) -> bool {
        let ends = Set::of(a).with(b);
        self.packets
            .iter()
            .any(|packet| Set::of(packet.from.into()).with(packet.to.into()) == ends)
    }
}

/// One line for each thing that is there.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.is_up || node.disk != Disk::default() {
                writeln!(f, "node {number}: {node:?}")?;
            }
        }
        for (high, low) in (1..NODES).flat_map(|high| (0..high).map(move |low| (high, low))) {
            if self.phase(low, high) != Phase::None {
                writeln!(f, "session {low}-{high}: {:?}", self.phase(low, high))?;
            }
        }
        for packet in &self.packets {
            writeln!(f, "{packet:?}")?;
        }
        for (index, record) in self.records.iter().enumerate() {
            writeln!(f, "record {}: {record:?}", index + 1)?;
        }
        for (index, write) in self.writes.iter().enumerate() {
            writeln!(f, "write {}: {write:?}", index + 1)?;
        }
        writeln!(f, "{:?} {:?}", self.left, self.wrong)
    }
}
