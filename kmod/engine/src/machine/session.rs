// SPDX-License-Identifier: GPL-2.0-only

//! The connection to one peer of the resource.
//!
//! ```text
//! StandAlone --connect--> Connecting --both links--> Handshake --all volumes decided--> Connected
//!     ^                    ^    ^                        |                                |
//!     |                    |    +------ link lost, protocol broken, no answer ------------+
//!     +--------- disconnect, or a reason that needs a person -----------------------------+
//! ```
//! Every session has a number of its own; whatever comes for another one is ignored.

use super::context::{ensure, Context, Fault, Line};
use super::fencing::Fence;
use super::leave::Departure;
use super::negotiate::Round;
use super::replica::Verdict;
use super::transitions;
use super::volume::Volume;
use super::vote::Question;
use super::Engine;
use crate::effect::{Effect, Level, Object};
use crate::event::Token;
use crate::host::{Host, Output, Time};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, ReplicationState, Role};
use weft_uapi::units::{NodeId, NodeSet, SessionId};
use weft_uapi::version::{
    FEATURES, FEATURE_AGES, FEATURE_CLIENTS, FEATURE_CONGESTION, FEATURE_CSUMS, FEATURE_HEAL,
    FEATURE_LEAVE, FEATURE_ORDERS, FEATURE_RESIZE, FEATURE_SPLIT_BRAIN, FEATURE_VERIFY,
    FEATURE_ZEROES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
};
use weft_uapi::wire::{Header, HelloBody, LinkKind, PacketKind};
use zerocopy::{FromBytes, IntoBytes};

/// How long the hellos may take, in milliseconds.
const HELLO_TIMEOUT_MS: u64 = 20_000;
const REASON_MAX: usize = 128;
const NOT_RECALLED: &str = "the daemon has not handed back what this tie-breaker promised";

/// A peer of the resource.
pub(super) struct Peer {
    connection: ConnectionState,
    /// The current offer or session.
    session: SessionId,
    /// Hellos received: on the data and on the meta link.
    hellos: [bool; 2],
    since: Time,
    pub(super) role: Role,
    /// If it leads: for whose applications.
    pub(super) leads_for: NodeSet,
    /// It has an application that another node serves, or is to serve.
    pub(super) is_client: bool,
    /// It knows how to serve.
    pub(super) may_serve: bool,
    /// The session was offered; before that something has to be recalled.
    is_offered: bool,
    /// The next handshake gives this node's data up.
    discards: bool,
    /// It understands what a person orders on this node.
    pub(super) knows_orders: bool,
    /// Resyncs with it wait: a person said so here; or for what the peer told, a bit `PAUSED_*`.
    pub(super) is_paused_here: bool,
    pub(super) paused_there: u32,
    /// It wants to be primary and has not been answered.
    pub(super) asked: Option<Question>,
    /// A promise to be answered once it is durable.
    pub(super) granting: Option<Question>,
    /// It was promised to be the next primary, and has not said what became of that.
    pub(super) is_promised: bool,
    pub(super) reason: [u8; REASON_MAX],
    pub(super) fence: Fence,
    /// It understands what is said of leaving.
    pub(super) knows_leave: bool,
    pub(super) departure: Departure,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            connection: ConnectionState::StandAlone,
            session: SessionId(0),
            hellos: [false; 2],
            since: Time(0),
            role: Role::Unknown,
            leads_for: NodeSet::EMPTY,
            is_client: false,
            may_serve: false,
            is_offered: false,
            discards: false,
            knows_orders: false,
            is_paused_here: false,
            paused_there: 0,
            asked: None,
            granting: None,
            is_promised: false,
            reason: [0; REASON_MAX],
            fence: Fence::default(),
            knows_leave: false,
            departure: Departure::default(),
        }
    }

    pub(super) fn connection(&self) -> ConnectionState {
        self.connection
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Whether it is primary, or about to be.
    pub(super) fn leads(&self) -> bool {
        self.has_session() && (self.role == Role::Primary || self.is_promised)
    }

    /// Whether a session runs, decided or not.
    pub(super) fn has_session(&self) -> bool {
        matches!(
            self.connection,
            ConnectionState::Handshake | ConnectionState::Connected
        )
    }

    /// Whether it has told what it knows.
    pub(super) fn has_said_hello(&self) -> bool {
        self.hellos == [true; 2]
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let is_greeting = self.connection == ConnectionState::Handshake && self.hellos != [true; 2];
        is_greeting.then(|| self.since.after_ms(HELLO_TIMEOUT_MS))
    }

    fn set_reason(&mut self, sentence: &str) {
        self.reason = [0; REASON_MAX];
        // The last byte stays zero.
        for (to, from) in self
            .reason
            .iter_mut()
            .take(REASON_MAX - 1)
            .zip(sentence.bytes())
        {
            *to = from;
        }
    }
}

