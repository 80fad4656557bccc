// SPDX-License-Identifier: GPL-2.0-only

//! The module as seen from userspace: the control device for the daemon, generic netlink for the command lines.

pub mod device;
pub mod netlink;
mod sys;
