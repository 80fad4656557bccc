// SPDX-License-Identifier: GPL-2.0-only

//! The application on a primary: opens the device, writes, flushes, and looks at what it reads.

use crate::checkers;
use crate::history::{Write, FIRST_WRITE};
use crate::host::{Content, RequestId, Stamp};
use crate::opening::Handle;
use crate::world::{note, Happening, World, MS, US};
use std::collections::{BTreeMap, VecDeque};
use std::iter;
use weft_engine::effect::IoError;
use weft_engine::event::{Event, Io, Op};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::state::Protocol;
use weft_uapi::units::{Sector, VolumeId};

/// Requests of one application at most.
const DEPTH_MAX: usize = 12;
/// Writes of a run that is not brisk at most.
pub(crate) const WRITES_MAX: usize = 600;

/// A request that was not completed.
pub(crate) struct Outstanding {
    pub io: Io,
    pub stamp: Option<Stamp>,
    /// Protocol C was in force since it was submitted.
    pub is_safe: bool,
    content: Option<Content>,
    read: Option<Content>,
    pub submitted: u64,
    pub since: u64,
}

#[derive(Default)]
pub(crate) struct App {
    pub handle: Handle,
    /// A person does not wait for its requests.
    pub is_ended: bool,
    /// No new requests; the device is closed when all are done.
    pub is_leaving: bool,
    /// It leaves by itself, and may open the device again.
    pub comes_back: bool,
    /// Its last close demotes the node.
    pub is_demoted: bool,
    pub outstanding: BTreeMap<RequestId, Outstanding>,
    /// Those that the engine had no room for, in order.
    waiting: VecDeque<RequestId>,
}

impl App {
    /// What a write writes.
    pub(crate) fn content(&self, request: RequestId) -> Option<Content> {
        self.outstanding.get(&request)?.content.clone()
    }

    /// The local disk has read for the request.
    pub(crate) fn fill(&mut self, request: RequestId, content: Content) {
        if let Some(outstanding) = self.outstanding.get_mut(&request) {
            outstanding.read = Some(content);
        }
    }
}

impl World {
    pub(crate) fn on_app(&mut self, node: usize, life: u32, volume: VolumeId) {
        if self.nodes[node].life != life || self.nodes[node].engine.is_none() {
            return;
        }
        self.turn_to(volume);
        let is_busy = self.app_step(node);
        let pause = if is_busy {
            self.random.duration(20 * US..self.pace)
        } else {
            self.random.duration(10 * MS..500 * MS)
        };
        self.after(pause, Happening::App { node, life, volume });
    }

    /// Does something; says whether there was anything to do.
    fn app_step(&mut self, node: usize) -> bool {
        self.hand_over(node);
        let has_enough =
            self.volume.history.len() >= self.volume.writes_max || self.is_winding_down();
        match self.nodes[node].app.handle {
            Handle::Closed => {
                self.may_open(node);
                return self.nodes[node].app.handle == Handle::Open;
            }
            Handle::Opening { since } | Handle::Closing { since } => {
                self.wait_at_door(node, since);
                return false;
            }
            Handle::Open => self.may_close(node),
        }
        let this = &mut self.nodes[node];
        // Who is primary no more, since a majority went on, has to let go.
        this.app.is_leaving |= !this.is_primary();
        if this.app.is_leaving {
            if this.app.outstanding.is_empty() {
                self.close(node);
            }
            return false;
        }
        let app = &this.app;
        if has_enough || app.outstanding.len() >= DEPTH_MAX {
            return false;
        }
        for _ in 0..self.random.range(1..4) {
            // The machine may die of one of them.
            if self.nodes[node].engine.is_some() {
                self.submit_request(node);
            }
        }
        true
    }

    /// Of a brisk history, allows so many writes more from now on, so that every part of it has some.
    pub(crate) fn allow_writes(&mut self, count: usize) {
        if self.is_brisk() {
            for volume in iter::once(&mut self.volume).chain(&mut self.other) {
                volume.writes_max = volume.history.len() + count;
            }
        }
    }

    fn submit_request(&mut self, node: usize) {
        let sectors = match self.random.range(0..10) {
            0 => self.random.range(1..257),
            1 | 2 => 8 * self.random.range(1..5),
            _ => self.random.range(1..9),
        };
        let spot = *self.random.pick(&self.volume.spots.clone());
        let sector = self.draw_new_spot(node).unwrap_or(spot) + self.random.range(0..16);
        let op = match self.random.range(0..20) {
            0..=3 => Op::Read,
            4 | 5 => Op::Flush,
            6 => Op::Discard,
            7 => Op::WriteZeroes {
                no_unmap: self.random.coin(),
            },
            _ => Op::Write,
        };
        let changes = op.changes_data();
        let (sector, sectors) = if op == Op::Flush {
            (0, 0)
        } else {
            (sector, sectors)
        };
        let io = Io {
            op,
            sector: Sector(sector),
            bytes: sectors as u32 * SECTOR_BYTES,
            fua: op == Op::Write && self.random.percent(10),
            preflush: op == Op::Write && self.random.percent(5),
        };
        let zeroes = changes && op != Op::Write;
        let writer = self.nodes[node].writer();
        let stamp = changes.then(|| {
            self.volume.history.begin(Write {
                sector,
                sectors,
                submitted: self.moment,
                ended: None,
                zeroes,
                acknowledged: None,
                promised: false,
                flushed: None,
                writer,
            })
        });
        let content = match (op, stamp) {
            (Op::Write, Some(stamp)) => Some(vec![stamp; sectors as usize].into()),
            _ => None,
        };
        let request = RequestId(self.moment, self.at);
        note!(
            self,
            "n{node} {request:?} {op:?} {sector}+{sectors} stamp {stamp:?} fua {} preflush {}",
            io.fua,
            io.preflush
        );
        let outstanding = Outstanding {
            io,
            stamp,
            is_safe: self.protocol == Protocol::C,
            content,
            read: None,
            submitted: self.moment,
            since: self.now,
        };
        self.moment += 1;
        self.nodes[node]
            .app
            .outstanding
            .insert(request, outstanding);
        self.nodes[node].app.waiting.push_back(request);
        self.hand_over(node);
    }

