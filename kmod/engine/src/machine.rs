// SPDX-License-Identifier: GPL-2.0-only

//! The state machine of one resource.
//!
//! | file | noun |
//! |---|---|
//! | `objects` | volumes and peers come and go |
//! | `opening` | devices are opened and closed, and what that does to the role |
//! | `volume` | one volume; `Volume::run` does what has become possible |
//! | `request`, `hold`, `mirror` | the application's requests; hot extents; what becomes of writes after they were sent |
//! | `peer_op`, `received` | what peers send; what is remembered of it |
//! | `disk`, `attach`, `age` | metadata writers; a disk's coming and going; how far it has come |
//! | `session`, `said`, `negotiate`, `exchange` | connections; what is told; rounds and decisions; bitmaps |
//! | `source`, `target`, `csums` | resync; ranges that are compared before they are sent |
//! | `speed`, `split_brain` | how fast a resync is served; whose data are given up |
//! | `congestion` | peers that do not keep up with the writes |
//! | `change`, `role`, `demotion`, `vote`, `witness` | generation records; promotion and demotion; what candidates are told; tie-breakers |
//! | `application` | who has one: the primaries that people see |
//! | `client`, `server`, `carried`, `exposure` | primaries without good data of their own; who serves them; their requests; what they were shown |
//! | `handover` | a primary that loses its disk becomes such a one |
//! | `prospect`, `outdate`, `leave` | whether a promotion would work; a person's word that it must not; a secondary goes in order |
//! | `invalidate`, `pause`, `suspend`, `unite` | what else a person orders: disks given up, resyncs or requests that wait, new disks that are equal |
//! | `heal`, `lend` | blocks that a disk cannot read; blocks that are read for a peer |
//! | `fencing` | peers out of reach |
//! | `verify`, `verify_run`, `compare` | copies that are compared while they are in use |
//! | `resize`, `relocate` | the size of the device; metadata move to the end of a larger disk |
//! | `shortcut` | reads that need nothing of the engine |
//! | `options` | what administrators choose, and how that stands |
//! | `check`, `transitions` | what must always hold; legal state changes |

mod age;
mod application;
mod attach;
mod carried;
mod change;
mod check;
mod client;
mod compare;
mod congestion;
mod context;
mod cookie;
mod csums;
mod demotion;
mod disk;
mod exchange;
mod exposure;
mod fencing;
mod handover;
mod heal;
mod hold;
mod invalidate;
mod leave;
mod lend;
mod mirror;
mod negotiate;
mod newcomer;
mod objects;
mod opening;
mod options;
mod outdate;
mod pause;
mod peer_op;
mod peer_record;
mod place;
mod prospect;
mod received;
mod relocate;
mod replica;
mod replication;
mod request;
mod resize;
mod role;
mod said;
mod server;
mod session;
mod shortcut;
mod slots;
mod source;
mod speed;
mod split_brain;
mod status;
mod suspend;
mod target;
pub mod transitions;
mod unite;
mod verify;
mod verify_run;
mod volume;
mod vote;
mod witness;

use crate::effect::{Effect, Object};
use crate::event::{Command, Cookie, DiskError, Event, Token};
use crate::host::{Host, NoMemory, Output, Time};
use crate::quorum::Quorum;
use context::{ensure, Context, Facts, Fault};
use cookie::Work;
pub use opening::AutoPromotion;
use role::Transition;
use session::Peer;
pub use speed::Reads;
use weft_uapi::congestion::Congestion;
use weft_uapi::limits::{NODES_MAX, VOLUMES_MAX};
use weft_uapi::refusal::Refusal;
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{Fencing, Protocol, Role};
use weft_uapi::units::{NodeId, NodeSet, SessionId};
use weft_uapi::wire::{Digest, Header, LinkKind, PacketKind};

