// SPDX-License-Identifier: GPL-2.0-only
//! How the machines are told to mirror with the DRBD of the stock kernel (8.4), tuned
//! as its user's guide advises for throughput and for resync: large buffers and
//! epochs, socket buffers that tune themselves, a large activity log, and a resync
//! that is held back by nothing but the network. The guide's advice to switch
//! flushes off is for disks with a battery, and Weft would flush; so it is left out.

use super::{
    resync::Commands,
    system::{System, Volume},
};
use crate::vm;

pub(super) const COMMANDS: Commands = Commands {
    create: "drbdadm create-md --force {}",
    up: "drbdadm up {}",
    down: "drbdadm down {}",
    connected: "drbdadm wait-connect {}",
    promote: "drbdadm primary --force {}",
    // These tools have a command that waits for 9.x only.
    synced: "timeout 600 sh -c 'until grep -q \"^ *{minor}: cs:Connected .*ds:UpToDate/UpToDate\" \
             /proc/drbd; do sleep 0.2; done'",
    began: "drbd_sync_handshake:",
    ended: "disk( Inconsistent -> UpToDate )",
};

const OPTIONS: &str = "
  net { protocol C; max-buffers 8000; max-epoch-size 8000; sndbuf-size 0; rcvbuf-size 0; INTEGRITY }
  disk { al-extents 6007; c-plan-ahead 20; c-fill-target 8M; c-max-rate 4G; c-min-rate 0; resync-rate 4G; }";
/// Ports of the resources begin here; each needs its own.
const PORT: usize = 7800;

/// `drbd.conf` of all nodes, with the volumes that are DRBD's.
pub(super) fn config(nodes: usize, volumes: &[Volume]) -> String {
    let mut text = "global { usage-count no; }\n".to_owned();
    for volume in volumes {
        let integrity = match volume.system {
            System::Drbd => "",
            System::DrbdIntegrity => "data-integrity-alg crc32c;",
            System::Raw | System::Weft => continue,
        };
        let options = OPTIONS.replace("INTEGRITY", integrity);
        text += &format!("resource {} {{{options}\n", volume.resource());
        for node in 0..nodes {
            text += &format!(
                "  on {} {{ device {} minor {}; disk {}; address {}:{}; meta-disk internal; }}\n",
                vm::name(node),
                volume.device(),
                volume.minor(),
                volume.disk(),
                vm::address(node),
                PORT + volume.minor()
            );
        }
        text += "}\n";
    }
    text
}
