//! Gates as a leaf meets them: what waits, what a verdict makes of it, and that nothing is lost or done twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Rig, check_log, review, rig, with_budget};
use torpor_core::RunId;
use torpor_core::entry::Body;
use torpor_core::envelope::{Budget, Spec, Work};
use torpor_core::gate::{Action, Decide, Decided, Decision, GateStore as _, Rule};
use torpor_core::message::Block;
use torpor_core::model::Message;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::run::Record;
use torpor_harness::{LeafEnd, Stop, run_leaf};
use torpor_testkit::crash::Fuse;
use torpor_testkit::fakes::{Said, calls};

fn rule(tool: &str, pattern: &str) -> Rule {
    Rule { tool: tool.into(), pattern: Some(pattern.into()) }
}

fn guarded(rules: &[Rule]) -> Spec {
    Spec { approvals: rules.to_vec(), ..Spec::prompt("go") }
}

fn gated_review() -> Spec {
    let mut spec = review();
    if let Work::Review { item } = &mut spec.work {
        item.require_approval = true;
    }
    spec
}

fn bash(command: &str) -> (&'static str, Value) {
    ("bash", json!({"command": command}))
}

fn ask(summary: &str) -> (&'static str, Value) {
    ("request_approval", json!({"summary": summary, "proposed_action": "do it"}))
}

fn verdict(finding: &str) -> (&'static str, Value) {
    ("submit_verdict", json!({"item_id": "i1", "verdict": finding, "reason": "seen"}))
}

fn all(uses: &[(&str, Value)]) -> Said {
    Ok(calls(uses))
}

/// Claims and runs until the run waits for a person; its record.
async fn until_parked(rig: &Rig, run: &RunId) -> Record {
    let lease = rig.claim().await;
    assert_eq!(rig.run(lease).await, LeafEnd::Parked);
    let record = rig.record(run).await;
    assert_eq!(record.status, Status::Paused);
    record
}

async fn decide(rig: &Rig, run: &RunId, gate: u64, action: Action, feedback: Option<&str>) {
    let decision =
        Decision { feedback: feedback.map(Into::into), approver: Some("ann".into()), ..Decision::new(action) };
    let decided = rig.store.decide(Decide { run: run.clone(), gate: Some(gate), decision }).await.unwrap();
    assert!(matches!(decided, Decided::Recorded { .. }), "{decided:?}");
}

async fn to_the_end(rig: &Rig, run: &RunId) -> Record {
    let lease = rig.claim().await;
    let end = rig.run(lease).await;
    assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
    let record = rig.record(run).await;
    check_log(&rig.log(&record.session).await);
    record
}

fn ran(rig: &Rig) -> Vec<String> {
    rig.hands.ran().iter().map(|(_, input)| input["command"].as_str().unwrap_or("(file)").to_owned()).collect()
}

/// What the model was told last, one text per call.
fn told(rig: &Rig) -> Vec<String> {
    let last = rig.model.seen().pop().unwrap();
    let Some(Message::Tools(results)) = last.last() else { panic!("{last:?}") };
    results.iter().map(|(_, r)| r.as_text()).collect()
}

#[tokio::test]
async fn a_held_call_runs_exactly_as_it_was_shown_and_only_after_its_approval() {
    let rig = rig(vec![all(&[bash("git push")])]);
    let run = rig.submit(guarded(&[rule("bash", "^git push")])).await;
    let record = until_parked(&rig, &run).await;
    let question = &record.gates[0].question;
    assert_eq!(question.call.as_ref().map(|c| c.input.clone()), Some(json!({"command": "git push"})));
    assert!(rig.hands.ran().is_empty());
    decide(&rig, &run, 0, Action::Approve, None).await;
    assert_eq!(to_the_end(&rig, &run).await.status, Status::Done);
    assert_eq!(ran(&rig), ["git push"]);
    let log = rig.log(&record.session).await;
    let decided = log.iter().find_map(|e| match &e.body {
        Body::GateDecided { gate: 0, decision, .. } => Some(decision.clone()),
        _ => None,
    });
    assert_eq!(decided.and_then(|d| d.approver), Some("ann".into()), "who decided is in the log");
}

