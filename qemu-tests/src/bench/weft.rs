// SPDX-License-Identifier: GPL-2.0-only
//! How the machines are told to mirror with Weft.

use super::{
    resync::Commands,
    system::{System, Volume},
};
use crate::mirror;

pub(super) const COMMANDS: Commands = Commands {
    create: "weft create-md --force {}",
    up: "weft up {}",
    down: "weft down {}",
    connected: "weft wait-connect {} --timeout 120",
    promote: "weft primary --force {}",
    synced: "weft wait-sync {} --timeout 600",
    began: ": rule ",
    ended: "disk inconsistent -> uptodate",
};

/// `weft.toml` of all nodes, with the volumes that are Weft's, each in a resource of
/// its own and with default options.
pub(super) fn config(nodes: usize, volumes: &[Volume]) -> String {
    let mut text = mirror::cluster_config(nodes);
    for volume in volumes
        .iter()
        .filter(|volume| volume.system == System::Weft)
    {
        text += &format!(
            "[[resource]]\nname = \"{}\"\nprotocol = \"C\"\n[[resource.volume]]\nid = 0\n\
             minor = {}\ndisk = \"{}\"\nmeta = \"internal\"\n",
            volume.resource(),
            volume.minor(),
            volume.disk()
        );
    }
    text
}
