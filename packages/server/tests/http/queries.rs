//! Records, lists, polling, health, request ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use torpor_server::{App, Config, router};

use crate::client::{call, get, post};
use crate::fake::{Dependency, Fake};

#[tokio::test]
async fn a_record_in_full() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let body = json!({"sessionId": "a/b", "tenant": "t", "prompt": "hi", "metadata": {"ticket": 7}});
    let run = post(&app, "/runs", &body).await.json()["runId"].clone();
    let want = json!({
        "runId": run, "sessionId": "a/b", "tenant": "t", "kind": "prompt",
        "status": "done", "response": "echo: hi", "stopReason": "end_turn",
        "createdAt": "2026-11-20T00:00:00.000Z", "startedAt": "2026-11-20T00:00:00.001Z",
        "endedAt": "2026-11-20T00:00:00.002Z", "attempts": 1, "turns": 1,
        "usage": {"input": 10, "output": 5, "cacheRead": 3, "cacheWrite": 2, "total": 20},
        "metadata": {"ticket": 7},
    });
    let mut got = get(&app, &format!("/runs/{}", run.as_str().unwrap())).await.json();
    let trace = got.as_object_mut().unwrap().shift_remove("traceId").unwrap();
    assert!(trace.as_str().is_some_and(|t| t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit())), "{trace}");
    assert_eq!(got, want);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    for i in 0..5 {
        let tenant = if i % 2 == 0 { "even" } else { "odd" };
        let prompt = if i == 4 { "fail" } else { "hi" };
        let body = json!({"sessionId": format!("s{i}"), "tenant": tenant, "prompt": prompt});
        assert_eq!(post(&app, "/runs", &body).await.status, 200);
    }
    let list = async |query: &str| {
        let body = get(&app, &format!("/runs{query}")).await.json();
        let ids: Vec<_> = body["runs"].as_array().unwrap().iter().map(|r| r["sessionId"].clone()).collect();
        (Value::from(ids), body["nextCursor"].clone())
    };
    assert_eq!(list("").await, (json!(["s4", "s3", "s2", "s1", "s0"]), Value::Null));
    assert_eq!(list("?tenant=even").await.0, json!(["s4", "s2", "s0"]));
    assert_eq!(list("?status=failed").await.0, json!(["s4"]));
    assert_eq!(list("?createdAfter=2026-11-20T00:00:00.002Z").await.0, json!(["s4", "s3"]));
    let (page, cursor) = list("?limit=2").await;
    assert_eq!(page, json!(["s4", "s3"]));
    let (page, cursor) = list(&format!("?limit=2&cursor={}", cursor.as_str().unwrap())).await;
    assert_eq!(page, json!(["s2", "s1"]));
    assert_eq!(list(&format!("?limit=2&cursor={}", cursor.as_str().unwrap())).await, (json!(["s0"]), Value::Null));

    let line = &get(&app, "/runs?limit=1&tenant=odd").await.json()["runs"][0];
    assert_eq!((&line["status"], line.get("response")), (&json!("done"), None), "a line has no words of the model");
}

#[tokio::test]
async fn polling_shows_the_latest_run_of_a_session_of_that_tenant() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let run = post(&app, "/runs", &json!({"sessionId": "a/b", "prompt": "wait", "async": true})).await.json()["runId"]
        .clone();
    assert_eq!(get(&app, "/runs/status?sessionId=a%2Fb").await.json(), json!({"status": "queued", "runId": run}));
    get(&app, "/runs/status?sessionId=b&tenant=a").await.problem(404, "run_not_found");
    get(&app, "/runs/status?sessionId=a-b").await.problem(404, "run_not_found");

    let item = json!({"sessionId": "r", "tenant": "t", "item": {"item_id": "i", "file": "f", "pattern": "p"}});
    let run = post(&app, "/runs", &item).await.json()["runId"].clone();
    let want = json!({
        "status": "done", "verdict": {"item_id": "i", "verdict": "FLAGGED", "reason": "seen"}, "runId": run,
    });
    assert_eq!(get(&app, "/runs/status?sessionId=r&tenant=t&cachebuster=1").await.json(), want);
}

#[tokio::test]
async fn readiness_names_what_is_down_and_health_asks_nobody() {
    let fake = Fake::new();
    let model = Arc::new(Dependency(AtomicBool::new(true)));
    let app = router(App { checks: vec![Arc::clone(&model) as _], ..fake.app() }, Config::default());
    let ready = get(&app, "/readyz").await;
    assert_eq!(ready.status, 200);
    let checks = json!({"store": {"ok": true, "detail": "answers"}, "model": {"ok": true, "detail": "answers"}});
    assert_eq!(ready.json(), json!({"status": "ready", "checks": checks}));

    fake.set_down(true);
    model.0.store(false, SeqCst);
    let ready = get(&app, "/readyz").await;
    assert_eq!(ready.problem(503, "unavailable"), "Not ready: store: the store does not answer; model: has no key.");
    assert_eq!(ready.json()["reasons"].as_array().unwrap().len(), 2);
    assert_eq!(ready.json()["checks"]["model"], json!({"ok": false, "detail": "has no key"}));
    for path in ["/health", "/livez"] {
        let answer = get(&app, path).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
    }
}

#[tokio::test]
async fn every_answer_carries_the_request_id() {
    let app = router(Fake::new().app(), Config::default());
    for path in ["/health", "/nope", "/turn", "/runs/run_0"] {
        let mine = call(&app, Method::GET, path, &[("x-request-id", "mine-1")], Body::empty()).await;
        assert_eq!(mine.header("x-request-id"), "mine-1", "{path}");
        let theirs = call(&app, Method::GET, path, &[("x-request-id", "not sane")], Body::empty()).await;
        assert_eq!(theirs.header("x-request-id").len(), 32, "{path}");
    }
}

/// A queue that is away does not take the other numbers with it, and is not asked by every scrape.
#[tokio::test]
async fn metrics_do_without_the_queue() {
    let fake = Fake::new();
    fake.set_down(true);
    let app = router(fake.app(), Config::default());
    let page = get(&app, "/metrics").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/plain"));
    assert_eq!(&page.body[..], b"None");
    fake.set_down(false);
    assert_eq!(&get(&app, "/metrics").await.body[..], b"None", "counts are good for a second");
    let app = router(App { metrics: None, ..fake.app() }, Config::default());
    get(&app, "/metrics").await.problem(404, "not_found");
}
