// SPDX-License-Identifier: GPL-2.0-only

//! What one volume has to do with one peer.
//!
//! ```text
//! Off -> (states exchanged, decided) -> Established
//!                                    -> BitmapSource -> SyncSource -> Established
//!                                    -> BitmapTarget -> SyncTarget -> Established
//!                                    -> PausedSource, PausedTarget (another node is the one to fetch from)
//! ```
//! A session's end leads back to Off from everywhere; a new round of the negotiation may lead from everywhere to
//! a new decision.

use super::congestion::{Keeping, Outrun};
use super::negotiate::Round;
use super::place::Place;
use super::received::Received;
use super::said::Said;
use super::source::Source;
use super::target::Target;
use super::verify_run::Verify;
use crate::host::{Host, NoMemory, Time};
use weft_uapi::limits::SECTOR_BYTES;
use weft_uapi::ondisk::Generation;
use weft_uapi::split_brain::Recovery;
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{GenerationId, NodeId, Seq, SessionId};

/// A volume towards one peer.
pub(super) struct Replica<H: Host> {
    /// The session, once both hellos were right.
    pub(super) session: Option<SessionId>,
    pub(super) replication: ReplicationState,
    pub(super) peer_disk: DiskState,
    /// Name of the rule that decided last.
    pub(super) rule: &'static str,
    /// What came of it if that was a split brain, and whose data were given up.
    pub(super) recovery: Recovery,
    pub(super) victim: Option<NodeId>,
    pub(super) round: Round,
    /// It wants to know how large a device this disk has room for, and numbered the question so.
    pub(super) room_asked: Option<Seq>,
    /// Why a resync waits, bits `PAUSED_HERE` and `PAUSED_THERE`.
    pub(super) paused: u32,
    /// By the last decision this disk's data are newer.
    pub(super) is_behind: bool,
    /// It does not know a record that this disk has acknowledged, and that may be in force.
    pub(super) knows_less: bool,
    /// By the last decision its disk took the place of another one: its node forgot what it promised.
    pub(super) is_newcomer: bool,
    /// As far as is known it left in order, and was not taken in since.
    pub(super) has_left: bool,
    /// It had left and come back when the last record was made here, which names it as a member.
    pub(super) is_rejoining: bool,
    /// It is leaving in this session, and has that on record.
    pub(super) is_leaving: bool,
    /// It has the record that unites new disks, and may have told before that its disk is blank.
    pub(super) is_united: bool,
    /// What a person said when it was to be connected, that this side's data are given up, was of data that are here no more.
    pub(super) has_word_lapsed: bool,
    /// A record in force named an attach of its disk that it has not told of in this session, which may be with an earlier
    /// life of it.
    pub(super) is_outlived: bool,
    /// The last decision was to wait for something else.
    pub(super) is_waiting: bool,
    /// Acknowledgements of what was sent before this number mean nothing any more.
    pub(super) void_before: Seq,
    /// It gets every write of this node.
    pub(super) receives: bool,
    /// Its writes may be carried out here: the generation that they belong to is durable.
    pub(super) accepts: bool,
    /// What was received and is not known to be stable everywhere.
    pub(super) received: Received<H>,
    /// Flush what was received at least up to here.
    pub(super) flush_wanted: Seq,
    /// The flush under way covers what was received up to here.
    pub(super) flushing: Option<Seq>,
    /// A flush for this peer is under way, perhaps of a session that is over.
    pub(super) is_flush_running: bool,
    /// A generation record of the peer that is being made durable here, and the superblock to wait for.
    pub(super) adopting: Option<Adopting>,
    /// A record without writer that the peer made, durable here and not known to be in force: who holds the same is
    /// about to be told.
    pub(super) awaits_force: bool,
    /// Everything up to here is stable there.
    pub(super) stable: Seq,
    /// The last flush sent.
    pub(super) flush_sent: Seq,
    /// The last trim sent.
    pub(super) trim_sent: Seq,
    /// Its data were exhausted; a record that includes it is due.
    pub(super) wants_member: bool,
    /// It has fetched all it knew of, and everything up to here is stable there.
    pub(super) finished_upto: Seq,
    pub(super) source: Option<Source>,
    pub(super) target: Option<Target>,
    /// Why the session has to end, and whether a person has to look at it.
    pub(super) verdict: Option<Verdict>,
    pub(super) unacked: u32,
    pub(super) unacked_bytes: u64,
    /// How it keeps up with the writes of this node.
    pub(super) keeping: Keeping,
    /// It is primary, and this node does not keep up with its writes.
    pub(super) outrun: Outrun,
    pub(super) sent_sectors: u64,
    pub(super) received_sectors: u64,
    pub(super) progress: Progress,
    /// How the two copies compare; outlives sessions.
    pub(super) verify: Place<H, Verify>,
}

/// A record being made durable for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Adopting {
    /// The generation.
    pub(super) id: GenerationId,
    /// Number of the superblock that has it; `None`: something else comes first.
    pub(super) superblock: Option<u64>,
    /// The record, once everything up to this number is on disk; `None`: a sync target takes a whole line over.
    pub(super) record: Option<(Generation, Seq)>,
    /// This node becomes a member by it.
    pub(super) joins: bool,
}

/// Why a session ends from within.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// A short sentence for people.
    pub(super) sentence: &'static str,
    /// Not to be tried again before a person said so.
    pub(super) stand_alone: bool,
    /// When to end it: a peer that has to come to the same verdict needs what was sent to it until now.
    pub(super) due: Time,
}

/// How far the running or last resync is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Progress {
    pub(super) total_bits: u64,
    /// Sectors that were found equal.
    pub(super) equal_sectors: u64,
    pub(super) started: Time,
    pub(super) ended: Option<Time>,
}

