// SPDX-License-Identifier: GPL-2.0-only

//! `weft`, the everyday command.

use clap::Parser;
use std::process::ExitCode;
use weft_daemon::cli::{failure, weft};

fn main() -> ExitCode {
    let arguments = weft::Arguments::parse();
    failure::conclude("weft", weft::run(&arguments))
}
