// SPDX-License-Identifier: GPL-2.0-only

//! What the histories have reached: rules that decided, states and their changes, refusals. A rule that no history
//! reaches is a rule that nobody has tested.

use std::collections::BTreeMap;
use std::fmt;
use weft_engine::decide::Rule;
use weft_engine::transitions;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};

/// Rules that no table of the engine names.
const OTHER_RULES: [&str; 1] = ["no-disk"];

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
        } else if text.contains("written anew with the data of") {
            self.count("heal", "written anew");
        } else if let Some((reason, _)) = text.split_once("; the disk is let go") {
            self.count("disk lost", reason);
        } else if text.starts_with("another node is to carry out") {
            self.count("client", "handed over");
        } else if object.starts_with("peer ") && text.contains(" -> ") {
            self.count("connection", text);
        }
    }

    /// Names of a kind that stand in no entry, as the part of it that `part` gives.
    fn missing<'a>(
        &self,
        kind: &str,
        names: impl Iterator<Item = &'a str>,
        part: impl Fn(&str) -> &str,
    ) -> Vec<&'a str> {
        let entries = self.0.get(kind);
        let is_reached = |name: &str| {
            entries.is_some_and(|entries| entries.keys().any(|entry| part(entry) == name))
        };
        names.filter(|name| !is_reached(name)).collect()
    }

    /// Legal changes of a state that were never seen.
    fn missing_changes<S: Copy + PartialEq + fmt::Display>(
        &self,
        kind: &'static str,
        all: &[S],
        may_change: impl Fn(S, S) -> bool,
    ) -> Never {
        let pairs = all
            .iter()
            .flat_map(|&old| all.iter().map(move |&new| (old, new)));
        let legal = pairs.filter(|&(old, new)| old != new && may_change(old, new));
        let legal: Vec<String> = legal.map(|(old, new)| format!("{old} -> {new}")).collect();
        let names = legal.iter().map(String::as_str);
        let missing = self.missing(kind, names, |entry| entry);
        (kind, legal.len(), missing.join(", "))
    }

    /// What was never reached, by kind: how many there are, and their names.
    fn never(&self) -> Vec<Never> {
        let rules = Rule::ALL.iter().map(|rule| rule.name()).chain(OTHER_RULES);
        let missing_rules = self.missing("rule", rules.clone(), rule_of);
        let states = |kind, names: Vec<&'static str>| {
            let missing = self.missing(kind, names.iter().copied(), |entry| entry);
            (kind, names.len(), missing.join(", "))
        };
        vec![
            ("rules", rules.count(), missing_rules.join(", ")),
            states(
                "disk states",
                DiskState::ALL.iter().map(|state| state.name()).collect(),
            ),
            states(
                "connection states",
                ConnectionState::ALL.iter().map(|it| it.name()).collect(),
            ),
            states(
                "replication states",
                ReplicationState::ALL.iter().map(|it| it.name()).collect(),
            ),
            self.missing_changes("role", Role::ALL, transitions::role_may_change),
            self.missing_changes("disk", DiskState::ALL, transitions::disk_may_change),
            self.missing_changes(
                "connection",
                ConnectionState::ALL,
                transitions::connection_may_change,
            ),
            self.missing_changes(
                "replication",
                ReplicationState::ALL,
                transitions::replication_may_change,
            ),
        ]
    }
}

/// The rule of an entry that names its outcome as well.
fn rule_of(entry: &str) -> &str {
    entry.split(':').next().unwrap_or(entry)
}

/// A kind, how many there are of it, and the names of those that were never reached.
type Never = (&'static str, usize, String);

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, names) in &self.0 {
            let entries: Vec<String> = names
                .iter()
                .map(|(name, count)| format!("{name} ({count})"))
                .collect();
            writeln!(f, "  {kind}: {}", entries.join(", "))?;
        }
        for (kind, all, missing) in self.never() {
            match missing.as_str() {
                "" => writeln!(f, "  all {all} reached: {kind}")?,
                names => writeln!(f, "  never reached, of {all} {kind}: {names}")?,
            }
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
        assert!(
            text.contains("never reached, of 14 rules: rolled-back, just-created"),
            "{text}"
        );
    }
}
