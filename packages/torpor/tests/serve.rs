//! The real binary, driven over HTTP as a client would, and from the command line as a person would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use support::{World, bash, until_file};

fn out(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_uses_tools_and_the_session_remembers() {
    let world = World::new().await;
    let server = world.serve().await;
    let first = server.post("/turn", &json!({"prompt": format!("a [[s:{};text]]", bash("echo hi > f; cat f"))})).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!((first.body["response"].as_str(), first.body["stopReason"].as_str()), (Some("done"), Some("end_turn")));
    assert!(first.body["usage"]["input"].as_u64().unwrap() > 0);
    let second = server.post("/turn", &json!({"prompt": "b", "sessionId": first.body["sessionId"]})).await;
    assert_eq!(second.body["sessionId"], first.body["sessionId"]);
    assert_ne!(second.body["runId"], first.body["runId"]);
    let unknown = server.post("/turn", &json!({"prompt": "b", "sessionId": "nobody"})).await;
    assert_eq!((unknown.status, unknown.body["error"].as_str()), (404, Some("session_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_reads_the_file_and_answers_with_a_verdict_once() {
    let world = World::new().await;
    let server = world.serve().await;
    std::fs::write(world.file("a.rs"), "unsafe {}\n").unwrap();
    let read = support::script_tool("read", &json!({"path": "a.rs"}));
    let envelope = json!({"sessionId": "r/1", "workspaceRef": world.project(),
        "item": {"item_id": "i1", "file": "a.rs", "pattern": format!("unsafe [[s:{read};verdict]]")}});
    let first = server.post("/runs", &envelope).await;
    assert_eq!(
        first.body["verdict"],
        json!({"item_id": "i1", "verdict": "CLEAR", "reason": "scripted"}),
        "{}",
        first.body
    );
    let requests = world.model.requests();
    let again = server.post("/runs", &envelope).await;
    assert_eq!((again.status, &again.body["runId"]), (200, &first.body["runId"]));
    assert_eq!(world.model.requests(), requests, "the answer came from the record");
    let mut other = envelope.clone();
    other["item"]["pattern"] = json!("something else");
    assert_eq!(server.post("/runs", &other).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_parallel_posts_of_one_key_make_one_run() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("delay=100;{};text", bash("echo x >> ledger")));
    envelope["sessionId"] = json!("one");
    let answers = join_all((0..20).map(|_| server.post("/runs", &envelope))).await;
    let ids: std::collections::BTreeSet<String> = answers.iter().map(|a| a.body["runId"].to_string()).collect();
    assert!(answers.iter().all(|a| a.status == 200 && a.body["status"] == json!("done")));
    assert_eq!(ids.len(), 1);
    assert_eq!(world.count("ledger", "x"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_parallel_turns_on_one_session_are_all_kept_in_order() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let session = server.post("/turn", &json!({"prompt": "turn 0"})).await.body["sessionId"].clone();
    let turns = (1..=10).map(|n| {
        let (server, session) = (&server, session.clone());
        async move { server.post("/turn", &json!({"prompt": format!("turn {n}"), "sessionId": session})).await }
    });
    assert!(join_all(turns).await.iter().all(|a| a.status == 200 && a.body["stopReason"] == json!("end_turn")));
    let log = world.sqlite("select count(*) from entry where body like '%\"run_started\"%'");
    assert_eq!(log, 11);
    let ended = world.sqlite("select count(*) from entry where body like '%\"run_ended\"%'");
    assert_eq!(ended, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sees_nothing_of_the_brain() {
    let mut world = World::new().await;
    world.env("MY_SECRET_TOKEN", "canary-env");
    let server = world.serve().await;
    let pid = server.pid();
    let look = format!(
        "env > seen; cat /proc/{pid}/environ >> seen 2>&1; cat {}/store.db >> seen 2>&1; ls {} >> seen 2>&1; true",
        world.data().display(),
        world.data().display()
    );
    let run = server.submit(world.prompt(&format!("{};text", bash(&look)))).await;
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    let seen = out(&std::fs::read(world.file("seen")).unwrap());
    assert!(seen.contains("PATH="), "{seen}");
    for secret in ["canary", "TORPOR_", "SQLite format", "ANTHROPIC"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    assert!(!world.log().contains("canary"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_that_die_are_told_to_the_model_and_nothing_is_repeated() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt(&format!("{};text", bash("echo x >> ledger; sleep 60")))).await;
    // There first, written a moment later.
    until_file(&world.file("ledger")).await;
    support::until("the command to write", async || (world.count("ledger", "x") == 1).then_some(())).await;
    world.kill_hands();
    let record = server.ended(&run).await;
    assert_eq!(record["status"], json!("done"), "{record}");
    assert_eq!(world.count("ledger", "x"), 1);
    assert_eq!(world.sqlite("select count(*) from entry where body like '%sandbox_lost%'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn model_faults_end_in_answers_not_in_actions() {
    let mut world = World::new().await;
    world.env("TORPOR_MODEL_ATTEMPTS", "2");
    world.env("TORPOR_MODEL_IDLE_SECONDS", "1");
    let server = world.serve().await;
    for fault in ["err=500", "cut", "garbled", "html", "empty", "badjson", "overloaded", "err=400"] {
        let answer = server.post("/turn", &json!({"prompt": format!("x [[s:{fault}]]")})).await;
        assert_eq!(
            (answer.status, answer.body["stopReason"].as_str()),
            (200, Some("error")),
            "{fault}: {}",
            answer.body
        );
        assert!(!answer.body["errorMessage"].as_str().unwrap().is_empty());
    }
    let truncated = format!("truncjson={}", torpor_testkit::model_server::script::encode("touch F; echo "));
    let run = server.submit(world.prompt(&truncated)).await;
    assert_eq!(server.ended(&run).await["reason"], json!("model"));
    assert!(!world.file("F").exists(), "a truncated command was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_short_work_finishes_and_long_work_is_handed_over() {
    let mut world = World::new().await;
    world.env("TORPOR_DRAIN_SECONDS", "2");
    let server = world.serve().await;
    let long = bash("echo started >> ledger; until [ -e release ]; do sleep 0.02; done; echo ended >> ledger");
    let long = server.submit(world.prompt(&format!("{long};text"))).await;
    until_file(&world.file("ledger")).await;
    let prompt = json!({"prompt": "x [[s:delay=500;text]]"});
    let (answer, ()) = tokio::join!(server.post("/turn", &prompt), world.model.wait_for_requests(2));
    assert_eq!(answer.status, 200);
    let (code, took) = server.terminate().await;
    assert_eq!(code, Some(0), "{}", world.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    let server = world.serve().await;
    std::fs::write(world.file("release"), "").unwrap();
    let record = server.ended(&long).await;
    assert_eq!((record["status"].as_str(), record["attempts"].as_u64()), (Some("done"), Some(1)), "{record}");
    assert_eq!((world.count("ledger", "started"), world.count("ledger", "ended")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sandbox_work_that_needs_one_is_refused_at_submit() {
    let mut world = World::new().await;
    world.env("TORPOR_SANDBOX", "none");
    let server = world.serve().await;
    let review = json!({"item": {"item_id": "i", "file": "f", "pattern": "p"}});
    let answer = server.post("/runs", &review).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("no_sandbox")), "{}", answer.body);
    let chat = server.post("/turn", &json!({"prompt": "hello"})).await;
    assert_eq!(chat.body["response"], json!("done"));
    let turn = server.post("/turn", &json!({"prompt": format!("x [[s:{};text]]", bash("touch F"))})).await;
    assert_eq!(turn.body["stopReason"], json!("error"), "{}", turn.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_folder_has_one_server_and_clients_find_it() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let second = world.run(&["serve"]).await;
    assert_eq!(second.status.code(), Some(69));
    let message = out(&second.stderr);
    assert!(
        message.contains(&world.data().display().to_string()) && message.contains(&server.pid().to_string()),
        "{message}"
    );
    let found = world.run(&["run", "hello", "--json"]).await;
    assert_eq!(found.status.code(), Some(0), "{}", out(&found.stderr));
    let record: Value = serde_json::from_slice(&found.stdout).unwrap();
    let run = record["runId"].as_str().unwrap();
    assert_eq!(server.get(&format!("/runs/{run}")).await.body["status"], json!("done"));
    let list = world.run(&["runs", "list", "--status", "done"]).await;
    assert!(out(&list.stdout).lines().any(|l| l.starts_with(run) && l.contains("done")), "{}", out(&list.stdout));
    let cancelled: Value = serde_json::from_slice(&world.run(&["runs", "cancel", run, "--json"]).await.stdout).unwrap();
    assert_eq!(cancelled["status"], json!("done"), "what is over stays as it ended");
    assert_eq!(world.run(&["runs", "show", "../health"]).await.status.code(), Some(64));
    assert_eq!(world.run(&["runs", "list", "--status", "fine"]).await.status.code(), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_its_summary_and_pages_of_its_log() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("{};text", bash("echo hi")));
    envelope["sessionId"] = json!("a/b c");
    let run = server.post("/runs", &envelope).await.body["runId"].clone();
    let path = "/sessions/a%2Fb%20c";
    let summary = server.get(path).await.body;
    assert_eq!((&summary["sessionId"], summary["entries"].as_u64()), (&json!("a/b c"), Some(8)), "{summary}");
    assert_eq!(summary["latestRun"]["runId"], run);
    let (mut after, mut kinds) = (0, Vec::new());
    loop {
        let page = server.get(&format!("{path}/log?after={after}&limit=3")).await.body;
        let entries = page["entries"].as_array().unwrap();
        kinds.extend(entries.iter().map(|e| (e["position"].as_u64().unwrap(), e["type"].clone())));
        match page["nextAfter"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(kinds.iter().map(|k| k.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert_eq!((&kinds[0].1, &kinds[7].1), (&json!("run_started"), &json!("run_ended")));
    for (path, status) in [("/sessions/nobody", 404), ("/sessions/nobody/log", 404), ("/sessions/x/log?limit=0", 400)] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }
    assert_eq!(server.get(&format!("{path}?tenant=other")).await.status, 404, "another tenant's is not shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_dead_server_left_behind_is_not_trusted() {
    let world = World::embedded().await;
    let server = world.serve().await;
    server.kill().await;
    let left_behind = world.data().join("serve.json");
    assert!(left_behind.exists());
    let stranger = json!({"url": world.model.base_url(), "pid": std::process::id()});
    std::fs::write(&left_behind, stranger.to_string()).unwrap();
    let done = world.run(&["run", "hello", "--json"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", out(&done.stderr));
    assert_eq!(world.model.requests(), 1, "only as the model, not as the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_never_meets_the_calls_of_an_old_one() {
    let world = World::embedded().await;
    for word in ["old", "new"] {
        let server = world.serve().await;
        let mut envelope = world.prompt(&format!("{};text", bash(&format!("echo {word} >> words"))));
        envelope["sessionId"] = json!("same");
        assert_eq!(server.post("/runs", &envelope).await.body["status"], json!("done"));
        server.kill().await;
        for file in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(world.data().join(file));
        }
    }
    assert_eq!((world.count("words", "old"), world.count("words", "new")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_holds_for_synchronous_runs_too() {
    let mut world = World::new().await;
    world.env("TORPOR_CONCURRENCY", "2");
    let server = world.serve().await;
    let posts = (0..12).map(|n| {
        let server = &server;
        async move { server.post("/runs", &json!({"prompt": format!("{n} [[s:delay=100;text]]")})).await }
    });
    assert!(join_all(posts).await.iter().all(|a| a.body["status"] == json!("done")));
    assert!(world.model.stats().max_open <= 2, "{:?}", world.model.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_needs_no_server() {
    let world = World::embedded().await;
    std::fs::write(world.file("hello.txt"), "").unwrap();
    let script = format!("{};text", bash("ls > listing"));
    let args =
        ["run", &format!("x [[s:{script}]]"), "--workspace", world.project().to_str().unwrap()].map(str::to_owned);
    let done = world.run(&args.each_ref().map(String::as_str)).await;
    assert_eq!((done.status.code(), out(&done.stdout).trim()), (Some(0), "done"), "{}", out(&done.stderr));
    assert_eq!(world.count("listing", "hello.txt"), 1);
    let failed = world.run(&["run", "x [[s:err=400]]"]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(out(&failed.stdout).starts_with("failed model: "), "{}", out(&failed.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configuration_stops_the_start_with_a_line_that_names_it() {
    let world = World::new().await;
    for (args, want) in [
        (&["serve", "--lease-ms", "soon"][..], "torpor: TORPOR_LEASE_MS (flag --lease-ms): expected an integer"),
        (&["serve", "--bind", "0.0.0.0"][..], "torpor: TORPOR_BIND: 0.0.0.0 is not loopback"),
        (&["serve", "--log", "a=b=c"][..], "torpor: TORPOR_LOG"),
        (&["serve", "--config", "/nowhere"][..], "torpor: /nowhere: "),
    ] {
        let refused = world.run(args).await;
        assert_eq!(refused.status.code(), Some(64), "{args:?}");
        assert!(out(&refused.stderr).starts_with(want), "{}", out(&refused.stderr));
    }
    let shown = world.run(&["serve", "--print-config"]).await;
    assert!(!out(&shown.stdout).contains("canary") && out(&shown.stdout).contains("TORPOR_LEASE_MS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_is_wrong_and_the_demo_shows_what_is_right() {
    let world = World::new().await;
    let doctor = world.run(&["doctor", "--json"]).await;
    let findings: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(findings["ok"], json!(true), "{findings}");
    assert_eq!(findings["checks"].as_array().unwrap().len(), 5);

    let begun = Instant::now();
    let dir = world.file("demo");
    let demo = world.run(&["demo", "--scripted", "--dir", dir.to_str().unwrap()]).await;
    let text = out(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{text}{}", out(&demo.stderr));
    assert!(text.contains("17 clear, 3 flagged") && text.contains("it ran exactly once"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}
