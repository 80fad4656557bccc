// SPDX-License-Identifier: GPL-2.0-only

//! Both sides of a resync send each other their bitmap, so that both know every block that may differ.
//!
//! The target then makes three things durable, in this order: the union of the bitmaps; that it is inconsistent, with
//! the source's line of generations; and only then it says so and takes data. After a crash at any point either the
//! old record or the bits tell what is missing.

use super::context::{ensure, Context, Fault};
use super::disk::Disk;
use super::peer_op::Kind;
use super::replica::{Adopting, Replica};
use super::volume::Volume;
use crate::host::{Host, Output, Time};
use weft_uapi::ondisk::{FLAG_INCONSISTENT, FLAG_INVALIDATED, FLAG_NEWCOMER, FLAG_OUTDATED};
use weft_uapi::state::{DiskState, ReplicationState};
use weft_uapi::units::{GenerationId, NodeId};
use weft_uapi::wire::{BitmapBody, Header, PacketKind, BODY_BYTES_MAX, FLAG_YES};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

const HEAD_BYTES: usize = size_of::<BitmapBody>();
/// Words of one packet.
const WORDS_MAX: usize = 256;
const BODY_BYTES: usize = HEAD_BYTES + WORDS_MAX * 8;
/// Packets looked at per event, so that the lock is not held for long.
const PACKETS_MAX: u32 = 64;

const _: () = assert!(BODY_BYTES <= BODY_BYTES_MAX as usize);

/// How far the exchange is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Pages {
    /// All bits are set; no words need to be sent.
    full: bool,
    /// Nothing is sent before the peer's are there: see [`Self::after_peer`].
    is_second: bool,
    /// The next word to be sent.
    next_word: u64,
    /// Everything was sent.
    pub(super) is_sent: bool,
    /// Everything was received.
    pub(super) is_received: bool,
}

impl Pages {
    pub(super) fn new(full: bool) -> Self {
        Self {
            full,
            ..Self::default()
        }
    }

    /// After a fork the bitmaps tell who changed how much, until they are united. So the victim sends its own first, when it
    /// has on record that it is the victim.
    pub(super) fn after_peer(self, is_second: bool) -> Self {
        Self { is_second, ..self }
    }
}

impl<H: Host> Replica<H> {
    fn pages_mut(&mut self) -> Option<&mut Pages> {
        let source = self.source.as_mut().map(|source| &mut source.pages);
        source.or(self.target.as_mut().map(|target| &mut target.pages))
    }

    fn pages(&self) -> Option<&Pages> {
        let source = self.source.as_ref().map(|source| &source.pages);
        source.or(self.target.as_ref().map(|target| &target.pages))
    }

    /// Whether bits are still to be sent: new writes wait so that none gets between them.
    pub(super) fn is_sending_bits(&self) -> bool {
        self.pages().is_some_and(|pages| !pages.is_sent)
    }

    /// When this replica wants to be looked at without an event.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.session?;
        // The first page goes out with the event that makes it possible.
        let is_begun = |pages: &Pages| !pages.is_sent && pages.next_word > 0;
        let is_sending = self.pages().is_some_and(is_begun);
        let is_scanning = self
            .target
            .as_ref()
            .is_some_and(|target| target.is_scanning && self.paused == 0);
        let is_decided = !self.round.is_open();
        let at_once = (is_decided && (is_sending || is_scanning)).then_some(Time(0));
        let verdict = self.verdict.map(|verdict| verdict.due);
        let pace = self
            .source
            .as_ref()
            .and_then(|source| source.pace.deadline());
        let negotiation = at_once.or(verdict).or(self.round.deadline());
        let trial = self.keeping.deadline();
        negotiation.into_iter().chain(pace).chain(trial).min()
    }
}