#[tokio::test]
async fn a_rejected_call_is_not_run_and_the_model_is_told_why() {
    let rig = rig(vec![all(&[bash("git push")])]);
    let run = rig.submit(guarded(&[rule("bash", "git push")])).await;
    until_parked(&rig, &run).await;
    decide(&rig, &run, 0, Action::Reject, Some("not on a Friday")).await;
    assert_eq!(to_the_end(&rig, &run).await.status, Status::Done);
    assert!(ran(&rig).is_empty());
    let told = told(&rig).remove(0);
    assert!(told.contains("REJECTED by ann") && told.contains("not on a Friday"), "{told}");
}

#[tokio::test]
async fn an_abort_ends_the_run() {
    let rig = rig(vec![all(&[bash("a"), bash("b")])]);
    let run = rig.submit(guarded(&[rule("*", "*")])).await;
    assert_eq!(until_parked(&rig, &run).await.gates.len(), 2);
    decide(&rig, &run, 1, Action::Abort, None).await;
    let record = to_the_end(&rig, &run).await;
    assert_eq!((record.outcome, ran(&rig).len()), (Some(Outcome::Aborted {}), 0));
}

#[tokio::test]
async fn several_held_calls_are_answered_one_by_one_and_the_others_run_first() {
    let rig = rig(vec![all(&[bash("push a"), bash("free"), bash("push b")])]);
    let run = rig.submit(guarded(&[rule("bash", "^push")])).await;
    let record = until_parked(&rig, &run).await;
    assert_eq!((record.gates.len(), ran(&rig)), (2, vec!["free".to_owned()]));
    decide(&rig, &run, 1, Action::Reject, None).await;
    decide(&rig, &run, 0, Action::Approve, None).await;
    to_the_end(&rig, &run).await;
    assert_eq!(ran(&rig), ["free", "push a"]);
    let told = told(&rig);
    assert!(told[0].contains("push a") && told[1].contains("free") && told[2].contains("REJECTED"), "{told:?}");
}

#[tokio::test]
async fn what_comes_after_a_held_write_waits_for_it() {
    let write = ("write", json!({"path": "run.sh", "content": "x"}));
    let rig = rig(vec![all(&[bash("before"), write, bash("sh run.sh")])]);
    let run = rig.submit(guarded(&[rule("write", "*")])).await;
    until_parked(&rig, &run).await;
    assert_eq!(ran(&rig), ["before"]);
    decide(&rig, &run, 0, Action::Approve, None).await;
    to_the_end(&rig, &run).await;
    assert_eq!(ran(&rig), ["before", "(file)", "sh run.sh"]);
}

#[tokio::test]
async fn a_question_of_the_models_freezes_what_follows_it() {
    let rig = rig(vec![all(&[bash("before"), ask("may I?"), bash("after")]), all(&[bash("then")])]);
    let run = rig.submit(Spec::prompt("go")).await;
    let record = until_parked(&rig, &run).await;
    assert_eq!((record.gates[0].question.summary.as_str(), &record.gates[0].question.call), ("may I?", &None));
    assert_eq!(ran(&rig), ["before"]);
    decide(&rig, &run, 0, Action::Approve, Some("go ahead")).await;
    to_the_end(&rig, &run).await;
    assert_eq!(ran(&rig), ["before", "then"]);
    let conversation = rig.model.seen().pop().unwrap();
    let Some(Message::Tools(first)) = conversation.iter().find(|m| matches!(m, Message::Tools(_))) else { panic!() };
    assert!(first[1].1.as_text().contains("APPROVED by ann") && first[1].1.as_text().contains("go ahead"));
    assert!(first[2].1.is_error && first[2].1.as_text().contains("came after a request for approval"));
}

