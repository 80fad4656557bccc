// SPDX-License-Identifier: GPL-2.0-only

//! Blocks that this disk cannot read any more are written anew with what a peer has (see `lend` for the peer's side).
//!
//! ```text
//! a read fails: its request, or what a peer asked for, waits
//! Entering --range free--> Looking --readable--> next block; after the last one the read is done again
//!                             |unreadable
//!                             v
//!                          Seeking <-- another one -- Asking --heal-data--> Writing --stable--> Checking --> next block
//!                             +----heal-request---------^
//! ```
//! One range at a time. If nobody has a block, or it cannot be written or read again, the disk has failed. If a peer cannot
//! read it either, that would help nobody: who reads it hears of the error.
//!
//! INVARIANT: nobody here changes the range from before the first question until the last block is done. So what was
//! written to it before is older than what the peer tells, and what comes later is done later. The peer is one with which
//! this disk is in lockstep, and who orders the writes, or gets them from this node: its answer comes over the link of the
//! writes, and has no write that this node was not sent before.
//!
//! The extents are hot before a block is written, as for every write: what becomes of it is compared after a crash.

use super::context::{ensure, Context, Facts, Fault, Line};
use super::cookie::Work;
use super::disk::Disk;
use super::hold::Hold;
use super::peer_op::Kind;
use super::request::{span_of, Request, Stage};
use super::verify_run::Part;
use super::volume::{Owner, Volume, PEER_OPS};
use crate::bitmap::{Next, SECTORS_PER_BIT};
use crate::effect::{Data, Effect, IoError, Level, Object};
use crate::event::{DiskError, Io, Op};
use crate::host::{Host, Output, Time};
use crate::ranges::{RangeId, Span};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::state::{DiskState, VerifyState};
use weft_uapi::units::{NodeId, NodeSet, Sector, Seq};
use weft_uapi::wire::{Header, PacketKind, RequestError};

/// Blocks that are written anew within an hour at most: a disk that loses more is about to die.
pub(super) const HEALS_PER_HOUR: u32 = 100;
const HOUR_MS: u64 = 3_600_000;
/// How long a block waits for a peer's answer, in milliseconds.
const ANSWER_MS: u64 = 10_000;
/// When a peer is asked again whose disk was not settled, in milliseconds.
const ASK_AGAIN_MS: u64 = 100;

/// What is done about blocks that cannot be read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Healing {
    current: Option<Heal>,
    /// Somebody may wait whose turn has not come.
    is_wanted: bool,
    /// Number of the last question.
    asked: Seq,
    /// Blocks that peers asked for, and that are not to change before they were read ([`super::lend`]).
    pub(super) lent: u32,
    /// Blocks that were written anew.
    pub(super) blocks: u32,
    /// Why the disk has to go.
    verdict: Option<&'static str>,
    /// The hour that began then, and how often a read failed in it.
    hour: Time,
    failures: u32,
}

/// A range of whole blocks that could not be read.
#[derive(Clone, Copy, Debug)]
struct Heal {
    waiter: Owner,
    span: Span,
    /// What keeps others from changing it; `None`: the waiter has that itself.
    range: Option<RangeId>,
    log: Hold,
    /// First sector of the block that is being looked at.
    at: u64,
    step: Step,
    /// Peers that cannot read it either.
    lost_by: NodeSet,
    /// Peers whose disks were not settled; they are asked again then.
    unsettled: NodeSet,
    again: Option<Time>,
    /// When it was found.
    since: Time,
    /// A block was found that cannot be read.
    has_found: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Others are changing the range.
    Entering,
    /// The block is being read.
    Looking,
    /// It cannot be read, and somebody who has it is sought.
    Seeking,
    /// This peer was asked.
    Asking(Line),
    /// What this peer has is being written.
    Writing(NodeId),
    /// It is being read again.
    Checking(NodeId),
}

/// What becomes of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// It is done again.
    Again,
    /// Somebody else may do it.
    Elsewhere,
    /// It fails.
    Failed,
}

impl Healing {
    /// Whether the disk has to go.
    pub(super) fn is_hopeless(&self) -> bool {
        self.verdict.is_some()
    }

    /// The disk has failed; the first reason counts.
    fn give_up(&mut self, sentence: &'static str) {
        self.verdict.get_or_insert(sentence);
    }

    /// Notes that a read failed; `false`: too often.
    fn count(&mut self, now: Time) -> bool {
        if now.ms_since(self.hour) >= HOUR_MS {
            (self.hour, self.failures) = (now, 0);
        }
        self.failures = self.failures.saturating_add(1);
        self.failures <= HEALS_PER_HOUR
    }
}

