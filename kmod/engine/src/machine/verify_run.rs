// SPDX-License-Identifier: GPL-2.0-only

//! One run of a verify as one side sees it: which ranges are under way, how far it is, what it found.
//!
//! ```text
//! teller:   Wanted -> Read (held and digested) -> Told -> compared: gone, or its next block is Wanted
//! comparer: told (held and digested) -> compared: gone
//! ```

use crate::event::Token;
use crate::found::Found;
use crate::host::Time;
use crate::ranges::Span;
use weft_uapi::limits::{BITMAP_BLOCK_BYTES, IO_BYTES_MAX, SECTOR_BYTES};
use weft_uapi::state::{ReplicationState, VerifyState};
use weft_uapi::status::{PeerVolumeInfo, SectorRange};
use weft_uapi::units::{Sector, Seq};
use weft_uapi::wire::Digest;

/// Ranges that are told and not compared at the same time.
const WINDOW: usize = 16;

/// What this node does in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// It orders the writes, and tells the digests of its ranges.
    Teller,
    /// It compares them with its own.
    Comparer,
}

/// What a run goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    /// In sectors, whole blocks.
    pub(super) range: SectorRange,
    /// What was found before still counts.
    pub(super) resumes: bool,
}

/// How far a range is that the teller tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Wanted,
    Read,
    Told,
}

/// A range under way at the teller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    whole: Span,
    /// All of it, or a block of it once it is known to differ.
    at: Span,
    stage: Stage,
}

impl Piece {
    /// What comes next once the peer has compared it; `None`: nothing.
    fn next(self, differs: bool) -> Option<Self> {
        let first = match self.at == self.whole {
            true if differs && self.at.bytes > BITMAP_BLOCK_BYTES => self.whole.sector.0,
            true => return None,
            false => self.at.end(),
        };
        let at = Span {
            sector: Sector(first),
            bytes: BITMAP_BLOCK_BYTES,
        };
        (first < self.whole.end()).then_some(Self {
            at,
            stage: Stage::Wanted,
            ..self
        })
    }
}

/// The running or last run with a peer.
#[derive(Debug)]
pub(super) struct Verify {
    pub(super) state: VerifyState,
    part: Part,
    pub(super) run: Seq,
    pub(super) range: SectorRange,
    /// Everything before this sector was told, or is under way.
    cursor: u64,
    /// Everything before this sector was compared.
    pub(super) upto: u64,
    pieces: [Option<Piece>; WINDOW],
    /// What the comparer was told and has not compared.
    told: [Option<(Span, Digest)>; WINDOW],
    pub(super) found: Found,
    started: Time,
    ended: Time,
    /// Who waits for the peer to begin, and what with.
    pub(super) asker: Option<(Token, Reach)>,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            state: VerifyState::Never,
            part: Part::Comparer,
            run: Seq(0),
            range: SectorRange::default(),
            cursor: 0,
            upto: 0,
            pieces: [None; WINDOW],
            told: [None; WINDOW],
            found: Found::default(),
            started: Time(0),
            ended: Time(0),
            asker: None,
        }
    }
}

impl Verify {
    /// What this node does in the run under way.
    pub(super) fn running(&self) -> Option<Part> {
        (self.state == VerifyState::Running).then_some(self.part)
    }

    /// Whether this run is under way.
    pub(super) fn is_run(&self, part: Part, run: Seq) -> bool {
        self.running() == Some(part) && self.run == run
    }

    /// A range to be told.
    pub(super) fn next_span(&mut self) -> Option<Span> {
        let is_wanted = |piece: &&mut Piece| piece.stage == Stage::Wanted;
        if let Some(piece) = self.pieces.iter_mut().flatten().find(is_wanted) {
            piece.stage = Stage::Read;
            return Some(piece.at);
        }
        let place = self.pieces.iter_mut().find(|place| place.is_none())?;
        let left = self.range.end.saturating_sub(self.cursor);
        let bytes = left.saturating_mul(SECTOR_BYTES.into());
        let whole = Span {
            sector: Sector(self.cursor),
            bytes: u32::try_from(bytes).map_or(IO_BYTES_MAX, |bytes| bytes.min(IO_BYTES_MAX)),
        };
        if whole.bytes == 0 {
            return None;
        }
        self.cursor = whole.end();
        let (at, stage) = (whole, Stage::Read);
        *place = Some(Piece { whole, at, stage });
        Some(whole)
    }