/// What never changes about a resource.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Name, padded with zeros.
    pub name: weft_uapi::status::Name,
    /// This node.
    pub node: NodeId,
    /// Protocol to begin with.
    pub protocol: Protocol,
    /// Quorum to begin with.
    pub quorum: Quorum,
    /// What is done about a peer out of reach, to begin with.
    pub fencing: Fencing,
    /// What is done about a split brain, to begin with.
    pub policies: Policies,
    /// Two nodes may be primary at the same time, to begin with.
    pub two_primaries: bool,
    /// How fast this node serves resyncs, to begin with.
    pub speed: weft_uapi::resync::Speed,
    /// What is done about peers that do not keep up, to begin with.
    pub congestion: Congestion,
    /// What this node has to fetch it asks for by digest, to begin with.
    pub csums: bool,
    /// What opening a device does to the role, to begin with.
    pub auto_promotion: AutoPromotion,
    /// This node has no disk, and votes.
    pub is_tie_breaker: bool,
    /// Requests of the application in flight at most (host memory: 128 KiB each).
    pub requests_max: usize,
    /// Extents of the activity log that are hot at the same time, at most [`weft_uapi::ondisk::AL_EXTENTS`] and at
    /// least 2 for a request that touches two.
    pub al_extents: u16,
}

/// The replication core of one resource on one node.
pub struct Engine<H: Host> {
    config: Config,
    protocol: Protocol,
    quorum: Quorum,
    fencing: Fencing,
    policies: Policies,
    two_primaries: bool,
    speed: speed::Control,
    congestion: Congestion,
    csums: bool,
    /// Resyncs of another resource come first.
    waits_turn: bool,
    opening: opening::Opening,
    role: Role,
    transition: Option<Transition>,
    /// An administrator or an open made this node primary, and it leads itself.
    is_claimed: bool,
    /// This node is primary, or is to be, and a peer carries out its requests.
    client: Option<client::Client>,
    /// Peers whose requests this node carries out.
    clients: NodeSet,
    /// Those that it did it for, and that are yet to hear of the end.
    dismissed: NodeSet,
    /// Who waits for the disks to be on record as outdated.
    outdating: Option<Token>,
    /// This node is leaving.
    leave: Option<leave::Leave>,
    /// The transition under way is to end in a first record of disks that are equal.
    unites: bool,
    suspension: suspend::Suspension,
    /// One item per volume, allocated when it is configured.
    volumes: H::Slab<place::Place<H, volume::Volume<H>>>,
    /// Above every volume number in use.
    volumes_end: usize,
    peers: H::Slab<Option<Peer>>,
    /// Who has an item in `peers`.
    known: NodeSet,
    is_served: bool,
    reachable: NodeSet,
    standing: options::Standing,
}

/// A packet as it came in.
struct Packet<'a, H: Host> {
    link: LinkKind,
    header: Header,
    body: &'a [u8],
    data: Option<H::Buffer>,
}

impl<H: Host> Engine<H> {
    /// A resource without volumes and peers. Context: may sleep.
    pub fn new(config: Config) -> Result<Self, NoMemory> {
        Ok(Self {
            config,
            protocol: config.protocol,
            quorum: config.quorum,
            fencing: config.fencing,
            policies: config.policies,
            two_primaries: config.two_primaries,
            speed: speed::Control::new(config.speed),
            congestion: config.congestion,
            csums: config.csums,
            waits_turn: false,
            opening: opening::Opening::new(config.auto_promotion),
            role: Role::Secondary,
            transition: None,
            is_claimed: false,
            client: None,
            clients: NodeSet::EMPTY,
            dismissed: NodeSet::EMPTY,
            outdating: None,
            leave: None,
            unites: false,
            suspension: suspend::Suspension::default(),
            volumes: H::slab(VOLUMES_MAX, place::Place::default)?,
            volumes_end: 0,
            peers: H::slab(NODES_MAX, || None)?,
            known: NodeSet::EMPTY,
            is_served: false,
            reachable: NodeSet::EMPTY,
            standing: options::Standing::default(),
        })
    }

