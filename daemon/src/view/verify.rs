// SPDX-License-Identifier: GPL-2.0-only

//! How two copies compare.

use super::units::{sector_bytes, size, span};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;
use weft_uapi::state::VerifyState;
use weft_uapi::status::PeerVolumeInfo;

/// Pieces that are named in words.
const PIECES_TOLD: usize = 8;

/// The running or last verify of a volume with one peer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Verify {
    /// `running`, `finished`, `stopped`, `disconnected`, `interrupted`, or `repaired`: what it found is being repaired, or was.
    pub state: String,
    /// First byte of what is or was compared.
    pub start: u64,
    /// The byte after the last one.
    pub stop: u64,
    /// Everything before this byte was compared.
    pub upto: u64,
    /// For how long it has been running, or ran.
    pub ms: u64,
    /// In blocks that differ.
    pub differing_bytes: u64,
    /// Where those lie. Many are joined over what lies between them, which is equal.
    pub differences: Vec<Piece>,
}

/// A piece of a volume, in bytes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last one.
    pub stop: u64,
}

impl Piece {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.stop && other.start < self.stop
    }
}

impl Verify {
    /// `None`: there was none.
    pub(super) fn of(info: &PeerVolumeInfo) -> Option<Self> {
        let state = VerifyState::from_number(info.verify)?;
        let pieces = info.verify_found.iter().take(info.verify_ranges as usize);
        let differences = pieces.map(|piece| Piece {
            start: sector_bytes(piece.start),
            stop: sector_bytes(piece.end),
        });
        (state != VerifyState::Never).then(|| Self {
            state: state.name().to_owned(),
            start: sector_bytes(info.verify_start),
            stop: sector_bytes(info.verify_stop),
            upto: sector_bytes(info.verify_upto),
            ms: info.verify_ms,
            differing_bytes: sector_bytes(info.verify_differing),
            differences: differences.collect(),
        })
    }

    /// What became of it.
    pub fn state(&self) -> VerifyState {
        VerifyState::from_name(&self.state).unwrap_or_default()
    }

    /// Whether it is under way.
    pub fn is_running(&self) -> bool {
        self.state() == VerifyState::Running
    }

    /// How much is to be compared.
    pub fn total_bytes(&self) -> u64 {
        self.stop.saturating_sub(self.start)
    }

    /// How much of it was.
    pub fn done_bytes(&self) -> u64 {
        self.upto.saturating_sub(self.start).min(self.total_bytes())
    }

    /// Mean speed, in bytes per second.
    pub fn speed(&self) -> u64 {
        let done = u128::from(self.done_bytes()) * 1000;
        (done / u128::from(self.ms.max(1))) as u64
    }

