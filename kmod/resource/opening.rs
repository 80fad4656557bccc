// SPDX-License-Identifier: GPL-2.0-only

//! Programs open and close devices, and wait meanwhile for the engine: an open may make this node primary, and the last
//! close secondary.
//!
//! The kernel holds a lock of the device all the time, so one of them at a time waits for each device, and removing the
//! device waits for both. Neither waits for the slow queue, whose orders may be what waits for that lock.

use super::Resource;
use crate::disk::Patience;
use crate::pump::Turn;
use kernel::sync::Arc;
use weft_engine::event::Event;
use weft_uapi::refusal::Refusal;
use weft_uapi::units::VolumeId;

impl Resource {
    /// The device of a volume is being opened; with `promotes` this node may become primary for that, and who opens it waits.
    /// Process context, under the device's own lock; may sleep.
    pub(crate) fn open(self: &Arc<Self>, volume: VolumeId, promotes: bool) -> Result<(), Refusal> {
        if !self.tell_door(volume, Event::Open { volume, promotes }) {
            return Err(Refusal::NoSuchVolume);
        }
        let mut state = self.state.lock();
        let result = loop {
            if let Some(result) = state.rest.take_answer(volume) {
                break result;
            }
            if self.doors.wait_interruptible(&mut state) {
                drop(state);
                // It may be answered already, and then it is as if the signal had come a moment later.
                self.tell_door(volume, Event::OpenInterrupted { volume });
                state = self.state.lock();
            }
        };
        drop(state);
        if promotes && result.is_ok() {
            // The size that came with the role, which another open may have brought, may not have been told yet.
            self.resize(volume, 1);
        }
        result
    }

    /// The device of a volume was closed once. Process context, under the device's own lock; may sleep.
    pub(crate) fn close(self: &Arc<Self>, volume: VolumeId) {
        self.tell_door(volume, Event::Close { volume });
        let mut state = self.state.lock();
        while state.rest.take_answer(volume).is_none() {
            self.doors.wait(&mut state);
        }
    }

    /// Feeds an event about the device of a volume, if there is one that can be answered.
    fn tell_door(
        self: &Arc<Self>,
        volume: VolumeId,
        event: Event<'_, crate::pump::Kernel>,
    ) -> bool {
        let mut turn = Turn::begin(self);
        let is_known = turn.state().rest.volume(volume).is_some();
        if is_known {
            turn.handle(event);
        }
        turn.end(Patience::Wait);
        is_known
    }
}

impl super::Rest {
    /// How an open or a close ended; for a volume that is gone, too.
    fn take_answer(&mut self, volume: VolumeId) -> Option<Result<(), Refusal>> {
        match self.volume_mut(volume) {
            Some(volume) => volume.door.take(),
            None => Some(Err(Refusal::NoSuchVolume)),
        }
    }
}
