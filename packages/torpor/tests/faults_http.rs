//! Everything a client can do wrong, against the real process, with bounds on its memory and its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::probe::{Wire, posting};
use support::{Server, World, until};
use tokio::io::AsyncWriteExt as _;

const MIB: usize = 1 << 20;

/// Health answers this quickly whatever else goes on; generous, because other tests share the machine.
const QUICK: Duration = Duration::from_secs(5);

/// A server whose patience with clients ends soon.
async fn impatient() -> (World, Server) {
    let mut world = World::new().await;
    world.env("TORPOR_CLIENT_SECONDS", "3");
    let server = world.serve().await;
    (world, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_nothing_of_it_is_kept() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let deep = [b"{\"prompt\":".to_vec(), vec![b'['; 100_000]].concat();
    let deep_objects = "{\"a\":".repeat(100_000).into_bytes();
    let cases: &[(&[u8], &str)] = &[
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"nul", "invalid_json"),
        (b"null", "envelope_invalid"),
        (b"[]", "envelope_invalid"),
        (b"[{\"prompt\":\"x\"}]", "envelope_invalid"),
        (b"\"x\"", "envelope_invalid"),
        (br#"{"prompt":7}"#, "envelope_invalid"),
        (br#"{"prompt":["x"]}"#, "envelope_invalid"),
        (br#"{"prompt":{"x":1}}"#, "envelope_invalid"),
        (br#"{"prompt":"x","sessionId":7}"#, "envelope_invalid"),
        (br#"{"prompt":"x","sessionId":{"a":1}}"#, "envelope_invalid"),
        (br#"{"prompt":"\ud800"}"#, "invalid_json"),
        (b"{\"prompt\":\"\xff\xfe\"}", "invalid_json"),
        (br#"{"prompt":"x","prompt":"y"}"#, "invalid_json"),
        (br#"{"prompt":"x","metadata":{"a":1,"a":2}}"#, "invalid_json"),
        (br#"{"prompt":"x","maxTurns":"many"}"#, "envelope_invalid"),
        (br#"{"prompt":"x","unknown":1}"#, "envelope_invalid"),
        (&deep, "invalid_json"),
        (&deep_objects, "invalid_json"),
    ];
    for (body, code) in cases {
        for path in ["/turn", "/runs", "/run-leaf"] {
            let mut wire = server.connect().await;
            wire.send(posting(path, body)).await;
            let answer = wire.answer().await.unwrap();
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(answer.problem(), (400, (*code).to_owned()), "{path} {shown}: {}", answer.json());
            assert!(answer.head.contains("x-request-id: "), "{}", answer.head);
        }
    }
    for (path, body, status, code) in [
        ("/turn", json!({"prompt": "x", "sessionId": "nobody"}), 404, "session_not_found"),
        ("/turn", json!({"prompt": " \n"}), 400, "prompt_required"),
        ("/runs", json!({"prompt": " \n"}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "async": "true"}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "sessionId": ""}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "kind": "weave"}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "maxTurns": 0}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "maxTurns": -1}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "maxTurns": 1e300}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "maxTurns": 1.5}), 400, "envelope_invalid"),
        ("/runs", json!({"prompt": "x", "model": "nowhere/at-all", "provider": "nobody"}), 400, "envelope_invalid"),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{body}: {}", answer.body);
    }
    assert_eq!(world.sqlite("select count(*) from run"), 0, "nothing was accepted");
    assert_eq!(world.model.requests(), 0);
    assert!(server.process().peak() < 100.0, "{} MiB", server.process().peak());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_reaches_nothing_but_its_own_session() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let ids =
        ["s", "s:seq", "s:log", "a/b", "a-b", "a%2Fb", "../s", "s\u{2028}", "S", "%", "s ", "'", "\"", "*", "ü", "漢"];
    let runs = join_all(ids.map(|id| {
        let (server, envelope) = (&server, json!({"prompt": format!("for {id} [[s:text]]"), "sessionId": id}));
        async move { server.post("/runs", &envelope).await.body }
    }))
    .await;
    for (id, run) in ids.iter().zip(&runs) {
        assert_eq!((run["status"].as_str(), run["sessionId"].as_str()), (Some("done"), Some(*id)), "{run}");
        let quoted: String = id.bytes().map(|b| format!("%{b:02X}")).collect();
        let log = server.get(&format!("/sessions/{quoted}/log")).await.body;
        let prompt = format!("for {id} [[s:text]]");
        assert_eq!(log["entries"][0]["prompt"], json!(prompt), "{id}: {log}");
        assert_eq!(server.get(&format!("/runs/status?sessionId={quoted}")).await.body["runId"], run["runId"]);
    }
    assert_eq!(world.sqlite("select count(*) from session"), i64::try_from(ids.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn query_strings_and_head_hide_no_route() {
    let world = World::new().await;
    let server = world.serve().await;
    let done = server.post("/turn?x=1&y", &json!({"prompt": "hi"})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let (run, session) = (done.body["runId"].as_str().unwrap(), done.body["sessionId"].as_str().unwrap());
    assert_eq!(server.post("/runs?x=1", &json!({"prompt": "hi"})).await.status, 200);
    assert_eq!(server.post(&format!("/runs/{run}/cancel?x=1"), &json!({})).await.status, 200);
    for path in [
        "/health".to_owned(),
        "/livez".to_owned(),
        "/readyz".to_owned(),
        format!("/runs/{run}"),
        format!("/runs/{run}/events"),
        "/runs/status?sessionId=".to_owned() + session,
    ] {
        let joined = if path.contains('?') { format!("{path}&x=1") } else { format!("{path}?x=1") };
        assert_eq!(server.stream(&joined).await.status().as_u16(), 200, "{joined}");
        let mut wire = server.connect().await;
        wire.send(format!("HEAD {path} HTTP/1.1\r\nhost: t\r\n\r\nGET /health HTTP/1.1\r\nhost: t\r\n\r\n")).await;
        assert_eq!(wire.answer_to_head().await.unwrap().status, 200, "HEAD {path}");
        assert_eq!(wire.answer().await.unwrap().body, b"ok", "the connection is at the next request after HEAD {path}");
    }
    // Where parameters mean something, one that means nothing is refused: a filter must not be ignored.
    for path in ["/runs?x=1".to_owned(), format!("/sessions/{session}?x=1"), format!("/sessions/{session}/log?x=1")] {
        let refused = server.get(&path).await;
        assert_eq!((refused.status, refused.body["code"].as_str()), (400, Some("request_invalid")), "{path}");
    }
}

/// Sends a body of `size` bytes, as chunks or under a length, and reads the answer.
async fn large(server: &Server, path: &str, length: Option<usize>, size: usize) -> Option<(u16, String)> {
    let mut wire = server.connect().await;
    let framing = length.map_or_else(|| "transfer-encoding: chunked".to_owned(), |n| format!("content-length: {n}"));
    wire.send(format!("POST {path} HTTP/1.1\r\nhost: t\r\n{framing}\r\n\r\n")).await;
    let mut piece = vec![b'x'; MIB];
    if length.is_none() {
        piece = [format!("{MIB:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
    }
    for _ in 0..size / MIB {
        if !wire.send(&piece).await {
            break;
        }
    }
    wire.answer().await.map(|a| a.problem())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_take_a_bounded_amount_of_memory() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let too_large = Some((413, "payload_too_large".to_owned()));
    let begun = Instant::now();
    for (length, size) in [
        (Some(100 * MIB), 100 * MIB),
        (None, 100 * MIB),
        (Some(600 * MIB), 600 * MIB),
        (None, 600 * MIB),
        (Some(600 * MIB), 0), // only claimed
    ] {
        for path in ["/turn", "/runs"] {
            let answer = large(&server, path, length, size).await;
            // A client that is still sending long after it was answered may find the connection gone.
            assert!(answer == too_large || (answer.is_none() && size > 100 * MIB), "{length:?} {size}: {answer:?}");
        }
    }
    // Fewer bytes than announced, then the end; and more, which are another request, and no good one.
    let mut wire = server.connect().await;
    wire.send("POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 1000\r\n\r\n{\"prompt\":\"x\"}").await;
    wire.0.shutdown().await.unwrap();
    assert_eq!(wire.answer().await.map_or(400, |a| a.status), 400);
    let mut wire = server.connect().await;
    wire.send(["POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n", &"[".repeat(20 * MIB)].concat()).await;
    assert_eq!(wire.answer().await.map_or(400, |a| a.status), 400);
    assert!(server.process().peak() < 64.0, "{} MiB", server.process().peak());

    // As much as is allowed, as often as is allowed, in the form that takes most memory once it is read.
    for piece in ["0,", "{},", "[],", "\"\","] {
        let body = format!("{{\"prompt\":\"x\",\"metadata\":[{}0]}}", piece.repeat(7 * MIB / piece.len()));
        let posts = (0..8).map(|_| async {
            let mut wire = server.connect().await;
            wire.send(posting("/runs", body.as_bytes())).await;
            wire.answer().await.unwrap().problem()
        });
        assert!(join_all(posts).await.iter().all(|p| *p == (400, "invalid_json".to_owned())), "{piece}");
    }
    assert!(server.process().peak() < 150.0, "{} MiB", server.process().peak());
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert_eq!(world.sqlite("select count(*) from run"), 0, "nothing was accepted");
    assert!(server.health().await < QUICK);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_are_cut_and_disturb_nobody() {
    let (_world, server) = impatient().await;
    let before = server.process().rss();
    let half = |bytes: &'static str| {
        let server = &server;
        async move {
            let mut wire = server.connect().await;
            wire.send(bytes).await;
            wire
        }
    };
    let begun = Instant::now();
    let bodies = "POST /turn HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{\"prompt\":";
    let chunks = "POST /runs HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"pr";
    let heads = "POST /turn HTTP/1.1\r\nhost: t\r\nx-half: ";
    let mut open = Vec::new();
    for bytes in [bodies, chunks, heads] {
        open.extend(join_all((0..200).map(|_| half(bytes))).await);
    }
    for _ in 0..20 {
        assert!(server.health().await < QUICK);
    }
    assert_eq!(server.post("/turn", &json!({"prompt": "hi"})).await.body["response"], json!("done"));
    assert!(server.process().rss() - before < 40.0, "{} MiB on {before}", server.process().rss());
    join_all(open.iter_mut().map(Wire::until_closed)).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    until("the connections to be gone", async || (server.process().descriptors() < 60).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_given_up() {
    let (world, server) = impatient().await;
    let large = server.post("/turn", &json!({"prompt": "x [[s:text=6000000]]"})).await.body;
    let (run, session) = (large["runId"].as_str().unwrap(), large["sessionId"].as_str().unwrap());
    server.process().forget_peak();
    let (before, open) = (server.process().rss(), server.process().descriptors());
    let paths = [format!("/runs/{run}"), format!("/sessions/{session}/log"), format!("/runs/{run}/events")];
    let mut stalled = Vec::new();
    for n in 0..12 {
        let mut wire = server.connect().await;
        wire.send(format!("GET {} HTTP/1.1\r\nhost: t\r\n\r\n", paths[n % paths.len()])).await;
        stalled.push(wire);
    }
    let begun = Instant::now();
    until("them to be served", async || (server.process().descriptors() >= open + 12).then_some(())).await;
    until("them to be cut", async || (server.process().descriptors() <= open + 2).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(server.process().peak() - before < 160.0, "{} MiB on {before}", server.process().peak());
    drop((stalled, world));
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_at_once_on_one_session_are_one_conversation() {
    let world = World::new().await;
    let server = world.serve().await;
    let session = server.post("/turn", &json!({"prompt": "turn 0 [[s:text]]"})).await.body["sessionId"].clone();
    let turns = (1..=10).map(|n| {
        let body = json!({"prompt": format!("turn {n} [[s:delay=20;text]]"), "sessionId": session});
        let server = &server;
        async move { server.post("/turn", &body).await }
    });
    assert!(join_all(turns).await.iter().all(|a| a.status == 200 && a.body["response"] == json!("done")));
    let log = server.get(&format!("/sessions/{}/log?limit=500", session.as_str().unwrap())).await.body;
    let entries = log["entries"].as_array().unwrap();
    let kinds: Vec<&str> = entries.iter().filter_map(|e| e["type"].as_str()).collect();
    let turn = ["run_started", "model_requested", "model_answered", "run_ended"];
    assert_eq!(kinds, turn.repeat(11), "one after the other, never interleaved");
    let said = |v: &Value| v["prompt"].as_str().map(str::to_owned);
    let prompts: Vec<String> = entries.iter().filter_map(said).collect();
    // What the model saw last is the whole of it, in the order of the log.
    let last = world.model.recorded().pop().unwrap().json();
    let text = |m: &Value| m["content"].as_str().or_else(|| m["content"][0]["text"].as_str()).unwrap().to_owned();
    let users = last["messages"].as_array().unwrap().iter().filter(|m| m["role"] == json!("user"));
    assert_eq!(users.map(text).collect::<Vec<_>>(), prompts);
    assert_eq!(prompts.iter().collect::<std::collections::BTreeSet<_>>().len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_changes_nothing_for_its_run() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("hold=go;{};text", support::bash("echo x >> ledger")));
    envelope["sessionId"] = json!("left");
    let mut wire = server.connect().await;
    wire.send(posting("/runs", envelope.to_string().as_bytes())).await;
    world.model.wait_for_requests(1).await;
    drop(wire);
    assert!(server.health().await < QUICK);
    world.model.release("go");
    let run = server.get("/runs/status?sessionId=left").await.body["runId"].as_str().unwrap().to_owned();
    let record = server.ended(&run).await;
    assert_eq!((record["status"].as_str(), record["attempts"].as_u64()), (Some("done"), Some(1)), "{record}");
    assert_eq!(server.post("/runs", &envelope).await.body["runId"], json!(run), "and the same post finds it");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_and_header_bombs_are_bounded() {
    let world = World::new().await;
    let server = world.serve().await;
    server.health().await;
    let before = server.process().rss();
    // Five hundred requests in one go are answered in order.
    let mut wire = server.connect().await;
    let requests: String = (0..500).map(|n| format!("GET /nope/{n} HTTP/1.1\r\nhost: t\r\n\r\n")).collect();
    wire.send(requests).await;
    for n in 0..500 {
        assert_eq!(wire.answer().await.unwrap().json()["instance"], json!(format!("/nope/{n}")));
    }
    // A bomb is cut off or refused, whatever it is made of.
    let bombs = [
        format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(MIB)),
        format!("GET /health HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(20 * MIB)),
        format!("GET /health HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(100_000)),
        format!("GET /health HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(1_000)),
        format!("{} HTTP/1.1\r\n\r\n", "G".repeat(MIB)),
        "\r\n".repeat(5 * MIB),
        "\0".repeat(MIB),
    ];
    let server = &server;
    let exploded = bombs.iter().map(|bomb| async move {
        let mut wire = server.connect().await;
        wire.send(bomb).await;
        let status = wire.answer().await.map(|a| a.status);
        assert!(matches!(status, None | Some(400 | 414 | 431)), "{:?}: {status:?}", &bomb[..40]);
    });
    join_all(exploded).await;
    let allowed = format!("GET /health HTTP/1.1\r\nhost: t\r\n{}\r\n", "x: y\r\n".repeat(90));
    let mut wire = server.connect().await;
    wire.send(allowed).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert!(server.process().peak() - before < 20.0, "{} MiB on {before}", server.process().peak());
    assert!(server.health().await < QUICK);
}
