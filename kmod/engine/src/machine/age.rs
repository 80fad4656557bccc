// SPDX-License-Identifier: GPL-2.0-only

//! How far the metadata of a disk have come, and how far peers saw it come: an image of a disk that is put back within
//! the attach that it was taken in is told by its age (G7).
//!
//! The age of a disk counts what is durable of its activity log and of the changes of its superblock, so it only grows,
//! and every image of a disk has the age of its moment. What two images of the same age hold differs in hot extents
//! only, which are fetched after a crash, and in what an unfinished target still owes.
//!
//! INVARIANT: whoever forgets of a write which disks may lack it (the writer when the write is stable everywhere, the
//! others when the writer tells them to) has learnt before which age each of those disks had reached when the write was
//! stable there. So an image that lacks the write, and is too old to have its extents hot, is younger than what somebody saw.

use super::context::{ensure, Fault};
use super::disk::{Disk, Stage};
use super::volume::Volume;
use crate::host::{Host, Time};
use weft_uapi::limits::NODES_MAX;
use weft_uapi::units::{Incarnation, NodeId, NodeSet};
use weft_uapi::wire::AgeBody;
use zerocopy::{FromBytes, FromZeros};

/// Ages that were seen and stand nowhere on disk are written after so long at the latest, in milliseconds.
const SAVE_MS: u64 = 1_000;

const MALFORMED: Fault = Fault("the peer sent a malformed age");

/// Ages of several disks, to be sent.
pub(super) struct Ages {
    bodies: [AgeBody; NODES_MAX],
    len: usize,
}

impl Ages {
    fn new() -> Self {
        Self {
            bodies: FromZeros::new_zeroed(),
            len: 0,
        }
    }

    fn push(&mut self, node: NodeId, attach_id: u64, age: u64) {
        if let Some(place) = self.bodies.get_mut(self.len) {
            place.node = u32::from(node.get()).into();
            place.attach_id = attach_id.into();
            place.age = age.into();
            self.len = self.len.saturating_add(1);
        }
    }

    /// Those that were put in.
    pub(super) fn bodies(&self) -> &[AgeBody] {
        self.bodies.get(..self.len).unwrap_or(&[])
    }
}

impl<H: Host> Disk<H> {
    /// How far the metadata on disk have come; grows with each transaction of the activity log and each change of the
    /// superblock that is durable.
    pub(super) fn age(&self) -> u64 {
        self.changes_done.saturating_add(self.log.sequence())
    }

    /// Which image of a node's disk was seen: incarnation and attach id.
    pub(super) fn seen(&self, node: NodeId) -> (Incarnation, u64) {
        let at = node.index();
        let superblock = &self.superblock;
        (
            superblock
                .seen_incarnation
                .get(at)
                .copied()
                .unwrap_or_default(),
            superblock
                .seen_attach_id
                .get(at)
                .copied()
                .unwrap_or_default(),
        )
    }

    /// Notes which image of a node's disk was seen (G7).
    pub(super) fn set_seen(&mut self, node: NodeId, incarnation: Incarnation, attach_id: u64) {
        let at = node.index();
        let (Some(seen), Some(seen_id), Some(age)) = (
            self.superblock.seen_incarnation.get_mut(at),
            self.superblock.seen_attach_id.get_mut(at),
            self.superblock.seen_age.get_mut(at),
        ) else {
            return;
        };
        if *seen_id != attach_id {
            // It was reached in another attach.
            *age = 0;
        }
        if (*seen, *seen_id) != (incarnation, attach_id) {
            (*seen, *seen_id) = (incarnation, attach_id);
            self.touch();
        }
    }

    /// The age of a node's disk that was seen in the attach that was seen last.
    pub(super) fn seen_age(&self, node: NodeId) -> u64 {
        let ages = &self.superblock.seen_age;
        ages.get(node.index()).copied().unwrap_or_default()
    }

    /// Notes how far a node's disk has come in an attach; passed over unless it is the one that was seen last.
    pub(super) fn note_age(&mut self, node: NodeId, attach_id: u64, age: u64, now: Time) {
        let is_known = attach_id != 0 && self.seen(node).1 == attach_id;
        let seen = self.superblock.seen_age.get_mut(node.index());
        if let Some(seen) = seen.filter(|seen| is_known && **seen < age) {
            *seen = age;
            self.ages_unsaved.get_or_insert(now);
        }
    }

    /// When ages that were seen have to be written; `None`: nothing is to be, or it is under way, or the disk is about to
    /// leave, and notes them then.
    pub(super) fn ages_deadline(&self) -> Option<Time> {
        let is_waiting = self.stage == Stage::Running && self.is_settled();
        Some(self.ages_unsaved?.after_ms(SAVE_MS)).filter(|_| is_waiting)
    }

    /// Has ages that were seen and stand nowhere on disk written; whether all of them are.
    pub(super) fn save_ages(&mut self) -> bool {
        if self.ages_unsaved.is_some() {
            self.want_superblock();
        }
        self.is_settled()
    }
}

impl<H: Host> Volume<H> {
    /// The age of this disk.
    pub(super) fn own_age(&self) -> Ages {
        let mut ages = Ages::new();
        if let Some(disk) = self.disk.as_ref() {
            ages.push(disk.superblock.node, disk.superblock.attach_id, disk.age());
        }
        ages
    }

    /// The ages of all disks that hold what `peer` is told to forget, but of its own.
    pub(super) fn ages_for(&self, peer: NodeId) -> Ages {
        let mut ages = self.own_age();
        let Some(disk) = self.disk.as_ref() else {
            return ages;
        };
        for node in self.receivers().without(peer).iter() {
            ages.push(node, disk.seen(node).1, disk.seen_age(node));
        }
        ages
    }

    /// Whether a peer knows what ages are.
    pub(super) fn tells_ages(&self, peer: NodeId) -> bool {
        self.replica(peer)
            .is_some_and(|replica| replica.round.tells_ages)
    }

    /// A peer told the ages of disks, of none but these nodes'.
    pub(super) fn on_ages(&mut self, body: &[u8], of: NodeSet, now: Time) -> Result<(), Fault> {
        let entries = body.chunks_exact(size_of::<AgeBody>());
        ensure(entries.remainder().is_empty(), MALFORMED.0)?;
        let Some(disk) = self.disk.as_mut() else {
            return Ok(());
        };
        for entry in entries {
            let entry = AgeBody::read_from_bytes(entry).map_err(|_| MALFORMED)?;
            let node = NodeId::new(entry.node.get())
                .filter(|&node| of.contains(node) && entry.reserved.get() == 0)
                .ok_or(MALFORMED)?;
            disk.note_age(node, entry.attach_id.get(), entry.age.get(), now);
        }
        Ok(())
    }
}
