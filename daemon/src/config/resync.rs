// SPDX-License-Identifier: GPL-2.0-only

//! How fast resyncs are served, and whose come first.

use super::check::{fault, within, Checked};
use super::file::Resource;
use crate::view::units::bytes_of;
use toml::Spanned;
use weft_uapi::resync::{Csums, Speed, LATENCY_MS_MAX, RATE_MAX, RATE_MIN};

/// What stands for no upper bound.
const UNLIMITED: &str = "unlimited";

/// The bounds.
pub(super) fn speed(raw: &Resource) -> Checked<Speed> {
    let default = Speed::default();
    let max = match &raw.resync_max_rate {
        Some(value) if value.get_ref() == UNLIMITED => 0,
        Some(value) => rate("resync-max-rate", value)?,
        None => default.max,
    };
    let min = match &raw.resync_min_rate {
        Some(value) => rate("resync-min-rate", value)?,
        // Who only names an upper bound wants it kept.
        None if max > 0 => default.min.min(max),
        None => default.min,
    };
    let latency_ms = within(
        "resync-latency-target",
        raw.resync_latency_target.as_ref(),
        1..=LATENCY_MS_MAX,
        default.latency_ms,
    )?;
    let speed = Speed {
        min,
        max,
        latency_ms,
    };
    match &raw.resync_min_rate {
        Some(value) if !speed.is_valid() => {
            Err(fault(value, "resync-min-rate is above resync-max-rate"))
        }
        _ => Ok(speed),
    }
}

/// Whether ranges are asked for by digest.
pub(super) fn csums(raw: &Resource) -> Checked<Csums> {
    raw.csums_resync
        .as_ref()
        .map_or(Ok(Csums::default()), |value| {
            Csums::from_name(value.get_ref())
                .ok_or_else(|| fault(value, "csums-resync is \"yes\" or \"no\""))
        })
}

/// Bytes per second.
fn rate(what: &str, raw: &Spanned<String>) -> Checked<u64> {
    let rate = bytes_of(raw.get_ref()).map_err(|error| fault(raw, format!("{what}: {error}")))?;
    match (RATE_MIN..=RATE_MAX).contains(&rate) {
        true => Ok(rate),
        false => Err(fault(
            raw,
            format!("{what} is 4K to 1T, in bytes per second"),
        )),
    }
}

/// Checks that resources wait for others that are there, and not in a circle.
pub(super) fn order(resources: &[Resource]) -> Checked<()> {
    let named = |name: &str| resources.iter().find(|it| it.name.get_ref() == name);
    for resource in resources {
        let mut next = resource;
        // A way that is longer comes by somebody twice.
        for step in 0..=resources.len() {
            let Some(after) = &next.resync_after else {
                break;
            };
            let message = format!("resync-after: there is no resource '{}'", after.get_ref());
            next = named(after.get_ref()).ok_or_else(|| fault(after, message))?;
            if step == resources.len() || next.name.get_ref() == resource.name.get_ref() {
                let message = "resync-after: resources would wait for each other in a circle";
                return Err(fault(after, message));
            }
        }
    }
    Ok(())
}
