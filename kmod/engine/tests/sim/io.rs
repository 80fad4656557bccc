// SPDX-License-Identifier: GPL-2.0-only

//! What a machine does with its disk for the engine: operations under way, and what the canaries make of them.

use crate::canary::Canary;
use crate::disk::Op;
use crate::host::{Content, RequestId, SimHost};
use crate::node::node_id;
use crate::verify::digest_of;
use crate::world::{Happening, World, MS, US};
use std::rc::Rc;
use weft_engine::effect::Data;
use weft_engine::event::{Cookie, DiskError, Event, Io, Op as Kind};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::ondisk::{Superblock, AL_BLOCKS, FLAG_INCONSISTENT};
use weft_uapi::units::{NodeSet, VolumeId};

/// More generations than any honest run needs.
const GENERATIONS_MAX: usize = 1000;

/// An operation of the disk that the engine waits for.
pub(crate) enum Doing {
    Read {
        sector: u64,
        sectors: u64,
        request: Option<RequestId>,
    },
    Digest {
        sector: u64,
        sectors: u64,
    },
    Change(Op),
}

pub(crate) struct Pending {
    pub cookie: Cookie,
    pub doing: Doing,
    /// Answered with success, but not carried out.
    pub is_swallowed: bool,
}

impl World {
    /// The content behind a reference of the engine.
    pub(crate) fn content_of(
        &mut self,
        node: usize,
        data: &Data<SimHost>,
    ) -> Result<Option<Content>, ()> {
        match data {
            Data::None => Ok(None),
            Data::Buffer(content) => Ok(Some(content.clone())),
            Data::Request(request) => match self.nodes[node].app.content(*request) {
                Some(content) => Ok(Some(content)),
                None => {
                    self.fail(
                        "contract",
                        format!("n{node}: {request:?} has no data or was completed already"),
                    );
                    Err(())
                }
            },
        }
    }

    pub(crate) fn submit(&mut self, node: usize, cookie: Cookie, io: Io, data: Data<SimHost>) {
        let sector = io.sector.0;
        let sectors = u64::from(io.bytes / SECTOR_BYTES);
        // What a write may touch is on disk before.
        if sector + sectors > self.nodes[node].device_sectors() {
            return self.fail(
                "contract",
                format!("n{node}: {io:?} is outside of the disk"),
            );
        }
        let mut is_swallowed = false;
        let doing = match io.op {
            Kind::Read => {
                let request = if let Data::Request(request) = data {
                    Some(request)
                } else {
                    None
                };
                Doing::Read {
                    sector,
                    sectors,
                    request,
                }
            }
            Kind::Digest => Doing::Digest { sector, sectors },
            Kind::Write => {
                let Ok(Some(content)) = self.content_of(node, &data) else {
                    return self.fail("contract", format!("n{node}: a write without data"));
                };
                if content.len() as u64 != sectors {
                    return self.fail(
                        "contract",
                        format!("n{node}: {io:?} with {} sectors of data", content.len()),
                    );
                }
                let is_resync = self.nodes[node]
                    .resync_buffers
                    .iter()
                    .any(|buffer| Rc::ptr_eq(buffer, &content));
                let is_foreign = matches!(data, Data::Buffer(_));
                is_swallowed = match self.plan.canary {
                    Some(Canary::LoseResync) => is_resync && self.random.percent(30),
                    Some(Canary::LoseWrite) => is_foreign && !is_resync && self.random.percent(10),
                    _ => false,
                };
                let op = Op::Write {
                    sector,
                    content,
                    fua: io.fua,
                };
                if self.plan.canary == Some(Canary::FakeWritten) && is_foreign && !is_resync {
                    self.late(node, op.clone());
                    is_swallowed = true;
                }
                Doing::Change(op)
            }
            Kind::Discard | Kind::WriteZeroes { .. } => {
                let content: Content = vec![0; sectors as usize].into();
                Doing::Change(Op::Write {
                    sector,
                    content,
                    fua: io.fua,
                })
            }
            Kind::Flush => {
                is_swallowed = self.plan.canary == Some(Canary::FakeStable);
                Doing::Change(Op::Flush {
                    mark: self.nodes[node].disk.mark(),
                })
            }
        };
        self.start(
            node,
            Pending {
                cookie,
                doing,
                is_swallowed,
            },
        );
    }

