// SPDX-License-Identifier: GPL-2.0-only

//! A primary that loses its disk, by an error or by command, goes on with that of a peer.
//!
//! ```text
//! Primary --disk lost--> it still leads, as a client to be: what is under way comes to its end, nothing new begins
//!         --nothing under way--> Secondary, and seeks a server (see `client`)
//! ```
//! To its application it is primary all the time. Who may serve is whom it would have told a client of: INVARIANT: when a
//! write is answered, every one of those has it, in its cache at least. With protocols A and B that is not so, and the
//! application hears of the error.

use super::client::Client;
use super::context::{Asker, Context};
use super::exposure::Exposure;
use super::request::{span_of, Origin, Request, Stage};
use super::volume::Volume;
use super::Engine;
use crate::effect::Level;
use crate::event::Token;
use crate::host::{Host, Output};
use crate::tail::{Entry, Kind};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, Protocol, Role};
use weft_uapi::units::{NodeId, NodeSet, VolumeId};

impl<H: Host> Engine<H> {
    /// Lets the disk of a volume go in good order.
    #[inline(never)]
    pub(super) fn on_detach<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: VolumeId,
    ) {
        let Some(volume) = self.volume(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        let is_ready = volume.has_running_disk() && volume.change.is_none();
        if is_ready && self.role == Role::Primary && !self.hand_over(cx) {
            return cx.reply(token, Err(Refusal::LastCopy));
        }
        if let Some(volume) = self.volume_mut(id) {
            volume.on_detach(cx, token);
        }
    }

    /// A disk of this primary may just have failed, or may have to go.
    pub(super) fn run_failures<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for volume in self.each_volume_mut() {
            volume.end_hopeless(cx);
        }
        let has_failed = |volume: &Volume<H>| volume.hands_over;
        if !self.each_volume().any(has_failed) || self.hand_over(cx) {
            return;
        }
        for volume in self.each_volume_mut() {
            volume.hands_over = false;
            volume.begin_exposure();
            volume.recheck = true;
        }
    }

    /// Has the requests of this primary carried out by somebody else from now on, if anybody has what that takes.
    fn hand_over<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) -> bool {
        let leads_itself = self.role == Role::Primary
            && self.is_claimed
            // Two applications would wait for each other's node.
            && self.clients.is_empty()
            && self.transition.is_none()
            && self.client.is_none()
            && self.leave.is_none();
        let can_follow = |volume: &mut Volume<H>| volume.hands_over || volume.note_holders(cx);
        if !leads_itself {
            return false;
        }
        if !self.each_volume_mut().all(can_follow) || !self.has_successor() {
            self.each_volume_mut().for_each(Volume::begin_exposure);
            return false;
        }
        cx.log(
            Level::Warn,
            format_args!(
                "a disk of this primary is lost: another node is to carry out its requests"
            ),
        );
        self.is_claimed = false;
        self.client = Some(Client::seeking(Asker::Nobody, false, cx.now));
        cx.facts = self.facts();
        for volume in self.each_volume_mut() {
            volume.hands_over = false;
            volume.hold_requests(cx);
            volume.leave_tail();
        }
        self.tell_claim(cx, None);
        true
    }

    /// Whether a connected peer has all volumes and those that are left can elect it. Without a disk this node has no vote.
    fn has_successor(&self) -> bool {
        let (facts, connected) = (self.facts(), self.connected());
        let may_serve = |id: &NodeId| self.peer(*id).is_some_and(|peer| peer.may_serve);
        let holds_all = |id: &NodeId| {
            self.each_volume()
                .all(|volume| volume.exposure.has_holder(*id))
        };
        let has_votes = |volume: &Volume<H>| volume.has_votes_for(&facts, connected, false);
        connected.iter().any(|id| may_serve(&id) && holds_all(&id))
            && (!self.quorum.is_on() || self.each_volume().all(has_votes))
    }
}

impl<H: Host> Volume<H> {
    /// Notes who has all that this primary's application was shown; `false`: nobody else does for certain.
    pub(super) fn note_holders<O: Output<H>>(&mut self, cx: &Context<'_, H, O>) -> bool {
        let is_certain = cx.facts.is_primary()
            && !cx.facts.is_client
            && cx.facts.protocol == Protocol::C
            && self.disk_state() == DiskState::UpToDate
            && self.has_running_disk()
            && self.change.is_none()
            && !self.is_overtaken
            && !self.lacks_quorum(cx);
        let Some(body) = self.in_force(cx.facts.node).filter(|_| is_certain) else {
            return false;
        };
        let mut shown = Exposure::of(&body, self.term());
        shown.forget_holders(self.owed_answers());
        (shown.sectors, shown.block_bytes) = (self.sectors(), self.block_bytes());
        // What of it a flush covers is not known.
        (shown.answered, shown.flushed) = (1, 0);
        self.exposure = shown;
        true
    }

    /// Nodes that have not acknowledged a write that was answered all the same, under another protocol.
    fn owed_answers(&self) -> NodeSet {
        let is_answered = |entry: &&Entry| {
            let request = entry.request.and_then(|number| self.requests.get(number));
            entry.kind == Kind::Write && request.is_none_or(|request| request.seq != entry.seq)
        };
        let answered = self.tail.entries().filter(is_answered);
        answered.fold(NodeSet::EMPTY, |owed, entry| {
            owed.union(entry.waits_written)
        })
    }

    /// Nothing new begins here: what has not ended is for the server.
    fn hold_requests<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for number in self.requests.numbers() {
            let is_idle =
                |request: &Request<H>| request.stage == Stage::Held || request.is_local_done;
            if self.requests.get(number).is_some_and(is_idle) {
                self.ask_elsewhere(cx, number);
            }
        }
        self.move_ranges(cx);
    }

    /// Takes a request of this node's application, whose local part is over, back to its beginning.
    pub(super) fn ask_elsewhere<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, number: u32) {
        let Some(request) = self.requests.get_mut(number) else {
            return;
        };
        if !matches!(request.origin, Origin::Own(_)) {
            return;
        }
        request.ask_again();
        let io = request.io;
        // Of a preflush that was under way.
        let range = request.range.take_if(|_| !request.is_clients);
        let has_range = request.range.is_some();
        let mut hold = core::mem::take(&mut request.log);
        self.cool(span_of(&io), &mut hold);
        self.leave(range);
        if !has_range {
            self.enter_range(cx, number, io);
        }
        self.recheck = true;
    }

    /// Whether something was begun here that has not ended.
    pub(super) fn has_begun(&self, is_client: bool) -> bool {
        let is_waiting = |request: &Request<H>| is_client && request.stage == Stage::Held;
        !self.requests.iter().all(|(_, request)| is_waiting(request))
    }
}