    /// Seconds to its end at its mean speed; `None` before it got anywhere.
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.total_bytes().saturating_sub(self.done_bytes());
        left.checked_div(self.speed())
    }

    /// Where the copies differ.
    pub fn places(&self) -> String {
        let pieces = self.differences.iter().take(PIECES_TOLD);
        let mut places: Vec<_> = pieces
            .map(|piece| format!("{}-{}", piece.start, piece.stop.saturating_sub(1)))
            .collect();
        if let Some(more) = self.differences.len().checked_sub(PIECES_TOLD + 1) {
            places.push(format!("and {} more pieces", more + 1));
        }
        places.join(", ")
    }

    /// Whether more than half of all copies agree with this node's wherever the peer's differs, as far as `others` tell, the
    /// comparisons with all other peers; `None`: that one was not compared now.
    pub fn is_outvoted(&self, others: &[Option<&Self>]) -> bool {
        let copies = others.len() + 2;
        let agrees = |other: &&&Self, piece: &Piece| {
            let mut theirs = other.differences.iter();
            let is_covered = other.start <= piece.start && piece.stop <= other.stop;
            other.state() == VerifyState::Finished
                && is_covered
                && !theirs.any(|it| it.overlaps(piece))
        };
        let has_majority = |piece: &Piece| {
            let compared = others.iter().flatten();
            let agreeing = compared.filter(|other| agrees(other, piece));
            2 * (agreeing.count() + 1) > copies
        };
        self.differences.iter().all(has_majority)
    }

    /// In words; `target` is what to call the peer in commands.
    pub(super) fn text(&self, resource: &str, target: &str) -> String {
        let mut text = format!("verify {}", self.state);
        if self.is_running() {
            let percent = 100.0 * self.done_bytes() as f64 / self.total_bytes().max(1) as f64;
            let _ = write!(text, "  {percent:.1} %  {}/s", size(self.speed()));
            if let Some(left) = self.seconds_left() {
                let _ = write!(text, "  {} left", span(Duration::from_secs(left)));
            }
        }
        if self.differing_bytes > 0 {
            let (differing, places) = (size(self.differing_bytes), self.places());
            let _ = write!(text, ": {differing} differ, in bytes {places}");
            if !self.is_running() {
                let _ = write!(
                    text,
                    "; from the node whose data are right: weft repair {resource} {target} --from NODE"
                );
            }
        } else if self.state() == VerifyState::Finished {
            text.push_str(": equal");
        }
        if self.state().is_resumable() {
            let _ = write!(
                text,
                "; {} were not compared: weft verify {resource} {target} --resume",
                size(self.total_bytes() - self.done_bytes())
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(state: VerifyState) -> Verify {
        Verify {
            state: state.name().to_owned(),
            start: 0,
            stop: 4 << 20,
            upto: 1 << 20,
            ms: 2000,
            differing_bytes: 0,
            differences: Vec::new(),
        }
    }

    #[test]
    fn a_running_one_shows_share_speed_and_time_left() {
        let text = sample(VerifyState::Running).text("r0", "beta");
        assert_eq!(text, "verify running  25.0 %  512.0 KiB/s  6 s left");
    }

    #[test]
    fn what_differs_is_named_with_the_way_to_repair_it() {
        let mut verify = sample(VerifyState::Finished);
        assert_eq!(verify.text("r0", "beta"), "verify finished: equal");
        verify.differing_bytes = 8192;
        verify.differences = vec![Piece {
            start: 0,
            stop: 8192,
        }];
        let want = "verify finished: 8.0 KiB differ, in bytes 0-8191; from the node whose data are right: \
                    weft repair r0 beta --from NODE";
        assert_eq!(verify.text("r0", "beta"), want);
        verify.differences = vec![Piece { start: 0, stop: 1 }; PIECES_TOLD + 3];
        assert!(verify.places().ends_with("0-0, and 3 more pieces"));
    }

    #[test]
    fn a_copy_is_outvoted_where_it_alone_differs() {
        let differing = |pieces: &[(u64, u64)]| Verify {
            differences: pieces
                .iter()
                .map(|&(start, stop)| Piece { start, stop })
                .collect(),
            ..sample(VerifyState::Finished)
        };
        let wrong = differing(&[(0, 4096), (8192, 12288)]);
        let right = differing(&[(4096, 8192)]);
        assert!(wrong.is_outvoted(&[Some(&right)]) && right.is_outvoted(&[Some(&wrong)]));
        assert!(!wrong.is_outvoted(&[]), "one against one");
        let as_wrong = differing(&[(8192, 12288)]);
        let (right, as_wrong) = (Some(&right), Some(&as_wrong));
        assert!(!wrong.is_outvoted(&[as_wrong]), "two against one");
        assert!(!wrong.is_outvoted(&[right, as_wrong]), "two against two");
        assert!(wrong.is_outvoted(&[right, right, as_wrong]));
        let unfinished = sample(VerifyState::Stopped);
        assert!(!wrong.is_outvoted(&[Some(&unfinished)]));
        assert!(
            !wrong.is_outvoted(&[None]),
            "what is known of it is of another day"
        );
        let elsewhere = Verify {
            start: 1 << 20,
            ..sample(VerifyState::Finished)
        };
        assert!(!wrong.is_outvoted(&[Some(&elsewhere)]), "of another part");
    }

    #[test]
    fn one_that_broke_off_says_how_it_goes_on() {
        let text = sample(VerifyState::Disconnected).text("r0", "beta");
        let want = "verify disconnected; 3.0 MiB were not compared: weft verify r0 beta --resume";
        assert_eq!(text, want);
    }
}
