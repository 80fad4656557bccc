// SPDX-License-Identifier: GPL-2.0-only

//! What every handler needs while one event is handled: the time, the host's output and a few facts of the resource.

use super::opening::Denial;
use crate::effect::{Data, Effect, Level, Object, Refused};
use crate::event::Token;
use crate::host::{Host, Output, Time};
use crate::quorum::Quorum;
use core::fmt;
use core::marker::PhantomData;
use weft_uapi::congestion::Congestion;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::{Policies, Recovery};
use weft_uapi::state::{Protocol, Role};
use weft_uapi::units::{NodeId, NodeSet, SessionId};
use weft_uapi::wire::{Header, LinkKind, PacketKind, FLAG_YES};

/// Facts of the resource that the volumes need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// This node.
    pub(super) node: NodeId,
    /// Its role among the disks: primary is who leads, be it for a client.
    pub(super) role: Role,
    /// When writes are complete.
    pub(super) protocol: Protocol,
    /// A person wants requests of the application to wait.
    pub(super) is_suspended: bool,
    /// How fast this node serves resyncs.
    pub(super) speed: Speed,
    /// What it does about peers that do not keep up.
    pub(super) congestion: Congestion,
    /// What it has to fetch it asks for by digest.
    pub(super) csums: bool,
    /// A promotion or demotion is under way.
    pub(super) in_transition: bool,
    /// This node has an application whose requests a peer carries out, or is to.
    pub(super) is_client: bool,
    /// One did already, so this node is primary.
    pub(super) is_served_once: bool,
    /// That peer, while there is one.
    pub(super) server: Option<NodeId>,
    /// Peers whose requests this node carries out.
    pub(super) clients: NodeSet,
    /// Who is primary, or about to be, as far as this node sees.
    pub(super) leaders: NodeSet,
    /// Those of them that are primary.
    pub(super) primaries: NodeSet,
    /// Who has a vote.
    pub(super) quorum: Quorum,
    /// Peers that are to be fenced before anything else is done.
    pub(super) held_by: NodeSet,
    /// What is told of the policies for a split brain, and why that may not be what is configured.
    pub(super) policies: Policies,
    pub(super) policies_barred: Option<Recovery>,
    /// No node in reach is primary.
    pub(super) is_quiet: bool,
}

impl Facts {
    /// Whether this node leads: its writes, and those of its clients, make the data.
    pub(super) fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }
}

/// Who waits for the answer to a promotion or demotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// An administrator.
    Person(Token),
    /// A peer that this node is to serve.
    Client(Line),
    /// This node's own application, which has been served by others.
    Application,
    /// Who opens a device of this node, see `opening`.
    Open,
    /// Nobody.
    Nobody,
}

impl Asker {
    /// The peer whose application it is for; `None`: this node's.
    pub(super) fn client(self) -> Option<NodeId> {
        match self {
            Self::Client(line) => Some(line.peer),
            Self::Person(_) | Self::Open | Self::Application | Self::Nobody => None,
        }
    }

    /// Whether somebody on this node wants it to be primary, and not for a peer or for an application that it had before.
    pub(super) fn is_new_here(self) -> bool {
        matches!(self, Self::Person(_) | Self::Open)
    }
}

impl From<Token> for Asker {
    fn from(token: Token) -> Self {
        Self::Person(token)
    }
}

/// One event being handled.
pub(super) struct Context<'a, H: Host, O: Output<H>> {
    /// The time of the event.
    pub(super) now: Time,
    /// Facts of the resource.
    pub(super) facts: Facts,
    /// Why a promotion for an open did not come about.
    pub(super) denied: Option<Denial>,
    out: &'a mut O,
    host: PhantomData<H>,
}

impl<'a, H: Host, O: Output<H>> Context<'a, H, O> {
    pub(super) fn new(now: Time, facts: Facts, out: &'a mut O) -> Self {
        Self {
            now,
            facts,
            denied: None,
            out,
            host: PhantomData,
        }
    }

