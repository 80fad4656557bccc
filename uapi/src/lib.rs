// SPDX-License-Identifier: GPL-2.0-only

//! Every byte and number that two sides of Weft share.
//!
//! The crate is compiled from the same files by cargo and by Kbuild (as a crate of the module), so it depends on
//! `core` and `zerocopy` only. It holds layouts, numbers, names and the syntax checks that belong to them; what a
//! valid message *means* is decided elsewhere (`kmod/engine` for data, `daemon` for peers).
//!
//! | module | shared by |
//! |---|---|
//! | [`units`], [`limits`], [`version`] | everybody |
//! | [`wire`] | module and module, through the links (`PROTOCOL.md`) |
//! | [`peer`] | daemon and daemon, before a connection becomes a link |
//! | [`control`] | module and daemon, on `/dev/weft` |
//! | [`netlink`], [`status`], [`refusal`], [`resync`], [`congestion`] | module and the CLIs |
//! | [`state`], [`split_brain`] | all of these |
//! | [`ondisk`] | module and the offline verbs of `weft` (`ONDISK.md`) |
//!
//! All integers on the wire and on disk are little-endian; netlink and `/dev/weft` stay on one machine and use its
//! own byte order.
#![cfg_attr(not(any(MODULE, test)), no_std)]

pub mod congestion;
pub mod control;
pub mod crc32c;
pub mod limits;
pub mod netlink;
pub mod ondisk;
pub mod peer;
pub mod refusal;
pub mod resync;
pub mod split_brain;
pub mod state;
pub mod status;
pub mod units;
pub mod version;
pub mod wire;
