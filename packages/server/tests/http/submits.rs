//! `POST /runs`: answers, keys, waiting.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use torpor_core::outcome::Status;
use torpor_server::{Config, router};

use crate::client::{call, get, post};
use crate::fake::Fake;

#[tokio::test]
async fn outcomes_in_full() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let usage = json!({"input": 10, "output": 5, "cacheRead": 3, "cacheWrite": 2, "total": 20});
    let item = json!({"item_id": "i-1", "file": "a.rs", "pattern": "unwrap"});
    let cases = [
        (
            json!({"sessionId": "a", "prompt": "hi"}),
            json!({"status": "done", "response": "echo: hi", "stopReason": "end_turn"}),
        ),
        (
            json!({"sessionId": "b", "item": item}),
            json!({"status": "done", "verdict": {"item_id": "i-1", "verdict": "FLAGGED", "reason": "seen"}}),
        ),
        (
            json!({"sessionId": "c", "prompt": "fail please"}),
            json!({"status": "failed", "reason": "model", "message": "the model kept failing"}),
        ),
    ];
    for (envelope, mut want) in cases {
        let answer = post(&app, "/runs", &envelope).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let got = answer.json();
        want["sessionId"] = envelope["sessionId"].clone();
        want["runId"] = Value::from(fake.records().last().unwrap().run_id.as_str());
        want["usage"] = usage.clone();
        assert_eq!(got, want);
    }
    assert_eq!(fake.taken.load(SeqCst), 3, "each was claimed for the local worker as it was accepted");
}

#[tokio::test]
async fn an_async_submit_is_answered_at_once_with_its_address() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    for (headers, body) in [
        (&[][..], json!({"sessionId": "a", "prompt": "wait", "async": true})),
        (&[("prefer", "respond-async")], json!({"sessionId": "b", "prompt": "wait"})),
    ] {
        let answer = call(&app, Method::POST, "/runs", headers, body.to_string()).await;
        let run = fake.records().last().unwrap().run_id.clone();
        assert_eq!(answer.status, 202);
        assert_eq!(answer.json(), json!({"status": "accepted", "sessionId": body["sessionId"], "runId": run.as_str()}));
        assert_eq!(answer.header("location"), format!("/runs/{run}"));
        assert_eq!(answer.header("preference-applied"), if headers.is_empty() { "" } else { "respond-async" });
        assert_eq!(get(&app, answer.header("location")).await.json()["status"], "queued");
    }
    assert_eq!(fake.taken.load(SeqCst), 0, "nobody waits, so nothing is claimed out of turn");
}

#[tokio::test]
async fn without_room_in_the_local_worker_the_queue_decides() {
    let fake = Fake::new();
    fake.room.store(false, SeqCst);
    let app = router(fake.app(), Config { sync_max: Duration::from_millis(20), ..Config::default() });
    let answer = post(&app, "/runs", &json!({"prompt": "hi"})).await;
    assert_eq!(answer.status, 202);
    assert_eq!(fake.records()[0].status, Status::Queued);
    assert_eq!(fake.taken.load(SeqCst), 0);
}

#[tokio::test]
async fn a_run_that_outlasts_the_wait_is_answered_202_and_goes_on() {
    let fake = Fake::new();
    let app = router(fake.app(), Config { sync_max: Duration::from_millis(20), ..Config::default() });
    let body = json!({"sessionId": "s", "prompt": "wait"});
    let answer = post(&app, "/runs", &body).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("accepted")));
    let location = answer.header("location").to_owned();
    assert_eq!(get(&app, &location).await.json()["status"], "running");
    fake.release();
    assert_eq!(get(&app, &location).await.json()["response"], "echo: wait");
    assert_eq!(post(&app, "/runs", &body).await.json()["response"], "echo: wait");
}