    /// Takes one event and tells `out` what has to be done.
    ///
    /// Context: [`Event::Attach`] and the commands that configure something allocate and may sleep; nothing else does.
    pub fn handle(&mut self, now: Time, event: Event<'_, H>, out: &mut impl Output<H>) {
        let mut cx = Context::new(now, self.facts(), out);
        match event {
            Event::Command { token, command } => self.on_command(&mut cx, token, command),
            Event::Attach {
                token,
                volume,
                disk,
            } => {
                if disk.is_some() {
                    match self.volume_mut(volume) {
                        Some(volume) => volume.on_attach(&mut cx, token, disk),
                        None => {
                            cx.reply(token, Err(Refusal::NoSuchVolume));
                            cx.emit(Effect::CloseDisk { volume });
                        }
                    }
                }
            }
            Event::Open { volume, promotes } => self.on_open(&mut cx, volume, promotes),
            Event::OpenInterrupted { volume } => self.on_open_interrupted(&mut cx, volume),
            Event::Close { volume } => self.on_close(&mut cx, volume),
            Event::Request {
                volume,
                request,
                io,
            } => match self.volume_mut(volume) {
                Some(volume) => volume.on_request(&mut cx, request, io),
                None => {
                    let result = Err(crate::effect::IoError::NoData);
                    cx.emit(Effect::Complete {
                        request,
                        result,
                        data: None,
                    });
                }
            },
            Event::DiskDone { cookie, result } => self.on_disk_done(&mut cx, cookie, result),
            Event::Digested {
                cookie,
                digest,
                data,
            } => self.on_digested(&mut cx, cookie, (digest, data)),
            Event::MetaDone { cookie, result } => {
                if let Some((volume, work)) = Work::of(cookie) {
                    if let Some(volume) = self.volume_mut(volume) {
                        volume.on_meta_done(&mut cx, work, result);
                    }
                }
            }
            Event::SessionUp { peer, session } => self.on_session_up(&mut cx, peer, session),
            Event::Packet {
                peer,
                session,
                link,
                header,
                body,
                data,
            } => {
                self.on_packet(
                    &mut cx,
                    peer,
                    session,
                    Packet {
                        link,
                        header,
                        body,
                        data,
                    },
                );
            }
            Event::SessionDown {
                peer,
                session,
                reason,
            } => self.on_session_down(&mut cx, peer, session, reason),
            Event::Daemon { served, connected } => self.on_daemon(&mut cx, served, connected),
            Event::Recalled { volume, kept } => self.on_recalled(volume, kept),
            Event::Kept { volume, number } => self.on_kept(volume, number),
            Event::Fenced {
                peer,
                number,
                outcome,
            } => self.on_fenced(&mut cx, peer, number, outcome),
            Event::Turn { waits } => self.on_turn(&mut cx, waits),
            Event::Measured {
                volume,
                attach_id,
                room,
            } => self.on_measured(volume, attach_id, room),
            Event::Timer => {
                for volume in self.each_volume_mut() {
                    volume.recheck = true;
                }
            }
        }
        self.settle(&mut cx);
    }

