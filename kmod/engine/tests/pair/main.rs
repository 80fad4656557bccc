// SPDX-License-Identifier: GPL-2.0-only

//! Engines, disks and wires that never fail unless told to: one scenario per test, a file per topic. With two nodes, if
//! the file does not say otherwise.

mod attach;
mod between;
mod client;
mod congestion;
mod csums;
mod decisions;
mod demotion;
mod diskless;
mod fencing;
mod handover;
mod heal;
mod host;
mod hostile;
mod invalidate;
mod leave;
mod matrix;
mod newcomer;
mod older_data;
mod opening;
mod outdate;
mod pause;
mod promotion;
mod prospect;
mod quorum;
mod recovery;
mod resize;
mod resync;
mod rig;
mod shortcut;
mod speed;
mod split_brain;
mod suspend;
mod table;
mod three;
mod tie_breaker;
mod two_primaries;
mod unite;
mod verify;
mod volumes;
mod writes;
