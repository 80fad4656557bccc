// SPDX-License-Identifier: GPL-2.0-only

//! Primaries that go ahead of peers that do not keep up. With chance of its own, as for other orders.

use crate::node::node_id;
use crate::world::World;
use weft_engine::event::{Command, Options};
use weft_engine::host::Time;
use weft_uapi::congestion::{Congestion, Pace, FILL_MIN};
use weft_uapi::units::NodeSet;

/// Histories of seeds from here on have such primaries; those of older seeds stay what they were.
const CONGESTION_FROM: u64 = 0xd000_0000_0000_0000;
/// Histories of them in which nodes begin with it.
const AHEAD_PERCENT: u64 = 60;
/// As above, of more than four nodes: they come and go often, and disks remember so many records only.
const AHEAD_PERCENT_OF_MANY: u64 = 20;
/// Faults that come with another choice.
const CHOICE_PERCENT: u64 = 20;
/// Bytes that are too many.
const FILLS: [u64; 4] = [FILL_MIN, FILL_MIN, 8 << 10, 64 << 10];

impl World {
    /// What a node that starts does about peers that do not keep up.
    pub(crate) fn congestion(&mut self, node: usize) -> Congestion {
        let percent = match self.nodes.len() {
            0..=4 => AHEAD_PERCENT,
            _ => AHEAD_PERCENT_OF_MANY,
        };
        if self.plan.seed < CONGESTION_FROM || !self.congestions.percent(percent) {
            return Congestion::default();
        }
        self.some_congestion(node)
    }

    fn some_congestion(&mut self, node: usize) -> Congestion {
        let all: Vec<usize> = self.peers(node).collect();
        let named = all.into_iter().filter(|_| self.congestions.percent(70));
        let named = named.map(node_id).fold(NodeSet::EMPTY, NodeSet::with);
        Congestion {
            pull_ahead: named,
            fill: *self.congestions.pick(&FILLS),
        }
    }

    /// How much slower slow cables are: so much that answers are late.
    pub(crate) fn slowness(&self) -> u64 {
        match self.plan.seed {
            0..CONGESTION_FROM => 1,
            CONGESTION_FROM.. => 8,
        }
    }

    /// Somebody may choose what is done about peers that do not keep up.
    pub(crate) fn choose_congestion(&mut self, node: usize) {
        if self.plan.seed < CONGESTION_FROM || !self.congestions.percent(CHOICE_PERCENT) {
            return;
        }
        let congestion = self.some_congestion(node);
        let options = Options {
            pull_ahead: Some(congestion.pull_ahead),
            congestion_fill: Some(congestion.fill),
            ..Options::default()
        };
        self.command(node, Command::SetOptions { options });
    }

    /// Takes note of how peers keep up.
    pub(crate) fn count_paces(&mut self) {
        for node in 0..self.nodes.len() {
            for peer in self.peers(node) {
                let engine = self.nodes[node].engine.as_ref();
                let info = engine
                    .and_then(|it| it.peer_volume_info(node_id(peer), self.at, Time(self.now)));
                let pace = info.and_then(|info| Pace::from_number(info.pace));
                if let Some(pace) = pace {
                    self.tally.reach.count("pace", pace.name());
                }
            }
        }
    }
}
