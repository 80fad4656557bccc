// SPDX-License-Identifier: GPL-2.0-only

//! What administrators choose, and how that stands: who votes and is there, and whether requests have to wait.

use super::context::Context;
use super::prospect::Prospect;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Level, Object};
use crate::event::{Options, Token};
use crate::host::{Host, Output, Time};
use crate::quorum::Quorum;
use weft_uapi::refusal::Refusal;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{ConnectionState, Role};
use weft_uapi::units::{NodeId, NodeSet};

/// What listeners were told last.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Standing {
    /// Why requests wait, bits `SUSPENDED_*`.
    suspended: u32,
    pub(super) suspended_since: Option<Time>,
    voters_present: NodeSet,
    has_quorum: bool,
    prospect: Prospect,
}

impl<H: Host> Engine<H> {
    /// Changes options; all of them or none.
    #[inline(never)]
    pub(super) fn on_options<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        options: Options,
    ) {
        let known = self
            .peers()
            .fold(NodeSet::of(self.config.node), NodeSet::with);
        let voters = options.voters.unwrap_or_default();
        if let Some(stranger) = voters.iter().find(|&voter| !known.contains(voter)) {
            return cx.refuse(token, Refusal::NoSuchVoter, format_args!("node {stranger}"));
        }
        let speed = options.speed(self.speed.bounds);
        if !speed.is_valid() {
            let Speed { min, max, .. } = speed;
            let refusal = Refusal::BadArgument;
            return cx.refuse(
                token,
                refusal,
                format_args!("resyncs of at least {min} and at most {max} bytes per second"),
            );
        }
        let congestion = options.congestion(self.congestion);
        // Those of a new resource were named before it had peers.
        let named = options.pull_ahead.unwrap_or_default();
        if let Some(stranger) = named.iter().find(|&peer| !known.contains(peer)) {
            return cx.refuse(token, Refusal::NoSuchPeer, format_args!("node {stranger}"));
        }
        if !congestion.is_valid() {
            let fill = congestion.fill;
            let refusal = Refusal::BadArgument;
            return cx.refuse(token, refusal, format_args!("congestion at {fill} bytes"));
        }
        self.set_speed(speed);
        self.congestion = congestion;
        self.protocol = options.protocol.unwrap_or(self.protocol);
        self.fencing = options.fencing.unwrap_or(self.fencing);
        self.policies = Policies {
            none: options.split_brain_0.unwrap_or(self.policies.none),
            one: options.split_brain_1.unwrap_or(self.policies.one),
        };
        self.csums = options.csums.unwrap_or(self.csums);
        // Two that are primary already stay it.
        self.two_primaries = options.two_primaries.unwrap_or(self.two_primaries);
        self.opening.options.change(&options);
        let before = self.quorum;
        self.quorum.voters = options.voters.unwrap_or(before.voters);
        self.quorum.on_lost = options.on_no_quorum.unwrap_or(before.on_lost);
        // What a majority of the former voters knows, one of these may not.
        let wants_vote = self.quorum.voters != before.voters && self.role == Role::Primary;
        for volume in self.each_volume_mut() {
            volume.wants_vote |= wants_vote;
            volume.recheck = true;
        }
        cx.notify(Object::Resource);
        cx.reply(token, Ok(()));
    }

    /// The voters that are connected, and this node if it is one; of those whose disk is new none, unless all are there.
    pub(super) fn voters_present(&self) -> NodeSet {
        let is_connected = |id: &NodeId| {
            let peer = self.peer(*id);
            *id == self.config.node
                || peer.is_some_and(|peer| peer.connection() == ConnectionState::Connected)
        };
        let voters = self.quorum.voters.iter().filter(is_connected);
        let present = voters.fold(NodeSet::EMPTY, NodeSet::with);
        if present == self.quorum.voters {
            return present;
        }
        NodeSet(present.0 & !self.newcomers().0)
    }

    /// Whether this node is with a majority of the voters, which knows the current record if this node is primary.
    pub(super) fn has_quorum(&self, voters_present: NodeSet) -> bool {
        self.may_decide(voters_present) && self.each_volume().all(|volume| volume.stalled.is_none())
    }

    /// How many of the voters that have not left make a majority.
    fn votes_needed(&self) -> u32 {
        let rest = NodeSet(self.quorum.voters.0 & !self.voters_left().0);
        let quorum = Quorum {
            voters: rest,
            ..self.quorum
        };
        quorum.needed()
    }

    /// Whether these voters may decide.
    pub(super) fn may_decide(&self, voters_present: NodeSet) -> bool {
        let facts = self.facts();
        let has_votes = |volume: &Volume<H>| volume.has_votes(&facts, voters_present);
        match self.volumes().next() {
            Some(_) => self.each_volume().all(has_votes),
            None => self.quorum.has_majority(voters_present),
        }
    }

    /// Tells listeners when it changes who is there to vote, whether requests wait, or whether a promotion would work.
    pub(super) fn tell_standing<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let before = self.standing;
        let (suspended, voters_present) = (self.suspended(), self.voters_present());
        let now = Standing {
            suspended,
            suspended_since: (suspended != 0).then(|| before.suspended_since.unwrap_or(cx.now)),
            voters_present,
            has_quorum: self.has_quorum(voters_present),
            prospect: self.prospect(voters_present),
        };
        self.standing = now;
        if before.has_quorum != now.has_quorum && self.quorum.is_on() {
            let level = if now.has_quorum {
                Level::Info
            } else {
                Level::Warn
            };
            cx.log(
                level,
                format_args!(
                    "quorum {}: {} of {} voters present, {} needed",
                    if now.has_quorum { "yes" } else { "no" },
                    now.voters_present.len(),
                    self.quorum.voters.len(),
                    self.votes_needed()
                ),
            );
        }
        let tell = |standing: &Standing| {
            (
                standing.suspended,
                standing.voters_present,
                standing.has_quorum,
                standing.prospect,
            )
        };
        if tell(&before) != tell(&now) {
            cx.notify(Object::Resource);
        }
    }
}
