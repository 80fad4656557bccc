// SPDX-License-Identifier: GPL-2.0-only

//! What comes over the links of a resource's sessions.

use super::Resource;
use crate::disk::Patience;
use crate::links::SessionOwner;
use crate::pump::Turn;
use crate::sys::pages::Payload;
use kernel::sync::Arc;
use weft_engine::event::Event;
use weft_uapi::units::{NodeId, SessionId};
use weft_uapi::wire::{Header, LinkKind};

/// A resource as its sessions know it.
pub(crate) struct SessionEnd(pub(crate) Arc<Resource>);

impl SessionOwner for SessionEnd {
    fn session_up(&self, peer: NodeId, session: SessionId) {
        self.0
            .feed(Event::SessionUp { peer, session }, Patience::Hurry);
    }

    fn packets(
        &self,
        peer: NodeId,
        session: SessionId,
        link: LinkKind,
        next: &mut dyn FnMut() -> Option<(Header, Option<Payload>)>,
    ) {
        let mut turn = Turn::begin(&self.0);
        while link == LinkKind::Meta || turn.state().engine.has_peer_room(peer) {
            let Some((header, data)) = next() else {
                break;
            };
            turn.handle(Event::Packet {
                peer,
                session,
                link,
                header,
                body: &[],
                data,
            });
        }
        turn.end(Patience::Hurry);
    }

    fn packet(
        &self,
        peer: NodeId,
        session: SessionId,
        link: LinkKind,
        header: Header,
        body: &[u8],
    ) {
        let packet = Event::Packet {
            peer,
            session,
            link,
            header,
            body,
            data: None,
        };
        self.0.feed(packet, Patience::Hurry);
    }

    fn session_down(&self, peer: NodeId, session: SessionId, reason: &str) {
        let mut turn = Turn::begin(&self.0);
        turn.session_down(peer, session, reason);
        turn.end(Patience::Hurry);
    }
}
