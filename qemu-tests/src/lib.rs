// SPDX-License-Identifier: GPL-2.0-only
//! Whole machines for black-box tests: real kernels in QEMU, on disks that
//! forget what was not flushed when the power goes, behind a network whose
//! links can be cut, slowed and made lossy one way.
//!
//! A test describes a [`Cluster`] and gets its [`Machine`]s booted:
//!
//! ```no_run
//! use weft_qemu_tests::Cluster;
//!
//! Cluster::new(2).test(|cluster| {
//!     cluster.node(0).sh("ping -c 1 beta")?;
//!     cluster.network().cut(0, 1);
//!     cluster.node(1).power_cut()
//! });
//! ```
//!
//! A test fails when its closure does, or when the kernel of any machine
//! complained ([`dmesg`]). What a failed test left is kept ([`cluster`]).

pub mod bench;
pub mod cluster;
pub mod disk;
pub mod dmesg;
pub mod guest;
pub mod mirror;
pub mod monitor;
mod net;
pub mod view;
pub mod vm;
pub mod wire;

mod cpio;
mod files;
mod qemu;
mod random;
mod template;
mod wait;

pub use cluster::{Builder, Cluster};
pub use disk::{Disk, Survivors};
pub use guest::{Command, Output, Process};
pub use net::Network;
pub use view::View;
pub use vm::Machine;
pub use wait::{eventually, Deadline};
