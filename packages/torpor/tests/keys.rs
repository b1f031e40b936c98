//! API keys with the real binary: from the first one to the last, from a file, and never in a log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use support::{Server, World, until};

/// Asks as whoever has this key.
struct As<'a>(&'a Server, &'a str);

impl As<'_> {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
        let request = http.request(method, format!("{}{path}", self.0.url)).timeout(Duration::from_secs(30));
        if self.1.is_empty() { request } else { request.header("authorization", format!("Bearer {}", self.1)) }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let response = self.request(method, path).body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, &Value::Null).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, path, body).await
    }
}

/// Runs a command that must succeed, and reads its JSON.
async fn torpor(world: &World, args: &[&str]) -> Value {
    let out = world.run(&[args, &["--json"]].concat()).await;
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

/// Everything under a folder that holds `needle`.
fn holders(dir: &Path, needle: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            holders(&path, needle, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_its_making_to_its_end() {
    let world = World::new().await;
    let first = torpor(&world, &["keys", "create", "first", "--tenant", "acme", "--scope", "admin"]).await;
    let first = text(&first["secret"]);
    let server = world.serve().await;
    assert_eq!(As(&server, "").get("/runs").await.1["code"], json!("unauthorized"));
    assert_eq!(As(&server, first).get("/runs").await, (200, json!({"runs": []})));
    let (status, turn) = As(&server, first).post("/turn", &json!({"prompt": "hello"})).await;
    assert_eq!(status, 200, "{turn}");
    let run = format!("/runs/{}", text(&turn["runId"]));
    assert_eq!(As(&server, first).get(&run).await.1["tenant"], json!("acme"));

    // On the server's machine nobody needs a key: the folder's owner is known by the folder.
    assert_eq!(torpor(&world, &["runs", "list"]).await["runs"].as_array().unwrap().len(), 1);
    let other = torpor(&world, &["keys", "create", "other", "--tenant", "b", "--rate", "7/9"]).await;
    let (other, id) = (text(&other["secret"]).to_owned(), text(&other["key"]["id"]).to_owned());
    let seen = As(&server, &other).request(Method::GET, &run).send().await.unwrap();
    assert_eq!((seen.status().as_u16(), seen.headers()["x-ratelimit-limit"].to_str().unwrap()), (404, "9"));

    let new = torpor(&world, &["keys", "rotate", &id, "--overlap-seconds", "0"]).await;
    assert_eq!(As(&server, &other).get("/runs").await.0, 401);
    let new = text(&new["secret"]).to_owned();
    assert_eq!(As(&server, &new).get("/runs").await.0, 200);
    assert_eq!(torpor(&world, &["keys", "revoke", &id]).await["status"], json!("revoked"));
    assert_eq!(As(&server, &new).get("/runs").await.0, 401);
    let listed = torpor(&world, &["keys", "list"]).await;
    let states: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|k| text(&k["status"]).to_owned()).collect();
    assert_eq!(states, ["live", "revoked"]);

    server.terminate().await;
    // The same without a server; and what was printed once is nowhere.
    torpor(&world, &["keys", "revoke", &id]).await;
    assert_eq!(torpor(&world, &["keys", "list", "--tenant", "b"]).await["keys"].as_array().unwrap().len(), 1);
    let (code, said) = failed(&world, &["keys", "revoke", "0123456789abcdef"]).await;
    assert!(code == 64 && said.contains("no key with this id"), "{said}");
    let mut found = Vec::new();
    for secret in [first, &other, &new] {
        holders(&world.data(), &secret[21..], &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
}

async fn failed(world: &World, args: &[&str]) -> (i32, String) {
    let out = world.run(args).await;
    assert!(!out.status.success(), "{args:?}");
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_show_the_key_of_the_environment_and_say_what_is_wrong_with_it() {
    let mut world = World::new().await;
    let made = torpor(&world, &["keys", "create", "ci", "--tenant", "acme", "--scope", "runs:read"]).await;
    let server = world.serve().await;
    let url = server.url.clone();
    let (code, said) = failed(&world, &["runs", "list", "--url", &url]).await;
    assert!(code == 64 && said.contains("[unauthorized]"), "{said}");
    world.env("TORPOR_API_KEY", text(&made["secret"]));
    assert_eq!(torpor(&world, &["runs", "list", "--url", &url]).await["runs"], json!([]));
    let (code, said) = failed(&world, &["runs", "cancel", "run_1", "--url", &url]).await;
    assert!(code == 64 && said.contains("`runs:write`") && said.contains("[forbidden]"), "{said}");
}

/// An address that is nobody's: whoever may listen on it fails only then.
#[tokio::test(flavor = "multi_thread")]
async fn a_bind_beyond_loopback_wants_a_key_or_the_explicit_flag() {
    let mut world = World::new().await;
    world.env("TORPOR_BIND", "192.0.2.1");
    let (code, said) = failed(&world, &["serve"]).await;
    assert!(code == 64 && said.contains("192.0.2.1 is not loopback and there is no API key that works"), "{said}");
    let (code, said) = failed(&world, &["serve", "--insecure-no-auth"]).await;
    assert!(code == 69 && said.contains("cannot listen on 192.0.2.1"), "{said}");
    let made = torpor(&world, &["keys", "create", "ci", "--tenant", "acme"]).await;
    let (code, said) = failed(&world, &["serve"]).await;
    assert!(code == 69 && said.contains("cannot listen on 192.0.2.1"), "{said}");
    torpor(&world, &["keys", "revoke", text(&made["key"]["id"])]).await;
    assert_eq!(failed(&world, &["serve"]).await.0, 64, "a revoked key protects nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_is_followed_while_the_server_runs() {
    let mut world = World::new().await;
    let entry =
        async |world: &World, name: &str| torpor(world, &["keys", "create", name, "--tenant", "acme", "--entry"]).await;
    let (one, two) = (entry(&world, "one").await, entry(&world, "two").await);
    assert!(!world.data().exists(), "no store was touched");
    let (file, swap) = (world.file("keys.toml"), world.file("keys.new"));
    let write = |text: &str| {
        std::fs::write(&swap, text).unwrap();
        std::fs::rename(&swap, &file).unwrap();
    };
    world.env("TORPOR_API_KEYS_FILE", file.to_str().unwrap());
    let (code, said) = failed(&world, &["serve"]).await;
    assert!(code == 64 && said.contains("keys.toml: No such file"), "{said}");
    write(text(&one["entry"]));
    let server = world.serve().await;
    let status = async |key: &Value| As(&server, text(&key["secret"])).get("/runs").await.0;
    assert_eq!((status(&one).await, status(&two).await), (200, 401));

    write(text(&two["entry"]));
    until("the new file to count", async || (status(&two).await == 200).then_some(())).await;
    assert_eq!(status(&one).await, 401);
    let (code, said) = failed(&world, &["keys", "revoke", text(&two["key"]["id"])]).await;
    assert!(code == 64 && said.contains("keys file"), "{said}");

    write("[[key]]\nsecret = \"canary\"\n");
    until("the damage to be noticed", async || {
        assert_eq!(status(&two).await, 200, "what was good stays");
        world.log().contains("keys file cannot be read").then_some(())
    })
    .await;
    write("");
    until("the empty file to count", async || (status(&two).await == 401).then_some(())).await;
    assert_eq!(As(&server, "").get("/runs").await.0, 401, "no keys in the file is not no questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_sent_away_soon_after_its_key_was_revoked() {
    let world = World::new().await;
    let made = torpor(&world, &["keys", "create", "ci", "--tenant", "acme"]).await;
    let server = world.serve().await;
    let key = As(&server, text(&made["secret"]));
    let mut envelope = world.prompt("delay=20000;text");
    envelope["async"] = json!(true);
    let run = key.post("/runs", &envelope).await.1["runId"].clone();
    let response = key.request(Method::GET, &format!("/runs/{}/events", text(&run))).send().await.unwrap();
    let mut events = response.bytes_stream();
    assert!(events.next().await.unwrap().is_ok(), "it follows");
    torpor(&world, &["keys", "revoke", text(&made["key"]["id"])]).await;
    let revoked = Instant::now();
    while let Some(Ok(_)) = events.next().await {}
    assert!(revoked.elapsed() < Duration::from_secs(10), "{:?}", revoked.elapsed());
}

/// Whatever is shown as a credential, at whatever route, at the most talkative level: it is in no log, no answer, no
/// event and no store.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_ever_written_down() {
    let mut world = World::new().await;
    world.env("TORPOR_LOG", "trace");
    let made = torpor(&world, &["keys", "create", "canary", "--tenant", "acme", "--scope", "admin"]).await;
    let good = text(&made["secret"]).to_owned();
    let wrong = format!("{}{}", &good[..21], "c0ffee".repeat(11).get(..64).unwrap());
    let foreign = "sk-canary-of-another-service-0123456789";
    let server = world.serve().await;
    let owner = As(&server, &good);
    let (_, done) = owner.post("/turn", &json!({"prompt": "hello"})).await;
    let (run, session) = (text(&done["runId"]).to_owned(), text(&done["sessionId"]).to_owned());
    let mut answers = String::new();
    for key in [&good, &wrong, foreign] {
        for (method, path) in [
            ("GET", "/health"),
            ("GET", "/readyz"),
            ("GET", "/runs"),
            ("POST", "/runs"),
            ("POST", "/turn"),
            ("GET", "/keys"),
            ("POST", "/keys"),
            ("GET", "/runs/status?sessionId={session}"),
            ("GET", "/runs/{run}"),
            ("GET", "/runs/{run}/events"),
            ("POST", "/runs/{run}/cancel"),
            ("GET", "/sessions/{session}"),
            ("GET", "/sessions/{session}/log"),
            ("POST", "/keys/0123456789abcdef/rotate"),
            ("DELETE", "/keys/0123456789abcdef"),
            ("PUT", "/runs"),
            ("GET", "/nope"),
        ] {
            let path = path.replace("{run}", &run).replace("{session}", &session);
            for header in ["authorization", "x-api-key", "proxy-authorization", "cookie"] {
                let value = if header == "authorization" { format!("Bearer {key}") } else { key.to_owned() };
                let request = As(&server, "").request(method.parse().unwrap(), &path).header(header, value);
                let response = request.body("{\"prompt\": 1}").send().await.unwrap();
                answers += &format!("{:?} {}\n", response.headers().clone(), response.text().await.unwrap());
            }
        }
    }
    server.terminate().await;
    let log = world.log();
    assert!(log.contains("DEBUG") && log.contains("/keys"), "the log was on");
    for secret in [&good[21..], &wrong[21..], foreign] {
        assert!(!log.contains(secret), "in the log");
        assert!(!answers.contains(secret), "in an answer");
        let mut found = Vec::new();
        holders(&world.data(), secret, &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
