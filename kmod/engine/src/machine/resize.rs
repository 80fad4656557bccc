// SPDX-License-Identifier: GPL-2.0-only

//! The size of a device: larger by order, and the same on all disks.
//!
//! ```text
//! who is told               every connected disk
//!   order --resize-ask-->   looks how large it is, moves its metadata to its end
//!        <--resize-room--   has room for so much
//!   --resize-to-->          bits of what is new, then the size: on disk
//!   the same                <------ a round ------> the same sizes: the device has it
//! ```
//! INVARIANT: a size is told in a state, and so used, only when it is on disk together with the bits of what is new. Sizes only
//! grow, so after a crash in between the larger one counts: whoever has the smaller one takes it over in the round in
//! which they meet, and owes everybody what is new. No write starts before that round is decided, so nothing is
//! written that a member has no room for.
//!
//! A disk that never held data takes the size of the others' device, smaller ones included.

use super::context::{ensure, Context, Facts, Fault};
use super::disk::Disk;
use super::invalidate::Denial;
use super::replica::Replica;
use super::said::Said;
use super::volume::Volume;
use super::Engine;
use crate::bitmap::SECTORS_PER_BIT;
use crate::decide::Outcome;
use crate::effect::{Effect, Level, Object};
use crate::event::{Growth, Token};
use crate::host::{Host, Output, Time};
use crate::recovery::resolve;
use crate::room::Room;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::DiskState;
use weft_uapi::status::SectorRange;
use weft_uapi::units::{GenerationId, Incarnation, NodeId, NodeSet, Seq, VolumeId};
use weft_uapi::wire::{Header, PacketKind, FLAG_YES};

const NO_MEMORY: &str = "there is no memory to see how large this disk can be";
const TOO_SMALL: &str =
    "this disk is too small for the peer's device: make it larger, then connect again";
const SIZES_DIFFER: &str =
    "the disks have different sizes, and the peer is too old to agree on one";

/// Whether it is known how large the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Measure {
    /// Nobody wants to know.
    #[default]
    None,
    /// Somebody does.
    Wanted,
    /// The host was asked.
    Asked,
    /// It has answered; the metadata may be on their way to the disk's end.
    Done(Result<(), Refusal>),
}

/// A person's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Order {
    token: Token,
    growth: Growth,
    /// Number of the question that the peers were asked.
    number: Seq,
    /// Who was asked, and has not answered.
    asked: NodeSet,
    waits: NodeSet,
    /// The smallest of the disks, as far as it is known, and whose it is.
    room: u64,
    smallest: Option<NodeId>,
    /// The size that was ordered in the end.
    goal: Option<u64>,
}

/// A size that this disk's device is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    sectors: u64,
    /// What is new is the same everywhere.
    is_clean: bool,
    /// The peer whose device has that size.
    from: NodeId,
}

/// What is going on about the size of one volume.
#[derive(Default)]
pub(super) struct Resize {
    order: Option<Order>,
    last_number: u64,
    measure: Measure,
    wanted: Option<Wanted>,
}

impl Resize {
    /// Whether the size that a state would tell is about to change.
    pub(super) fn is_pending(&self) -> bool {
        self.wanted.is_some()
    }
}

impl<H: Host> Engine<H> {
    /// Makes a device larger.
    #[inline(never)]
    pub(super) fn on_resize<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        id: VolumeId,
        growth: Growth,
    ) {
        let is_leaving = self.leave.is_some();
        let Some(volume) = self.volume_mut(id) else {
            return cx.reply(token, Err(Refusal::NoSuchVolume));
        };
        let asked = match is_leaving {
            true => Err((Refusal::Busy, None)),
            false => volume.may_resize(&cx.facts, growth.assumes_room),
        };
        match asked {
            Ok(asked) => volume.begin_order(cx, token, growth, asked),
            Err(denial) => cx.deny(token, denial),
        }
    }

    /// The host has looked how large a disk is.
    #[inline(never)]
    pub(super) fn on_measured(
        &mut self,
        id: VolumeId,
        attach_id: u64,
        room: Result<&mut Option<Room<H>>, Refusal>,
    ) {
        if let Some(volume) = self.volume_mut(id) {
            volume.on_measured(attach_id, room);
        }
    }
}

