//! What must hold in every state, and what must be possible so that this means something.

use stateright::Property;

use crate::brain::{At, Leaf, View};
use crate::protocol::{Protocol, State};
use crate::scenario::{Guard, Scenario};
use crate::store::{Body, End, Ending};

/// The properties of a scenario: all invariants, and as possible what its faults allow.
pub(crate) fn all(scenario: &Scenario) -> Vec<Property<Protocol>> {
    let mut all = vec![
        Property::always("one owner writes", one_owner),
        Property::always("an owner knows the log", owners_know),
        Property::always("epochs never fall", epochs_rise),
        Property::always("an intent has one outcome", one_outcome),
        Property::always("a command runs once", |_, s: &State| s.hands.ran.iter().all(|n| *n <= 1)),
        Property::always("a command runs after its approval", approved_first),
        Property::always("a command runs after its intent", intent_first),
        Property::always("nothing runs on after the end", nothing_runs_on),
        Property::always("no owner is turned away", |_, s: &State| !s.wronged),
        Property::always("a log goes back only when its store does", went_back_rightly),
        Property::always("a run leaves the queue with its end", |_, s: &State| !s.store.is_over() || is_settled(s)),
        Property::always("a run can go on", |p, s: &State| is_settled(s) || s.can_go_on(p)),
        Property::sometimes("a run is done", |_, s| ended_as(s, End::Done)),
        Property::sometimes("every command runs", |p: &Protocol, s: &State| {
            s.hands.ran.iter().take(p.0.held.len()).all(|n| *n == 1)
        }),
    ];
    let faults = &scenario.faults;
    let mut possible = |when: bool, name, is: fn(&Protocol, &State) -> bool| {
        if when {
            all.push(Property::sometimes(name, is));
        }
    };
    possible(faults.cancels > 0, "a run is cancelled", |_, s| ended_as(s, End::Cancelled));
    possible(faults.crashes + faults.pauses > 0, "a run is taken over", |_, s| has(s, |b| b == Body::Takeover));
    possible(faults.restarts + faults.wipes > 0, "a call is lost", |_, s| {
        has(s, |b| matches!(b, Body::Outcome { ending: Ending::Lost, .. }))
    });
    possible(scenario.held.contains(&true), "a command is rejected", |_, s| has(s, |b| b == Body::Rejected));
    possible(faults.failovers > 0, "a log goes back", |_, s| ended_as(s, End::WentBack));
    possible(faults.pauses > 0, "a leaf that was overtaken wakes up with a call to send", |_, s| {
        let overtaken = |l: &Leaf| l.epoch < s.store.epoch && l.at == At::Send;
        s.brains.iter().any(|b| !b.paused && b.leaf.as_ref().is_some_and(overtaken))
    });
    all
}

fn has(s: &State, is: impl Fn(Body) -> bool) -> bool {
    s.store.log.iter().any(|e| is(e.body))
}

fn ended_as(s: &State, end: End) -> bool {
    has(s, |b| b == Body::Ended(end))
}

/// Whether the log says how the run ended, or nothing was ever to be said.
fn is_settled(s: &State) -> bool {
    has(s, |b| matches!(b, Body::Ended(_))) || (s.store.log.is_empty() && s.store.is_over())
}

/// Of all leaves, those whose next append the store would take.
fn owners<'a>(p: &'a Protocol, s: &'a State) -> impl Iterator<Item = &'a Leaf> {
    let store = &s.store;
    let takes = |l: &&Leaf| {
        let current = l.epoch == store.epoch || !p.0.has(Guard::Epoch);
        store.is_owned() && l.at != At::Claimed && l.head == store.head() && current
    };
    s.brains.iter().filter_map(|b| b.leaf.as_ref()).filter(takes)
}

fn one_owner(p: &Protocol, s: &State) -> bool {
    owners(p, s).count() <= 1
}

fn owners_know(p: &Protocol, s: &State) -> bool {
    let log = || s.store.log.iter().map(|e| e.body);
    owners(p, s).all(|l| l.view == View::of(log().chain(l.staged.iter().copied()), &p.0))
}

fn epochs_rise(_: &Protocol, s: &State) -> bool {
    s.store.log.is_sorted_by_key(|e| e.epoch)
}

fn one_outcome(_: &Protocol, s: &State) -> bool {
    let mut answered = Vec::new();
    s.store.log.iter().all(|e| match e.body {
        Body::Outcome { call, .. } => {
            let again = answered.contains(&call);
            answered.push(call);
            !again && s.store.at(call).is_some_and(|e| matches!(e.body, Body::Intent { .. }))
        }
        _ => true,
    })
}

fn approved_first(p: &Protocol, s: &State) -> bool {
    let held = p.0.held.iter().zip(&s.hands.ran).zip(&s.approved);
    held.into_iter().all(|((held, ran), approved)| !held || *ran == 0 || *approved)
}

/// Unless the store lost it, or the session was removed.
fn intent_first(_: &Protocol, s: &State) -> bool {
    let stands = |position, command| {
        s.store.at(position).is_some_and(|e| matches!(e.body, Body::Intent { command: c, .. } if c == command))
    };
    s.used.failovers > 0 || s.hands.calls.iter().all(|k| k.command.is_none_or(|c| stands(k.position, c)))
}

/// Unless the store forgot that it ran.
fn nothing_runs_on(_: &Protocol, s: &State) -> bool {
    s.used.failovers > 0 || !s.store.is_over() || s.hands.running().is_none()
}

fn went_back_rightly(_: &Protocol, s: &State) -> bool {
    s.used.failovers > 0 || !ended_as(s, End::WentBack)
}