    /// Does all that has become possible.
    #[inline(never)]
    fn settle<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.run_speed(cx.now);
        // A volume's step may let the role go on, and the other way round; a handful of turns suffices.
        for _ in 0..4 {
            cx.facts = self.facts();
            self.run_failures(cx);
            for volume in self.each_volume_mut() {
                volume.run(cx);
            }
            // Before anybody is told of a role that is over.
            self.run_overtaken(cx);
            self.run_sessions(cx);
            cx.facts = self.facts();
            self.run_client(cx);
            let transition = self.transition;
            self.run_role(cx);
            self.run_fencing(cx);
            self.run_outdate(cx);
            self.run_leave(cx);
            self.run_suspension(cx);
            self.run_openings(cx);
            let is_unsettled =
                |volume: &volume::Volume<H>| volume.recheck || volume.healing.is_hopeless();
            if self.transition == transition && !self.each_volume().any(is_unsettled) {
                break;
            }
        }
        self.tell_standing(cx);
    }

    fn facts(&self) -> Facts {
        let peers_quiet = self.each_peer().all(|peer| peer.role != Role::Primary);
        let leads = |id: &NodeId| self.peer(*id).is_some_and(Peer::leads);
        let is_recording = matches!(self.transition, Some(Transition::Recording { .. }));
        let peers = self.peers().filter(leads);
        let mut leaders = peers.fold(NodeSet::EMPTY, NodeSet::with);
        if self.role == Role::Primary || is_recording {
            leaders = leaders.with(self.config.node);
        }
        let is_primary = |id: &NodeId| {
            let peer = self.peer(*id);
            *id == self.config.node && self.role == Role::Primary
                || peer.is_some_and(|peer| peer.role == Role::Primary)
        };
        let primaries = leaders.iter().filter(is_primary);
        let primaries = primaries.fold(NodeSet::EMPTY, NodeSet::with);
        let policies_barred = self.policies_barred();
        Facts {
            node: self.config.node,
            policies: match policies_barred {
                None => self.policies,
                Some(_) => Policies::default(),
            },
            policies_barred,
            leaders,
            primaries,
            quorum: self.quorum,
            held_by: self.held_by(),
            role: self.role,
            // An application that outlives this node's crash must not miss what was answered.
            protocol: match self.clients.is_empty() {
                true => self.protocol,
                false => Protocol::C,
            },
            is_client: self.client.is_some(),
            is_served_once: self.is_served_once(),
            server: self.server(),
            clients: self.clients,
            is_suspended: self.suspension.is_wanted(),
            speed: self.speed.bounds,
            congestion: self.congestion,
            csums: self.csums,
            in_transition: !matches!(self.transition, None | Some(Transition::Comparing { .. })),
            is_quiet: peers_quiet && self.role != Role::Primary && self.transition.is_none(),
        }
    }

    #[inline(never)]
    fn on_disk_done<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        cookie: Cookie,
        result: Result<Option<H::Buffer>, DiskError>,
    ) {
        let Some((volume, work)) = self.disk_work(cookie) else {
            return;
        };
        match work {
            Work::Request(number) => volume.on_request_done(cx, number, result),
            Work::PeerOp(number) => volume.on_op_done(cx, number, result),
            Work::TailFlush => volume.on_tail_flushed(cx, result.map(|_| ())),
            Work::ReceivedFlush(peer) => volume.on_received_flushed(cx, peer, result.map(|_| ())),
            Work::Erase => volume.on_erased(cx, result.map(|_| ())),
            Work::Heal => volume.on_heal_done(cx, result.map(|_| ())),
            Work::Superblock | Work::Log | Work::Bitmap(_) | Work::Copy => {}
        }
    }

    #[inline(never)]
    fn on_digested<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        cookie: Cookie,
        digested: (Digest, H::Buffer),
    ) {
        if let Some((volume, Work::PeerOp(number))) = self.disk_work(cookie) {
            volume.on_op_digested(cx, number, digested);
        }
    }

    /// What an operation belongs to that a disk is done with.
    fn disk_work(&mut self, cookie: Cookie) -> Option<(&mut volume::Volume<H>, Work)> {
        let (volume, work) = Work::of(cookie)?;
        let volume = self.volume_mut(volume)?;
        if let Some(disk) = volume.disk.as_mut() {
            disk.io_pending = disk.io_pending.saturating_sub(1);
            volume.recheck |= disk.stage != disk::Stage::Running;
        }
        Some((volume, work))
    }

    #[inline(never)]
    fn on_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        session: SessionId,
        packet: Packet<'_, H>,
    ) {
        let is_current = self
            .peer(peer)
            .is_some_and(|peer| peer.session() == session && peer.has_session());
        if !is_current {
            return;
        }
        if let Err(Fault(sentence)) = self.take_packet(cx, peer, packet) {
            self.end_session(cx, peer, sentence, false);
        }
    }

    #[inline(never)]
    fn take_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        packet: Packet<'_, H>,
    ) -> Result<(), Fault> {
        let Packet {
            link,
            header,
            body,
            data,
        } = packet;
        if header.kind == PacketKind::Hello {
            return self.on_hello(cx, peer, link, body);
        }
        ensure(
            header.kind.belongs_on(link),
            "a packet came over the wrong link",
        )?;
        ensure(
            self.has_greeted(peer, link),
            "the peer did not say hello first",
        )?;
        match header.kind {
            PacketKind::PromoteRequest => self.on_promote_request(cx, peer, &header, body),
            PacketKind::PromoteReply => self.on_promote_reply(cx, peer, &header, body),
            PacketKind::Leave => self.on_leave(cx, peer, &header),
            PacketKind::LeaveReply => self.on_leave_reply(cx, peer, &header),
            PacketKind::Promoted => {
                let leads_for = NodeSet(header.arg as u32);
                self.on_peer_role(cx, peer, Role::Primary, leads_for)
            }
            PacketKind::Demoted => self.on_peer_role(cx, peer, Role::Secondary, NodeSet::EMPTY),
            PacketKind::ServeRequest => self.on_serve_request(cx, peer, &header),
            PacketKind::ServeReply => self.on_serve_reply(cx, peer, &header),
            PacketKind::ServeEnd => self.on_serve_end(cx, peer),
            PacketKind::Claimed => self.on_claimed(cx, peer, &header),
            PacketKind::PauseSync => self.on_pause_packet(cx, peer, &header),
            _ => {
                let id = header.volume.ok_or(Fault("a packet names no volume"))?;
                match self.volume_mut(id) {
                    Some(volume) => volume.on_packet(cx, peer, &header, body, data),
                    None => self.on_foreign_packet(cx, peer, id, &header, body),
                }
            }
        }
    }

    #[inline(never)]
    fn on_daemon<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        served: bool,
        connected: NodeSet,
    ) {
        let changed = NodeSet(self.reachable.0 ^ connected.0);
        let is_news = self.is_served != served;
        (self.is_served, self.reachable) = (served, connected);
        for peer in self
            .peers()
            .filter(|&peer| is_news || changed.contains(peer))
        {
            cx.notify(Object::Peer(peer));
        }
    }

    #[inline(never)]
    fn on_command<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        command: Command,
    ) {
        let result = match command {
            Command::Primary { force } => return self.on_primary(cx, token.into(), force),
            Command::Secondary { force: false } => return self.on_secondary(cx, token.into()),
            Command::Secondary { force: true } => return self.on_quit(cx, token.into()),
            Command::Outdate => return self.on_outdate(cx, token),
            Command::NewGeneration => return self.on_new_generation(cx, token),
            Command::Invalidate { volume, from } => {
                return self.on_invalidate(cx, token, volume, from)
            }
            Command::InvalidatePeer { volume, peer } => {
                return self.on_invalidate_peer(cx, token, volume, peer)
            }
            Command::PauseSync { peer } => self.on_pause(cx, peer, true),
            Command::ResumeSync { peer } => self.on_pause(cx, peer, false),
            Command::Verify {
                volume,
                peer,
                wanted,
            } => return self.on_verify(cx, token, (volume, peer), wanted),
            Command::VerifyStop { volume, peer } => self.on_verify_stop(cx, volume, peer),
            Command::Repair { volume, peer, from } => {
                return self.on_repair(cx, token, (volume, peer), from)
            }
            Command::Resize { volume, growth } => return self.on_resize(cx, token, volume, growth),
            Command::SuspendIo => return self.on_suspend(cx, token),
            Command::ResumeIo => self.on_resume(cx),
            Command::Detach { volume } => return self.on_detach(cx, token, volume),
            Command::NewDevice { volume, minor } => self.on_new_device(cx, volume, minor),
            Command::DelDevice { volume } => self.on_del_device(cx, volume),
            Command::NewPeer { peer } => self.on_new_peer(cx, peer),
            Command::DelPeer { peer } => self.on_del_peer(cx, peer),
            Command::Connect {
                peer,
                discard_my_data,
            } => self.on_connect(cx, peer, discard_my_data),
            Command::Disconnect { peer, force } => {
                return self.on_disconnect(cx, token, peer, force)
            }
            Command::SetOptions { options } => return self.on_options(cx, token, options),
        };
        cx.reply(token, result);
    }
}
