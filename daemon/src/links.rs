// SPDX-License-Identifier: GPL-2.0-only

//! Links: the module's byte channels, each tied to one TCP connection.
//!
//! A [`connection`] (one resource and one peer) waits for the module's offers, finds its counterpart over the network
//! and then runs a [`pair`]: the data and the meta link of one session, whose connections the module uses itself. Whatever dies
//! first takes the whole pair with it; the module then offers a new session.

pub mod connection;
pub mod kind;
pub mod offers;
pub mod pair;