impl<H: Host> Disk<H> {
    /// The device has another size from now on: on disk, and to be told, when that is durable. What is new is owed, unless it
    /// is the same everywhere.
    fn set_size(&mut self, sectors: u64, is_clean: bool) {
        let old = self.sectors();
        self.bits.resize(sectors);
        if !is_clean {
            self.owe(SectorRange {
                start: old,
                end: sectors,
            });
        }
        self.superblock.size = match sectors == self.room() {
            true => 0,
            false => sectors,
        };
        self.are_bitmaps_first = true;
        self.wants_bitmaps = true;
        self.note_line();
    }

    /// Whether a disk of this node was ever met.
    fn has_met(&self, node: NodeId) -> bool {
        self.seen(node) != (Incarnation(0), 0)
    }

    fn is_blank(&self) -> bool {
        self.superblock.generation.id == GenerationId::NONE
    }
}

impl<H: Host> Volume<H> {
    /// Whom to ask for room, if the device may become larger.
    fn may_resize(&self, facts: &Facts, assumes_room: bool) -> Result<NodeSet, Denial> {
        if self.resize.order.is_some() || self.resize.wanted.is_some() {
            return Err((Refusal::ResizeRunning, None));
        }
        self.may_order(facts)?;
        if self.change.is_some() {
            return Err((Refusal::Busy, None));
        }
        if self.disk_state() != DiskState::UpToDate {
            return Err((Refusal::NoUpToDateDisk, None));
        }
        let mut asked = NodeSet::EMPTY;
        for (peer, replica) in self.each_replica() {
            if self.may_resize_with(peer, replica, assumes_room)? {
                asked = asked.with(peer);
            }
        }
        if self.stalled.is_some() {
            return Err((Refusal::Busy, None));
        }
        Ok(asked)
    }

    /// Whether a peer has to be asked.
    fn may_resize_with(
        &self,
        peer: NodeId,
        replica: &Replica<H>,
        assumes_room: bool,
    ) -> Result<bool, Denial> {
        let has_disk = self.disk.as_ref().is_some_and(|disk| disk.has_met(peer));
        let is_needed = has_disk && !assumes_room;
        let is_running = |verify: &super::verify_run::Verify| verify.running().is_some();
        let refusal = if replica.session.is_none() {
            match is_needed {
                true => Refusal::NotConnected,
                false => return Ok(false),
            }
        } else if !replica.round.knows_resize {
            Refusal::PeerTooOld
        } else if replica.peer_disk == DiskState::Diskless && replica.round.decided > 0 {
            match is_needed {
                true => Refusal::PeerNoDisk,
                false => return Ok(false),
            }
        } else if replica.verify.as_ref().is_some_and(is_running) {
            Refusal::VerifyRunning
        } else {
            return self.may_order_with(peer).map(|()| true);
        };
        Err((refusal, Some(peer)))
    }

