//! Every state that the protocol can reach under these faults keeps every promise, every path ends; and without any one of
//! its guards it does not.
//!
//! `MODEL_LARGE=1` walks further (minutes, and gigabytes). `--nocapture` shows how far each walk went.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::num::NonZeroUsize;
use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model as _};
use torpor_models::{Action, Faults, Guard, Protocol, Scenario, every_path_ends};

/// A run of one command, of two, and of two whose first needs an approval.
const ONE: &[bool] = &[false];
const TWO: &[bool] = &[false, false];
const HELD: &[bool] = &[true, false];

const NONE: Faults = Faults::NONE;

/// Walks through everything; no invariant breaks, what should be possible is, and nothing goes round in circles.
fn holds(name: &str, scenario: Scenario) {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let walk = Protocol(scenario).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let walk = walk.spawn_bfs().join();
    for property in walk.model().properties() {
        let found = walk.discovery(property.name).map(|path| path.into_actions());
        let fails = found.is_some() == property.expectation.discovery_is_failure();
        assert!(!fails, "{name}: `{}` does not hold: {found:#?}", property.name);
    }
    let (states, steps, depth) = (walk.unique_state_count(), walk.state_count(), walk.max_depth());
    println!("{name}: {states} states, {steps} steps, {depth} deep, {:.1?}", began.elapsed());
    let began = Instant::now();
    let ends = every_path_ends(&Protocol(scenario)).unwrap_or_else(|round| panic!("{name}: {round:?} for ever"));
    assert_eq!(ends, states, "{name}: both walks saw the same states");
    println!("{name}: every path ends, {:.1?}", began.elapsed());
}

/// A way to break this invariant.
fn breaks(scenario: Scenario, invariant: &'static str) -> Vec<Action> {
    let walk = Protocol(scenario).checker().threads(1);
    let walk = walk.finish_when(HasDiscoveries::AnyOf([invariant].into())).spawn_bfs().join();
    let path = walk.discovery(invariant).map(|path| path.into_actions());
    let path = path.unwrap_or_else(|| panic!("{scenario:?} keeps `{invariant}`"));
    println!("without {:?}: `{invariant}` breaks after {} steps: {path:?}", scenario.without, path.len());
    path
}

#[test]
fn a_slow_network_and_slow_brains() {
    let faults = Faults { crashes: 1, pauses: 1, lost_replies: 1, late: 1, ..NONE };
    holds("network", Scenario::new(ONE, faults));
    let faults = Faults { pauses: 1, lost_replies: 1, late: 1, slow: 1, ..NONE };
    holds("slow heartbeats", Scenario::new(ONE, faults));
}

#[test]
fn people_decide_and_cancel() {
    let faults = Faults { crashes: 1, pauses: 1, lost_replies: 1, cancels: 1, ..NONE };
    holds("people", Scenario::new(HELD, faults));
}

#[test]
fn hands_that_die_and_runs_that_are_handed_back() {
    let faults = Faults { crashes: 1, pauses: 1, restarts: 1, wipes: 1, ..NONE };
    holds("hands", Scenario::new(TWO, faults));
    let faults = Faults { hand_backs: 1, restarts: 1, pauses: 1, cancels: 1, ..NONE };
    holds("hand-backs", Scenario::new(TWO, faults));
}

#[test]
fn a_store_that_goes_back() {
    let faults = Faults { failovers: 1, pauses: 1, crashes: 1, ..NONE };
    holds("failover", Scenario::new(TWO, faults));
    let faults = Faults { failovers: 1, pauses: 1, lost_replies: 1, late: 1, ..NONE };
    holds("failover and a bad network", Scenario::new(ONE, faults));
    let faults = Faults { failovers: 1, cancels: 1, pauses: 1, ..NONE };
    holds("failover and people", Scenario::new(&[true], faults));
    let faults = Faults { failovers: 1, restarts: 1, pauses: 1, ..NONE };
    holds("failover and restarted hands", Scenario::new(ONE, faults));
    let faults = Faults { failovers: 2, pauses: 1, ..NONE };
    holds("two failovers", Scenario::new(ONE, faults));
}

#[test]
fn three_brains() {
    let faults = Faults { crashes: 1, pauses: 2, lost_replies: 1, ..NONE };
    holds("three brains", Scenario { brains: 3, ..Scenario::new(ONE, faults) });
}

