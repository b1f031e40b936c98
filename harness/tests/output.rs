//! Runs that must end with a result: what fits is the outcome, what does not is told to the model, and tries are
//! counted by the log, whoever dies in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::{Rig, check_log, rig, rig_with};
use torpor_core::entry::{Body, Entry};
use torpor_core::envelope::Spec;
use torpor_core::message::{Assistant, Block, StopReason};
use torpor_core::model::Message;
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::Expects;
use torpor_harness::{LeafEnd, Stop, check, run_leaf};
use torpor_testkit::crash::Fuse;
use torpor_testkit::fakes::{FakeModel, Said, calls, says};

fn wanting() -> Spec {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    Spec { output_schema: Some(schema), ..Spec::prompt("count") }
}

fn submit(result: &Value) -> Said {
    Ok(calls(&[("submit_result", json!({"result": result}))]))
}

fn wrong(n: &str) -> Said {
    submit(&json!({"n": n}))
}

fn failed(outcome: Option<&Outcome>) -> &str {
    match outcome {
        Some(Outcome::Failed { reason: FailReason::InvalidOutput, message }) => message,
        other => panic!("{other:?}"),
    }
}

fn reminders(log: &[Entry]) -> usize {
    log.iter().filter(|e| matches!(e.body, Body::Reminded { .. })).count()
}

/// What the model was told of its last calls.
fn told(model: &FakeModel) -> Vec<String> {
    let last = model.seen().pop().unwrap();
    let results = last.into_iter().filter_map(|m| if let Message::Tools(r) = m { Some(r) } else { None });
    results.flatten().map(|(_, result)| result.as_text()).collect()
}

#[tokio::test]
async fn a_result_that_fits_is_the_outcome_with_the_words_beside_it() {
    let mut answer = calls(&[("submit_result", json!({"result": {"n": 3}}))]);
    answer.blocks.insert(0, Block::Text { text: "Three of them.".into() });
    let rig = rig(vec![Ok(calls(&[("bash", json!({"command": "count"}))])), Ok(answer)]);
    let record = rig.go(wanting()).await;
    let Some(Outcome::Done { result, response, verdict: None, .. }) = record.outcome else { panic!("{record:?}") };
    assert_eq!((result, response.as_deref()), (Some(json!({"n": 3})), Some("Three of them.")));
    check_log(&rig.log(&record.session).await);
}

