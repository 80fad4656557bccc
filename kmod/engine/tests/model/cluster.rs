// SPDX-License-Identifier: GPL-2.0-only

//! The model as the checker sees it.

use crate::action::Action;
use crate::check::{self, Known};
use crate::scope::Scope;
use crate::state::State;
use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Steps shown of what follows the end of a path.
const SHOWN_MAX: usize = 60;

/// How often a large scope tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(20);

struct Cluster {
    scope: Scope,
    known: Known,
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.scope.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.scope.all_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.scope.after(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1 differences are known", |it, s| {
                check::differences_are_known(&it.scope, s)
            }),
            Property::always("I2 done writes are kept", |it, s| {
                check::done_writes_are_kept(&it.scope, s)
            }),
            Property::always("I3 there is one chain", |it, s| {
                check::there_is_one_chain(&it.scope, s)
            }),
            Property::always("I4 nothing is overwritten", |_, s| {
                check::nothing_is_overwritten(s)
            }),
            Property::always("I4 alarms are true", |_, s| check::alarms_are_true(s)),
            Property::always("I4 decisions are mirrored", |_, s| {
                check::decisions_are_mirrored(s)
            }),
            Property::always("I5 idle disks are equal", |it, s| {
                check::idle_disks_are_equal(&it.scope, s)
            }),
            Property::always("I7 comes to rest", |it, s| {
                check::comes_to_rest(&it.scope, &it.known, s)
            }),
            Property::always("I7 circles end", |_, s| check::circles_end(s)),
        ]
    }
}

/// Tells how far a large scope is.
struct Progress<'a> {
    name: &'a str,
    told: Duration,
}

impl Reporter<Cluster> for Progress<'_> {
    fn report_checking(&mut self, data: ReportData) {
        if !data.done && data.duration - self.told >= TELL_EVERY {
            self.told = data.duration;
            say(format_args!(
                "model {}: {} states so far, {} steps deep, {:.0?}",
                self.name, data.unique_states, data.max_depth, data.duration
            ));
        }
    }

    fn report_discoveries(
        &mut self,
        _: &Cluster,
        _: BTreeMap<&'static str, ReportDiscovery<Cluster>>,
    ) {
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(100)
    }
}

/// Writes a line that is of interest also when the test passes, which no macro does.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A property that was broken, and the way there.
struct Violation {
    property: &'static str,
    trace: String,
}

/// Looks at every state, or at those up to the first that breaks a property whose name begins so.
fn violations(name: &str, scope: Scope, property: &str) -> Vec<Violation> {
    let threads = std::env::var("WEFT_MODEL_THREADS");
    let threads = threads.map_or(1, |number| number.parse().expect("a number of threads"));
    let started = Instant::now();
    let cluster = Cluster {
        scope,
        known: Known::default(),
    };
    let names = cluster.properties().into_iter().map(|it| it.name);
    let wanted = names.filter(|name| name.starts_with(property)).collect();
    let checker = cluster
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyOf(wanted))
        .spawn_bfs()
        .join_and_report(&mut Progress {
            name,
            told: Duration::ZERO,
        });
    let found = checker.discoveries().into_iter();
    let found: Vec<Violation> = found
        .map(|(property, path)| Violation {
            property,
            trace: trace(&scope, property, path.into_vec()),
        })
        .collect();
    let broken: Vec<&str> = found.iter().map(|it| it.property).collect();
    say(format_args!(
        "model {name}: {} states, {} steps deep, {:.1?} {}",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed(),
        broken.join(", ")
    ));
    found
}

/// Looks at every state: none may be wrong.
pub(crate) fn explore(name: &str, scope: Scope) {
    let violations = violations(name, scope, "");
    if let Some(violation) = violations.first() {
        panic!("{scope:?}\n{}", violation.trace);
    }
}

/// Looks for a state that breaks a property whose name begins so; there must be one.
pub(crate) fn catch(name: &str, scope: Scope, property: &str) {
    let violations = violations(name, scope, property);
    let is_caught = violations
        .iter()
        .any(|it| it.property.starts_with(property));
    assert!(is_caught, "{scope:?}: not caught by {property}");
}

/// What led to a state, step by step, and what is there; for I7 also what follows.
fn trace(scope: &Scope, property: &str, path: Vec<(State, Option<Action>)>) -> String {
    let mut text = format!("{property}\n");
    for (number, (state, action)) in (1..).zip(&path) {
        if let Some(action) = action {
            let _ = writeln!(text, "{number:>4} {}", described(state, *action));
        }
    }
    let Some((mut state, _)) = path.into_iter().next_back() else {
        return text;
    };
    let _ = write!(text, "{state:?}");
    if property.starts_with("I7") {
        let mut actions = Vec::new();
        for _ in 0..SHOWN_MAX {
            let Some(action) = check::next_own_action(scope, &state, &mut actions) else {
                break;
            };
            let _ = writeln!(text, "then {}", described(&state, action));
            state = scope.after(&state, action);
        }
        let _ = write!(text, "{state:?}");
    }
    text
}

/// A step; with what arrives by it.
fn described(state: &State, action: Action) -> String {
    let Action::Deliver(from, to) = action else {
        return format!("{action:?}");
    };
    let ends = (from, to);
    let mut packets = state.packets.iter();
    let first = packets.find(|packet| (packet.from.into(), packet.to.into()) == ends);
    match first {
        Some(packet) => format!("{action:?} {:?}", packet.body),
        None => format!("{action:?}"),
    }
}
