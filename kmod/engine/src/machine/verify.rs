// SPDX-License-Identifier: GPL-2.0-only

//! Online verify: the copies of two nodes are compared while they are in use, and what differs is repaired by order.
//!
//! ```text
//! who orders the writes (teller)                        the other one (comparer)
//!   order --verify-begin-->
//!   range held, its digest --verify-digest-->  held behind what was sent before, digested, compared
//!                          <--verify-result--
//! ```
//! INVARIANT: a digest goes over the data link while its range is held, and the comparer queues for the range as soon as it
//! comes. So both digests are of the same moment in the order of writes, and an application is never taken for a
//! difference. That holds for writes of the teller only: as soon as somebody else leads, the run ends.
//!
//! A range that differs is told again block by block. What was found, and how far a run came, outlives sessions.

use super::context::{Context, Facts, Line};
use super::invalidate::{Denial, GiveUp, Order};
use super::verify_run::{Part, Reach, Verify};
use super::volume::Volume;
use super::Engine;
use crate::bitmap::SECTORS_PER_BIT;
use crate::decide::Rule;
use crate::effect::{Level, Object};
use crate::event::{Token, Wanted};
use crate::host::{Host, Output};
use crate::ranges::Span;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{DiskState, ReplicationState, VerifyState};
use weft_uapi::status::SectorRange;
use weft_uapi::units::{NodeId, NodeSet, Sector, Seq, VolumeId};
use weft_uapi::wire::{Header, PacketKind, FLAG_YES};

impl<H: Host> Engine<H> {
    /// Compares the disk of a volume with a peer's.
    #[inline(never)]
    pub(super) fn on_verify<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        (id, peer): (VolumeId, NodeId),
        wanted: Wanted,
    ) {
        let Some(volume) = self.volume_mut(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        if let Err(denial) = volume.order_verify(cx, token, peer, wanted) {
            cx.deny(token, denial);
        }
    }

    /// Ends that.
    #[inline(never)]
    pub(super) fn on_verify_stop<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
        peer: NodeId,
    ) -> Result<(), Refusal> {
        let volume = self.volume_mut(id).ok_or(Refusal::NoSuchVolume)?;
        let verify = volume.verify(peer).ok_or(Refusal::NoSuchPeer)?;
        verify.running().ok_or(Refusal::VerifyNotRunning)?;
        volume.end_verify(cx, peer, VerifyState::Stopped);
        Ok(())
    }

    /// Copies what was found from the one disk to the other.
    #[inline(never)]
    pub(super) fn on_repair<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        (id, peer): (VolumeId, NodeId),
        from: NodeId,
    ) {
        let facts = cx.facts;
        let Some(volume) = self.volume_mut(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        match volume.may_repair(&facts, peer, from) {
            Ok(order) => volume.begin_invalidation(cx, token, peer, order),
            Err(denial) => cx.deny(token, denial),
        }
    }
}

impl<H: Host> Volume<H> {
    pub(super) fn verify(&self, peer: NodeId) -> Option<&Verify> {
        self.replica(peer)?.verify.as_ref()
    }

    pub(super) fn verify_mut(&mut self, peer: NodeId) -> Option<&mut Verify> {
        self.replica_mut(peer)?.verify.as_mut()
    }

