// SPDX-License-Identifier: GPL-2.0-only

//! The replication core of Weft: every decision, and nothing else.
//!
//! One [`Engine`] serves one resource on one node. It is a deterministic state machine without clock, lock, thread or
//! allocator: the host (the kernel module, or the simulator) feeds it [`event::Event`]s and carries out the
//! [`effect::Effect`]s that come back, in the order in which they are emitted.
//!
//! # The host's contract
//! * Events are fed one at a time; the host serialises them by a lock of its own.
//! * Every [`effect::Effect::Disk`] and [`effect::Effect::Meta`] is answered exactly once, also when it fails.
//! * Packets of one link are fed in the order in which the peer's engine sent them; when one is lost, both links end.
//! * After each event the host asks [`Engine::deadline`] and feeds [`event::Event::Timer`] when it has come.
//! * Order between a durable record and what depends on it is the engine's own business: it emits the dependent effect
//!   only after the answer to the first.
#![cfg_attr(not(any(MODULE, test)), no_std)]
#![forbid(unsafe_code)]
// Any of these would be a panic of the machine.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod activity_log;
pub mod ancestry;
pub mod bitmap;
pub mod decide;
pub mod effect;
pub mod event;
pub mod found;
pub mod host;
pub mod load;
mod machine;
pub mod quorum;
pub mod ranges;
pub mod recovery;
pub mod room;
pub mod tail;
#[cfg(test)]
mod testing;

pub use machine::{transitions, AutoPromotion, Config, Engine, Reads};
