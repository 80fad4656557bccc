// SPDX-License-Identifier: GPL-2.0-only
//! Tests in whole machines, one topic a file.

mod clients;
mod congestion;
mod disks;
mod failover;
mod fencing;
mod handover;
mod harness;
mod heal;
mod leave;
mod mirror;
mod module;
mod opening;
mod orders;
mod quorum;
mod replaced;
mod resize;
mod speed;
mod split_brain;
mod three;
mod verify;
