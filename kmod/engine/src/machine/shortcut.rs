// SPDX-License-Identifier: GPL-2.0-only

//! Reads that need nothing of the engine.

use super::disk::Stage;
use super::Engine;
use crate::host::Host;
use weft_uapi::state::{DiskState, Role};
use weft_uapi::units::VolumeId;

impl<H: Host> Engine<H> {
    /// Size in sectors of a volume whose disk answers every read now, so that the host may read there without asking; valid
    /// until the next event. A read that comes later and fails is a request like others.
    ///
    /// INVARIANT: `Some` only where a request would be sent to the disk at once. It is `None` more often than it would have to
    /// be: as soon as a member is lost, not only when a majority may have gone on without this node.
    pub fn serves_reads(&self, volume: VolumeId) -> Option<u64> {
        let leads = self.role == Role::Primary
            && self.client.is_none()
            && !self.suspension.is_wanted()
            && self.held_by().is_empty();
        let volume = self.volume(volume).filter(|_| leads)?;
        let is_running = volume
            .disk
            .as_ref()
            .is_some_and(|disk| disk.stage == Stage::Running);
        let is_sure = volume.stalled.is_none()
            && !volume.wants_vote
            && !volume.is_overtaken
            && !volume.is_broken
            && volume.lost_members(self.config.node).is_empty();
        let is_good = is_running && is_sure && volume.disk_state() == DiskState::UpToDate;
        is_good.then(|| volume.sectors())
    }
}
