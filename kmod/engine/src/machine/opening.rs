// SPDX-License-Identifier: GPL-2.0-only

//! Devices are opened and closed, and what that does to the role.
//!
//! ```text
//! Secondary --opened for writing--> (waits: elected as by command) --> Primary, because of the open --last close--> (waits: demoted) --> Secondary
//! ```
//! A node that a person made primary stays it. What is waited for has an end: after the time limit the open is refused, and
//! a close is done, whatever becomes of the role. Of a device one open or close at a time waits, since the kernel lets in one
//! at a time.
//!
//! Opens for reading promote nobody: programs that look what is on a device open it so, and nobody asked them to.

use super::context::{Asker, Context};
use super::place::Place;
use super::role::Transition;
use super::volume::Volume;
use super::Engine;
use crate::effect::{Effect, Level, Object};
use crate::event::Options;
use crate::host::{Host, Output, Time};
use weft_uapi::limits::AUTO_PROMOTE_TIMEOUT_S;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{AutoPromote, DiskState, Fencing, Role};
use weft_uapi::units::{NodeId, NodeSet, VolumeId};

/// After a refusal that may pass, a promotion is tried again so much later, in milliseconds.
const TRY_AGAIN_MS: u64 = 200;

/// What opens do to the role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AutoPromotion {
    /// Whether they promote.
    pub mode: AutoPromote,
    /// For how long an open, or the last close, waits at most, in seconds.
    pub timeout_s: u32,
}

impl Default for AutoPromotion {
    fn default() -> Self {
        Self {
            mode: AutoPromote::default(),
            timeout_s: AUTO_PROMOTE_TIMEOUT_S,
        }
    }
}

impl AutoPromotion {
    /// What `options` say, and what holds by itself.
    pub fn of(options: &Options) -> Self {
        let mut this = Self::default();
        this.change(options);
        this
    }

    /// Changes what `options` say.
    pub(super) fn change(&mut self, options: &Options) {
        self.mode = options.auto_promote.unwrap_or(self.mode);
        self.timeout_s = options.auto_promote_timeout_s.unwrap_or(self.timeout_s);
    }
}

/// What waits at a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// An open for writing, for this node to be primary.
    Opening { since: Time },
    /// A close, for this node to be secondary.
    Closing { since: Time },
}

/// Why a promotion did not come about, perhaps because of a peer.
pub(super) type Denial = (Refusal, Option<NodeId>);

/// How opens and the role stand.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Opening {
    pub(super) options: AutoPromotion,
    /// This node is primary because a device was opened, and for as long as one is.
    is_holding: bool,
    /// Not before this time a promotion is tried again.
    again: Option<Time>,
    /// Why the last one did not come about.
    denied: Option<Denial>,
}

impl Opening {
    /// No open waits.
    pub(super) fn new(options: AutoPromotion) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }
}

/// Whether it may be otherwise within seconds.
fn may_pass(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::PeerPrimary
            | Refusal::InTransition
            | Refusal::NoUpToDateDisk
            | Refusal::NoQuorum
            | Refusal::ElectionLost
            | Refusal::PeerOutOfReach
            | Refusal::DeviceOpen
    )
}

impl<H: Host> Engine<H> {
    /// Whether this node is primary only for as long as a device is open.
    pub(super) fn is_primary_by_open(&self) -> bool {
        self.opening.is_holding
    }

    /// Notes whether this node is primary because of an open, or because a person said so.
    pub(super) fn note_cause(&mut self, asker: Asker) {
        match asker {
            Asker::Open => self.opening.is_holding = true,
            Asker::Person(_) => self.opening.is_holding = false,
            Asker::Client(_) | Asker::Application | Asker::Nobody => {}
        }
    }

