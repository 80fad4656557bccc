// SPDX-License-Identifier: GPL-2.0-only

//! The userspace half of Weft: the daemon `weftd` and the command lines `weft` and `weftsetup`.
//!
//! The daemon moves bytes between the module's links and the peers and keeps track of who is alive; it decides nothing about data.
//! The command lines talk to the module by generic netlink and need no daemon.
//!
//! | module | noun |
//! |---|---|
//! | [`reactor`], [`events`] | descriptors, timers and orders of the one thread |
//! | [`config`] | the configuration file |
//! | [`kernel`] | the module: control device, netlink |
//! | [`peers`] | other nodes and the control channels to them |
//! | [`links`] | the module's byte channels and their TCP connections |
//! | [`control`] | the local socket that answers `weft daemon-status` |
//! | [`daemon`] | all of these together |
//! | [`memory`], [`fencing`], [`helpers`] | what tie-breakers have to know; the fence-peer handler; threads that may wait |
//! | [`metadata`] | metadata on disks, offline |
//! | [`view`] | the module's state in words and JSON |
//! | [`cli`] | `weft` and `weftsetup` |
//! | [`process`] | lock, memory and priority of the daemon's process |
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod events;
pub mod fencing;
pub mod helpers;
pub mod kernel;
pub mod links;
pub mod memory;
pub mod metadata;
pub mod peers;
pub mod process;
pub mod reactor;
pub mod view;