impl<H: Host> Volume<H> {
    /// Goes on with every exchange.
    #[inline(never)]
    pub(super) fn run_exchanges<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        self.mark_given_up();
        for peer in self.sessions().iter() {
            self.record_given_up(cx, peer);
            self.send_bits(cx, peer);
            self.run_adoption(cx, peer);
            self.begin_sync_source(cx, peer);
        }
    }

    fn send_bits<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let is_decided = |replica: &Replica<H>| !replica.round.is_open();
        let (Some(line), true) = (self.line(peer), self.replica(peer).is_some_and(is_decided))
        else {
            return;
        };
        if !self.is_source_stable(peer) || self.is_giving_up() || self.is_half_given_up(peer) {
            return;
        }
        let id = self.id;
        for _ in 0..PACKETS_MAX {
            let (Some(disk), Some(replica)) = (
                self.disk.as_mut(),
                self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
            ) else {
                return;
            };
            let is_target = replica.target.is_some();
            let (Some(slot), Some(pages)) = (disk.slot(peer), replica.pages_mut()) else {
                return;
            };
            if pages.is_sent || (pages.is_second && !pages.is_received) {
                return;
            }
            let words = disk.bits.words(slot, pages.next_word, WORDS_MAX);
            if pages.full || words.is_empty() {
                pages.is_sent = true;
                let mut header = Header::new(PacketKind::BitmapEnd, Some(id));
                header.flags = if pages.full { FLAG_YES } else { 0 };
                replica.receives = replica.source.is_some();
                cx.send(line, header, &[]);
                self.recheck = true;
                return;
            }
            if words.iter().any(|&word| word != 0) {
                let mut buffer = [0; BODY_BYTES];
                let body = page(&mut buffer, pages.next_word, words);
                cx.send(line, Header::new(PacketKind::Bitmap, Some(id)), body);
                let sent = body.get(HEAD_BYTES..).unwrap_or(&[]);
                for (at, word) in words_of(pages.next_word, sent).filter(|_| is_target) {
                    owe_everybody(disk, at, word);
                }
            }
            pages.next_word = pages.next_word.saturating_add(WORDS_MAX as u64);
        }
    }

    /// Whether a source has made its data stable, see [`Source::stable_by`]; a target has not to.
    fn is_source_stable(&mut self, peer: NodeId) -> bool {
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return false;
        };
        let Some(source) = replica.source.as_mut() else {
            return true;
        };
        if source.stable_by.is_none() {
            let mut ops = self.ops.iter();
            if !ops.any(|(_, op)| op.is_running && op.kind == Kind::Write) {
                source.stable_by = Some(disk.touch());
                self.recheck = true;
            }
        }
        source
            .stable_by
            .is_some_and(|number| disk.is_durable(number))
    }

    /// A part of the peer's bitmap.
    #[inline(never)]
    pub(super) fn on_bitmap(&mut self, peer: NodeId, body: &[u8]) -> Result<(), Fault> {
        const MALFORMED: &str = "the peer sent a malformed bitmap";
        let (head, rest) = BitmapBody::read_from_prefix(body).map_err(|_| Fault(MALFORMED))?;
        let words = usize::try_from(head.words.get()).map_err(|_| Fault(MALFORMED))?;
        let has_length = words.checked_mul(8) == Some(rest.len()) && head.reserved.get() == 0;
        ensure(has_length && self.expects_bits(peer), MALFORMED)?;
        let is_target = self
            .replica(peer)
            .is_some_and(|replica| replica.target.is_some());
        let Some((disk, slot)) = self
            .disk
            .as_mut()
            .and_then(|disk| disk.slot(peer).map(|slot| (disk, slot)))
        else {
            return Err(Fault(MALFORMED));
        };
        for (at, word) in words_of(head.first_word.get(), rest) {
            ensure(disk.bits.union_word(slot, at, word), MALFORMED)?;
            if is_target {
                owe_everybody(disk, at, word);
            }
        }
        Ok(())
    }

    /// The peer's bitmap is complete.
    #[inline(never)]
    pub(super) fn on_bitmap_end(&mut self, peer: NodeId, header: &Header) -> Result<(), Fault> {
        ensure(self.expects_bits(peer), "the peer sent a bitmap unasked")?;
        if header.flags & FLAG_YES != 0 {
            if let Some(disk) = self.disk.as_mut() {
                if let Some(slot) = disk.slot(peer) {
                    disk.bits.set_all(slot);
                }
            }
        }
        self.forget_found(peer);
        let total = self.disk.as_ref().map_or(0, |disk| disk.marked(peer));
        if let Some(replica) = self.replica_mut(peer) {
            replica.progress.total_bits = total;
            if let Some(pages) = replica.pages_mut() {
                pages.is_received = true;
            }
        }
        self.recheck = true;
        Ok(())
    }

    fn expects_bits(&self, peer: NodeId) -> bool {
        self.replica(peer)
            .and_then(Replica::pages)
            .is_some_and(|pages| !pages.is_received)
    }

    /// Takes the target through its durable steps.
    #[inline(never)]
    fn run_adoption<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        if self.disk_state() == DiskState::Failed || self.is_half_given_up(peer) {
            return;
        }
        let is_told = self.has_told();
        let (Some(disk), Some(replica)) = (
            self.disk.as_mut(),
            self.replicas.get_mut(peer.index()).and_then(Option::as_mut),
        ) else {
            return;
        };
        let is_told = is_told || replica.round.is_open();
        let exchanged = replica
            .target
            .as_ref()
            .filter(|target| target.pages.is_sent && target.pages.is_received);
        let Some((line, is_newcomer)) = exchanged.map(|target| (&target.line, target.is_newcomer))
        else {
            return;
        };
        if replica.replication != ReplicationState::BitmapTarget {
            return;
        }
        let is_begun = |adopting: Adopting| adopting.superblock.is_some();
        if is_told && !replica.adopting.is_some_and(is_begun) {
            // What was told to a peer, or is about to be, stays true until it is decided upon.
            replica.adopting = None;
            return;
        }
        let told = replica.round.own.as_ref();
        let told = told.map(|own| own.side.ancestry.current().id);
        if told != Some(disk.superblock.generation.id) && !replica.adopting.is_some_and(is_begun) {
            // A leader's record has come meanwhile. The line that was decided upon is of the past.
            replica.adopting = None;
            replica.round.renew(cx.now);
            return;
        }
        match replica.adopting {
            None => {
                disk.wants_bitmaps = true;
                let id = line.current().id;
                replica.adopting = Some(Adopting {
                    id,
                    superblock: None,
                    record: None,
                    joins: false,
                });
                self.recheck = true;
            }
            Some(adopting) if adopting.superblock.is_none() && disk.are_bitmaps_written() => {
                disk.set_ancestry(line);
                disk.superblock.tail_seq = replica
                    .round
                    .peer
                    .as_ref()
                    .map_or(0, |said| said.side.tail_seq);
                disk.set_flag(FLAG_INCONSISTENT, true);
                // INVARIANT: all that is owed is in the bitmaps on disk by now.
                disk.set_flag(FLAG_INVALIDATED, false);
                disk.set_flag(FLAG_OUTDATED, false);
                if is_newcomer {
                    disk.set_flag(FLAG_NEWCOMER, true);
                }
                disk.set_since(peer, adopting.id);
                replica.adopting = Some(Adopting {
                    superblock: Some(disk.touch()),
                    ..adopting
                });
                self.required = line.current().members;
                self.lapse_words(peer);
                self.set_disk_state(cx, DiskState::Inconsistent);
                self.recheck = true;
            }
            Some(adopting)
                if adopting
                    .superblock
                    .is_some_and(|number| disk.is_durable(number)) =>
            {
                replica.adopting = None;
                replica.accepts = true;
                self.acknowledge_generation(cx, peer, adopting.id);
                self.set_replication(cx, peer, ReplicationState::SyncTarget);
                self.recheck = true;
            }
            Some(_) => {}
        }
    }

    /// What a person said of the data that were here is not said of those that this disk takes over from a peer.
    fn lapse_words(&mut self, source: NodeId) {
        for other in self.known.without(source).iter() {
            if let Some(replica) = self.replica_mut(other) {
                replica.has_word_lapsed = true;
                replica.round.discards = false;
            }
        }
    }

    /// Tells the peer that its generation is durable here.
    pub(super) fn acknowledge_generation<O: Output<H>>(
        &mut self,
        cx: &mut Context<'_, H, O>,
        peer: NodeId,
        id: GenerationId,
    ) {
        if let Some(line) = self.line(peer) {
            let mut header = Header::new(PacketKind::GenerationDurable, Some(self.id));
            header.arg = id.0;
            let is_whole = |disk: &Disk<H>| !disk.has_flag(FLAG_INCONSISTENT);
            if self.disk.as_ref().is_some_and(is_whole) {
                header.flags = FLAG_YES;
            }
            cx.send(line, header, &[]);
        }
    }

    /// The resync begins when both bitmaps were exchanged and the target's record is durable.
    fn begin_sync_source<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(replica) = self.replica(peer) else {
            return;
        };
        let is_ready = replica.source.as_ref().is_some_and(|source| {
            source.is_peer_ready && source.pages.is_sent && source.pages.is_received
        });
        if is_ready && replica.replication == ReplicationState::BitmapSource {
            self.set_replication(cx, peer, ReplicationState::SyncSource);
            self.recheck = true;
        }
    }
}

