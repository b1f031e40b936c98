//! The command line as a program sees it: standard output for answers, JSON where it is asked for, standard error for
//! everything else, exit codes that say what happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Server, World, bash, script_tool, until};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must succeed and print one JSON document.
async fn json(world: &World, args: &[&str]) -> Value {
    let done = world.run(args).await;
    assert_eq!(done.status.code(), Some(0), "{args:?}: {}", err(&done));
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", out(&done)))
}

/// A run that waits at a gate: its id.
async fn paused(world: &World, server: &Server, word: &str) -> String {
    let mut envelope = world.prompt(&format!("{};text", bash(&format!("echo {word} >> tally"))));
    envelope["approvals"] = json!([{"tool": "bash"}]);
    let run = server.submit(envelope).await;
    assert_eq!(server.ended(&run).await["status"], json!("paused"));
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_json_for_machines_and_words_for_people() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut envelope = world.prompt("text");
    envelope["sessionId"] = json!("a/b c");
    let run = server.submit(envelope).await;
    let waiting = paused(&world, &server, "one").await;
    server.ended(&run).await;
    let n = |v: &Value| v.as_array().unwrap().len();

    assert_eq!(n(&json(&world, &["runs", "list", "--json"]).await["runs"]), 2);
    assert_eq!(n(&json(&world, &["runs", "list", "--all", "--json"]).await["runs"]), 2);
    assert_eq!(json(&world, &["runs", "list", "--all", "--status", "failed", "--json"]).await, json!({"runs": []}));
    let after = ["runs", "list", "--created-after", "2999-01-01T00:00:00Z", "--tenant", "default", "--json"];
    assert_eq!(json(&world, &after).await["runs"], json!([]));
    let first = json(&world, &["runs", "list", "--limit", "1", "--json"]).await;
    let next = json(&world, &["runs", "list", "--cursor", first["nextCursor"].as_str().unwrap(), "--json"]).await;
    assert_eq!(next["runs"][0]["runId"], json!(run));
    assert_eq!(json(&world, &["runs", "show", &run, "--json"]).await["status"], json!("done"));
    assert_eq!(json(&world, &["runs", "follow", &run, "--json"]).await["status"], json!("done"));
    assert_eq!(json(&world, &["gates", "list", "--json"]).await["gates"][0]["runId"], json!(waiting));
    assert_eq!(n(&json(&world, &["gates", "list", "--run", &waiting, "--all", "--json"]).await["gates"]), 1);
    assert_eq!(json(&world, &["gates", "show", &waiting, "--json"]).await["gates"][0]["gateId"], json!(0));
    assert_eq!(json(&world, &["sessions", "show", "a/b c", "--json"]).await["latestRun"]["runId"], json!(run));
    let log = world.run(&["sessions", "log", "a/b c", "--after", "1", "--json"]).await;
    let entries: Vec<Value> = out(&log).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&entries[0]["position"], &entries.last().unwrap()["type"]), (&json!(2), &json!("run_ended")));
    let message = json(&world, &["runs", "message", &run, "more [[s:text]]", "--json"]).await;
    server.ended(message["runId"].as_str().unwrap()).await;
    assert_eq!(json(&world, &["gates", "approve", &waiting, "--json"]).await["decided"]["action"], json!("approve"));
    assert_eq!(server.ended(&waiting).await["status"], json!("done"));
    assert_eq!(json(&world, &["runs", "cancel", &waiting, "--json"]).await["status"], json!("done"));

    for (args, wants) in [
        (&["runs", "list"][..], &["RUN", "done", "a/b c"][..]),
        (&["runs", "show", &run], &["Times", "after", "Usage", "cost         $", "Answer", "done"]),
        (&["gates", "list"], &[]),
        (&["gates", "list", "--status", "decided"], &["echo one >> tally", "approve"]),
        (&["gates", "show", &waiting], &["waits for nobody"]),
        (&["sessions", "show", "a/b c"], &["entries", "latest run"]),
        (&["sessions", "log", "a/b c"], &["> go [[s:text]]", "done"]),
        (&["runs", "follow", &waiting, "--follow"], &["done"]),
        (&["runs", "cancel", &waiting], &["had ended before"]),
    ] {
        let shown = world.run(args).await;
        assert_eq!(shown.status.code(), Some(0), "{args:?}: {}", err(&shown));
        let text = out(&shown);
        assert!(wants.iter().all(|want| text.contains(want)), "{args:?}: {text}");
        assert!(!format!("{text}{}", err(&shown)).contains('\x1b'), "{args:?}: colours into a pipe: {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_followed_is_quiet_unless_asked_and_its_events_are_one_a_line() {
    let world = World::new().await;
    let _server = world.serve().await;
    let prompt = format!("go [[s:{};drip=3x1]]", bash("echo hi"));
    let quiet = world.run(&["run", &prompt]).await;
    assert_eq!((quiet.status.code(), out(&quiet).trim()), (Some(0), "drip drip drip"));
    assert_eq!(err(&quiet).lines().count(), 1, "{}", err(&quiet));
    let told = world.run(&["run", &prompt, "--follow"]).await;
    assert_eq!(out(&told).trim(), "drip drip drip");
    for want in ["started with", "  bash  echo hi  ", "  ok\n", "drip drip drip"] {
        assert!(err(&told).contains(want), "{want}: {}", err(&told));
    }
    for flags in [&["--events"][..], &["--json", "--follow"]] {
        let events = world.run(&[&["run", &prompt][..], flags].concat()).await;
        let events: Vec<Value> = out(&events).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let positions: Vec<u64> = events.iter().filter_map(|e| e["position"].as_u64()).collect();
        assert_eq!(positions, (1..=positions.len() as u64).collect::<Vec<_>>());
        assert!(events.iter().all(|e| e["type"].is_string()));
        assert_eq!(events.last().unwrap()["type"], json!("run_ended"));
    }
    let submit = script_tool("submit_result", &json!({"result": {"total": 12}}));
    let envelope = json!({"prompt": format!("x [[s:{submit}]]"), "outputSchema": {"type": "object"}});
    std::fs::write(world.file("envelope.json"), envelope.to_string()).unwrap();
    let result = world.run(&["run", "--envelope", world.file("envelope.json").to_str().unwrap()]).await;
    assert_eq!(serde_json::from_slice::<Value>(&result.stdout).unwrap(), json!({"total": 12}), "{}", err(&result));
    let failed = world.run(&["run", "x [[s:err=400]]", "--json"]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&failed.stdout).unwrap()["reason"], json!("model"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_over_a_server_that_is_killed_and_misses_and_repeats_nothing() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt(&format!("{};{};text", bash("touch begun; sleep 2"), bash("true")))).await;
    support::until_file(&world.file("begun")).await;
    let args = ["runs", "follow", &run, "--events"];
    let follow = world.run(&args);
    let restart = async {
        until("the follower", async || {
            let metrics = server.stream("/metrics").await.text().await.unwrap();
            metrics.contains("torpor_event_followers 1\n").then_some(())
        })
        .await;
        server.kill().await;
        world.serve().await
    };
    let (followed, server) = tokio::join!(follow, restart);
    assert_eq!(followed.status.code(), Some(0), "{}", err(&followed));
    let events: Vec<Value> = out(&followed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let positions: Vec<u64> = events.iter().filter_map(|e| e["position"].as_u64()).collect();
    assert_eq!(positions, (1..=positions.len() as u64).collect::<Vec<_>>());
    assert!(events.iter().any(|e| e["type"] == json!("takeover")));
    assert_eq!(server.ended(&run).await["status"], json!("done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_ends_its_follower_with_a_code_of_its_own_and_the_way_on() {
    let world = World::new().await;
    let server = world.serve().await;
    let prompt = format!("go [[s:{};text]]", bash("echo ran >> tally"));
    let workspace = world.project();
    let args =
        ["run", &prompt, "--workspace", workspace.to_str().unwrap(), "--approve", "bash:tally", "--approve", "write"];
    let waits = world.run(&args).await;
    assert_eq!(waits.status.code(), Some(3), "{}", err(&waits));
    let run = out(&waits).lines().next().unwrap().strip_prefix("paused ").unwrap().to_owned();
    assert!(out(&waits).contains("│ echo ran >> tally"), "{}", out(&waits));
    assert!(err(&waits).contains(&format!("torpor gates approve {run}")), "{}", err(&waits));
    let events = world.run(&["runs", "follow", &run, "--events"]).await;
    assert_eq!(events.status.code(), Some(3));
    assert!(out(&events).lines().last().unwrap().contains("gate_requested"));

    let rejected = world.run(&["gates", "reject", &run, "--feedback", "not here", "--approver", "ann"]).await;
    assert_eq!((rejected.status.code(), out(&rejected).trim()), (Some(0), format!("gate 0 of {run}: reject").as_str()));
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    assert_eq!(world.count("tally", "ran"), 0);
    let other = world.run(&["gates", "approve", &run, "--gate", "0"]).await;
    assert_eq!(other.status.code(), Some(64));
    assert!(err(&other).contains("gate_conflict") && err(&other).contains("--status decided"), "{}", err(&other));

    let call = |word: &str| json!({"name": "bash", "input": {"command": format!("echo {word} >> tally")}});
    let two = json!([call("one"), call("two")]).to_string();
    let mut envelope = world.prompt(&format!("multi={};text", torpor_testkit::model_server::script::encode(&two)));
    envelope["approvals"] = json!([{"tool": "bash"}]);
    let run = server.submit(envelope).await;
    server.ended(&run).await;
    let which = world.run(&["gates", "approve", &run]).await;
    assert_eq!(which.status.code(), Some(64));
    assert!(err(&which).contains("Name one with --gate: 0, 1."), "{}", err(&which));
    let aborted = world.run(&["gates", "abort", &run, "--gate", "1"]).await;
    assert_eq!(aborted.status.code(), Some(0), "{}", err(&aborted));
    assert_eq!(world.run(&["runs", "follow", &run]).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_on_standard_error_with_its_code_and_what_to_do() {
    let world = World::new().await;
    let nobody = world.run(&["runs", "list", "--json"]).await;
    assert_eq!(nobody.status.code(), Some(69));
    assert!(err(&nobody).contains("start `torpor serve`"), "{}", err(&nobody));
    let _server = world.serve().await;
    for (args, code, want) in [
        (&["runs", "show", "run_1"][..], 64, "run_not_found"),
        (&["runs", "follow", "run_1"], 64, "torpor runs list"),
        (&["runs", "follow", "../health"], 64, "not a run id"),
        (&["gates", "approve", "run_1"], 64, "run_not_found"),
        (&["sessions", "show", ".."], 64, "session_not_found"),
        (&["sessions", "log", "no/body"], 64, "session_not_found"),
        (&["runs", "list", "--status", "fine"], 64, "must be one of queued"),
        (&["runs", "list", "--created-after", "yesterday"], 64, "RFC 3339"),
        (&["gates", "list", "--run", "a b"], 64, "must be a run id"),
        (&["runs", "list", "--url", "localhost"], 64, "expected http://"),
        (&["runs", "list", "--url", "http://127.0.0.1:1"], 69, "is `torpor serve` running there?"),
        (&["runs", "follow", "run_1", "--url", "http://127.0.0.1:1"], 69, "cannot reach"),
        (&["completions", "tcsh"], 64, "possible values"),
        (&["gates"], 64, "Usage"),
        (&["run", "x", "--quiet", "--events"], 64, "cannot be used with"),
    ] {
        let failed = world.run(args).await;
        assert_eq!(failed.status.code(), Some(code), "{args:?}: {}", err(&failed));
        assert!(failed.stdout.is_empty(), "{args:?}: {}", out(&failed));
        assert!(err(&failed).contains(want), "{args:?}: {}", err(&failed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_made_for_every_shell_and_a_reader_may_go_early() {
    let world = World::new().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let made = world.run(&["completions", shell]).await;
        assert_eq!(made.status.code(), Some(0), "{shell}");
        assert!(out(&made).contains("completions") && out(&made).contains("approver"), "{shell}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = world.command().args(["completions", "zsh"]).stdout(writer).spawn().unwrap();
    let ended = child.wait().await.unwrap();
    assert_eq!(ended.code(), Some(141));
    let help = world.run(&["help", "gates", "approve"]).await;
    assert!(out(&help).contains("torpor gates approve run_"), "{}", out(&help));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_says_reaches_a_pipe_as_it_is() {
    let world = World::new().await;
    let _server = world.serve().await;
    let ask = script_tool("request_approval", &json!({"summary": "a\u{1b}[2Jb", "proposed_action": "c"}));
    let waits = world.run(&["run", &format!("x [[s:{ask};text]]")]).await;
    assert!(out(&waits).contains("a\\u{1b}[2Jb"), "{:?}", out(&waits));
    let run = json(&world, &["gates", "list", "--json"]).await["gates"][0].clone();
    assert_eq!(run["gate"]["summary"], json!("a\u{1b}[2Jb"), "machines get it whole");
    let found = until("the gate in the list", async || {
        let listed = world.run(&["gates", "list", "--full"]).await;
        out(&listed).contains("asked").then(|| out(&listed))
    })
    .await;
    assert!(!found.contains('\x1b'), "{found:?}");
}
