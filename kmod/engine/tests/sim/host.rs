// SPDX-License-Identifier: GPL-2.0-only

//! The types of the simulated host, and the engine's effects with everything they borrow copied.

use crate::random::Random;
use std::rc::Rc;
use weft_engine::effect::{Data, Effect, IoError, Level};
use weft_engine::event::{Cookie, Io, Kept, Token};
use weft_engine::host::{Host, NoMemory, Output};
use weft_uapi::ondisk::{Layout, MetaBlock};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, SessionId, VolumeId};
use weft_uapi::wire::{Header, LinkKind};

/// Content of a sector: the number of the write that put it there; 0 stands for zeros.
pub(crate) type Stamp = u64;

/// Content of a range, a stamp per sector.
pub(crate) type Content = Rc<[Stamp]>;

/// Handle of a request of the application: when it was made, and of what volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RequestId(pub u64, pub VolumeId);

pub(crate) struct SimHost;

impl Host for SimHost {
    type Request = RequestId;
    type Buffer = Content;
    type Slab<T> = Vec<T>;

    fn is_zero(buffer: &Content) -> bool {
        buffer.iter().all(|&stamp| stamp == 0)
    }

    fn slab<T>(len: usize, item: impl FnMut() -> T) -> Result<Vec<T>, NoMemory> {
        Ok(std::iter::repeat_with(item).take(len).collect())
    }
}

/// An effect that owns what it needs. Those without consequences in the simulator are left out.
pub(crate) enum Act {
    Disk {
        volume: VolumeId,
        cookie: Cookie,
        io: Io,
        data: Data<SimHost>,
    },
    Meta {
        volume: VolumeId,
        cookie: Cookie,
        sector: Sector,
        block: Rc<MetaBlock>,
        flush: bool,
    },
    Send {
        peer: NodeId,
        session: SessionId,
        link: LinkKind,
        header: Header,
        body: Vec<u8>,
        data: Data<SimHost>,
    },
    Complete {
        request: RequestId,
        result: Result<(), IoError>,
        data: Option<Content>,
    },
    Offer {
        peer: NodeId,
        session: SessionId,
    },
    EndSession {
        peer: NodeId,
        session: SessionId,
    },
    Reply {
        token: Token,
        result: Result<(), (Refusal, String)>,
    },
    /// An open of the device was answered, or, with nothing, a close.
    Door(VolumeId, Option<Result<(), Refusal>>),
    CloseDisk {
        volume: VolumeId,
    },
    Measure {
        volume: VolumeId,
        attach_id: u64,
        layout: Layout,
    },
    Recall {
        volume: VolumeId,
    },
    Keep {
        volume: VolumeId,
        number: u64,
        kept: Kept,
    },
    Log {
        level: Level,
        line: String,
    },
}

impl Act {
    /// The volume that it is about, if it is about one.
    pub(crate) fn volume(&self) -> Option<VolumeId> {
        match self {
            Self::Disk { volume, .. }
            | Self::Meta { volume, .. }
            | Self::Door(volume, _)
            | Self::CloseDisk { volume }
            | Self::Measure { volume, .. }
            | Self::Recall { volume }
            | Self::Keep { volume, .. }
            | Self::Complete {
                request: RequestId(_, volume),
                ..
            } => Some(*volume),
            Self::Send { header, .. } => header.volume,
            Self::Log { line, .. } => {
                let number = line.strip_prefix("volume ")?.split([',', ':']).next()?;
                Some(VolumeId(number.parse().ok()?))
            }
            Self::Offer { .. } | Self::EndSession { .. } | Self::Reply { .. } => None,
        }
    }

    /// What is said of an error.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Log {
                level: Level::Error,
                line,
            } => Some(line),
            _ => None,
        }
    }
}

/// Collects the effects of one event.
pub(crate) struct Outbox<'a> {
    pub acts: Vec<Act>,
    pub random: &'a mut Random,
}

impl Output<SimHost> for Outbox<'_> {
    fn emit(&mut self, effect: Effect<'_, SimHost>) {
        self.acts.push(match effect {
            Effect::Disk {
                volume,
                cookie,
                io,
                data,
            } => Act::Disk {
                volume,
                cookie,
                io,
                data,
            },
            Effect::Meta {
                volume,
                cookie,
                sector,
                block,
                flush,
            } => Act::Meta {
                volume,
                cookie,
                sector,
                block: Rc::new(*block),
                flush,
            },
            Effect::Send {
                peer,
                session,
                link,
                header,
                body,
                data,
            } => Act::Send {
                peer,
                session,
                link,
                header,
                body: body.to_vec(),
                data,
            },
            Effect::Complete {
                request,
                result,
                data,
            } => Act::Complete {
                request,
                result,
                data,
            },
            Effect::Offer { peer, session } => Act::Offer { peer, session },
            Effect::EndSession { peer, session } => Act::EndSession { peer, session },
            Effect::Reply { token, result } => Act::Reply {
                token,
                result: result.map_err(|refused| (refused.refusal, refused.detail.to_string())),
            },
            Effect::Opened { volume, result } => Act::Door(volume, Some(result)),
            Effect::Closed { volume } => Act::Door(volume, None),
            Effect::CloseDisk { volume } => Act::CloseDisk { volume },
            Effect::Measure {
                volume,
                attach_id,
                layout,
            } => Act::Measure {
                volume,
                attach_id,
                layout,
            },
            Effect::Recall { volume } => Act::Recall { volume },
            Effect::Keep {
                volume,
                number,
                kept,
            } => Act::Keep {
                volume,
                number,
                kept,
            },
            Effect::Log { level, line } => Act::Log {
                level,
                line: line.to_string(),
            },
            Effect::Capacity { .. } | Effect::Notify(_) | Effect::Fence { .. } => return,
        });
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }
}
