//! A store that comes back with an older state: what was done for the log that is gone is not done again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::{Rig, check_log, rig};
use torpor_core::envelope::Spec;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::Expects;
use torpor_core::session::{Fork, Forked, SessionStore as _};
use torpor_harness::LeafEnd;
use torpor_testkit::fakes::{FakeHands, FakeSandbox, calls};
use torpor_testkit::history::check_grafted;
use torpor_testkit::sample::key;

/// A rig whose model runs this command in every turn.
fn runs(command: &str) -> Rig {
    rig(vec![Ok(calls(&[("bash", json!({"command": command}))]))])
}

/// The same rig with other hands.
fn with(mut rig: Rig, hands: &Arc<FakeHands>) -> Rig {
    rig.deps.sandboxes = Some(Arc::new(FakeSandbox(hands.clone())));
    rig.hands = hands.clone();
    rig
}

/// One turn of the session; how it ended.
async fn turn(rig: &Rig, session: &str, expects: Expects) -> Outcome {
    let run = rig.submit_to(session, Spec::prompt("go"), expects).await;
    let lease = rig.claim().await;
    let end = rig.run(lease).await;
    assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
    rig.record(&run).await.outcome.unwrap()
}

fn is_refused(outcome: &Outcome) -> bool {
    let Outcome::Failed { reason: FailReason::Error, message } = outcome else { return false };
    message.starts_with("the log of this session is older than what its sandbox did for it")
}

#[tokio::test]
async fn a_log_without_the_last_call_of_its_hands_stops_the_run() {
    let before = runs("push");
    assert_eq!(turn(&before, "s", Expects::New).await.status(), Status::Done);
    assert_eq!(before.hands.ran().len(), 1);

    // All is lost but the sandbox.
    let after = with(runs("push"), &before.hands);
    for expects in [Expects::New, Expects::Existing] {
        let outcome = turn(&after, "s", expects).await;
        assert!(is_refused(&outcome), "{outcome:?}");
    }
    assert_eq!(after.hands.ran().len(), 1, "nothing was done twice");
    check_log(&after.log(&key("s")).await);
    assert_eq!(turn(&after, "other", Expects::New).await.status(), Status::Done, "other sessions go on");
}

#[tokio::test]
async fn another_call_at_the_same_place_is_another_log() {
    let (before, after) = (runs("push"), runs("pull"));
    for rig in [&before, &after] {
        assert_eq!(turn(rig, "s", Expects::New).await.status(), Status::Done);
    }
    let after = with(after, &before.hands);
    assert!(is_refused(&turn(&after, "s", Expects::Existing).await));
}

#[tokio::test]
async fn a_log_that_lost_nothing_of_the_sandboxes_goes_on() {
    let (before, after) = (runs("push"), runs("push"));
    for rig in [&before, &after] {
        assert_eq!(turn(rig, "s", Expects::New).await.status(), Status::Done);
    }
    // The same calls stand at the same places.
    let after = with(after, &before.hands);
    assert_eq!(turn(&after, "s", Expects::Existing).await.status(), Status::Done);
    assert_eq!(after.hands.ran().len(), 2);
}

#[tokio::test]
async fn a_fork_goes_on_with_a_sandbox_of_its_own() {
    let before = runs("push");
    assert_eq!(turn(&before, "s", Expects::New).await.status(), Status::Done);
    let after = with(runs("push"), &before.hands);
    assert!(is_refused(&turn(&after, "s", Expects::New).await));
    let position = after.log(&key("s")).await.last().unwrap().position;
    let fork = Fork { into: key("f"), from: key("s"), position };
    assert_eq!(after.store.fork(&fork).await.unwrap(), Forked::Created);
    assert_eq!(turn(&after, "f", Expects::Existing).await.status(), Status::Done);
    check_grafted(&after.log(&key("f")).await, position).unwrap();
}
