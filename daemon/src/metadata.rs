// SPDX-License-Identifier: GPL-2.0-only

//! Metadata on disks that no module has attached: create and show.

pub mod area;
pub mod create;
pub mod dump;
pub mod find;
pub mod signature;