impl Heal {
    fn block(&self) -> Span {
        let rest = self.span.end().saturating_sub(self.at);
        let sectors = u32::try_from(rest.min(SECTORS_PER_BIT)).unwrap_or(0);
        Span {
            sector: Sector(self.at),
            bytes: sectors.saturating_mul(SECTOR_BYTES),
        }
    }

    /// Whether the disk is at it.
    fn is_on_disk(&self) -> bool {
        matches!(
            self.step,
            Step::Looking | Step::Writing(_) | Step::Checking(_)
        )
    }
}

impl<H: Host> Volume<H> {
    /// A request failed; whether it waits for what it wants to be readable again.
    pub(super) fn heal_request<O: Output<H>>(
        &mut self,
        cx: &Context<'_, H, O>,
        number: u32,
    ) -> bool {
        let is_reading = |request: &&Request<H>| request.stage == Stage::Reading;
        let Some(request) = self.requests.get(number).filter(is_reading) else {
            return false;
        };
        if !self.may_heal(cx, span_of(&request.io)) {
            return false;
        }
        if let Some(request) = self.requests.get_mut(number) {
            (request.stage, request.is_local_done) = (Stage::Healing, true);
        }
        self.want_healing();
        true
    }

    /// As [`Self::heal_request`], of what a peer asked for.
    pub(super) fn heal_op<O: Output<H>>(&mut self, cx: &Context<'_, H, O>, number: u32) -> bool {
        let Some(op) = self.ops.get(number) else {
            return false;
        };
        let is_read = op.kind.is_fetched() || matches!(op.kind, Kind::Tell | Kind::Compare);
        if !is_read || !self.may_heal(cx, span_of(&op.io)) {
            return false;
        }
        if let Some(op) = self.ops.get_mut(number) {
            op.is_healing = true;
        }
        self.want_healing();
        true
    }

    /// Whether a read that failed may be passed over: what it was for comes from a peer anyway.
    pub(super) fn may_pass_over(&mut self, now: Time) -> bool {
        self.has_running_disk() && self.healing.count(now)
    }

    fn want_healing(&mut self) {
        self.healing.is_wanted = true;
        self.recheck = true;
    }

    /// Whether somebody may have what this disk cannot read.
    fn may_heal<O: Output<H>>(&self, cx: &Context<'_, H, O>, span: Span) -> bool {
        let is_good = self.has_running_disk() && self.disk_state() == DiskState::UpToDate;
        let has_peers = !self.healers(&cx.facts, span).is_empty();
        is_good && !self.is_broken && (has_peers || self.is_settling())
    }

    /// Whether it is about to be known who has what.
    fn is_settling(&self) -> bool {
        self.is_negotiating() || self.change.is_some()
    }

    /// Peers that have what this disk is to have in a range.
    fn healers(&self, facts: &Facts, span: Span) -> NodeSet {
        self.peers_that(|peer, _| self.is_in_lockstep(facts, peer, span))
    }

    /// Whether both disks have in a range what the same writes made of it, but for those under way from one to the other.
    pub(super) fn is_in_lockstep(&self, facts: &Facts, peer: NodeId, span: Span) -> bool {
        let part = match facts.leaders.contains(facts.node) {
            true => Part::Teller,
            false => Part::Comparer,
        };
        let first = span.sector.0 / SECTORS_PER_BIT;
        let end = span.end().div_ceil(SECTORS_PER_BIT);
        let is_owed = |disk: &Disk<H>, slot| match disk.bits.next_run(slot, first, 1) {
            Next::Run { bit, .. } | Next::Later(bit) => bit < end,
            Next::None => false,
        };
        // Who leads knows what the others lack; what they noted themselves may be of the past.
        let follows = facts.leaders.contains(peer);
        let is_equal = |disk: &Disk<H>| {
            let slot = disk.slot(peer);
            disk.may_hold_data() && (follows || slot.is_some_and(|slot| !is_owed(disk, slot)))
        };
        let knows_heal = self
            .replica(peer)
            .is_some_and(|replica| replica.round.knows_heal);
        knows_heal && self.may_go_on(facts, peer, part) && self.disk.as_ref().is_some_and(is_equal)
    }

    /// When a block has waited for long enough.
    pub(super) fn heal_deadline(&self) -> Option<Time> {
        let heal = self.healing.current?;
        let late = heal.since.after_ms(ANSWER_MS);
        match heal.step {
            Step::Seeking => Some(heal.again.unwrap_or(late).min(late)),
            Step::Asking(_) => Some(late),
            Step::Entering | Step::Looking | Step::Writing(_) | Step::Checking(_) => None,
        }
    }