    fn order_verify<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        peer: NodeId,
        wanted: Wanted,
    ) -> Result<(), Denial> {
        let part = self.may_verify(&cx.facts, peer)?;
        let reach = self
            .reach(peer, wanted)
            .map_err(|refusal| (refusal, None))?;
        match part {
            Part::Teller => {
                self.begin_telling(cx, peer, reach);
                cx.reply(token, Ok(()));
            }
            Part::Comparer => {
                self.send_verify(cx, peer, PacketKind::VerifyOrder, Seq(0), reach);
                if let Some(verify) = self.verify_mut(peer) {
                    verify.asker = Some((token, reach));
                }
            }
        }
        Ok(())
    }

    /// Whether the two disks may be compared now, and who does what.
    pub(super) fn may_verify(&self, facts: &Facts, peer: NodeId) -> Result<Part, Denial> {
        self.may_order(facts)?;
        self.may_order_with(peer)?;
        let refuse = |refusal| Err((refusal, Some(peer)));
        let is_busy = |verify: &Verify| verify.running().is_some() || verify.asker.is_some();
        if self.disk_state() != DiskState::UpToDate {
            Err((Refusal::NoUpToDateDisk, None))
        } else if !self.replica(peer).is_some_and(|it| it.round.knows_verify) {
            refuse(Refusal::PeerTooOld)
        } else if self.verify(peer).is_some_and(is_busy) {
            refuse(Refusal::VerifyRunning)
        } else {
            let other = facts.leaders.without(peer).without(facts.node);
            part(facts, peer).ok_or((Refusal::OtherWriter, other.iter().next()))
        }
    }

    fn reach(&self, peer: NodeId, wanted: Wanted) -> Result<Reach, Refusal> {
        let resumes = wanted == Wanted::Rest;
        let range = match wanted {
            Wanted::Rest => {
                let last = self.verify(peer).filter(|it| it.state.is_resumable());
                let last = last.ok_or(Refusal::NothingToResume)?;
                let (start, end) = (last.upto, last.range.end.min(self.sectors()));
                SectorRange { start, end }
            }
            Wanted::Range { start, stop } => {
                let blocks = |sector: Sector| sector.0 / SECTORS_PER_BIT;
                let stop = stop.map_or(u64::MAX, |stop| {
                    stop.0
                        .div_ceil(SECTORS_PER_BIT)
                        .saturating_mul(SECTORS_PER_BIT)
                });
                SectorRange {
                    start: blocks(start).saturating_mul(SECTORS_PER_BIT),
                    end: stop.min(self.sectors()),
                }
            }
        };
        match range.start < range.end {
            true => Ok(Reach { range, resumes }),
            false => Err(Refusal::BadArgument),
        }
    }

    /// This node begins a run, in which it tells the digests.
    pub(super) fn begin_telling<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        reach: Reach,
    ) {
        let run = Seq(cx.random_id());
        self.send_verify(cx, peer, PacketKind::VerifyBegin, run, reach);
        self.begin_verify(cx, peer, Part::Teller, run, reach);
    }

    fn send_verify<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        kind: PacketKind,
        run: Seq,
        reach: Reach,
    ) {
        if let Some(line) = self.line(peer) {
            let mut header = Header::new(kind, Some(self.id));
            (header.seq, header.sector) = (run, Sector(reach.range.start));
            header.arg = reach.range.end;
            header.flags = if reach.resumes { FLAG_YES } else { 0 };
            cx.send(line, header, &[]);
        }
    }

    pub(super) fn begin_verify<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        part: Part,
        run: Seq,
        reach: Reach,
    ) {
        let (now, volume) = (cx.now, self.id);
        let Some(verify) = self.verify_mut(peer) else {
            return;
        };
        verify.begin(now, part, run, reach);
        let asker = verify.asker.take_if(|(_, asked)| *asked == reach);
        if let Some((token, _)) = asker {
            cx.reply(token, Ok(()));
        }
        let SectorRange { start, end } = reach.range;
        cx.log(
            Level::Info,
            format_args!("volume {volume}, peer {peer}: verify of sectors {start} to {end} begins"),
        );
        cx.notify(Object::PeerVolume(peer, volume));
        self.recheck = true;
    }

    /// The peer will not begin what a person asked for.
    pub(super) fn refuse_asker<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        refusal: Refusal,
    ) {
        let asker = self.verify_mut(peer).and_then(|it| it.asker.take());
        if let Some((token, _)) = asker {
            cx.deny(token, (refusal, Some(peer)));
        }
    }

    /// Goes on with every run, or ends it.
    #[inline(never)]
    pub(super) fn run_verifies<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for peer in self.sessions().iter() {
            let Some(verify) = self.verify(peer) else {
                continue;
            };
            let is_asking = verify.asker.is_some();
            let running = verify.running();
            if is_asking && !self.may_go_on(&cx.facts, peer, Part::Comparer) {
                self.refuse_asker(cx, peer, Refusal::NotAgreed);
            }
            let Some(part) = running else {
                continue;
            };
            if !self.may_go_on(&cx.facts, peer, part) {
                self.end_verify(cx, peer, VerifyState::Interrupted);
            } else if part == Part::Teller {
                self.tell_digests(cx, peer);
            }
        }
    }

    /// Whether both disks get the same writes in the same order.
    pub(super) fn may_go_on(&self, facts: &Facts, peer: NodeId, part: Part) -> bool {
        let writer = match part {
            Part::Teller => facts.node,
            Part::Comparer => peer,
        };
        let is_well = self.replica(peer).is_some_and(|replica| {
            replica.replication == ReplicationState::Established
                && replica.receives
                && replica.peer_disk == DiskState::UpToDate
                && replica.verdict.is_none()
        });
        let is_here = self.has_running_disk() && self.disk_state() == DiskState::UpToDate;
        // A writer is lost, and this disk has what the teller may lack: no fault of either.
        let is_behind = part == Part::Comparer
            && self.leader(facts).is_none()
            && self.disk.as_ref().is_some_and(|disk| disk.marked(peer) > 0);
        is_well
            && is_here
            && !is_behind
            && !self.is_broken
            && facts.leaders.without(writer).is_empty()
    }

    fn tell_digests<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let may_tell = self
            .replica(peer)
            .is_some_and(|replica| replica.paused == 0 && !replica.round.is_open());
        while may_tell && self.has_room_for_digests() {
            let Some(verify) = self.verify_mut(peer) else {
                return;
            };
            let run = verify.run;
            let Some(span) = verify.next_span() else {
                break;
            };
            self.digest(cx, peer, run, span);
        }
        if self.verify(peer).is_some_and(Verify::is_through) {
            self.end_verify(cx, peer, VerifyState::Finished);
        }
    }

    /// Ends a run; the peer hears of it.
    pub(super) fn end_verify<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        state: VerifyState,
    ) {
        let run = self.verify(peer).map(|verify| verify.run);
        if let (Some(line), Some(run)) = (self.line(peer), run) {
            self.send_verify_end(cx, line, run, state);
        }
        self.close_verify(cx, peer, state);
    }

    pub(super) fn send_verify_end<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        line: Line,
        run: Seq,
        state: VerifyState,
    ) {
        let mut header = Header::new(PacketKind::VerifyEnd, Some(self.id));
        (header.seq, header.arg) = (run, state.number().into());
        cx.send(line, header, &[]);
    }

    /// The session with a peer is over.
    pub(super) fn lose_verify<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        self.refuse_asker(cx, peer, Refusal::NotConnected);
        let is_running = |verify: &Verify| verify.running().is_some();
        if self.verify(peer).is_some_and(is_running) {
            self.close_verify(cx, peer, VerifyState::Disconnected);
        }
    }

    /// A run is over.
    pub(super) fn close_verify<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        state: VerifyState,
    ) {
        let (now, volume) = (cx.now, self.id);
        let Some(verify) = self.verify_mut(peer) else {
            return;
        };
        verify.end(now, state);
        let (upto, stop) = (verify.upto, verify.range.end);
        for SectorRange { start, end } in verify.found.ranges() {
            cx.log(
                Level::Warn,
                format_args!("volume {volume}, peer {peer}: sectors {start} to {end} differ"),
            );
        }
        let differing = verify.found.sectors();
        let level = match (differing, state) {
            (0, VerifyState::Finished) => Level::Info,
            _ => Level::Warn,
        };
        cx.log(
            level,
            format_args!(
                "volume {volume}, peer {peer}: verify {state} at sector {upto} of {stop}: {differing} sectors differ"
            ),
        );
        cx.notify(Object::PeerVolume(peer, volume));
        self.recheck = true;
    }

    /// Two blocks are known to differ.
    pub(super) fn note_difference<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        span: Span,
    ) {
        let (start, end, volume) = (span.sector.0, span.end(), self.id);
        let Some(verify) = self.verify_mut(peer) else {
            return;
        };
        let is_first = verify.found.is_empty();
        verify.found.add(SectorRange { start, end });
        if is_first {
            cx.log(
                Level::Warn,
                format_args!("volume {volume}, peer {peer}: verify found a difference, in sectors {start} to {end}"),
            );
            cx.notify(Object::PeerVolume(peer, volume));
        }
    }

    /// Whose disk takes over what differs.
    fn may_repair(&self, facts: &Facts, peer: NodeId, from: NodeId) -> Result<Order, Denial> {
        let verify = self.verify(peer).ok_or((Refusal::NoSuchPeer, Some(peer)))?;
        let whose = if from == peer {
            self.source_for(facts, Some(peer))?;
            GiveUp::Own
        } else if from == facts.node {
            self.may_be_source_for(facts, peer)?;
            GiveUp::Peers
        } else {
            return Err((Refusal::BadArgument, Some(from)));
        };
        let refusal = if !self.replica(peer).is_some_and(|it| it.round.knows_verify) {
            Refusal::PeerTooOld
        } else if verify.running().is_some() || verify.asker.is_some() {
            Refusal::VerifyRunning
        } else if verify.found.is_empty() {
            Refusal::NothingFound
        } else {
            return Ok(Order::repair(whose));
        };
        Err((refusal, Some(peer)))
    }

    /// Whether it is known where the two disks differ.
    pub(super) fn has_found(&self, peer: NodeId) -> bool {
        self.verify(peer).is_some_and(|it| !it.found.is_empty())
    }

    /// What differs is owed from now on, towards everybody: whoever this disk fetches from has to give it (G4).
    pub(super) fn owe_found(&mut self, peer: NodeId) {
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        if let Some(verify) = replica.verify.as_mut() {
            verify.found.ranges().for_each(|range| disk.owe(range));
            verify.on_repair(|_| true);
        }
        replica.progress.total_bits = disk.marked(peer);
    }

    /// The peer has on record that it owes what differs, as far as it knows: it may have forgotten some of it.
    pub(super) fn forget_found(&mut self, peer: NodeId) {
        let is_repair = |rule: &str| rule == Rule::Repair.name();
        let (Some(disk), Some(replica)) = (
            self.disk.as_ref(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        let is_source = replica.source.is_some() && is_repair(replica.rule);
        if let Some(verify) = replica.verify.as_mut().filter(|_| is_source) {
            verify.on_repair(|range| disk.is_owed(peer, range));
        }
    }

    /// All that the peer lacked, or this disk, was fetched: if that was everything, nothing differs any more.
    pub(super) fn note_resynced(&mut self, peer: NodeId) {
        let bits = self.disk.as_ref().map_or(0, |disk| disk.bits.bits());
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        if replica.progress.total_bits < bits {
            return;
        }
        if let Some(verify) = replica.verify.as_mut() {
            verify.on_repair(|_| true);
        }
    }
}

/// What this node would do; `None`: a third one writes to both disks.
fn part(facts: &Facts, peer: NodeId) -> Option<Part> {
    let leads = |node| facts.leaders == NodeSet::of(node);
    match facts.leaders.is_empty() {
        true if facts.node < peer => Some(Part::Teller),
        true => Some(Part::Comparer),
        false if leads(facts.node) => Some(Part::Teller),
        false if leads(peer) => Some(Part::Comparer),
        false => None,
    }
}
