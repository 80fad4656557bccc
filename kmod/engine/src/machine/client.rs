// SPDX-License-Identifier: GPL-2.0-only

//! A primary without good data of its own: a peer that has them, the *server*, leads and carries out its requests.
//!
//! ```text
//! (primary, no good disk) -> Seeking --a copy that may serve--> Asking --it leads--> Served --secondary--> Leaving -> (secondary)
//!                               ^                                 |                    |
//!                               +------ refused, lost ------------+--------------------+
//! ```
//! A node whose own disk has become good, and that has lost its server, is elected itself.
//!
//! A request that was not answered when the server is lost is asked again of the next one; requests that overlap are
//! never under way together, so asking twice does no harm. Who may be next, `exposure` says: nobody who lacks what the
//! application has been shown.

use super::context::{ensure, Asker, Context, Fault};
use super::session::Peer;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::host::{Host, Output, Time};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, Fencing, Role};
use weft_uapi::units::{NodeId, NodeSet};
use weft_uapi::wire::{Header, PacketKind, FLAG_FORCE, FLAG_YES};

/// How long a server may take to be elected, in milliseconds: longer than a promotion.
const SERVE_TIMEOUT_MS: u64 = 45_000;
/// When those that refused are asked again, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;

/// How a primary without good data of its own stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Who waits for the first server; nobody any more once there was one.
    asker: Asker,
    /// A person accepts the loss of newer data.
    force: bool,
    /// Peers that refused lately.
    tried: NodeSet,
    /// Why the last one did.
    refusal: Option<(Refusal, Option<NodeId>)>,
    /// A server that was lost and has an application of its own: it may be going on by itself.
    rival: Option<NodeId>,
    /// It was tried once to lead itself again, since its own disk is as good as the server's.
    has_returned: bool,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody serves; those that refused are asked again at this time.
    Seeking { again: Time },
    /// This peer was asked.
    Asking { server: NodeId, since: Time },
    /// This peer serves.
    Served { server: NodeId },
    /// Its own disk has become good enough: this node is to lead itself.
    Promoting,
    /// The role goes once all requests are done.
    Leaving { server: Option<NodeId> },
}

impl Client {
    /// Nobody serves yet. Without an asker it is primary already.
    pub(super) fn seeking(asker: Asker, force: bool, now: Time) -> Self {
        Self {
            asker,
            force,
            tried: NodeSet::EMPTY,
            refusal: None,
            rival: None,
            has_returned: false,
            stage: Stage::Seeking {
                again: now.after_ms(ASK_AGAIN_MS),
            },
        }
    }

    /// Whether it is primary: it had a server.
    pub(super) fn is_served_once(&self) -> bool {
        self.asker == Asker::Nobody || matches!(self.stage, Stage::Leaving { .. })
    }

    fn server(&self) -> Option<NodeId> {
        match self.stage {
            Stage::Served { server } => Some(server),
            Stage::Leaving { server } => server,
            Stage::Seeking { .. } | Stage::Asking { .. } | Stage::Promoting => None,
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Seeking { again } => Some(again),
            Stage::Asking { since, .. } => Some(since.after_ms(SERVE_TIMEOUT_MS)),
            Stage::Served { .. } | Stage::Promoting | Stage::Leaving { .. } => None,
        }
    }
}

impl<H: Host> Engine<H> {
    /// The peer that carries out this node's requests.
    pub(super) fn server(&self) -> Option<NodeId> {
        self.client.as_ref().and_then(Client::server)
    }

    /// Whether a peer carries out, or is to carry out, the requests of this primary.
    pub fn is_client(&self) -> bool {
        self.client.is_some()
    }

    /// Whether this node is primary by way of others.
    pub(super) fn is_served_once(&self) -> bool {
        self.client.as_ref().is_some_and(Client::is_served_once)
    }

    /// Whether its role ends as soon as its requests have ended.
    pub(super) fn is_resigning(&self) -> bool {
        let client = self.client.as_ref();
        client.is_some_and(|client| matches!(client.stage, Stage::Leaving { .. }))
    }

    /// When the search for a server goes on.
    pub(super) fn client_deadline(&self) -> Option<Time> {
        let client = self.client.as_ref().filter(|_| self.role != Role::Primary);
        client.and_then(Client::deadline)
    }

