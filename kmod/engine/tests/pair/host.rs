// SPDX-License-Identifier: GPL-2.0-only

//! The types of the rig's host, and a copy of each effect.

use std::rc::Rc;
use weft_engine::effect::{Data, Effect, IoError, Level};
use weft_engine::event::{Cookie, Io, Kept, Token};
use weft_engine::host::{Host, NoMemory, Output};
use weft_uapi::ondisk::{Layout, MetaBlock};
use weft_uapi::refusal::Refusal;
use weft_uapi::units::{NodeId, Sector, SessionId, VolumeId};
use weft_uapi::wire::{Header, LinkKind};

pub(crate) struct RigHost;

impl Host for RigHost {
    type Request = u64;
    type Buffer = Rc<[u8]>;
    type Slab<T> = Vec<T>;

    fn is_zero(buffer: &Rc<[u8]>) -> bool {
        buffer.iter().all(|&byte| byte == 0)
    }

    fn slab<T>(len: usize, item: impl FnMut() -> T) -> Result<Vec<T>, NoMemory> {
        Ok(std::iter::repeat_with(item).take(len).collect())
    }
}

/// A packet on its way.
pub(crate) struct Parcel {
    pub(crate) to: NodeId,
    pub(crate) link: LinkKind,
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    pub(crate) data: Data<RigHost>,
}

/// An effect to be carried out on behalf of a node.
pub(crate) enum Act {
    Disk(VolumeId, Cookie, Io, Data<RigHost>),
    /// With a flag: it is to be stable, and all before it.
    Meta(VolumeId, Cookie, Sector, Box<MetaBlock>, bool),
    Measure(VolumeId, u64, Layout),
    Send(SessionId, Parcel),
    Offer(NodeId, SessionId),
    EndSession(NodeId, SessionId),
    Recall(VolumeId),
    Keep(VolumeId, u64, Kept),
    Fence(NodeId, u64),
}

#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) acts: Vec<Act>,
    pub(crate) replies: Vec<(Token, Result<(), Refusal>)>,
    pub(crate) completions: Vec<(u64, Result<(), IoError>)>,
    /// What a peer read for a request.
    pub(crate) answers: Vec<(u64, Rc<[u8]>)>,
    /// Opens and closes of devices that were answered.
    pub(crate) doors: Vec<(VolumeId, Result<(), Refusal>)>,
    pub(crate) errors: Vec<String>,
    random: u64,
}

impl Output<RigHost> for Outbox {
    fn emit(&mut self, effect: Effect<'_, RigHost>) {
        match effect {
            Effect::Disk {
                volume,
                cookie,
                io,
                data,
            } => self.acts.push(Act::Disk(volume, cookie, io, data)),
            Effect::Meta {
                volume,
                cookie,
                sector,
                block,
                flush,
            } => {
                let block = Box::new(*block);
                self.acts
                    .push(Act::Meta(volume, cookie, sector, block, flush));
            }
            Effect::Measure {
                volume,
                attach_id,
                layout,
            } => self.acts.push(Act::Measure(volume, attach_id, layout)),
            Effect::Send {
                peer,
                session,
                link,
                mut header,
                body,
                data,
            } => {
                if let Data::Buffer(buffer) = &data {
                    header.payload_len = buffer.len() as u32;
                }
                let parcel = Parcel {
                    to: peer,
                    link,
                    header,
                    body: body.to_vec(),
                    data,
                };
                self.acts.push(Act::Send(session, parcel));
            }
            Effect::Offer { peer, session } => self.acts.push(Act::Offer(peer, session)),
            Effect::EndSession { peer, session } => self.acts.push(Act::EndSession(peer, session)),
            Effect::Recall { volume } => self.acts.push(Act::Recall(volume)),
            Effect::Keep {
                volume,
                number,
                kept,
            } => self.acts.push(Act::Keep(volume, number, kept)),
            Effect::Fence { peer, number } => self.acts.push(Act::Fence(peer, number)),
            Effect::Complete {
                request,
                result,
                data,
            } => {
                self.answers.extend(data.map(|data| (request, data)));
                self.completions.push((request, result));
            }
            Effect::Reply { token, result } => {
                self.replies
                    .push((token, result.map_err(|refused| refused.refusal)));
            }
            Effect::Opened { volume, result } => self.doors.push((volume, result)),
            Effect::Closed { volume } => self.doors.push((volume, Ok(()))),
            Effect::Log {
                level: Level::Error,
                line,
            } => self.errors.push(line.to_string()),
            _ => {}
        }
    }

    fn random(&mut self) -> u64 {
        self.random += 1;
        self.random
    }
}
