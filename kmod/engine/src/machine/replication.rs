// SPDX-License-Identifier: GPL-2.0-only

//! What a decision about two disks is noted and told as.

use super::context::Context;
use super::transitions;
use super::volume::Volume;
use crate::effect::{Level, Object};
use crate::host::{Host, Output};
use weft_uapi::state::ReplicationState;
use weft_uapi::units::NodeId;

/// How long a session goes on once it is clear that both sides have to stand alone, so that both learn why,
/// in milliseconds.
const VERDICT_MS: u64 = 2_000;

impl<H: Host> Volume<H> {
    /// Notes and tells the result of a decision.
    #[inline(never)]
    pub(super) fn on_decided<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        replication: ReplicationState,
    ) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.rule = rule;
            replica.round.discards = false;
        }
        cx.log(
            Level::Info,
            format_args!(
                "volume {}, peer {}: rule {}: {}",
                self.id, peer, rule, replication
            ),
        );
        self.set_replication(cx, peer, replication);
    }

    /// The disks must not meet before a person has had a look.
    pub(super) fn stand_alone<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        sentence: &'static str,
    ) {
        cx.log(
            Level::Error,
            format_args!(
                "volume {}, peer {}: rule {}: {}",
                self.id, peer, rule, sentence
            ),
        );
        if let Some(replica) = self.replica_mut(peer) {
            replica.rule = rule;
            replica.condemn(sentence, true, cx.now.after_ms(VERDICT_MS));
        }
        // Whatever was decided before: nothing is mirrored from now on.
        self.set_replication(cx, peer, ReplicationState::Off);
    }

    /// Changes the replication state; an illegal change breaks the volume.
    pub(super) fn set_replication<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        state: ReplicationState,
    ) {
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        let old = core::mem::replace(&mut replica.replication, state);
        if old == state {
            return;
        }
        if !transitions::replication_may_change(old, state) {
            self.break_down(cx, "illegal change of the replication state");
        }
        let was_syncing = matches!(
            old,
            ReplicationState::SyncSource | ReplicationState::SyncTarget
        );
        if was_syncing && state == ReplicationState::Established {
            self.note_resynced(peer);
        }
        cx.notify(Object::PeerVolume(peer, self.id));
    }
}