    pub(crate) fn submit_meta(&mut self, node: usize, cookie: Cookie, mut op: Op) {
        let Op::Meta {
            sector,
            block,
            mark,
        } = &mut op
        else {
            return;
        };
        let layout = &self.nodes[node].disk.layout;
        let is_superblock = [0, 1]
            .iter()
            .any(|&copy| layout.superblock(copy).0 == *sector);
        let is_log = (0..AL_BLOCKS.into()).any(|index| layout.al_block(index).0 == *sector);
        let mut is_swallowed = match self.plan.canary {
            Some(Canary::SwallowLog) => is_log,
            Some(Canary::SwallowSuperblock) => is_superblock && self.random.percent(30),
            Some(Canary::SwallowBitmap) => !is_log && !is_superblock,
            _ => false,
        };
        if is_superblock {
            let Ok(mut superblock) = Superblock::parse(block) else {
                return self.fail(
                    "claims",
                    format!("n{node}: the engine wrote a bad superblock"),
                );
            };
            let known = !self.volume.history.record(superblock.generation);
            if self.volume.history.generations() > GENERATIONS_MAX {
                let text = format!("{GENERATIONS_MAX} generations and no end");
                return self.fail("progress", text);
            }
            let is_own = superblock.generation.writer == Some(node_id(node));
            let this = &self.nodes[node];
            if !known && (this.is_forcing || (this.is_void && is_own)) {
                self.volume.history.forgive(superblock.generation.id.0);
            }
            if self.plan.canary == Some(Canary::CountVanished)
                && !superblock.generation.members.is_empty()
            {
                let record = &mut superblock.generation;
                record.left = NodeSet(self.quorum.voters.0 & !record.members.0);
                superblock.encode(Rc::make_mut(block));
            }
            if self.plan.canary == Some(Canary::DropInconsistent) {
                superblock.flags &= !FLAG_INCONSISTENT;
                superblock.encode(Rc::make_mut(block));
            }
        }
        if self.plan.canary == Some(Canary::MetaWithoutFlush) && mark.is_some() {
            *mark = Some(0);
        }
        if self.plan.canary == Some(Canary::FakeDurable) && is_superblock {
            self.late(node, op.clone());
            is_swallowed = true;
        }
        self.start(
            node,
            Pending {
                cookie,
                doing: Doing::Change(op),
                is_swallowed,
            },
        );
    }

    /// Something that was answered already happens later, unless the machine dies before.
    pub(crate) fn late(&mut self, node: usize, op: Op) {
        let (life, volume) = (self.nodes[node].life, self.at);
        let delay = self.random.duration(10 * MS..500 * MS);
        let late = Happening::Late {
            node,
            life,
            volume,
            op,
        };
        self.after(delay, late);
    }

    pub(crate) fn on_late(&mut self, node: usize, life: u32, volume: VolumeId, op: &Op) {
        self.turn_to(volume);
        if self.nodes[node].life == life {
            let old = self.nodes[node].disk.superblock().cloned();
            self.nodes[node].disk.perform(op);
            self.on_stable_superblock(node, old);
        }
    }

    pub(crate) fn start(&mut self, node: usize, pending: Pending) {
        let delay = if self.random.percent(3) {
            self.random.duration(MS..200 * MS)
        } else {
            self.random.duration(20 * US..2 * MS)
        };
        let this = &mut self.nodes[node];
        let op = this.next_op;
        this.next_op += 1;
        this.ops.insert(op, pending);
        let (life, volume) = (this.life, self.at);
        let done = Happening::OpDone {
            node,
            life,
            volume,
            op,
        };
        self.after(delay, done);
    }

    pub(crate) fn on_op_done(&mut self, node: usize, life: u32, volume: VolumeId, op: u64) {
        self.turn_to(volume);
        let this = &mut self.nodes[node];
        if this.life != life {
            return;
        }
        let Some(Pending {
            cookie,
            doing,
            is_swallowed,
        }) = this.ops.remove(&op)
        else {
            return;
        };
        let is_lost = match doing {
            Doing::Read {
                sector, sectors, ..
            }
            | Doing::Digest { sector, sectors } => !this.disk.is_readable(sector, sectors),
            Doing::Change(_) => false,
        };
        let is_error = is_lost || this.is_failing && self.random.percent(60);
        let event = match doing {
            Doing::Read { .. } | Doing::Digest { .. } if is_error => Event::DiskDone {
                cookie,
                result: Err(DiskError),
            },
            Doing::Digest { sector, sectors } => {
                let content = match self.plan.canary {
                    Some(Canary::StaleDigest) => this.disk.read_stable(sector, sectors),
                    _ => this.disk.read(sector, sectors),
                };
                let bad = match self.plan.canary {
                    Some(Canary::BlindDigest) => Vec::new(),
                    _ => this.disk.bad_in(sector, sectors),
                };
                let digest = digest_of(node, &content, sector, &bad);
                let data = this.disk.read(sector, sectors);
                Event::Digested {
                    cookie,
                    digest,
                    data,
                }
            }
            Doing::Read {
                sector,
                sectors,
                request,
            } => {
                let content = this.disk.read(sector, sectors);
                let result: Result<Option<Content>, DiskError> = match request {
                    Some(request) => {
                        this.app.fill(request, content);
                        Ok(None)
                    }
                    None => Ok(Some(content)),
                };
                Event::DiskDone { cookie, result }
            }
            Doing::Change(op) => {
                // What was reported as an error may have happened all the same.
                if !is_swallowed && (!is_error || self.random.coin()) {
                    let old = this.disk.superblock().cloned();
                    this.disk.perform(&op);
                    self.on_stable_superblock(node, old);
                }
                let result = if is_error { Err(DiskError) } else { Ok(()) };
                match op {
                    Op::Meta { .. } => Event::MetaDone { cookie, result },
                    Op::Write { .. } | Op::Flush { .. } => Event::DiskDone {
                        cookie,
                        result: result.map(|()| None),
                    },
                }
            }
        };
        self.feed(node, event);
    }
}
