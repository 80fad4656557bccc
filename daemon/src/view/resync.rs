// SPDX-License-Identifier: GPL-2.0-only

//! How fast resyncs are served, and what holds one up.

use super::units::size;
use serde::{Deserialize, Serialize};
use weft_uapi::resync::{Limit, Speed};
use weft_uapi::status::{PeerVolumeInfo, ResourceInfo};

/// How fast a node serves each resync.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Resync {
    /// Never slower for the sake of applications, in bytes per second.
    pub min_rate_bytes: u64,
    /// Never faster, in bytes per second; 0: as fast as it goes.
    pub max_rate_bytes: u64,
    /// Slower while requests of applications take longer than this in the mean, in milliseconds.
    pub latency_target_ms: u32,
}

impl Resync {
    /// The bounds.
    pub fn speed(&self) -> Speed {
        Speed {
            min: self.min_rate_bytes,
            max: self.max_rate_bytes,
            latency_ms: self.latency_target_ms,
        }
    }
}

impl From<Speed> for Resync {
    fn from(speed: Speed) -> Self {
        Self {
            min_rate_bytes: speed.min,
            max_rate_bytes: speed.max,
            latency_target_ms: speed.latency_ms,
        }
    }
}

impl Default for Resync {
    fn default() -> Self {
        Self::from(Speed::default())
    }
}

impl From<&ResourceInfo> for Resync {
    fn from(info: &ResourceInfo) -> Self {
        let speed = Speed {
            min: info.resync_min_rate,
            max: info.resync_max_rate,
            latency_ms: info.resync_latency_ms,
        };
        // A module that knows of no bounds tells none.
        match speed.is_valid() {
            true => Self::from(speed),
            false => Self::default(),
        }
    }
}

/// What holds up the resync that this node serves, if anything does.
pub(super) fn limit(info: &PeerVolumeInfo) -> Option<String> {
    let limit = Limit::from_number(info.resync_limit)?;
    (limit != Limit::None).then(|| limit.name().to_owned())
}

/// The same in words, with what to change.
pub(super) fn why(limit: &str, rate: u64) -> Option<String> {
    let rate = size(rate);
    match Limit::from_name(limit)? {
        Limit::None => None,
        Limit::MaxRate => Some(format!("held at {rate}/s by resync-max-rate")),
        Limit::Latency => Some(format!(
            "held at {rate}/s for the latency of applications (resync-latency-target)"
        )),
        Limit::MinRate => Some(format!(
            "held at {rate}/s (resync-min-rate) for the latency of applications"
        )),
    }
}
