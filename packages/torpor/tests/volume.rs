//! Envelopes on a shared volume, with the real server: inputs, results, markers and gates as files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use support::{Server, World, bash, script_tool, until, until_file};
use torpor_testkit::exposition::read;
use torpor_testkit::model_server::script;

/// A world with a volume, which is its own folder of the project.
async fn world() -> World {
    let mut world = World::new().await;
    let root = world.file("volume");
    fs::create_dir(&root).unwrap();
    world.env("TORPOR_WORK_ROOT", root.to_str().unwrap());
    world
}

fn at(world: &World, path: &str) -> PathBuf {
    world.file("volume").join(path)
}

fn put(world: &World, path: &str, text: impl AsRef<[u8]>) {
    fs::create_dir_all(at(world, path).parent().unwrap()).unwrap();
    fs::write(at(world, path), text).unwrap();
}

fn json_at(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Waits for the marker; answers the result and the marker.
async fn finished(world: &World, result: &str) -> (Value, Value) {
    let marker = at(world, &format!("{result}.status"));
    until_file(&marker).await;
    (json_at(&at(world, result)), json_at(&marker))
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_come_from_a_file_and_the_result_goes_to_one() {
    let world = world().await;
    let server = world.serve().await;
    put(&world, "in/a.json", json!({"prompt": "go [[s:text]]"}).to_string());
    let envelope = json!({"inputsRef": "in/a.json", "resultRef": "out/deep/a.json", "sessionId": "a"});
    let answer = server.post("/runs", &envelope).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("done")), "{}", answer.body);

    // The answer came when the files were there.
    let (result, marker) = (json_at(&at(&world, "out/deep/a.json")), json_at(&at(&world, "out/deep/a.json.status")));
    assert_eq!(result, answer.body, "the file says what HTTP answers");
    let record = server.get(&format!("/runs/{}", answer.body["runId"].as_str().unwrap())).await.body;
    assert_eq!((&record["kind"], &record["resultRef"]), (&json!("inputs"), &json!("out/deep/a.json")));
    assert_eq!(record["files"], json!({"event": "run.ended", "state": "sent", "attempts": 1}));
    let want = json!({"status": "done", "sessionId": "a", "runId": answer.body["runId"]});
    for field in ["status", "sessionId", "runId"] {
        assert_eq!(marker[field], want[field]);
    }
    assert!(marker["finishedAt"].as_str().is_some_and(|at| at.ends_with('Z')), "{marker}");
    let mut names: Vec<_> = fs::read_dir(at(&world, "out/deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.json", "a.json.status"], "nothing else is left there");

    // The same post again is the same run, whatever has become of its files.
    for path in ["in/a.json", "out/deep/a.json", "out/deep/a.json.status"] {
        fs::remove_file(at(&world, path)).unwrap();
    }
    let again = server.post("/runs", &envelope).await;
    assert_eq!(again.body, answer.body);
    let absolute = at(&world, "out/deep/a.json");
    let other = server.post("/runs", &json!({"inputsRef": "in/a.json", "resultRef": absolute, "sessionId": "a"})).await;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("idempotency_conflict")));

    let page = read(&server.stream("/metrics").await.text().await.unwrap()).unwrap();
    assert_eq!(page.sum("torpor_file_attempts_total", &[("outcome", "sent")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_with_nothing_but_files_sees_every_end() {
    let world = world().await;
    let server = world.serve().await;
    put(&world, "in/good.json", json!({"prompt": "go [[s:text]]"}).to_string());
    put(&world, "in/torn.json", "{\"prompt\": ");
    let path = |n: &str| at(&world, n).to_str().unwrap().to_owned();
    for (name, inputs) in
        [("good", path("in/good.json")), ("torn", path("in/torn.json")), ("none", path("in/none.json"))]
    {
        let result = path(&format!("out/{name}.json"));
        server.submit(json!({"inputsRef": inputs, "resultRef": result})).await;
    }
    assert_eq!(finished(&world, "out/good.json").await.0["status"], "done");
    for (name, want) in [("torn", "`file` must be JSON"), ("none", "does not exist")] {
        let (result, marker) = finished(&world, &format!("out/{name}.json")).await;
        assert_eq!(
            (&result["status"], &result["reason"], &marker["status"]),
            (&json!("failed"), &json!("bad_inputs"), &json!("failed"))
        );
        let message = result["message"].as_str().unwrap();
        assert!(message.contains(want) && message.contains(&format!("in/{name}.json")), "{message}");
        assert!(!message.contains("volume/in"), "a path of the machine: {message}");
    }

    // One that is cancelled before it began, and one that is cancelled at work.
    let waiting = json!({"prompt": "x", "notBefore": "2999-01-01T00:00:00Z", "resultRef": "out/waiting.json"});
    let waiting = server.submit(waiting).await;
    let mut working = world.prompt(&format!("{};text", bash("touch began; sleep 60")));
    working["resultRef"] = json!("out/working.json");
    let working = server.submit(working).await;
    until_file(&world.file("began")).await;
    for (run, name) in [(waiting, "waiting"), (working, "working")] {
        server.post(&format!("/runs/{run}/cancel"), &json!({})).await;
        let (result, marker) = finished(&world, &format!("out/{name}.json")).await;
        assert_eq!((&result["status"], &marker["runId"]), (&json!("cancelled"), &json!(run)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_at_once() {
    let world = world().await;
    let server = world.serve().await;
    for (envelope, field) in [
        (json!({"inputsRef": "../a"}), "inputsRef"),
        (json!({"inputsRef": "/etc/passwd"}), "inputsRef"),
        (json!({"prompt": "x", "resultRef": "a/../../b"}), "resultRef"),
        (json!({"prompt": "x", "resultRef": "a/"}), "resultRef"),
        (json!({"prompt": "x", "inputsRef": "a"}), "inputsRef"),
        (json!({"inputsRef": "a", "resultRef": "./a"}), "resultRef"),
    ] {
        let answer = server.post("/runs", &envelope).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (400, &json!("envelope_invalid")),
            "{envelope}: {}",
            answer.body
        );
        assert_eq!(answer.body["errors"][0]["field"], field, "{}", answer.body);
    }
    fs::rename(at(&world, ""), world.file("unmounted")).unwrap();
    let answer = server.post("/runs", &json!({"prompt": "x", "resultRef": "a"})).await;
    assert_eq!((answer.status, &answer.body["code"]), (503, &json!("unavailable")), "{}", answer.body);
    assert!(answer.body["detail"].as_str().unwrap().contains("`resultRef`"));
    assert_eq!(server.get("/runs").await.body["runs"], json!([]), "nothing was accepted");
    assert!(!at(&world, "").exists(), "and nothing was made in its place");

    let mut none = World::new().await;
    none.env("TORPOR_WORK_ROOT", "");
    let server = none.serve().await;
    let answer = server.post("/runs", &json!({"inputsRef": "a"})).await;
    assert!(answer.body["detail"].as_str().unwrap().contains("TORPOR_WORK_ROOT"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_stands_as_a_file_for_as_long_as_it_waits() {
    let world = world().await;
    let server = world.serve().await;
    let call = |word: &str| json!({"name": "bash", "input": {"command": format!("echo {word} >> tally")}});
    let two = script::encode(&json!([call("one"), call("two")]).to_string());
    let mut envelope = world.prompt(&format!("multi={two};text"));
    envelope["approvals"] = json!([{"tool": "bash"}]);
    envelope["resultRef"] = json!("out.json");
    let answer = server.post("/runs", &envelope).await;
    assert_eq!(answer.body["status"], "paused", "{}", answer.body);
    let gate = json_at(&at(&world, "out.json.gate"));
    assert_eq!(gate["gates"].as_array().map(Vec::len), Some(answer.body["gates"].as_array().unwrap().len()));
    for field in ["status", "sessionId", "runId", "gateId", "gate", "gates"] {
        assert_eq!(gate[field], answer.body[field], "{field}");
    }
    let run = answer.body["runId"].as_str().unwrap().to_owned();
    let ids: Vec<u64> = gate["gates"].as_array().unwrap().iter().map(|g| g["gateId"].as_u64().unwrap()).collect();

    // It says what is still asked, also after the server died, and is gone before the result comes.
    let seen = Arc::new(AtomicBool::new(false));
    let watch = {
        let (seen, root, over) = (Arc::clone(&seen), at(&world, ""), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                // Looked at in this order, so that both at once means that both were there.
                if root.join("out.json").exists() && root.join("out.json.gate").exists() {
                    seen.store(true, Relaxed);
                }
            }
        });
        (thread, over)
    };
    server.kill().await;
    let server = world.serve().await;
    for (n, id) in ids.iter().enumerate() {
        server.post(&format!("/runs/{run}/approve"), &json!({"gateId": id})).await;
        let left = &ids[n + 1..];
        until("the file to say so", async || {
            let file = fs::read(at(&world, "out.json.gate")).ok();
            let asked = file.map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
            let asked = asked.map_or(Vec::new(), |it| {
                it["gates"].as_array().unwrap().iter().map(|g| g["gateId"].as_u64().unwrap()).collect()
            });
            (asked == left).then_some(())
        })
        .await;
    }
    assert_eq!(finished(&world, "out.json").await.0["status"], "done");
    watch.1.store(true, Relaxed);
    watch.0.join().unwrap();
    assert!(!seen.load(Relaxed), "the result stood beside a question");
    assert_eq!(world.count("tally", "one") + world.count("tally", "two"), 2);
}

/// A run with a result of about five megabytes.
fn large(world: &World) -> Value {
    let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]});
    let submit = script_tool("submit_result", &json!({"text": "x".repeat(5 << 20)}));
    let mut envelope = world.prompt(&format!("{submit};text"));
    envelope["outputSchema"] = schema;
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_a_loop_never_sees_half_a_result() {
    let mut world = world().await;
    world.env("TORPOR_BODY_LIMIT_BYTES", "33554432");
    let server = world.serve().await;
    let over = Arc::new(AtomicBool::new(false));
    let reading = {
        let (result, marker, over) = (at(&world, "big.json"), at(&world, "big.json.status"), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut reads = 0_u32;
            while !over.load(Relaxed) {
                let was_marked = marker.exists();
                match fs::read(&result) {
                    Ok(bytes) => {
                        let it: Value = serde_json::from_slice(&bytes).expect("half a file");
                        assert_eq!(it["result"]["text"].as_str().map(str::len), Some(5 << 20));
                        reads += 1;
                    }
                    Err(_) => assert!(!was_marked, "a marker without its result"),
                }
            }
            reads
        })
    };
    let mut envelope = large(&world);
    envelope["resultRef"] = json!("big.json");
    let run = server.submit(envelope).await;
    let (result, marker) = finished(&world, "big.json").await;
    assert_eq!((&result["status"], &marker["runId"]), (&json!("done"), &json!(run)));
    over.store(true, Relaxed);
    assert!(reading.join().unwrap() > 0);
}

/// Killed at moments spread over the whole course of a run: its files come all the same, whole, and once.
#[tokio::test(flavor = "multi_thread")]
async fn files_come_whenever_the_server_is_killed() {
    let world = world().await;
    let mut server = world.serve().await;
    for n in 0..12_u64 {
        let mut envelope = world.prompt(&format!("{};text", bash(&format!("echo {n}. >> tally"))));
        envelope["resultRef"] = json!(format!("out/{n}.json"));
        let run = server.submit(envelope).await;
        tokio::time::sleep(std::time::Duration::from_millis(n * 7)).await; // any moment will do
        server.kill().await;
        server = world.serve().await;
        let (result, marker) = finished(&world, &format!("out/{n}.json")).await;
        assert_eq!((&result["status"], &result["runId"], &marker["runId"]), (&json!("done"), &json!(run), &json!(run)));
    }
    let done = async |server: &Server| server.get("/runs?limit=50").await.body["runs"].clone();
    until("the orders to be noted", async || {
        let runs = done(&server).await;
        runs.as_array().unwrap().iter().all(|run| run["files"]["state"] == "sent").then_some(())
    })
    .await;
}

/// A volume that goes away while a run works is written to when it is back; until then the record says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_comes_back_is_written_to() {
    let world = world().await;
    let server = world.serve().await;
    let mut envelope = world.prompt(&format!("{};text", bash("touch began; until [ -e go ]; do sleep 0.01; done")));
    envelope["resultRef"] = json!("out/a.json");
    let run = server.submit(envelope).await;
    until_file(&world.file("began")).await;
    fs::rename(at(&world, ""), world.file("unmounted")).unwrap();
    fs::write(world.file("go"), "").unwrap();
    let record = until("the attempt", async || {
        let record = server.get(&format!("/runs/{run}")).await.body;
        (record["files"]["lastError"] == "volume").then_some(record)
    })
    .await;
    assert_eq!((&record["status"], &record["files"]["state"]), (&json!("done"), &json!("pending")));
    assert!(!at(&world, "").exists());
    fs::rename(world.file("unmounted"), at(&world, "")).unwrap();
    assert_eq!(finished(&world, "out/a.json").await.1["runId"], json!(run));
}

/// With keys, each tenant has a folder of its own, and there is no way into another's.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_have_parts_of_their_own() {
    let world = world().await;
    let mut keys = Vec::new();
    for tenant in ["acme", "globex"] {
        let made = world.run(&["keys", "create", tenant, "--tenant", tenant, "--json"]).await;
        let text = String::from_utf8(made.stdout).unwrap();
        let made: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        keys.push(made["secret"].as_str().or_else(|| made["key"].as_str()).unwrap().to_owned());
    }
    let server = world.serve().await;
    put(&world, "acme/in.json", json!({"prompt": "go [[s:text]]"}).to_string());
    let post = async |key: &str, envelope: Value| {
        let request = server.request(reqwest::Method::POST, "/runs").bearer_auth(key);
        let answer =
            request.header("content-type", "application/json").body(envelope.to_string()).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap())
    };
    let own = json!({"inputsRef": "in.json", "resultRef": "out.json"});
    let (status, body) = post(&keys[0], own.clone()).await;
    assert_eq!((status, &body["status"]), (200, &json!("done")), "{body}");
    assert!(at(&world, "acme/out.json.status").exists());
    let (_, body) = post(&keys[1], own).await;
    assert_eq!(
        (&body["status"], &body["reason"]),
        (&json!("failed"), &json!("bad_inputs")),
        "it is not there for globex"
    );
    std::os::unix::fs::symlink("../acme", at(&world, "globex/way")).unwrap();
    for path in ["way/in.json", "../acme/in.json", at(&world, "acme/in.json").to_str().unwrap()] {
        let (status, body) = post(&keys[1], json!({"inputsRef": path})).await;
        let refused = status == 400 || (body["status"] == "failed" && body["reason"] == "bad_inputs");
        assert!(refused, "{path}: {status} {body}");
    }
    let (_, body) = post(&keys[1], json!({"prompt": "go [[s:text]]", "resultRef": "way/stolen.json"})).await;
    assert_eq!(body["status"], "done");
    assert!(!at(&world, "acme/stolen.json").exists());
}