/// The words of a bitmap packet with their numbers.
fn words_of(first: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let word = |bytes: &[u8]| {
        bytes
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let words = bytes.chunks_exact(8).map(word);
    (0u64..)
        .zip(words)
        .map(move |(index, word)| (first.saturating_add(index), word))
}

/// Notes towards every node what a target is about to fetch.
///
/// INVARIANT: this is on disk before the disk is inconsistent. Whoever it fetches from later, and whoever it may differ
/// from by what it has fetched, finds it there after a power cut, too (G4).
fn owe_everybody<H: Host>(disk: &mut Disk<H>, at: u64, word: u64) {
    for slot in disk.superblock.slot_of_node.iter().flatten() {
        disk.bits.union_word((*slot).into(), at, word);
    }
}

/// The body of a bitmap packet.
fn page<'a>(buffer: &'a mut [u8; BODY_BYTES], first_word: u64, words: &[u64]) -> &'a [u8] {
    let count = words.len().min(WORDS_MAX);
    let head = BitmapBody {
        first_word: U64::new(first_word),
        words: U32::new(count as u32),
        reserved: U32::ZERO,
    };
    let parts = head
        .as_bytes()
        .iter()
        .copied()
        .chain(words.iter().take(count).flat_map(|word| word.to_le_bytes()));
    for (to, from) in buffer.iter_mut().zip(parts) {
        *to = from;
    }
    buffer
        .get(..HEAD_BYTES.saturating_add(count.saturating_mul(8)))
        .unwrap_or(&[])
}
