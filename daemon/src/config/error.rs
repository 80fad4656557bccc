// SPDX-License-Identifier: GPL-2.0-only

//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A fault with its place, as far as it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    file: Option<PathBuf>,
    /// Line and column, both from 1, the column in characters.
    place: Option<(usize, usize)>,
    message: String,
}

impl ConfigError {
    pub(super) fn at(text: &str, span: Option<Range<usize>>, message: String) -> Self {
        Self {
            file: None,
            place: span.map(|span| place(text, span.start)),
            message,
        }
    }

    pub(super) fn general(message: String) -> Self {
        Self {
            file: None,
            place: None,
            message,
        }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::general(format!("cannot be read: {error}")).in_file(path)
    }

    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    /// Line and column, both from 1.
    pub fn place(&self) -> Option<(usize, usize)> {
        self.place
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.place.is_some() {
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
