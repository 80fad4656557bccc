// SPDX-License-Identifier: GPL-2.0-only

//! How fast this node serves resyncs.
//!
//! ```text
//! target asks -> Asked -> (its turn) -> held and read, as in `source`
//! ```
//! What a target asks for gets its turn by a token bucket whose rate is set anew ten times a second:
//!
//! | requests of applications | rate of each resync |
//! |---|---|
//! | none | doubles |
//! | at most as long as wanted, in the mean | grows by an eighth |
//! | longer | half of what it was, and of what was served |
//!
//! It stays between the bounds that people chose. What waits for its turn holds no range, so no application waits for it.

use super::context::Context;
use super::peer_op::{Kind, PeerOp};
use super::volume::{Volume, PEER_OPS};
use super::Engine;
use crate::host::{Host, Output, Time};
use weft_uapi::limits::IO_BYTES_MAX;
use weft_uapi::resync::{Limit, Speed};
use weft_uapi::state::ReplicationState;
use weft_uapi::units::{NodeId, VolumeId};

/// Between two looks at the applications, in milliseconds.
const LOOK_MS: u64 = 100;
/// What grows at least by a look, in bytes per second.
const STEP: u64 = 64 << 10;
/// Longest time for which tokens are counted, in microseconds: with the fastest rate the product fits.
const FILL_US_MAX: u64 = 1_000_000;
const US_PER_SECOND: u64 = 1_000_000;

/// What is chosen, and when applications are looked at next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) bounds: Speed,
    /// When they were looked at last; `None`: no resync is served.
    looked: Option<Time>,
}

/// What became of requests of applications.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Load {
    count: u64,
    nanoseconds: u64,
    /// What the host told last of its own reads, and had told when they were looked at last.
    told: Reads,
    looked: Reads,
}

/// Reads of an application that went past the engine, since the host began to count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reads {
    /// How many have ended.
    pub ended: u64,
    /// How long those took together.
    pub nanoseconds: u64,
    /// Some are under way.
    pub are_under_way: bool,
}

impl Load {
    /// A request ended, or is under way for too long already.
    pub(super) fn count(&mut self, since: Time, now: Time) {
        self.add(1, now.0.saturating_sub(since.0));
    }

    fn add(&mut self, count: u64, nanoseconds: u64) {
        self.count = self.count.saturating_add(count);
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
    }

    /// All of it, with the host's reads, of the time since this was taken last.
    fn take(&mut self, elapsed_ns: u64) -> Self {
        let (told, looked) = (self.told, self.looked);
        let ended = told.ended.saturating_sub(looked.ended);
        let is_stuck = ended == 0 && told.are_under_way && looked.are_under_way;
        match is_stuck {
            true => self.add(1, elapsed_ns),
            false => self.add(ended, told.nanoseconds.saturating_sub(looked.nanoseconds)),
        }
        let looked = told;
        let fresh = Self {
            told,
            looked,
            ..Self::default()
        };
        core::mem::replace(self, fresh)
    }
}

/// How applications fare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fare {
    /// There are none.
    Idle,
    /// As wanted.
    Well,
    /// They wait too long.
    Badly,
}

/// How fast one target gets what it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    /// Bytes per second.
    rate: u64,
    /// Bytes that may be served at once, and millionths of one.
    tokens: u64,
    fraction: u64,
    /// Until when tokens were counted.
    filled: Time,
    /// Bytes served since applications were looked at last.
    served: u64,
    /// Something had to wait for its turn since then.
    has_waited: bool,
    /// What was found then.
    limit: Limit,
    /// When it is the turn of what waits.
    due: Option<Time>,
}

impl Pace {
    pub(super) fn new(now: Time, bounds: &Speed) -> Self {
        let rate = bounds.ceiling();
        Self {
            rate,
            tokens: capacity(rate),
            fraction: 0,
            filled: now,
            served: 0,
            has_waited: false,
            limit: Limit::None,
            due: None,
        }
    }

    /// When something can be served that waits; `None`: nothing waits.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// What holds the resync up, and to which rate, for the status.
    pub(super) fn shown(&self) -> (u32, u64) {
        let rate = match self.limit {
            Limit::None => 0,
            _ => self.rate,
        };
        (self.limit.number(), rate)
    }

