// SPDX-License-Identifier: GPL-2.0-only

//! What the histories have reached: rules that decided, states and their changes, refusals. A rule that no history
//! reaches is a rule that nobody has tested.

use std::collections::BTreeMap;
use std::fmt;
use weft_engine::decide::Rule;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState};

/// Counts by kind and name.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Reach(BTreeMap<&'static str, BTreeMap<String, u64>>);

impl Reach {
    pub(crate) fn count(&mut self, kind: &'static str, name: impl Into<String>) {
        *self
            .0
            .entry(kind)
            .or_default()
            .entry(name.into())
            .or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, names) in &other.0 {
            let own = self.0.entry(kind).or_default();
            for (name, count) in names {
                *own.entry(name.clone()).or_default() += count;
            }
        }
    }

    /// A change of a state.
    pub(crate) fn change(
        &mut self,
        kind: &'static str,
        old: impl fmt::Display,
        new: impl fmt::Display,
    ) {
        self.count(kind, format!("{old} -> {new}"));
    }

    /// Takes what a line of the engine's log says.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((object, text)) = line.split_once(": ") else {
            return;
        };
        if let Some((rule, outcome)) = text
            .strip_prefix("rule ")
            .and_then(|text| text.split_once(": "))
        {
            let outcome = outcome.split(':').next().unwrap_or_default();
            self.count("rule", format!("{rule}: {outcome}"));
        } else if let Some(change) = text.strip_prefix("disk ") {
            self.count("disk", change);
        } else if object.starts_with("peer ") && text.contains(" -> ") {
            self.count("connection", text);
        }
    }

    /// Names of a kind that stand in no entry.
    fn missing(&self, kind: &str, names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
        let entries = self.0.get(kind);
        let is_word = |entry: &String, name: &str| entry.split([':', ' ']).any(|word| word == name);
        let is_reached = |name: &str| {
            entries.is_some_and(|entries| entries.keys().any(|entry| is_word(entry, name)))
        };
        names.filter(|name| !is_reached(name)).collect()
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, names) in &self.0 {
            let entries: Vec<String> = names
                .iter()
                .map(|(name, count)| format!("{name} ({count})"))
                .collect();
            writeln!(f, "  {kind}: {}", entries.join(", "))?;
        }
        let never = [
            (
                "rule",
                self.missing("rule", Rule::ALL.iter().map(|rule| rule.name())),
            ),
            (
                "disk",
                self.missing("disk", DiskState::ALL.iter().map(|state| state.name())),
            ),
            (
                "connection",
                self.missing(
                    "connection",
                    ConnectionState::ALL.iter().map(|state| state.name()),
                ),
            ),
            (
                "replication",
                self.missing(
                    "replication",
                    ReplicationState::ALL.iter().map(|state| state.name()),
                ),
            ),
        ];
        for (kind, names) in never.iter().filter(|(_, names)| !names.is_empty()) {
            writeln!(f, "  never reached, {kind}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_counts_under_its_kind() {
        let mut reach = Reach::default();
        for line in [
            "volume 0, peer 1: rule behind: bitmap-target",
            "volume 0, peer 1: rule forked: split brain: both nodes are primary",
            "volume 0: disk attaching -> consistent",
            "peer 1: connecting -> handshake",
            "volume 0, peer 1: resync done",
        ] {
            reach.read(line);
        }
        let text = reach.to_string();
        assert!(
            text.contains("rule: behind: bitmap-target (1), forked: split brain (1)"),
            "{text}"
        );
        assert!(text.contains("disk: attaching -> consistent (1)"), "{text}");
        assert!(
            text.contains("connection: connecting -> handshake (1)"),
            "{text}"
        );
        assert!(text.contains("never reached, rule: rolled-back"), "{text}");
    }
}
