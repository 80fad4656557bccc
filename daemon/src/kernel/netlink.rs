// SPDX-License-Identifier: GPL-2.0-only

//! Generic netlink: one request at a time, and events.
//!
//! The framing comes from `netlink-packet-core`. Its companion for generic netlink is not used: it needs another set
//! of zerocopy features than the sources that are shared with the kernel can be built with.

pub mod client;
pub mod error;
pub mod message;
pub mod record;
pub mod request;
