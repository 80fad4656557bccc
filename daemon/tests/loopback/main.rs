// SPDX-License-Identifier: GPL-2.0-only

//! Two and more daemons over loopback, without a kernel module.

mod control;
mod fencing;
mod forwarding;
mod heartbeat;
mod hello;
mod memory;
mod module;
mod reconnect;
mod rig;