    /// The device of a volume is being opened.
    #[inline(never)]
    pub(super) fn on_open<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
        promotes: bool,
    ) {
        let promotes = promotes && self.opening.options.mode != AutoPromote::No;
        match self.admit(id) {
            Err(Refusal::NotPrimary) if promotes => {
                let since = cx.now;
                if let Some(volume) = self.volume_mut(id) {
                    volume.door = Some(Door::Opening { since });
                }
            }
            result => cx.emit(Effect::Opened { volume: id, result }),
        }
    }

    /// Who opens the device does not wait any longer.
    #[inline(never)]
    pub(super) fn on_open_interrupted<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
    ) {
        let is_opening = |door: &mut Door| matches!(door, Door::Opening { .. });
        let volume = self.volume_mut(id);
        if volume.is_some_and(|volume| volume.door.take_if(is_opening).is_some()) {
            let result = Err(Refusal::Interrupted);
            cx.emit(Effect::Opened { volume: id, result });
        }
    }

    /// The device of a volume was closed.
    #[inline(never)]
    pub(super) fn on_close<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: VolumeId) {
        let since = cx.now;
        match self.volume_mut(id) {
            Some(volume) => {
                volume.open_count = volume.open_count.saturating_sub(1);
                volume.door = Some(Door::Closing { since });
            }
            None => cx.emit(Effect::Closed { volume: id }),
        }
    }

    /// Lets the device of a volume be used, if this node is primary and has data.
    fn admit(&mut self, id: VolumeId) -> Result<(), Refusal> {
        let is_primary =
            self.shown_role() == Role::Primary && self.transition.is_none() && !self.is_resigning();
        let is_served = self.server().is_some();
        let volume = self.volume_mut(id).ok_or(Refusal::NoSuchVolume)?;
        if !is_primary {
            return Err(Refusal::NotPrimary);
        }
        if !is_served && volume.disk_state() != DiskState::UpToDate {
            return Err(Refusal::NoUpToDateDisk);
        }
        volume.open_count = volume.open_count.saturating_add(1);
        Ok(())
    }

    /// Promotes for an open, demotes after the last close, and lets go who has waited for that.
    pub(super) fn run_openings<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.note_role();
        self.take_denial(cx);
        self.run_doors(cx);
        let is_opening = |volume: &Volume<H>| matches!(volume.door, Some(Door::Opening { .. }));
        let is_used = |volume: &Volume<H>| volume.open_count > 0 || is_opening(volume);
        if self.is_primary_by_open() && !self.each_volume().any(is_used) {
            self.on_secondary(cx, Asker::Nobody);
            self.note_role();
        } else if self.each_volume().any(is_opening) {
            self.promote_for_open(cx);
            self.take_denial(cx);
        } else {
            (self.opening.again, self.opening.denied) = (None, None);
            if let Some(Transition::Comparing {
                asker: Asker::Open, ..
            }) = self.transition
            {
                // Nobody waits for it any more, and nobody was asked.
                self.give_up(cx);
            }
        }
        self.run_doors(cx);
    }

    fn note_role(&mut self) {
        self.opening.is_holding &= self.shown_role() == Role::Primary;
    }

    fn take_denial<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        if let Some(denial) = cx.denied.take() {
            self.opening.denied = Some(denial);
            self.opening.again = Some(cx.now.after_ms(TRY_AGAIN_MS));
        }
    }

    /// Answers opens and closes as far as that is possible now.
    fn run_doors<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_demoting = self.is_primary_by_open() || self.is_demoting();
        let is_used = self.each_volume().any(|volume| volume.open_count > 0);
        for number in 0..self.volumes_end {
            let volume = self.volumes.get(number).and_then(Place::as_ref);
            let Some((id, door)) = volume.and_then(|volume| Some((volume.id, volume.door?))) else {
                continue;
            };
            let is_late = self.time_limit(door) <= cx.now;
            match door {
                Door::Closing { .. } if is_late || is_used || !is_demoting => {
                    self.clear_door(id);
                    cx.emit(Effect::Closed { volume: id });
                }
                Door::Closing { .. } => {}
                Door::Opening { .. } => self.run_open(cx, id, is_late),
            }
        }
    }

    fn run_open<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, id: VolumeId, is_late: bool) {
        let refusal = match self.admit(id) {
            Ok(()) => return self.answer_open(cx, id, Ok(())),
            Err(_) if self.transition.is_some() => Refusal::InTransition,
            Err(refusal) => refusal,
        };
        let is_primary = self.shown_role() == Role::Primary;
        let denial = self.opening.denied.filter(|_| !is_primary);
        match denial {
            Some(denial) if is_late || !may_pass(denial.0) => {
                self.answer_open(cx, id, Err(denial));
            }
            None if is_late => self.answer_open(cx, id, Err((refusal, None))),
            _ => {}
        }
    }

    /// Until when an open or a close waits at most.
    fn time_limit(&self, door: Door) -> Time {
        let (Door::Opening { since } | Door::Closing { since }) = door;
        let seconds = u64::from(self.opening.options.timeout_s.max(1));
        since.after_ms(seconds.saturating_mul(1_000))
    }

    /// When an open or a close has waited too long, or a promotion is to be tried again.
    pub(super) fn opening_deadline(&self) -> Option<Time> {
        let doors = self.each_volume().filter_map(|volume| volume.door);
        let again = self.opening.again.filter(|_| self.transition.is_none());
        doors.map(|door| self.time_limit(door)).chain(again).min()
    }

    fn clear_door(&mut self, id: VolumeId) {
        if let Some(volume) = self.volume_mut(id) {
            volume.door = None;
        }
    }

    fn answer_open<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        id: VolumeId,
        result: Result<(), Denial>,
    ) {
        self.clear_door(id);
        if let Err((refusal, peer)) = result {
            let (text, hint) = (refusal.text(), refusal.hint());
            match peer {
                Some(peer) => cx.log(
                    Level::Warn,
                    format_args!(
                        "volume {id}: not opened, not promoted: {text} (node {peer}) Try: {hint}"
                    ),
                ),
                None => cx.log(
                    Level::Warn,
                    format_args!("volume {id}: not opened, not promoted: {text} Try: {hint}"),
                ),
            }
        }
        let result = result.map_err(|(refusal, _)| refusal);
        cx.emit(Effect::Opened { volume: id, result });
        cx.notify(Object::Volume(id));
    }

    /// Tries to make this node primary, as a person would.
    fn promote_for_open<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        let is_early = self.opening.again.is_some_and(|again| again > cx.now);
        if is_early || self.transition.is_some() {
            return;
        }
        self.opening.again = None;
        if self.shown_role() == Role::Primary {
            // It has the role, and what it lacks no promotion gives it.
            return;
        }
        if let Some(peer) = self.unguarded().iter().next() {
            cx.deny(Asker::Open, (Refusal::PeerOutOfReach, Some(peer)));
        } else if !self.may_decide(self.voters_present()) {
            cx.deny(Asker::Open, (Refusal::NoQuorum, None));
        } else {
            self.on_primary(cx, Asker::Open, false);
        }
    }

    /// Peers out of reach that may be primary, as far as this node knows, and so forbid an open to promote it.
    pub(super) fn unguarded(&self) -> NodeSet {
        let is_guarded = self.quorum.is_on() || self.fencing != Fencing::DontCare;
        if is_guarded || self.opening.options.mode != AutoPromote::Guarded {
            return NodeSet::EMPTY;
        }
        let disks = || self.each_volume().filter_map(|volume| volume.disk.as_ref());
        let members = disks().fold(NodeSet::of(self.config.node), |all, disk| {
            all.union(disk.superblock.generation.members)
        });
        // Whoever takes a peer out of the configuration does not say that it is none any more.
        let strangers = NodeSet(members.without(self.config.node).0 & !self.known.0);
        match self.each_volume().all(Volume::has_running_disk) {
            true => self.absent_members().union(strangers),
            // Without a disk it knows of no record.
            false => NodeSet(self.known.0 & !self.connected().0),
        }
    }
}
