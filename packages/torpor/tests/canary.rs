//! Credentials are in none of the places where people and commands look: logs at their loudest, answers, events, the
//! store, the hands' folder, a command's environment, what the program says of itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use support::{Server, World, bash, script_tool, until_file};
use torpor_testkit::model_server::script;

/// What every secret here contains, and nothing else does.
const CANARY: &str = "hunter2-canary";

/// Everything that was seen, by where.
#[derive(Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn note(&mut self, place: impl Into<String>, what: impl Into<Vec<u8>>) {
        self.0.push((place.into(), what.into()));
    }

    /// Every file below a folder.
    fn folder(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.folder(&path),
                Ok(kind) if kind.is_file() => {
                    self.note(path.display().to_string(), std::fs::read(&path).unwrap_or_default())
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        for (place, what) in &self.0 {
            for form in [CANARY.as_bytes(), script::encode(CANARY).trim_end_matches('=').as_bytes()] {
                let found = what.windows(form.len()).position(|w| w == form);
                let around = found.map(|at| {
                    String::from_utf8_lossy(&what[at.saturating_sub(200)..(at + 100).min(what.len())]).into_owned()
                });
                assert_eq!(around, None, "a credential is in {place}");
            }
        }
    }
}

/// Asks, as a client that sends a credential of its own, and notes the answer with its headers.
async fn ask(server: &Server, seen: &mut Seen, method: Method, path: &str, body: Option<&str>) -> Value {
    let client = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
    let mut request = client
        .request(method.clone(), format!("{}{path}", server.url))
        .header("authorization", format!("Bearer {CANARY}-client"))
        .header("x-api-key", format!("{CANARY}-client"))
        .header("cookie", format!("session={CANARY}"));
    if let Some(body) = body {
        request = request.body(body.to_owned());
    }
    let response = request.send().await.unwrap();
    let head = format!("{:?} {:?}", response.status(), response.headers());
    let body = response.bytes().await.unwrap();
    seen.note(format!("the answer to {method} {path}"), [head.as_bytes(), &body].concat());
    serde_json::from_slice(&body).unwrap_or_default()
}

