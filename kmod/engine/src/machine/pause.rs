// SPDX-License-Identifier: GPL-2.0-only

//! Resyncs that wait because a person said so, on this node or on the peer.
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
use weft_uapi::status::{PAUSED_HERE, PAUSED_SOURCE, PAUSED_THERE};
use weft_uapi::units::NodeId;
use weft_uapi::wire::{Header, PacketKind, FLAG_YES};

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
        if peer.knows_orders {
            self.send_pause(cx, id, is_paused);
        }
        self.note_pauses(cx, id);
        Ok(())
    }

    /// A session begins.
    pub(super) fn tell_pause<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let is_news = self
            .peer(id)
            .is_some_and(|peer| peer.is_paused_here && peer.knows_orders);
        if is_news {
            self.send_pause(cx, id, true);
        }
    }

    fn send_pause<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, id: NodeId, is_paused: bool) {
        if let Some(line) = self.line_to(id) {
            let mut header = Header::new(PacketKind::PauseSync, None);
            header.flags = if is_paused { FLAG_YES } else { 0 };
            cx.send(line, header, &[]);
        }
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
            peer.is_paused_there = header.flags & FLAG_YES != 0;
        }
        self.note_pauses(cx, id);
        Ok(())
    }

    /// What was said here or there may have changed, or there is a new volume.
    pub(super) fn note_pauses<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: NodeId) {
        let Some(peer) = self.peer(id) else {
            return;
        };
        let here = if peer.is_paused_here { PAUSED_HERE } else { 0 };
        let there = if peer.is_paused_there {
            PAUSED_THERE
        } else {
            0
        };
        for volume in self.each_volume_mut() {
            volume.note_pause(cx, id, here | there);
        }
    }
}

impl<H: Host> Volume<H> {
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
                (state, self.paused)
            }
            state => (state, self.paused),
        }
    }
}