    /// Hands waiting requests over while there is room.
    fn hand_over(&mut self, node: usize) {
        while let Some(engine) = &self.nodes[node].engine {
            if !engine.has_room() {
                return;
            }
            let app = &mut self.nodes[node].app;
            let Some(request) = app.waiting.pop_front() else {
                return;
            };
            let io = app.outstanding[&request].io;
            self.feed(
                node,
                Event::Request {
                    volume: self.at,
                    request,
                    io,
                },
            );
        }
    }

    /// The engine completes a request.
    pub(crate) fn on_complete(
        &mut self,
        node: usize,
        request: RequestId,
        result: Result<(), IoError>,
        data: Option<Content>,
    ) {
        let Some(done) = self.nodes[node].app.outstanding.remove(&request) else {
            return self.fail(
                "contract",
                format!("n{node}: {request:?} is completed twice"),
            );
        };
        note!(
            self,
            "n{node} {request:?} completed {result:?} after {} us",
            (self.now - done.since) / US
        );
        if self.nodes[node].app.waiting.contains(&request) {
            return self.fail(
                "contract",
                format!("n{node}: {request:?} is completed before it was handed over"),
            );
        }
        if self.nodes[node].is_suspended && result.is_ok() {
            return self.fail(
                "contract",
                format!("n{node}: {request:?} is completed while requests are suspended"),
            );
        }
        match result {
            Ok(()) => self.on_success(node, done, data),
            Err(error) => {
                if let Some(stamp) = done.stamp {
                    self.volume.history.give_up(stamp, self.moment);
                }
                let may_fail = match error {
                    IoError::NoData => true,
                    IoError::NoQuorum => self.quorum.is_on() || self.nodes[node].app.is_ended,
                    // Perhaps all copies of it are lost.
                    IoError::Disk if self.volume.has_lost => true,
                    _ => self.nodes[node].has_failed,
                };
                if !may_fail {
                    self.fail(
                        "contract",
                        format!("n{node}: {request:?} failed with {error:?} on sound disks"),
                    );
                }
            }
        }
    }

    fn on_success(&mut self, node: usize, done: Outstanding, data: Option<Content>) {
        let Outstanding {
            io,
            stamp,
            is_safe,
            read,
            submitted,
            ..
        } = done;
        if io.op == Op::Read {
            let Some(content) = data.or(read) else {
                return self.fail(
                    "reads",
                    format!("n{node}: a read of sector {} gave no data", io.sector),
                );
            };
            return checkers::read_done(self, node, io.sector.0, &content, submitted);
        }
        if let Some(stamp) = stamp {
            checkers::write_done(self, node, stamp, is_safe, io.fua);
        }
        if io.op == Op::Flush || io.preflush {
            checkers::flush_done(self, node, submitted);
        }
    }

    /// The machine of the application died.
    pub(crate) fn abandon_app(&mut self, node: usize) {
        let app = std::mem::take(&mut self.nodes[node].app);
        let outstanding = app.outstanding.values();
        let stamps: Vec<Stamp> = outstanding.filter_map(|it| it.stamp).collect();
        let server = self.nodes[node].server.map(|it| &mut self.nodes[it]);
        if let Some(server) = server.filter(|it| it.engine.is_some()) {
            let mut sessions = server.sessions.keys().copied();
            if let Some(session) = sessions.find(|&(peer, _)| peer == node) {
                server.late.insert(session, stamps);
                return;
            }
        }
        self.give_up_writes(&stamps);
    }

    /// Nothing that happens from now on is the doing of these writes.
    pub(crate) fn give_up_writes(&mut self, stamps: &[Stamp]) {
        for &stamp in stamps {
            debug_assert!(stamp >= FIRST_WRITE);
            self.volume.history.give_up(stamp, self.moment);
        }
    }

    /// How long the oldest request waits, in milliseconds of virtual time.
    pub(crate) fn oldest_request(&self) -> Option<(usize, RequestId, u64)> {
        let all = self.nodes.iter().enumerate();
        let parts = all.flat_map(|(node, this)| this.parts().map(move |part| (node, part)));
        let requests = parts.flat_map(|(node, part)| {
            part.app
                .outstanding
                .iter()
                .map(move |(id, request)| (node, *id, (self.now - request.since) / MS))
        });
        requests.max_by_key(|(_, _, age)| *age)
    }
}
