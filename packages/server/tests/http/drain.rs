//! Going away, in every phase of a request.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use torpor_server::Config;

use crate::client::{Served, getting, posting};

/// A drain so long that a test which waits for its end has failed.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut server = Served::start(Config { drain: LONG, ..Config::default() }).await;
    let mut kept = server.connect().await;
    kept.send(getting("/health")).await;
    assert_eq!(kept.answer().await.status, 200);
    let mut fresh = server.connect().await;
    server.stop();
    tokio::join!(kept.closed(), fresh.closed());
    server.stopped().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished() {
    let mut server = Served::start(Config { drain: LONG, ..Config::default() }).await;
    let mut wire = server.connect().await;
    wire.send(posting("/turn", &json!({"prompt": "wait"}))).await;
    server.fake.accepted(1).await;
    let address = server.address;
    server.stop();
    // Nobody new is taken.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await; // past the grace of those who are only half there
    server.fake.release();
    let answer = wire.answer().await;
    assert_eq!((answer.status, &answer.json()["response"]), (200, &json!("echo: wait")));
    wire.closed().await;
    server.stopped().await;
}

#[tokio::test]
async fn half_sent_requests_do_not_hold_it_up() {
    let config =
        Config { drain: LONG, header_timeout: LONG, body_timeout: LONG, idle_timeout: LONG, ..Config::default() };
    let mut server = Served::start(config).await;
    let mut head = server.connect().await;
    head.send("POST /turn HTTP/1.1\r\nhost").await;
    let mut body = server.connect().await;
    body.send("POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 99\r\n\r\n{\"prompt").await;
    let mut second = server.connect().await;
    second.send(getting("/health") + "GET /he").await;
    assert_eq!(second.answer().await.status, 200);
    server.stop();
    if let Some(answer) = body.answer_or_close().await {
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
    tokio::join!(head.closed(), second.closed(), body.closed());
    let fake = std::sync::Arc::clone(&server.fake);
    server.stopped().await;
    assert!(fake.records().is_empty());
}

#[tokio::test]
async fn a_client_whose_run_outlasts_the_drain_is_told_where_to_find_it() {
    let drain = Duration::from_secs(2);
    let mut server = Served::start(Config { drain, ..Config::default() }).await;
    let mut wire = server.connect().await;
    wire.send(posting("/runs", &json!({"sessionId": "s", "prompt": "wait"}))).await;
    server.fake.accepted(1).await;
    let stopped = Instant::now();
    server.stop();
    let answer = wire.answer().await;
    assert_eq!(answer.status, 202);
    let run = server.fake.records()[0].run_id.clone();
    assert_eq!(answer.header("location"), format!("/runs/{run}"));
    let waited = stopped.elapsed();
    assert!(drain / 2 <= waited && waited < drain, "it was given most of the drain, not all: {waited:?}");
    server.stopped().await;
}

#[tokio::test]
async fn a_store_that_never_answers_cannot_hold_it_past_the_drain() {
    let mut server = Served::start(Config { drain: Duration::from_millis(200), ..Config::default() }).await;
    server.fake.slow.send_replace(true);
    let mut wire = server.connect().await;
    wire.send(posting("/runs", &json!({"prompt": "hi"}))).await;
    while server.fake.slow.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    server.stop();
    assert!(wire.answer_or_close().await.is_none());
    server.stopped().await;
}

#[tokio::test]
async fn a_setting_that_makes_no_sense_stops_the_start() {
    let server = Served::start(Config { body_limit: 0, ..Config::default() }).await;
    let e = server.refused().await;
    assert_eq!(e.to_string(), "server setting `body_limit` must be at least 1 byte");
}
