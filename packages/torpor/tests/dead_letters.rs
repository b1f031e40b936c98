//! Runs that were given up, with the real binary: listed, and driven again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::World;

/// Runs a command that must succeed; what it printed.
async fn out(world: &World, args: &[&str]) -> String {
    let done = world.run(args).await;
    assert_eq!(done.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

async fn json(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&out(world, args).await).unwrap()
}

/// A run whose brains die before they get anywhere is given up; driven again, its work is a new run of the session.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_listed_and_driven_again_once() {
    let mut world = World::new().await;
    world.env("TORPOR_MAX_ATTEMPTS", "1");
    let server = world.serve().await;
    let run = server.submit(json!({"sessionId": "s", "prompt": "go [[s:delay=60000;text]]"})).await;
    world.model.wait_for_requests(1).await;
    server.kill().await;

    let server = world.serve().await;
    let record = server.ended(&run).await;
    assert_eq!(
        (record["status"].as_str(), record["reason"].as_str()),
        (Some("failed"), Some("dead_letter")),
        "{record}"
    );
    let listed = json(&world, &["runs", "dead-letters", "--json"]).await;
    let [letter] = listed["deadLetters"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&letter["runId"], &letter["sessionId"], &letter["unread"]), (&json!(run), &json!("s"), &json!(false)));
    let shown = out(&world, &["runs", "dead-letters"]).await;
    assert!(shown.contains(&run) && shown.contains("without progress"), "{shown}");

    let again = json(&world, &["runs", "redrive", &run, "--json"]).await;
    assert_eq!((&again["redriveOf"], &again["sessionId"]), (&json!(run), &json!("s")), "{again}");
    let new = again["runId"].as_str().unwrap();
    assert_eq!(out(&world, &["runs", "redrive", &run]).await.trim(), new, "it is driven once");
    assert!(out(&world, &["runs", "dead-letters"]).await.is_empty());
    let record = server.get(&format!("/runs/{run}")).await.body;
    assert_eq!((&record["redrivenAs"], &record["reason"]), (&json!(new), &json!("dead_letter")), "{record}");
    let record = server.get(&format!("/runs/{new}")).await.body;
    assert_eq!((&record["redriveOf"], &record["sessionId"]), (&json!(run), &json!("s")), "{record}");
    server.post(&format!("/runs/{new}/cancel"), &json!({})).await;

    let refused = world.run(&["runs", "redrive", new]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(64) && said.contains("runs dead-letters"), "{said}");
    assert_eq!(server.post("/runs/run_nobody/redrive", &json!({})).await.status, 404);
}
