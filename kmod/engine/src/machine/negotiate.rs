// SPDX-License-Identifier: GPL-2.0-only

//! Two sides of a volume tell each other what they have, and decide.
//!
//! Either side may ask for a new *round* at any time in a session: at its start, when a disk comes or goes, when a
//! generation was forced. Both send their state with the number of the round; two states of the same round are decided
//! together, each side on exactly the two states that were sent, so both come to mirrored results. Nothing that a state
//! tells may change between the sending and the decision: writes and generation changes wait ([`Volume::is_negotiating`]).

use super::context::{ensure, Context, Fault};
use super::disk::{Disk, Stage};
use super::exchange::Pages;
use super::invalidate::Order;
use super::replica::{Progress, Replica};
use super::said::Said;
use super::source::Source;
use super::speed::Pace;
use super::target::Target;
use super::volume::Volume;
use crate::ancestry::Ancestry;
use crate::decide::{arrange, decide, Outcome, Rule};
use crate::effect::{Level, Object};
use crate::host::{Host, Output, Time};
use crate::recovery::resolve;
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_LEFT, FLAG_OUTDATED, FLAG_WRITER_ACTIVE};
use weft_uapi::split_brain::Recovery;
use weft_uapi::state::{DiskState, ReplicationState, Role};
use weft_uapi::units::{GenerationId, Incarnation, NodeId};
use weft_uapi::wire::{FullStateBody, Header};
use zerocopy::IntoBytes;

/// How long a peer may take to answer a state, in milliseconds.
const ROUND_TIMEOUT_MS: u64 = 20_000;

const NO_SLOT: &str =
    "every bitmap slot of the disk is taken: make metadata with room for more, weft create-md --max-peers";
const BLOCK_SIZES_DIFFER: &str =
    "the logical block sizes differ: say the larger one as block-size of the volume on every node";

/// How far the negotiation with one peer is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Round {
    /// The highest round that either side asked for.
    pub(super) wanted: u32,
    /// The last round decided.
    pub(super) decided: u32,
    /// What was sent last.
    pub(super) own: Option<Said>,
    /// What was received last.
    pub(super) peer: Option<Said>,
    /// Since when the wanted round has been waiting.
    pub(super) since: Time,
    /// This side's data are given up after a split brain.
    pub(super) discards: bool,
    /// The peer understands what is told of policies.
    pub(super) tells_policies: bool,
    /// The peer understands what is told of ages.
    pub(super) tells_ages: bool,
    /// The peer understands what is told of orders.
    pub(super) knows_orders: bool,
    /// The peer knows how to compare disks.
    pub(super) knows_verify: bool,
    /// The peer takes resync data without payload for zeros.
    pub(super) knows_zeroes: bool,
    /// The peer may be asked by digest.
    pub(super) knows_csums: bool,
    /// The peer may be asked for what this disk cannot read.
    pub(super) knows_heal: bool,
    /// The peer knows how to agree on the size.
    pub(super) knows_resize: bool,
    /// The peer knows how to be left behind.
    pub(super) knows_congestion: bool,
    /// One of the two disks is to be given up; to be told in the next state.
    pub(super) order: Option<Order>,
}

impl Round {
    fn sent(&self) -> u32 {
        self.own.as_ref().map_or(0, |said| said.round)
    }

    /// The wanted round, if this side has not told its state yet.
    fn unsent(&self) -> Option<u32> {
        (self.wanted > self.sent()).then_some(self.wanted)
    }

    /// The states of both sides, once they are of one round that is not decided.
    fn both(&self) -> Option<(Said, Said)> {
        match (&self.own, &self.peer) {
            (Some(own), Some(peer)) if own.round == peer.round && own.round > self.decided => {
                Some((*own, *peer))
            }
            _ => None,
        }
    }

    /// Asks for one more round.
    pub(super) fn renew(&mut self, now: Time) {
        self.wanted = self.wanted.max(self.sent().saturating_add(1));
        self.since = now;
    }

    /// Whether this side has told its state and the peer has not.
    pub(super) fn is_told(&self) -> bool {
        self.sent() > self.decided
    }

    /// Whether a round is wanted and not decided.
    pub(super) fn is_open(&self) -> bool {
        self.wanted > self.decided
    }

    /// When the peer has had enough time.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.is_open()
            .then(|| self.since.after_ms(ROUND_TIMEOUT_MS))
    }
}

