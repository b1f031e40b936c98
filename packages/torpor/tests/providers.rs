//! Every provider behind HTTP does the same work, driven through the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{World, bash};

const KEY: &str = "sk-canary-openai";

/// A world whose default model is spoken to in Chat Completions.
async fn openai() -> World {
    let mut world = World::new().await;
    world.env("TORPOR_MODEL", "openai/test-model");
    world.env("OPENAI_API_KEY", KEY);
    world.env("OPENAI_BASE_URL", &format!("{}/v1", world.model.base_url()));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_uses_tools_over_chat_completions() {
    let world = openai().await;
    let server = world.serve().await;
    let multi = json!([{"name": "read", "input": {"path": "made"}}, {"name": "read", "input": {"path": "missing"}}]);
    let multi = format!("multi={}", torpor_testkit::model_server::script::encode(&multi.to_string()));
    let run = server.submit(world.prompt(&format!("{};{multi};text", bash("echo hi >> made")))).await;
    let record = server.ended(&run).await;
    assert_eq!((record["status"].as_str(), record["response"].as_str()), (Some("done"), Some("done")), "{record}");
    assert_eq!(world.count("made", "hi"), 1);
    assert_eq!((&record["usage"]["input"], &record["usage"]["output"]), (&json!(300), &json!(30)), "{record}");

    let sent = world.model.recorded();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|r| r.path == "/v1/chat/completions"));
    assert_eq!(sent[0].header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    let body = sent[2].json();
    let roles: Vec<&str> = body["messages"].as_array().unwrap().iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "tool", "tool"]);
    let result = |n: usize| body["messages"][n]["content"].as_str().unwrap().to_owned();
    assert!(result(5).contains("hi") && !result(5).starts_with("[error]"), "{}", result(5));
    assert!(result(6).starts_with("[error] "), "{}", result(6));
    for pair in sent.windows(2) {
        let first = String::from_utf8_lossy(&pair[0].body).into_owned();
        assert!(String::from_utf8_lossy(&pair[1].body).starts_with(first.strip_suffix("]}").unwrap()));
    }
    assert!(!world.log().contains("canary"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_over_chat_completions_end_in_answers_not_in_actions() {
    let mut world = openai().await;
    world.env("TORPOR_MODEL_ATTEMPTS", "2");
    let server = world.serve().await;
    for fault in ["cut", "badjson", "nostop", "leak"] {
        let answer = server.post("/turn", &json!({"prompt": format!("x [[s:{fault}]]")})).await;
        let stop = answer.body["stopReason"].as_str();
        assert_eq!((answer.status, stop), (200, Some("error")), "{fault}: {}", answer.body);
        assert!(!answer.body.to_string().contains("canary"), "{fault}: {}", answer.body);
    }
    let truncated = format!("truncjson={}", torpor_testkit::model_server::script::encode("touch F; echo "));
    let run = server.submit(world.prompt(&truncated)).await;
    assert_eq!(server.ended(&run).await["reason"], json!("model"));
    assert!(!world.file("F").exists(), "a truncated command was run");
    let passing = server.submit(world.prompt(&format!("retry.cut=1;{};text", bash("echo x >> ledger")))).await;
    assert_eq!(server.ended(&passing).await["status"], json!("done"));
    assert_eq!(world.count("ledger", "x"), 1);
    assert!(!world.log().contains("canary"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_may_name_any_provider_that_is_configured() {
    let mut world = World::new().await;
    let envelope = |provider: &str, model: &str| json!({"prompt": "hello", "provider": provider, "model": model});
    let server = world.serve().await;
    let refused = server.post("/runs", &envelope("openai", "other")).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (400, Some("envelope_invalid")), "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("configured providers: anthropic"), "{}", refused.body);
    drop(server);

    // A server of one's own wants no key.
    world.env("OPENAI_BASE_URL", &world.model.base_url());
    let server = world.serve().await;
    world.model.reset();
    for (provider, model) in [("openai", "other"), ("anthropic", "claude-other")] {
        let done = server.post("/runs", &envelope(provider, model)).await;
        assert_eq!(done.body["status"], json!("done"), "{}", done.body);
    }
    let sent = world.model.recorded();
    let seen: Vec<(String, Value)> = sent.iter().map(|r| (r.path.clone(), r.json()["model"].clone())).collect();
    let expected = [("/v1/chat/completions", "other"), ("/v1/messages", "claude-other")];
    assert_eq!(seen, expected.map(|(path, model)| (path.to_owned(), json!(model))));
    assert_eq!(sent[0].header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_its_credential_is_named_with_the_remedy() {
    let mut world = World::new().await;
    world.env("TORPOR_MODEL", "openai/test-model");
    let doctor = world.run(&["doctor"]).await;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("openai/test-model: no credential; set OPENAI_API_KEY"), "{text}");
}
