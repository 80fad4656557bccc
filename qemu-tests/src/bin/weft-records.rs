// SPDX-License-Identifier: GPL-2.0-only
//! A program that cannot afford to lose a record, and its auditor.
//!
//! ```text
//! weft-records write FILE        append records for ever; print the number of each once fsync has returned
//! weft-records check FILE LAST   check that records 1 to LAST are there and whole; print how many are
//! ```
//! Every record is 512 bytes: its number, and words that depend on it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::process::ExitCode;

const RECORD_LEN: usize = 512;
const USAGE: &str = "usage: weft-records write FILE | weft-records check FILE LAST";

/// Content of record `number`: 64 words of a splitmix sequence that starts with the number itself.
fn record(number: u64) -> [u8; RECORD_LEN] {
    let mut bytes = [0; RECORD_LEN];
    let mut word = number;
    for place in bytes.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
        word = (word ^ (word >> 30))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    bytes
}

fn write(path: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut out = io::stdout().lock();
    let mut number = file.metadata()?.len() / RECORD_LEN as u64;
    loop {
        number += 1;
        file.write_all(&record(number))?;
        file.sync_all()?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
}

/// Number of whole records from the start of the file.
fn count(path: &str) -> io::Result<u64> {
    let mut file = BufReader::new(File::open(path)?);
    let mut bytes = [0; RECORD_LEN];
    let mut number = 0;
    loop {
        match file.read_exact(&mut bytes) {
            Ok(()) if bytes == record(number + 1) => number += 1,
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(number),
            Err(error) => return Err(error),
        }
    }
}

fn check(path: &str, last: u64) -> io::Result<()> {
    let found = count(path)?;
    println!("{found}");
    if found < last {
        return Err(io::Error::other(format!(
            "{path}: only {found} of {last} acknowledged records are there"
        )));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", path] => write(path),
        ["check", path, last] => match last.parse() {
            Ok(last) => check(path, last),
            Err(_) => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-records: {error}");
            ExitCode::FAILURE
        }
    }
}
