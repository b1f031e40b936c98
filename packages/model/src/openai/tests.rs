use serde_json::{Value, json};
use torpor_core::model::{Message, Ref};

use super::*;
use crate::config::Secret;

fn config() -> config::Openai {
    config::Openai { api_key: Some(Secret::new("sk-key")), ..config::Openai::default() }
}

fn encoded(config: &config::Openai, declared: Option<u32>) -> Result<Value, Error> {
    let model = Ref { provider: PROVIDER.into(), model: "m".into() };
    let messages = [Message::User("x".into())];
    let request = Request { model: &model, system: "", tools: &[], messages: &messages };
    let body = Openai::new(config).unwrap().encode(&request, declared)?;
    Ok(serde_json::from_slice(&body).unwrap())
}

#[test]
fn where_a_call_goes_and_how_it_is_authenticated() {
    let call = |config: &config::Openai| Openai::new(config).unwrap().call(Bytes::new());
    let direct = call(&config());
    assert_eq!(direct.url.as_str(), "https://api.openai.com/v1/chat/completions");
    assert_eq!(direct.headers["authorization"], "Bearer sk-key");
    for base in ["http://h:1/api", "http://h:1/api/", "http://h:1/api/v1", "http://h:1/api/v1/"] {
        let own = call(&config::Openai { base_url: Some(base.into()), ..config::Openai::default() });
        assert_eq!(own.url.as_str(), "http://h:1/api/v1/chat/completions", "{base}");
        assert!(!own.headers.contains_key("authorization"));
    }
}

#[test]
fn without_a_credential_nothing_is_sent_to_the_provider_itself() {
    assert_eq!(encoded(&config::Openai::default(), None).unwrap_err().retry, Retry::Never);
    let own = config::Openai { base_url: Some("http://h".into()), ..config::Openai::default() };
    assert!(encoded(&own, None).is_ok(), "a server of one's own may want none");
}

#[test]
fn how_the_output_limit_is_said() {
    let own = Some("http://h".to_owned());
    let cases = [
        (None, TokenField::Auto, None, None, None),
        (None, TokenField::Auto, Some(9), None, Some("max_completion_tokens")),
        (own.clone(), TokenField::Auto, Some(9), None, Some("max_tokens")),
        (own.clone(), TokenField::Auto, None, Some(9), Some("max_tokens")),
        (own.clone(), TokenField::Auto, Some(9), Some(10), Some("max_tokens")),
        (own, TokenField::MaxCompletionTokens, Some(10), Some(9), Some("max_completion_tokens")),
        (None, TokenField::MaxTokens, Some(9), None, Some("max_tokens")),
    ];
    for (base_url, token_field, max_output_tokens, declared, field) in cases {
        let config = config::Openai { base_url, token_field, max_output_tokens, ..config() };
        let body = encoded(&config, declared).unwrap();
        for name in ["max_tokens", "max_completion_tokens"] {
            let expected = if field == Some(name) { json!(9) } else { Value::Null };
            assert_eq!(body[name], expected, "{name} {config:?} {declared:?}");
        }
    }
}

#[test]
fn token_counts_are_asked_for_unless_switched_off() {
    assert_eq!(encoded(&config(), None).unwrap()["stream_options"], json!({"include_usage": true}));
    let off = config::Openai { include_usage: false, ..config() };
    assert_eq!(encoded(&off, None).unwrap().get("stream_options"), None);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let cases = [
        (config::Openai { base_url: Some("nowhere".into()), ..config() }, "openai.base_url"),
        (config::Openai { api_key: Some(Secret::new("a\nb")), ..config() }, "openai.api_key"),
        (config::Openai { max_output_tokens: Some(0), ..config() }, "openai.max_output_tokens"),
    ];
    for (config, setting) in cases {
        assert_eq!(Openai::new(&config).err().map(|e| e.setting), Some(setting));
    }
}