impl<H: Host> Engine<H> {
    pub(super) fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(id.index())?.as_ref()
    }

    pub(super) fn each_peer(&self) -> impl Iterator<Item = &Peer> {
        self.known.iter().filter_map(|id| self.peer(id))
    }

    pub(super) fn peer_mut(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(id.index())?.as_mut()
    }

    /// Where packets to a peer that said hello go.
    pub(super) fn line_to(&self, id: NodeId) -> Option<Line> {
        let peer = self.peer(id).filter(|peer| peer.has_session())?;
        Some(Line {
            peer: id,
            session: peer.session,
        })
    }

    fn set_connection<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        state: ConnectionState,
    ) {
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        let old = core::mem::replace(&mut peer.connection, state);
        if old == state {
            return;
        }
        if !transitions::connection_may_change(old, state) {
            self.break_down(cx, "illegal change of a connection's state");
        }
        cx.log(Level::Info, format_args!("peer {id}: {old} -> {state}"));
        cx.notify(Object::Peer(id));
    }

    /// Wants a connection.
    #[inline(never)]
    pub(super) fn on_connect<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        discards: bool,
    ) -> Result<(), Refusal> {
        let is_primary = cx.facts.is_primary() || cx.facts.is_client;
        let peer = self.peer_mut(id).ok_or(Refusal::NoSuchPeer)?;
        if peer.connection != ConnectionState::StandAlone {
            return Err(Refusal::AlreadyConnected);
        }
        if discards && is_primary {
            return Err(Refusal::DiscardPrimary);
        }
        peer.discards = discards;
        peer.set_reason("");
        for volume in self.each_volume_mut() {
            if let Some(replica) = volume.replica_mut(id) {
                replica.has_word_lapsed = false;
            }
        }
        self.offer(cx, id);
        Ok(())
    }

    /// Does not want the connection any more.
    #[inline(never)]
    pub(super) fn on_disconnect<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: NodeId,
        force: bool,
    ) {
        let refusal = match self.peer(id).map(|peer| peer.connection) {
            None => Some(Refusal::NoSuchPeer),
            Some(ConnectionState::StandAlone) => Some(Refusal::AlreadyStandAlone),
            Some(_) if self.leave.is_some() => Some(Refusal::Busy),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return cx.reply(token, Err(refusal));
        }
        if self.may_leave_by(id) {
            return self.begin_leave(cx, token, id, force);
        }
        self.end_session(cx, id, "disconnected by command", true);
        cx.reply(token, Ok(()));
    }

    /// Offers the links of a new session.
    fn offer<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let session = SessionId(cx.random_id());
        if let Some(peer) = self.peer_mut(id) {
            peer.session = session;
            peer.hellos = [false; 2];
            peer.is_offered = false;
        }
        self.set_connection(cx, id, ConnectionState::Connecting);
        self.run_offer(cx, id);
    }

    /// Offers the links of the next session once this node knows what it said in an earlier life.
    fn run_offer<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let is_recalled = self.is_recalled();
        let Some(peer) = self.peer_mut(id).filter(|peer| !peer.is_offered) else {
            return;
        };
        if peer.connection != ConnectionState::Connecting {
            return;
        }
        if is_recalled {
            peer.is_offered = true;
            let session = peer.session;
            cx.emit(Effect::Offer { peer: id, session });
        } else {
            peer.set_reason(NOT_RECALLED);
        }
    }

    /// Both links are connected.
    #[inline(never)]
    pub(super) fn on_session_up<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        session: SessionId,
    ) {
        let is_current = self.peer(id).is_some_and(|peer| {
            peer.session == session && peer.connection == ConnectionState::Connecting
        });
        if !is_current {
            return;
        }
        if !self.is_recalled() {
            // A volume was added since.
            return self.end_session(cx, id, NOT_RECALLED, false);
        }
        self.set_connection(cx, id, ConnectionState::Handshake);
        if let Some(peer) = self.peer_mut(id) {
            peer.since = cx.now;
        }
        for link in [LinkKind::Data, LinkKind::Meta] {
            self.send_hello(cx, Line { peer: id, session }, link);
        }
    }

    fn send_hello<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, to: Line, link: LinkKind) {
        let body = HelloBody {
            version: PROTOCOL_VERSION.into(),
            version_min: PROTOCOL_VERSION_MIN.into(),
            link: (link as u16).into(),
            role: (self.role as u16).into(),
            features: FEATURES.into(),
            session: to.session.0.into(),
            from: u32::from(self.config.node.get()).into(),
            to: u32::from(to.peer.get()).into(),
            resource_crc: weft_uapi::crc32c::crc32c(&self.config.name).into(),
            volumes: u32::try_from(self.volumes().count()).unwrap_or(0).into(),
        };
        cx.send_on(
            to,
            link,
            Header::new(PacketKind::Hello, None),
            body.as_bytes(),
        );
    }

    /// A hello came in on a link.
    #[inline(never)]
    pub(super) fn on_hello<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        link: LinkKind,
        body: &[u8],
    ) -> Result<(), Fault> {
        let body = HelloBody::read_from_bytes(body)
            .map_err(|_| Fault("the peer sent a malformed hello"))?;
        let speaks = body.version.get() >= PROTOCOL_VERSION_MIN
            && body.version_min.get() <= PROTOCOL_VERSION;
        ensure(
            speaks,
            "the peer speaks no protocol version that this node knows",
        )?;
        let is_meant = body.link.get() == link as u16
            && body.from.get() == u32::from(id.get())
            && body.to.get() == u32::from(self.config.node.get())
            && body.resource_crc.get() == weft_uapi::crc32c::crc32c(&self.config.name);
        ensure(is_meant, "the peer meant another resource, node or link")?;
        let role = Role::from_number(body.role.get().into())
            .ok_or(Fault("the peer sent a malformed hello"))?;
        let peer = self.peer_mut(id).ok_or(Fault("the peer is not known"))?;
        let place = peer
            .hellos
            .get_mut(place_of(link))
            .ok_or(Fault("no such link"))?;
        ensure(
            !core::mem::replace(place, true),
            "the peer said hello twice",
        )?;
        if link == LinkKind::Data {
            peer.role = role;
            peer.knows_leave = body.features.get() & FEATURE_LEAVE != 0;
            peer.may_serve = body.features.get() & FEATURE_CLIENTS != 0;
            peer.knows_orders = body.features.get() & FEATURE_ORDERS != 0;
            let session = peer.session;
            let round = Round {
                wanted: 1,
                since: cx.now,
                discards: peer.discards,
                tells_policies: body.features.get() & FEATURE_SPLIT_BRAIN != 0,
                tells_ages: body.features.get() & FEATURE_AGES != 0,
                knows_orders: peer.knows_orders,
                knows_verify: body.features.get() & FEATURE_VERIFY != 0,
                knows_zeroes: body.features.get() & FEATURE_ZEROES != 0,
                knows_csums: body.features.get() & FEATURE_CSUMS != 0,
                knows_heal: body.features.get() & FEATURE_HEAL != 0,
                knows_resize: body.features.get() & FEATURE_RESIZE != 0,
                knows_congestion: body.features.get() & FEATURE_CONGESTION != 0,
                ..Round::default()
            };
            for volume in self.each_volume_mut() {
                volume.begin_session(id, session, round);
            }
            if self.client.is_some() {
                self.tell_claim(cx, Some(id));
            }
            self.tell_pause(cx, id);
        }
        Ok(())
    }

    /// Whether the peer said hello on this link.
    pub(super) fn has_greeted(&self, id: NodeId, link: LinkKind) -> bool {
        let peer = self.peer(id);
        peer.and_then(|peer| peer.hellos.get(place_of(link)).copied())
            .unwrap_or(false)
    }

    /// Ends the session or withdraws the offer; tries again unless `stand_alone`.
    #[inline(never)]
    pub(super) fn end_session<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        sentence: &str,
        stand_alone: bool,
    ) {
        let Some(peer) = self
            .peer_mut(id)
            .filter(|peer| peer.connection != ConnectionState::StandAlone)
        else {
            return;
        };
        let session = peer.session;
        cx.emit(Effect::EndSession { peer: id, session });
        self.on_session_over(cx, id, sentence, stand_alone);
    }

    /// A session is over: nothing of it is left, and a new one is offered unless `stand_alone`.
    #[inline(never)]
    pub(super) fn on_session_over<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        sentence: &str,
        stand_alone: bool,
    ) {
        let stand_alone = stand_alone || self.is_leaving_by(id);
        self.lose_server(cx, id, None);
        let Some(peer) = self.peer_mut(id) else {
            return;
        };
        peer.departure = Departure::default();
        peer.set_reason(sentence);
        peer.role = Role::Unknown;
        peer.leads_for = NodeSet::EMPTY;
        peer.is_client = false;
        peer.may_serve = false;
        peer.asked = None;
        peer.granting = None;
        peer.is_promised = false;
        peer.paused_there = 0;
        peer.knows_orders = false;
        peer.hellos = [false; 2];
        cx.log(
            Level::Warn,
            format_args!("peer {id}: session over: {sentence}"),
        );
        for volume in self.each_volume_mut() {
            volume.end_session(cx, id);
        }
        self.end_leave(cx, id);
        self.lose_client(cx, id);
        self.note_pauses(cx, id);
        if stand_alone {
            self.set_connection(cx, id, ConnectionState::StandAlone);
        } else {
            self.offer(cx, id);
        }
    }

    /// A link died, or was refused.
    #[inline(never)]
    pub(super) fn on_session_down<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        session: SessionId,
        sentence: &str,
    ) {
        let is_current = self.peer(id).is_some_and(|peer| {
            peer.session == session && peer.connection != ConnectionState::StandAlone
        });
        if is_current {
            match self.verdict(id) {
                Some(verdict) => {
                    self.on_session_over(cx, id, verdict.sentence, verdict.stand_alone)
                }
                None => self.on_session_over(cx, id, sentence, false),
            }
        }
    }

    /// Why the session with a peer is going to end, if it is; of several volumes the one that has waited longest says so.
    fn verdict(&self, id: NodeId) -> Option<Verdict> {
        let verdicts = self
            .each_volume()
            .filter_map(|volume| volume.replica(id)?.verdict);
        verdicts.min_by_key(|verdict| verdict.due)
    }

    /// Ends sessions that volumes gave up, and notes which handshakes are done.
    #[inline(never)]
    pub(super) fn run_sessions<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for id in self.peers() {
            self.run_offer(cx, id);
            let Some(peer) = self.peer(id).filter(|peer| peer.has_session()) else {
                continue;
            };
            if peer.deadline().is_some_and(|deadline| deadline <= cx.now) {
                self.end_session(cx, id, "the peer did not say hello in time", false);
                continue;
            }
            if let Some(verdict) = self.verdict(id) {
                if verdict.due <= cx.now {
                    self.end_session(cx, id, verdict.sentence, verdict.stand_alone);
                }
            } else if self.peer(id).is_some_and(|peer| peer.hellos == [true; 2]) {
                self.finish_handshake(cx, id);
            }
        }
    }

    fn finish_handshake<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let is_decided = self.each_volume().all(|volume| {
            volume
                .replica(id)
                .is_none_or(|replica| replica.round.decided > 0)
        });
        let is_new = |peer: &Peer| peer.connection != ConnectionState::Connected;
        if is_decided && self.peer(id).is_some_and(is_new) {
            self.set_connection(cx, id, ConnectionState::Connected);
            if let Some(peer) = self.peer_mut(id) {
                peer.discards = false;
                peer.fence.lift();
            }
            if self.role == Role::Primary {
                self.tell_leading(cx);
            }
            // Requests may have waited for the peer to be fenced.
            for volume in self.each_volume_mut() {
                volume.recheck = true;
            }
        }
    }
}