/// Submits a script and waits for its end; follows it, and reads its record and its log.
async fn run(world: &World, server: &Server, seen: &mut Seen, provider: &str, script: &str) -> Value {
    let mut envelope = world.prompt(script);
    envelope["provider"] = json!(provider);
    envelope["model"] = json!("m");
    let ended = ask(server, seen, Method::POST, "/runs", Some(&envelope.to_string())).await;
    let id = ended["runId"].as_str().unwrap_or_else(|| panic!("{script}: {ended}"));
    let session = ended["sessionId"].as_str().unwrap();
    for path in [format!("/runs/{id}"), format!("/runs/{id}/events"), format!("/sessions/{session}/log")] {
        ask(server, seen, Method::GET, &path, None).await;
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_anywhere() {
    let mut world = World::embedded().await;
    for (name, value) in [
        ("ANTHROPIC_API_KEY", format!("sk-ant-{CANARY}")),
        ("OPENAI_API_KEY", format!("sk-{CANARY}")),
        ("ANTHROPIC_AUTH_TOKEN", format!("gateway-{CANARY}")),
        ("AWS_SECRET_ACCESS_KEY", CANARY.to_owned()),
        ("OPENAI_BASE_URL", world.model.base_url()),
        ("TORPOR_LOG", "trace".to_owned()),
        ("TORPOR_MODEL_ATTEMPTS", "2".to_owned()),
        ("TORPOR_MODEL_IDLE_SECONDS", "1".to_owned()),
        ("TORPOR_DRAIN_SECONDS", "1".to_owned()),
    ] {
        world.env(name, &value);
    }
    let server = world.serve().await;
    let mut seen = Seen::default();

    let look = "env; cat /proc/self/environ /proc/$PPID/environ /proc/1/environ; cat /proc/[0-9]*/environ; \
                set; cat /proc/[0-9]*/cmdline; true";
    let truncated = format!("truncjson={}", script::encode("echo "));
    let scripts = [
        format!("{};{};text", bash(&format!("({look}) > seen 2>&1; cat seen")), script_tool("no_such", &json!({}))),
        "leak".to_owned(),
        truncated,
    ];
    let faults = ["err=401", "err=500", "retry429=1;text", "cut", "garbled", "html", "empty", "overloaded", "hangmid"];
    let all = ["anthropic", "openai"]
        .into_iter()
        .flat_map(|provider| scripts.iter().map(String::as_str).chain(faults).map(move |script| (provider, script)));
    let runs = all.map(|(provider, script)| {
        let (world, server) = (&world, &server);
        async move {
            let mut seen = Seen::default();
            run(world, server, &mut seen, provider, script).await;
            seen
        }
    });
    seen.0.extend(join_all(runs).await.into_iter().flat_map(|s| s.0));
    let sent = world.model.recorded();
    let header = |r: &torpor_testkit::model_server::Recorded| r.header("authorization").map(|v| v.contains(CANARY));
    assert!(sent.iter().all(|r| header(r) == Some(true)), "the credentials were in use");
    for (method, path, body) in [
        (Method::POST, "/turn", Some("{\"prompt\":\"hi\"}")),
        (Method::POST, "/turn", Some("nonsense")),
        (Method::POST, "/runs", Some("{\"prompt\":\"x\",\"unknown\":1}")),
        (Method::POST, "/runs", Some("{\"prompt\":\"x\",\"provider\":\"nobody\"}")),
        (Method::GET, "/runs", None),
        (Method::GET, "/readyz", None),
        (Method::GET, "/metrics", None),
        (Method::GET, "/nowhere", None),
        (Method::DELETE, "/turn", None),
        (Method::GET, "/runs/run_nobody", None),
    ] {
        ask(&server, &mut seen, method, path, body).await;
    }
    // Hands that die, a command that is cancelled, a model that is gone, and an end by SIGTERM.
    let lost = server.submit(world.prompt(&format!("{};text", bash("touch lost; sleep 60")))).await;
    until_file(&world.file("lost")).await;
    world.kill_hands();
    server.ended(&lost).await;
    let cancelled = server.submit(world.prompt(&format!("{};text", bash("touch begun; sleep 60")))).await;
    until_file(&world.file("begun")).await;
    ask(&server, &mut seen, Method::POST, &format!("/runs/{cancelled}/cancel"), Some("{}")).await;
    for args in [&["serve", "--print-config"][..], &["doctor"], &["doctor", "--json"], &["runs", "list"], &["serve"]] {
        let out = world.run(args).await;
        seen.note(format!("the output of {args:?}"), [out.stdout, out.stderr].concat());
    }
    assert_eq!(server.terminate().await.0, Some(0));
    world.env("ANTHROPIC_BASE_URL", "http://127.0.0.1:9");
    let server = world.serve().await;
    run(&world, &server, &mut seen, "anthropic", "text").await;
    server.kill().await;

    let environment = String::from_utf8_lossy(&std::fs::read(world.file("seen")).unwrap()).into_owned();
    assert!(environment.contains("PATH=") && environment.contains("BASH"), "{environment:.300}");
    seen.note("what a command can see", environment);
    let log = world.log();
    assert!(log.contains("TRACE") && log.len() > 20_000, "{} bytes of log", log.len());
    seen.note("the log", log);
    seen.folder(&world.data());
    assert!(seen.0.iter().any(|(place, what)| place.ends_with("store.db") && !what.is_empty()));
    seen.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_refused_is_not_repeated_where_it_may_hold_a_secret() {
    for (name, value) in [
        ("ANTHROPIC_BASE_URL", format!("https://me:{CANARY}@gateway.example/v1")),
        ("OPENAI_BASE_URL", format!("https://me:{CANARY}@gateway.example/v1")),
        ("ANTHROPIC_BASE_URL", format!("https://gateway.example/?key={CANARY}")),
        ("ANTHROPIC_API_KEY", format!("{CANARY}\nx")),
        ("ANTHROPIC_AUTH_TOKEN", format!("{CANARY}\rx")),
        ("OPENAI_API_KEY", format!("{CANARY}\nx")),
        ("REDIS_URL", format!("redis://:{CANARY}@redis.example")),
    ] {
        let mut world = World::new().await;
        world.env("TORPOR_LOG", "trace");
        world.env(name, &value);
        let mut seen = Seen::default();
        for args in [&["serve"][..], &["serve", "--print-config"], &["doctor", "--json"], &["run", "hello"]] {
            let out = world.run(args).await;
            let said = [out.stdout, out.stderr].concat();
            if args == ["serve"] {
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(!out.status.success() && said.contains(name), "{name}: {said}");
            }
            seen.note(format!("the output of {args:?} with {name}"), said);
        }
        seen.check();
    }
}
