// SPDX-License-Identifier: GPL-2.0-only

//! Leading for others: a node with good data carries out the requests of a primary that has none (see `client`).
//!
//! To the disks it is a primary like any other: it was elected, its records name it as the writer, and its application is
//! the client's. It leads as long as somebody needs it: an administrator of its own, or a client with a session.

use super::context::{ensure, Asker, Context, Fault};
use super::role::Transition;
use super::Engine;
use crate::effect::Object;
use crate::host::{Host, Output};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::Role;
use weft_uapi::units::{NodeId, NodeSet};
use weft_uapi::wire::{Header, PacketKind, FLAG_FORCE};

impl<H: Host> Engine<H> {
    /// A peer wants its requests to be carried out here.
    #[inline(never)]
    pub(super) fn on_serve_request<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        ensure(
            !self.clients.contains(id),
            "the peer asked twice to be served",
        )?;
        let line = self.line_to(id).ok_or(Fault("the peer has no session"))?;
        let force = header.flags & FLAG_FORCE != 0;
        self.on_primary(cx, Asker::Client(line), force);
        Ok(())
    }

    /// Somebody wants a node to be primary that leads already.
    pub(super) fn lead_for<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        asker: Asker,
        force: bool,
    ) {
        // Whose applications there would be beside that of who asks.
        let others = match asker {
            asker if asker.is_new_here() => self.clients,
            _ => self.leads_for(),
        };
        // One that was served before is about to ask again.
        let waiting = self.other_clients(asker.client());
        let others = waiting.fold(others, NodeSet::with);
        let most = usize::from(self.two_primaries);
        if let Some(other) = others
            .iter()
            .next()
            .filter(|_| others.len() as usize > most)
        {
            return cx.deny(asker, (Refusal::PeerPrimary, Some(other)));
        }
        if asker.client().is_some_and(|peer| self.works_for(peer)) {
            // What was begun for its former application comes first.
            return cx.deny(asker, (Refusal::InTransition, None));
        }
        for volume in self.each_volume_mut() {
            // It may be waiting for votes that only a person can do without.
            volume.insists |= force;
            volume.recheck = true;
        }
        self.claim(cx, asker);
        self.tell_leading(cx);
        self.expose(cx);
        cx.reply(asker, Ok(()));
    }

    fn works_for(&self, peer: NodeId) -> bool {
        self.each_volume().any(|volume| volume.works_for(peer))
    }

    /// Whose applications are served by this node's disk.
    fn leads_for(&self) -> NodeSet {
        if self.is_claimed {
            self.clients.with(self.config.node)
        } else {
            self.clients
        }
    }

    /// Notes for whom this node leads.
    pub(super) fn claim<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, asker: Asker) {
        self.note_cause(asker);
        match asker {
            Asker::Client(line) => self.clients = self.clients.with(line.peer),
            Asker::Person(_) | Asker::Open => self.is_claimed = true,
            Asker::Application => {
                self.is_claimed = true;
                self.serve_itself(cx);
            }
            Asker::Nobody => {}
        }
    }

    /// Tells everybody that this node leads, and for whom.
    pub(super) fn tell_leading<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        cx.facts = self.facts();
        self.tell_peers(cx, PacketKind::Promoted, self.leads_for().0.into());
        cx.notify(Object::Resource);
    }

    /// Tells the clients which record is in force.
    pub(super) fn expose<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        cx.facts = self.facts();
        for volume in self.each_volume_mut() {
            volume.expose(cx);
        }
    }

    /// A client needs this node no more.
    pub(super) fn lose_client<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let is_of_it = |asker: &Asker| matches!(asker, Asker::Client(line) if line.peer == id);
        if let Some(asker) = self.transition.as_mut().map(Transition::asker_mut) {
            if is_of_it(asker) {
                *asker = Asker::Nobody;
            }
        }
        if self.clients.contains(id) {
            self.clients = self.clients.without(id);
            for volume in self.each_volume_mut() {
                volume.drop_carried(id);
            }
            cx.facts = self.facts();
            cx.notify(Object::Resource);
            if self.role == Role::Primary && !self.leads_for().is_empty() {
                // Another one may come in its place.
                self.tell_leading(cx);
            }
        }
    }

    /// Stops leading when nobody needs it, or when it cannot go on for others.
    pub(super) fn release<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if self.role != Role::Primary || self.transition.is_some() || self.is_claimed {
            return;
        }
        let is_able = self.each_volume().all(|volume| volume.has_running_disk());
        if self.clients.is_empty() || !is_able {
            // What they ask from now on is for the next server.
            self.dismissed = self.dismissed.union(self.clients);
            self.clients = NodeSet::EMPTY;
            cx.facts = self.facts();
            self.transition = Some(Transition::Draining {
                asker: Asker::Nobody,
            });
        }
    }

    /// Tells those who were served that they are no more: all that was begun for them was answered or never will be.
    pub(super) fn dismiss_clients<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let former = core::mem::take(&mut self.dismissed).union(self.clients);
        self.clients = NodeSet::EMPTY;
        self.is_claimed = false;
        for line in former.iter().filter_map(|id| self.line_to(id)) {
            cx.send(line, Header::new(PacketKind::ServeEnd, None), &[]);
        }
        cx.facts = self.facts();
        cx.notify(Object::Resource);
    }
}