impl Progress {
    /// So many bytes were found equal.
    pub(super) fn count_equal(&mut self, bytes: u32) {
        let sectors = u64::from(bytes / SECTOR_BYTES);
        self.equal_sectors = self.equal_sectors.saturating_add(sectors);
    }
}

impl<H: Host> Replica<H> {
    /// A replica without session. Context: may sleep.
    pub(super) fn new() -> Result<Self, NoMemory> {
        let mut verify = Place::default();
        verify.put(Verify::default())?;
        Ok(Self {
            session: None,
            replication: ReplicationState::Off,
            peer_disk: DiskState::Unknown,
            rule: "",
            recovery: Recovery::None,
            victim: None,
            round: Round::default(),
            room_asked: None,
            paused: 0,
            is_behind: false,
            knows_less: false,
            is_newcomer: false,
            has_left: false,
            is_rejoining: false,
            is_leaving: false,
            is_united: false,
            has_word_lapsed: false,
            is_outlived: false,
            is_waiting: false,
            void_before: Seq(0),
            receives: false,
            accepts: false,
            received: Received::new()?,
            flush_wanted: Seq(0),
            flushing: None,
            is_flush_running: false,
            adopting: None,
            awaits_force: false,
            stable: Seq(0),
            flush_sent: Seq(0),
            trim_sent: Seq(0),
            wants_member: false,
            finished_upto: Seq(0),
            source: None,
            target: None,
            verdict: None,
            unacked: 0,
            unacked_bytes: 0,
            keeping: Keeping::default(),
            outrun: Outrun::No,
            sent_sectors: 0,
            received_sectors: 0,
            progress: Progress::default(),
            verify,
        })
    }

    /// What the peer told last in this session.
    pub(super) fn told(&self) -> Option<&Said> {
        self.round.peer.as_ref().filter(|_| self.session.is_some())
    }

    /// Whether none of its writes may begin before a sync from it has.
    pub(super) fn is_early(&self) -> bool {
        self.target.is_some() && !self.accepts
    }

    /// Whether a round is open, or the bits that it led to have not all been sent.
    pub(super) fn is_negotiating(&self) -> bool {
        self.session.is_some() && (self.round.is_open() || self.is_sending_bits())
    }

    /// Forgets everything that belongs to one session.
    pub(super) fn reset(&mut self) {
        self.session = None;
        self.peer_disk = DiskState::Unknown;
        self.round = Round::default();
        self.room_asked = None;
        (self.is_behind, self.knows_less) = (false, false);
        self.is_rejoining = false;
        self.is_leaving = false;
        self.is_united = false;
        self.is_outlived = false;
        self.is_waiting = false;
        self.void_before = Seq(0);
        self.receives = false;
        self.accepts = false;
        self.received.restart();
        self.flush_wanted = Seq(0);
        self.flushing = None;
        self.adopting = None;
        self.awaits_force = false;
        self.stable = Seq(0);
        self.flush_sent = Seq(0);
        self.trim_sent = Seq(0);
        self.wants_member = false;
        self.source = None;
        self.target = None;
        self.verdict = None;
        self.unacked = 0;
        self.unacked_bytes = 0;
        self.keeping.on_session_over();
        self.outrun = Outrun::No;
    }

    /// Forgets what was decided last and all that came of it.
    pub(super) fn forget_decision(&mut self) {
        self.is_waiting = false;
        self.receives = false;
        self.accepts = false;
        self.adopting = None;
        self.wants_member = false;
        self.source = None;
        self.target = None;
        self.keeping.on_decision();
        self.outrun = match self.outrun {
            told @ Outrun::Told(_) => told,
            Outrun::No | Outrun::Noting(_) | Outrun::Noted => Outrun::No,
        };
    }

    /// Whether what is fetched from it is known to be of the past: it left in order, and has not met what was written since.
    pub(super) fn fetches_outdated(&self) -> bool {
        let said = self.round.peer;
        said.is_some_and(|said| said.has_left && said.disk == DiskState::Outdated)
    }

    /// The peer has told that it fetches from somebody, and does so no more.
    pub(super) fn stop_fetching(&mut self) {
        if let Some(said) = self.round.peer.as_mut() {
            said.stance.source = None;
        }
    }

    /// Whether it gets every write and lacks no earlier one.
    pub(super) fn is_whole(&self) -> bool {
        self.receives && self.source.is_none_or(|source| source.has_joined)
    }

    /// A data packet goes out that will be acknowledged.
    pub(super) fn count_sent(&mut self, bytes: u32) {
        self.unacked = self.unacked.saturating_add(1);
        self.unacked_bytes = self.unacked_bytes.saturating_add(bytes.into());
        self.sent_sectors = self.sent_sectors.saturating_add(u64::from(bytes / 512));
    }

    /// A packet goes out that says that data are equal, and will be acknowledged as they would be.
    pub(super) fn count_equal(&mut self, bytes: u32) {
        let sent = self.sent_sectors;
        self.count_sent(bytes);
        self.sent_sectors = sent;
        self.progress.count_equal(bytes);
    }

    /// A data packet was acknowledged.
    pub(super) fn count_acked(&mut self, bytes: u32) {
        self.unacked = self.unacked.saturating_sub(1);
        self.unacked_bytes = self.unacked_bytes.saturating_sub(bytes.into());
    }

    /// The session has to end; the first reason counts.
    pub(super) fn condemn(&mut self, sentence: &'static str, stand_alone: bool, due: Time) {
        self.verdict.get_or_insert(Verdict {
            sentence,
            stand_alone,
            due,
        });
    }
}
