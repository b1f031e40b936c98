//! The real client against the model server, through every fault, over each wire.
//!
//! Each row is something a provider, a gateway or a network has done; the promise is the one of the seam: an answer
//! is whole, or it is an error that says whether to try again and carries no credential.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use torpor_core::message::{Assistant, Block, StopReason, ToolResult};
use torpor_core::model::{Delta, Error, Message, ModelClient, Ref, Request, Retry};
use torpor_model::{Config, Models, Secret, config};
use torpor_testkit::model_server::{ModelServer, script};

const KEY: &str = "hunter2-the-api-key";
/// One model of each provider behind HTTP; what holds for one holds for all.
const MODELS: [&str; 2] = ["anthropic/claude-test", "openai/test-model"];

fn config(base_url: String) -> Config {
    let key = Some(Secret::new(KEY));
    Config {
        anthropic: config::Anthropic {
            api_key: key.clone(),
            base_url: Some(base_url.clone()),
            ..config::Anthropic::default()
        },
        openai: config::Openai { api_key: key, base_url: Some(base_url), ..config::Openai::default() },
        ..Config::default()
    }
}

/// A client that loses its patience early. Only where silence is what is tested: a busy machine is silent as well.
fn impatient(base_url: String, idle_timeout: Duration) -> Models {
    Models::new(&Config { http: config::Http { idle_timeout, ..config::Http::default() }, ..config(base_url) }).unwrap()
}

fn models(base_url: String) -> Models {
    Models::new(&config(base_url)).unwrap()
}

async fn send(models: &Models, model: &str, messages: &[Message]) -> (Result<Assistant, Error>, Vec<Delta>) {
    let model = Ref::parse(model).unwrap();
    let request = Request { model: &model, system: "Be brief.", tools: &[], messages };
    let prepared = models.prepare(&request).unwrap();
    let mut shown = Vec::new();
    let answer = models.send(&prepared, &mut |d| shown.push(d)).await;
    (answer, shown)
}

async fn ask(models: &Models, model: &str, script: &str) -> Result<Assistant, Error> {
    send(models, model, &[Message::User(format!("please [[s:{script}]]"))]).await.0
}

#[tokio::test]
async fn every_fault_is_an_error_with_the_right_advice() {
    use Retry::{After, Backoff, Never};
    let server = ModelServer::start().await;
    let (models, impatient) = (models(server.base_url()), impatient(server.base_url(), Duration::from_millis(100)));
    let cut_command = format!("truncjson={}", script::encode("touch F; echo "));
    let cases = [
        ("err=400", Never, "scripted 400"),
        ("err=401", Never, "scripted 401"),
        ("err=403", Never, "scripted 403"),
        ("err=404", Never, "scripted 404"),
        ("leak", Never, "***"),
        ("overflow", Never, "250000 tokens"),
        ("err=429", Backoff, "scripted 429"),
        ("retry429=1", After(Duration::ZERO), "scripted 429"),
        ("err=500", Backoff, "scripted 500"),
        ("err=503", Backoff, "scripted 503"),
        ("err=529", Backoff, "scripted 529"),
        ("overloaded", Backoff, "ended with an error"),
        ("hang", Backoff, "silent for 100 ms before its answer began"),
        ("hangmid", Backoff, "silent for 100 ms in the middle"),
        ("cut", Backoff, "broke"),
        ("garbled", Backoff, "no valid JSON"),
        ("html", Backoff, "text/html"),
        ("empty", Backoff, "it is empty"),
        ("badjson", Backoff, "no complete JSON"),
        (cut_command.as_str(), Backoff, "no complete JSON"),
        ("nostop", Backoff, "cut off before its end"),
        ("noblocks", Backoff, "no content"),
    ];
    for model in MODELS {
        server.reset();
        for (script, retry, words) in cases {
            let models = if script.starts_with("hang") { &impatient } else { &models };
            let e = ask(models, model, script).await.expect_err(script);
            assert_eq!(e.retry, retry, "{model} {script}: {e}");
            assert!(e.message.contains(words), "{model} {script}: {e}");
            assert!(!format!("{e:?}").contains("hunter2"), "{model} {script}: {e:?}");
            assert_eq!(e.overflow, script == "overflow", "{model} {script}");
        }
        assert_eq!(server.requests(), cases.len() as u64, "one call is one request: retries are the caller's matter");
        assert_eq!(server.stats().faults, cases.len() as u64);
    }
}

