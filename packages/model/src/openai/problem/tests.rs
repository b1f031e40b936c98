use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::json;

use super::*;

fn refusal(status: u16, body: &Value, retry_after: Option<Duration>) -> Error {
    let body = match body {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    refused(&Refusal { status: StatusCode::from_u16(status).unwrap(), body: Bytes::from(body), retry_after })
}

fn error(kind: &str, code: impl Into<Value>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code.into()}})
}

#[test]
fn what_a_status_means() {
    use Retry::{Backoff, Never};
    let invalid = "invalid_request_error";
    let cases = [
        (400, error(invalid, Value::Null, "bad field"), Never),
        (401, error(invalid, "invalid_api_key", "Incorrect API key"), Never),
        (402, error("billing", Value::Null, "pay"), Never),
        (403, error("permission_error", "unsupported_country", "no"), Never),
        (404, error(invalid, "model_not_found", "no model with a context window"), Never),
        (408, json!(""), Backoff),
        (409, error("server_error", Value::Null, "busy"), Backoff),
        (422, json!({"detail": [{"loc": ["body"], "msg": "field required"}]}), Never),
        (429, error("requests", "rate_limit_exceeded", "slow down"), Backoff),
        (429, error("tokens", "rate_limit_exceeded", "Rate limit for the long context window tier"), Backoff),
        (429, error("insufficient_quota", "insufficient_quota", "You exceeded your current quota"), Never),
        (400, error("rate_limit_exceeded", Value::Null, "a gateway that forgot the status"), Backoff),
        (500, error("server_error", Value::Null, "oops"), Backoff),
        (502, json!("<html>bad gateway</html>"), Backoff),
        (503, error("server_error", "engine_overloaded", "later"), Backoff),
        (529, json!({"message": "overloaded"}), Backoff),
    ];
    for (status, body, retry) in cases {
        let e = refusal(status, &body, None);
        assert_eq!((e.retry, e.overflow), (retry, false), "{status} {body}");
        assert!(e.message.contains(&status.to_string()), "{}", e.message);
        let wait = Duration::from_secs(7);
        let expected = if retry == Backoff { Retry::After(wait) } else { Never };
        assert_eq!(refusal(status, &body, Some(wait)).retry, expected, "{status} {body} with retry-after");
    }
}

/// Each line is how one server says it.
#[test]
fn a_conversation_that_does_not_fit_is_recognised() {
    let plain = |message: &str| error("invalid_request_error", Value::Null, message);
    let upstream = json!({"error": {"message": "Provider returned error", "code": 400,
        "metadata": {"raw": "{\"error\":{\"message\":\"This endpoint's maximum context length is 131072 tokens.\"}}"}}});
    let cases = [
        (400, error("invalid_request_error", "context_length_exceeded", "too long")),
        (400, plain("Your input exceeds the context window of this model.")),
        (400, plain("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens")),
        (
            400,
            json!({"object": "error", "type": "BadRequestError", "code": 400, "param": null,
                     "message": "The decoder prompt (length 9000) is longer than the maximum model length of 8192."}),
        ),
        (
            400,
            error("BadRequestError", 400, "The input (9000 tokens) is longer than the model's context length (8192)."),
        ),
        (
            400,
            error(
                "exceed_context_size_error",
                400,
                "the request exceeds the available context size, try increasing it",
            ),
        ),
        (500, error("exceed_context_size_error", 500, "the request does not fit")),
        (500, error("server_error", 500, "Context size has been exceeded.")),
        (400, plain("Prompt contains 33000 tokens, too large for model with 32768 maximum context length")),
        (400, plain("The number of tokens to keep from the initial prompt is greater than the context length")),
        (
            422,
            json!({"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}),
        ),
        (
            400,
            json!({"code": "invalid argument", "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
        ),
        (
            400,
            json!([{"error": {"code": 400, "message": "The input token count (2000000) exceeds the maximum", "status": "INVALID_ARGUMENT"}}]),
        ),
        (400, plain("litellm.ContextWindowExceededError: input is too long for requested model")),
        (413, json!("<html>too large</html>")),
        (
            429,
            error(
                "tokens",
                "rate_limit_exceeded",
                "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 41000. The input or output tokens must be reduced in order to run successfully.",
            ),
        ),
        (400, upstream),
    ];
    for (status, body) in cases {
        let e = refusal(status, &body, None);
        assert_eq!((e.retry, e.overflow), (Retry::Never, true), "{status} {body}");
    }
}

#[test]
fn errors_in_a_stream() {
    let cases = [
        (error("server_error", Value::Null, "oops"), Retry::Backoff, false),
        (error("brand_new_error", Value::Null, "?"), Retry::Backoff, false),
        (error("", 502, "upstream went away"), Retry::Backoff, false),
        (error("", "429", "slow down"), Retry::Backoff, false),
        (error("BadRequestError", 400, "no such field"), Retry::Never, false),
        (error("invalid_request_error", Value::Null, "no such field"), Retry::Never, false),
        (error("insufficient_quota", 429, "pay"), Retry::Never, false),
        (error("exceed_context_size_error", 400, "too long"), Retry::Never, true),
        (error("server_error", 500, "Context size has been exceeded."), Retry::Never, true),
        (json!({"error": "plain words"}), Retry::Backoff, false),
        (json!({"error": {"code": 400}}), Retry::Never, false),
        (json!({"error": {}}), Retry::Backoff, false),
        (json!({"object": "error", "message": "no", "code": 403}), Retry::Never, false),
    ];
    for (body, retry, overflow) in cases {
        let e = Problem::read(&body).unwrap().into_error();
        assert_eq!((e.retry, e.overflow), (retry, overflow), "{body}");
        assert!(e.message.starts_with("the model's stream ended with an error: "), "{e}");
    }
    let chunks = [json!({"choices": []}), json!({"choices": [], "error": null, "message": "x"}), json!({}), json!([])];
    for chunk in chunks {
        assert_eq!(Problem::read(&chunk), None, "{chunk}");
    }
}
