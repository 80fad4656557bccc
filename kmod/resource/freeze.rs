// SPDX-License-Identifier: GPL-2.0-only

//! File systems that are frozen before requests have to wait, so that what all disks hold then needs no repair.
//!
//! ```text
//! suspend-io --freeze -> Freezing -> the engine suspends -> Frozen -> resume-io -> the engine resumes -> Thawing
//! ```
//! Both ends take as long as what the file systems write then, which may have to wait for a majority or a peer. So they are work of their
//! own: nothing else waits for them, and resume-io gives either up. Who ordered it may be gone: what is frozen is known here, and stays so until
//! resume-io or until the device is removed.

use super::orders::Purpose;
use super::{Resource, FREEZE};
use crate::block::Device;
use crate::error::Failure;
use crate::netlink::Answer;
use crate::sys::gendisk::Gendisk;
use crate::sys::work::SlowQueue;
use kernel::{prelude::*, sync::Arc, workqueue::WorkItem};
use weft_engine::effect::Object;
use weft_engine::event::Command;
use weft_engine::host::Time;
use weft_uapi::refusal::Refusal;
use weft_uapi::status::{ResourceInfo, SUSPENDED_COMMAND, SUSPENDED_FREEZE};
use weft_uapi::units::VolumeId;

/// How far it is, and what is frozen.
pub(super) struct Freezer {
    stage: Stage,
    since: Time,
    frozen: KVec<(VolumeId, Arc<Gendisk<Device>>)>,
}

enum Stage {
    Idle,
    /// Until the engine has suspended requests as well. Who waits for that; nobody if it was given up.
    Freezing(Option<Answer>),
    Frozen,
    /// Who waits for the end, and what it is told.
    Thawing(Option<Answer>, Result<(), Failure>),
}

impl Freezer {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Idle,
            since: Time(0),
            frozen: KVec::new(),
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    fn is_given_up(&self) -> bool {
        matches!(self.stage, Stage::Freezing(None))
    }
}

impl Resource {
    /// Lets requests wait; with `freezes`, once what is mounted on the devices is frozen.
    pub(super) fn suspend(self: &Arc<Self>, freezes: bool, answer: Answer) {
        let suspended = self.with_engine(|engine, now| engine.resource_info(now).suspended);
        let mut freezer = self.freezer.lock();
        if !freezer.is_idle() {
            drop(freezer);
            return Failure::from(Refusal::IoSuspended).give(answer);
        }
        if !freezes || suspended & SUSPENDED_COMMAND != 0 {
            drop(freezer);
            return self.command(Command::SuspendIo, Purpose::Itself(answer));
        }
        if suspended != 0 {
            drop(freezer);
            let waits = "Requests wait, and those of the file systems would, too.";
            let failure = Failure::new(Refusal::CannotFreeze, format_args!("{waits}"));
            return failure.give(answer);
        }
        freezer.stage = Stage::Freezing(Some(answer));
        freezer.since = self.now();
        drop(freezer);
        self.tell(Object::Resource);
        SlowQueue::enqueue::<_, FREEZE>(self.clone());
    }

    /// Freezes what is mounted on each device.
    fn freeze_all(&self) -> Result<(), Failure> {
        let no_memory = |_| Failure::from(Refusal::NoMemory);
        let mut gendisks = KVec::new();
        let volumes = self.state.lock().rest.volumes.len();
        gendisks.reserve(volumes, GFP_KERNEL).map_err(no_memory)?;
        for volume in self.state.lock().rest.volumes() {
            // What came meanwhile is of no use to anybody yet.
            let _ = gendisks.push_within_capacity((volume.id, volume.gendisk.clone()));
        }
        for (id, gendisk) in gendisks {
            if self.freezer.lock().is_given_up() {
                return Err(Refusal::Interrupted.into());
            }
            let mut freezer = self.freezer.lock();
            freezer
                .frozen
                .reserve(1, GFP_KERNEL)
                .map_err(|_| Refusal::NoMemory)?;
            drop(freezer);
            gendisk.freeze().map_err(|error| {
                let errno = error.to_errno();
                Failure::new(
                    Refusal::CannotFreeze,
                    format_args!("Volume {id}: error {errno}."),
                )
            })?;
            let kept = self
                .freezer
                .lock()
                .frozen
                .push_within_capacity((id, gendisk));
            if let Err(error) = kept {
                error.0 .1.thaw();
            }
        }
        Ok(())
    }

