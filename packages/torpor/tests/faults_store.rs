//! A disk that takes no more: what cannot be stored is not acknowledged, what was stays readable, and everything goes on by
//! itself once there is room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use support::{Server, World, until};

/// From now on the process may make no file larger than this; `None` lifts the limit. The kernel refuses such writes as it
/// does on a full disk.
fn limit(server: &Server, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

async fn submit(server: &Server, n: usize) -> (u16, Value) {
    let body = json!({"prompt": format!("{n} {} [[s:text]]", "x".repeat(20_000)), "async": true});
    let answer = server.post("/runs", &body).await;
    if answer.status == 503 {
        assert_eq!(answer.body["code"], json!("unavailable"));
        assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        let said = answer.body.to_string();
        assert!(!said.contains("disk") && !said.contains("sqlite") && !said.contains("store.db"), "{said}");
    }
    (answer.status, answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_truthfully_and_gets_well_by_itself() {
    let world = World::embedded().await;
    let server = world.serve_ignoring_file_size().await;
    let begun = Instant::now();
    // A run that is under way when the disk is full, and ends when there is room again.
    let under_way = server.submit(json!({"prompt": "first [[s:hold=go]]"})).await;
    world.model.wait_for_requests(1).await;
    limit(&server, Some(1 << 20));

    let mut acknowledged = vec![under_way.clone()];
    let (mut accepted, mut refused) = (0, 0);
    while refused < 5 {
        assert!(accepted < 1_000, "the limit does not hold");
        let (status, body) = submit(&server, accepted).await;
        match status {
            202 => {
                accepted += 1;
                acknowledged.push(body["runId"].as_str().unwrap().to_owned());
            }
            503 => refused += 1,
            _ => panic!("{status}: {body}"),
        }
    }
    // The process is there, says so, and reads.
    assert_eq!(server.get("/health").await.status, 200);
    let record = server.get(&format!("/runs/{under_way}")).await;
    assert_eq!((record.status, record.body["status"].as_str()), (200, Some("running")), "{}", record.body);
    let turn = server.post("/turn", &json!({"prompt": "x".repeat(2 << 20)})).await; // what surely does not fit
    assert_eq!((turn.status, turn.body["code"].as_str()), (503, Some("unavailable")), "{}", turn.body);
    world.model.release("go");

    limit(&server, None);
    until("new work to be accepted", async || (submit(&server, 0).await.0 == 202).then_some(())).await;
    for run in &acknowledged {
        let record = server.ended(run).await;
        assert_eq!(record["status"], json!("done"), "{record}");
    }
    let stored = world.sqlite("select count(*) from run");
    assert_eq!(stored, i64::try_from(acknowledged.len() + 1).unwrap(), "what was refused is not there");
    assert!(server.process().peak() < 120.0, "{} MiB", server.process().peak());
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(!world.log().contains("panicked"), "{}", world.log());

    // And it is all there after a crash.
    server.kill().await;
    let server = world.serve().await;
    for run in &acknowledged {
        assert_eq!(server.get(&format!("/runs/{run}")).await.body["status"], json!("done"));
    }
    let check = rusqlite::Connection::open(world.data().join("store.db")).unwrap();
    let sound: String = check.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
