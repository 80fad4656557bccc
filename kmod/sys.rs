// SPDX-License-Identifier: GPL-2.0-only

//! Safe abstractions of the kernel's C interfaces: the only place of the module with `unsafe` and `extern "C"`.
//!
//! Each file is one noun. What is not in the kernel crate's bindings comes from `shim.h`. Nothing here knows about
//! replication.

use weft_bindings as bindings;

pub(crate) mod bdev;
pub(crate) mod bio;
pub(crate) mod file;
pub(crate) mod gendisk;
pub(crate) mod genl;
pub(crate) mod memory;
pub(crate) mod misc;
pub(crate) mod module;
pub(crate) mod pages;
pub(crate) mod random;
pub(crate) mod socket;
pub(crate) mod task;
pub(crate) mod work;
