use reqwest::StatusCode;
use serde_json::json;
use torpor_core::message::Block;
use torpor_core::model::{Message, Ref};

use super::*;
use crate::config::Secret;

fn config() -> config::Anthropic {
    config::Anthropic { api_key: Some(Secret::new("sk-key")), ..config::Anthropic::default() }
}

fn refused(status: u16, body: &str, retry_after: Option<Duration>) -> Error {
    let refusal = Refusal {
        status: StatusCode::from_u16(status).unwrap(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        retry_after,
    };
    Anthropic::new(&config()).unwrap().refusal(&refusal)
}

fn problem(kind: &str, message: &str) -> String {
    json!({"type": "error", "error": {"type": kind, "message": message}}).to_string()
}

#[test]
fn what_a_status_means() {
    use Retry::{Backoff, Never};
    let cases = [
        (400, problem("invalid_request_error", "bad field"), Never, false),
        (400, problem("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), Never, true),
        (400, problem("invalid_request_error", "input length and `max_tokens` exceed context limit: 9"), Never, true),
        (400, problem("overloaded_error", "a gateway that forgot the status"), Backoff, false),
        (401, problem("authentication_error", "invalid x-api-key"), Never, false),
        (403, problem("permission_error", "no"), Never, false),
        (404, problem("not_found_error", "model: claude-none"), Never, false),
        (413, problem("request_too_large", "too many bytes"), Never, true),
        (408, String::new(), Backoff, false),
        (429, problem("rate_limit_error", "slow down"), Backoff, false),
        (429, problem("rate_limit_error", "too much for the long context window tier"), Backoff, false),
        (500, problem("api_error", "oops"), Backoff, false),
        (502, "<html>bad gateway</html>".into(), Backoff, false),
        (503, String::new(), Backoff, false),
        (529, problem("overloaded_error", "Overloaded"), Backoff, false),
        (302, String::new(), Never, false),
        (418, json!({"error": "plain words"}).to_string(), Never, false),
        (418, json!({"message": "other words"}).to_string(), Never, false),
    ];
    for (status, body, retry, overflow) in cases {
        let e = refused(status, &body, None);
        assert_eq!((e.retry, e.overflow), (retry, overflow), "{status} {body}");
        assert!(e.message.contains(&status.to_string()), "{}", e.message);
        let wait = Duration::from_secs(7);
        let expected = if retry == Backoff { Retry::After(wait) } else { Never };
        assert_eq!(refused(status, &body, Some(wait)).retry, expected, "{status} {body} with retry-after");
    }
    assert!(refused(418, r#"{"error":"plain words"}"#, None).message.ends_with(": plain words"));
    assert!(refused(400, &problem("invalid_request_error", "bad field"), None).message.ends_with(": bad field"));
}

#[test]
fn how_a_call_is_authenticated() {
    let headers = |config: &config::Anthropic| Anthropic::new(config).unwrap().call(Bytes::new()).headers;
    let with_key = headers(&config());
    assert_eq!(with_key["x-api-key"], "sk-key");
    assert_eq!(with_key["anthropic-version"], VERSION);
    assert!(!with_key.contains_key("authorization"));

    let with_both = headers(&config::Anthropic { auth_token: Some(Secret::new("tok")), ..config() });
    assert_eq!(with_both["authorization"], "Bearer tok");
    assert!(!with_both.contains_key("x-api-key"), "the token replaces the key");
}

#[test]
fn without_a_credential_nothing_is_sent_to_the_provider_itself() {
    let model = Ref { provider: PROVIDER.into(), model: "m".into() };
    let messages = [Message::User("x".into())];
    let request = Request { model: &model, system: "", tools: &[], messages: &messages };
    let e = Anthropic::new(&config::Anthropic::default()).unwrap().encode(&request, None).unwrap_err();
    assert_eq!(e.retry, Retry::Never);
    let gateway = config::Anthropic { base_url: Some("http://gw".into()), ..config::Anthropic::default() };
    assert!(Anthropic::new(&gateway).unwrap().encode(&request, None).is_ok(), "a gateway may want none");
}

#[test]
fn when_cache_marks_are_sent() {
    let default = Some(ANTHROPIC_BASE_URL.to_owned());
    let gateway = Some("https://gw".to_owned());
    let token = Some(Secret::new("tok"));
    let cases = [
        (None, None, CacheMarks::Auto, true),
        (default, None, CacheMarks::Auto, true),
        (gateway.clone(), None, CacheMarks::Auto, false),
        (None, token.clone(), CacheMarks::Auto, false),
        (gateway, token, CacheMarks::On, true),
        (None, None, CacheMarks::Off, false),
    ];
    for (base_url, auth_token, cache_marks, expected) in cases {
        let c = config::Anthropic { base_url, auth_token, cache_marks, ..config() };
        assert_eq!(Anthropic::new(&c).unwrap().cache_marks, expected, "{c:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let cases = [
        (config::Anthropic { base_url: Some("nowhere".into()), ..config() }, "anthropic.base_url"),
        (config::Anthropic { api_key: Some(Secret::new("a\nb")), ..config() }, "anthropic.api_key"),
        (config::Anthropic { auth_token: Some(Secret::new(" ")), ..config() }, "anthropic.auth_token"),
        (config::Anthropic { max_output_tokens: Some(0), ..config() }, "anthropic.max_output_tokens"),
    ];
    for (config, setting) in cases {
        assert_eq!(Anthropic::new(&config).err().map(|e| e.setting), Some(setting));
    }
}

/// What came from the provider goes back to it as it came, key order included.
#[test]
fn thinking_survives_the_way_there_and_back() {
    let thinking = r#"{"type":"thinking","thinking":"x","signature":"c2ln","z":1,"a":[{"d":1,"c":2}]}"#;
    let answer = decode::whole(
        format!(r#"{{"type":"message","stop_reason":"end_turn","content":[{thinking},{{"type":"text","text":"y"}}]}}"#)
            .as_bytes(),
    )
    .unwrap();
    assert!(matches!(&answer.blocks[0], Block::Opaque { provider, .. } if provider == PROVIDER));
    // Through the log as well.
    let stored = serde_json::to_string(&answer).unwrap();
    let messages = [
        Message::User("x".into()),
        Message::Assistant(serde_json::from_str(&stored).unwrap()),
        Message::User("go on".into()),
    ];
    let model = Ref { provider: PROVIDER.into(), model: "m".into() };
    let request = Request { model: &model, system: "", tools: &[], messages: &messages };
    let body = Anthropic::new(&config()).unwrap().encode(&request, None).unwrap();
    assert!(std::str::from_utf8(&body).unwrap().contains(thinking));
}
