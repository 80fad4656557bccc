// SPDX-License-Identifier: GPL-2.0-only
//! A real database's commits: SQLite on ext4, every transaction durable before the
//! next one begins. The database itself looks at the clock, so that starting it does
//! not count.

use anyhow::{Context, Result};

use crate::{guest::USUAL_LIMIT, mirror::LONG_PATIENCE, Command, Machine};

/// Commits per second of so many transactions on a file system that is made anew.
pub(super) fn commits_per_second(machine: &Machine, device: &str, count: u32) -> Result<f64> {
    machine.sh(&format!(
        "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1 {device} && mount {device} /mnt"
    ))?;
    let command = Command::new(["sqlite3", "/mnt/bench.db"]);
    let command = command
        .stdin(statements(count))
        .limit(LONG_PATIENCE + USUAL_LIMIT);
    let output = machine.succeed(&command);
    machine.sh("umount /mnt")?;
    rate(&output?, count)
}

fn statements(count: u32) -> String {
    let mut text = "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n\
        CREATE TABLE account (id INTEGER PRIMARY KEY, payload TEXT);\n"
        .to_owned();
    text += "SELECT 'began', unixepoch('now', 'subsec');\n";
    for id in 0..count {
        text += &format!("INSERT INTO account VALUES ({id}, hex(randomblob(100)));\n");
    }
    text + "SELECT 'ended', unixepoch('now', 'subsec');\n"
}

fn rate(output: &str, count: u32) -> Result<f64> {
    let moment = |name: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(name));
        let text = line.with_context(|| format!("SQLite does not say when it {name}: {output}"))?;
        Ok::<f64, anyhow::Error>(text.trim_start_matches('|').parse()?)
    };
    let seconds = moment("ended")? - moment("began")?;
    // The clock counts milliseconds.
    Ok(f64::from(count) / seconds.max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_divided_by_the_time_between_the_two_moments() {
        let output = "wal\nbegan|1700000000.250\nended|1700000002.250";
        assert_eq!(rate(output, 300).unwrap(), 150.0);
        assert!(rate("wal\nbegan|1700000000.250", 300).is_err());
    }

    #[test]
    fn every_commit_has_a_statement() {
        assert_eq!(statements(7).matches("INSERT").count(), 7);
    }
}