/// A model that calls everything by one id must not get one call approved in another's name.
#[tokio::test]
async fn uses_with_one_id_are_told_apart() {
    let one_id = |uses: &[(&str, Value)]| {
        let mut said = calls(uses);
        for block in &mut said.blocks {
            if let Block::ToolUse { id, .. } = block {
                *id = "x".into();
            }
        }
        Ok(said)
    };
    // The question is approved, not the push behind it.
    let asks = rig(vec![one_id(&[ask("may I read the docs?"), bash("git push")])]);
    let run = asks.submit(guarded(&[rule("bash", "^git push")])).await;
    let record = until_parked(&asks, &run).await;
    assert_eq!((record.gates.len(), record.gates[0].question.summary.as_str()), (1, "may I read the docs?"));
    decide(&asks, &run, 0, Action::Approve, None).await;
    to_the_end(&asks, &run).await;
    assert!(ran(&asks).is_empty(), "{:?}", ran(&asks));
    let told = told(&asks);
    assert!(told[0].contains("APPROVED") && told[1].contains("came after a request"), "{told:?}");

    // Each call runs once, as itself, and after its own verdict.
    let holds = rig(vec![one_id(&[bash("git push"), bash("free"), bash("free")])]);
    let run = holds.submit(guarded(&[rule("bash", "^git push")])).await;
    until_parked(&holds, &run).await;
    assert_eq!(ran(&holds), ["free", "free"]);
    decide(&holds, &run, 0, Action::Reject, None).await;
    to_the_end(&holds, &run).await;
    assert_eq!(ran(&holds), ["free", "free"]);
}

#[tokio::test]
async fn a_run_may_ask_again_and_gates_count_on() {
    let rig = rig(vec![all(&[ask("one")]), all(&[ask("two")])]);
    let run = rig.submit(Spec::prompt("go")).await;
    until_parked(&rig, &run).await;
    decide(&rig, &run, 0, Action::Reject, None).await;
    assert_eq!(until_parked(&rig, &run).await.gates[0].gate, 1);
    decide(&rig, &run, 1, Action::Approve, None).await;
    assert_eq!(to_the_end(&rig, &run).await.status, Status::Done);
}

#[tokio::test]
async fn a_verdict_that_needs_approval_counts_only_with_it() {
    // Asked for first, as it is told to.
    let asks = rig(vec![all(&[ask("flag it?")]), all(&[verdict("FLAGGED")])]);
    let run = asks.submit(gated_review()).await;
    until_parked(&asks, &run).await;
    decide(&asks, &run, 0, Action::Approve, None).await;
    let record = to_the_end(&asks, &run).await;
    assert!(matches!(record.outcome, Some(Outcome::Done { verdict: Some(_), .. })), "{record:?}");

    // Not asked for: the verdict itself is held.
    let submits = rig(vec![all(&[verdict("FLAGGED")])]);
    let run = submits.submit(gated_review()).await;
    let record = until_parked(&submits, &run).await;
    assert!(record.gates[0].question.summary.contains("FLAGGED"));
    decide(&submits, &run, 0, Action::Approve, None).await;
    assert_eq!(to_the_end(&submits, &run).await.status, Status::Done);

    // Rejected: another one needs another approval.
    let rejected = rig(vec![all(&[ask("flag it?")]), all(&[verdict("CLEAR")])]);
    let run = rejected.submit(gated_review()).await;
    until_parked(&rejected, &run).await;
    decide(&rejected, &run, 0, Action::Reject, Some("look again")).await;
    until_parked(&rejected, &run).await;
    decide(&rejected, &run, 1, Action::Reject, None).await;
    let record = to_the_end(&rejected, &run).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::NoVerdict, .. })), "{record:?}");
}

#[tokio::test]
async fn rules_of_the_operator_hold_in_every_run() {
    let mut rig = rig(vec![all(&[bash("anything")])]);
    Arc::make_mut(&mut rig.deps.settings).approvals = vec![rule("bash", "*")];
    let run = rig.submit(Spec::prompt("go")).await;
    until_parked(&rig, &run).await;
    assert!(ran(&rig).is_empty());
}

