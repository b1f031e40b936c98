//! The inbox of the real server: files become runs, and are answered by files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Server, World, bash, until, until_file};

async fn world() -> World {
    let mut world = World::new().await;
    let root = world.file("volume");
    fs::create_dir(&root).unwrap();
    world.env("TORPOR_WORK_ROOT", root.to_str().unwrap());
    world.env("TORPOR_INBOX", "inbox");
    world
}

fn at(world: &World, path: &str) -> PathBuf {
    world.file("volume/inbox").join(path)
}

/// Drops a file as writers are told to: under another name first.
fn drop_file(world: &World, name: &str, text: impl AsRef<[u8]>) {
    fs::create_dir_all(at(world, "pending")).unwrap();
    fs::write(at(world, "pending/.unfinished"), text).unwrap();
    fs::rename(at(world, "pending/.unfinished"), at(world, &format!("pending/{name}"))).unwrap();
}

fn json_at(path: &PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Waits until a task is over; answers what came of it.
async fn over(world: &World, folder: &str, name: &str) -> Value {
    until_file(&at(world, &format!("{folder}/{name}.task.json"))).await;
    json_at(&at(world, &format!("{folder}/{name}.result.json")))
}

fn names(world: &World, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(at(world, folder))
        .map(|all| all.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

async fn runs(server: &Server) -> usize {
    server.get("/runs?limit=200").await.body["runs"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_become_runs_and_everything_else_is_put_aside() {
    let world = world().await;
    drop_file(&world, "early.task.json", json!({"prompt": "go [[s:text]]"}).to_string());
    let server = world.serve().await;
    assert_eq!(over(&world, "done", "early").await["status"], "done");

    drop_file(&world, "torn.task.json", "{\"prompt\": ");
    drop_file(&world, "wrong.task.json", json!({"prompt": "x", "colour": 1, "tenant": "other"}).to_string());
    drop_file(&world, "list.task.json", "[]");
    drop_file(&world, "bomb.task.pkl", b"\x80\x04cos\nsystem\n");
    drop_file(&world, "plain.json", json!({"prompt": "go [[s:text]]"}).to_string());
    fs::write(world.file("secret"), json!({"prompt": "secret [[s:text]]"}).to_string()).unwrap();
    symlink(world.file("secret"), at(&world, "pending/link.task.json")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at(&world, "pending/pipe.task.json")).status().unwrap().success());
    fs::create_dir(at(&world, "pending/folder.task.json")).unwrap();
    fs::write(at(&world, "pending/.hidden.task.json"), "still being written").unwrap();
    fs::write(at(&world, "pending/slow.task.json.tmp"), "still being written").unwrap();
    drop_file(&world, "last.task.json", json!({"prompt": "go [[s:fail]]"}).to_string());
    for (name, want) in [
        ("torn", "the file must be JSON: EOF"),
        ("wrong", "`colour` is not a known field"),
        ("list", "must be a JSON object"),
        ("bomb.task.pkl", "does not end with .task.json"),
        ("plain.json", "does not end with .task.json"),
        ("link.task.json", "not a regular file"),
        ("pipe.task.json", "not a regular file"),
        ("folder.task.json", "not a regular file"),
    ] {
        let reason = at(&world, &format!("failed/{name}.reason.txt"));
        until_file(&reason).await;
        let text = fs::read_to_string(&reason).unwrap();
        assert!(text.contains(want) && text.ends_with('\n'), "{name}: {text}");
        assert!(!text.contains("secret"));
    }
    until("everything to be put aside", async || {
        (names(&world, "pending") == [".hidden.task.json", "slow.task.json.tmp"]).then_some(())
    })
    .await;
    assert_eq!(fs::read(at(&world, "failed/bomb.task.pkl")).unwrap(), b"\x80\x04cos\nsystem\n", "unopened");
    assert!(at(&world, "failed/link.task.json").is_symlink());
    assert_eq!(runs(&server).await, 2, "the early one and the last");

    // A name that failed and then does not is in one place.
    drop_file(&world, "torn.task.json", json!({"prompt": "go [[s:text]]"}).to_string());
    assert_eq!(over(&world, "done", "torn").await["status"], "done");
    assert!(!names(&world, "failed").iter().any(|name| name.starts_with("torn.")), "{:?}", names(&world, "failed"));
    assert_eq!(names(&world, "running"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_comes_as_a_file() {
    let world = world().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("{};text", bash("echo ran >> tally")));
    envelope["approvals"] = json!([{"tool": "bash"}]);
    envelope["sessionId"] = json!("asks");
    envelope["resultRef"] = json!("elsewhere/out.json");
    drop_file(&world, "ask.task.json", envelope.to_string());
    let stem = until("the gate", async || {
        names(&world, "running").iter().find_map(|name| name.strip_suffix(".gate.json").map(str::to_owned))
    })
    .await;
    assert!(stem.starts_with("ask."), "{stem}");
    let gate = json_at(&at(&world, &format!("running/{stem}.gate.json")));
    assert_eq!((&gate["status"], &gate["sessionId"], &gate["gateId"]), (&json!("paused"), &json!("asks"), &json!(0)));
    let verdict = at(&world, &format!("running/{stem}.verdict.json"));
    for (wrong, want) in [
        ("{", "the file must be JSON"),
        (r#"{"action": "maybe"}"#, "`action` must be approve, reject or abort"),
        (r#"{"action": "approve", "gateId": 7}"#, "the run has no such gate"),
    ] {
        fs::write(world.file("v"), wrong).unwrap();
        fs::rename(world.file("v"), &verdict).unwrap();
        let reason = at(&world, &format!("running/{stem}.verdict.reason.txt"));
        until(want, async || fs::read_to_string(&reason).is_ok_and(|text| text.contains(want)).then_some(())).await;
        until("it to be put aside", async || (!verdict.exists()).then_some(())).await;
    }
    fs::write(world.file("v"), r#"{"gateId": 0, "action": "approve", "approver": "ann"}"#).unwrap();
    fs::rename(world.file("v"), &verdict).unwrap();
    let result = over(&world, "done", "ask").await;
    assert_eq!((&result["status"], world.count("tally", "ran")), (&json!("done"), 1));
    assert_eq!(names(&world, "running"), [""; 0], "nothing of it is left");
    assert_eq!(json_at(&world.file("volume/elsewhere/out.json")), result, "both places say the same");
    let gates = server.get("/gates?status=decided").await.body;
    assert_eq!(gates["gates"][0]["decision"]["approver"], "ann", "{gates}");
}

/// Two servers cannot share the embedded store; one that comes after another goes on where that died, whenever it did.
#[tokio::test(flavor = "multi_thread")]
async fn each_task_is_one_run_whenever_the_server_is_killed() {
    let world = world().await;
    let mut server = world.serve().await;
    for n in 0..8_u64 {
        let mut envelope = world.prompt(&format!("{};text", bash(&format!("echo {n}. >> tally"))));
        envelope["metadata"] = json!({"n": n});
        drop_file(&world, &format!("{n}.task.json"), envelope.to_string());
        // From before it is claimed to after it has ended.
        until("the next look", async || {
            let waited = fs::metadata(at(&world, "pending")).unwrap().modified().unwrap().elapsed().unwrap_or_default();
            (n < 4 || waited.as_millis() > u128::from(n) * 10).then_some(())
        })
        .await;
        server.kill().await;
        server = world.serve().await;
        let result = over(&world, "done", &n.to_string()).await;
        assert_eq!(result["status"], "done");
    }
    assert_eq!(runs(&server).await, 8);
    assert_eq!(world.count("tally", "."), 8, "no command ran twice");
    assert_eq!(names(&world, "running"), [""; 0]);
}
