// SPDX-License-Identifier: GPL-2.0-only

//! The sessions of one resource, at most one per peer.
//!
//! Lives under the resource's engine lock and carries out the engine's effects on links. So what is allocated here fails
//! rather than that it waits (see [`NoWait`](crate::sys::memory::NoWait)).

use super::send::Queued;
use super::{DownReason, Offers, Session, SessionOwner};
use crate::sys::pages::Payload;
use kernel::{prelude::*, sync::Arc};
use weft_uapi::limits::NODES_MAX;
use weft_uapi::status::Name;
use weft_uapi::units::{NodeId, SessionId};
use weft_uapi::wire::{Header, LinkKind};

/// The sessions of one resource.
pub(crate) struct Sessions {
    resource: Name,
    node: NodeId,
    offers: Arc<Offers>,
    slots: [Option<Slot>; NODES_MAX],
}

struct Slot {
    session: Arc<Session>,
    /// The session ended because of something that happened under the engine's lock; the engine is to be told.
    broken: Option<DownReason>,
    /// Something was queued since the last [`Sessions::sending`].
    has_queued: bool,
}

/// Sessions on whose links something was queued in one turn.
pub(crate) struct Sending([Option<Arc<Session>>; NODES_MAX]);

impl Sending {
    /// Sends it. May sleep briefly; not under the engine's lock.
    pub(crate) fn begin(self) {
        for session in self.0.into_iter().flatten() {
            session.transmit();
        }
    }
}

impl Sessions {
    /// No sessions of a resource on this node.
    pub(crate) fn new(resource: Name, node: NodeId, offers: Arc<Offers>) -> Self {
        Self {
            resource,
            node,
            offers,
            slots: [const { None }; NODES_MAX],
        }
    }

    /// Offers the links of a new session with `peer` to the daemon; an earlier session is ended.
    pub(crate) fn offer(
        &mut self,
        peer: NodeId,
        session: SessionId,
        owner: Arc<dyn SessionOwner>,
    ) -> Result {
        self.end_any(peer);
        let session = Session::new(
            self.resource,
            self.node,
            peer,
            session,
            self.offers.clone(),
            owner,
        )?;
        self.offers.offer(session.clone())?;
        if let Some(slot) = self.slots.get_mut(peer.index()) {
            *slot = Some(Slot {
                session,
                broken: None,
                has_queued: false,
            });
        }
        Ok(())
    }

    /// Closes both links, or withdraws their offer. What is queued is dropped. Nothing if the session is another one.
    pub(crate) fn end(&mut self, peer: NodeId, session: SessionId) {
        if self.slot(peer, session).is_some() {
            self.end_any(peer);
        }
    }

    fn end_any(&mut self, peer: NodeId) {
        if let Some(slot) = self.slots.get_mut(peer.index()).and_then(Option::take) {
            slot.session.end();
        }
    }

    /// Queues a packet. If there is no memory for it the session ends; see [`take_broken`](Self::take_broken). Nothing
    /// if the session is another one or over.
    pub(crate) fn send(
        &mut self,
        peer: NodeId,
        session: SessionId,
        link: LinkKind,
        header: Header,
        body: &[u8],
        data: Option<Payload>,
    ) {
        let Some(slot) = self.slot(peer, session) else {
            return;
        };
        match Queued::new(header, body, data) {
            Ok(packet) => {
                slot.session.link(link).enqueue(&slot.session, packet);
                slot.has_queued = true;
            }
            Err(_) => {
                if slot.session.end() {
                    slot.broken = Some(DownReason::NoMemory);
                }
            }
        }
    }

    /// Whether there is a session with anybody.
    pub(crate) fn any(&self) -> bool {
        self.slots.iter().any(Option::is_some)
    }

    /// Where something was queued, for whoever has released the engine's lock.
    pub(crate) fn sending(&mut self) -> Sending {
        let mut sending = Sending([const { None }; NODES_MAX]);
        for (slot, place) in self.slots.iter_mut().zip(&mut sending.0) {
            if let Some(slot) = slot.as_mut().filter(|slot| slot.has_queued) {
                slot.has_queued = false;
                *place = Some(slot.session.clone());
            }
        }
        sending
    }

    /// Whether `peer` may send one more packet on its data link; wakes the daemon when that becomes true, and when there may
    /// be memory for what it sends. Called after everything that can give memory for data back.
    pub(crate) fn set_room(&self, peer: NodeId, room: bool) {
        if let Some(slot) = self.slots.get(peer.index()).and_then(Option::as_ref) {
            slot.session.set_room(room);
        }
    }

    /// A session that ended by itself under the engine's lock: the engine has to be fed its end. Ask until `None`.
    pub(crate) fn take_broken(&mut self) -> Option<(NodeId, SessionId, DownReason)> {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|slot| slot.broken.is_some()))?;
        let Slot {
            session, broken, ..
        } = slot.take()?;
        Some((session.peer, session.id, broken?))
    }

    fn slot(&mut self, peer: NodeId, session: SessionId) -> Option<&mut Slot> {
        self.slots
            .get_mut(peer.index())?
            .as_mut()
            .filter(|slot| slot.session.id == session)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        for peer in NodeId::all() {
            self.end_any(peer);
        }
    }
}