#[test]
fn a_session_that_is_removed() {
    let faults = Faults { crashes: 1, pauses: 1, late: 1, removals: 1, wipes: 1, ..NONE };
    holds("removal", Scenario::new(ONE, faults));
}

#[test]
fn further_if_asked() {
    if std::env::var_os("MODEL_LARGE").is_none() {
        return;
    }
    let faults = Faults { crashes: 1, pauses: 1, lost_replies: 1, late: 1, slow: 1, ..NONE };
    holds("network and slow heartbeats, two commands", Scenario::new(TWO, faults));
    let faults = Faults { crashes: 1, pauses: 1, lost_replies: 1, cancels: 1, restarts: 1, ..NONE };
    holds("people and hands", Scenario::new(HELD, faults));
    let faults = Faults { crashes: 1, pauses: 2, slow: 1, cancels: 1, ..NONE };
    holds("three brains and a cancel", Scenario { brains: 3, ..Scenario::new(ONE, faults) });
    let faults = Faults { failovers: 1, crashes: 1, pauses: 1, lost_replies: 1, restarts: 1, ..NONE };
    holds("failover, hands and a bad network", Scenario::new(ONE, faults));
    let faults = Faults { failovers: 2, pauses: 1, crashes: 1, ..NONE };
    holds("two failovers and a crash", Scenario::new(ONE, faults));
}

/// A guard, the faults for which it is there, and what breaks without it.
const GUARDS: &[(Guard, &[bool], Faults, &str)] = &[
    (Guard::Fence, ONE, Faults { pauses: 1, removals: 1, ..NONE }, "a command runs once"),
    (Guard::Fence, ONE, Faults { pauses: 1, removals: 1, ..NONE }, "nothing runs on after the end"),
    (Guard::Fence, ONE, Faults { pauses: 1, failovers: 1, ..NONE }, "a command runs once"),
    (Guard::Epoch, ONE, Faults { pauses: 1, ..NONE }, "one owner writes"),
    (Guard::Epoch, ONE, Faults { pauses: 1, ..NONE }, "no owner is turned away"),
    (Guard::Ack, ONE, Faults { pauses: 1, ..NONE }, "a run leaves the queue with its end"),
    (Guard::Ack, ONE, Faults { pauses: 1, crashes: 1, ..NONE }, "a run can go on"),
    (Guard::WriteId, ONE, Faults { lost_replies: 1, ..NONE }, "no owner is turned away"),
    (Guard::ExpectedHead, ONE, Faults { lost_replies: 1, ..NONE }, "an intent has one outcome"),
    (Guard::ExpectedHead, ONE, Faults { late: 1, ..NONE }, "a command runs after its intent"),
    (Guard::Generation, ONE, Faults { failovers: 1, crashes: 1, ..NONE }, "one owner writes"),
    (Guard::Generation, TWO, Faults { failovers: 1, pauses: 1, ..NONE }, "a command runs once"),
    (Guard::Look, ONE, Faults { failovers: 1, ..NONE }, "a command runs once"),
    (Guard::Incarnation, ONE, Faults { wipes: 1, ..NONE }, "a command runs once"),
    (Guard::CallId, ONE, Faults { crashes: 1, ..NONE }, "a command runs once"),
    (Guard::Intent, ONE, Faults { crashes: 1, ..NONE }, "a command runs after its intent"),
    (Guard::Cancel, ONE, Faults { cancels: 1, ..NONE }, "nothing runs on after the end"),
];

#[test]
fn each_guard_is_needed() {
    for (guard, commands, faults, invariant) in GUARDS {
        let whole = Scenario::new(commands, *faults);
        breaks(Scenario { without: Some(*guard), ..whole }, invariant);
        holds(&format!("with {guard:?}"), whole);
    }
}

/// What is not promised, because nobody is left who could know: the store lost an intent, and the hands that carried it out
/// are gone, or have forgotten the session.
#[test]
fn where_the_promise_ends() {
    for faults in [Faults { failovers: 1, wipes: 1, ..NONE }, Faults { failovers: 1, removals: 1, ..NONE }] {
        breaks(Scenario::new(ONE, faults), "a command runs once");
    }
}