    pub(super) fn emit(&mut self, effect: Effect<'_, H>) {
        self.out.emit(effect);
    }

    /// A random number that is not 0, which stands for "none" everywhere.
    pub(super) fn random_id(&mut self) -> u64 {
        self.out.random().max(1)
    }

    pub(super) fn notify(&mut self, object: Object) {
        self.emit(Effect::Notify(object));
    }

    pub(super) fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        self.emit(Effect::Log { level, line });
    }

    pub(super) fn reply(&mut self, asker: impl Into<Asker>, result: Result<(), Refusal>) {
        match (asker.into(), result) {
            (Asker::Person(token), Ok(())) => self.emit(Effect::Reply {
                token,
                result: Ok(()),
            }),
            (Asker::Client(line), result) => self.answer_client(line, result),
            (Asker::Application | Asker::Open | Asker::Nobody, Ok(()))
            | (Asker::Application | Asker::Nobody, Err(_)) => {}
            (asker, Err(refusal)) => self.refuse(asker, refusal, format_args!("")),
        }
    }

    pub(super) fn refuse(
        &mut self,
        asker: impl Into<Asker>,
        refusal: Refusal,
        detail: fmt::Arguments<'_>,
    ) {
        match asker.into() {
            Asker::Person(token) => self.emit(Effect::Reply {
                token,
                result: Err(Refused { refusal, detail }),
            }),
            Asker::Client(line) => self.answer_client(line, Err(refusal)),
            Asker::Open => self.denied = Some((refusal, None)),
            Asker::Application | Asker::Nobody => {}
        }
    }

    /// Tells a peer whether it is served.
    fn answer_client(&mut self, line: Line, result: Result<(), Refusal>) {
        let mut header = Header::new(PacketKind::ServeReply, None);
        match result {
            Ok(()) => header.flags = FLAG_YES,
            Err(refusal) => header.arg = refusal.number().into(),
        }
        self.send(line, header, &[]);
    }

    /// Refuses, perhaps because of a peer.
    pub(super) fn deny(
        &mut self,
        asker: impl Into<Asker>,
        (refusal, peer): (Refusal, Option<NodeId>),
    ) {
        let asker = asker.into();
        match peer {
            Some(_) if asker == Asker::Open => self.denied = Some((refusal, peer)),
            Some(peer) => self.refuse(asker, refusal, format_args!("node {peer}")),
            None => self.reply(asker, Err(refusal)),
        }
    }

    /// Sends a packet; the link follows from its kind.
    pub(super) fn send(&mut self, to: Line, header: Header, body: &[u8]) {
        self.send_on(to, link_of(&header), header, body);
    }

    /// Sends a packet with data of the device.
    pub(super) fn send_data(&mut self, to: Line, header: Header, data: Data<H>) {
        let link = link_of(&header);
        self.emit(Effect::Send {
            peer: to.peer,
            session: to.session,
            link,
            header,
            body: &[],
            data,
        });
    }

    /// Sends a packet over a link that its kind leaves open.
    pub(super) fn send_on(&mut self, to: Line, link: LinkKind, mut header: Header, body: &[u8]) {
        header.payload_len = u32::try_from(body.len()).unwrap_or(0);
        self.emit(Effect::Send {
            peer: to.peer,
            session: to.session,
            link,
            header,
            body,
            data: Data::None,
        });
    }
}

/// The link that packets of this kind travel on.
fn link_of(header: &Header) -> LinkKind {
    if header.kind.belongs_on(LinkKind::Data) {
        LinkKind::Data
    } else {
        LinkKind::Meta
    }
}

/// Where packets to a peer go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// The peer.
    pub(super) peer: NodeId,
    /// The running session.
    pub(super) session: SessionId,
}

/// The peer broke the protocol, or something that a session cannot survive happened: the session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault(pub(super) &'static str);

/// `Ok` when the peer kept to the protocol.
pub(super) fn ensure(kept: bool, sentence: &'static str) -> Result<(), Fault> {
    if kept {
        Ok(())
    } else {
        Err(Fault(sentence))
    }
}
