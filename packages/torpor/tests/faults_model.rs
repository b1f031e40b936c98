//! Everything a model's endpoint can do wrong, over both wires, against the real process: what the caller is told, what
//! is never executed, and what it takes in memory, storage and time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::{Server, World, bash, script_tool};
use torpor_testkit::model_server::script;

const PROVIDERS: [&str; 2] = ["anthropic", "openai"];

/// A server that speaks to both wires, gives up soon, and never summarises.
async fn both(idle_seconds: u32) -> (World, Server) {
    let mut world = World::embedded().await;
    world.env("OPENAI_BASE_URL", &world.model.base_url());
    world.env("TORPOR_MODEL_ATTEMPTS", "2");
    world.env("TORPOR_MODEL_IDLE_SECONDS", &idle_seconds.to_string());
    world.env("TORPOR_MODEL_LIMITS", "m=1000000000/32000");
    let server = world.serve().await;
    (world, server)
}

fn envelope(world: &World, provider: &str, script: &str) -> Value {
    let mut envelope = world.prompt(script);
    envelope["provider"] = json!(provider);
    envelope["model"] = json!("m");
    envelope
}

/// Runs one script per case on both wires, all at once; checks each record.
async fn each(world: &World, server: &Server, cases: &[&str], check: impl Fn(&str, &Value)) {
    let run = |provider: &'static str, script: &str| {
        let (envelope, name) = (envelope(world, provider, script), format!("{provider} {script:.40}"));
        async move { (name, server.ended(&server.submit(envelope).await).await) }
    };
    let runs = cases.iter().flat_map(|script| PROVIDERS.map(|provider| run(provider, script)));
    for (name, record) in join_all(runs).await {
        check(&name, &record);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_end_runs_with_a_reason_and_nothing_is_executed() {
    let (world, server) = both(2).await;
    let truncated = format!("truncjson={}", script::encode("touch F; echo "));
    let begun = Instant::now();
    let lasting = [
        "err=429",
        "err=500",
        "err=529",
        "overloaded",
        "cut",
        "garbled",
        "html",
        "empty",
        "badjson",
        "nostop",
        "noblocks",
        "hang",
        "hangmid",
        &truncated,
    ];
    each(&world, &server, &lasting, |name, record| {
        assert_eq!((record["status"].as_str(), record["reason"].as_str()), (Some("failed"), Some("model")), "{name}");
        let message = record["message"].as_str().unwrap();
        assert!(message.contains("(after 2 attempts)") && message.len() < 1_000, "{name}: {message}");
    })
    .await;
    assert_eq!(world.model.requests(), 2 * 2 * lasting.len() as u64, "each was tried twice");
    // Two silences of two seconds, a pause in between.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(!world.file("F").exists(), "a truncated command was run");

    world.model.reset();
    let at_once = ["err=400", "err=401", "err=403", "err=404", "leak"];
    each(&world, &server, &at_once, |name, record| {
        assert_eq!(record["reason"], json!("model"), "{name}: {record}");
        assert!(!record.to_string().contains("canary"), "{name}: {record}");
    })
    .await;
    assert_eq!(world.model.requests(), 2 * at_once.len() as u64, "asking again changes nothing");
    assert_eq!(world.sqlite("select count(*) from entry where body like '%\"tool_requested\"%'"), 0);
    assert!(server.process().peak() < 120.0, "{} MiB", server.process().peak());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_retried_and_an_effect_is_had_once() {
    let (world, server) = both(2).await;
    let effect = |n: usize| bash(&format!("echo x >> ledger-{n}"));
    let faults =
        ["retry429=1", "retry.err429=1", "retry.err500=1", "retry.overloaded=1", "retry.cut=1", "retry.hangmid=1"];
    // A wait that the provider sets to nothing costs nothing.
    let record = server.post("/runs", &envelope(&world, "anthropic", "retry429=1;tag=quick;text")).await.body;
    assert_eq!(record["status"], json!("done"), "{record}");
    assert!(world.log().contains("wait=0ns"), "{}", world.log());

    let scripts: Vec<String> =
        faults.iter().enumerate().map(|(n, fault)| format!("{};{fault};{};text", effect(n), effect(n))).collect();
    let begun = Instant::now();
    for provider in PROVIDERS {
        let runs = scripts.iter().map(|script| {
            let (server, envelope) = (&server, envelope(&world, provider, &format!("{script};tag={provider}")));
            async move { server.ended(&server.submit(envelope).await).await }
        });
        assert!(join_all(runs).await.iter().all(|r| r["status"] == json!("done")));
    }
    for (n, fault) in faults.iter().enumerate() {
        assert_eq!(world.count(&format!("ledger-{n}"), "x"), 4, "{fault}");
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistaken_calls_are_told_to_the_model_and_the_turn_goes_on() {
    let (world, server) = both(30).await;
    let multi = |calls: Value| format!("multi={};text", script::encode(&calls.to_string()));
    let done = [
        format!("{};text", script_tool("no_such_tool", &json!({"a": 1}))),
        format!("{};text", script_tool("bash", &json!({}))),
        format!("{};text", script_tool("bash", &json!({"command": 7}))),
        format!("{};text", script_tool("bash", &json!({"command": "true", "extra": 1}))),
        format!("{};text", script_tool("read", &json!({"path": ["a"]}))),
        multi(json!([{"name": "nope"}, {"name": "read", "input": {}}, {"name": "bash", "input": {"command": "true"}}])),
    ];
    let done: Vec<&str> = done.iter().map(String::as_str).collect();
    each(&world, &server, &done, |name, record| assert_eq!(record["status"], json!("done"), "{name}: {record}")).await;
    // A call in an answer that calls itself the last is a call all the same.
    let last = format!("endturn={};text", script::encode("echo x >> last"));
    each(&world, &server, &[&last], |name, record| assert_eq!(record["turns"], json!(2), "{name}: {record}")).await;
    assert_eq!(world.count("last", "x"), 2);
    // Two calls of one id cannot be told apart in what is sent back, and are not carried out.
    let same = format!("sameid=2,{};text", script::encode("echo x >> same"));
    each(&world, &server, &[&same], |name, record| assert_eq!(record["reason"], json!("model"), "{name}: {record}"))
        .await;
    assert_eq!(world.count("same", "x"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_and_answers_in_tiny_pieces_are_bounded() {
    let (world, server) = both(30).await;
    let begun = Instant::now();
    for (script, length) in [("text=10000000", 10_000_000), ("drip=100000x0", 500_000)] {
        each(&world, &server, &[script], |name, record| {
            assert_eq!(record["response"].as_str().map(str::len), Some(length), "{name}: {:.300}", record.to_string());
        })
        .await;
    }
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    // Two at once, each of 10 MB: as it comes, as it is stored, as it is answered.
    assert!(server.process().peak() < 300.0, "{} MiB", server.process().peak());
    let too_large = server.post("/runs", &envelope(&world, "anthropic", "text=70000000")).await.body;
    assert_eq!(too_large["reason"], json!("model"), "{:.300}", too_large.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_calls_in_one_answer_end_one_way_or_the_other() {
    let (world, server) = both(30).await;
    let calls = |n: usize, file: &str| format!("calls={n},{};text", script::encode(&format!("echo x >> {file}")));
    let begun = Instant::now();
    let refused = server.post("/runs", &envelope(&world, "anthropic", &calls(5_000, "refused"))).await.body;
    assert_eq!(refused["reason"], json!("model"), "{refused}");
    assert_eq!(world.count("refused", "x"), 0, "an answer that cannot be is not carried out in part");
    let done = server.post("/runs", &envelope(&world, "openai", &calls(300, "done"))).await.body;
    assert_eq!((done["status"].as_str(), world.count("done", "x")), (Some("done"), 300), "{done}");
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(server.process().peak() < 150.0, "{} MiB", server.process().peak());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_in_one_turn_are_stored_once_each_and_summarised_on_the_way() {
    const REQUESTS: u64 = 100;
    let mut world = World::embedded().await;
    // What it says is not compressible by anyone who stores it, about 1 KiB, and 250,000 tokens in all.
    let command = "echo x >> ledger; head -c 750 /dev/urandom | base64 -w 0";
    let script = format!("again={REQUESTS},10,{};text", script::encode(command));
    world.env("ANTHROPIC_BASE_URL", &world.model.script_url(&script));
    world.env("TORPOR_MODEL_LIMITS", "claude-opus-4-8=60000/8000");
    let server = world.serve().await;
    server.health().await;
    let begun = Instant::now();
    let record = server.post("/runs", &json!({"prompt": "go", "workspaceRef": world.project()})).await.body;
    assert_eq!((record["status"].as_str(), record["response"].as_str()), (Some("done"), Some("done")), "{record}");
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    let summaries = world.sqlite("select count(*) from entry where body like '%\"checkpoint\"%'");
    assert!((2..20).contains(&summaries), "{summaries} summaries");
    // A request for a summary is answered with calls, too; those are not carried out.
    let calls = world.sqlite("select count(*) from entry where body like '%\"tool_ended\"%'");
    assert_eq!((calls, world.count("ledger", "x")), (1_000 - 10 * summaries, usize::try_from(calls).unwrap()));

    let head = world.sqlite("select max(position) from entry");
    let bytes = |from: i64, to: i64| {
        let query = format!("select sum(length(body)) from entry where position > {from} and position <= {to}");
        world.sqlite(&query) as f64
    };
    let (first, second) = (bytes(0, head / 2), bytes(head / 2, head));
    assert!((0.85..1.15).contains(&(first / second)), "the log grows evenly: {first} bytes, then {second}");
    let each = (first + second) / calls as f64;
    assert!(each < 2_500.0, "{each} bytes a call, of which 1,000 are what it said");
    let file = |name: &str| std::fs::metadata(world.data().join(name)).map_or(0, |m| m.len()) as f64;
    let disk = file("store.db") + file("store.db-wal");
    assert!(disk < 4.0 * (first + second) + 8e6, "{disk} bytes on disk");
    assert!(server.process().peak() < 100.0, "{} MiB", server.process().peak());
    println!(
        "{each:.0} bytes a call, {summaries} summaries, {:?}, {:.0} MiB",
        begun.elapsed(),
        server.process().peak()
    );
}
