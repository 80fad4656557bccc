// SPDX-License-Identifier: GPL-2.0-only

//! Resyncs that wait, on this node or on the peer: because a person said so, or for those of another resource, as the host
//! tells.
//!
//! What was said here lasts until it is taken back or the peer is removed, over all sessions, but not over a reboot: a
//! machine that comes back syncs. The peer is told when a session begins and at every change; what it said itself is
//! forgotten with the session. A target that has to wait asks for nothing more and ends nothing, and takes all writes.

use super::context::{Context, Fault};
use super::replica::Replica;
use super::verify_run::Verify;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::host::{Host, Output};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::ReplicationState;
use weft_uapi::status::{
    PAUSED_AFTER, PAUSED_AFTER_THERE, PAUSED_HERE, PAUSED_SOURCE, PAUSED_THERE,
};
use weft_uapi::units::NodeId;
use weft_uapi::wire::{Header, PacketKind, FLAG_YES, PAUSE_PERSON, PAUSE_TURN};

impl<H: Host> Engine<H> {
    /// Lets resyncs with a peer wait, or not any more.
    #[inline(never)]
    pub(super) fn on_pause<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        is_paused: bool,
    ) -> Result<(), Refusal> {
        let peer = self.peer_mut(id).ok_or(Refusal::NoSuchPeer)?;
        if peer.is_paused_here == is_paused {
            return Err(match is_paused {
                true => Refusal::PauseIsSet,
                false => Refusal::PauseIsClear,
            });
        }
        if is_paused && peer.has_session() && peer.has_said_hello() && !peer.knows_orders {
            return Err(Refusal::PeerTooOld);
        }
        peer.is_paused_here = is_paused;
        self.send_pause(cx, id);
        self.note_pauses(cx, id);
        Ok(())
    }

    /// Resyncs of this resource have to wait for those of another one, or not any more.
    #[inline(never)]
    pub(super) fn on_turn<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, waits: bool) {
        if core::mem::replace(&mut self.waits_turn, waits) == waits {
            return;
        }
        for id in self.known.iter() {
            self.send_pause(cx, id);
            self.note_pauses(cx, id);
        }
    }

    /// Whether a resync is under way that waits for nothing: those of other resources may have to wait for it.
    pub fn is_resyncing(&self) -> bool {
        self.each_volume().any(Volume::is_resyncing)
    }

    /// A session begins.
    pub(super) fn tell_pause<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, id: NodeId) {
        if self.paused_here(id) != 0 {
            self.send_pause(cx, id);
        }
    }

    /// Why resyncs with a peer wait on this node's part.
    fn paused_here(&self, id: NodeId) -> u32 {
        let is_paused = self.peer(id).is_some_and(|peer| peer.is_paused_here);
        let person = if is_paused { PAUSED_HERE } else { 0 };
        let turn = if self.waits_turn { PAUSED_AFTER } else { 0 };
        person | turn
    }

    fn send_pause<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let knows_orders = self.peer(id).is_some_and(|peer| peer.knows_orders);
        let Some(line) = self.line_to(id).filter(|_| knows_orders) else {
            return;
        };
        let reasons = self.paused_here(id);
        let mut header = Header::new(PacketKind::PauseSync, None);
        header.flags = if reasons == 0 { 0 } else { FLAG_YES };
        header.arg = match reasons {
            PAUSED_AFTER => PAUSE_TURN,
            _ => PAUSE_PERSON,
        };
        cx.send(line, header, &[]);
    }

    /// The peer wants resyncs to wait, or not any more.
    #[inline(never)]
    pub(super) fn on_pause_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        if let Some(peer) = self.peer_mut(id) {
            peer.paused_there = match header.flags & FLAG_YES {
                0 => 0,
                _ if header.arg == PAUSE_TURN => PAUSED_AFTER_THERE,
                _ => PAUSED_THERE,
            };
        }
        self.note_pauses(cx, id);
        Ok(())
    }

    /// What was said here or there may have changed, or there is a new volume.
    pub(super) fn note_pauses<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let Some(peer) = self.peer(id) else {
            return;
        };
        let reasons = peer.paused_there | self.paused_here(id);
        for volume in self.each_volume_mut() {
            volume.note_pause(cx, id, reasons);
        }
    }
}

impl<H: Host> Volume<H> {
    fn is_resyncing(&self) -> bool {
        self.each_replica().any(|(_, replica)| {
            let is_under_way = matches!(
                replica.replication,
                ReplicationState::BitmapSource
                    | ReplicationState::BitmapTarget
                    | ReplicationState::SyncSource
                    | ReplicationState::SyncTarget
            );
            is_under_way && replica.paused == 0
        })
    }

    fn note_pause<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId, reasons: u32) {
        let volume = self.id;
        let Some(replica) = self
            .replica_mut(peer)
            .filter(|replica| replica.paused != reasons)
        else {
            return;
        };
        replica.paused = reasons;
        let state = match reasons {
            0 => "need not wait any more",
            _ => "have to wait",
        };
        cx.log(
            Level::Info,
            format_args!("volume {volume}, peer {peer}: resyncs {state}"),
        );
        cx.notify(Object::PeerVolume(peer, volume));
        self.recheck = true;
    }
}

impl<H: Host> Replica<H> {
    /// What people see of the replication, and why it waits, or would, bits `PAUSED_*`.
    pub(super) fn shown(&self) -> (ReplicationState, u32) {
        match self.replication {
            ReplicationState::SyncSource if self.paused != 0 => {
                (ReplicationState::PausedSource, self.paused)
            }
            ReplicationState::SyncTarget if self.paused != 0 => {
                (ReplicationState::PausedTarget, self.paused)
            }
            state @ (ReplicationState::PausedSource | ReplicationState::PausedTarget) => {
                (state, self.paused | PAUSED_SOURCE)
            }
            ReplicationState::Established => {
                let verify = self.verify.as_ref();
                let state = verify.map_or(ReplicationState::Established, Verify::shown);
                (self.distance().unwrap_or(state), self.paused)
            }
            state => (state, self.paused),
        }
    }
}
