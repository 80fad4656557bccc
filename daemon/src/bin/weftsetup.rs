// SPDX-License-Identifier: GPL-2.0-only

//! `weftsetup`, one command to the module at a time.

use std::process::ExitCode;
use weft_daemon::cli::{failure, setup};

fn main() -> ExitCode {
    let matches = setup::parser().get_matches();
    failure::conclude("weftsetup", setup::run(&matches))
}
