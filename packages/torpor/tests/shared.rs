//! One server and several workers over one Redis, as real processes: any of them may die, and any of them goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::follow::Follower;
use support::work::Worker;
use support::{Server, World, bash, until, until_file};

/// What is promised of a takeover, and of the end of what was cancelled.
const TAKEOVER: Duration = Duration::from_secs(5);
const CANCELLED: Duration = Duration::from_secs(2);

/// Says that it began, waits until it may end, says that it ended.
fn slow() -> String {
    bash("echo began >> ledger; until [ -e release ]; do sleep 0.02; done; echo over >> ledger")
}

/// A server that leaves what nobody waits for to workers.
async fn front(world: &mut World) -> Server {
    world.env("TORPOR_SERVE_WORKER", "sync");
    world.env("TORPOR_LOG", "info,torpor_worker=debug");
    world.serve().await
}

/// Waits until one of the workers works on something; that one, and the others.
async fn at_work(mut workers: Vec<Worker>) -> (Worker, Vec<Worker>) {
    let at = until("a worker at work", async || workers.iter().position(|w| w.log().contains("took a run"))).await;
    let at_it = workers.remove(at);
    (at_it, workers)
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_queue_and_go_when_it_is_empty() {
    let Some((mut world, _)) = World::shared().await else { return };
    world.env("TORPOR_LEASE_MS", "1000");
    let server = front(&mut world).await;
    let envelope = world.prompt(&format!("{};text", bash("echo x >> ledger")));
    let runs = join_all((0..40).map(|_| server.submit(envelope.clone()))).await;
    for run in &runs {
        let record = server.get(&format!("/runs/{run}")).await.body;
        assert_eq!(record["status"], "queued", "the server claims nothing that nobody waits for: {record}");
    }
    let mut workers = [(); 3].map(|()| world.worker(&["--concurrency", "2"]));
    for run in &runs {
        let record = server.ended(run).await;
        assert_eq!((&record["status"], &record["attempts"]), (&json!("done"), &json!(1)), "{record}");
    }
    assert_eq!(world.count("ledger", "x"), 40);
    let mut worked = Vec::new();
    for worker in &mut workers {
        assert_eq!(worker.exit().await.0, Some(0), "{}", worker.log());
        let log = worker.log();
        let runs = log.split("runs=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        worked.push(runs.unwrap_or_else(|| panic!("{log}")));
    }
    assert_eq!(worked.iter().sum::<u32>(), 40, "{worked:?}");
    assert!(worked.iter().filter(|n| **n > 0).count() > 1, "{worked:?}");
    // A run that somebody waits for is the server's own.
    assert_eq!(server.post("/runs", &world.prompt("text")).await.body["status"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_in_a_command_is_taken_over_and_the_command_ran_once() {
    let Some((mut world, _)) = World::shared().await else { return };
    let server = front(&mut world).await;
    let run = server.submit(world.prompt(&format!("{};text", slow()))).await;
    let (victim, others) = at_work(vec![world.worker(&["--forever"]), world.worker(&["--forever"])]).await;
    until_file(&world.file("ledger")).await;
    victim.kill().await;
    let died = Instant::now();
    std::fs::write(world.file("release"), "").unwrap();
    let record = server.ended(&run).await;
    assert!(died.elapsed() <= TAKEOVER, "{:?}: {}", died.elapsed(), others[0].log());
    assert_eq!(record["status"], "done", "{record}");
    assert_eq!((world.count("ledger", "began"), world.count("ledger", "over")), (1, 1));
    assert_eq!(world.model.requests(), 2, "the first answer was in the log");
    assert!(others[0].log().contains("took a run"), "{}", others[0].log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_hands_its_leaves_over_at_once() {
    let Some((mut world, _)) = World::shared().await else { return };
    world.env("TORPOR_DRAIN_SECONDS", "0");
    world.env("TORPOR_LEASE_MS", "60000"); // what is not handed over would wait for a minute
    let server = front(&mut world).await;
    let mut first = world.worker(&["--concurrency", "4"]);
    let runs = join_all((0..4).map(|_| server.submit(world.prompt(&format!("{};text", slow()))))).await;
    until("all commands", async || (world.count("ledger", "began") == 4).then_some(())).await;
    assert_eq!(first.terminate().await.0, Some(0), "{}", first.log());
    let second = world.worker(&["--forever"]);
    std::fs::write(world.file("release"), "").unwrap();
    for run in &runs {
        let record = server.ended(run).await;
        assert_eq!(record["status"], "done", "{record}");
    }
    assert_eq!((world.count("ledger", "began"), world.count("ledger", "over")), (4, 4), "{}", second.log());
}

/// Workers come and go in the middle of everything; each run is worked on once, and none waits for a lease.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_stopped_under_load_take_nothing_along() {
    let Some((mut world, _)) = World::shared().await else { return };
    world.env("TORPOR_LEASE_MS", "60000");
    let server = front(&mut world).await;
    let envelope = world.prompt("text");
    let runs = join_all((0..300).map(|_| server.submit(envelope.clone()))).await;
    let enough = async |n: u64| until("model calls", async || (world.model.requests() >= n).then_some(())).await;
    for n in 1..=3 {
        let mut worker = world.worker(&["--concurrency", "3", "--forever"]);
        enough(60 * n).await;
        assert_eq!(worker.terminate().await.0, Some(0), "{}", worker.log());
    }
    let last = world.worker(&["--forever"]);
    for run in &runs {
        let record = server.ended(run).await;
        assert_eq!((&record["status"], &record["turns"]), (&json!("done"), &json!(1)), "{record} {}", last.log());
    }
    assert_eq!(world.model.requests(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_in_one_worker_goes_on_in_another_when_the_server_is_told() {
    let Some((mut world, _)) = World::shared().await else { return };
    world.env("TORPOR_LEASE_MS", "300");
    let server = front(&mut world).await;
    let mut asks = world.prompt(&format!("{};text", bash("echo x >> ledger")));
    asks["approvals"] = json!([{"tool": "bash"}]);
    let run = server.submit(asks).await;
    let mut first = world.worker(&[]);
    assert_eq!(first.exit().await.0, Some(0), "a run that waits for a person keeps nobody: {}", first.log());
    let record = server.get(&format!("/runs/{run}")).await.body;
    assert_eq!((&record["status"], world.count("ledger", "x")), (&json!("paused"), 0), "{record}");
    let other = world.serve().await;
    let approved = other.post(&format!("/runs/{run}/approve"), &json!({})).await;
    assert_eq!(approved.status, 200, "{}", approved.body);
    let mut second = world.worker(&[]);
    assert_eq!(server.ended(&run).await["status"], "done");
    assert_eq!((world.count("ledger", "x"), world.model.requests()), (1, 2));
    assert_eq!(second.exit().await.0, Some(0), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_any_server_reaches_a_run_in_any_worker() {
    let Some((mut world, _)) = World::shared().await else { return };
    let servers = [front(&mut world).await, world.serve().await];
    let _workers = [(); 2].map(|()| world.worker(&["--forever"]));
    for (n, server) in servers.iter().enumerate() {
        let (begun, beat) = (format!("begun-{n}"), format!("beat-{n}"));
        let stubborn = bash(&format!(
            "trap '' TERM; (trap '' TERM; while :; do date +%s%N > {beat}; sleep 0.02; done) & touch {begun}; wait"
        ));
        let run = servers[0].submit(world.prompt(&format!("{stubborn};text"))).await;
        until_file(&world.file(&begun)).await;
        until_file(&world.file(&beat)).await;
        let asked = Instant::now();
        let answer = server.post(&format!("/runs/{run}/cancel"), &json!({})).await;
        assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("cancelled")), "{}", answer.body);
        assert!(asked.elapsed() <= CANCELLED, "{:?}", asked.elapsed());
        let last = std::fs::read_to_string(world.file(&beat)).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await; // ten beats, if it still lived
        assert_eq!(std::fs::read_to_string(world.file(&beat)).unwrap(), last, "something of the command lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_runs_in_workers() {
    let Some((mut world, _)) = World::shared().await else { return };
    let server = front(&mut world).await;
    let _workers = [(); 2].map(|()| world.worker(&["--forever"]));
    let run = server.submit(world.prompt(&format!("{};text", slow()))).await;
    until_file(&world.file("ledger")).await;
    let say = async |text: &str, mode: &str| {
        let message = json!({"prompt": format!("{text} [[s:text]]"), "mode": mode});
        let answer = server.post(&format!("/runs/{run}/messages"), &message).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["runId"].as_str().unwrap().to_owned()
    };
    let queued = say("later", "queue").await;
    let record = server.get(&format!("/runs/{queued}")).await.body;
    assert_eq!(record["status"], "queued", "it waits for its turn: {record}");
    let now = say("at once", "interrupt").await;
    let statuses = [server.ended(&run).await, server.ended(&now).await, server.ended(&queued).await];
    let statuses = statuses.map(|record| record["status"].as_str().unwrap().to_owned());
    assert_eq!(statuses, ["cancelled", "done", "done"]);
    assert_eq!(world.count("ledger", "over"), 0, "the command was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_at_any_server_see_a_run_in_a_worker_piece_by_piece() {
    let Some((mut world, _)) = World::shared().await else { return };
    let servers = [front(&mut world).await, world.serve().await];
    let run = servers[0].submit(world.prompt("drip=60x25")).await;
    let mut followers = [Follower::new(&servers[0], &run, 0).await, Follower::new(&servers[1], &run, 0).await];
    let worker = world.worker(&["--forever"]);
    let watched = followers.iter_mut().map(|follower| async move {
        let mut pieces = 0;
        while follower.until_event().await {
            pieces += u32::from(follower.last == "delta");
        }
        (pieces, follower.ended, follower.last.clone(), follower.ids.clone())
    });
    for (pieces, ended, last, ids) in join_all(watched).await {
        assert!(pieces > 10, "{pieces} pieces: {}", worker.log());
        assert_eq!((ended, last.as_str(), ids), (true, "run_ended", (1..=4).collect::<Vec<u64>>()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_one_to_their_clients() {
    let Some((world, _)) = World::shared().await else { return };
    let servers = [world.serve().await, world.serve().await];
    let mut envelope = world.prompt(&format!("{};text", bash("echo x >> ledger")));
    envelope["sessionId"] = json!("one");
    let posts = (0..20).map(|n| servers[n % 2].post("/runs", &envelope));
    let answers = join_all(posts).await;
    let first = &answers[0].body;
    assert!(answers.iter().all(|a| a.status == 200 && a.body == *first && a.body["status"] == "done"), "{first}");
    assert_eq!(world.count("ledger", "x"), 1);
    let turns = (0..10).map(|n| {
        let turn = json!({"prompt": format!("turn {n} [[s:text]]"), "sessionId": "one"});
        let server = &servers[n % 2];
        async move { server.post("/turn", &turn).await.body }
    });
    assert!(join_all(turns).await.iter().all(|t| t["stopReason"] == "end_turn"));
    let log = servers[1].get("/sessions/one/log?limit=200").await.body;
    let kinds: Vec<&str> = log["entries"].as_array().unwrap().iter().filter_map(|e| e["type"].as_str()).collect();
    let turns = kinds.iter().filter(|k| **k == "run_started").count();
    assert_eq!(turns, 11, "{kinds:?}");
    let mut open = 0;
    for kind in kinds {
        open += i32::from(kind == "run_started") - i32::from(kind == "run_ended");
        assert!((0..=1).contains(&open), "turns are interleaved");
    }
    // A key that is made at one is asked for at the other.
    assert!(world.run(&["keys", "create", "ci", "--tenant", "acme"]).await.status.success());
    for server in &servers {
        until("the key to be asked for", async || (server.get("/runs").await.status == 401).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_server_is_killed_finds_its_run_at_another() {
    let Some((mut world, _)) = World::shared().await else { return };
    let dying = front(&mut world).await;
    let other = world.serve().await;
    let _worker = world.worker(&["--forever"]);
    let mut envelope = world.prompt(&format!("{};text", slow()));
    envelope["sessionId"] = json!("mine");
    let mut caller = dying.connect().await;
    caller.send(support::probe::posting("/runs", envelope.to_string().as_bytes())).await;
    until_file(&world.file("ledger")).await;
    dying.kill().await;
    let died = Instant::now();
    assert!(caller.answer().await.is_none(), "a clean end");
    std::fs::write(world.file("release"), "").unwrap();
    let again = other.post("/runs", &envelope).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("done")), "{}", again.body);
    assert!(died.elapsed() <= TAKEOVER, "{:?}", died.elapsed());
    assert_eq!((world.count("ledger", "began"), world.count("ledger", "over")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_is_waited_for_and_is_no_idleness() {
    let Some((mut world, mut redis)) = World::with_redis().await else { return };
    world.env("TORPOR_LEASE_MS", "300");
    let server = front(&mut world).await;
    let run = server.submit(world.prompt(&format!("{};text", slow()))).await;
    let mut worker = world.worker(&[]);
    until_file(&world.file("ledger")).await;
    redis.kill();
    let gone = server.get(&format!("/runs/{run}")).await;
    assert_eq!((gone.status, &gone.body["code"]), (503, &json!("unavailable")), "{}", gone.body);
    assert!(gone.headers.contains_key("retry-after"));
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/health").await.status, 200);
    std::fs::write(world.file("release"), "").unwrap();
    // Longer than it waits with nothing to do.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(worker.is_running(), "{}", worker.log());
    redis.launch();
    let record = until("the run to end", async || {
        let answer = server.get(&format!("/runs/{run}")).await;
        (answer.body["status"] == "done").then_some(answer.body)
    });
    record.await;
    assert_eq!((world.count("ledger", "began"), world.count("ledger", "over")), (1, 1), "{}", worker.log());
    assert_eq!(worker.exit().await.0, Some(0), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_start_is_waited_for_and_not_for_ever() {
    let Some((mut world, mut redis)) = World::with_redis().await else { return };
    redis.kill();
    world.env("TORPOR_LEASE_MS", "300");
    let mut late = world.worker(&["--forever"]);
    late.says("the store does not answer; trying on").await;
    // A command that somebody waits for does not wait, and says where it looked without the password.
    let url = redis.url().replace("//", "//:hunter2@");
    let keys = world.command().args(["keys", "list"]).env("REDIS_URL", &url).output().await.unwrap();
    let said = String::from_utf8_lossy(&keys.stderr).into_owned();
    assert_eq!((keys.status.code(), said.lines().count()), (Some(69), 1), "{said}");
    assert!(said.contains("REDIS_URL (127.0.0.1:") && !said.contains("hunter2"), "{said}");
    redis.launch();
    late.says("working").await;
    assert_eq!(late.terminate().await.0, Some(0));

    redis.kill();
    let mut waiting = world.worker(&["--forever"]);
    waiting.says("trying on").await;
    assert_eq!(waiting.terminate().await.0, Some(0), "it can be stopped while it waits");
    let mut given_up = world.worker(&[]);
    let (code, took) = given_up.exit().await;
    assert_eq!(code, Some(69), "{}", given_up.log());
    assert!(took > Duration::from_secs(15), "{took:?}");
    let log = given_up.log();
    assert!(log.lines().last().unwrap().starts_with("torpor: REDIS_URL (127.0.0.1:"), "{log}");
    let local = world.run(&["run", "hello"]).await;
    assert_eq!(local.status.code(), Some(64), "{}", String::from_utf8_lossy(&local.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_the_password() {
    let Some(mut redis) = torpor_testkit::redis::Server::with(&["--requirepass", "hunter2"]) else { return };
    let mut world = World::embedded().await;
    world.env("REDIS_URL", &redis.url().replace("//", "//:hunter2@"));
    world.env("TORPOR_LOG", "debug");
    let server = world.serve().await;
    let mut worker = world.worker(&["--forever"]);
    worker.says("working").await;
    let envelope = world.prompt(&format!("{};text", bash("env > seen; cat /proc/*/environ >> seen 2>&1; true")));
    let mut said = server.post("/runs", &envelope).await.body.to_string();
    let show = async |args: &[&str]| {
        let shown = world.run(args).await;
        format!("{} {}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr))
    };
    said += &show(&["doctor"]).await;
    said += &show(&["worker", "--print-config"]).await;
    said += &show(&["serve", "--print-config", "--json"]).await;
    assert!(said.contains(&format!("127.0.0.1:{}", redis.port())), "where it leads is shown: {said}");
    redis.kill();
    said += &server.get("/readyz").await.body.to_string();
    said += &server.get("/runs").await.body.to_string();
    said += &show(&["keys", "list"]).await;
    let wrong = world.command().args(["keys", "list"]).env("TORPOR_DATA_DIR", world.file("other")).output();
    said += &String::from_utf8_lossy(&wrong.await.unwrap().stderr);
    redis.launch();
    let wrong =
        world.command().arg("worker").env("REDIS_URL", redis.url().replace("//", "//:hunter2hunter2@")).output();
    let wrong = wrong.await.unwrap();
    assert_eq!(wrong.status.code(), Some(70), "{wrong:?}");
    said += &String::from_utf8_lossy(&wrong.stderr);
    assert!(said.contains("refused the user or the password"), "{said}");
    worker.terminate().await;
    said += &server.stream("/metrics").await.text().await.unwrap();
    server.terminate().await;
    said += &world.log();
    said += &worker.log();
    said += &std::fs::read_to_string(world.file("seen")).unwrap();
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_the_store_that_is_shared() {
    let Some((mut world, _)) = World::shared().await else { return };
    let doctor = async |world: &World, what: &str| {
        let said = world.run(&["doctor", "--json"]).await;
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let check = said["checks"].as_array().unwrap().iter().find(|c| c["check"] == what).cloned().unwrap();
        (check["ok"] == json!(true), check["detail"].as_str().unwrap().to_owned())
    };
    let (ok, detail) = doctor(&world, "store").await;
    assert!(ok && detail.contains("127.0.0.1:") && detail.ends_with("answers"), "{detail}");
    let server = world.serve().await;
    let (ok, detail) = doctor(&world, "store").await;
    assert!(ok && detail.starts_with("127.0.0.1:") && detail.ends_with("answers"), "{detail}");
    let (ok, detail) = doctor(&world, "sandbox").await;
    assert!(ok && detail.contains(&server.url), "{detail}");
    // That a server answers from its store says nothing about another one, which this configuration names.
    world.env("REDIS_URL", "redis://127.0.0.1:1");
    let (ok, detail) = doctor(&world, "store").await;
    assert!(!ok && detail.contains("127.0.0.1:1"), "{detail}");
}

/// What a server over a shared store knows is told by its own page of metrics, and what the others do is in the counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_counts_of_the_queue_are_the_same_at_every_process() {
    let Some((mut world, _)) = World::shared().await else { return };
    let server = front(&mut world).await;
    for _ in 0..3 {
        server.submit(world.prompt("text")).await;
    }
    let page = until("the counts", async || {
        let page = server.stream("/metrics").await.text().await.unwrap();
        let page = torpor_testkit::exposition::read(&page).unwrap();
        (page.sum("torpor_queue_runs", &[("state", "ready")]) == Some(3.0)).then_some(page)
    });
    assert_eq!(page.await.sum("torpor_leaves", &[]), Some(0.0));
}
