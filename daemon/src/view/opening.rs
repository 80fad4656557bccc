// SPDX-License-Identifier: GPL-2.0-only

//! What opening a device does to the role of its node.

use crate::kernel::netlink::request::Request;
use serde::{Deserialize, Serialize};
use weft_uapi::limits::AUTO_PROMOTE_TIMEOUT_S;
use weft_uapi::netlink::Attribute;
use weft_uapi::state::AutoPromote;
use weft_uapi::status::ResourceInfo;

/// Whether an open for writing makes the node primary, and whether one did.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Opening {
    /// `no`, `guarded` or `yes`.
    pub mode: String,
    /// For how long an open waits for that at most, in seconds.
    pub timeout_s: u32,
    /// The node is primary because of an open, and until the last close.
    pub in_effect: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            mode: AutoPromote::default().name().to_owned(),
            timeout_s: AUTO_PROMOTE_TIMEOUT_S,
            in_effect: false,
        }
    }
}

impl From<&ResourceInfo> for Opening {
    fn from(info: &ResourceInfo) -> Self {
        // A module that does not tell it does not do it.
        let mode = AutoPromote::from_number(info.auto_promote).unwrap_or(AutoPromote::No);
        Self {
            mode: mode.name().to_owned(),
            timeout_s: info.auto_promote_timeout_s,
            in_effect: info.primary_by_open != 0,
        }
    }
}

impl Opening {
    /// A request that gives a resource, whose options are these now, the wanted ones where they differ.
    pub fn adjust(&self, request: Request, mode: AutoPromote, timeout_s: u32) -> Request {
        let request = match mode.name() == self.mode {
            true => request,
            false => request.number(Attribute::AutoPromote, mode.number()),
        };
        match timeout_s == self.timeout_s {
            true => request,
            false => request.number(Attribute::AutoPromoteTimeout, timeout_s),
        }
    }

    /// A request for a new resource with these options.
    pub fn request(&self, request: Request) -> Request {
        let mode = AutoPromote::from_name(&self.mode).unwrap_or_default();
        Self::default().adjust(request, mode, self.timeout_s)
    }
}