#[tokio::test]
async fn one_key_is_one_run_however_often_it_is_posted() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let body = json!({"sessionId": "s", "prompt": "wait for it"});
    let posts = join_all((0..20).map(|_| post(&app, "/runs", &body)));
    let release = async {
        fake.accepted(1).await;
        fake.release();
    };
    let (answers, ()) = tokio::join!(posts, release);
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    assert_eq!(fake.records().len(), 1);

    let reordered = r#"{"prompt":"wait for it","async":true,"sessionId":"s"}"#;
    let again = call(&app, Method::POST, "/runs", &[], reordered).await;
    assert_eq!((again.status, &again.body), (200, &answers[0].body), "an ended run keeps its answer");

    let other = json!({"sessionId": "s", "prompt": "something else"});
    assert!(post(&app, "/runs", &other).await.problem(409, "idempotency_conflict").contains("another body"));
}

#[tokio::test]
async fn a_header_is_the_key_where_it_is_given() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let key = [("idempotency-key", "k")];
    let send = async |headers: &[(&str, &str)], body: Value| {
        call(&app, Method::POST, "/runs", headers, body.to_string()).await
    };
    let first = send(&key, json!({"prompt": "hi"})).await;
    assert_eq!(send(&key, json!({"prompt": "hi"})).await.body, first.body);
    send(&key, json!({"prompt": "ho"})).await.problem(409, "idempotency_conflict");
    // A session id of the same spelling is another key, and another tenant's key is its own.
    assert_eq!(send(&[], json!({"sessionId": "k", "prompt": "hi"})).await.status, 200);
    assert_eq!(send(&key, json!({"tenant": "t", "prompt": "hi"})).await.status, 200);
    // With both, the session must still be new.
    send(&[("idempotency-key", "new")], json!({"sessionId": "k", "prompt": "hi"}))
        .await
        .problem(409, "idempotency_conflict");
    assert_eq!(fake.records().len(), 3);
    let sessions: std::collections::HashSet<_> = fake.records().iter().map(|r| r.session.clone()).collect();
    assert_eq!(sessions.len(), 3, "a session that nobody named gets a name of its own");
}

#[tokio::test]
async fn the_former_names_answer_the_same_and_say_that_they_are_former() {
    let app = router(Fake::new().app(), Config::default());
    let answer = post(&app, "/run-leaf", &json!({"sessionId": "s", "prompt": "hi"})).await;
    assert_eq!((answer.status, &answer.json()["response"]), (200, &json!("echo: hi")));
    let status = get(&app, "/run-leaf/status?sessionId=s").await;
    assert_eq!(status.json()["status"], "done");
    let wrong = post(&app, "/run-leaf", &json!({})).await;
    wrong.problem(400, "envelope_invalid");
    for answer in [&answer, &status, &wrong] {
        assert_eq!(answer.header("deprecation"), "@1795132800");
        assert!(answer.header("link").contains("successor-version"));
    }
    assert_eq!(get(&app, "/runs/status?sessionId=s").await.header("deprecation"), "");
}

#[tokio::test]
async fn a_store_that_is_down_is_503_and_back_is_back() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    fake.set_down(true);
    for (method, path) in [
        (Method::POST, "/runs"),
        (Method::POST, "/turn"),
        (Method::GET, "/runs"),
        (Method::GET, "/runs/run_1"),
        (Method::GET, "/runs/status?sessionId=s"),
    ] {
        let answer = call(&app, method, path, &[], r#"{"prompt":"hi"}"#).await;
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
    fake.set_down(false);
    assert_eq!(post(&app, "/turn", &json!({"prompt": "hi"})).await.status, 200);
}

#[tokio::test]
async fn a_store_that_goes_down_during_the_wait_leaves_the_way_to_the_run() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let body = json!({"prompt": "wait"});
    let (answer, ()) = tokio::join!(post(&app, "/runs", &body), async {
        fake.accepted(1).await;
        fake.set_down(true);
    });
    answer.problem(503, "unavailable");
    let run = fake.records()[0].run_id.to_string();
    assert_eq!((answer.header("location"), &answer.json()["runId"]), (&*format!("/runs/{run}"), &json!(run)));
}