#[tokio::test]
async fn every_kind_of_answer_arrives_whole() {
    let server = ModelServer::start().await;
    let models = models(server.base_url());
    let command = script::encode("echo \"é\"\n");
    let calls = script::encode(r#"[{"name":"read","input":{"path":"a"}},{"name":"ls"}]"#);
    let cases = [
        ("text".into(), StopReason::EndTurn, 1),
        ("text=1000000".into(), StopReason::EndTurn, 1),
        (format!("bash={command}"), StopReason::ToolUse, 1),
        (format!("multi={calls}"), StopReason::ToolUse, 2),
        ("thinking".into(), StopReason::EndTurn, 2),
        (format!("thinking.bash={command}"), StopReason::ToolUse, 2),
        (format!("maxtokens={command}"), StopReason::MaxTokens, 1),
        ("refusal".into(), StopReason::Refusal, 1),
        ("verdict".into(), StopReason::ToolUse, 1),
        ("usage=5,6;text".into(), StopReason::EndTurn, 1),
        ("delay=20;text".into(), StopReason::EndTurn, 1),
        (format!("json;thinking.bash={command}"), StopReason::ToolUse, 2),
    ];
    for model in MODELS {
        for (script, stop, blocks) in &cases {
            let answer = ask(&models, model, script).await.unwrap_or_else(|e| panic!("{model} {script}: {e}"));
            assert_eq!((answer.stop, answer.blocks.len()), (*stop, *blocks), "{model} {script}");
            let expected = if script.starts_with("usage") { 11 } else { 110 };
            assert_eq!(answer.usage.total(), expected, "{model} {script}");
        }
        let Block::ToolUse { input, .. } = &ask(&models, model, &format!("bash={command}")).await.unwrap().blocks[0]
        else {
            panic!("a tool use");
        };
        assert_eq!(input["command"], "echo \"é\"\n");
    }
    let stats = server.stats();
    assert!(stats.connections < stats.requests, "a whole answer gives its connection back: {stats:?}");
}

#[tokio::test]
async fn text_is_shown_while_it_comes_and_pauses_below_the_limit_are_fine() {
    let server = ModelServer::start().await;
    // Longer in all than the idle timeout, each pause well below it.
    let models = impatient(server.base_url(), Duration::from_secs(1));
    for model in MODELS {
        let (answer, shown) = send(&models, model, &[Message::User("[[s:drip=30x40]]".into())]).await;
        assert_eq!(answer.unwrap().text(), "drip ".repeat(30));
        assert_eq!(shown, vec![Delta::Text("drip ".into()); 30]);
        let (_, shown) = send(&models, model, &[Message::User("[[s:thinking]]".into())]).await;
        let (thinking, text) = shown.split_at(shown.len() - 1);
        assert!(!thinking.is_empty() && thinking.iter().all(|d| matches!(d, Delta::Thinking(_))), "{shown:?}");
        assert_eq!(text, [Delta::Text("done".into())]);
    }
}

#[tokio::test]
async fn a_conversation_goes_on_with_signed_thinking_sent_back_as_it_came() {
    let server = ModelServer::start().await;
    let models = models(server.base_url());
    let script = format!("thinking.bash={};text=5", script::encode("ls"));
    let mut messages = vec![Message::User(format!("go [[s:{script}]]"))];
    let first = send(&models, MODELS[0], &messages).await.0.unwrap();
    let Block::ToolUse { id, .. } = &first.blocks[1] else { panic!("{first:?}") };
    let results = Message::Tools(vec![(id.clone(), ToolResult::text("a\nb"))]);
    messages.extend([Message::Assistant(first.clone()), results]);
    assert_eq!(send(&models, MODELS[0], &messages).await.0.unwrap().text(), "xxxxx");

    let sent = server.recorded();
    let Block::Opaque { value, .. } = &first.blocks[0] else { panic!("{first:?}") };
    // As text: the order of keys is part of it.
    let (there, back) = (value.to_string(), sent[1].json()["messages"][1]["content"][0].to_string());
    assert_eq!(back, there);
    assert_eq!(sent[1].header("x-api-key"), Some(KEY));
    assert_eq!(sent[1].header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(sent[1].header("authorization"), None);
    assert_eq!(sent[1].path, "/v1/messages");
}

#[tokio::test]
async fn a_token_replaces_the_key_and_a_base_url_may_have_a_path() {
    let server = ModelServer::start().await;
    let mut config = config(format!("{}/v1/", server.script_url("text=3")));
    config.anthropic.auth_token = Some(Secret::new("hunter2-the-token"));
    let models = Models::new(&config).unwrap();
    let answer = send(&models, MODELS[0], &[Message::User("hi".into())]).await.0.unwrap();
    assert_eq!(answer.text(), "xxx");
    let sent = server.recorded();
    assert_eq!(sent[0].header("authorization"), Some("Bearer hunter2-the-token"));
    assert_eq!(sent[0].header("x-api-key"), None);
    let e = ask(&models, MODELS[0], "leak").await.unwrap_err();
    assert!(e.message.contains("Bearer ***") && !e.message.contains("hunter2"), "{e}");
}

#[tokio::test]
async fn nobody_listening_is_an_error_to_retry() {
    let server = ModelServer::start().await;
    let base_url = server.base_url();
    drop(server);
    let e = ask(&models(base_url), MODELS[0], "text").await.unwrap_err();
    assert_eq!(e.retry, Retry::Backoff, "{e}");
    assert!(e.message.starts_with("no connection to the model") || e.message.contains("broke"), "{e}");
}

#[tokio::test]
async fn tls_is_spoken_to_https_urls() {
    let server = ModelServer::start().await;
    let e = ask(&models(server.base_url().replace("http:", "https:")), MODELS[0], "text").await.unwrap_err();
    assert_eq!(e.retry, Retry::Backoff, "{e}");
    assert!(e.message.starts_with("no connection to the model"), "{e}");
    assert_eq!(server.requests(), 0, "nothing was sent in the clear");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = ModelServer::start().await;
    let e = ask(&models(server.base_url()), MODELS[0], "err=307").await.unwrap_err();
    assert_eq!((e.retry, server.requests()), (Retry::Never, 1), "{e}");
}

#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    let server = ModelServer::start().await;
    let models = models(server.base_url());
    let call = tokio::spawn(async move { ask(&models, MODELS[0], "hold=for-ever").await.map(drop) });
    server.wait_for_requests(1).await;
    call.abort();
    let _ = call.await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while server.stats().open > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the server sees the client go");
    assert_eq!(server.stats().aborted, 1);
}

#[tokio::test]
async fn an_answer_beyond_the_limits_is_refused() {
    let server = ModelServer::start().await;
    let limited = |http: config::Http| Models::new(&Config { http, ..config(server.base_url()) }).unwrap();
    let small = limited(config::Http { max_answer_bytes: 10_000, ..config::Http::default() });
    let e = ask(&small, MODELS[0], "text=100000").await.unwrap_err();
    assert!(e.message.contains("larger than the limit of 10000 bytes"), "{e}");
    let small = limited(config::Http { max_event_bytes: 500, ..config::Http::default() });
    let e = ask(&small, MODELS[0], "text=100000").await.unwrap_err();
    assert!(e.message.contains("larger than 500 bytes"), "{e}");
}

#[tokio::test]
async fn an_unknown_provider_is_refused_with_the_known_ones_named() {
    let models = models("http://127.0.0.1:9".into());
    let model = Ref::parse("acme/model").unwrap();
    let messages = [Message::User("x".into())];
    let request = Request { model: &model, system: "", tools: &[], messages: &messages };
    let e = models.prepare(&request).unwrap_err();
    assert_eq!(e.retry, Retry::Never);
    assert_eq!(e.message, "unknown model provider \"acme\"; known are: anthropic, openai, scripted");
}

#[tokio::test]
async fn the_fingerprint_is_that_of_the_bytes_that_are_sent() {
    let server = ModelServer::start().await;
    let models = models(server.base_url());
    let model = Ref::parse("anthropic/claude-test").unwrap();
    let messages = [Message::User("hi".into())];
    let request = Request { model: &model, system: "s", tools: &[], messages: &messages };
    let (a, b) = (models.prepare(&request).unwrap(), models.prepare(&request).unwrap());
    assert_eq!((&a.body, &a.fingerprint), (&b.body, &b.fingerprint));
    assert_eq!((a.fingerprint.len(), a.estimate), (64, a.body.len() as u64 / 4));
    models.send(&a, &mut |_| {}).await.unwrap();
    assert_eq!(server.recorded()[0].body, a.body);
}
