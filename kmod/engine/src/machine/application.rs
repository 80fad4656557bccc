// SPDX-License-Identifier: GPL-2.0-only

//! Which nodes have an application. To people those are the primaries, whoever leads for them.

use super::context::{ensure, Context, Fault};
use super::session::Peer;
use super::Engine;
use crate::effect::Object;
use crate::host::{Host, Output};
use weft_uapi::state::Role;
use weft_uapi::units::NodeId;
use weft_uapi::wire::{Header, PacketKind};

impl<H: Host> Engine<H> {
    /// The role that people see: primary is who has an application.
    pub(super) fn shown_role(&self) -> Role {
        match self.is_served_once() || (self.role == Role::Primary && self.is_claimed) {
            true => Role::Primary,
            false => Role::Secondary,
        }
    }

    /// The role of a peer that people see.
    pub(super) fn shown_role_of(&self, id: NodeId) -> Role {
        let leads_for = |peer: &Peer| peer.has_session() && peer.leads_for.contains(id);
        let is_served = self.peers.iter().flatten().any(leads_for);
        match self.peer(id) {
            _ if is_served => Role::Primary,
            Some(peer) if peer.is_client => Role::Primary,
            // It leads, but not for itself.
            Some(peer) if !peer.leads_for.is_empty() => Role::Secondary,
            Some(peer) => peer.role,
            None => Role::Unknown,
        }
    }

    /// Peers with an application that another node serves, or is to serve, but for one of them.
    pub(super) fn other_clients(&self, but: Option<NodeId>) -> impl Iterator<Item = NodeId> + '_ {
        let is_client = move |id: &NodeId| {
            but != Some(*id) && self.peer(*id).is_some_and(|peer| peer.is_client)
        };
        self.peers().filter(is_client)
    }

    /// Whether a node's application is one of two that run at the same time: when both have lost their server, the other
    /// one does not stand in its way, or each would wait for the end of the other.
    pub(super) fn has_place(&self, id: NodeId) -> bool {
        let runs = match self.config.node == id {
            true => self.is_served_once(),
            false => self.peer(id).is_some_and(|peer| peer.is_client),
        };
        self.two_primaries && runs
    }

    /// Tells a peer, or all, whether this node has an application that others serve.
    pub(super) fn tell_claim<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        to: Option<NodeId>,
    ) {
        let mut header = Header::new(PacketKind::Claimed, None);
        header.arg = self.is_served_once().into();
        for id in self.connected().iter() {
            let is_meant = to.is_none_or(|peer| peer == id)
                && self.peer(id).is_some_and(|peer| peer.may_serve);
            if let Some(line) = self.line_to(id).filter(|_| is_meant) {
                cx.send(line, header, &[]);
            }
        }
    }

    /// A peer tells whether it has an application that others serve.
    pub(super) fn on_claimed<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        ensure(header.arg <= 1, "the peer sent a malformed claim")?;
        if let Some(peer) = self.peer_mut(id) {
            peer.is_client = header.arg == 1;
        }
        cx.notify(Object::Peer(id));
        Ok(())
    }
}
