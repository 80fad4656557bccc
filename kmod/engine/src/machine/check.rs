// SPDX-License-Identifier: GPL-2.0-only

//! What must always hold, checked after every event. A violation stops the volume's I/O; it never panics.

use super::context::Context;
use super::disk::Stage;
use super::volume::Volume;
use crate::host::{Host, Output};
use weft_uapi::ondisk::FLAG_INCONSISTENT;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::GenerationId;

impl<H: Host> Volume<H> {
    /// Checks the rules that cost nothing to check.
    pub(super) fn check<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if let Some(sentence) = self.violated_rule() {
            self.break_down(cx, sentence);
        }
    }

    fn violated_rule(&self) -> Option<&'static str> {
        let rules: [(bool, &'static str); 5] = [
            (
                self.is_state_recorded(),
                "an up-to-date disk is recorded as inconsistent",
            ),
            (
                self.are_receivers_connected(),
                "writes go to a peer without session",
            ),
            (
                self.is_required_recorded(),
                "writes do not wait for every member",
            ),
            (
                self.is_disk_known(),
                "the state of the disk does not fit the disk",
            ),
            (
                self.are_members_synced(),
                "a member's resync runs without a source",
            ),
        ];
        rules
            .iter()
            .find(|(holds, _)| !holds)
            .map(|(_, sentence)| *sentence)
    }

    fn is_state_recorded(&self) -> bool {
        let is_inconsistent = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.has_flag(FLAG_INCONSISTENT));
        !(self.disk_state() == DiskState::UpToDate && is_inconsistent && self.change.is_none())
    }

    fn are_receivers_connected(&self) -> bool {
        self.each_replica()
            .all(|(_, replica)| !replica.receives || replica.session.is_some())
    }

    fn is_required_recorded(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| {
            let generation = disk.superblock.generation;
            generation.id == GenerationId::NONE || generation.members.0 & !self.required.0 == 0
        })
    }

    fn is_disk_known(&self) -> bool {
        match (self.disk.as_ref(), self.disk_state()) {
            (None, state) => state == DiskState::Diskless,
            (Some(disk), DiskState::Attaching) => {
                matches!(disk.stage, Stage::Attaching(_) | Stage::Leaving(_))
            }
            (Some(_), state) => state != DiskState::Diskless,
        }
    }

    fn are_members_synced(&self) -> bool {
        self.each_replica()
            .all(|(_, replica)| match replica.replication {
                ReplicationState::BitmapSource | ReplicationState::SyncSource => {
                    replica.source.is_some() || replica.round.is_open() || replica.verdict.is_some()
                }
                ReplicationState::BitmapTarget | ReplicationState::SyncTarget => {
                    replica.target.is_some() || replica.round.is_open() || replica.verdict.is_some()
                }
                ReplicationState::Off
                | ReplicationState::Established
                | ReplicationState::PausedSource
                | ReplicationState::PausedTarget
                | ReplicationState::VerifySource
                | ReplicationState::VerifyTarget
                | ReplicationState::Ahead
                | ReplicationState::Behind => replica.source.is_none() && replica.target.is_none(),
            })
    }
}
