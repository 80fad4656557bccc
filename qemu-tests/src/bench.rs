// SPDX-License-Identifier: GPL-2.0-only
//! Weft, the stock kernel's DRBD and the bare disk, measured side by side: in the
//! same two machines, on lower disks of the same kind, in alternating rounds, so
//! that whatever else the host does hits all of them alike.
//!
//! A [`Plan`] says what is measured, [`run`](run::run) measures it, and a
//! [`Report`] shows medians and ratios. Nothing here judges: figures of an emulated
//! machine say how much work is done for a write, not how fast hardware would be.

pub mod plan;
pub mod plot;
pub mod report;
pub mod run;
pub mod statistics;
pub mod system;
pub mod workload;

mod cost;
mod database;
mod drbd;
mod fio;
mod machines;
mod profile;
mod progress;
mod resync;
mod stop;
mod trace;
mod weft;

pub use plan::Plan;
pub use report::Report;
