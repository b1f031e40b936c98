//! What runs cost: summed call by call at the price of that moment, and held to a limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use support::{Rig, check_log, rig, rig_with, with_budget};
use torpor_core::entry::{Body, Entry};
use torpor_core::envelope::{Budget, Spec};
use torpor_core::message::{Assistant, Usage};
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::price::{Price, Prices, Rates, Usd};
use torpor_harness::{LeafEnd, Settings, Stop, check, run_leaf};
use torpor_testkit::crash::Fuse;
use torpor_testkit::fakes::{FakeModel, Said, calls, says};

/// What a call of the fake model costs: 10 tokens in, 5 out.
const CALL: u64 = 10 * 1_000 + 5 * 10_000;

fn prices(times: u64) -> Prices {
    let rates = Rates { input: 1_000 * times, output: 10_000 * times, ..Rates::default() };
    Prices::new(BTreeMap::from([("fake/model".to_owned(), Price { rates, long: None })]), &[])
}

fn priced(mut rig: Rig, prices: Prices) -> Rig {
    rig.deps.settings = Arc::new(Settings { prices, ..(*rig.deps.settings).clone() });
    rig
}

fn bash(n: usize) -> Said {
    Ok(calls(&[("bash", json!({"command": format!("step {n}")}))]))
}

fn limited(max: u64) -> Spec {
    with_budget(Budget { max_cost: Some(Usd(max)), ..Budget::default() })
}

/// What the log says was spent: answers at what they cost, and requests that nobody heard the answer of by their estimate.
fn by_the_log(log: &[Entry]) -> u64 {
    let (mut sum, mut open) = (0, None);
    for entry in log {
        match &entry.body {
            Body::ModelRequested { cost, estimate, .. } => {
                assert_eq!(*cost, Some(Usd(estimate * 1_000)));
                sum += open.replace(estimate * 1_000).unwrap_or(0);
            }
            Body::ModelAnswered { cost, .. } => {
                open = None;
                sum += cost.map_or(0, |usd| usd.0);
            }
            _ => {}
        }
    }
    sum
}

#[tokio::test]
async fn each_call_is_charged_and_summaries_are_calls() {
    let short = priced(rig(vec![bash(0), Ok(says("done"))]), prices(1));
    let record = short.go(Spec::prompt("go")).await;
    assert_eq!((record.spent.turns, record.spent.cost()), (2, Some(Usd(2 * CALL))));
    assert_eq!(by_the_log(&short.log(&record.session).await), 2 * CALL);

    let long = priced(rig_with(FakeModel::numbered((0..12).map(bash).collect())), prices(1));
    long.model.set_room(500);
    let record = long.go(Spec::prompt("go")).await;
    let log = long.log(&record.session).await;
    assert!(log.iter().any(|e| matches!(e.body, Body::Checkpoint { .. })));
    assert_eq!(record.spent.cost(), Some(Usd(u64::from(record.spent.turns) * CALL)));

    let unknown = rig(vec![Ok(says("done"))]);
    let record = unknown.go(Spec::prompt("go")).await;
    assert_eq!((record.status, record.spent.cost(), record.spent.unpriced), (Status::Done, None, 1));
}

#[tokio::test]
async fn the_limit_is_hard_and_says_what_was_spent() {
    for (max, turns, ran, want) in [
        (2 * CALL, 2, 2, "limit of $0.00012 reached; spent: 2 model calls, 30 tokens, $0.00012"),
        (2 * CALL - 1, 2, 1, "limit of $0.000119999 reached; spent: 2 model calls, 30 tokens, $0.00012"),
        (1, 1, 0, "limit of $0.000000001 reached; spent: 1 model calls, 15 tokens, $0.00006"),
    ] {
        let rig = priced(rig((0..9).map(bash).collect()), prices(1));
        let record = rig.go(limited(max)).await;
        let Some(Outcome::Failed { reason: FailReason::Budget, message }) = &record.outcome else {
            panic!("{record:?}")
        };
        assert_eq!((message.as_str(), record.spent.turns, rig.hands.ran().len()), (want, turns, ran));
    }
    let enough = priced(rig(vec![Ok(says("done"))]), prices(1));
    assert_eq!(enough.go(limited(CALL)).await.status, Status::Done);
    let too_little = priced(rig(vec![Ok(says("done"))]), prices(1));
    assert_eq!(too_little.go(limited(CALL - 1)).await.status, Status::Failed, "an answer that cost too much is none");
}

