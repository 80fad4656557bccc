// SPDX-License-Identifier: GPL-2.0-only

//! What a node does with every event in every state, as a page for people: `tests/matrix.md`.
//!
//! The page is made by driving engines; this test fails when it is not the page on file. When the difference is wanted,
//! `WEFT_WRITE_MATRIX=1 cargo test -p weft_engine --test pair matrix` writes the new page, whose diff is to be reviewed.

mod events;
mod states;

use crate::rig::Shape;
use events::{Answer, Row, EVENTS};
use states::{State, STATES};
use std::collections::BTreeSet;
use std::fmt::Write;
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState, Role};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/matrix.md");

const INTRODUCTION: &str = "\
<!-- SPDX-License-Identifier: GPL-2.0-only -->
# What a node does with every event in every state

Made by `tests/pair/matrix.rs` from running engines; do not edit. Node 0 is looked at, node 1 is the peer, node 2 is there
where a state needs it. Each event happens to node 0 in each state. A line says what node 0 answers, the kinds of the effects
that it emits at once, and in brackets how its states two seconds later differ from what they were without the event. Where a
state is not listed, the event cannot happen in it.

## States
";

/// What is not as in `other`.
fn differences(shape: Shape, other: Shape) -> Vec<String> {
    let kinds = ["", "disk ", "", "", "peer ", "peer's disk "];
    let names = kinds.iter().zip(shape.iter().zip(other));
    let different = names.filter(|(_, (now, other))| *now != other);
    different
        .map(|(kind, (now, _))| format!("{kind}{now}"))
        .collect()
}

/// What node 0 makes of one event in one state; `None`: it cannot happen there.
fn cell(state: &State, event: &Row, left_alone: Shape) -> Option<String> {
    let mut rig = (state.reach)();
    let (backlog, session) = (rig.backlog(0), rig.session(0, 1));
    let answer = (event.happen)(&mut rig)?;
    let effects = rig.effects_since(0, backlog);
    rig.idle();
    let mut parts = Vec::new();
    parts.extend(match answer {
        Answer::None => None,
        Answer::Now(result) => Some(said(Some(result))),
        Answer::Reply(token) => Some(said(rig.answered(token))),
        Answer::Completion(request) => Some(match rig.result(request) {
            Some(Ok(())) => "completes it".to_owned(),
            Some(Err(error)) => format!("fails it: {error:?}"),
            None => "lets it wait".to_owned(),
        }),
    });
    if !effects.is_empty() {
        parts.push(effects.join(", "));
    }
    if session.is_some() && rig.session(0, 1) != session && !rig.reason(0, 1).is_empty() {
        parts.push(format!("session over: {}", rig.reason(0, 1)));
    }
    let differences = differences(rig.shape(0, 1), left_alone);
    if !differences.is_empty() {
        parts.push(format!("[{}]", differences.join(", ")));
    }
    if parts.is_empty() {
        parts.push("nothing".to_owned());
    }
    Some(parts.join("; "))
}

fn said(result: Option<Result<(), weft_uapi::refusal::Refusal>>) -> String {
    match result {
        Some(Ok(())) => "done".to_owned(),
        Some(Err(refusal)) => format!("refused: `{}`", refusal.name()),
        None => "no answer yet".to_owned(),
    }
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page += "\n| state | role | disk | connection | replication | peer | peer's disk | how it comes about |\n|---|---|---|---|---|---|---|---|\n";
    let mut left_alone = Vec::new();
    for state in STATES {
        let mut rig = (state.reach)();
        let names = rig.shape(0, 1).join(" | ");
        writeln!(page, "| {} | {names} | {} |", state.name, state.story).unwrap();
        rig.idle();
        left_alone.push(rig.shape(0, 1));
    }
    page += "\n## Events\n\n| event | outcome | in these states |\n|---|---|---|\n";
    for event in EVENTS {
        let cells = STATES
            .iter()
            .zip(&left_alone)
            .filter_map(|(state, left_alone)| {
                let cell = cell(state, event, *left_alone)?;
                Some((state.name, cell))
            });
        write_event(&mut page, event, &cells.collect::<Vec<_>>());
    }
    page
}

/// The states with the same outcome share a line; lines in the order of their first states.
fn write_event(page: &mut String, event: &Row, cells: &[(&str, String)]) {
    let mut name = event.name;
    let mut seen = BTreeSet::new();
    for (_, outcome) in cells {
        if seen.insert(outcome) {
            let alike = cells.iter().filter(|(_, other)| other == outcome);
            let states: Vec<&str> = alike.map(|(state, _)| *state).collect();
            writeln!(page, "| {name} | {outcome} | {} |", states.join(", ")).unwrap();
            name = "";
        }
    }
}

#[test]
fn the_matrix_of_states_and_events_is_the_one_on_file() {
    let made = page();
    if std::env::var_os("WEFT_WRITE_MATRIX").is_some() {
        std::fs::write(PAGE, &made).unwrap();
    }
    let kept = std::fs::read_to_string(PAGE).unwrap_or_default();
    let lines = made.lines().zip(kept.lines().chain(std::iter::repeat("")));
    let different = lines.filter(|(made, kept)| made != kept).count();
    assert!(
        made == kept,
        "{different} lines of tests/matrix.md are not what the engine does: look at the diff after\n  \
         WEFT_WRITE_MATRIX=1 cargo test -p weft_engine --test pair matrix"
    );
}

#[test]
fn what_is_told_of_a_promotion_in_advance_is_what_becomes_of_it() {
    let mut seen = BTreeSet::new();
    for state in STATES {
        let mut rig = (state.reach)();
        rig.idle();
        let info = rig.resource(0);
        let told = Refusal::from_number(info.may_promote);
        seen.insert(info.may_promote);
        let became = rig.promote(0).err();
        // What passes is waited for; of a primary that only its peer reaches it hears by asking.
        let passes = told == Some(Refusal::InTransition);
        let has_to_ask = told.is_none() && state.name == "led from afar";
        let is_same = became == told || passes || has_to_ask;
        assert!(is_same, "{}: {told:?}, {became:?}", state.name);
    }
    let wanted = [
        0,
        Refusal::NoUpToDateDisk.number(),
        Refusal::PeerPrimary.number(),
    ];
    assert!(wanted.iter().all(|told| seen.contains(told)), "{seen:?}");
}

#[test]
fn every_state_that_a_node_can_be_in_has_its_line_in_the_matrix() {
    let shapes: Vec<Shape> = STATES
        .iter()
        .map(|state| (state.reach)().shape(0, 1))
        .collect();
    let missing = |all: Vec<&'static str>, at: usize| {
        let has = |name: &&'static str| !shapes.iter().any(|shape| shape[at] == *name);
        all.into_iter().filter(has).collect::<Vec<_>>()
    };
    let roles = Role::ALL.iter().map(|state| state.name()).collect();
    let disks = DiskState::ALL.iter().map(|state| state.name()).collect();
    let connections = ConnectionState::ALL
        .iter()
        .map(|state| state.name())
        .collect();
    let replications = ReplicationState::ALL
        .iter()
        .map(|state| state.name())
        .collect();
    // Those of a peer that is not connected; the engine itself has no such state.
    assert_eq!(missing(roles, 0), ["unknown"]);
    assert_eq!(missing(disks, 1), ["unknown"]);
    assert!(missing(connections, 2).is_empty());
    assert!(missing(replications, 3).is_empty());
}
