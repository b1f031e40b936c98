//! `torpor sessions` through the real binary: lists, forks, files, removal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::World;
use support::terminal::Terminal;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must succeed; what it printed.
async fn text(world: &World, args: &[&str]) -> String {
    let done = world.run(args).await;
    assert_eq!(done.status.code(), Some(0), "{args:?}: {}", err(&done));
    out(&done)
}

async fn json(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&text(world, args).await).unwrap()
}

/// The log of a session.
async fn log(world: &World, session: &str) -> Vec<Value> {
    let lines = text(world, &["sessions", "log", session, "--json"]).await;
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_listed_forked_exported_imported_and_removed() {
    let world = World::new().await;
    let server = world.serve().await;
    let turn = server.post("/runs", &json!({"sessionId": "a/b", "prompt": "x [[s:text]]"})).await.body;
    assert_eq!(turn["status"], json!("done"), "{turn}");
    let whole = log(&world, "a/b").await;

    assert_eq!(text(&world, &["sessions", "fork", "a/b", "--into", "b"]).await, "b\n");
    let made = json(&world, &["sessions", "fork", "a/b", "--at", "2", "--json"]).await;
    assert_eq!(made["forkedFrom"]["position"], json!(2), "{made}");
    assert_eq!(log(&world, "b").await, whole);
    let listed = json(&world, &["sessions", "list", "--json"]).await;
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 3, "{listed}");
    assert_eq!(json(&world, &["sessions", "list", "--all", "--json"]).await["sessions"], listed["sessions"]);
    let table = text(&world, &["sessions", "list"]).await;
    assert!(table.contains("a/b at 2") && table.contains("idle"), "{table}");
    let shown = text(&world, &["sessions", "show", "a/b"]).await;
    assert!(shown.contains("forks        2") && shown.contains("latest run"), "{shown}");

    let file = world.file("a.jsonl");
    let file = file.to_str().unwrap();
    let said = json(&world, &["sessions", "export", "a/b", "--output", file, "--json"]).await;
    let piped = text(&world, &["sessions", "export", "a/b"]).await;
    assert_eq!((std::fs::read_to_string(file).unwrap(), &said["bytes"]), (piped.clone(), &json!(piped.len())));
    let again = world.run(&["sessions", "export", "a/b", "--output", file]).await;
    assert_eq!(again.status.code(), Some(64));
    assert!(err(&again).contains("nothing is overwritten"), "{}", err(&again));
    assert!(!world.file("a.jsonl.partial").exists());

    assert_eq!(text(&world, &["sessions", "import", file, "--into", "copy"]).await, "copy\n");
    assert_eq!(log(&world, "copy").await, whole);
    let mut child = world.command();
    child.args(["sessions", "import", "-", "--json"]).stdin(std::fs::File::open(file).unwrap());
    let made: Value = serde_json::from_slice(&child.output().await.unwrap().stdout).unwrap();
    assert_eq!(made["entries"], json!(whole.len()), "{made}");
    let half = world.file("half.jsonl");
    std::fs::write(&half, &piped[..piped.len() / 2]).unwrap();
    for (args, want) in [
        (&["sessions", "import", half.to_str().unwrap()][..], "import_invalid"),
        (&["sessions", "import", file, "--into", "copy"], "idempotency_conflict"),
        (&["sessions", "import", "/nowhere"], "No such file"),
        (&["sessions", "import", "/"], "a folder, not a file"),
        (&["sessions", "export", "nobody"], "session_not_found"),
        (&["sessions", "fork", "a/b", "--at", "999"], "`fromPosition` must be from 1"),
        (&["sessions", "delete", "copy"], "say --yes"),
        (&["sessions", "delete", "nobody", "--yes"], "session_not_found"),
    ] {
        let refused = world.run(args).await;
        assert_eq!(refused.status.code(), Some(64), "{args:?}: {}", err(&refused));
        assert!(err(&refused).contains(want), "{args:?}: {}", err(&refused));
    }

    let gone = text(&world, &["sessions", "delete", "a/b", "--yes"]).await;
    assert!(gone.starts_with("removed a/b: ") && gone.contains("kept"), "{gone}");
    let gone = json(&world, &["sessions", "delete", "copy", "--yes", "--json"]).await;
    assert_eq!(gone["removed"]["entries"], json!(whole.len()), "{gone}");
    assert_eq!(world.run(&["sessions", "show", "copy"]).await.status.code(), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_before_a_session_goes_and_a_busy_one_stays() {
    let world = World::new().await;
    let server = world.serve().await;
    assert_eq!(server.post("/runs", &json!({"sessionId": "s", "prompt": "x [[s:text]]"})).await.status, 200);
    for (answer, code, want) in [("\n", 1, "nothing was removed"), ("y\n", 0, "removed s: ")] {
        let mut person = Terminal::new(&world, &["sessions", "delete", "s"], None);
        person.until("[y/N]", 1).await;
        person.type_in(answer);
        assert_eq!(person.exit().await, Some(code), "{}", person.seen());
        assert!(person.seen().contains(want), "{}", person.seen());
    }
    let run = server.submit(json!({"sessionId": "busy", "prompt": "x [[s:hang]]"})).await;
    let busy = world.run(&["sessions", "delete", "busy", "--yes"]).await;
    assert_eq!(busy.status.code(), Some(64));
    assert!(err(&busy).contains("session_busy") && err(&busy).contains(&run), "{}", err(&busy));
}
