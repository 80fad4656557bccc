// SPDX-License-Identifier: GPL-2.0-only
//! Makes trouble in a machine that no command of the system makes.
//!
//! ```text
//! weft-trouble short-disk FOLDER BYTES   mount a file FOLDER/disk whose writes fail for want of memory while
//!                                        /run/short exists; print the number of each that failed
//! weft-trouble late-reader DEVICE DISK   read once from DEVICE into memory whose content comes from DISK, and so
//!                                        perhaps late; print how many bytes
//! ```

mod late_reader;
mod short_disk;

use std::process::ExitCode;

const USAGE: &str =
    "usage: weft-trouble short-disk FOLDER BYTES | weft-trouble late-reader DEVICE DISK";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["short-disk", folder, bytes] => match bytes.parse() {
            Ok(bytes) => short_disk::serve(folder, bytes),
            Err(_) => return wrong_usage(),
        },
        ["late-reader", device, disk] => late_reader::read(device, disk),
        _ => return wrong_usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-trouble: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
