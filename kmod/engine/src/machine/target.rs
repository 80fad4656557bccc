// SPDX-License-Identifier: GPL-2.0-only

//! The target of a resync: fetches what its bitmap names, a window at a time, and flushes now and then.
//!
//! A bit is cleared when the block is stable here. When none is left the source is told, and this disk stays
//! inconsistent until the source's record makes it a member.

use super::context::Context;
use super::exchange::Pages;
use super::invalidate::Record;
use super::volume::Volume;
use crate::ancestry::Ancestry;
use crate::bitmap::{Next, SECTORS_PER_BIT};
use crate::host::{Host, Output};
use crate::ranges::Span;
use weft_uapi::limits::{BITMAP_BLOCK_BYTES, IO_BYTES_MAX};
use weft_uapi::state::ReplicationState;
use weft_uapi::units::{NodeId, Sector};
use weft_uapi::wire::{Header, PacketKind};

/// Ranges asked for at the same time: as many small ones as keep both sides busy…
const WINDOW: usize = 32;
/// …and of long ones so many bytes.
const WINDOW_BYTES: u64 = 2 << 20;
/// Blocks of one range.
const RUN_BITS: u64 = (IO_BYTES_MAX / BITMAP_BLOCK_BYTES) as u64;
/// Bytes after which what was fetched is made stable.
const FLUSH_BYTES: u64 = 8 << 20;

/// A range that was asked for and has not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    span: Span,
    /// By the digest of what is here.
    by_digest: bool,
}

/// The target's side of a resync.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Target {
    pub(super) pages: Pages,
    /// The source's line of generations when it was decided; its later states count only when they are decided upon.
    pub(super) line: Ancestry,
    /// This disk took the place of another one that the source knew.
    pub(super) is_newcomer: bool,
    /// A person gave this disk up, and how far that is on record.
    pub(super) given_up: Option<Record>,
    /// The bitmap was searched up to this bit.
    cursor: u64,
    /// The search goes on with the next event.
    pub(super) is_scanning: bool,
    /// The bitmap was searched to its end.
    is_searched: bool,
    outstanding: [Option<Asked>; WINDOW],
    outstanding_bytes: u64,
    unflushed_bytes: u64,
    /// Nothing is left; the source was told.
    pub(super) is_finished: bool,
}

impl Target {
    pub(super) fn new(pages: Pages, line: Ancestry, is_newcomer: bool) -> Self {
        Self {
            pages,
            line,
            is_newcomer,
            ..Self::default()
        }
    }

    /// As [`Self::new`], of a disk that a person gave up: what is owed is marked once that is on record.
    pub(super) fn given_up(pages: Pages, line: Ancestry) -> Self {
        Self {
            given_up: Some(Record::Wanted),
            ..Self::new(pages, line, false)
        }
    }

    /// Whether the range was asked for and has not come.
    pub(super) fn is_outstanding(&self, span: Span) -> bool {
        self.asked(span).is_some()
    }

    /// Whether that was by digest.
    pub(super) fn is_asked_by_digest(&self, span: Span) -> bool {
        self.asked(span).is_some_and(|asked| asked.by_digest)
    }

    fn asked(&self, span: Span) -> Option<&Asked> {
        let mut outstanding = self.outstanding.iter().flatten();
        outstanding.find(|asked| asked.span == span)
    }

    /// A range is on disk.
    #[inline(never)]
    pub(super) fn on_done(&mut self, span: Span) {
        if let Some(place) = self
            .outstanding
            .iter_mut()
            .find(|place| place.is_some_and(|asked| asked.span == span))
        {
            *place = None;
            self.outstanding_bytes = self.outstanding_bytes.saturating_sub(span.bytes.into());
            self.unflushed_bytes = self.unflushed_bytes.saturating_add(span.bytes.into());
        }
    }

    fn is_waiting(&self) -> bool {
        self.outstanding.iter().any(Option::is_some)
    }

