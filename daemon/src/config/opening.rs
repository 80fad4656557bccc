// SPDX-License-Identifier: GPL-2.0-only

//! What opening a device does to the role of its node.

use super::check::{fault, Checked};
use super::file::Resource;
use super::AutoPromotion;
use weft_uapi::limits::{AUTO_PROMOTE_TIMEOUT_S, AUTO_PROMOTE_TIMEOUT_S_MAX};
use weft_uapi::state::AutoPromote;

/// Whether an open makes a node primary, and for how long it waits.
pub(super) fn auto_promotion(raw: &Resource) -> Checked<AutoPromotion> {
    let mode = raw
        .auto_promote
        .as_ref()
        .map_or(Ok(AutoPromote::default()), |value| {
            AutoPromote::from_name(value.get_ref())
                .ok_or_else(|| fault(value, "auto-promote is \"guarded\", \"yes\" or \"no\""))
        })?;
    let timeout_s = match &raw.auto_promote_timeout {
        None => AUTO_PROMOTE_TIMEOUT_S,
        Some(value) if (1..=AUTO_PROMOTE_TIMEOUT_S_MAX).contains(value.get_ref()) => {
            *value.get_ref()
        }
        Some(value) => {
            return Err(fault(
                value,
                format!("auto-promote-timeout is 1 to {AUTO_PROMOTE_TIMEOUT_S_MAX} (seconds)"),
            ))
        }
    };
    Ok(AutoPromotion { mode, timeout_s })
}
