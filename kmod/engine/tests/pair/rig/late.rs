// SPDX-License-Identifier: GPL-2.0-only

//! What a node was asked for and does not get on with.

use super::{Node, Rig};
use crate::host::Act;
use weft_engine::event::{DiskError, Event, Io, Op};

impl Node {
    /// Whether this has to wait.
    pub(super) fn sets_aside(&self, act: &Act) -> bool {
        match act {
            Act::Disk(_, _, Io { op, .. }, _) => match op {
                Op::Read | Op::Digest => self.is_slow,
                Op::Write => self.is_stuck,
                _ => false,
            },
            Act::Meta(..) | Act::Recall(_) | Act::Keep(..) => self.is_late,
            _ => false,
        }
    }
}

impl Rig {
    /// Metadata writes get nowhere from now on, or all that waited go on.
    pub(crate) fn set_late(&mut self, number: usize, is_late: bool) {
        self.nodes[number].is_late = is_late;
        self.go_on_unless(number, is_late);
    }

    /// The disks read nothing from now on, or all that they were asked for.
    pub(crate) fn set_slow(&mut self, number: usize, is_slow: bool) {
        self.nodes[number].is_slow = is_slow;
        self.go_on_unless(number, is_slow);
    }

    /// The disks write no data from now on, or all that they were given.
    pub(crate) fn set_stuck(&mut self, number: usize, is_stuck: bool) {
        self.nodes[number].is_stuck = is_stuck;
        self.go_on_unless(number, is_stuck);
    }

    fn go_on_unless(&mut self, number: usize, waits: bool) {
        let node = &mut self.nodes[number];
        if !waits {
            node.queue.extend(node.late.drain(..));
        }
    }

    /// How much of the node was set aside.
    pub(crate) fn late(&self, number: usize) -> usize {
        self.nodes[number].late.len()
    }

    /// The first of what was set aside goes on, and nothing more is set aside.
    pub(crate) fn release(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.queue.push_back(node.late.remove(0));
        (node.is_late, node.is_slow, node.is_stuck) = (false, false, false);
    }

    /// Metadata writes of the volume that waited fail, and those of others wait on; `false`: there were none.
    pub(crate) fn fail_late(&mut self, number: usize) -> bool {
        let failed = self.volume;
        let fails = |act: &Act| matches!(act, Act::Meta(volume, ..) if *volume == failed);
        let late = std::mem::take(&mut self.nodes[number].late);
        let (gone, waiting): (Vec<_>, Vec<_>) = late.into_iter().partition(fails);
        self.nodes[number].late = waiting;
        let has_failed = !gone.is_empty();
        for act in gone {
            if let Act::Meta(_, cookie, ..) = act {
                let result = Err(DiskError);
                self.feed(number, Event::MetaDone { cookie, result });
            }
        }
        has_failed
    }
}
