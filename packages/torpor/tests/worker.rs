//! `torpor worker` on the embedded store, as a real process: it works on what is there and goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{World, bash, until_file};
use torpor_testkit::exposition::read;
use torpor_testkit::receiver::Receiver;

/// What a worker with a lease of 300 ms waits before it ends, and more than any machine needs beyond that.
const IDLE: Duration = Duration::from_millis(2_300);
const SLACK: Duration = Duration::from_secs(20);

async fn world() -> World {
    let mut world = World::embedded().await;
    world.env("TORPOR_LEASE_MS", "300");
    world
}

/// Runs that a server accepted and was killed over: it had begun the first, which waits at the model, and no other.
async fn left_behind(world: &mut World, first: Value, others: impl IntoIterator<Item = Value>) -> Vec<String> {
    world.env("TORPOR_CONCURRENCY", "1");
    let server = world.serve().await;
    let mut runs = vec![server.submit(first).await];
    world.model.wait_for_requests(1).await;
    for envelope in others {
        runs.push(server.submit(envelope).await);
    }
    server.kill().await;
    world.model.release("go");
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn it_drains_the_queue_and_ends_when_nothing_can_be_claimed() {
    let mut world = world().await;
    let held = world.prompt("hold=go");
    let work = world.prompt(&format!("{};text", bash("echo x >> ledger")));
    let mut later = world.prompt("text");
    later["notBefore"] = json!("2999-01-01T00:00:00Z");
    let mut asks = world.prompt(&format!("{};text", bash("echo never >> ledger")));
    asks["approvals"] = json!([{"tool": "bash"}]);
    let others = std::iter::repeat_n(work, 8).chain([later, asks]);
    let runs = left_behind(&mut world, held, others).await;

    let mut worker = world.worker(&["--concurrency", "3"]);
    let (code, took) = worker.exit().await;
    assert_eq!(code, Some(0), "{}", worker.log());
    assert!(took >= IDLE && took < IDLE + SLACK, "{took:?}");
    for line in ["working", "concurrency=3", "nothing is left to do", "runs=10 webhooks=0"] {
        assert!(worker.log().contains(line), "{line}: {}", worker.log());
    }
    assert_eq!((world.count("ledger", "x"), world.count("ledger", "never")), (8, 0));
    let server = world.serve().await;
    let (asks, later, done) = (&runs[10], &runs[9], &runs[..9]);
    for run in done {
        assert_eq!(server.ended(run).await["status"], "done");
    }
    assert_eq!(server.get(&format!("/runs/{later}")).await.body["status"], "queued", "what waits for its time waits");
    assert_eq!(server.get(&format!("/runs/{asks}")).await.body["status"], "paused", "as does what waits for a person");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_back_and_the_next_one_goes_on_where_it_was() {
    let mut world = world().await;
    world.env("TORPOR_DRAIN_SECONDS", "0");
    let slow = bash("echo x >> ledger; until [ -e release ]; do sleep 0.02; done");
    let work = world.prompt(&format!("{slow};text"));
    let held = world.prompt("hold=go");
    let runs = left_behind(&mut world, held, [work]).await;
    let mut first = world.worker(&["--concurrency", "4"]);
    until_file(&world.file("ledger")).await;
    let (code, took) = first.terminate().await;
    assert_eq!(code, Some(0), "{}", first.log());
    assert!(took < SLACK, "{took:?}");
    assert!(first.log().contains("stopped"), "{}", first.log());

    let mut second = world.worker(&["--concurrency", "4"]);
    second.says("working").await;
    std::fs::write(world.file("release"), "").unwrap();
    assert_eq!(second.exit().await.0, Some(0), "{}", second.log());
    assert_eq!(world.count("ledger", "x"), 1);
    let server = world.serve().await;
    for run in &runs {
        let record = server.ended(run).await;
        assert_eq!(record["status"], "done", "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_under_way_keeps_it_and_a_second_signal_does_not() {
    let mut world = world().await;
    let slow = bash("echo x >> ledger; until [ -e release ]; do sleep 0.02; done");
    let work = world.prompt(&format!("{slow};text"));
    let held = world.prompt("hold=go");
    left_behind(&mut world, held, [work]).await;
    let mut worker = world.worker(&["--concurrency", "4"]);
    until_file(&world.file("ledger")).await;
    tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
    assert!(worker.is_running(), "a run is under way: {}", worker.log());
    worker.process().signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(worker.is_running(), "it may finish what it has begun: {}", worker.log());
    assert_eq!(worker.terminate().await.0, Some(130), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn forever_stays_and_probes_are_answered_where_they_are_wanted_and_nothing_else_is() {
    let mut world = world().await;
    let held = world.prompt("hold=go");
    left_behind(&mut world, held, []).await;
    let mut silent = world.worker(&["--forever"]);
    silent.says("run ended").await;
    tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
    assert!(silent.is_running(), "{}", silent.log());
    assert_eq!(silent.process().listeners(), 0, "it binds no port");
    assert_eq!(silent.terminate().await.0, Some(0), "{}", silent.log());

    let mut probed = world.worker(&["--forever", "--probe-bind", "127.0.0.1:0"]);
    let line = probed.says("probes are answered on").await;
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
    let get = async |path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/livez").await, (200, "ok".to_owned()));
    let (status, ready) = get("/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(
        (status, &ready["checks"]["store"]["ok"], &ready["checks"]["sandbox"]["ok"]),
        (200, &json!(true), &json!(true))
    );
    let page = read(&get("/metrics").await.1).unwrap();
    assert_eq!(page.sum("torpor_queue_runs", &[]), Some(0.0));
    for path in ["/health", "/runs", "/sessions", "/gates", "/keys", "/openapi.json", "/"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    assert_eq!(probed.process().listeners(), 1);
    assert_eq!(probed.terminate().await.0, Some(0), "{}", probed.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_are_due_are_work() {
    let mut world = world().await;
    let file = world.file("secrets.toml");
    std::fs::write(&file, "[[secret]]\nname = \"b\"\nvalue = \"long enough to be a secret of theirs\"\n").unwrap();
    world.env("TORPOR_WEBHOOK_SECRETS_FILE", file.to_str().unwrap());
    world.env("TORPOR_WEBHOOK_ALLOW", "127.0.0.1");
    let receiver = Receiver::start([]).await;
    let mut held = world.prompt("hold=go");
    held["webhook"] = json!({"url": receiver.url(), "secretRef": "b"});
    let runs = left_behind(&mut world, held, []).await;
    let mut worker = world.worker(&[]);
    assert_eq!(worker.exit().await.0, Some(0), "{}", worker.log());
    assert!(worker.log().contains("runs=1 webhooks=1"), "{}", worker.log());
    let told: Value = serde_json::from_str(&receiver.got()[0].body).unwrap();
    assert_eq!((&told["type"], &told["data"]["runId"]), (&json!("run.ended"), &json!(runs[0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_to_do_where_it_cannot_work() {
    let world = world().await;
    let server = world.serve().await;
    let refused = world.run(&["worker"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(69), 1), "{said}");
    for word in [&server.pid().to_string(), "is in use", "set REDIS_URL", "torpor serve"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for (name, value, want) in [
        ("TORPOR_PROBE_BIND", "8081", "TORPOR_PROBE_BIND (environment): expected an IP address and a port"),
        ("TORPOR_SERVE_WORKER", "sync", "set REDIS_URL, or use all"),
        ("TORPOR_SERVE_WORKER", "none", "expected one of all, sync"),
    ] {
        let refused = world.command().arg("worker").env(name, value).output().await.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(said.contains(want), "{said}");
    }
    let shown = world.run(&["worker", "--print-config", "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["TORPOR_LEASE_MS"]["value"], "300");
}
