//! What a leaf does, seen from its log, its hands and its model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Rig, check_log, review, rig, rig_with, with_budget};
use torpor_core::entry::{Body, ToolEnding};
use torpor_core::envelope::{Budget, Spec};
use torpor_core::message::{Assistant, Block, StopReason, Usage};
use torpor_core::model::{self, Message, Retry};
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::{Expects, Release, WorkQueue as _};
use torpor_harness::{LeafEnd, Stop, give_up, run_leaf};
use torpor_testkit::fakes::{FakeModel, Said, calls, says};

fn verdict(id: &str) -> Said {
    Ok(calls(&[("submit_verdict", json!({"item_id": id, "verdict": "CLEAR", "reason": "r"}))]))
}

fn bash(command: &str) -> Said {
    Ok(calls(&[("bash", json!({"command": command}))]))
}

/// The result that the model was shown for the first use of its `n`th answer.
fn result(rig: &Rig, n: usize) -> String {
    let last = rig.model.seen().pop().unwrap();
    let results: Vec<_> = last.iter().filter_map(|m| if let Message::Tools(r) = m { Some(r) } else { None }).collect();
    results[n][0].1.as_text()
}

fn failed(rig_record: &torpor_core::run::Record) -> (FailReason, &str) {
    match &rig_record.outcome {
        Some(Outcome::Failed { reason, message }) => (*reason, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_prompt_ends_with_the_models_words_and_its_usage() {
    let rig = rig(vec![bash("true"), Ok(says("all good"))]);
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(
        record.outcome,
        Some(Outcome::Done {
            verdict: None,
            result: None,
            response: Some("all good".into()),
            stop_reason: Some("end_turn".into())
        })
    );
    assert_eq!((record.spent.turns, record.spent.usage.input, record.spent.usage.output), (2, 20, 10));
    check_log(&rig.log(&record.session).await);
}

#[tokio::test]
async fn every_effect_follows_its_intent_in_the_log() {
    let rig = rig(vec![bash("one")]);
    let record = rig.go(Spec::prompt("go")).await;
    let kinds: Vec<&str> = rig
        .log(&record.session)
        .await
        .iter()
        .map(|e| match e.body {
            Body::RunStarted { .. } => "started",
            Body::ModelRequested { .. } => "model?",
            Body::ModelAnswered { .. } => "model!",
            Body::ToolRequested { .. } => "tool?",
            Body::ToolEnded { .. } => "tool!",
            Body::RunEnded { .. } => "ended",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["started", "model?", "model!", "tool?", "tool!", "model?", "model!", "ended"]);
}

#[tokio::test]
async fn a_review_ends_with_its_verdict_and_only_its_own() {
    let rig = rig(vec![verdict("other"), verdict("i1")]);
    let record = rig.go(review()).await;
    assert!(matches!(&record.outcome, Some(Outcome::Done { verdict: Some(v), .. }) if v.item_id == "i1"));
    assert!(result(&rig, 0).contains("This review is about item_id=\"i1\", not \"other\""));
}

#[tokio::test]
async fn a_review_without_a_verdict_fails_by_name() {
    let none = rig(vec![Ok(says("looks fine"))]).go(review()).await;
    assert_eq!(failed(&none).0, FailReason::NoVerdict);
    let bad = Ok(calls(&[("submit_verdict", json!({"item_id": "i1", "verdict": "MAYBE", "reason": "r"}))]));
    let invalid = rig(vec![bad, Ok(says("done"))]).go(review()).await;
    assert_eq!(failed(&invalid).0, FailReason::InvalidVerdict);
}

#[tokio::test]
async fn calls_that_cannot_be_run_are_answered_not_run() {
    let cases: [(&str, serde_json::Value, &str); 4] = [
        ("fly", json!({}), "There is no tool `fly`. Available: read"),
        ("submit_verdict", json!({"item_id": "i", "verdict": "CLEAR", "reason": "r"}), "is not allowed in this run"),
        ("bash", json!({"command": 7}), "Invalid arguments for `bash`: `command`: 7 is not of type \"string\""),
        (
            "bash",
            json!({"command": "true", "cwd": "/"}),
            "Additional properties are not allowed ('cwd' was unexpected)",
        ),
    ];
    for (name, input, want) in cases {
        let rig = rig(vec![Ok(calls(&[(name, input)]))]);
        let record = rig.go(Spec::prompt("go")).await;
        assert_eq!(record.status, Status::Done);
        assert!(result(&rig, 0).contains(want), "{}", result(&rig, 0));
        assert!(rig.hands.ran().is_empty());
    }
}

#[tokio::test]
async fn an_allow_list_holds_at_dispatch() {
    let rig = rig(vec![bash("true")]);
    let record = rig.go(Spec { tools: Some(vec!["read".into()]), ..Spec::prompt("go") }).await;
    assert_eq!(record.status, Status::Done);
    assert!(result(&rig, 0).contains("`bash` is not allowed in this run. Available: read."));
    assert!(rig.hands.ran().is_empty());
}

#[tokio::test]
async fn an_answer_cut_off_by_the_output_limit_is_never_acted_on() {
    let mut cut = calls(&[("bash", json!({"command": "rm -rf half-a-pa"}))]);
    cut.stop = StopReason::MaxTokens;
    let rig = rig(vec![Ok(cut)]);
    rig.go(Spec::prompt("go")).await;
    assert!(rig.hands.ran().is_empty());
    assert!(result(&rig, 0).contains("cut off by the output limit"));
}

#[tokio::test]
async fn budgets_are_hard_and_say_what_was_spent() {
    let endless: Vec<Said> = (0..50).map(|_| bash("again")).collect();
    let turns = rig(endless.clone());
    let record = turns.go(with_budget(Budget { max_turns: Some(3), ..Budget::default() })).await;
    assert_eq!(
        failed(&record),
        (FailReason::Budget, "limit of 3 model calls reached; spent: 3 model calls, 45 tokens")
    );
    assert_eq!(record.spent.turns, 3);

    let tokens = rig(endless);
    let record = tokens.go(with_budget(Budget { max_tokens: Some(40), ..Budget::default() })).await;
    assert_eq!(failed(&record).0, FailReason::Budget);
    assert_eq!(tokens.hands.ran().len(), 2, "the calls of the answer that went over were not run");

    for (max, want) in [(15, Status::Done), (14, Status::Failed)] {
        let rig = rig(vec![Ok(says("a long answer"))]);
        let record = rig.go(with_budget(Budget { max_tokens: Some(max), ..Budget::default() })).await;
        assert_eq!(record.status, want, "an answer of 15 tokens where {max} are allowed");
    }
}

#[tokio::test]
async fn at_the_time_limit_running_calls_are_cancelled() {
    let rig = rig(vec![bash("hang")]);
    let record = rig.go(with_budget(Budget { max_seconds: Some(1), ..Budget::default() })).await;
    assert_eq!(failed(&record), (FailReason::Timeout, "limit of 1 seconds reached"));
    assert_eq!(rig.hands.cancelled().len(), 1);
}

#[tokio::test]
async fn model_errors_are_retried_if_it_makes_sense_and_then_fail_the_run() {
    let busy = || model::Error::new(Retry::Backoff, "overloaded");
    let recovers = rig(vec![]);
    recovers.model.stumble(vec![busy(), model::Error::new(Retry::After(Duration::ZERO), "rate limit")]);
    let record = recovers.go(Spec::prompt("go")).await;
    assert_eq!(record.status, Status::Done);
    assert_eq!(record.spent.turns, 1, "retries are one call");

    let down = rig(vec![]);
    down.model.stumble(vec![busy(), busy(), busy()]);
    let record = down.go(Spec::prompt("go")).await;
    assert_eq!(failed(&record), (FailReason::Model, "overloaded (after 3 attempts)"));

    let refused = rig(vec![]);
    refused.model.stumble(vec![model::Error::new(Retry::Never, "bad key")]);
    assert_eq!(failed(&refused.go(Spec::prompt("go")).await), (FailReason::Model, "bad key"));
}

#[tokio::test]
async fn hands_that_were_lost_are_told_to_the_model_and_nothing_is_repeated() {
    let rig = rig(vec![bash("hang"), Ok(says("noted"))]);
    let run = rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    let (handle, stop) = Stop::new();
    let leaf = tokio::spawn({
        let deps = rig.deps.clone();
        async move { run_leaf(&deps, lease, stop).await }
    });
    while rig.hands.ran().is_empty() {
        tokio::task::yield_now().await;
    }
    handle.hand_back();
    assert_eq!(leaf.await.unwrap(), LeafEnd::HandedBack);
    rig.hands.lose();
    rig.lapse();
    let lease = rig.claim().await;
    assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
    assert_eq!(rig.hands.ran().len(), 1);
    assert!(result(&rig, 0).contains("Its outcome is unknown"), "{}", result(&rig, 0));
    let record = rig.record(&run).await;
    assert_eq!(record.status, Status::Done);
    let log = rig.log(&record.session).await;
    assert!(log.iter().any(|e| matches!(e.body, Body::ToolEnded { ending: ToolEnding::SandboxLost, .. })));
    check_log(&log);
}

#[tokio::test]
async fn a_hand_back_leaves_the_command_running_and_burns_no_attempt() {
    let rig = rig(vec![bash("hang")]);
    rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    let key = lease.key();
    let (handle, stop) = Stop::new();
    let deps = rig.deps.clone();
    let leaf = tokio::spawn(async move { run_leaf(&deps, lease, stop).await });
    while rig.hands.ran().is_empty() {
        tokio::task::yield_now().await;
    }
    handle.hand_back();
    assert_eq!(leaf.await.unwrap(), LeafEnd::HandedBack);
    assert!(rig.hands.cancelled().is_empty());
    assert!(rig.store.release(&key, Release::HandBack).await.unwrap());
    assert_eq!(rig.claim().await.attempt, 1);
}

#[tokio::test]
async fn two_brains_on_one_session_the_slow_one_is_refused_everywhere() {
    let rig = rig(vec![bash("one"), bash("two")]);
    let run = rig.submit(Spec::prompt("go")).await;
    let slow = rig.claim().await;
    rig.lapse();
    let quick = rig.claim().await;
    assert!(quick.epoch > slow.epoch);
    assert!(matches!(rig.run(quick).await, LeafEnd::Ended(_)));
    let before = rig.log(&rig.record(&run).await.session).await;

    assert!(!rig.store.release(&slow.key(), Release::HandBack).await.unwrap(), "its release is refused");
    let lost = rig.store.heartbeat(&slow.worker, &[slow.key()]).await.unwrap();
    assert_eq!(lost, [slow.key()], "its heartbeat is refused");
    assert_eq!(rig.run(slow).await, LeafEnd::Fenced, "its appends are refused");
    assert_eq!(rig.hands.ran().len(), 2, "its commands never reach the hands");
    assert_eq!(rig.log(&rig.record(&run).await.session).await, before);
}

#[tokio::test]
async fn ten_turns_at_once_on_one_session_are_all_kept_in_order() {
    let rig = rig(vec![Ok(says("ok"))]);
    rig.submit_to("s", Spec::prompt("turn 0"), Expects::New).await;
    for n in 1..10 {
        rig.submit_to("s", Spec::prompt(format!("turn {n}")), Expects::Existing).await;
    }
    for _ in 0..10 {
        let lease = rig.claim().await;
        assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
    }
    let last = rig.model.seen().pop().unwrap();
    let users: Vec<_> =
        last.iter().filter_map(|m| if let Message::User(t) = m { Some(t.clone()) } else { None }).collect();
    assert_eq!(users, (0..10).map(|n| format!("turn {n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_sandbox_nothing_runs_anywhere() {
    let mut rig = rig(vec![bash("true")]);
    rig.deps.sandboxes = None;
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(failed(&record), (FailReason::NoSandbox, "the model called `bash`, and no sandbox is configured"));
    let record = rig.go(review()).await;
    assert_eq!(failed(&record).0, FailReason::NoSandbox);
    let record = rig.go(Spec { tools: Some(vec!["ls".into()]), ..Spec::prompt("go") }).await;
    assert_eq!(failed(&record).0, FailReason::NoSandbox);
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_had_fails_the_run_with_the_reason() {
    let rig = rig(vec![bash("true")]);
    rig.hands.vanish("the daemon does not start");
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(failed(&record), (FailReason::NoSandbox, "no sandbox: the daemon does not start"));
}

#[tokio::test]
async fn provider_parts_come_back_to_the_model_as_they_were() {
    let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "c2ln", "zeta": 1, "alpha": 2});
    let block = Block::Opaque { provider: "fake".into(), value: thinking };
    let mut answer = calls(&[("bash", json!({"command": "true"}))]);
    answer.blocks.insert(0, block.clone());
    let rig =
        rig(vec![Ok(answer), Ok(Assistant { blocks: vec![], stop: StopReason::EndTurn, usage: Usage::default() })]);
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(record.status, Status::Done);
    let last = rig.model.seen().pop().unwrap();
    let Message::Assistant(sent_back) = &last[1] else { panic!("{last:?}") };
    assert_eq!(sent_back.blocks[0], block);
}

/// A brain that died in the middle of the endless command of a fresh run; the lease of the next one.
async fn died_in_a_command(rig: &Rig, spec: Spec) -> (torpor_core::RunId, torpor_core::queue::Lease) {
    let run = rig.submit(spec).await;
    let lease = rig.claim().await;
    let (_handle, stop) = Stop::new();
    let leaf = run_leaf(&rig.deps, lease, stop);
    tokio::select! {
        end = leaf => panic!("{end:?}"),
        () = async { while rig.hands.ran().is_empty() { tokio::task::yield_now().await } } => {}
    }
    rig.lapse();
    (run, rig.claim().await)
}

#[tokio::test]
async fn a_run_that_ends_on_resume_ends_its_command_and_shuts_earlier_brains_out() {
    let rig = rig(vec![bash("hang")]);
    let (run, lease) = died_in_a_command(&rig, Spec::prompt("go")).await;
    let epoch = lease.epoch;
    let end = give_up(&rig.deps, lease, "enough".into()).await;
    assert!(matches!(end, LeafEnd::Ended(_)));
    assert_eq!(rig.hands.cancelled().len(), 1, "the command goes on after its run's end");
    let record = rig.record(&run).await;
    assert_eq!(record.spent.turns, 1, "what was spent is known");
    let (born, epoch) = (torpor_core::Epoch(0), torpor_core::Epoch(epoch.0 - 1));
    let open = torpor_core::sandbox::Open { session: record.session, epoch, born, workspace: None };
    let refused = rig.deps.sandboxes.as_ref().unwrap().open(open).await.map(|_| ());
    assert!(matches!(refused, Err(torpor_core::sandbox::Error::Fenced { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_command_under_way_is_no_poison() {
    let rig = rig(vec![bash("hang")]);
    let (_, lease) = died_in_a_command(&rig, Spec::prompt("go")).await;
    for (attempt, exhausted) in [(2, false), (3, false), (8, false), (9, true)] {
        let lease = torpor_core::queue::Lease { attempt, ..lease.clone() };
        assert_eq!(torpor_harness::is_exhausted(&rig.deps, &lease, 2).await, exhausted, "attempt {attempt}");
    }
    let fresh = rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    assert_eq!(lease.record.run_id, fresh);
    assert!(torpor_harness::is_exhausted(&rig.deps, &torpor_core::queue::Lease { attempt: 3, ..lease }, 2).await);
}

#[tokio::test]
async fn a_busy_sandbox_is_waited_for_not_failed_over() {
    let rig = rig(vec![bash("true")]);
    rig.hands.set_busy(true);
    let run = rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    let key = lease.key();
    assert_eq!(rig.run(lease).await, LeafEnd::Busy("all hands are taken".into()));
    assert!(rig.store.release(&key, Release::Wait { after: Duration::ZERO }).await.unwrap());
    rig.hands.set_busy(false);
    let lease = rig.claim().await;
    assert_eq!(lease.attempt, 1);
    assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
    assert_eq!(rig.record(&run).await.status, Status::Done);
    assert_eq!(rig.model.seen().len(), 2, "the answer was kept");
}

#[tokio::test]
async fn a_leaf_told_to_stop_before_a_model_call_makes_none() {
    let rig = rig(vec![]);
    rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    let (handle, stop) = Stop::new();
    handle.hand_back();
    assert_eq!(run_leaf(&rig.deps, lease, stop).await, LeafEnd::HandedBack);
    assert!(rig.model.seen().is_empty());
}

#[tokio::test]
async fn a_session_that_is_full_says_so() {
    let rig = rig(vec![]);
    rig.model.stumble(vec![model::Error { overflow: true, ..model::Error::new(Retry::Never, "prompt is too long") }]);
    let record = rig.go(Spec::prompt("go")).await;
    assert!(failed(&record).1.contains("start a new session (prompt is too long)"), "{record:?}");
}

#[tokio::test]
async fn a_run_that_is_given_up_ends_as_a_dead_letter_without_running() {
    let rig = rig(vec![bash("true")]);
    let run = rig.submit(Spec::prompt("go")).await;
    let lease = rig.claim().await;
    let end = give_up(&rig.deps, lease, "given up after 5 attempts".into()).await;
    assert!(matches!(end, LeafEnd::Ended(Outcome::Failed { reason: FailReason::DeadLetter, .. })));
    assert_eq!(rig.record(&run).await.status, Status::Failed);
    assert!(rig.hands.ran().is_empty());
}

fn summaries(rig: &Rig) -> usize {
    let asked = |m: &Vec<Message>| matches!(m.last(), Some(Message::User(t)) if t.contains("Write a summary"));
    rig.model.seen().iter().filter(|m| asked(m)).count()
}

#[tokio::test]
async fn a_conversation_that_outgrows_the_window_is_summarised_and_goes_on() {
    let rig = rig_with(FakeModel::numbered((0..60).map(|n| bash(&format!("step {n}"))).collect()));
    rig.model.set_room(600);
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(record.status, Status::Done, "{record:?}");
    assert!(summaries(&rig) > 1, "it was summarised more than once");
    assert_eq!(rig.hands.ran().len(), 60);
    let log = rig.log(&record.session).await;
    check_log(&log);
    let opened = rig.deps.log.open(&record.session).await.unwrap().unwrap();
    assert!(opened.tail.len() < log.len() / 2, "resume reads {} of {} entries", opened.tail.len(), log.len());
    // Every request fits, and none begins with an answer or a result.
    for messages in rig.model.seen() {
        assert!(matches!(messages[0], Message::User(_)), "{:?}", messages[0]);
    }
}

#[tokio::test]
async fn a_refusal_for_length_is_answered_with_a_summary_once() {
    let rig = rig(vec![bash("one"), bash("two")]);
    let record = rig.go(Spec::prompt("go")).await;
    let overflow = || model::Error { overflow: true, ..model::Error::new(Retry::Never, "prompt is too long") };
    rig.model.stumble(vec![overflow()]);
    let turn = rig.submit_to(record.session.session(), Spec::prompt("more"), Expects::Existing).await;
    let lease = rig.claim().await;
    assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
    let record = rig.record(&turn).await;
    assert_eq!(record.status, Status::Done, "{record:?}");
    assert_eq!(summaries(&rig), 1);
}

fn pictures(messages: &[Message]) -> usize {
    messages.iter().flat_map(Message::images).count()
}

#[tokio::test]
async fn a_picture_is_shown_to_the_model_and_left_out_of_summaries() {
    let mut steps: Vec<_> = (0..40).map(|n| bash(&format!("step {n}"))).collect();
    steps.insert(3, Ok(calls(&[("read", json!({"path": "picture.png"}))])));
    let rig = rig_with(FakeModel::numbered(steps));
    rig.model.set_room(2_000);
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(record.status, Status::Done, "{record:?}");
    let seen = rig.model.seen();
    let asks = |m: &[Message]| matches!(m.last(), Some(Message::User(t)) if t.contains("Write a summary"));
    assert!(seen.iter().any(|m| !asks(m) && pictures(m) == 1));
    assert!(summaries(&rig) > 0 && seen.iter().filter(|m| asks(m)).all(|m| pictures(m) == 0));
    let log = serde_json::to_string(&rig.log(&record.session).await).unwrap();
    assert!(log.contains(r#"{"type":"image","mediaType":"image/png","data":"iVBORw0KGgo="}"#), "{log}");
}

#[tokio::test]
async fn a_model_that_refuses_pictures_is_asked_again_without_them() {
    let refused = || model::Error { images: true, ..model::Error::new(Retry::Never, "no image input") };
    let rig = rig(vec![Ok(calls(&[("read", json!({"path": "picture.png"}))])), bash("true")]);
    rig.model.stumble_at(1, refused());
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(record.status, Status::Done, "{record:?}");
    let shown: Vec<usize> = rig.model.seen().iter().map(|m| pictures(m)).collect();
    assert_eq!(shown, [0, 1, 0, 0]);
    check_log(&rig.log(&record.session).await);

    // An error that speaks of images where there are none is an error like any other.
    let rig = self::rig(vec![]);
    rig.model.stumble(vec![refused()]);
    let record = rig.go(Spec::prompt("go")).await;
    assert_eq!(failed(&record).1, "no image input");
}

#[tokio::test]
async fn a_cancel_reaches_a_running_command_and_a_waiting_model_call() {
    let in_a_command = rig(vec![bash("hang")]);
    let run = in_a_command.submit(Spec::prompt("go")).await;
    let lease = in_a_command.claim().await;
    let (handle, stop) = Stop::new();
    let deps = in_a_command.deps.clone();
    let leaf = tokio::spawn(async move { run_leaf(&deps, lease, stop).await });
    while in_a_command.hands.ran().is_empty() {
        tokio::task::yield_now().await;
    }
    handle.cancel();
    assert_eq!(leaf.await.unwrap(), LeafEnd::Ended(Outcome::Cancelled {}));
    assert_eq!(in_a_command.hands.cancelled().len(), 1);
    assert_eq!(in_a_command.record(&run).await.status, Status::Cancelled);
}

#[tokio::test]
async fn a_run_whose_brain_died_is_cancelled_by_the_next_one_command_and_all() {
    let rig = rig(vec![bash("hang")]);
    let (run, lease) = died_in_a_command(&rig, Spec::prompt("go")).await;
    let lease = torpor_core::queue::Lease { cancel: true, ..lease };
    assert_eq!(rig.run(lease).await, LeafEnd::Ended(Outcome::Cancelled {}));
    assert_eq!(rig.hands.cancelled().len(), 1);
    let record = rig.record(&run).await;
    check_log(&rig.log(&record.session).await);
}
