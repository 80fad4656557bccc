// SPDX-License-Identifier: GPL-2.0-only

//! Weft: a replicated block device. `ARCHITECTURE.md` says how it is built.

mod block;
mod control;
mod disk;
mod error;
mod fifo;
mod host;
mod links;
mod log;
mod netlink;
mod pump;
mod quota;
mod registry;
mod resource;
mod sys;

use host::Host;
use kernel::{prelude::*, sync::Arc};
use sys::{gendisk::Major, work::SlowQueue};

module! {
    type: WeftModule,
    name: "weft",
    authors: ["The Weft authors"],
    description: "Weft replicated block device",
    license: "GPL v2",
}

/// The loaded module. Its parts are given up in the order of the fields: first the ways in, then what they used. There
/// are no resources by then, since each of them keeps the module loaded.
struct WeftModule {
    _netlink: sys::genl::Registration,
    _control: Pin<KBox<control::ControlDevice>>,
    _host: Arc<Host>,
    _major: Arc<Major>,
    _slow: SlowQueue,
}

impl kernel::Module for WeftModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let slow = SlowQueue::create()?;
        let major = Arc::new(Major::register()?, GFP_KERNEL)?;
        let host = Host::new(major.clone())?;
        Ok(Self {
            _control: control::register(host.offers.clone())?,
            _netlink: netlink::register(host.clone())?,
            _host: host,
            _major: major,
            _slow: slow,
        })
    }
}
