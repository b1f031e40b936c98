//! What only a socket can show: framing, limits of time and number, clients that leave.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use torpor_core::outcome::Status;
use torpor_server::Config;

use crate::client::{Served, getting, posting};

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = Served::start(Config::default()).await;
    let mut wire = server.connect().await;
    for i in 0..3 {
        wire.send(posting("/turn", &json!({"prompt": format!("{i}")}))).await;
        assert_eq!(wire.answer().await.json()["response"], format!("echo: {i}"));
        wire.send(getting("/nope?x=1")).await;
        wire.answer().await.problem(404, "not_found");
    }
    // Two at once on one connection are answered in order.
    wire.send(getting("/health") + &getting("/livez?x=1")).await;
    assert_eq!(wire.answer().await.body, b"ok");
    assert_eq!(wire.answer().await.body, b"ok");
    // A refused method leaves the connection usable.
    wire.send("HEAD /health HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let mut head = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut wire.0, &mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body() {
    let server = Served::start(Config::default()).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut wire = server.connect().await;
        wire.send(format!("POST /runs HTTP/1.1\r\nhost: t\r\ncontent-length: 629145600\r\n{expect}\r\n")).await;
        let answer = wire.answer().await;
        answer.problem(413, "payload_too_large");
        assert_eq!(answer.header("connection"), "close");
    }
    assert_eq!(server.ask(&getting("/health")).await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_100_megabytes_first_still_reads_its_refusal() {
    let server = Served::start(Config::default()).await;
    let mut wire = server.connect().await;
    wire.send("POST /turn HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10_0000, b'x');
    chunk.extend_from_slice(b"\r\n");
    for _ in 0..100 {
        wire.send(&chunk).await;
    }
    wire.send("0\r\n\r\n").await;
    wire.answer().await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn chunked_bodies_and_bodies_in_pieces_are_whole_bodies() {
    let server = Served::start(Config::default()).await;
    let mut wire = server.connect().await;
    wire.send("POST /turn HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for piece in ["{\"prompt\"", ":\"in ", "pieces\"}"] {
        wire.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        tokio::task::yield_now().await;
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.answer().await.json()["response"], "echo: in pieces");
    wire.send("POST /turn HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n").await;
    if let Some(answer) = wire.answer_or_close().await {
        answer.problem(400, "request_invalid");
    }
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_timed_out() {
    let server = Served::start(Config { body_timeout: SOON, ..Config::default() }).await;
    let mut wire = server.connect().await;
    wire.send("POST /runs HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{\"prompt\":").await;
    wire.answer().await.problem(408, "request_timeout");
    wire.0.shutdown().await.unwrap();
    wire.closed().await;
    assert!(server.fake.records().is_empty());
}

#[tokio::test]
async fn large_bodies_take_turns_and_small_ones_do_not() {
    let config = Config { large_bodies: 1, body_timeout: SOON * 10, ..Config::default() };
    let server = Served::start(config).await;
    let large = posting("/turn", &json!({"prompt": "x".repeat(500_000)}));
    let (start, end) = large.split_at(400_000);
    // One that stops half way has the only turn until its time is over; the next one gets it then, or is told.
    let mut first = server.connect().await;
    first.send(start).await;
    let mut second = server.connect().await;
    second.send(start).await;
    assert_eq!(server.ask(&posting("/turn", &json!({"prompt": "small"}))).await.status, 200);
    let (a, b) = tokio::join!(first.answer(), second.answer());
    let mut answers = [a.status, b.status];
    answers.sort_unstable();
    assert!(matches!(answers, [408, 408 | 503]), "{answers:?}");
    let mut third = server.connect().await;
    third.send(start).await;
    third.send(end).await;
    assert_eq!(third.answer().await.status, 200, "the turn was given back");
}

#[tokio::test]
async fn a_head_that_does_not_end_and_a_connection_that_says_nothing_are_cut() {
    let config = Config { header_timeout: SOON, idle_timeout: SOON, ..Config::default() };
    let server = Served::start(config).await;
    let mut slow = server.connect().await;
    slow.send("GET /health HTTP/1.1\r\nhost:").await;
    let mut silent = server.connect().await;
    let mut kept = server.connect().await;
    kept.send(getting("/health")).await;
    assert_eq!(kept.answer().await.status, 200);
    tokio::join!(slow.closed(), silent.closed(), kept.closed());
}

#[tokio::test]
async fn a_request_longer_than_every_limit_of_time_is_served() {
    let config = Config {
        header_timeout: SOON,
        idle_timeout: SOON,
        body_timeout: SOON,
        write_timeout: SOON,
        ..Config::default()
    };
    let server = Served::start(config).await;
    let mut wire = server.connect().await;
    wire.send(posting("/turn", &json!({"prompt": "wait"}))).await;
    server.fake.accepted(1).await;
    tokio::time::sleep(SOON * 4).await; // the limits have all passed by now
    server.fake.release();
    assert_eq!(wire.answer().await.json()["response"], "echo: wait");
}

#[tokio::test]
async fn an_answer_that_lasts_longer_than_every_limit_of_time_is_not_cut() {
    let config = Config { header_timeout: SOON, idle_timeout: SOON, write_timeout: SOON, ..Config::default() };
    let server = Served::start(config).await;
    let mut wire = server.connect().await;
    wire.send(posting("/runs", &json!({"prompt": "wait", "async": true}))).await;
    let run = wire.answer().await.json()["runId"].as_str().unwrap().to_owned();
    wire.send(format!("GET /runs/{run}/events HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")).await;
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(wire.0.read_u8().await.unwrap());
    }
    // The limits have all passed by then, and the client has sent nothing.
    let more = tokio::time::timeout(SOON * 6, wire.0.read_u8()).await;
    assert!(more.is_err(), "the answer was ended: {more:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let config = Config { write_timeout: SOON, header_timeout: SOON, max_connections: 1, ..Config::default() };
    let server = Served::start(config).await;
    let mut wire = server.connect().await;
    // More than both kernels' buffers hold.
    let prompt = "x".repeat(7_000_000);
    wire.send(posting("/turn", &json!({"prompt": prompt}))).await;
    server.fake.accepted(1).await;
    server.free_place().await;
    assert!(wire.answer_or_close().await.is_none(), "the answer should have been cut");
}

#[tokio::test]
async fn two_hundred_half_sent_requests_leave_health_and_work_alone() {
    let server = Served::start(Config::default()).await;
    let mut held = Vec::new();
    for i in 0..200 {
        let mut wire = server.connect().await;
        let half = ["POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n{", "GET /heal", ""][i % 3];
        wire.send(half).await;
        held.push(wire);
    }
    assert_eq!(server.ask(&getting("/health")).await.body, b"ok");
    assert_eq!(server.ask(&posting("/turn", &json!({"prompt": "hi"}))).await.status, 200);
}

#[tokio::test]
async fn a_connection_over_the_cap_is_told_so_and_finds_a_place_later() {
    let server = Served::start(Config { max_connections: 2, ..Config::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut wire = server.connect().await;
        wire.send(getting("/health")).await;
        assert_eq!(wire.answer().await.status, 200);
        held.push(wire);
    }
    let refused = server.ask(&getting("/health")).await;
    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    drop(held);
    server.free_place().await;
}

#[tokio::test]
async fn a_client_that_leaves_changes_nothing_for_its_run() {
    let server = Served::start(Config::default()).await;
    // During the wait.
    let mut wire = server.connect().await;
    wire.send(posting("/runs", &json!({"sessionId": "a", "prompt": "wait"}))).await;
    server.fake.accepted(1).await;
    drop(wire);
    // While the store is about to accept: it is accepted and handed over all the same.
    server.fake.slow.send_replace(true);
    let mut wire = server.connect().await;
    wire.send(posting("/runs", &json!({"sessionId": "b", "prompt": "hi"}))).await;
    while server.fake.slow.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    drop(wire);
    tokio::time::sleep(SOON).await; // so that the server learns of it first, as it would
    server.fake.slow.send_replace(false);
    server.fake.accepted(2).await;
    server.fake.release();
    for (body, words) in [("wait", "echo: wait"), ("hi", "echo: hi")] {
        let session = if body == "hi" { "b" } else { "a" };
        let again = server.ask(&posting("/runs", &json!({"sessionId": session, "prompt": body}))).await;
        assert_eq!((again.status, &again.json()["response"]), (200, &json!(words)));
    }
    assert!(server.fake.records().iter().all(|r| r.status == Status::Done));
    assert_eq!(server.fake.records().len(), 2);
}

#[tokio::test]
async fn many_clients_at_once_each_get_their_own_answer() {
    let server = Served::start(Config::default()).await;
    let ask = async |i: usize| {
        let answer = server.ask(&posting("/turn", &json!({"prompt": format!("p{i}")}))).await;
        assert_eq!(answer.json()["response"], format!("echo: p{i}"));
    };
    join_all((0..64).map(ask)).await;
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_harms_nobody() {
    let server = Served::start(Config::default()).await;
    for junk in ["\r\n\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\u{16}\u{3}\u{1}", &"A".repeat(200_000)] {
        let mut wire = server.connect().await;
        let _ = wire.0.write_all(junk.as_bytes()).await; // it may be cut on the way
        let _ = wire.0.shutdown().await;
        wire.closed().await;
    }
    assert_eq!(server.ask(&getting("/health")).await.status, 200);
}