#[tokio::test]
async fn the_model_is_told_what_was_wrong_and_may_try_three_times_in_all() {
    let rig = rig(vec![wrong("one"), Ok(calls(&[("submit_result", json!({"m": 2}))])), submit(&json!({"n": 3}))]);
    let record = rig.go(wanting()).await;
    assert!(
        matches!(&record.outcome, Some(Outcome::Done { result: Some(r), .. }) if *r == json!({"n": 3})),
        "{record:?}"
    );
    let told = told(&rig.model);
    assert!(told[0].contains("at `/result/n`: the value is not of type \"integer\", got \"one\""), "{told:?}");
    assert!(told[0].contains("2 more tries are allowed") && told[1].contains("1 more try is allowed"), "{told:?}");
    assert!(told[1].contains("exactly one argument, `result`"), "{told:?}");

    // All in one message: what comes after the third is not even looked at.
    let many = ["a", "b", "c"].map(|n| ("submit_result", json!({"result": {"n": n}})));
    let late = ("submit_result", json!({"result": {"n": 4}}));
    for steps in [
        vec![wrong("one"), wrong("two"), wrong("three"), submit(&json!({"n": 4}))],
        vec![Ok(calls(&[&many[..], &[late]].concat()))],
    ] {
        let rig = support::rig(steps);
        let record = rig.go(wanting()).await;
        let message = failed(record.outcome.as_ref());
        assert!(
            message.starts_with("the model submitted 3 results and none fits; of the last one: at `/result/n`"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_model_that_stops_without_a_result_is_reminded_once() {
    let reminded = rig_with(FakeModel::numbered(vec![Ok(says("there are three")), submit(&json!({"n": 3}))]));
    let record = reminded.go(wanting()).await;
    assert_eq!(record.status, Status::Done, "{record:?}");
    assert_eq!(reminders(&reminded.log(&record.session).await), 1);
    let last = reminded.model.seen().pop().unwrap();
    assert!(matches!(&last[2], Message::User(text) if text.contains("submit_result")), "{last:?}");

    let deaf = rig(vec![Ok(says("there are three"))]);
    let record = deaf.go(wanting()).await;
    assert_eq!(failed(record.outcome.as_ref()), "the model stopped twice without submitting a result");
    assert_eq!((reminders(&deaf.log(&record.session).await), record.spent.turns), (1, 2));

    let tired = rig_with(FakeModel::numbered(vec![wrong("one"), Ok(says("no")), Ok(says("no"))]));
    let record = tired.go(wanting()).await;
    assert!(
        failed(record.outcome.as_ref()).contains("stopped without a result that fits; of the last one: at `/result/n`")
    );

    let refusal = Assistant { stop: StopReason::Refusal, ..says("I would rather not.") };
    let unwilling = rig(vec![Ok(refusal)]);
    let record = unwilling.go(wanting()).await;
    assert_eq!(failed(record.outcome.as_ref()), "the model refused: I would rather not.");
}

#[tokio::test]
async fn further_turns_of_the_session_end_with_a_result_too() {
    let rig = rig(vec![submit(&json!({"n": 1}))]);
    rig.submit_to("s", wanting(), Expects::New).await;
    let lease = rig.claim().await;
    rig.run(lease).await;
    let next = rig.submit_to("s", Spec::prompt("and now?"), Expects::Existing).await;
    let lease = rig.claim().await;
    rig.run(lease).await;
    let record = rig.record(&next).await;
    assert!(matches!(&record.outcome, Some(Outcome::Done { result: Some(_), .. })), "{record:?}");
    let tools = |e: &Entry| if let Body::RunStarted { tools, .. } = &e.body { Some(tools.clone()) } else { None };
    let offered: Vec<_> = rig.log(&record.session).await.iter().filter_map(tools).collect();
    assert!(
        offered.len() == 2 && offered[0] == offered[1],
        "the tools are the same for the whole session: {offered:?}"
    );
}

#[tokio::test]
async fn a_schema_that_cannot_be_kept_to_is_refused_before_the_run() {
    let rig = rig(vec![]);
    let spec = Spec { output_schema: Some(json!({"items": {"$ref": "file:///etc/passwd"}})), ..Spec::prompt("x") };
    let refused = check(&spec, &rig.deps.settings, None).unwrap_err().to_string();
    assert!(refused.starts_with("`outputSchema` has the `$ref` \"file:///etc/passwd\" at `/items/$ref`"), "{refused}");
}

/// Two wrong tries, an ending without a result, and a command, before the result that fits.
fn story() -> Rig {
    rig_with(FakeModel::numbered(vec![
        wrong("one"),
        Ok(calls(&[("bash", json!({"command": "count"})), ("submit_result", json!({"result": 7}))])),
        Ok(says("three")),
        submit(&json!({"n": 3})),
    ]))
}

/// As [`story`], with one wrong try more than there may be, in a conversation that is summarised on the way.
fn long_failure() -> Rig {
    let step = |n| Ok(calls(&[("bash", json!({"command": format!("step {n}")}))]));
    let mut steps: Vec<Said> = vec![wrong("one"), wrong("two")];
    steps.extend((0..8).map(step));
    steps.extend([wrong("three"), submit(&json!({"n": 3}))]);
    let rig = rig_with(FakeModel::numbered(steps));
    rig.model.set_room(900);
    rig
}

async fn run_until_death(rig: &Rig, fuse: &Arc<Fuse>) -> bool {
    let (deps, lease) = (rig.fused(fuse), rig.claim().await);
    let (_handle, stop) = Stop::new();
    tokio::select! {
        biased;
        () = fuse.blown() => true,
        end = run_leaf(&deps, lease, stop) => {
            assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
            false
        }
    }
}

#[tokio::test]
async fn a_leaf_that_dies_at_any_step_gets_no_further_try_and_no_second_reminder() {
    for (tell, has_summary) in [(story as fn() -> Rig, false), (long_failure, true)] {
        let (fuse, whole) = (Fuse::at(0), tell());
        let run = whole.submit(wanting()).await;
        assert!(!run_until_death(&whole, &fuse).await);
        let want = whole.record(&run).await;
        let log = whole.log(&want.session).await;
        assert_eq!(log.iter().any(|e| matches!(e.body, Body::Checkpoint { .. })), has_summary);
        if has_summary {
            assert!(failed(want.outcome.as_ref()).contains("got \"three\""), "{want:?}");
        } else {
            assert_eq!(want.status, Status::Done, "{want:?}");
        }
        for at in 1..=fuse.taken() {
            let rig = tell();
            let run = rig.submit(wanting()).await;
            assert!(run_until_death(&rig, &Fuse::at(at)).await, "step {at}");
            if !rig.record(&run).await.status.is_terminal() {
                rig.lapse();
                let lease = rig.claim().await;
                assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
            }
            let record = rig.record(&run).await;
            assert_eq!(record.outcome, want.outcome, "died at step {at} of {}", fuse.taken());
            assert_eq!(rig.hands.ran(), whole.hands.ran(), "step {at}");
            let log = rig.log(&record.session).await;
            assert_eq!(reminders(&log), usize::from(!has_summary), "step {at}");
            check_log(&log);
        }
    }
}
