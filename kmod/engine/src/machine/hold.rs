// SPDX-License-Identifier: GPL-2.0-only

//! References to extents of the activity log: what holds one keeps its extent hot.

use super::volume::Volume;
use crate::activity_log::Begin;
use crate::host::Host;
use crate::ranges::Span;
use weft_uapi::limits::AL_EXTENT_BYTES;

const EXTENT_SECTORS: u64 = (AL_EXTENT_BYTES / 512) as u64;

/// References to the extents of a range in the activity log.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Hold {
    /// The references are held.
    pub(super) is_held: bool,
    /// The transaction that makes all of them hot.
    pub(super) transaction: u64,
}

/// The extents that a range touches.
pub(super) fn extents(span: Span) -> impl Iterator<Item = u32> {
    let first = span.sector.0 / EXTENT_SECTORS;
    let last = span.end().saturating_sub(1) / EXTENT_SECTORS;
    (first..=last).filter_map(|extent| u32::try_from(extent).ok())
}

impl<H: Host> Volume<H> {
    /// Takes references to the extents of a range; whether all of them are hot.
    pub(super) fn heat(&mut self, span: Span, hold: &mut Hold) -> bool {
        let Some(disk) = self.disk.as_mut() else {
            return false;
        };
        if !hold.is_held {
            for (taken, extent) in extents(span).enumerate() {
                match disk.log.begin(extent) {
                    Begin::Hot => {}
                    Begin::Pending(transaction) => {
                        hold.transaction = hold.transaction.max(transaction)
                    }
                    Begin::Full => {
                        extents(span).take(taken).for_each(|extent| {
                            disk.log.end(extent);
                        });
                        // What the tail holds is given back once it is stable everywhere.
                        self.tail_flush.is_wanted = true;
                        self.is_starved = true;
                        return false;
                    }
                }
            }
            hold.is_held = true;
            // A transaction that is wanted now is written in the same turn.
            self.recheck |= hold.transaction > disk.log.committed();
        }
        hold.transaction <= disk.log.committed()
    }

    /// Gives the references back.
    pub(super) fn cool(&mut self, span: Span, hold: &mut Hold) {
        let was_held = core::mem::take(hold).is_held;
        if let Some(disk) = self.disk.as_mut().filter(|_| was_held) {
            extents(span).for_each(|extent| {
                disk.log.end(extent);
            });
            self.feed_starved();
        }
    }
}