#[tokio::test]
async fn a_gate_that_expires_is_a_rejection_that_the_model_hears_of() {
    let mut rig = rig(vec![all(&[bash("late")])]);
    rig.deps.clock = rig.clock.clone();
    Arc::make_mut(&mut rig.deps.settings).gate_ttl = Some(Duration::from_secs(60));
    let run = rig.submit(guarded(&[rule("bash", "*")])).await;
    until_parked(&rig, &run).await;
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(to_the_end(&rig, &run).await.status, Status::Done);
    assert!(ran(&rig).is_empty() && told(&rig)[0].contains("Nobody decided in time"), "{:?}", told(&rig));
}

#[tokio::test]
async fn waiting_for_a_person_does_not_use_up_the_time_limit() {
    let mut rig = rig(vec![all(&[ask("sure?")]), all(&[bash("then")])]);
    rig.deps.clock = rig.clock.clone();
    let run = rig.submit(with_budget(Budget { max_seconds: Some(60), ..Budget::default() })).await;
    until_parked(&rig, &run).await;
    rig.clock.advance(Duration::from_secs(3600));
    decide(&rig, &run, 0, Action::Approve, None).await;
    assert_eq!(to_the_end(&rig, &run).await.status, Status::Done);
    assert_eq!(ran(&rig), ["then"]);
}

#[tokio::test]
async fn a_run_that_cannot_follow_its_rules_runs_nothing() {
    let rig = rig(vec![all(&[bash("x")])]);
    let record = rig.go(guarded(&[rule("fly", "*")])).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::BadInputs, .. })), "{record:?}");
    assert!(ran(&rig).is_empty());
}

/// A leaf that is held twice, asks once and has a verdict that needs approval.
fn story() -> Rig {
    rig(vec![
        all(&[bash("one"), bash("push"), ("write", json!({"path": "a", "content": "b"})), bash("two")]),
        all(&[bash("three"), ask("flag?"), bash("frozen")]),
        all(&[verdict("FLAGGED")]),
    ])
}

fn story_spec() -> Spec {
    Spec { approvals: vec![rule("bash", "push"), rule("write", "*")], ..gated_review() }
}

/// Drives the run to its end, approving whatever is asked; claims die by `fuse` until it has blown.
async fn drive(rig: &Rig, run: &RunId, fuse: &Arc<Fuse>) {
    for _ in 0..30 {
        let record = rig.record(run).await;
        if record.status.is_terminal() {
            return;
        }
        for gate in &record.gates {
            decide(rig, run, gate.gate, Action::Approve, None).await;
        }
        rig.lapse();
        let lease = rig.claim().await;
        let deps = rig.fused(fuse);
        let (_handle, stop) = Stop::new();
        tokio::select! {
            biased;
            () = fuse.blown() => return Box::pin(drive(rig, run, &Fuse::at(0))).await,
            end = run_leaf(&deps, lease, stop) => assert!(matches!(end, LeafEnd::Parked | LeafEnd::Ended(_)), "{end:?}"),
        }
    }
    panic!("the run does not end");
}

#[tokio::test]
async fn a_gated_leaf_that_dies_at_any_step_ends_the_same() {
    let whole = Fuse::at(0);
    let rig = story();
    let run = rig.submit(story_spec()).await;
    drive(&rig, &run, &whole).await;
    assert_eq!(rig.record(&run).await.status, Status::Done);
    for at in 1..=whole.taken() {
        let rig = story();
        let run = rig.submit(story_spec()).await;
        drive(&rig, &run, &Fuse::at(at)).await;
        let record = rig.record(&run).await;
        assert!(matches!(record.outcome, Some(Outcome::Done { verdict: Some(_), .. })), "step {at}: {record:?}");
        assert_eq!(ran(&rig), ["one", "push", "(file)", "two", "three"], "step {at}: every effect once, in order");
        check_log(&rig.log(&record.session).await);
    }
}
