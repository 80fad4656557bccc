// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of a split brain that was decided upon: who gives its data up, or why nobody does.

use super::context::Context;
use super::volume::Volume;
use super::Engine;
use crate::effect::Level;
use crate::host::{Host, Output};
use crate::recovery::{sentence, Resolution};
use weft_uapi::ondisk::FLAG_GIVEN_UP;
use weft_uapi::split_brain::{Policies, Recovery};
use weft_uapi::units::NodeId;

impl<H: Host> Engine<H> {
    /// Why configured policies for a split brain do not count; `None`: they do, or none is configured.
    ///
    /// With quorum only a person makes a fork, by force. Volumes are decided one by one, and an application that uses
    /// several of them would find data of two histories.
    pub(super) fn policies_barred(&self) -> Option<Recovery> {
        if self.policies == Policies::default() {
            None
        } else if self.quorum.is_on() {
            Some(Recovery::Quorum)
        } else {
            let mut others = self.each_volume().skip(1);
            others.next().map(|_| Recovery::SeveralVolumes)
        }
    }
}

impl<H: Host> Volume<H> {
    /// A fork ends: one side takes over what the other one has. If that is this one, it is on record before the bitmaps are
    /// united: after that nobody can tell who changed how much, so who loses must not be decided anew.
    pub(super) fn end_split<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        resolution: &Resolution,
    ) {
        let Some(victim) = resolution.victim else {
            return;
        };
        cx.log(
            Level::Warn,
            format_args!(
                "volume {}, peer {}: split brain solved by {}: the data of node {} are given up",
                self.id, peer, resolution.recovery, victim
            ),
        );
        if let Some(disk) = self.disk.as_mut().filter(|_| victim == cx.facts.node) {
            disk.set_flag(FLAG_GIVEN_UP, true);
        }
        if let Some(replica) = self.replica_mut(peer) {
            (replica.recovery, replica.victim) = (resolution.recovery, resolution.victim);
        }
    }

    /// A fork remains: both sides stay apart until a person has chosen.
    pub(super) fn stay_split<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        recovery: Recovery,
    ) {
        let recovery = match (recovery, cx.facts.policies_barred) {
            (Recovery::Disconnect, Some(bar)) => bar,
            _ => recovery,
        };
        if let Some(replica) = self.replica_mut(peer) {
            replica.recovery = recovery;
        }
        self.stand_alone(cx, peer, rule, sentence(recovery));
    }

    /// Whether this disk's data are given up and that is not on record yet.
    pub(super) fn is_giving_up(&self) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| disk.has_flag(FLAG_GIVEN_UP) && !disk.is_settled())
    }
}