    /// Thaws all that is frozen.
    fn thaw_all(&self) {
        loop {
            let frozen = self.freezer.lock().frozen.pop();
            let Some((_, gendisk)) = frozen else {
                return;
            };
            gendisk.thaw();
        }
    }

    /// The volume is removed, and nobody has its device open.
    pub(super) fn thaw_volume(&self, id: VolumeId) {
        let mut freezer = self.freezer.lock();
        let index = freezer.frozen.iter().position(|(other, _)| *other == id);
        let frozen = index.and_then(|index| freezer.frozen.remove(index).ok());
        drop(freezer);
        if let Some((_, gendisk)) = frozen {
            gendisk.thaw();
        }
    }

    /// Everything is frozen, or not all could be.
    fn on_frozen(self: &Arc<Self>, result: Result<(), Failure>) {
        let mut freezer = self.freezer.lock();
        match (result, &mut freezer.stage) {
            (Ok(()), Stage::Freezing(Some(_))) => {
                drop(freezer);
                self.command(Command::SuspendIo, Purpose::Freeze);
            }
            (result, Stage::Freezing(answer)) => {
                freezer.stage = Stage::Thawing(answer.take(), result);
                drop(freezer);
                self.thaw();
            }
            _ => {}
        }
    }

    /// The engine has suspended requests, or not.
    pub(super) fn on_suspended(self: &Arc<Self>, result: Result<(), Failure>) {
        let mut freezer = self.freezer.lock();
        let Stage::Freezing(answer) = &mut freezer.stage else {
            return;
        };
        match (answer.take(), result) {
            (Some(answer), Ok(())) => {
                freezer.stage = Stage::Frozen;
                drop(freezer);
                self.tell(Object::Resource);
                answer.give(Ok(()));
            }
            (answer, result) => {
                let is_suspended = result.is_ok();
                freezer.stage = Stage::Thawing(answer, result);
                drop(freezer);
                if is_suspended {
                    self.command(Command::ResumeIo, Purpose::Nobody);
                }
                SlowQueue::enqueue::<_, FREEZE>(self.clone());
            }
        }
    }

    /// The engine lets requests go on, or they did not wait: what is frozen thaws.
    pub(super) fn on_resumed(self: &Arc<Self>, answer: Answer, result: Result<(), Failure>) {
        let mut freezer = self.freezer.lock();
        match &mut freezer.stage {
            Stage::Frozen => {
                freezer.stage = Stage::Thawing(Some(answer), Ok(()));
                drop(freezer);
                SlowQueue::enqueue::<_, FREEZE>(self.clone());
            }
            Stage::Freezing(waiter) => {
                let waiter = waiter.take();
                drop(freezer);
                if let Some(waiter) = waiter {
                    Failure::from(Refusal::Interrupted).give(waiter);
                }
                answer.give(Ok(()));
            }
            Stage::Thawing(..) => {
                drop(freezer);
                answer.give(Ok(()));
            }
            Stage::Idle => {
                drop(freezer);
                match result {
                    Ok(()) => answer.give(Ok(())),
                    Err(failure) => failure.give(answer),
                }
            }
        }
    }

    /// The last step of all.
    fn thaw(self: &Arc<Self>) {
        self.thaw_all();
        let mut freezer = self.freezer.lock();
        let stage = core::mem::replace(&mut freezer.stage, Stage::Idle);
        drop(freezer);
        self.tell(Object::Resource);
        if let Stage::Thawing(Some(answer), result) = stage {
            match result {
                Ok(()) => answer.give(Ok(())),
                Err(failure) => failure.give(answer),
            }
        }
    }

    /// Adds to the status that file systems are frozen.
    pub(crate) fn describe_freeze(&self, info: &mut ResourceInfo) {
        let freezer = self.freezer.lock();
        if freezer.is_idle() {
            return;
        }
        if info.suspended == 0 {
            let since = freezer.since;
            info.suspended_since_ms = since.ms_since(Time(0));
            info.suspended_ms = self.now().ms_since(since);
        }
        info.suspended |= SUSPENDED_FREEZE;
    }
}

impl WorkItem<FREEZE> for Resource {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let is_thawing = matches!(this.freezer.lock().stage, Stage::Thawing(..));
        if is_thawing {
            return this.thaw();
        }
        let result = this.freeze_all();
        this.on_frozen(result);
    }
}
