// SPDX-License-Identifier: GPL-2.0-only

//! People who choose how resyncs run. With chance of its own, as for other orders.

use crate::node::node_id;
use crate::world::World;
use weft_engine::event::{Command, Event, Options};
use weft_engine::host::Time;
use weft_uapi::resync::{Limit, Speed, RATE_MIN};
use weft_uapi::status::PAUSED_AFTER;

/// Histories of seeds from here on have such choices; those of older seeds stay what they were.
const SPEEDS_FROM: u64 = 0xb000_0000_0000_0000;
/// Faults that come with one.
const CHOICE_PERCENT: u64 = 40;
/// Lower and upper bounds of the rate, and times that applications may wait.
const SPEEDS: [(u64, u64, u32); 5] = [
    (RATE_MIN, RATE_MIN, 20),
    (RATE_MIN, 64 << 10, 1),
    (64 << 10, 1 << 20, 5),
    (RATE_MIN, 0, 1),
    (4 << 20, 0, 20),
];

impl World {
    /// Somebody may choose how resyncs run.
    pub(crate) fn choose_speed(&mut self, node: usize) {
        if self.plan.seed < SPEEDS_FROM || !self.speeds.percent(CHOICE_PERCENT) {
            return;
        }
        if self.speeds.percent(40) {
            let waits = self.speeds.coin();
            return self.feed(node, Event::Turn { waits });
        }
        let (min, max, latency_ms) = *self.speeds.pick(&SPEEDS);
        let speed = Speed {
            min,
            max,
            latency_ms,
        };
        self.set_speed(node, speed);
    }

    /// Whether a node that starts asks by digest for what it has to fetch.
    pub(crate) fn asks_by_digest(&mut self) -> bool {
        self.plan.seed >= SPEEDS_FROM && self.speeds.percent(50)
    }

    fn set_speed(&mut self, node: usize, speed: Speed) {
        let options = Options {
            resync_min_rate: Some(speed.min),
            resync_max_rate: Some(speed.max),
            resync_latency_ms: Some(speed.latency_ms),
            csums: Some(self.asks_by_digest()),
            ..Options::default()
        };
        self.command(node, Command::SetOptions { options });
    }

    /// Nobody wants resyncs to be slow any more.
    pub(crate) fn take_speed_back(&mut self, node: usize) {
        let Some(engine) = &self.nodes[node].engine else {
            return;
        };
        let info = engine.resource_info(Time(self.now));
        let speed = Speed::default();
        let waits = |peer: usize| {
            let info = engine.peer_volume_info(node_id(peer), self.at, Time(self.now));
            info.is_some_and(|info| info.paused & PAUSED_AFTER != 0)
        };
        if self.peers(node).any(waits) {
            self.feed(node, Event::Turn { waits: false });
        }
        if (info.resync_min_rate, info.resync_max_rate) != (speed.min, speed.max) {
            self.set_speed(node, speed);
        }
    }

    /// Takes note of what holds resyncs up.
    pub(crate) fn count_limits(&mut self) {
        for node in 0..self.nodes.len() {
            for peer in self.peers(node) {
                let engine = self.nodes[node].engine.as_ref();
                let info = engine
                    .and_then(|it| it.peer_volume_info(node_id(peer), self.at, Time(self.now)));
                let limit = info.and_then(|info| Limit::from_number(info.resync_limit));
                if let Some(limit) = limit {
                    self.tally.reach.count("resync limit", limit.name());
                }
            }
        }
    }
}
