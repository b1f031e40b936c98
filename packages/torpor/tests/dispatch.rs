//! `torpor dispatch` as a CronJob runs it: a real command against a real server, repeated, doubled, refused, and with
//! servers that are away, busy or none of ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::{Server, World, bash, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a schedule file.
fn schedule(world: &World, name: &str, content: &Value) -> PathBuf {
    let path = world.file(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path
}

/// Runs `dispatch --json` with these arguments; its exit code and report.
async fn dispatch(world: &World, file: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let all = [&["dispatch", file.to_str().unwrap(), "--json"][..], args].concat();
    let done = world.run(&all).await;
    let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", err(&done)));
    (done.status.code(), report)
}

/// One field of every item of a report.
fn each(report: &Value, field: &str) -> Vec<String> {
    let items = report["items"].as_array().unwrap();
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

async fn runs(server: &Server) -> usize {
    server.get("/runs?limit=200").await.body["runs"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_makes_its_runs_once_however_often_it_is_fired() {
    let world = World::new().await;
    let server = world.serve().await;
    let items: Vec<Value> = (0..20).map(|_| json!({"prompt": "of __FIRE__ [[s:text]]"})).collect();
    let file = schedule(&world, "nightly.json", &json!({"items": items}));

    // Two at once, as when a pod is thought lost and started again.
    let (one, two) =
        tokio::join!(dispatch(&world, &file, &["--fire", "f1"]), dispatch(&world, &file, &["--fire", "f1"]));
    for (code, report) in [&one, &two] {
        assert_eq!(*code, Some(0), "{report:#}");
        assert_eq!(each(report, "sessionId")[0], "nightly/f1/1");
    }
    let ids = each(&one.1, "runId");
    assert_eq!((ids.len(), &ids), (20, &each(&two.1, "runId")));
    assert_eq!(runs(&server).await, 20);

    for run in &ids {
        assert_eq!(server.ended(run).await["status"], "done");
    }
    let (code, report) = dispatch(&world, &file, &["--fire", "f1"]).await;
    assert_eq!((code, &report["counts"]["existing"]), (Some(0), &json!(20)), "what has ended was there already");
    assert_eq!((each(&report, "runId"), each(&report, "status")), (ids, vec!["done".to_owned(); 20]));
    let (code, report) = dispatch(&world, &file, &["--fire", "f2"]).await;
    assert_eq!((code, &report["counts"]["accepted"]), (Some(0), &json!(20)), "another fire, other runs");
    assert_eq!(runs(&server).await, 40);
    let asked = server.get("/sessions/nightly%2Ff2%2F7/log").await.body.to_string();
    assert!(asked.contains("of f2 [[s:text]]"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_has_expired_was_there_all_the_same() {
    let mut world = World::new().await;
    world.env("TORPOR_RESULT_TTL_SECONDS", "1");
    let server = world.serve().await;
    let file = schedule(&world, "s.json", &json!({"items": [{"prompt": "go [[s:text]]"}]}));
    let (_, first) = dispatch(&world, &file, &["--fire", "f1"]).await;
    let path = format!("/runs/{}", each(&first, "runId")[0]);
    until("the record to expire", async || (server.get(&path).await.status == 404).then_some(())).await;
    let (code, report) = dispatch(&world, &file, &["--fire", "f1"]).await;
    assert_eq!((code, each(&report, "result")), (Some(0), vec!["existing".to_owned()]), "{report:#}");
    assert_eq!(world.model.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_is_attempted_and_a_refused_one_is_named() {
    let world = World::new().await;
    let server = world.serve().await;
    let file = schedule(
        &world,
        "s.json",
        &json!({"items": [
            {"prompt": "go [[s:text]]"}, {"name": "strange", "prompt": "go", "tools": ["teleport"]},
            {"prompt": "go [[s:text]]"},
        ]}),
    );
    let (code, report) = dispatch(&world, &file, &["--fire", "f1"]).await;
    assert_eq!(
        (code, each(&report, "result")),
        (Some(1), ["accepted", "refused", "accepted"].map(Into::into).to_vec())
    );
    assert_eq!(report["items"][1]["code"], "envelope_invalid");
    assert!(report["items"][1]["detail"].as_str().unwrap().contains("teleport"), "{report:#}");
    assert_eq!(runs(&server).await, 2);

    // The fire again with other words for an item: that is another run, under a name that is taken.
    let file = schedule(&world, "s.json", &json!({"items": [{"prompt": "other"}]}));
    let (code, report) = dispatch(&world, &file, &["--fire", "f1"]).await;
    assert_eq!((code, &report["items"][0]["code"]), (Some(1), &json!("idempotency_conflict")));

    let shown = world.run(&["dispatch", file.to_str().unwrap(), "--fire", "f1"]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("refused") && text.contains("idempotency_conflict"), "{text}");
    assert!(err(&shown).contains("1 refused"), "{}", err(&shown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_posts_nothing_and_says_where_it_is_wrong() {
    let world = World::new().await;
    let server = world.serve().await;
    for (name, content, args, want) in [
        ("s.json", r#"{"items": [{"prompt": "go"}, {"promt": "go"}]}"#, &[][..], "s.json: item 2: `promt` is not a"),
        ("s.toml", "items = [", &[], "s.toml: is not TOML"),
        ("s.yaml", "items: []", &[], "YAML is not read"),
        ("s.toml", "[[items]]\nprompt = 'go'", &["--fire", "a b"], "--fire (or TORPOR_FIRE): must be 1 to 100 letters"),
        ("s.toml", "[[items]]\nprompt = 'go'", &["--fire-job", "a/b"], "--fire-job (or TORPOR_FIRE_JOB): must be"),
    ] {
        let path = world.file(name);
        std::fs::write(&path, content).unwrap();
        let done = world.run(&[&["dispatch", path.to_str().unwrap()][..], args].concat()).await;
        assert_eq!(done.status.code(), Some(64), "{name} {}", err(&done));
        assert!(err(&done).contains(want), "{name}: {}", err(&done));
    }
    let none = world.run(&["dispatch", "/nowhere/s.toml"]).await;
    assert_eq!(none.status.code(), Some(64), "{}", err(&none));
    assert_eq!(runs(&server).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_what_would_be_posted_and_the_fire_is_the_schedules_own_time() {
    let mut world = World::new().await;
    let toml = "cron = '0 2 * * *'\ntimezone = 'Europe/Berlin'\n[[items]]\nprompt = 'of __FIRE__'\n";
    let file = world.file("nightly.toml");
    std::fs::write(&file, toml).unwrap();
    let (code, plan) = dispatch(&world, &file, &["--dry-run"]).await; // no server is asked
    let fire = plan["fire"].as_str().unwrap();
    assert_eq!((code, fire.len(), &fire[11..]), (Some(0), 14, "00Z"), "{plan}");
    let envelope = &plan["items"][0]["envelope"];
    assert_eq!(envelope["prompt"], format!("of {fire}"));
    assert_eq!((&envelope["sessionId"], &envelope["async"]), (&json!(format!("nightly/{fire}/1")), &json!(true)));
    let shown = world.run(&["dispatch", file.to_str().unwrap(), "--dry-run"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&format!("of {fire}")));
    assert!(err(&shown).contains("due at") && err(&shown).contains("nothing was posted"), "{}", err(&shown));

    // As a pod of a CronJob's Job is told.
    world.env("TORPOR_FIRE", "");
    world.env("TORPOR_FIRE_JOB", "nightly-29918940");
    let (_, plan) = dispatch(&world, &file, &["--dry-run"]).await;
    assert_eq!(plan["fire"], "20261120T0100Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_learns_how_the_runs_ended() {
    let world = World::new().await;
    let _server = world.serve().await;
    let ok = || json!({"prompt": "go [[s:text]]"});
    let gate = json!({"prompt": format!("go [[s:{};text]]", bash("true")), "approvals": [{"tool": "bash"}]});
    let fails = json!({"prompt": "go [[s:text]]", "tools": [], "outputSchema": {"type": "object"}});
    for (name, items, want, statuses) in [
        ("well", vec![ok(), ok()], 0, &["done", "done"][..]),
        ("waits", vec![ok(), gate.clone()], 3, &["done", "paused"]),
        ("fails", vec![gate, fails, ok()], 1, &["paused", "failed", "done"]),
    ] {
        let file = schedule(&world, &format!("{name}.json"), &json!({"items": items}));
        let (code, report) = dispatch(&world, &file, &["--fire", "f", "--wait"]).await;
        assert_eq!(
            (code, each(&report, "status")),
            (Some(want), statuses.iter().map(|s| (*s).to_owned()).collect()),
            "{name}: {report:#}"
        );
        // Again: what has ended is not waited for again, and says the same.
        assert_eq!(dispatch(&world, &file, &["--fire", "f", "--wait"]).await.0, Some(want), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_decides_what_may_be_posted() {
    let mut world = World::new().await;
    let server = world.serve().await;
    let made = world.run(&["keys", "create", "cron", "--tenant", "acme", "--scope", "runs:write"]).await;
    let key = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    world.env("TORPOR_URL", &server.url);
    let file = schedule(&world, "s.json", &json!({"items": [{"prompt": "go [[s:text]]"}]}));
    let (code, report) = dispatch(&world, &file, &["--fire", "f1"]).await;
    assert_eq!((code, &report["items"][0]["code"]), (Some(1), &json!("unauthorized")), "{report:#}");
    world.env("TORPOR_API_KEY", &key);
    assert_eq!(dispatch(&world, &file, &["--fire", "f1"]).await.0, Some(0));
    let others = schedule(&world, "o.json", &json!({"tenant": "other", "items": [{"prompt": "go [[s:text]]"}]}));
    let (code, report) = dispatch(&world, &others, &["--fire", "f1"]).await;
    assert_eq!((code, &report["items"][0]["code"]), (Some(1), &json!("forbidden")), "{report:#}");
}

/// A server that gives these answers, one a connection; the last for ever. Counts the requests.
async fn answering(answers: &'static [&'static str]) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let answer = answers[n.min(answers.len() - 1)];
            let mut head = vec![0; 64 << 10];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

const BUSY: &str = "HTTP/1.1 503 x\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BUSY_FOR_LONG: &str = "HTTP/1.1 429 x\r\nretry-after: 3600\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const CUT: &str = "";
const TAKEN: &str = "HTTP/1.1 202 x\r\nconnection: close\r\n\r\n{\"status\":\"accepted\",\"runId\":\"run_01\"}";
const PAGE: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 7\r\nconnection: close\r\n\r\nWelcome";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_or_away_is_asked_again_and_a_page_is_no_acceptance() {
    let mut world = World::new().await;
    let file = schedule(&world, "s.json", &json!({"items": [{"prompt": "go"}]}));
    for (answers, patience, want, result, requests) in [
        (&[BUSY, CUT, TAKEN][..], "60", 0, "accepted", 3),
        (&[BUSY_FOR_LONG], "60", 69, "unreached", 1),
        (&[BUSY], "0", 69, "unreached", 1),
        (&[PAGE], "60", 1, "refused", 1),
    ] {
        let (url, asked) = answering(answers).await;
        world.env("TORPOR_URL", &url);
        let (code, report) = dispatch(&world, &file, &["--fire", "f", "--patience", patience]).await;
        let count = asked.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(
            (code, each(&report, "result"), count),
            (Some(want), vec![result.to_owned()], requests),
            "{report:#}"
        );
    }
    world.env("TORPOR_URL", "http://127.0.0.1:1");
    let (code, report) = dispatch(&world, &file, &["--fire", "f", "--patience", "0"]).await;
    assert_eq!((code, each(&report, "result")), (Some(69), vec!["unreached".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_a_dispatch_sees_what_was_posted() {
    let mut world = World::new().await;
    let file = schedule(&world, "s.json", &json!({"items": [{"prompt": "go"}, {"prompt": "go"}]}));
    let (url, asked) = answering(&[TAKEN, BUSY_FOR_LONG]).await;
    world.env("TORPOR_URL", &url);
    let mut command = world.command();
    command.args([
        "dispatch",
        file.to_str().unwrap(),
        "--json",
        "--fire",
        "f",
        "--parallel",
        "1",
        "--patience",
        "86400",
    ]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    until("two requests", async || (asked.load(std::sync::atomic::Ordering::SeqCst) == 2).then_some(())).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let done = child.wait_with_output().await.unwrap();
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (done.status.code(), each(&report, "result")),
        (Some(130), ["accepted", "untried"].map(Into::into).to_vec())
    );
}
