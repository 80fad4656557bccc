// SPDX-License-Identifier: GPL-2.0-only

//! Programs that open and close the device.

use super::Rig;
use weft_engine::event::Event;
use weft_uapi::refusal::Refusal;
use weft_uapi::status::ResourceInfo;

impl Rig {
    /// Opens the device for writing.
    pub(crate) fn open(&mut self, number: usize) -> Result<(), Refusal> {
        self.begin_open(number, true);
        self.run_until(|rig| rig.nodes[number].doors.contains_key(&rig.volume));
        self.door(number).expect("an answer")
    }

    /// Opens the device, to wait for its role or not, and does not wait for the answer.
    pub(crate) fn begin_open(&mut self, number: usize, promotes: bool) {
        let volume = self.volume;
        self.feed(number, Event::Open { volume, promotes });
    }

    /// How the last open or close ended, if it has.
    pub(crate) fn door(&mut self, number: usize) -> Option<Result<(), Refusal>> {
        self.nodes[number].doors.remove(&self.volume)
    }

    /// Whether [`Self::door`] has an answer.
    pub(crate) fn has_answer(&self, number: usize) -> bool {
        self.nodes[number].doors.contains_key(&self.volume)
    }

    pub(crate) fn interrupt_open(&mut self, number: usize) {
        let volume = self.volume;
        self.feed(number, Event::OpenInterrupted { volume });
    }

    pub(crate) fn close(&mut self, number: usize) {
        self.begin_close(number);
        self.run_until(|rig| rig.nodes[number].doors.contains_key(&rig.volume));
        self.door(number).expect("an answer").unwrap();
    }

    /// Closes the device and does not wait for the answer.
    pub(crate) fn begin_close(&mut self, number: usize) {
        let volume = self.volume;
        self.feed(number, Event::Close { volume });
    }

    /// Whether the node is primary only for as long as its device is open.
    pub(crate) fn is_primary_by_open(&self, number: usize) -> bool {
        let info: ResourceInfo = self.nodes[number].engine.resource_info(self.now);
        info.primary_by_open == 1
    }

    /// The highest term that the node promised to anybody.
    pub(crate) fn promised_term(&self, number: usize) -> u64 {
        let info = self.nodes[number].engine.generation_info(self.volume);
        info.expect("a disk").promised_term
    }
}