    /// Whether enough was fetched, or all.
    pub(super) fn wants_flush(&self) -> bool {
        self.unflushed_bytes >= FLUSH_BYTES
            || (self.is_searched && !self.is_waiting() && self.unflushed_bytes > 0)
    }

    /// What was fetched so far is being made stable.
    #[inline(never)]
    pub(super) fn on_flush_started(&mut self) {
        self.unflushed_bytes = 0;
    }
}

impl<H: Host> Volume<H> {
    /// Goes on with every resync of which this node is the target.
    #[inline(never)]
    pub(super) fn run_targets<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>) {
        for peer in self.sessions().iter() {
            let is_target = self.replica(peer).is_some_and(|replica| {
                replica.replication == ReplicationState::SyncTarget
                    && !replica.round.is_open()
                    && replica.paused == 0
            });
            if is_target {
                self.fetch(cx, peer);
                self.finish_sync(cx, peer);
            }
        }
    }

    fn fetch<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let Some(line) = self.line(peer) else {
            return;
        };
        let by_digest = self.asks_by_digest(&cx.facts, peer);
        while let Some((bit, span)) = self.next_range(peer, by_digest) {
            let kind = match by_digest {
                true => PacketKind::ResyncDigest,
                false => PacketKind::ResyncRequest,
            };
            let mut header = Header::new(kind, Some(self.id));
            (header.sector, header.bytes, header.arg) = (span.sector, span.bytes, bit);
            match by_digest {
                true => self.prepare_to_ask(cx, peer, &header),
                false => cx.send(line, header, &[]),
            }
        }
    }

    /// The next range to be asked for and the number of its first bit; `None`: none for now.
    fn next_range(&mut self, peer: NodeId, by_digest: bool) -> Option<(u64, Span)> {
        let disk = self.disk.as_ref()?;
        let replica = self.replicas.get_mut(peer.index())?.as_mut()?;
        let slot = disk.slot(peer)?;
        let target = replica.target.as_mut()?;
        target.is_scanning = false;
        if target.is_searched || target.outstanding_bytes >= WINDOW_BYTES {
            return None;
        }
        let place = target
            .outstanding
            .iter_mut()
            .find(|place| place.is_none())?;
        match disk.bits.next_run(slot, target.cursor, RUN_BITS) {
            Next::Run { bit, len } => {
                target.cursor = bit.saturating_add(len);
                let bits = u32::try_from(len).unwrap_or(0);
                let span = Span {
                    sector: Sector(bit.saturating_mul(SECTORS_PER_BIT)),
                    bytes: bits.saturating_mul(BITMAP_BLOCK_BYTES),
                };
                *place = Some(Asked { span, by_digest });
                target.outstanding_bytes =
                    target.outstanding_bytes.saturating_add(span.bytes.into());
                Some((bit, span))
            }
            Next::Later(bit) => {
                target.cursor = bit;
                target.is_scanning = true;
                None
            }
            Next::None => {
                target.is_searched = true;
                None
            }
        }
    }

    fn finish_sync<O: Output<H>>(&mut self, cx: &mut Context<'_, H, O>, peer: NodeId) {
        let (Some(line), id) = (self.line(peer), self.id) else {
            return;
        };
        let left = self.disk.as_ref().map_or(0, |disk| disk.marked(peer));
        let Some(replica) = self.replica_mut(peer) else {
            return;
        };
        let is_flushed = !replica.is_flush_running;
        let Some(target) = replica.target.as_mut() else {
            return;
        };
        let is_idle =
            target.is_searched && !target.is_waiting() && target.unflushed_bytes == 0 && is_flushed;
        if !is_idle || target.is_finished {
            return;
        }
        if left == 0 {
            target.is_finished = true;
            let mut header = Header::new(PacketKind::ResyncDone, Some(id));
            header.seq = replica.received.stable();
            cx.send(line, header, &[]);
        } else {
            target.cursor = 0;
            target.is_searched = false;
            self.recheck = true;
        }
    }
}