    fn begin_order<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        token: Token,
        growth: Growth,
        asked: NodeSet,
    ) {
        let number = Seq(self.resize.last_number.saturating_add(1));
        self.resize.last_number = number.0;
        self.resize.order = Some(Order {
            token,
            growth,
            number,
            asked,
            waits: asked,
            room: u64::MAX,
            smallest: None,
            goal: None,
        });
        self.measure();
        for peer in asked.iter() {
            let mut header = Header::new(PacketKind::ResizeAsk, Some(self.id));
            header.seq = number;
            self.send_resize(cx, peer, header);
        }
    }

    fn send_resize<O: Output<H>>(&self, cx: &mut Context<'_, H, O>, peer: NodeId, header: Header) {
        if let Some(line) = self.line(peer) {
            cx.send(line, header, &[]);
        }
    }

    /// Wants to know how large the disk is now.
    fn measure(&mut self) {
        if self.resize.measure != Measure::Asked {
            self.resize.measure = Measure::Wanted;
        }
        self.recheck = true;
    }

    fn on_measured(&mut self, attach_id: u64, room: Result<&mut Option<Room<H>>, Refusal>) {
        let disk = self.disk.as_mut();
        let Some(disk) = disk.filter(|disk| disk.superblock.attach_id == attach_id) else {
            return;
        };
        if self.resize.measure != Measure::Asked {
            return;
        }
        let result = room.map(|room| disk.relocate(room));
        self.resize.measure = Measure::Done(result);
        self.recheck = true;
    }

    /// Takes a packet of a peer about the size.
    pub(super) fn on_resize_packet<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) -> Result<(), Fault> {
        let knows = self.replica(peer).is_some_and(|it| it.round.knows_resize);
        ensure(knows, "the peer sent a packet that it does not know")?;
        match header.kind {
            PacketKind::ResizeAsk => self.on_resize_ask(cx, peer, header.seq),
            PacketKind::ResizeRoom => self.on_resize_room(cx, peer, header),
            _ => return self.on_resize_to(peer, header),
        }
        Ok(())
    }

    fn on_resize_ask<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        number: Seq,
    ) {
        // Who is not there the one who was told knows better.
        match self.may_resize(&cx.facts, true) {
            Ok(_) => {
                if let Some(replica) = self.replica_mut(peer) {
                    replica.room_asked = Some(number);
                }
                self.measure();
            }
            Err((refusal, _)) => self.send_room(cx, peer, number, Err(refusal)),
        }
    }

    fn send_room<O: Output<H>>(
        &self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        number: Seq,
        room: Result<u64, Refusal>,
    ) {
        let mut header = Header::new(PacketKind::ResizeRoom, Some(self.id));
        header.seq = number;
        match room {
            Ok(sectors) => (header.arg, header.flags) = (sectors, FLAG_YES),
            Err(refusal) => header.arg = refusal.number().into(),
        }
        self.send_resize(cx, peer, header);
    }

    fn on_resize_room<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        header: &Header,
    ) {
        let order = self.resize.order.as_mut();
        let is_meant =
            |order: &&mut Order| order.number == header.seq && order.waits.contains(peer);
        let Some(order) = order.filter(is_meant) else {
            // Of an order that was given up.
            return;
        };
        order.waits = order.waits.without(peer);
        if header.flags & FLAG_YES != 0 {
            order.consider(peer, header.arg);
        } else {
            let number = u32::try_from(header.arg).unwrap_or(0);
            let refusal = Refusal::from_number(number).unwrap_or(Refusal::NotAgreed);
            self.end_order(cx, Err((refusal, Some(peer))));
        }
        self.recheck = true;
    }

    fn on_resize_to(&mut self, peer: NodeId, header: &Header) -> Result<(), Fault> {
        let sectors = header.arg;
        let room = self.disk.as_ref().map_or(0, Disk::room);
        let is_possible = sectors > 0 && sectors % SECTORS_PER_BIT == 0 && sectors <= room;
        ensure(
            is_possible,
            "the peer orders a size for which there is no room",
        )?;
        self.want_size(Wanted {
            sectors,
            is_clean: header.flags & FLAG_YES != 0,
            from: peer,
        });
        Ok(())
    }

    fn want_size(&mut self, wanted: Wanted) {
        let last = self.resize.wanted.map_or(0, |last| last.sectors);
        if wanted.sectors > last {
            self.resize.wanted = Some(wanted);
        }
        self.recheck = true;
    }

    /// Goes on with whatever is about the size.
    #[inline(never)]
    pub(super) fn run_resize<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if !self.has_running_disk() {
            return self.abandon_resize(cx);
        }
        self.run_measure(cx);
        self.tell_room(cx);
        self.run_order(cx);
        self.run_wanted(cx);
        self.offer_size(cx);
    }

    fn abandon_resize<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.end_order(cx, Err((Refusal::NoDisk, None)));
        (self.resize.measure, self.resize.wanted) = (Measure::None, None);
        for replica in self.replicas.iter_mut().flatten() {
            replica.room_asked = None;
        }
    }

    fn run_measure<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(disk) = self.disk.as_ref() else {
            return;
        };
        if self.resize.measure == Measure::Wanted && disk.relocation.is_none() {
            self.resize.measure = Measure::Asked;
            cx.emit(Effect::Measure {
                volume: self.id,
                attach_id: disk.superblock.attach_id,
                layout: disk.layout,
            });
        }
    }

    /// Sectors of a device that the disk has room for, to its end; `None`: that is not known yet.
    fn known_room(&self) -> Option<Result<u64, Refusal>> {
        let disk = self
            .disk
            .as_ref()
            .filter(|disk| disk.relocation.is_none())?;
        match self.resize.measure {
            Measure::Done(result) => Some(result.map(|()| disk.room())),
            _ => None,
        }
    }

    /// Answers the peers that want to know.
    fn tell_room<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(room) = self.known_room() else {
            return;
        };
        for peer in self.sessions().iter() {
            let replica = self.replica_mut(peer);
            if let Some(number) = replica.and_then(|replica| replica.room_asked.take()) {
                self.send_room(cx, peer, number, room);
            }
        }
    }

    fn run_order<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(order) = self.resize.order else {
            return;
        };
        if let Some(goal) = order.goal {
            if self.offered >= goal {
                self.end_order(cx, Ok(()));
            }
            return;
        }
        let is_gone = |peer: &NodeId| {
            let replica = self.replica(*peer);
            replica.is_none_or(|it| it.session.is_none() || it.peer_disk == DiskState::Diskless)
        };
        if let Some(peer) = order.asked.iter().find(is_gone) {
            return self.end_order(cx, Err((Refusal::NotConnected, Some(peer))));
        }
        let Some(own) = self.known_room().filter(|_| order.waits.is_empty()) else {
            return;
        };
        match own {
            Ok(own) => self.choose_size(cx, order, own),
            Err(refusal) => self.end_order(cx, Err((refusal, Some(cx.facts.node)))),
        }
    }

    /// All have said how much room they have: the device gets as much, or what was asked for.
    fn choose_size<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        mut order: Order,
        own: u64,
    ) {
        order.consider(cx.facts.node, own);
        self.resize.order = None;
        // Meanwhile others may have come.
        let asked = self.may_resize(&cx.facts, order.growth.assumes_room);
        self.resize.order = Some(order);
        match asked {
            Ok(asked) if asked == order.asked => {}
            Ok(_) => return self.end_order(cx, Err((Refusal::NotAgreed, None))),
            Err(denial) => return self.end_order(cx, Err(denial)),
        }
        let wanted = order.growth.sectors.unwrap_or(order.room);
        let size = wanted.saturating_sub(wanted.checked_rem(SECTORS_PER_BIT).unwrap_or(0));
        let now = self.disk.as_ref().map_or(0, Disk::sectors);
        let refusal = if size > order.room {
            Refusal::SizeTooLarge
        } else if size == now {
            Refusal::NothingToGrow
        } else if size < now {
            Refusal::NoShrink
        } else {
            return self.order_size(cx, order, size);
        };
        self.resize.order = None;
        match order.smallest {
            Some(node) => cx.refuse(
                order.token,
                refusal,
                format_args!(
                    "the device has {now} sectors; the disk of node {node} has room for {}, which is the least",
                    order.room
                ),
            ),
            None => cx.reply(order.token, Err(refusal)),
        }
    }

    fn order_size<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, order: Order, sectors: u64) {
        let goal = Some(sectors);
        self.resize.order = Some(Order { goal, ..order });
        let mut header = Header::new(PacketKind::ResizeTo, Some(self.id));
        header.arg = sectors;
        header.flags = if order.growth.is_clean { FLAG_YES } else { 0 };
        for peer in order.asked.iter() {
            self.send_resize(cx, peer, header);
        }
        self.want_size(Wanted {
            sectors,
            is_clean: order.growth.is_clean,
            from: cx.facts.node,
        });
    }

    fn end_order<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, result: Result<(), Denial>) {
        let Some(order) = self.resize.order.take() else {
            return;
        };
        match result {
            Ok(()) => cx.reply(order.token, Ok(())),
            Err(denial) => cx.deny(order.token, denial),
        }
    }

    /// Takes the size over that the device is to have.
    fn run_wanted<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let (Some(wanted), Some(disk)) = (self.resize.wanted, self.disk.as_mut()) else {
            return;
        };
        let is_news =
            wanted.sectors > disk.sectors() || (disk.is_blank() && wanted.sectors < disk.sectors());
        if is_news && wanted.sectors > disk.room() {
            return self.make_room(cx, wanted);
        }
        if disk.relocation.is_some() {
            return;
        }
        self.resize.wanted = None;
        if !is_news {
            return;
        }
        disk.set_size(wanted.sectors, wanted.is_clean);
        cx.log(
            Level::Info,
            format_args!(
                "volume {}: the device is to have {} sectors, as node {} says",
                self.id, wanted.sectors, wanted.from
            ),
        );
        self.negotiate_all(cx.now);
    }

    /// The disk may have become larger while nobody looked; if not, its node stays away from the peer's device.
    fn make_room<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, wanted: Wanted) {
        let room = match self.resize.measure {
            Measure::None => return self.measure(),
            _ => self.known_room(),
        };
        let Some(room) = room else {
            return;
        };
        cx.log(
            Level::Error,
            format_args!(
                "volume {}: the device of node {} has {} sectors, this disk room for {}",
                self.id,
                wanted.from,
                wanted.sectors,
                room.unwrap_or(0)
            ),
        );
        self.resize.wanted = None;
        let replica = self.replica_mut(wanted.from);
        if let Some(replica) = replica.filter(|replica| replica.session.is_some()) {
            replica.rule = "size";
            match room {
                // It is looked at again when they meet next.
                Err(Refusal::NoMemory) => replica.condemn(NO_MEMORY, false, Time(0)),
                // At once: the next round would come to the same.
                _ => replica.condemn(TOO_SMALL, true, Time(0)),
            }
            self.recheck = true;
        }
    }

    /// The device has the size that the disks agree on.
    fn offer_size<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let Some(disk) = self.disk.as_ref().filter(|disk| disk.has_line_durable()) else {
            return;
        };
        let (sectors, is_measured) = (
            disk.sectors(),
            matches!(self.resize.measure, Measure::Done(_)),
        );
        let has_news = self.offered != sectors || is_measured;
        if !has_news || self.resize.wanted.is_some() || self.is_negotiating() {
            return;
        }
        if self.offered != sectors {
            self.offered = sectors;
            self.recheck = true;
            self.tell_capacity(cx);
            cx.notify(Object::Volume(self.id));
        }
        let is_asked = |(_, replica): (NodeId, &Replica<H>)| replica.room_asked.is_some();
        if is_measured && self.resize.order.is_none() && !self.each_replica().any(is_asked) {
            // The disk may become larger before somebody asks again.
            self.resize.measure = Measure::None;
        }
    }

    /// Two disks whose devices have different sizes have met.
    pub(super) fn on_sizes<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        own: &Said,
        said: &Said,
    ) {
        if !self.replica(peer).is_some_and(|it| it.round.knows_resize) {
            return self.stand_alone(cx, peer, "size", SIZES_DIFFER);
        }
        if said.sectors == 0 || said.sectors % SECTORS_PER_BIT != 0 {
            return self.condemn(peer, "the peer's device is not made of whole blocks");
        }
        let decision = resolve(&own.contender(), &said.contender()).decision;
        if matches!(decision.outcome, Outcome::SplitBrain | Outcome::Refuse) {
            // Nothing will come of it.
            return self.decide(cx, peer, own, said);
        }
        let are_blank = [own, said].map(|said| said.side.ancestry.is_blank());
        let sectors = match are_blank {
            [true, true] => own.sectors.min(said.sectors),
            [true, false] => said.sectors,
            [false, true] => own.sectors,
            [false, false] => own.sectors.max(said.sectors),
        };
        if sectors != own.sectors {
            self.resize.wanted.get_or_insert(Wanted {
                sectors,
                is_clean: false,
                from: peer,
            });
        }
        self.meet_again(peer, cx.now);
    }

    /// The size that a peer is told: one without disk that of the device, since it may have an application that uses it.
    pub(super) fn told_sectors(&self, peer: NodeId) -> u64 {
        let is_diskless = self.replica(peer).and_then(Replica::told);
        let is_diskless = is_diskless.is_some_and(|said| said.disk == DiskState::Diskless);
        match self.disk.as_ref().filter(|_| !is_diskless) {
            Some(disk) => disk.sectors(),
            None => self.sectors(),
        }
    }
}

impl Order {
    /// A disk has room for so many sectors.
    fn consider(&mut self, node: NodeId, sectors: u64) {
        if sectors < self.room {
            (self.room, self.smallest) = (sectors, Some(node));
        }
    }
}
