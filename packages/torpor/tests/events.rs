//! Following a run over server-sent events: whole, from anywhere, across a `kill -9`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use support::{Server, World, bash, until_file};

/// An event: its id (0 for none), its name, its data.
type Event = (u64, String, Value);

/// Follows until the stream ends; `stop` ends it early.
async fn follow(server: &Server, run: &str, after: u64, mut stop: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let response = server.stream(&format!("/runs/{run}/events?after={after}")).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut text, mut events) = (String::new(), Vec::new());
    let mut pieces = response.bytes_stream();
    while let Some(Ok(piece)) = tokio::time::timeout(Duration::from_secs(30), pieces.next()).await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
        while let Some((one, rest)) = text.split_once("\n\n") {
            let field = |name: &str| one.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
            if let Some(data) = field("data:") {
                let id = field("id:").map_or(0, |id| id.parse().unwrap());
                events.push((id, field("event:").unwrap().to_owned(), serde_json::from_str(data).unwrap()));
            }
            text = rest.to_owned();
        }
        if stop(&events) {
            break;
        }
    }
    events
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().filter(|e| e.0 > 0).map(|e| e.1.as_str()).collect()
}

const WHOLE: [&str; 8] = [
    "run_started",
    "model_requested",
    "model_answered",
    "tool_requested",
    "tool_ended",
    "model_requested",
    "model_answered",
    "run_ended",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_followed_live_and_replayed_the_same_from_anywhere() {
    let world = World::new().await;
    let server = world.serve().await;
    let slow = bash("touch begun; until [ -e release ]; do sleep 0.02; done");
    let run = server.submit(world.prompt(&format!("{slow};text"))).await;
    let release = async {
        until_file(&world.file("begun")).await;
        std::fs::write(world.file("release"), "").unwrap();
    };
    let (live, ()) = tokio::join!(follow(&server, &run, 0, |_| false), release);
    assert_eq!(names(&live), WHOLE);
    let at = live.iter().position(|e| e.1 == "delta").expect("pieces of the answer");
    assert_eq!((&live[at].2["text"], &live[at].2["request"]), (&json!("done"), &json!(6)));
    assert_eq!((live[at - 1].0, live[at + 1].0), (6, 7), "between its request and the whole answer");
    let numbered = |events: &[Event]| events.iter().filter(|e| e.0 > 0).cloned().collect::<Vec<_>>();
    let replayed = follow(&server, &run, 0, |_| false).await;
    assert_eq!(replayed, numbered(&live), "the replay is the same, without the pieces");
    for (i, event) in replayed.iter().enumerate() {
        assert_eq!(follow(&server, &run, event.0, |_| false).await, replayed[i + 1..], "after {}", event.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_after_the_server_was_killed_with_no_gap_and_no_repeat() {
    let world = World::new().await;
    let server = world.serve().await;
    let slow = bash("touch begun; until [ -e release ]; do sleep 0.02; done");
    let run = server.submit(world.prompt(&format!("{slow};text"))).await;
    let before = follow(&server, &run, 0, |events| names(events).contains(&"tool_requested")).await;
    server.kill().await;
    let server = world.serve().await;
    std::fs::write(world.file("release"), "").unwrap();
    let last = before.iter().map(|e| e.0).max().unwrap();
    let after = follow(&server, &run, last, |_| false).await;
    let ids: Vec<u64> = before.iter().chain(&after).map(|e| e.0).filter(|id| *id > 0).collect();
    assert_eq!(ids, (1..=*ids.last().unwrap()).collect::<Vec<_>>());
    assert_eq!(names(&after).last(), Some(&"run_ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_is_followed_without_the_first_and_bad_requests_are_refused() {
    let world = World::new().await;
    let server = world.serve().await;
    let first = server.post("/turn", &json!({"prompt": "one"})).await.body;
    let second = server.post("/turn", &json!({"prompt": "two", "sessionId": first["sessionId"]})).await.body;
    let events = follow(&server, second["runId"].as_str().unwrap(), 0, |_| false).await;
    assert_eq!(names(&events), ["run_started", "model_requested", "model_answered", "run_ended"]);
    assert_eq!(events[0].2["prompt"], json!("two"));
    assert_eq!(server.get("/runs/run_nobody/events").await.status, 404);
    let run = first["runId"].as_str().unwrap();
    assert_eq!(server.get(&format!("/runs/{run}/events?after=soon")).await.body["code"], json!("request_invalid"));
}