    /// Whether a peer seems to have what this node lacks. Only the wish of somebody here is passed on.
    pub(super) fn may_be_served(&self, asker: Asker, force: bool) -> bool {
        let lacks_disk = self.each_volume().any(|volume| !volume.has_running_disk());
        asker.is_new_here() && (!force || lacks_disk) && self.has_server_in_sight()
    }

    /// Whether a connected peer could serve.
    pub(super) fn has_server_in_sight(&self) -> bool {
        self.peers().any(|id| self.could_serve(id))
    }

    /// Begins the search for a server.
    pub(super) fn seek<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
    ) {
        for volume in self.each_volume_mut() {
            volume.begin_exposure();
        }
        self.client = Some(Client::seeking(asker, force, cx.now));
        self.look_around(cx);
    }

    /// Whether this node may be the second primary beside `first`.
    pub(super) fn may_be_second(&self, asker: Asker, first: NodeId) -> bool {
        let is_first = |id: NodeId| id == first;
        let leader = self.peer(first).filter(|peer| peer.role == Role::Primary);
        let served = leader.map_or(NodeSet::EMPTY, |peer| peer.leads_for);
        // One may have lost its server for a while, and has a place there all the same.
        let applications = self.other_clients(None).fold(served, NodeSet::with);
        asker.is_new_here()
            && self.two_primaries
            && !served.is_empty()
            && applications.len() == 1
            && self.peers().any(|id| is_first(id) && self.could_serve(id))
    }

    /// An administrator wants a node to be primary that is it, or is about to be, by way of others.
    pub(super) fn insist_on_client<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
    ) {
        let is_resigning = self.is_resigning();
        let Some(client) = self.client.as_mut() else {
            return;
        };
        if !client.is_served_once() || is_resigning {
            return cx.reply(asker, Err(Refusal::InTransition));
        }
        if matches!(asker, Asker::Client(_)) {
            // It has nothing to give.
            return cx.reply(asker, Err(Refusal::NoUpToDateDisk));
        }
        if force {
            // A person knows that it does not go on.
            client.rival = None;
        }
        self.note_cause(asker);
        cx.reply(asker, Ok(()));
    }

    /// What the peers have is to be known anew before one of them is asked.
    pub(super) fn look_around<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for volume in self.each_volume_mut() {
            volume.negotiate_all(cx.now);
        }
        cx.facts = self.facts();
        cx.notify(Object::Resource);
    }

    fn could_serve(&self, id: NodeId) -> bool {
        let is_able = self
            .peer(id)
            .is_some_and(|peer| peer.may_serve && peer.connection() == ConnectionState::Connected);
        is_able && self.each_volume().all(|volume| volume.may_serve(id))
    }

    /// Who has to be asked, if it may not be anybody else: without majority and without fencing nobody knows whether a
    /// server with an application of its own goes on.
    fn only_candidate(&self, client: &Client) -> Option<NodeId> {
        let is_unsure = !self.quorum.is_on() && self.fencing == Fencing::DontCare;
        // It is back, and does not lead: it has stopped.
        let has_stopped = |id: NodeId| {
            self.peer(id).is_some_and(|peer| {
                peer.connection() == ConnectionState::Connected && peer.role == Role::Secondary
            })
        };
        client.rival.filter(|&id| is_unsure && !has_stopped(id))
    }

    /// Whom to ask next: who leads already, if anybody does.
    fn candidate(&self, client: &Client) -> Option<NodeId> {
        let tried = client.tried;
        if let Some(only) = self.only_candidate(client) {
            return Some(only).filter(|&id| !tried.contains(id) && self.could_serve(id));
        }
        let leads = |id: &NodeId| {
            self.peer(*id)
                .is_some_and(|peer| peer.role == Role::Primary)
        };
        let may = |id: &NodeId| !tried.contains(*id) && self.could_serve(*id);
        self.peers()
            .filter(|id| leads(id) && may(id))
            .chain(self.peers().filter(may))
            .next()
    }

    /// Takes the search for a server, or the end of being served, as far as it goes.
    #[inline(never)]
    pub(super) fn run_client<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        // One that has just lost its disk leads until nothing is under way.
        let Some(client) = self.client.filter(|_| self.role != Role::Primary) else {
            return;
        };
        match client.stage {
            Stage::Seeking { again } => self.run_search(cx, client, again),
            Stage::Asking { server, since } => {
                if since.after_ms(SERVE_TIMEOUT_MS) <= cx.now {
                    self.lose_server(cx, server, Some(Refusal::ElectionLost));
                }
            }
            Stage::Promoting if self.is_in_transition() => {}
            Stage::Promoting => {
                self.client = Some(Client {
                    tried: client.tried.with(self.config.node),
                    stage: Stage::Seeking {
                        again: cx.now.after_ms(ASK_AGAIN_MS),
                    },
                    ..client
                });
            }
            // Then the server has lost its majority, and may not know yet.
            Stage::Served { .. } if self.quorum.is_on() && self.is_left_behind() => {
                self.lose_application(cx, "others went on without this node");
            }
            Stage::Served { server } => self.run_return(cx, client, server),
            Stage::Leaving { server } => self.run_resignation(cx, client.asker, server),
        }
    }

    /// Leads itself again once its own disks are as good as those of the server, which has no other use for leading.
    fn run_return<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        client: Client,
        server: NodeId,
    ) {
        let is_for_us = self
            .peer(server)
            .is_some_and(|peer| peer.leads_for == NodeSet::of(self.config.node));
        let is_equal = |volume: &Volume<H>| {
            volume.reads_here(server) && volume.keeps_exposure(self.config.node)
        };
        if client.has_returned || !is_for_us || !self.each_volume().all(is_equal) {
            return;
        }
        self.end_service_by(cx, server);
        self.client = Some(Client {
            has_returned: true,
            ..client
        });
        self.lose_server(cx, server, None);
    }

    fn run_search<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        client: Client,
        again: Time,
    ) {
        if self.is_left_behind() {
            return self.lose_application(cx, "others went on without this node");
        }
        if self.is_displaced(&client) {
            return self.lose_application(cx, "another application took its place");
        }
        if self.is_bereft() {
            return self.lose_application(cx, "no copy has all that was not flushed");
        }
        if self.each_volume().any(|volume| volume.is_negotiating()) && again > cx.now {
            return;
        }
        if self.only_candidate(&client).is_none() && self.may_serve_itself(client.tried) {
            self.client = Some(Client {
                stage: Stage::Promoting,
                ..client
            });
            return self.begin_promotion(cx, Asker::Application, false);
        }
        if let Some(server) = self.candidate(&client) {
            return self.ask_server(cx, client, server);
        }
        if client.asker != Asker::Nobody && (again <= cx.now || !self.has_server_in_sight()) {
            self.client = None;
            cx.facts = self.facts();
            let denial = client.refusal.unwrap_or((Refusal::NoUpToDateDisk, None));
            return cx.deny(client.asker, denial);
        }
        if again <= cx.now {
            self.client = Some(Client {
                tried: NodeSet::EMPTY,
                stage: Stage::Seeking {
                    again: cx.now.after_ms(ASK_AGAIN_MS),
                },
                ..client
            });
        }
    }

    /// Whether nobody has all that the application was shown any more: of some volume, or of all of them together.
    fn is_bereft(&self) -> bool {
        let node = self.config.node;
        let keepers = self.each_volume().filter_map(|volume| volume.keepers(node));
        self.each_volume().any(|volume| volume.is_bereft(node))
            || keepers
                .reduce(NodeSet::intersection)
                .is_some_and(NodeSet::is_empty)
    }

    /// Whether this node's own disks have become good enough for its application, and have all that it was shown.
    fn may_serve_itself(&self, tried: NodeSet) -> bool {
        let node = self.config.node;
        let is_free = !self.is_in_transition() && !tried.contains(node);
        is_free
            && self.may_promote(false, None).is_ok()
            && self.each_volume().all(|volume| volume.keeps_exposure(node))
    }

    /// This node leads itself now: its requests are its own matter.
    pub(super) fn serve_itself<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(client) = self.client.take() else {
            return;
        };
        self.note_cause(client.asker);
        cx.reply(client.asker, Ok(()));
        cx.facts = self.facts();
        for volume in self.each_volume_mut() {
            volume.move_ranges(cx);
            volume.forget_exposure(cx);
        }
        self.tell_claim(cx, None);
    }

    fn ask_server<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        client: Client,
        server: NodeId,
    ) {
        let Some(line) = self.line_to(server) else {
            return;
        };
        let mut header = Header::new(PacketKind::ServeRequest, None);
        header.flags = if client.force { FLAG_FORCE } else { 0 };
        cx.send(line, header, &[]);
        let since = cx.now;
        self.client = Some(Client {
            stage: Stage::Asking { server, since },
            ..client
        });
        for volume in self.each_volume_mut() {
            volume.expect_exposure(server);
        }
    }

    /// A peer says whether it serves.
    #[inline(never)]
    pub(super) fn on_serve_reply<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let is_served = header.flags & FLAG_YES != 0;
        let asked =
            |client: &Client| matches!(client.stage, Stage::Asking { server, .. } if server == id);
        let Some(client) = self.client.filter(asked) else {
            // It took too long.
            if is_served {
                self.end_service_by(cx, id);
            }
            return Ok(());
        };
        if !is_served {
            let number = u32::try_from(header.arg).unwrap_or(0);
            let refusal = Refusal::from_number(number).unwrap_or(Refusal::ElectionLost);
            self.lose_server(cx, id, Some(refusal));
            return Ok(());
        }
        let is_shown = self.each_volume().all(|volume| volume.is_shown_by(id));
        ensure(is_shown, "the peer serves without having said what")?;
        let leads = |peer: &Peer| peer.has_session() && peer.role == Role::Primary;
        let is_rival = |peer: &NodeId| *peer != id && self.peer(*peer).is_some_and(leads);
        if client.asker != Asker::Nobody && self.peers().any(|peer| is_rival(&peer)) {
            // It came into reach meanwhile, and leads another line.
            self.end_service_by(cx, id);
            self.lose_server(cx, id, Some(Refusal::PeerPrimary));
            return Ok(());
        }
        self.client = Some(Client {
            asker: Asker::Nobody,
            refusal: None,
            tried: NodeSet::EMPTY,
            rival: None,
            stage: Stage::Served { server: id },
            ..client
        });
        cx.facts = self.facts();
        cx.log(
            Level::Info,
            format_args!("node {id} carries out the requests of this primary"),
        );
        for volume in self.each_volume_mut() {
            volume.begin_service(cx, id);
        }
        self.note_cause(client.asker);
        self.tell_claim(cx, None);
        cx.notify(Object::Resource);
        cx.reply(client.asker, Ok(()));
        Ok(())
    }

    /// A peer serves no more, or needs this node no more.
    #[inline(never)]
    pub(super) fn on_serve_end<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
    ) -> Result<(), Fault> {
        self.lose_client(cx, id);
        self.lose_server(cx, id, None);
        Ok(())
    }

    /// The server is lost, or the peer that was asked will not be it: another one is sought.
    pub(super) fn lose_server<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        refusal: Option<Refusal>,
    ) {
        let Some(client) = self.client else {
            return;
        };
        let stage = match client.stage {
            Stage::Asking { server, .. } | Stage::Served { server } if server == id => {
                Stage::Seeking {
                    again: cx.now.after_ms(ASK_AGAIN_MS),
                }
            }
            Stage::Leaving { server } if server == Some(id) => Stage::Leaving { server: None },
            _ => return,
        };
        let has_application = self
            .peer(id)
            .is_some_and(|peer| peer.leads_for.contains(id));
        let is_rival = has_application && matches!(client.stage, Stage::Served { .. });
        self.client = Some(Client {
            rival: if is_rival { Some(id) } else { client.rival },
            tried: match refusal {
                Some(_) => client.tried.with(id),
                None => client.tried,
            },
            refusal: refusal
                .map(|refusal| (refusal, Some(id)))
                .or(client.refusal),
            stage,
            ..client
        });
        if refusal.is_none() && client.asker == Asker::Nobody {
            cx.log(
                Level::Warn,
                format_args!("node {id} carries out the requests of this primary no more"),
            );
        }
        let is_new = !client.is_served_once();
        for volume in self.each_volume_mut() {
            volume.end_service();
            if is_new {
                // What the peer would have shown was shown to nobody.
                volume.begin_exposure();
            }
        }
        if refusal.is_none() {
            self.look_around(cx);
        }
        cx.facts = self.facts();
    }

    /// The administrator takes the role back.
    pub(super) fn leave_server<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        let Some(client) = self.client else {
            return;
        };
        let is_leaving = matches!(client.stage, Stage::Leaving { .. });
        if is_leaving && client.asker == Asker::Nobody {
            // After the last close nobody waits for the end of that.
            self.client = Some(Client { asker, ..client });
            return;
        }
        if !client.is_served_once() || is_leaving {
            return cx.reply(asker, Err(Refusal::InTransition));
        }
        if let Stage::Asking { server, .. } = client.stage {
            self.lose_server(cx, server, None);
        }
        let server = self.server();
        self.client = Some(Client {
            asker,
            stage: Stage::Leaving { server },
            ..client
        });
        for volume in self.each_volume_mut() {
            volume.recheck = true;
        }
    }

    /// The administrator takes the role back, and the application's requests fail.
    pub(super) fn quit_server<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        let Some(client) = self.client.filter(Client::is_served_once) else {
            return cx.reply(asker, Err(Refusal::InTransition));
        };
        match client.stage {
            Stage::Asking { server, .. } => self.lose_server(cx, server, None),
            Stage::Leaving { .. } => cx.reply(client.asker, Ok(())),
            _ => {}
        }
        self.end_service(cx);
        self.client = Some(Client {
            asker,
            stage: Stage::Leaving { server: None },
            ..client
        });
    }

    /// Tells the server that nothing more is asked of it.
    fn end_service<O: Output<H>>(&self, cx: &mut Context<'_, H, O>) {
        if let Some(server) = self.server() {
            self.end_service_by(cx, server);
        }
    }

    fn end_service_by<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, server: NodeId) {
        if let Some(line) = self.line_to(server) {
            cx.send(line, Header::new(PacketKind::ServeEnd, None), &[]);
        }
    }

    fn run_resignation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        server: Option<NodeId>,
    ) {
        if server.is_none() {
            self.fail_application(cx);
        }
        if self.each_volume().any(|volume| volume.requests.used() > 0) {
            return;
        }
        self.end_service(cx);
        self.forget_application(cx);
        cx.reply(asker, Ok(()));
    }

    /// Whether others went on without this primary: what its application was shown is of the past.
    fn is_left_behind(&self) -> bool {
        let by = |id: NodeId| {
            self.each_volume()
                .any(|volume| volume.is_left_behind_by(id))
        };
        self.peers().any(by)
    }

    /// Whether a node that could serve this primary again leads for as many others as there may be: they came while it was
    /// out of reach.
    fn is_displaced(&self, client: &Client) -> bool {
        let (node, most) = (self.config.node, u32::from(self.two_primaries));
        let is_full = |id: NodeId| {
            let leader = self.peer(id).filter(|peer| peer.role == Role::Primary);
            let served = leader.map_or(NodeSet::EMPTY, |peer| peer.leads_for);
            served.len() > most && !served.contains(node)
        };
        client.is_served_once() && self.peers().any(|id| is_full(id) && self.could_serve(id))
    }

    /// The application cannot go on from what it was shown: all that it asks for has to fail.
    pub(super) fn lose_application<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        reason: &str,
    ) {
        cx.log(
            Level::Error,
            format_args!("{reason}: it is primary no more, and its requests fail"),
        );
        self.fail_application(cx);
        self.end_service(cx);
        if let Some(client) = self.client {
            cx.deny(client.asker, (Refusal::PeerPrimary, None));
        }
        self.forget_application(cx);
    }

    fn fail_application<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for volume in self.each_volume_mut() {
            volume.fail_carried(cx);
        }
    }

    fn forget_application<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.client = None;
        cx.facts = self.facts();
        self.tell_claim(cx, None);
        for volume in self.each_volume_mut() {
            volume.forget_exposure(cx);
        }
        cx.notify(Object::Resource);
    }
}
