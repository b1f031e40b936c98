//! `POST /turn`: sessions, order, failures.

use std::time::Duration;

use futures::future::join_all;
use http::Method;
use serde_json::json;
use torpor_server::{Config, router};

use crate::client::{call, get, post};
use crate::fake::Fake;

#[tokio::test]
async fn a_session_goes_from_turn_to_turn() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let first = post(&app, "/turn", &json!({"prompt": "one"})).await.json();
    let session = first["sessionId"].as_str().unwrap();
    assert_eq!(
        first,
        json!({
            "sessionId": session, "runId": fake.records()[0].run_id.as_str(), "response": "echo: one",
            "stopReason": "end_turn",
            "usage": {"input": 10, "output": 5, "cacheRead": 3, "cacheWrite": 2, "total": 20},
        })
    );
    let second = post(&app, "/turn", &json!({"prompt": "two", "sessionId": session})).await.json();
    assert_eq!((&second["response"], &second["sessionId"]), (&json!("echo: two"), &first["sessionId"]));
    assert_ne!(second["runId"], first["runId"]);
    // `null` is as if it were not there.
    let other = post(&app, "/turn", &json!({"prompt": "one", "sessionId": null})).await.json();
    assert_ne!(other["sessionId"], first["sessionId"]);
}

#[tokio::test]
async fn a_failed_turn_is_an_answer() {
    let app = router(Fake::new().app(), Config::default());
    let answer = post(&app, "/turn", &json!({"prompt": "fail"})).await;
    let body = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!((&body["response"], &body["stopReason"]), (&json!(""), &json!("error")));
    assert_eq!(body["errorMessage"], "the model kept failing");
}

#[tokio::test]
async fn ten_turns_at_once_are_ten_turns_one_after_the_other() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let session = post(&app, "/turn", &json!({"prompt": "start"})).await.json()["sessionId"].clone();
    let bodies: Vec<_> = (0..10).map(|i| json!({"prompt": format!("turn {i}"), "sessionId": session})).collect();
    let answers = join_all(bodies.iter().map(|b| post(&app, "/turn", b))).await;
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(answer.json()["response"], format!("echo: turn {i}"));
    }
    assert_eq!(fake.records().len(), 11);
}

#[tokio::test]
async fn a_turn_with_a_key_is_made_once() {
    let fake = Fake::new();
    let app = router(fake.app(), Config::default());
    let key = [("idempotency-key", "k")];
    let send = async |path: &str, body: &str| call(&app, Method::POST, path, &key, body.to_owned()).await;
    let first = send("/turn", r#"{"prompt":"hi"}"#).await;
    assert_eq!(send("/turn", r#" { "prompt" : "hi" } "#).await.body, first.body);
    send("/turn", r#"{"prompt":"ho"}"#).await.problem(409, "idempotency_conflict");
    send("/runs", r#"{"prompt":"hi"}"#).await.problem(409, "idempotency_conflict");
    assert_eq!(fake.records().len(), 1);
    // Without a key, the same words are another turn.
    let again = post(&app, "/turn", &json!({"prompt": "hi"})).await;
    assert_ne!(again.json()["sessionId"], first.json()["sessionId"]);
}

#[tokio::test]
async fn a_turn_that_outlasts_the_wait_is_answered_202() {
    let fake = Fake::new();
    let app = router(fake.app(), Config { sync_max: Duration::from_millis(20), ..Config::default() });
    let answer = post(&app, "/turn", &json!({"prompt": "wait"})).await;
    assert_eq!(answer.status, 202);
    fake.release();
    assert_eq!(get(&app, answer.header("location")).await.json()["response"], "echo: wait");
}