fn place_of(link: LinkKind) -> usize {
    match link {
        LinkKind::Data => 0,
        LinkKind::Meta => 1,
    }
}

impl<H: Host> Volume<H> {
    /// A peer said hello.
    pub(super) fn begin_session(&mut self, peer: NodeId, session: SessionId, first: Round) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.session = Some(session);
            let discards = first.discards && !replica.has_word_lapsed;
            replica.round = Round { discards, ..first };
        }
        self.recheck = true;
    }

    /// The session with a peer is over.
    #[inline(never)]
    pub(super) fn end_session<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(replica) = self
            .replica(peer)
            .filter(|replica| replica.session.is_some())
        else {
            return;
        };
        let received = replica.receives;
        let was_outrun = self.is_outrun();
        self.lose_verify(cx, peer);
        self.lose_tail(peer);
        self.lose_received(peer);
        self.drop_carried(peer);
        self.trim_tail();
        if let Some(replica) = self.replica_mut(peer) {
            replica.reset();
        }
        self.set_replication(cx, peer, ReplicationState::Off);
        if received || self.required.contains(peer) {
            self.note_loss();
        }
        if was_outrun && !self.is_outrun() {
            // The primary may not have gone on: others know as much of that as this disk.
            self.negotiate_all(cx.now);
        }
        if let Some(disk) = self.disk.as_mut() {
            // Should this node fail next, its disk speaks for what it saw.
            disk.save_ages();
        }
        self.recheck = true;
    }
}
