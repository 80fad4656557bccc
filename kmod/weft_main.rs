// SPDX-License-Identifier: GPL-2.0-only

//! Weft: a replicated block device.

use kernel::prelude::*;

module! {
    type: WeftModule,
    name: "weft",
    authors: ["The Weft authors"],
    description: "Weft replicated block device",
    license: "GPL v2",
}

struct WeftModule;

impl kernel::Module for WeftModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Self)
    }
}
