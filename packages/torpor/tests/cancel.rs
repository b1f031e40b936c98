//! Cancelling over HTTP, with real commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{World, bash, until, until_file};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_is_gone_with_everything_it_started() {
    let world = World::new().await;
    let server = world.serve().await;
    let stubborn =
        bash("trap '' TERM; (trap '' TERM; while :; do date +%s%N > beat; sleep 0.02; done) & touch begun; wait");
    let run = server.submit(world.prompt(&format!("{stubborn};text"))).await;
    until_file(&world.file("begun")).await;
    until_file(&world.file("beat")).await;
    let asked = Instant::now();
    let answer = server.post(&format!("/runs/{run}/cancel"), &json!({})).await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("cancelled")), "{}", answer.body);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let beat = || std::fs::read_to_string(world.file("beat")).unwrap_or_default();
    let last = beat();
    tokio::time::sleep(Duration::from_millis(200)).await; // ten beats, if it still lived
    assert_eq!(beat(), last, "something of the command lives on");
    let again = server.post(&format!("/runs/{run}/cancel"), &json!({})).await;
    assert_eq!((again.status, again.body["status"].as_str()), (200, Some("cancelled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_model_call_and_a_queued_turn() {
    let world = World::new().await;
    let server = world.serve().await;
    let first = server.post("/turn", &json!({"prompt": "hi"})).await.body["sessionId"].clone();
    let turn = |text: &str| json!({"prompt": text, "sessionId": first});
    let waiting = turn("x [[s:hang]]");
    let queued = turn("y [[s:text]]");
    let drive = async {
        world.model.wait_for_requests(2).await;
        let list = until("both turns to be there", async || {
            let runs = server.get("/runs").await.body["runs"].as_array().unwrap().clone();
            (runs.len() == 3).then_some(runs)
        })
        .await;
        let id = |status: &str| {
            list.iter().find(|r| r["status"] == json!(status)).unwrap()["runId"].as_str().unwrap().to_owned()
        };
        let behind = server.post(&format!("/runs/{}/cancel", id("queued")), &json!({})).await;
        assert_eq!((behind.status, behind.body["status"].as_str()), (200, Some("cancelled")));
        let running = server.post(&format!("/runs/{}/cancel", id("running")), &json!({})).await;
        assert_eq!((running.status, running.body["status"].as_str()), (200, Some("cancelled")));
    };
    let behind = async {
        world.model.wait_for_requests(2).await; // the first of the two runs
        server.post("/turn", &queued).await
    };
    let (a, b, ()) = tokio::join!(server.post("/turn", &waiting), behind, drive);
    for answer in [a, b] {
        assert_eq!((answer.status, answer.body["stopReason"].as_str()), (200, Some("aborted")), "{}", answer.body);
    }
    let unknown = server.post("/runs/run_nobody/cancel", &json!({})).await;
    assert_eq!((unknown.status, unknown.body["code"].as_str()), (404, Some("run_not_found")));
    assert_eq!(server.post("/turn", &turn("still here [[s:text]]")).await.body["response"], json!("done"));
}