    fn fill(&mut self, now: Time) {
        let us = now.0.saturating_sub(self.filled.0) / 1000;
        self.filled = Time(self.filled.0.saturating_add(us.saturating_mul(1000)));
        let more = us.min(FILL_US_MAX).saturating_mul(self.rate);
        let more = more.saturating_add(self.fraction);
        self.fraction = more % US_PER_SECOND;
        let tokens = self.tokens.saturating_add(more / US_PER_SECOND);
        self.tokens = tokens.min(capacity(self.rate));
    }

    /// Whether it is the turn of so many bytes; if not, [`Self::deadline`] says when.
    fn take(&mut self, now: Time, bytes: u32) -> bool {
        self.fill(now);
        let bytes = u64::from(bytes).min(capacity(self.rate));
        let Some(rest) = self.tokens.checked_sub(bytes) else {
            let missing = bytes.saturating_sub(self.tokens);
            let us = missing.saturating_mul(US_PER_SECOND);
            let us = us.div_ceil(self.rate.max(1));
            self.due = Some(Time(self.filled.0.saturating_add(us.saturating_mul(1000))));
            self.has_waited = true;
            return false;
        };
        self.tokens = rest;
        self.served = self.served.saturating_add(bytes);
        true
    }

    /// Other bounds are chosen. What was held up by the upper one alone may have all of the new one at once.
    fn rebind(&mut self, before: Speed, bounds: Speed) {
        if self.rate >= before.ceiling() {
            self.rate = bounds.ceiling();
        }
        self.rate = self.rate.clamp(bounds.min, bounds.ceiling());
        self.tokens = self.tokens.min(capacity(self.rate));
    }

    /// Sets the rate anew.
    fn adapt(&mut self, fare: Fare, elapsed_ms: u64, bounds: &Speed) {
        let served = self.served.saturating_mul(1000);
        let served = served.checked_div(elapsed_ms).unwrap_or(0);
        let (before, ceiling) = (self.rate, bounds.ceiling());
        self.rate = match fare {
            Fare::Idle => before.saturating_mul(2),
            Fare::Well => before.saturating_add((before / 8).max(STEP)),
            Fare::Badly => before.min(served) / 2,
        }
        .clamp(bounds.min, ceiling);
        self.limit = match self.has_waited {
            false => Limit::None,
            true if before >= ceiling => Limit::MaxRate,
            true if self.rate <= bounds.min => Limit::MinRate,
            true => Limit::Latency,
        };
        self.tokens = self.tokens.min(capacity(self.rate));
        (self.served, self.has_waited) = (0, false);
    }
}

/// Bytes that may be served at once: a tenth of a second's worth, or one request.
fn capacity(rate: u64) -> u64 {
    (rate / 10).max(IO_BYTES_MAX.into())
}

impl Control {
    pub(super) const fn new(bounds: Speed) -> Self {
        Self {
            bounds,
            looked: None,
        }
    }
}

impl<H: Host> Engine<H> {
    /// The host tells of reads of a volume that it sends to the disk itself, as often as it likes.
    pub fn note_reads(&mut self, volume: VolumeId, reads: Reads) {
        if let Some(volume) = self.volume_mut(volume) {
            volume.load.told = reads;
        }
    }

    /// Whether [`Self::note_reads`] makes a difference now.
    pub fn wants_reads(&self) -> bool {
        self.speed.looked.is_some()
    }

    /// Other bounds are chosen.
    pub(super) fn set_speed(&mut self, bounds: Speed) {
        let before = core::mem::replace(&mut self.speed.bounds, bounds);
        for pace in self.each_pace() {
            pace.rebind(before, bounds);
        }
    }

    fn each_pace(&mut self) -> impl Iterator<Item = &mut Pace> {
        let volumes = self.each_volume_mut();
        let replicas = volumes.flat_map(|volume| volume.replicas.iter_mut().flatten());
        replicas.filter_map(|replica| Some(&mut replica.source.as_mut()?.pace))
    }

    /// When applications are to be looked at although nothing happens: something waits for its turn.
    pub(super) fn speed_deadline(&self) -> Option<Time> {
        let waits = |volume: &Volume<H>| {
            let mut replicas = volume.each_replica();
            replicas.any(|(_, it)| it.source.is_some_and(|it| it.pace.due.is_some()))
        };
        let looked = self.speed.looked?;
        self.each_volume()
            .any(waits)
            .then(|| looked.after_ms(LOOK_MS))
    }