    /// Lets a disk go that cannot be healed.
    pub(super) fn end_hopeless<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if let Some(sentence) = self.healing.verdict.take() {
            self.fail_disk(cx, sentence);
        }
    }

    /// Goes on with what cannot be read.
    #[inline(never)]
    pub(super) fn run_heal<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if self.healing.current.is_none() && !self.healing.is_wanted {
            return;
        }
        if !self.has_running_disk() {
            return self.abandon_heals(cx);
        }
        // The end of one, the beginning of another one, and its first steps.
        for _ in 0..4 {
            if self.healing.is_hopeless() {
                return;
            }
            let has_news = match self.healing.current {
                None => self.begin_heal(cx),
                Some(heal) => self.advance_heal(cx, heal),
            };
            if !has_news {
                return;
            }
        }
        self.recheck = true;
    }

    fn advance_heal<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, heal: Heal) -> bool {
        match heal.step {
            Step::Looking | Step::Writing(_) | Step::Checking(_) => false,
            // What a peer asked for has its range, and may be what is in the way.
            Step::Entering if self.unreadable_op().is_some() => {
                self.leave(heal.range);
                self.healing.current = None;
                self.want_healing();
                true
            }
            Step::Entering => false,
            Step::Seeking | Step::Asking(_) if self.is_late(cx, &heal) => {
                self.pass_on(cx, "nobody gives it a block that it cannot read");
                true
            }
            Step::Seeking => self.seek_healer(cx, heal),
            Step::Asking(line) => {
                let is_lost = self.line(line.peer) != Some(line)
                    || !self.is_in_lockstep(&cx.facts, line.peer, heal.block());
                if is_lost {
                    self.seek_beside(line.peer, false);
                }
                is_lost
            }
        }
    }

    /// Whether the answer takes too long, or what waits for the range leaves no room for it to come in.
    fn is_late<O: Output<H>>(&self, cx: &Context<'_, H, O>, heal: &Heal) -> bool {
        let is_crowded = self.ops.room() < PEER_OPS as usize / 8;
        heal.since.after_ms(ANSWER_MS) <= cx.now || (is_crowded && !self.orders_writes(&cx.facts))
    }

    /// Who waits for something to become readable, and for what.
    fn next_unreadable(&self) -> Option<(Owner, Span)> {
        self.unreadable_op().or_else(|| {
            let is_healing = |request: &Request<H>| request.stage == Stage::Healing;
            let mut requests = self.requests.iter();
            let (number, request) = requests.find(|(_, request)| is_healing(request))?;
            Some((Owner::Request(number), span_of(&request.io)))
        })
    }

    fn unreadable_op(&self) -> Option<(Owner, Span)> {
        let (number, op) = self.ops.iter().find(|(_, op)| op.is_healing)?;
        Some((Owner::Op(number), span_of(&op.io)))
    }

    fn begin_heal<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) -> bool {
        let Some((waiter, span)) = self.next_unreadable() else {
            self.healing.is_wanted = false;
            return false;
        };
        let blocks = |sector: u64| sector.saturating_mul(SECTORS_PER_BIT);
        let first = blocks(span.sector.0 / SECTORS_PER_BIT);
        let end = blocks(span.end().div_ceil(SECTORS_PER_BIT)).min(self.disk_sectors());
        let sectors = u32::try_from(end.saturating_sub(first)).unwrap_or(0);
        let span = Span {
            sector: Sector(first),
            bytes: sectors.saturating_mul(SECTOR_BYTES),
        };
        let (range, is_free) = match waiter {
            // What peers ask for has its range.
            Owner::Op(_) | Owner::Heal => (None, true),
            Owner::Request(_) => match self.ranges.enter(span, Owner::Heal) {
                Some(entered) => (Some(entered.id), entered.is_ready),
                None => {
                    self.break_down(cx, "no room for a range");
                    return false;
                }
            },
        };
        self.healing.current = Some(Heal {
            waiter,
            span,
            range,
            log: Hold::default(),
            at: first,
            step: Step::Entering,
            lost_by: NodeSet::EMPTY,
            unsettled: NodeSet::EMPTY,
            again: None,
            since: cx.now,
            has_found: false,
        });
        if is_free {
            self.look(cx);
        }
        true
    }

    /// Reads a block; the range is free.
    pub(super) fn look<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if self.has_running_disk() {
            self.heal_io(cx, Step::Looking, Op::Read, Data::None);
        }
    }

    /// Has the disk do something with the block.
    fn heal_io<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        step: Step,
        op: Op,
        data: Data<H>,
    ) {
        let volume = self.id;
        let (Some(disk), Some(heal)) = (self.disk.as_mut(), self.healing.current.as_mut()) else {
            return;
        };
        heal.step = step;
        let block = heal.block();
        disk.io_pending = disk.io_pending.saturating_add(1);
        cx.emit(Effect::Disk {
            volume,
            cookie: Work::Heal.cookie(volume),
            io: Io {
                op,
                sector: block.sector,
                bytes: block.bytes,
                fua: op.changes_data(),
                preflush: false,
            },
            data,
        });
    }

    /// The disk is done with the block.
    #[inline(never)]
    pub(super) fn on_heal_done<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        result: Result<(), DiskError>,
    ) {
        self.recheck = true;
        let is_running = self.has_running_disk();
        let Some(heal) = self.healing.current.as_mut() else {
            return;
        };
        let step = core::mem::replace(&mut heal.step, Step::Seeking);
        if !is_running {
            return;
        }
        match (step, result) {
            (Step::Looking, Ok(())) => self.next_block(cx),
            (Step::Looking, Err(DiskError)) => {
                (heal.lost_by, heal.unsettled) = (NodeSet::EMPTY, NodeSet::EMPTY);
                (heal.since, heal.has_found) = (cx.now, true);
            }
            (Step::Writing(peer), Ok(())) => {
                self.heal_io(cx, Step::Checking(peer), Op::Read, Data::None);
            }
            (Step::Checking(peer), Ok(())) => {
                self.note_healed(cx, peer);
                self.next_block(cx);
            }
            (Step::Writing(_), Err(DiskError)) => {
                self.healing
                    .give_up("a block that cannot be read cannot be written either");
            }
            (Step::Checking(_), Err(DiskError)) => {
                self.healing
                    .give_up("a block that was written anew cannot be read either");
            }
            (Step::Entering | Step::Seeking | Step::Asking(_), _) => {
                self.break_down(cx, "the disk answered for no block");
            }
        }
    }

    fn count_failure<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) -> bool {
        let is_bearable = self.healing.count(cx.now);
        if !is_bearable {
            self.healing
                .give_up("it could not read something too often within an hour");
        }
        is_bearable
    }

    fn note_healed<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(block) = self.healing.current.as_ref().map(Heal::block) else {
            return;
        };
        self.healing.blocks = self.healing.blocks.saturating_add(1);
        let (volume, start, end) = (self.id, block.sector.0, block.end());
        cx.log(
            Level::Warn,
            format_args!(
                "volume {volume}: sectors {start} to {end} could not be read; written anew with the data of node {peer}"
            ),
        );
        cx.notify(Object::Volume(volume));
    }

    /// The block is readable.
    fn next_block<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(heal) = self.healing.current.as_mut() else {
            return;
        };
        heal.at = heal.at.saturating_add(SECTORS_PER_BIT);
        if heal.at < heal.span.end() {
            return self.look(cx);
        }
        // What cannot be read as a whole, and can in pieces, is not tried for ever.
        if heal.has_found || self.count_failure(cx) {
            self.end_heal(cx, Outcome::Again);
        }
    }

    /// Asks somebody for the block; whether that was possible.
    fn seek_healer<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, mut heal: Heal) -> bool {
        if heal.again.is_some_and(|again| again > cx.now) {
            return false;
        }
        let is_hot = self.heat(heal.span, &mut heal.log);
        if !is_hot {
            // That is for nobody else to answer for.
            heal.since = cx.now;
        }
        heal.again = None;
        let healers = NodeSet(self.healers(&cx.facts, heal.block()).0 & !heal.lost_by.0);
        let settled = NodeSet(healers.0 & !heal.unsettled.0);
        let line = settled.iter().find_map(|peer| self.line(peer));
        if !healers.is_empty() && settled.is_empty() {
            heal.unsettled = NodeSet::EMPTY;
            heal.again = Some(cx.now.after_ms(ASK_AGAIN_MS));
        }
        self.healing.current = Some(heal);
        match line {
            Some(line) if is_hot => {
                self.ask_for_block(cx, line, heal);
                true
            }
            None if healers.is_empty() && !self.is_settling() => {
                self.pass_on(cx, "nobody else has a block that it cannot read");
                true
            }
            _ => false,
        }
    }

    fn ask_for_block<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, line: Line, heal: Heal) {
        self.healing.asked = Seq(self.healing.asked.0.saturating_add(1));
        let block = heal.block();
        let mut header = Header::new(PacketKind::HealRequest, Some(self.id));
        header.seq = self.healing.asked;
        (header.sector, header.bytes) = (block.sector, block.bytes);
        cx.send(line, header, &[]);
        self.healing.current = Some(Heal {
            step: Step::Asking(line),
            ..heal
        });
    }

    /// A peer tells what is in a block.
    #[inline(never)]
    pub(super) fn on_heal_data<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
        data: Option<H::Buffer>,
    ) -> Result<(), Fault> {
        let is_asked = |heal: &Heal| matches!(heal.step, Step::Asking(line) if line.peer == peer);
        let heal = self.healing.current.filter(is_asked);
        // An answer may come after the question was given up.
        let Some(heal) = heal.filter(|_| header.seq == self.healing.asked) else {
            return Ok(());
        };
        let block = heal.block();
        let is_of_block = (header.sector, header.bytes) == (block.sector, block.bytes);
        ensure(is_of_block, "the peer told what it was not asked for")?;
        self.recheck = true;
        match data.filter(|_| self.is_in_lockstep(&cx.facts, peer, block)) {
            Some(data) => {
                if self.count_failure(cx) {
                    self.heal_io(cx, Step::Writing(peer), Op::Write, Data::Buffer(data));
                }
            }
            None => self.seek_beside(peer, header.arg == u64::from(RequestError::Disk.number())),
        }
        Ok(())
    }

    /// The peer that was asked does not give the block: it cannot read it either, or its disk is not settled.
    fn seek_beside(&mut self, peer: NodeId, is_lost: bool) {
        if let Some(heal) = self.healing.current.as_mut() {
            heal.step = Step::Seeking;
            match is_lost {
                true => heal.lost_by = heal.lost_by.with(peer),
                false => heal.unsettled = heal.unsettled.with(peer),
            }
        }
    }

    /// There is no help: who has no need of it, or somewhere else to go, does so. If no peer can read the block either, who
    /// wants it hears of that.
    fn pass_on<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, sentence: &'static str) {
        let Some(heal) = self.healing.current else {
            return;
        };
        match heal.waiter {
            Owner::Op(number) => {
                let op = self.ops.get(number).filter(|op| !self.is_op_void(op));
                match op.map(|op| (op.kind, op.peer)) {
                    None => self.end_heal(cx, Outcome::Elsewhere),
                    Some((Kind::Tell | Kind::Compare, peer)) => {
                        self.end_verify(cx, peer, VerifyState::Interrupted);
                        self.end_heal(cx, Outcome::Elsewhere);
                    }
                    Some(_) => self.healing.give_up(sentence),
                }
            }
            Owner::Request(_) if cx.facts.is_client => self.end_heal(cx, Outcome::Elsewhere),
            Owner::Request(_) if !heal.lost_by.is_empty() => self.end_heal(cx, Outcome::Failed),
            Owner::Request(_) | Owner::Heal => self.healing.give_up(sentence),
        }
    }

    fn end_heal<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, outcome: Outcome) {
        if let Some(mut heal) = self.healing.current.take() {
            self.leave(heal.range);
            self.cool(heal.span, &mut heal.log);
            self.want_healing();
            self.go_on(cx, heal.waiter, outcome);
        }
    }

    fn go_on<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, waiter: Owner, outcome: Outcome) {
        match waiter {
            Owner::Request(number) => {
                // It may have been answered in another way.
                let is_healing = |request: &&mut Request<H>| request.stage == Stage::Healing;
                let Some(request) = self.requests.get_mut(number).filter(is_healing) else {
                    return;
                };
                request.has_failed = outcome != Outcome::Again;
                request.stage = Stage::Held;
                match outcome {
                    Outcome::Failed if self.has_running_disk() => {
                        self.complete(cx, number, Err(IoError::Disk), None);
                    }
                    Outcome::Failed => self.fail_request(cx, number),
                    Outcome::Again | Outcome::Elsewhere => self.advance_request(cx, number),
                }
            }
            Owner::Op(number) => {
                if let Some(op) = self.ops.get_mut(number) {
                    (op.is_healing, op.is_running) = (false, false);
                }
                match outcome {
                    Outcome::Again => self.advance_op(cx, number),
                    Outcome::Elsewhere | Outcome::Failed => self.drop_op(number),
                }
            }
            Owner::Heal => {}
        }
    }

    /// The disk is about to go: nothing is healed any more.
    fn abandon_heals<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if self.healing.current.as_ref().is_some_and(Heal::is_on_disk) {
            return;
        }
        self.end_heal(cx, Outcome::Failed);
        while let Some((waiter, _)) = self.next_unreadable() {
            self.go_on(cx, waiter, Outcome::Failed);
        }
        self.healing.is_wanted = false;
    }
}
