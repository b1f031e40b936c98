//! What is particular to Chat Completions, through the real client and over real HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use torpor_core::message::{Assistant, Block, Content, StopReason, ToolResult, Usage};
use torpor_core::model::{Message, ModelClient, Ref, Request};
use torpor_core::tool;
use torpor_model::{Config, Limits, Models, Secret, config};
use torpor_testkit::model_server::{ModelServer, script};

fn models(openai: config::Openai) -> Models {
    Models::new(&Config { openai, ..Config::default() }).unwrap()
}

async fn send(models: &Models, messages: &[Message]) -> Assistant {
    let model = Ref::parse("openai/vendor/test-model").unwrap();
    let bash = tool::Spec { name: "bash", description: "Runs it.", schema: json!({"type": "object"}) };
    let request = Request { model: &model, system: "Be brief.", tools: &[&bash], messages };
    models.send(&models.prepare(&request).unwrap(), &mut |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_conversation_goes_on_with_thinking_sent_back_as_it_came() {
    let server = ModelServer::start().await;
    let base_url = Some(format!("{}/v1/", server.base_url()));
    let key = Some(Secret::new("hunter2-the-api-key"));
    let models = models(config::Openai { api_key: key, base_url, ..config::Openai::default() });
    let script = format!("thinking.bash={};text=5", script::encode("ls"));
    let mut messages = vec![Message::User(format!("go [[s:{script}]]"))];
    let first = send(&models, &messages).await;
    let [Block::Opaque { provider, value }, Block::ToolUse { id, .. }] = &first.blocks[..] else { panic!("{first:?}") };
    assert_eq!(provider, "openai");
    let results = Message::Tools(vec![(id.clone(), ToolResult::error("no such folder"))]);
    messages.extend([Message::Assistant(first.clone()), results]);
    assert_eq!(send(&models, &messages).await.text(), "xxxxx");

    let sent = server.recorded();
    assert_eq!(sent[1].path, "/v1/chat/completions");
    assert_eq!(sent[1].header("authorization"), Some("Bearer hunter2-the-api-key"));
    let body = sent[1].json();
    assert_eq!(
        (&body["model"], &body["stream_options"]),
        (&json!("vendor/test-model"), &json!({"include_usage": true}))
    );
    let call = json!({"id": id, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":\"ls\"}"}});
    let thinking = "Let me think about this.";
    let expected = json!({
        "role": "assistant", "content": null, "tool_calls": [call], "reasoning_content": thinking,
        "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": thinking, "signature": value["reasoning_details"][0]["signature"]}],
    });
    assert_eq!(body["messages"][2], expected);
    assert!(value["reasoning_details"][0]["signature"].is_string());
    let answered = json!({"role": "tool", "tool_call_id": id, "content": "[error] no such folder"});
    assert_eq!(body["messages"][3], answered);
    let (first, second) = (String::from_utf8_lossy(&sent[0].body), String::from_utf8_lossy(&sent[1].body));
    assert!(second.starts_with(first.strip_suffix("]}").unwrap()), "what was sent once begins what is sent next");
}

/// A server of one's own: no key, no counts, a limit that its operator declared.
#[tokio::test]
async fn a_server_that_knows_little_is_asked_for_little() {
    let server = ModelServer::start().await;
    let openai = config::Openai {
        base_url: Some(server.base_url()),
        include_usage: false,
        max_output_tokens: Some(900),
        ..config::Openai::default()
    };
    let declared = Limits { context_window: 4_096, max_output: 512, images: None };
    let declarations = BTreeMap::from([("vendor/test-model".to_owned(), declared)]);
    let models = Models::new(&Config { openai, models: declarations, ..Config::default() }).unwrap();
    assert_eq!(send(&models, &[Message::User("hi".into())]).await.usage.total(), 0);
    let sent = server.recorded();
    assert_eq!(sent[0].header("authorization"), None);
    let keys: Vec<String> = sent[0].json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["model", "stream", "max_tokens", "tools", "messages"]);
    assert_eq!(sent[0].json()["max_tokens"], Value::from(512));
    assert_eq!(models.limits(&Ref::parse("openai/vendor/test-model").unwrap()), declared);
}

/// A picture goes to a model that is known or declared to take pictures, and counts what models count.
#[tokio::test]
async fn pictures_go_to_models_that_take_them() {
    let server = ModelServer::start().await;
    let use_of = |id: &str| Block::ToolUse { id: id.into(), name: "read".into(), input: json!({"path": "p.png"}) };
    let answer = Assistant { blocks: vec![use_of("t1")], stop: StopReason::ToolUse, usage: Usage::default() };
    let image = Content::Image { media_type: "image/png".into(), data: "A".repeat(400_000) };
    let content = vec![Content::Text { text: "[p.png]".into() }, image];
    let results = Message::Tools(vec![("t1".into(), ToolResult { content, is_error: false })]);
    let conversation = [Message::User("look".into()), Message::Assistant(answer), results];
    for (images, shown) in [(None, false), (Some(false), false), (Some(true), true)] {
        let openai = config::Openai { base_url: Some(server.base_url()), ..config::Openai::default() };
        let declared = Limits { context_window: 50_000, max_output: 512, images };
        let declarations = BTreeMap::from([("vendor/test-model".to_owned(), declared)]);
        let models = Models::new(&Config { openai, models: declarations, ..Config::default() }).unwrap();
        let model = Ref::parse("openai/vendor/test-model").unwrap();
        let request = Request { model: &model, system: "", tools: &[], messages: &conversation };
        let prepared = models.prepare(&request).unwrap();
        let body: Value = serde_json::from_slice(&prepared.body).unwrap();
        let last = &body["messages"][if shown { 3 } else { 2 }];
        assert_eq!(last["role"], if shown { "user" } else { "tool" }, "{images:?}");
        assert_eq!(last.to_string().contains("image_url"), shown);
        assert_eq!(last.to_string().contains("not known to take images"), !shown);
        assert!(prepared.estimate < 2_000, "{}", prepared.estimate);
        models.send(&prepared, &mut |_| {}).await.unwrap();
    }
}
