// SPDX-License-Identifier: GPL-2.0-only

//! The command lines `weft` and `weftsetup`.
//!
//! Exit codes of both: 0 done, 1 refused or failed with a reason, 2 wrong usage.

pub mod failure;
pub mod setup;
pub mod weft;

mod events;
mod metadata;
mod orders;
mod output;
mod resize;
mod show;
mod up;
mod verify;
mod wait;
