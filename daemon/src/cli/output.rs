// SPDX-License-Identifier: GPL-2.0-only

//! Writing results to standard output.

use super::failure::Failure;
use serde::Serialize;
use std::io::{self, Write};

/// Prints text as it is.
///
/// # Errors
/// When nobody reads it, for instance because a pager was closed.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::io("standard output", &error, ""))
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&(json(value, serde_json::to_string_pretty)? + "\n"))
}

/// Prints a value as one line of JSON.
pub(super) fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    print(&(json(value, serde_json::to_string)? + "\n"))
}

fn json<T: Serialize>(
    value: &T,
    write: impl Fn(&T) -> serde_json::Result<String>,
) -> Result<String, Failure> {
    write(value).map_err(|error| Failure::new("internal", error.to_string(), "", ""))
}
