//! What `/metrics` says of real work, through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Server, World, bash, script_tool, until};
use torpor_testkit::exposition::{Exposition, read};

async fn scrape(server: &Server) -> Exposition {
    let answer = server.stream("/metrics").await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    read(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn work_is_counted_where_it_happens() {
    let world = World::new().await;
    let server = world.serve().await;
    let before = scrape(&server).await;
    assert_eq!(before.sum("torpor_runs_accepted_total", &[]), Some(0.0));
    assert_eq!(before.sum("torpor_queue_runs", &[]), Some(0.0));

    let tools =
        [bash("true"), bash("false"), script_tool("no_such_tool", &json!({})), "retry429=1".into(), "text".into()];
    let mut envelope = world.prompt(&tools.join(";"));
    envelope["sessionId"] = json!("metrics-canary-session");
    for _ in 0..2 {
        assert_eq!(server.post("/runs", &envelope).await.body["status"], "done");
    }
    let failed = server.post("/runs", &world.prompt("err=400")).await.body;
    assert_eq!(failed["reason"], "model", "{failed}");
    let later = json!({"prompt": "x", "notBefore": "2999-01-01T00:00:00Z"});
    let later = server.submit(later).await;
    let waiting = until("the queue's counts to be read again", async || {
        let page = scrape(&server).await;
        (page.sum("torpor_queue_runs", &[("state", "waiting")]) == Some(1.0)).then_some(page)
    });
    assert_eq!(waiting.await.sum("torpor_leaves", &[]), Some(0.0));
    for _ in 0..2 {
        server.post(&format!("/runs/{later}/cancel"), &json!({})).await;
    }
    server.get("/runs/run_nobody").await;
    server.get("/no/such/route").await;

    let page = scrape(&server).await;
    for (name, labels, want) in [
        ("torpor_runs_accepted_total", &[][..], 3.0),
        ("torpor_runs_ended_total", &[("status", "done")], 1.0),
        ("torpor_runs_ended_total", &[("status", "failed"), ("reason", "model")], 1.0),
        ("torpor_runs_ended_total", &[("status", "cancelled")], 1.0),
        ("torpor_run_duration_seconds_count", &[], 3.0),
        ("torpor_run_queue_wait_seconds_count", &[], 2.0),
        ("torpor_run_claims_total", &[], 2.0),
        ("torpor_run_takeovers_total", &[], 0.0),
        ("torpor_http_requests_total", &[("route", "/runs"), ("method", "POST"), ("status", "2xx")], 4.0),
        ("torpor_http_requests_total", &[("route", "/runs/{runId}"), ("status", "4xx")], 1.0),
        ("torpor_http_requests_total", &[("route", "unmatched")], 1.0),
        ("torpor_http_requests_in_flight", &[], 1.0),
        ("torpor_model_requests_total", &[("provider", "anthropic"), ("outcome", "answered")], 4.0),
        ("torpor_model_requests_total", &[("outcome", "failed")], 2.0),
        ("torpor_model_retries_total", &[], 1.0),
        ("torpor_tool_calls_total", &[("tool", "bash"), ("outcome", "finished")], 1.0),
        ("torpor_tool_calls_total", &[("tool", "bash"), ("outcome", "error")], 1.0),
        ("torpor_tool_calls_total", &[("tool", "other"), ("outcome", "refused")], 1.0),
        ("torpor_tool_call_duration_seconds_count", &[("tool", "bash")], 2.0),
        ("torpor_store_commits_total", &[("outcome", "failed")], 0.0),
    ] {
        assert_eq!(page.sum(name, labels).unwrap_or(0.0), want, "{name}{labels:?}");
    }
    for name in ["torpor_model_tokens_total", "torpor_store_commits_total", "torpor_http_connections"] {
        assert!(page.sum(name, &[]).is_some_and(|n| n > 0.0), "{name}");
    }
    let text = server.stream("/metrics").await.text().await.unwrap();
    assert!(!text.contains("canary") && !text.contains("run_nobody"), "a client's words are a label");
}

/// Counts of claims that another process had begun, and of what is there right now.
#[tokio::test]
async fn a_takeover_and_a_follower_are_seen() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt(&format!("{};hold=end", bash("touch begun; sleep 0.3")))).await;
    support::until_file(&world.file("begun")).await;
    server.kill().await;
    let server = world.serve().await;
    let follower = server.stream(&format!("/runs/{run}/events")).await;
    until("the takeover, the leaf and the follower", async || {
        let page = scrape(&server).await;
        let now = |name| page.sum(name, &[]) == Some(1.0);
        (now("torpor_run_takeovers_total") && now("torpor_leaves") && now("torpor_event_followers")).then_some(())
    })
    .await;
    world.model.release("end");
    assert_eq!(server.ended(&run).await["status"], "done");
    drop(follower);
    until("the leaf and the follower to be gone", async || {
        let page = scrape(&server).await;
        let gone = |name| page.sum(name, &[]) == Some(0.0);
        (gone("torpor_leaves") && gone("torpor_event_followers")).then_some(())
    })
    .await;
    let began = Instant::now();
    for _ in 0..20 {
        scrape(&server).await;
    }
    // Far above what it takes: a scrape that waits for anything shows.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