#[tokio::test]
async fn a_limit_that_nobody_could_keep_is_refused_or_ends_the_run() {
    let mut unknown = rig(vec![]);
    let refused = check(&limited(5), &unknown.deps.settings, None).unwrap_err().to_string();
    assert!(refused.starts_with("`budget.maxCostUsd` cannot be kept: no price is known for fake/model"), "{refused}");
    assert!(refused.contains("TORPOR_MODEL_PRICES=fake/model=input/output/cacheRead/cacheWrite"), "{refused}");
    let mut settings = (*unknown.deps.settings).clone();
    settings.limits.cost = Some(Usd(5));
    assert!(check(&Spec::prompt("x"), &settings, None).is_err(), "also where the limit is the operator's");
    unknown.deps.settings = Arc::new(settings);
    let record = unknown.go(Spec::prompt("x")).await;
    assert!(matches!(record.outcome, Some(Outcome::Failed { reason: FailReason::BadInputs, .. })), "{record:?}");

    let uncounted = |said: Assistant| Ok(Assistant { usage: Usage::default(), ..said });
    let step = calls(&[("bash", json!({"command": "x"}))]);
    let silent = priced(rig(vec![uncounted(step), Ok(says("done"))]), prices(1));
    let record = silent.go(limited(CALL)).await;
    let Some(Outcome::Failed { reason: FailReason::Budget, message }) = &record.outcome else { panic!("{record:?}") };
    assert!(message.contains("cannot be kept: nobody can say what 1 of its model calls cost"), "{message}");
}

#[tokio::test]
async fn a_leaf_that_dies_at_any_step_pays_for_what_was_lost_and_keeps_the_old_price() {
    let story = || priced(rig(vec![bash(0), bash(1), Ok(says("done"))]), prices(1));
    let (fuse, whole) = (Fuse::at(0), story());
    let run = whole.submit(Spec::prompt("go")).await;
    let lease = whole.claim().await;
    let (_handle, stop) = Stop::new();
    assert!(matches!(run_leaf(&whole.fused(&fuse), lease, stop).await, LeafEnd::Ended(_)));
    assert_eq!(whole.record(&run).await.spent.cost(), Some(Usd(3 * CALL)));
    let mut lost = 0;
    for at in 1..=fuse.taken() {
        let mut rig = story();
        let run = rig.submit(Spec::prompt("go")).await;
        let (lease, fuse) = (rig.claim().await, Fuse::at(at));
        let deps = rig.fused(&fuse);
        let (_handle, stop) = Stop::new();
        tokio::select! {
            biased;
            () = fuse.blown() => {}
            end = run_leaf(&deps, lease, stop) => panic!("step {at}: {end:?}"),
        }
        if rig.record(&run).await.status.is_terminal() {
            continue;
        }
        rig.lapse();
        let session = rig.record(&run).await.session;
        let log = rig.log(&session).await;
        let before = log.iter().filter(|e| matches!(e.body, Body::ModelAnswered { .. })).count() as u64;
        let estimate =
            |e: &Entry| if let Body::ModelRequested { estimate, .. } = e.body { Some(estimate) } else { None };
        let asked: Vec<u64> = log.iter().filter_map(estimate).collect();
        let cut_off = asked.get(before as usize).map_or(0, |tokens| tokens * 1_000);
        lost += cut_off;
        // A price that changes meanwhile holds for what comes, not for what was.
        rig = priced(rig, prices(10));
        let lease = rig.claim().await;
        assert!(matches!(rig.run(lease).await, LeafEnd::Ended(_)), "step {at}");
        let record = rig.record(&run).await;
        let want = before * CALL + cut_off + (3 - before) * 10 * CALL;
        assert_eq!(record.spent.cost(), Some(Usd(want)), "died at step {at}: {record:?}");
        check_log(&rig.log(&session).await);
    }
    assert!(lost > 0, "no request was ever lost");
}
