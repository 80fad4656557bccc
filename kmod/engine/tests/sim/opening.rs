// SPDX-License-Identifier: GPL-2.0-only

//! Programs that open and close the device: on a primary always, in some histories on a secondary as well, which makes it
//! primary. With chance of its own, so that it changes nothing about the histories of older seeds.

use crate::random::Random;
use crate::world::{note, World, SECOND};
use weft_engine::event::Event;
use weft_engine::host::Time;
use weft_engine::AutoPromotion;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::AutoPromote;

/// In histories of seeds from here on opens promote, if the options say so.
const OPENS_FROM: u64 = 0x18ec_d697_0000_0000;
/// How often a program looks at a secondary and opens its device.
const OPEN_PERCENT: u64 = 4;
/// How often one that has it open from the beginning of its role closes it.
const CLOSE_PERCENT: u64 = 2;
/// How often one does not wait for its open.
const INTERRUPT_PERCENT: u64 = 5;
/// An open or a close must be answered so long after its time limit.
const SLACK: u64 = SECOND / 10;

/// What opens do in a history.
pub(crate) fn draw_auto_promotion(seed: u64) -> AutoPromotion {
    let mut random = Random::new(seed.rotate_left(56));
    let mode = match seed < OPENS_FROM {
        true => AutoPromote::No,
        false => *random.pick(AutoPromote::ALL),
    };
    let timeout_s = random.range(1..5) as u32;
    AutoPromotion { mode, timeout_s }
}

/// The device of a node, as the program sees it that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Handle {
    #[default]
    Closed,
    Opening {
        since: u64,
    },
    Open,
    Closing {
        since: u64,
    },
}

impl World {
    /// A program opens the device of a primary, or of a secondary to have it promoted.
    pub(crate) fn may_open(&mut self, node: usize) {
        let this = &self.nodes[node];
        if this.engine.is_none() {
            // It has died of a request.
            return;
        }
        let is_free = self.calm_since.is_none() && !this.app.is_leaving;
        let promotes = !this.is_primary() && is_free && self.opens.percent(OPEN_PERCENT);
        if promotes || (this.is_primary() && !this.app.is_leaving) {
            self.nodes[node].app.handle = Handle::Opening { since: self.now };
            let volume = self.at;
            note!(self, "n{node} is opened, to be promoted: {promotes}");
            self.feed(node, Event::Open { volume, promotes });
        }
    }

    /// A program that made this node primary may have had enough of it.
    pub(crate) fn may_close(&mut self, node: usize) {
        if self.is_primary_by_open(node)
            && self.calm_since.is_none()
            && self.opens.percent(CLOSE_PERCENT)
        {
            self.nodes[node].app.is_leaving = true;
            self.nodes[node].app.comes_back = true;
        }
    }

    pub(crate) fn close(&mut self, node: usize) {
        note!(self, "n{node} closes the device");
        let is_demoted = self.is_primary_by_open(node);
        let app = &mut self.nodes[node].app;
        app.handle = Handle::Closing { since: self.now };
        app.is_demoted = is_demoted;
        if std::mem::take(&mut app.comes_back) {
            app.is_leaving = false;
        }
        self.feed(node, Event::Close { volume: self.at });
    }

    /// A program waits for the answer to its open or close.
    pub(crate) fn wait_at_door(&mut self, node: usize, since: u64) {
        let limit = u64::from(self.auto_promotion.timeout_s) * SECOND + SLACK;
        if self.now > since + limit {
            let text = format!("n{node}: an open or a close was not answered in time");
            return self.fail("progress", text);
        }
        let is_opening = matches!(self.nodes[node].app.handle, Handle::Opening { .. });
        if is_opening && self.opens.percent(INTERRUPT_PERCENT) {
            self.feed(node, Event::OpenInterrupted { volume: self.at });
        }
    }

    fn is_primary_by_open(&self, node: usize) -> bool {
        let engine = self.nodes[node].engine.as_ref();
        engine.is_some_and(|engine| engine.resource_info(Time(self.now)).primary_by_open == 1)
    }

    /// The engine answers an open or a close.
    pub(crate) fn on_door(&mut self, node: usize, result: Option<Result<(), Refusal>>) {
        let is_primary = self.nodes[node].is_primary();
        let app = &mut self.nodes[node].app;
        let handle = match (app.handle, result) {
            (Handle::Opening { .. }, Some(Ok(()))) if is_primary => Handle::Open,
            (Handle::Opening { .. }, Some(Err(_))) | (Handle::Closing { .. }, None) => {
                Handle::Closed
            }
            (handle, _) => {
                let text = format!("n{node}: {result:?} is no answer to {handle:?}");
                return self.fail("contract", text);
            }
        };
        app.handle = handle;
        (app.is_ended, app.is_demoted) = (false, app.is_demoted && handle == Handle::Closed);
        if let Some(result) = result {
            let name = result.map_or_else(Refusal::name, |()| "done");
            self.tally.reach.count("open", name);
            note!(self, "n{node} opens the device: {name}");
        }
    }
}