    /// The digest of a range goes out, or the answer has come; `false`: it is not at that stage.
    fn take_span(
        &mut self,
        span: Span,
        stage: Stage,
        next: impl Fn(Piece) -> Option<Piece>,
    ) -> bool {
        let is_meant = |piece: &Piece| piece.at == span && piece.stage == stage;
        let mut places = self.pieces.iter_mut();
        let place = places.find(|place| place.as_ref().is_some_and(is_meant));
        let Some(place) = place else {
            return false;
        };
        *place = place.and_then(next);
        let open = self
            .pieces
            .iter()
            .flatten()
            .map(|piece| piece.whole.sector.0);
        self.upto = open.min().unwrap_or(self.cursor);
        true
    }

    /// The digest of a range goes out.
    pub(super) fn on_told(&mut self, span: Span) -> bool {
        let told = |piece| {
            Some(Piece {
                stage: Stage::Told,
                ..piece
            })
        };
        self.take_span(span, Stage::Read, told)
    }

    /// The peer has compared a range; `false`: it was not told of it.
    pub(super) fn on_compared(&mut self, span: Span, differs: bool) -> bool {
        self.take_span(span, Stage::Told, |piece| piece.next(differs))
    }

    /// The peer told a digest; `false`: more of them at a time than is allowed, or not of this run.
    pub(super) fn keep_told(&mut self, span: Span, digest: Digest, upto: u64) -> bool {
        let is_within = span.sector.0 >= self.range.start && span.end() <= self.range.end;
        let place = self.told.iter_mut().find(|place| place.is_none());
        let Some(place) = place.filter(|_| is_within) else {
            return false;
        };
        *place = Some((span, digest));
        self.upto = upto.min(self.range.end).max(self.upto);
        true
    }

    /// What the peer told of a range that is being compared.
    pub(super) fn take_told(&mut self, span: Span) -> Option<Digest> {
        let is_meant = |told: &(Span, Digest)| told.0 == span;
        let mut places = self.told.iter_mut();
        let place = places.find(|place| place.as_ref().is_some_and(is_meant))?;
        place.take().map(|(_, digest)| digest)
    }

    pub(super) fn is_through(&self) -> bool {
        self.cursor >= self.range.end && self.pieces.iter().all(Option::is_none)
    }

    pub(super) fn begin(&mut self, now: Time, part: Part, run: Seq, reach: Reach) {
        let from = reach.range.start;
        // Who was started anew since knows nothing of what was compared before.
        if reach.resumes && self.state.is_resumable() {
            self.found.truncate(from);
            let spent = self.ended.0.saturating_sub(self.started.0);
            self.started = Time(now.0.saturating_sub(spent));
            self.range.start = self.range.start.min(from);
        } else {
            (self.found, self.started) = (Found::default(), now);
            self.range.start = from;
        }
        (self.state, self.part, self.run) = (VerifyState::Running, part, run);
        (self.range.end, self.cursor, self.upto) = (reach.range.end, from, from);
        (self.pieces, self.told) = ([None; WINDOW], [None; WINDOW]);
    }

    pub(super) fn end(&mut self, now: Time, state: VerifyState) {
        (self.state, self.ended) = (state, now);
        if state == VerifyState::Finished {
            self.upto = self.range.end;
        }
    }

    /// What was found is owed now, and named by the bitmaps, as far as `is_owed` says. A run that was not through can still go
    /// on.
    pub(super) fn on_repair(&mut self, is_owed: impl Fn(SectorRange) -> bool) {
        if self.found.is_empty() {
            return;
        }
        self.found.retain(|range| !is_owed(range));
        if self.found.is_empty() && self.state == VerifyState::Finished {
            self.state = VerifyState::Repaired;
        }
    }

    /// What people see of it.
    pub(super) fn show(&self, now: Time, info: &mut PeerVolumeInfo) {
        let is_running = self.running().is_some();
        let until = if is_running { now } else { self.ended };
        info.verify = self.state.number();
        (info.verify_start, info.verify_stop) = (self.range.start, self.range.end);
        info.verify_upto = self.upto;
        info.verify_ms = until.ms_since(self.started);
        info.verify_differing = self.found.sectors();
        for (to, from) in info.verify_found.iter_mut().zip(self.found.ranges()) {
            *to = from;
            info.verify_ranges = info.verify_ranges.saturating_add(1);
        }
    }

    /// The replication as people see it while nothing but this is going on.
    pub(super) fn shown(&self) -> ReplicationState {
        match self.running() {
            Some(Part::Teller) => ReplicationState::VerifySource,
            Some(Part::Comparer) => ReplicationState::VerifyTarget,
            None => ReplicationState::Established,
        }
    }
}