impl<H: Host> Volume<H> {
    /// Whether anything is being negotiated: no new writes, no generation changes.
    pub(super) fn is_negotiating(&self) -> bool {
        self.each_replica()
            .any(|(_, replica)| replica.is_negotiating())
    }

    /// Whether something was told to a peer that stays true until it is decided upon.
    pub(super) fn has_told(&self) -> bool {
        let mut replicas = self.each_replica();
        replicas.any(|(_, replica)| replica.session.is_some() && replica.round.is_told())
    }

    /// As [`Self::is_negotiating`], with anybody but this peer.
    pub(super) fn is_negotiating_beside(&self, peer: NodeId) -> bool {
        let mut others = self.each_replica().filter(|(other, _)| *other != peer);
        others.any(|(_, replica)| replica.is_negotiating())
            || self.replica(peer).is_some_and(Replica::is_sending_bits)
    }

    /// Asks every connected peer for a new round.
    pub(super) fn negotiate_all(&mut self, now: Time) {
        for replica in self
            .replicas
            .iter_mut()
            .flatten()
            .filter(|replica| replica.session.is_some())
        {
            replica.round.renew(now);
        }
        self.recheck = true;
    }

    /// Asks one peer for a new round.
    pub(super) fn meet_again(&mut self, peer: NodeId, now: Time) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.round.renew(now);
        }
    }

    /// Sends states and decides, where it is time.
    #[inline(never)]
    pub(super) fn run_negotiations<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.renew_targets(cx.now);
        for peer in self.sessions().iter() {
            // States are large: no copy of them is made before there is something to decide.
            let Some(round) = self.replica(peer).map(|replica| &replica.round) else {
                continue;
            };
            if round.deadline().is_some_and(|deadline| deadline <= cx.now) {
                self.condemn(peer, "the peer did not answer in time");
                continue;
            }
            if round.is_open() && self.is_jammed(peer) {
                self.condemn(peer, "the peer's answer is stuck behind its writes");
                continue;
            }
            if self.has_news(cx, peer) {
                self.meet_again(peer, cx.now);
            }
            let due = self
                .replica(peer)
                .and_then(|replica| replica.round.unsent());
            if let Some(round) = due.filter(|_| self.is_calm(cx)) {
                self.send_state(cx, peer, round);
            }
            let both = self.replica(peer).and_then(|replica| replica.round.both());
            if let Some((own, said)) = both {
                self.on_both_states(cx, peer, &own, &said);
            }
        }
    }

    /// Whether a node that a peer calls its leader may be one, as far as this node sees. Who was promised to be primary is
    /// called so, too, and may have lost the election since.
    fn may_lead<O: Output<H>>(&self, cx: &Context<'_, H, O>, node: NodeId) -> bool {
        cx.facts.leaders.contains(node) || (node != cx.facts.node && self.line(node).is_none())
    }

    /// Whether nothing more comes from a peer, since its writes wait for a sync from it.
    fn is_jammed(&self, peer: NodeId) -> bool {
        self.replica(peer).is_some_and(Replica::is_early) && self.room_for(peer) == 0
    }

    /// Whether the disk that was here is gone, or of no use any more.
    fn has_lost_disk(&self) -> bool {
        let gone = [DiskState::Failed, DiskState::Diskless, DiskState::Attaching];
        gone.contains(&self.disk_state())
    }

    /// Ends the session with a peer, to be tried again.
    pub(super) fn condemn(&mut self, peer: NodeId, sentence: &'static str) {
        if let Some(replica) = self.replica_mut(peer) {
            replica.condemn(sentence, false, Time(0));
        }
    }

    /// Whether the last decision no longer fits: something has changed that a peer waits for, or two that were equal
    /// are not any more, since a primary died that had not told both the same, or since this one fetches from a third.
    fn has_news<O: Output<H>>(&self, cx: &Context<'_, H, O>, peer: NodeId) -> bool {
        let Some(replica) = self.replica(peer) else {
            return false;
        };
        let is_settled = !replica.round.is_open() && replica.verdict.is_none();
        let (true, Some(own)) = (is_settled, &replica.round.own) else {
            return false;
        };
        let has_no_disk = |said: &Said| said.disk == DiskState::Diskless;
        if has_no_disk(own) || replica.round.peer.as_ref().is_some_and(has_no_disk) {
            // Nothing is decided with it, but it is told how this disk is and whom it follows.
            let is_old = own.disk != self.disk_state()
                || own.stance.leader != self.leader(&cx.facts)
                || own.sectors != self.told_sectors(peer);
            return self.has_running_disk() && is_old;
        }
        let is_equal = replica.receives && replica.source.is_none();
        let is_alone = self.leader(&cx.facts).is_none();
        let has_slipped = self.disk.as_ref().is_some_and(|disk| {
            let generation = disk.superblock.generation;
            let is_left_out = !generation.members.contains(peer)
                && generation.id != own.side.ancestry.current().id
                && generation
                    .writer
                    .is_some_and(|writer| writer != cx.facts.node);
            is_left_out || disk.has_flag(FLAG_INCONSISTENT) || (is_alone && disk.marked(peer) > 0)
        });
        let is_better = own.disk == DiskState::Outdated && self.disk_state() == DiskState::UpToDate;
        let has_joined = self.may_be_redeemed(own);
        if is_equal || !replica.is_waiting {
            return is_equal && (has_slipped || is_better || has_joined);
        }
        let body = self.state_body(&cx.facts, peer, own.round);
        Said::from_body(&body, &self.state_header(), cx.facts.node, cx.facts.role)
            .is_some_and(|said| said.gist() != own.gist())
    }

    /// Whether what a state tells will stay true.
    fn is_calm<O: Output<H>>(&self, cx: &Context<'_, H, O>) -> bool {
        // A state tells the role: it waits for a promotion that has been asked for or is on record already, or for an end.
        let is_promoting = cx.facts.in_transition && !cx.facts.is_primary();
        let is_wanted = self.wants_promotion.is_some() || self.wants_union;
        let is_ending = self.is_overtaken && cx.facts.is_primary();
        if is_ending || (is_promoting && !is_wanted && self.stalled.is_none()) {
            return false;
        }
        let is_attaching = self
            .disk
            .as_ref()
            .is_some_and(|disk| matches!(disk.stage, Stage::Attaching(_)));
        // A disk that goes hears nothing more, and who holds what is not told of it.
        let is_there = self.has_running_disk();
        // What a state says a power cut must not take back, also when the session that it came by is over.
        let is_volatile = |disk: &Disk<H>| disk.stage == Stage::Running && !disk.has_line_durable();
        let is_unsure =
            |replica: &Replica<H>| replica.adopting.is_some() || (replica.awaits_force && is_there);
        !is_attaching
            && !self.disk.as_ref().is_some_and(is_volatile)
            && self.change.is_none()
            && !self.resize.is_pending()
            && !self.each_replica().any(|(_, replica)| is_unsure(replica))
    }

    fn send_state<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId, round: u32) {
        let Some(line) = self.line(peer) else {
            return;
        };
        let body = self.state_body(&cx.facts, peer, round);
        let header = self.state_header();
        let Some(said) = Said::from_body(&body, &header, cx.facts.node, cx.facts.role) else {
            self.break_down(cx, "this node's own state is malformed");
            return;
        };
        if let Some(replica) = self.replica_mut(peer) {
            replica.round.own = Some(said);
            replica.round.since = cx.now;
        }
        let bytes = if self.tells_ages(peer) {
            body.as_bytes()
        } else {
            body.state.as_bytes()
        };
        cx.send(line, header, bytes);
    }

    /// The peer told its state.
    #[inline(never)]
    pub(super) fn on_state<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        body: &[u8],
    ) -> Result<(), Fault> {
        let malformed = Fault("the peer sent a malformed state");
        let body = FullStateBody::parse(body).ok_or(malformed)?;
        let role = Role::from_number(body.state.role.get().into()).ok_or(malformed)?;
        let said = Said::from_body(&body, header, peer, role)
            .filter(|_| body.state.is_valid())
            .ok_or(malformed)?;
        let replica = self.replica_mut(peer).ok_or(malformed)?;
        let last = replica.round.peer.as_ref().map_or(0, |said| said.round);
        // At most one ahead of what was asked for, so the number never runs away.
        let is_next = said.round > last && said.round <= replica.round.wanted.saturating_add(1);
        ensure(is_next, "the peer's rounds are out of order")?;
        if said.round > replica.round.wanted {
            replica.round.wanted = said.round;
            replica.round.since = cx.now;
        }
        replica.round.peer = Some(said);
        // It is not in the middle of a change.
        replica.awaits_force = false;
        replica.peer_disk = said.disk;
        self.grow_exposure(cx, peer, said.sectors);
        cx.notify(Object::PeerVolume(peer, self.id));
        self.recheck = true;
        Ok(())
    }

    /// Both states of a round are there.
    #[inline(never)]
    fn on_both_states<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        own: &Said,
        said: &Said,
    ) {
        if self
            .replica(peer)
            .is_some_and(|replica| replica.source.is_some())
        {
            // The peer may have turned away from what is on its way.
            self.void_sent(peer);
        }
        if let Some(replica) = self.replica_mut(peer) {
            replica.round.decided = own.round;
            replica.round.order.take_if(|_| own.has_order());
            replica.verdict = None;
            (replica.recovery, replica.victim) = (Recovery::None, None);
            replica.forget_decision();
        }
        self.recheck = true;
        if own.disk != DiskState::Diskless && self.has_lost_disk() {
            // Nothing is decided about a disk that failed since: the peer has to hear that.
            return self.meet_again(peer, cx.now);
        }
        let have_disks = own.disk != DiskState::Diskless && said.disk != DiskState::Diskless;
        let writes = |said: &Said| said.role == Role::Primary && !said.is_stalled;
        if (writes(own) && writes(said)) || self.is_rival(&cx.facts, peer, said) {
            let rule = match have_disks {
                true => decide(&own.side, &said.side).rule.name(),
                false => "no-disk",
            };
            self.stay_split(cx, peer, rule, Recovery::TwoPrimaries);
        } else if have_disks && own.sectors != said.sectors {
            self.on_sizes(cx, peer, own, said);
        } else if have_disks && own.block_bytes != said.block_bytes {
            cx.log(
                Level::Error,
                format_args!(
                    "volume {}, peer {}: logical blocks of {} bytes here, of {} there",
                    self.id, peer, own.block_bytes, said.block_bytes
                ),
            );
            self.stand_alone(cx, peer, "block-size", BLOCK_SIZES_DIFFER);
        } else if have_disks {
            self.decide(cx, peer, own, said);
        } else {
            self.on_decided(cx, peer, "no-disk", ReplicationState::Established);
            self.stop_mirroring(peer);
            self.witness_state(&cx.facts, peer);
        }
    }

    pub(super) fn decide<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        own: &Said,
        said: &Said,
    ) {
        let resolution = resolve(&own.contender(), &said.contender());
        let decision = resolution.decision;
        let rule = decision.rule.name();
        let lines = [&own.side.ancestry, &said.side.ancestry];
        let is_same = lines[0].current().id == lines[1].current().id;
        let told = (own.side.seen_incarnation, own.side.seen_attach_id);
        let is_rolled_back = said.side.is_rolled_back(&own.side);
        // A third node has said meanwhile that the generation is in force.
        let gist = |line: &Ancestry| (line.current().id, line.written_before());
        let is_confirmed = |disk: &Disk<H>| gist(&disk.ancestry()) != gist(&own.side.ancestry);
        let has_changed = self.disk.as_ref().is_some_and(is_confirmed);
        // A record in force has said meanwhile that the peer's disk was fetched anew.
        let has_heard = |disk: &Disk<H>| is_rolled_back && disk.seen(peer) != told;
        let is_whole = self.disk.as_ref().is_some_and(has_heard);
        let is_target = matches!(decision.outcome, Outcome::SyncTarget { .. });
        if (has_changed && is_target) || is_whole || self.has_united_since(peer, own) {
            if let Some(replica) = self.replica_mut(peer) {
                // Nothing has come of it yet.
                replica.round.order = own.order();
            }
            return self.meet_again(peer, cx.now);
        }
        if is_rolled_back && self.is_outlived(peer) {
            return;
        }
        if let Some(replica) = self.replica_mut(peer) {
            replica.is_behind = matches!(decision.outcome, Outcome::SyncSource { .. });
            replica.knows_less = own.side.would_forget(&said.side);
            let is_blank = lines[1].is_blank() && !lines[0].is_blank();
            replica.is_newcomer = said.side.is_newcomer || is_rolled_back || is_blank;
            replica.has_left = said.has_left;
        }
        if let Some(disk) = self.disk.as_mut() {
            if is_same && lines[1].written_before() == GenerationId::NONE {
                // The peer has heard that the generation is in force.
                disk.confirm();
            }
            if is_rolled_back && !matches!(decision.outcome, Outcome::SyncTarget { .. }) {
                // Every image of it is too old until it has been fetched anew, however often it is attached.
                disk.set_seen(peer, Incarnation(u64::MAX), 0);
            } else {
                disk.set_seen(peer, said.side.incarnation, said.side.attach_id);
                disk.note_age(peer, said.side.attach_id, said.side.age, cx.now);
            }
            if decision.rule == Rule::RolledBack || said.side.ancestry.is_blank() {
                // What it acknowledged is gone.
                disk.set_since(peer, GenerationId::NONE);
            }
            if disk.ensure_slot(peer).is_none() {
                self.stand_alone(cx, peer, rule, NO_SLOT);
                return;
            }
        }
        match arrange(decision, &own.stance, &said.stance) {
            Outcome::None => self.on_equal(cx, peer, rule, own, said),
            Outcome::NoSource => {
                self.on_waiting(cx, peer, rule, ReplicationState::Established);
                if said.side.is_inconsistent
                    && said.side.ancestry.written() != own.side.ancestry.written()
                {
                    // It was fetching newer data from somebody else.
                    self.outdate(cx);
                }
            }
            Outcome::Wait => {
                let replication = match decision.outcome {
                    Outcome::SyncSource { .. } => ReplicationState::PausedSource,
                    Outcome::SyncTarget { .. } => ReplicationState::PausedTarget,
                    _ => ReplicationState::Established,
                };
                self.on_waiting(cx, peer, rule, replication);
                // Who is only about to be primary may never be it, and has written nothing.
                let leader = said.stance.leader.filter(|_| said.stance.is_led);
                let is_led = leader.is_some_and(|leader| self.may_lead(cx, leader));
                if own.stance.leader.is_none() && is_led {
                    self.outdate(cx);
                }
            }
            Outcome::SyncSource { .. } if self.source_node().is_some() => {
                // It has become a target since it told its state: the peer has to hear that.
                self.meet_again(peer, cx.now);
            }
            Outcome::SyncSource { full } => {
                self.end_split(cx, peer, &resolution);
                self.on_source(cx, peer, decision.rule, full);
            }
            Outcome::SyncTarget { .. } if !self.choose_source(cx, said) => {}
            Outcome::SyncTarget { full }
                if matches!(decision.rule, Rule::Invalidated | Rule::Repair) =>
            {
                let target = Target::given_up(Pages::new(full), said.side.ancestry);
                self.on_given_up(cx, peer, rule, target);
            }
            Outcome::SyncTarget { full } => {
                self.end_split(cx, peer, &resolution);
                self.on_target(
                    cx,
                    peer,
                    rule,
                    Target::new(
                        Pages::new(full),
                        said.side.ancestry,
                        own.side.is_rolled_back(&said.side) || lines[0].is_blank(),
                    ),
                );
                self.mark_all_if(peer, full);
                if full {
                    // Whoever else it fetches from, before it is complete, has to give it everything, too.
                    self.mark_everything();
                }
            }
            Outcome::SplitBrain => self.stay_split(cx, peer, rule, resolution.recovery),
            Outcome::Refuse => self.stand_alone(cx, peer, rule, "the disks hold unrelated data"),
        }
    }

    /// The disks are equal.
    #[inline(never)]
    fn on_equal<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        own: &Said,
        said: &Said,
    ) {
        self.on_decided(cx, peer, rule, ReplicationState::Established);
        let are_outdated = [own.disk, said.disk] == [DiskState::Outdated; 2] || self.is_outrun();
        let said_id = own.side.ancestry.current().id;
        let Some(disk) = self.disk.as_mut() else {
            return;
        };
        if disk.superblock.generation.id != said_id {
            // A primary's record has come in between.
            return self.meet_again(peer, cx.now);
        }
        // Both states named this generation as durable.
        disk.set_since(peer, said_id);
        self.on_known(peer, said_id);
        if let Some(replica) = self.replica_mut(peer) {
            replica.receives = true;
            replica.accepts = true;
            replica.peer_disk = said.disk;
        }
        self.note_carried(peer);
        self.expose(cx);
        self.reconciled(cx);
        if !are_outdated {
            if let Some(disk) = self.disk.as_mut() {
                disk.set_flag(FLAG_OUTDATED, self.is_leaving);
            }
            self.set_disk_state(cx, DiskState::UpToDate);
            if let Some(replica) = self.replica_mut(peer) {
                replica.peer_disk = DiskState::UpToDate;
            }
        }
        self.redeem(cx);
    }

    /// Nothing to do with the peer for now; looked at again when something changes.
    fn on_waiting<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        replication: ReplicationState,
    ) {
        let discards = self
            .replica(peer)
            .is_some_and(|replica| replica.round.discards);
        self.on_decided(cx, peer, rule, replication);
        self.stop_mirroring(peer);
        if let Some(replica) = self.replica_mut(peer) {
            replica.is_waiting = true;
            // Nothing has been given up yet.
            replica.round.discards = discards;
        }
    }

    /// Whether this disk fetches from who said that from now on. A primary takes the place of another source; of two others,
    /// or two primaries, the first one stays, and this one learns of it by a new round.
    fn choose_source<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, said: &Said) -> bool {
        let peer = said.side.node;
        let Some(other) = self.source_node().filter(|&other| other != peer) else {
            return true;
        };
        let is_leader = said.stance.leader == Some(peer) && !self.is_source_leader(&cx.facts);
        let dropped = if is_leader { other } else { peer };
        if let Some(replica) = self.replica_mut(dropped) {
            replica.forget_decision();
            replica.round.renew(cx.now);
        }
        is_leader
    }

    /// Whoever fetches here would lack what another node has.
    pub(super) fn stop_sources(&mut self, now: Time) {
        for peer in self.sessions().iter() {
            let is_source = self
                .replica(peer)
                .is_some_and(|replica| replica.source.is_some());
            if !is_source {
                continue;
            }
            self.void_sent(peer);
            if let Some(replica) = self.replica_mut(peer) {
                replica.forget_decision();
                replica.round.renew(now);
            }
        }
    }

    /// A crash of this disk's node does not matter any more once every member agreed on what counts: until then one of
    /// them may have kept what this disk lost.
    pub(super) fn reconciled<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_primary = cx.facts.is_primary() || cx.facts.in_transition;
        let whole = self.whole().with(cx.facts.node);
        if let Some(disk) = self.disk.as_mut().filter(|_| !is_primary) {
            if disk.superblock.generation.members.0 & !whole.0 == 0 {
                disk.set_flag(FLAG_WRITER_ACTIVE, false);
            }
        }
    }

    #[inline(never)]
    fn on_source<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: Rule,
        full: bool,
    ) {
        self.on_decided(cx, peer, rule.name(), ReplicationState::BitmapSource);
        // One that left has newer data than this peer, and yet not those that it left others to write.
        let has_left = |disk: &Disk<H>| disk.has_flag(FLAG_LEFT) && disk.has_flag(FLAG_OUTDATED);
        if !self.disk.as_ref().is_some_and(has_left) {
            self.set_disk_state(cx, DiskState::UpToDate);
        }
        // What a person gave up the peer names once it is on record there.
        self.mark_all_if(peer, full && rule != Rule::Invalidated);
        if let Some(replica) = self.replica_mut(peer) {
            replica.peer_disk = DiskState::Inconsistent;
            replica.source = Some(Source {
                pages: Pages::new(full).after_peer(rule == Rule::Forked),
                stable_by: None,
                is_peer_ready: false,
                pace: Pace::new(cx.now, &cx.facts.speed),
                has_joined: false,
                has_skipped: false,
            });
            replica.progress = Progress {
                started: cx.now,
                ..Progress::default()
            };
        }
    }

    #[inline(never)]
    pub(super) fn on_target<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        rule: &'static str,
        target: Target,
    ) {
        self.on_decided(cx, peer, rule, ReplicationState::BitmapTarget);
        // What others would fetch from here it does not have itself.
        self.stop_sources(cx.now);
        // A primary that may not write, while the others went on.
        self.is_overtaken |= cx.facts.is_primary();
        // INVARIANT (I3): this disk has said that nothing was written in its record, and the source goes on from that.
        // So no vote that comes later puts it in force.
        self.stalled = None;
        let now = cx.now;
        if let Some(replica) = self.replica_mut(peer) {
            replica.peer_disk = DiskState::UpToDate;
            replica.target = Some(target);
            replica.progress = Progress {
                started: now,
                ..Progress::default()
            };
        }
    }

    pub(super) fn mark_everything(&mut self) {
        if let Some(disk) = self.disk.as_mut() {
            for slot in disk.superblock.slot_of_node.iter().flatten() {
                disk.bits.set_all((*slot).into());
            }
        }
    }

    fn mark_all_if(&mut self, peer: NodeId, full: bool) {
        if let Some(disk) = self.disk.as_mut().filter(|_| full) {
            if let Some(slot) = disk.slot(peer) {
                disk.bits.set_all(slot);
            }
        }
    }
}
