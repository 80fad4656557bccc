// SPDX-License-Identifier: GPL-2.0-only

//! Other nodes: who they are, how connections to them come about, whether they live.
//!
//! The node with the higher id dials; the other one listens. A connection begins with a hello
//! ([`identity`]) that says which [`Channel`](weft_uapi::peer::Channel) it is. The control channel then carries
//! heartbeats ([`channel`]); data and meta channels are handed to [`crate::links`].

pub mod assembler;
pub mod backoff;
pub mod channel;
pub mod dial;
pub mod identity;
pub mod inbound;
pub mod peer;
pub mod socket;
