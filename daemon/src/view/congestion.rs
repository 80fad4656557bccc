// SPDX-License-Identifier: GPL-2.0-only

//! Peers that do not keep up with the writes: what is done about them, and how that stands.

use super::model::PeerDevice;
use super::units::{size, span};
use crate::kernel::netlink::request::{Request, Value};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use weft_uapi::congestion::{Congestion as Wanted, Pace};
use weft_uapi::netlink::Attribute;
use weft_uapi::status::ResourceInfo;
use weft_uapi::units::{NodeId, NodeSet};

/// What this node does about a peer that does not keep up.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Congestion {
    /// Node ids of the peers that it goes ahead of; the others hold writes up.
    pub pull_ahead: Vec<u8>,
    /// So many bytes of writes that are not answered are too many.
    pub fill_bytes: u64,
}

impl Congestion {
    fn wanted(&self) -> Wanted {
        let peers = self.pull_ahead.iter();
        let peers = peers.filter_map(|&id| NodeId::new(id.into()));
        Wanted {
            pull_ahead: peers.fold(NodeSet::EMPTY, NodeSet::with),
            fill: self.fill_bytes,
        }
    }

    /// A request that gives a resource, for which this holds now, what is wanted where it differs.
    pub fn adjust(&self, request: Request, wanted: Wanted) -> Request {
        let now = self.wanted();
        let request = match wanted.pull_ahead == now.pull_ahead {
            true => request,
            false => request.number(Attribute::PullAhead, wanted.pull_ahead.0),
        };
        match wanted.fill == now.fill {
            true => request,
            false => request.with(Attribute::CongestionFill, Value::U64(wanted.fill)),
        }
    }

    /// A request for a new resource for which this shall hold.
    pub fn request(&self, request: Request) -> Request {
        Self::default().adjust(request, self.wanted())
    }
}

impl From<Wanted> for Congestion {
    fn from(wanted: Wanted) -> Self {
        Self {
            pull_ahead: wanted.pull_ahead.iter().map(NodeId::get).collect(),
            fill_bytes: wanted.fill,
        }
    }
}

impl Default for Congestion {
    fn default() -> Self {
        Self::from(Wanted::default())
    }
}

impl From<&ResourceInfo> for Congestion {
    fn from(info: &ResourceInfo) -> Self {
        let told = Wanted {
            pull_ahead: NodeSet(info.pull_ahead),
            fill: info.congestion_fill,
        };
        // A module that knows of nothing of that kind tells none.
        match told.is_valid() {
            true => Self::from(told),
            false => Self::default(),
        }
    }
}

/// How a peer keeps up, in words, with what to do; `None`: it does.
pub(super) fn why(peer: &PeerDevice) -> Option<String> {
    let state = match Pace::from_name(&peer.pace)? {
        Pace::Together => return None,
        Pace::Blocks => "does not keep up: writes wait for it (on-congestion)",
        Pace::NoQuorum => {
            "does not keep up: writes wait for it, since there is no majority without it; connect another voter"
        }
        Pace::Served => {
            "does not keep up: writes wait for it, since it is primary, too; weft secondary there lets them go on"
        }
        Pace::TooOld => {
            "does not keep up: writes wait for it, since its version cannot be left behind; update it"
        }
        Pace::Asked => "does not keep up: is being left behind",
        Pace::Ahead => "does not keep up: is left behind, and synced when it has answered",
        Pace::SyncOnly => "does not keep up: is synced before it gets the writes again",
    };
    let lag = span(Duration::from_millis(peer.lag_ms));
    Some(format!("{state}; lags {} and {lag}", size(peer.lag_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::show::command_line;
    use weft_uapi::netlink::Command;

    #[test]
    fn only_what_differs_is_asked_for() {
        let wanted = Wanted {
            pull_ahead: NodeSet(0b110),
            fill: 1 << 20,
        };
        let request = || Request::about(Command::Options, "r0");
        let congestion = Congestion::from(wanted);
        assert_eq!(
            command_line(&congestion.request(request())),
            "weftsetup options r0 --pull-ahead 1,2 --congestion-fill 1048576"
        );
        assert_eq!(
            command_line(&congestion.adjust(request(), wanted)),
            "weftsetup options r0"
        );
        assert_eq!(
            command_line(&congestion.adjust(request(), Wanted::default())),
            "weftsetup options r0 --pull-ahead none --congestion-fill 2097152"
        );
    }
}