    /// Sees how applications fare, and sets the speed of resyncs accordingly.
    pub(super) fn run_speed(&mut self, now: Time) {
        if !self.each_volume().any(Volume::serves_resyncs) {
            self.speed.looked = None;
            return;
        }
        let Some(looked) = self.speed.looked else {
            self.speed.looked = Some(now);
            for volume in self.each_volume_mut() {
                let _ = volume.load.take(0);
            }
            return;
        };
        let elapsed_ms = now.ms_since(looked);
        if elapsed_ms < LOOK_MS {
            return;
        }
        self.speed.looked = Some(now);
        let (bounds, fare) = (self.speed.bounds, self.fare(now, looked));
        for pace in self.each_pace() {
            pace.adapt(fare, elapsed_ms, &bounds);
        }
    }

    /// How applications of all volumes have fared since this was asked last.
    fn fare(&mut self, now: Time, looked: Time) -> Fare {
        let wanted = u64::from(self.speed.bounds.latency_ms).saturating_mul(1_000_000);
        // What waits for a majority or a person does not wait for a disk.
        let counts_waiting = self.suspended() == 0;
        let (mut all, mut is_busy) = (Load::default(), false);
        for volume in self.each_volume_mut() {
            let mut load = volume.load.take(now.0.saturating_sub(looked.0));
            is_busy |= load.told.are_under_way;
            for (_, request) in volume.requests.iter().filter(|_| counts_waiting) {
                is_busy = true;
                if now.0.saturating_sub(request.since.0) > wanted {
                    load.count(request.since, now);
                }
            }
            all.add(load.count, load.nanoseconds);
        }
        match all.nanoseconds.checked_div(all.count) {
            Some(mean) if mean > wanted => Fare::Badly,
            Some(_) => Fare::Well,
            None if is_busy => Fare::Well,
            None => Fare::Idle,
        }
    }
}

impl<H: Host> Volume<H> {
    fn serves_resyncs(&self) -> bool {
        self.each_replica()
            .any(|(_, replica)| replica.replication == ReplicationState::SyncSource)
    }

    /// Serves every target whose turn it is.
    pub(super) fn run_sources<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for peer in self.sessions().iter() {
            self.serve(cx, peer);
        }
    }

    /// Has read what a target asked for, as fast as it may, in the order of the disk.
    pub(super) fn serve<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        while !self.is_broken && self.replica(peer).is_some_and(|it| it.source.is_some()) {
            let next = self.next_asked(peer);
            let is_paused = self.replica(peer).is_some_and(|it| it.paused != 0);
            // What waits must not keep out what others say: more than six targets at once, or one that asks for too much.
            let is_crowded = self.ops.room() < PEER_OPS as usize / 4;
            let Some(source) = self.replica_mut(peer).and_then(|it| it.source.as_mut()) else {
                return;
            };
            source.pace.due = None;
            let Some((number, bytes)) = next.filter(|_| !is_paused || is_crowded) else {
                return;
            };
            if !source.pace.take(cx.now, bytes) && !is_crowded {
                return;
            }
            self.enter_op(cx, number);
        }
    }

    /// The first range that a target asked for and that did not have its turn.
    fn next_asked(&self, peer: NodeId) -> Option<(u32, u32)> {
        let waits = |op: &PeerOp<H>| op.peer == peer && op.is_asked() && !self.is_void_read(op);
        let waiting = self.ops.iter().filter(|(_, op)| waits(op));
        let first = waiting.min_by_key(|(_, op)| op.io.sector)?;
        Some((first.0, first.1.io.bytes))
    }

    /// Whether a range was asked for, or was about to be, before the last decision: the target asks anew.
    pub(super) fn is_void_read(&self, op: &PeerOp<H>) -> bool {
        let decided = self.replica(op.peer).map(|replica| replica.round.decided);
        (op.kind.is_fetched() || op.kind == Kind::Ask) && decided != Some(op.round)
    }
}

impl<H: Host> PeerOp<H> {
    /// Whether it waits for its turn.
    fn is_asked(&self) -> bool {
        self.kind.is_fetched() && self.range.is_none() && !self.is_running
    }
}
