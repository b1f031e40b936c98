//! Sessions over HTTP, with the real server and real hands: forked, removed, moved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Server, World, bash, until, until_file};

async fn entries(server: &Server, session: &str) -> Vec<Value> {
    let page = server.get(&format!("/sessions/{session}/log?limit=500")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    page.body["entries"].as_array().unwrap().clone()
}

async fn turn(server: &Server, session: &str, script: &str) -> Value {
    let answer = server.post("/turn", &json!({"sessionId": session, "prompt": format!("on [[s:{script}]]")})).await;
    assert_eq!((answer.status, answer.body["stopReason"].as_str()), (200, Some("end_turn")), "{}", answer.body);
    answer.body
}

async fn text(server: &Server, path: &str) -> String {
    let response = server.stream(path).await;
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

/// Everything that the model was told in its last request.
fn told(world: &World) -> String {
    world.model.recorded().last().unwrap().json().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_remembers_what_it_shares_and_nothing_else() {
    let world = World::new().await;
    let server = world.serve().await;
    let envelope = json!({"sessionId": "s", "prompt": "the word is aubergine [[s:text]]"});
    assert_eq!(server.post("/runs", &envelope).await.status, 200);
    let head = entries(&server, "s").await.len() as u64;
    server.post("/turn", &json!({"sessionId": "s", "prompt": "the other is turnip [[s:text]]"})).await;

    let body = json!({"fromPosition": head, "sessionId": "f"});
    let forked = server.post("/sessions/s/fork", &body).await;
    let origin = json!({"sessionId": "s", "position": head});
    assert_eq!((forked.status, &forked.body["forkedFrom"]), (201, &origin), "{}", forked.body);
    let again = server.post("/sessions/s/fork", &body).await;
    assert_eq!((again.status, again.body), (200, forked.body));
    for (body, status, code) in [
        (json!({"fromPosition": 1, "sessionId": "f"}), 409, "idempotency_conflict"),
        (json!({"fromPosition": 1, "sessionId": "s"}), 409, "idempotency_conflict"),
        (json!({"fromPosition": 0}), 400, "envelope_invalid"),
        (json!({"fromPosition": 9_999}), 400, "envelope_invalid"),
    ] {
        let refused = server.post("/sessions/s/fork", &body).await;
        assert_eq!((refused.status, refused.body["code"].as_str()), (status, Some(code)), "{body}");
    }
    turn(&server, "f", "text").await;
    assert!(told(&world).contains("aubergine") && !told(&world).contains("turnip"));
    let (s, f) = (entries(&server, "s").await, entries(&server, "f").await);
    assert_eq!(s[..head as usize], f[..head as usize]);

    let it = server.get("/sessions/f").await.body;
    assert_eq!((&it["forkedFrom"], &it["entries"], &it["busy"]), (&origin, &json!(f.len()), &json!(false)), "{it}");
    assert_eq!(server.get("/sessions/s").await.body["forks"], 1);
    let page = server.get("/sessions?limit=1").await.body;
    assert_eq!((page["sessions"][0]["sessionId"].as_str(), page["sessions"].as_array().unwrap().len()), (Some("f"), 1));
    let page = server.get(&format!("/sessions?cursor={}", page["nextCursor"].as_str().unwrap())).await.body;
    assert_eq!((page["sessions"][0]["sessionId"].as_str(), &page["nextCursor"]), (Some("s"), &Value::Null));

    // The origin goes, the fork stays; a server that starts anew knows the same.
    let gone = server.call(Method::DELETE, "/sessions/s", None).await;
    assert_eq!((gone.status, &gone.body["kept"]["entries"]), (200, &json!(head)), "{}", gone.body);
    server.kill().await;
    let server = world.serve().await;
    assert_eq!(entries(&server, "f").await, f);
    assert_eq!(server.get("/sessions/s").await.status, 404);
    turn(&server, "f", "text").await;
    assert!(told(&world).contains("aubergine"));
}

/// In the middle of a command of the origin, which is then neither ended nor attached to by the fork.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_forked_while_its_command_runs() {
    let world = World::new().await;
    let server = world.serve().await;
    let slow = bash("echo started >> ledger; until [ -e release ]; do sleep 0.02; done; echo ended >> ledger");
    let mut envelope = world.prompt(&format!("{slow};text"));
    envelope["sessionId"] = json!("s");
    let run = server.submit(envelope).await;
    until_file(&world.file("ledger")).await;
    let head = entries(&server, "s").await.len();
    let busy = server.call(Method::DELETE, "/sessions/s", None).await;
    assert_eq!((busy.status, busy.body["code"].as_str()), (409, Some("session_busy")), "{}", busy.body);
    assert_eq!(busy.body["runId"], json!(run));

    assert_eq!(server.post("/sessions/s/fork", &json!({"fromPosition": head, "sessionId": "f"})).await.status, 201);
    turn(&server, "f", &format!("{};text", bash("pwd > mine; cat mine"))).await;
    assert!(told(&world).contains("the run ended before this call did"), "{}", told(&world));
    assert!(!world.file("mine").exists(), "a fork has a workspace of its own");
    assert_eq!((world.count("ledger", "started"), world.count("ledger", "ended")), (1, 0));
    std::fs::write(world.file("release"), "").unwrap();
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    assert_eq!((world.count("ledger", "started"), world.count("ledger", "ended")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_session_leaves_nothing_and_its_name_is_free() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let work =
        || json!({"sessionId": "s", "prompt": format!("go [[s:{};text]]", bash("echo x >> count; wc -l count"))});
    let first = server.post("/runs", &work()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let workspaces = || files_named("count", &world.data()).len();
    assert_eq!(workspaces(), 1);

    let gone = server.call(Method::DELETE, "/sessions/s", None).await;
    assert_eq!((gone.status, &gone.body["removed"]["runs"]), (200, &json!(1)), "{}", gone.body);
    assert_eq!((&gone.body["sandbox"]["status"], &gone.body["kept"]), (&json!("forgotten"), &Value::Null));
    assert_eq!(gone.body["sandbox"]["workspace"], true, "{}", gone.body);
    assert_eq!(workspaces(), 0);
    for path in ["/sessions/s", "/sessions/s/log", "/sessions/s/export", &format!("/runs/{}", first.body["runId"])] {
        assert_eq!(server.get(&path.replace('"', "")).await.status, 404, "{path}");
    }
    assert_eq!(server.call(Method::DELETE, "/sessions/s", None).await.status, 404);
    assert_eq!(world.sqlite("SELECT (SELECT count(*) FROM entry) + (SELECT count(*) FROM garbage)"), 0);

    // The very same post is a new run now, with call ids that the hands must not know.
    let second = server.post("/runs", &work()).await;
    assert_eq!(second.status, 200, "{}", second.body);
    assert!(first.body["runId"] != second.body["runId"]);
    assert!(told(&world).contains("1 count") && !told(&world).contains("2 count"), "{}", told(&world));
}

fn files_named(name: &str, under: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(dir) = std::fs::read_dir(under) else { return Vec::new() };
    let paths = dir.filter_map(|e| Some(e.ok()?.path()));
    paths
        .flat_map(|p| if p.is_dir() { files_named(name, &p) } else { vec![p] })
        .filter(|p| p.file_name().is_some_and(|n| n == name))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_session_goes_on_elsewhere() {
    let here = World::embedded().await;
    let server = here.serve().await;
    let script = format!("{};text", bash("echo carrot"));
    let envelope = json!({"sessionId": "s", "prompt": format!("aubergine [[s:{script}]]"), "maxTurns": 7});
    assert_eq!(server.post("/runs", &envelope).await.status, 200);
    let file = text(&server, "/sessions/s/export").await;
    assert_eq!(file.lines().count(), entries(&server, "s").await.len() + 2);

    let there = World::embedded().await;
    let server = there.serve().await;
    let import = async |path: &str, file: &str| {
        let request = server.request(Method::POST, path).body(file.to_owned());
        let response = request.header("content-type", "application/x-ndjson").send().await.unwrap();
        (response.status().as_u16(), serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap())
    };
    let (status, made) = import("/sessions/import?sessionId=copy", &file).await;
    assert_eq!((status, &made["sessionId"]), (201, &json!("copy")), "{made}");
    let again = text(&server, "/sessions/copy/export").await;
    let bodies =
        |file: &str| file.lines().filter(|l| l.starts_with("{\"entry\"")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(bodies(&again), bodies(&file));
    turn(&server, "copy", &format!("{};text", bash("echo here"))).await;
    assert!(told(&there).contains("aubergine") && told(&there).contains("carrot"));
    let spec = there.sqlite("SELECT spec ->> '$.budget.maxTurns' FROM run");
    assert_eq!(spec, 7, "what the session wished for came with it");

    let (status, refused) = import("/sessions/import?sessionId=copy", &file).await;
    assert_eq!((status, &refused["code"]), (409, &json!("idempotency_conflict")), "{refused}");
    let cut = &file[..file.trim_end().rfind('\n').unwrap() + 1];
    let (status, refused) = import("/sessions/import?sessionId=other", cut).await;
    assert_eq!((status, &refused["code"]), (400, &json!("import_invalid")), "{refused}");
    let changed = file.replacen("carrot", "turnip", 1);
    assert_eq!(import("/sessions/import?sessionId=other", &changed).await.0, 400);
    assert_eq!(server.get("/sessions/other").await.status, 404);
}

/// A crash between the store's step and the hands': whoever comes next asks the hands, and until they have forgotten
/// nobody takes the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_a_removal_is_made_good() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let work =
        || json!({"sessionId": "s", "prompt": format!("go [[s:{};text]]", bash("echo x >> count; wc -l count"))});
    assert_eq!(server.post("/runs", &work()).await.status, 200);
    // Stopped hands answer nobody: the removal stands between its two steps for as long as that lasts.
    let hands = world.hands().unwrap();
    hands.signal(rustix::process::Signal::STOP);
    let removal = tokio::spawn(server.request(Method::DELETE, "/sessions/s").send());
    until("the store's step", async || (world.sqlite("SELECT count(*) FROM forgetting") == 1).then_some(())).await;
    assert_eq!(server.get("/sessions/s").await.status, 404);
    let refused = server.post("/runs", &work()).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("unavailable")), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    server.kill().await;
    assert!(removal.await.unwrap().is_err(), "its client hears nothing");

    let server = world.serve().await;
    assert_eq!(server.post("/runs", &work()).await.status, 503, "still");
    hands.signal(rustix::process::Signal::CONT);
    let second = until("the hands to forget", async || {
        let answer = server.post("/runs", &work()).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!(second.status, 200, "{}", second.body);
    assert!(told(&world).contains("1 count") && !told(&world).contains("2 count"), "{}", told(&world));
}

/// Killed in the middle of an upload: nothing is seen of it, and nothing stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_an_import_leaves_nothing() {
    let world = World::embedded().await;
    let server = world.serve().await;
    let envelope = json!({"sessionId": "s", "prompt": "aubergine [[s:text]]"});
    assert_eq!(server.post("/runs", &envelope).await.status, 200);
    let file = text(&server, "/sessions/s/export").await;
    let before = world.sqlite("SELECT count(*) FROM entry");
    // So many entries that some are handed on before the end.
    let mut lines: Vec<String> = file.lines().map(|l| format!("{l}\n")).collect();
    lines.pop();
    let entry = lines.pop().unwrap();
    let position = lines.len();
    let more = (position..position + 600)
        .map(|n| entry.replace(&format!("\"position\":{position}"), &format!("\"position\":{n}")));
    let body = lines.concat() + &more.collect::<String>();
    let stream =
        futures::StreamExt::chain(futures::stream::iter([Ok::<_, std::io::Error>(body)]), futures::stream::pending());
    let request = server.request(Method::POST, "/sessions/import?sessionId=i").body(reqwest::Body::wrap_stream(stream));
    let upload = tokio::spawn(request.send());
    until("entries to be handed on", async || (world.sqlite("SELECT count(*) FROM entry") > before).then_some(()))
        .await;
    assert_eq!(server.get("/sessions/i").await.status, 404);
    server.kill().await;
    assert!(upload.await.unwrap().is_err());

    let server = world.serve().await;
    until("what is left to be swept up", async || (world.sqlite("SELECT count(*) FROM garbage") == 0).then_some(()))
        .await;
    assert_eq!(world.sqlite("SELECT count(*) FROM entry"), before);
    assert_eq!(server.get("/sessions/i").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_sessions_are_bounded() {
    let mut world = World::new().await;
    world.env("TORPOR_MAX_QUEUED", "1");
    world.env("TORPOR_SESSION_TTL_SECONDS", "1");
    let server = world.serve().await;
    let held = json!({"sessionId": "held", "prompt": "[[s:hold=it]]"});
    let run = server.submit(held.clone()).await;
    for path in ["/runs", "/turn"] {
        let full = server.post(path, &json!({"prompt": "hi"})).await;
        assert_eq!((full.status, full.body["code"].as_str()), (503, Some("unavailable")), "{}", full.body);
        assert!(full.headers.contains_key("retry-after"));
    }
    assert_eq!(server.submit(held).await, run, "what was accepted is recognised");
    assert_eq!(server.get("/sessions/held").await.body["busy"], true, "what runs is not idle");
    world.model.release("it");
    assert_eq!(server.ended(&run).await["status"], json!("done"));
    until("the idle session to go", async || (server.get("/sessions/held").await.status == 404).then_some(())).await;
    until("room", async || (server.post("/turn", &json!({"prompt": "hi"})).await.status == 200).then_some(())).await;
}
