//! `kill -9` of the real server, with real hands: nothing acknowledged is lost and no command runs twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::{World, bash, until_file};
use torpor_testkit::model_server::script;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_brain_is_killed_goes_on_and_runs_once() {
    let world = World::new().await;
    let server = world.serve().await;
    let slow = bash("echo started >> ledger; until [ -e release ]; do sleep 0.02; done; echo ended >> ledger; echo 42");
    let run = server.submit(world.prompt(&format!("{slow};text"))).await;
    until_file(&world.file("ledger")).await;
    server.kill().await;

    let server = world.serve().await;
    std::fs::write(world.file("release"), "").unwrap();
    let record = server.ended(&run).await;
    assert_eq!(record["status"], json!("done"), "{record}");
    assert_eq!((world.count("ledger", "started"), world.count("ledger", "ended")), (1, 1));
    assert_eq!(world.model.requests(), 2, "the first answer was in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ends_while_no_brain_lives_keeps_its_result() {
    let world = World::new().await;
    let server = world.serve().await;
    let slow = bash("echo started > ledger; until [ -e release ]; do sleep 0.02; done; echo the-result; touch ended");
    let run = server.submit(world.prompt(&format!("{slow};tool.write={};text", write_result()))).await;
    until_file(&world.file("ledger")).await;
    server.kill().await;
    std::fs::write(world.file("release"), "").unwrap();
    until_file(&world.file("ended")).await;

    let server = world.serve().await;
    let record = server.ended(&run).await;
    assert_eq!(record["status"], json!("done"), "{record}");
    assert_eq!(world.count("written", "by the next step"), 1);
}

fn write_result() -> String {
    script::encode(&json!({"path": "written", "content": "by the next step"}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_killed_while_the_model_thinks_asks_again() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt("delay=1500;text")).await;
    world.model.wait_for_requests(1).await;
    server.kill().await;
    let server = world.serve().await;
    let record = server.ended(&run).await;
    assert_eq!((record["status"].as_str(), record["response"].as_str()), (Some("done"), Some("done")), "{record}");
    assert_eq!(record["turns"], json!(2), "the lost call counts as spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_under_load_every_accepted_run_ends_and_every_command_ran_once() {
    const RUNS: usize = 24;
    const KILLS: usize = 6;
    let mut world = World::new().await;
    // The kills may come faster than a run gets anywhere; that is no reason to give it up here.
    world.env("TORPOR_MAX_ATTEMPTS", "50");
    let mut server = world.serve().await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        let step = |k: usize| bash(&format!("echo run-{n}-step-{k}. >> ledger-{n}; sleep 0.05"));
        runs.push(server.submit(world.prompt(&format!("{};{};{};text", step(1), step(2), step(3)))).await);
    }
    for kill in 0..KILLS {
        // Between kills something must have happened, or nothing would be shown.
        let before = written(&world, RUNS);
        support::until("a command to run", async || {
            (written(&world, RUNS) > before + kill || written(&world, RUNS) == RUNS * 3).then_some(())
        })
        .await;
        server.kill().await;
        server = world.serve().await;
    }
    for run in &runs {
        let record = server.ended(run).await;
        assert_eq!(record["status"], json!("done"), "{record}");
    }
    for n in 0..RUNS {
        for k in 1..=3 {
            assert_eq!(world.count(&format!("ledger-{n}"), &format!("run-{n}-step-{k}.")), 1, "run {n} step {k}");
        }
    }
}

fn written(world: &World, runs: usize) -> usize {
    (0..runs).map(|n| world.count(&format!("ledger-{n}"), ".")).sum()
}
