// SPDX-License-Identifier: GPL-2.0-only

//! What the module tells, as people and programs get to see it.
//!
//! [`model`] is the JSON of `weft status`; the texts are made from it.

pub mod congestion;
pub mod daemon;
pub mod event;
pub mod generation;
pub mod model;
pub mod opening;
mod paused;
mod resync;
pub mod show;
pub mod status;
mod suspension;
pub mod units;
pub mod verify;
