//! The brain dies before and after every single step of a leaf; the resumed run has the same outcome, every command
//! ran once, and the log is sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::{Rig, check_log, review, rig, rig_with};
use torpor_core::envelope::Spec;
use torpor_core::outcome::{Finding, Outcome, Status};
use torpor_harness::{LeafEnd, Stop, run_leaf};
use torpor_testkit::crash::Fuse;
use torpor_testkit::fakes::{FakeModel, calls};

/// A leaf with everything in it: concurrent calls, a barrier, a refused call, a failing command, a verdict.
fn story() -> Rig {
    rig(vec![
        Ok(calls(&[
            ("bash", json!({"command": "one"})),
            ("bash", json!({"command": "two"})),
            ("write", json!({"path": "a", "content": "b"})),
            ("bash", json!({"command": "three"})),
        ])),
        Ok(calls(&[("no_such_tool", json!({})), ("bash", json!({"command": "fail"})), ("read", json!({"path": "a"}))])),
        Ok(calls(&[("submit_verdict", json!({"item_id": "i1", "verdict": "FLAGGED", "reason": "seen"}))])),
    ])
}

/// Runs until the fuse blows or the leaf ends; true if it died.
async fn run_until_death(rig: &Rig, fuse: &std::sync::Arc<Fuse>) -> bool {
    let deps = rig.fused(fuse);
    let lease = rig.claim().await;
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

async fn check_outcome(rig: &Rig, run: &torpor_core::RunId, at: &str) {
    let record = rig.record(run).await;
    let Some(Outcome::Done { verdict: Some(v), .. }) = &record.outcome else { panic!("{at}: {record:?}") };
    assert_eq!((v.verdict, v.reason.as_str()), (Finding::Flagged, "seen"), "{at}");
    let mut ran: Vec<String> = rig.hands.ran().iter().map(|(tool, input)| format!("{tool} {input}")).collect();
    ran.retain(|r| !r.starts_with("read")); // reading twice is no effect
    ran.sort();
    let want = [
        r#"bash {"command":"fail"}"#,
        r#"bash {"command":"one"}"#,
        r#"bash {"command":"three"}"#,
        r#"bash {"command":"two"}"#,
        r#"write {"path":"a","content":"b"}"#,
    ];
    assert_eq!(ran, want, "{at}: every effect once");
    check_log(&rig.log(&record.session).await);
}

#[tokio::test]
async fn a_leaf_that_dies_at_any_step_resumes_to_the_same_outcome() {
    let fuse = Fuse::at(0);
    let whole = story();
    let run = whole.submit(review()).await;
    assert!(!run_until_death(&whole, &fuse).await);
    check_outcome(&whole, &run, "no crash").await;
    let steps = fuse.taken();
    assert!(steps > 30, "the story has {steps} steps");

    for at in 1..=steps {
        let rig = story();
        let run = rig.submit(review()).await;
        assert!(run_until_death(&rig, &Fuse::at(at)).await, "step {at}");
        if rig.record(&run).await.status.is_terminal() {
            continue; // it died after its last append: nobody needs to resume
        }
        rig.lapse();
        let lease = rig.claim().await;
        assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
        check_outcome(&rig, &run, &format!("died at step {at} of {steps}")).await;
    }
}

/// A resumed brain needs up to a dozen steps to get one thing done that is not lost (open, intents, hands, two calls
/// at once, a result); with more than that between deaths every leaf comes to its end.
#[tokio::test]
async fn a_leaf_that_dies_again_and_again_makes_progress_and_ends() {
    for stride in [13, 14, 17, 19] {
        let rig = story();
        let run = rig.submit(review()).await;
        let mut deaths = 0;
        while run_until_death(&rig, &Fuse::at(stride)).await {
            deaths += 1;
            assert!(deaths < 100, "stride {stride}: no progress");
            if rig.record(&run).await.status.is_terminal() {
                break;
            }
            rig.lapse();
        }
        assert!(deaths > 1, "stride {stride}");
        check_outcome(&rig, &run, &format!("stride {stride}, {deaths} deaths")).await;
    }
}

#[tokio::test]
async fn a_leaf_that_dies_at_any_step_of_a_long_conversation_ends_the_same() {
    let long = || {
        let step = |n| Ok(calls(&[("bash", json!({"command": format!("step {n}")}))]));
        let rig = rig_with(FakeModel::numbered((0..12).map(step).collect()));
        rig.model.set_room(500);
        rig
    };
    let fuse = Fuse::at(0);
    let whole = long();
    let run = whole.submit(Spec::prompt("go")).await;
    assert!(!run_until_death(&whole, &fuse).await);
    let record = whole.record(&run).await;
    let checkpoints = |log: &[torpor_core::entry::Entry]| {
        log.iter().filter(|e| matches!(e.body, torpor_core::entry::Body::Checkpoint { .. })).count()
    };
    assert!(checkpoints(&whole.log(&record.session).await) > 0);

    for at in 1..=fuse.taken() {
        let rig = long();
        let run = rig.submit(Spec::prompt("go")).await;
        assert!(run_until_death(&rig, &Fuse::at(at)).await, "step {at}");
        if !rig.record(&run).await.status.is_terminal() {
            rig.lapse();
            let lease = rig.claim().await;
            assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)));
        }
        let record = rig.record(&run).await;
        assert_eq!(record.status, Status::Done, "step {at}: {record:?}");
        assert_eq!(rig.hands.ran(), whole.hands.ran(), "step {at}: the same commands, each once");
        check_log(&rig.log(&record.session).await);
    }
}
