//! What an error on this wire means. Servers agree on little more than that there is a message.
//!
//! Owns: the shapes of error objects, and which of them pass by themselves, never pass, or call for a shorter
//! conversation. Must not know: where the error came from.

use std::time::Duration;

use serde_json::Value;
use torpor_core::model::{Error, Retry};

use crate::answer;
use crate::images;
use crate::transport::{Refusal, retry_for};

/// Names of errors that say that the conversation does not fit.
const OVERFLOW: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size_error",
    "contextwindowexceedederror",
    "string_above_max_length",
    "request_too_large",
];
/// Words that say so where no name does. Each is a server's or a gateway's own: the inventor, vLLM, SGLang, Mistral,
/// llama.cpp, LM Studio, TGI, xAI, Google, Bedrock behind a gateway.
const OVERFLOW_WORDS: &[&str] = &[
    "maximum context length",
    "maximum model length",
    "model's context length",
    "context length exceeded",
    "context_length_exceeded",
    "context window",
    "available context size",
    "context size has been exceeded",
    "greater than the context length",
    "tokens + `max_new_tokens` must be",
    "`inputs` must have less than",
    "maximum prompt length",
    "input token count",
    "input is too long",
    "prompt is too long",
    "reduce the length of the messages",
    "too large for model with",
];
/// A rate limit that this one request alone is over: waiting never helps, a shorter conversation does.
const TOO_LARGE_AT_ONCE: &[&str] = &["must be reduced in order to run", "reduce your message size"];
/// Names of errors that come with the status of a rate limit and never pass by themselves.
const QUOTA: &[&str] = &["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"];
/// Names of errors that asking again does not mend.
const LASTING: &[&str] = &[
    "invalid_request_error",
    "badrequesterror",
    "authentication_error",
    "invalid_api_key",
    "permission_error",
    "permission_denied",
    "not_found_error",
    "model_not_found",
    "notfounderror",
    "content_policy_violation",
];
/// Names of rate limits.
const RATE_LIMITS: &[&str] = &["rate_limit_exceeded", "rate_limit_error"];
/// Names of other errors that pass, whatever the status says.
const PASSING: &[&str] = &["server_error", "overloaded_error", "timeout"];

/// An error object, as an answer of its own or as an event in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// `type` and `code`, in lower case; empty where there are none.
    names: [String; 2],
    message: String,
}

impl Problem {
    /// Reads an error, if this is one: `{"error":{"message","type","code"}}`, `{"error":"…"}`, a list of the first
    /// (Google), or `message` or `detail` at the top (vLLM, FastAPI).
    pub(super) fn read(value: &Value) -> Option<Self> {
        let outer = match value {
            Value::Array(list) => list.first()?,
            value => value,
        };
        let said = |of: &Value| ["message", "detail", "msg"].iter().find_map(|key| words(&of[*key]));
        let (inner, message) = match &outer["error"] {
            Value::Null if outer.get("choices").is_some() => return None,
            Value::Null => (outer, said(outer)?),
            Value::String(text) => (outer, text.clone()),
            error => (error, said(error).unwrap_or_else(|| error.to_string())),
        };
        // A gateway's own message says that its upstream failed; what the upstream said is the one that counts.
        let message = match inner["metadata"]["raw"].as_str() {
            Some(raw) => format!("{message}: {raw}"),
            None => message,
        };
        let name = |key: &str| words(&inner[key]).unwrap_or_default().to_lowercase();
        Some(Self { names: [name("type"), name("code")], message })
    }

    fn is(&self, any: &[&str]) -> bool {
        self.names.iter().any(|name| any.contains(&name.as_str()))
    }

    fn says(&self, any: &[&str]) -> bool {
        let text = self.message.to_lowercase();
        any.iter().any(|words| text.contains(words))
    }

    /// The status that a server wrote into the object instead of onto the answer.
    fn status(&self) -> Option<u16> {
        self.names[1].parse().ok().filter(|code| (400..600).contains(code))
    }

    /// Whether the conversation does not fit. Rate limits speak of lengths too, so there other words count.
    fn is_overflow(&self, status: Option<u16>) -> bool {
        match status {
            Some(413) => true,
            Some(401 | 403 | 404) => false,
            Some(429) => self.says(TOO_LARGE_AT_ONCE),
            _ if self.is(RATE_LIMITS) => self.says(TOO_LARGE_AT_ONCE),
            _ => self.is(OVERFLOW) || self.says(OVERFLOW_WORDS),
        }
    }

    /// Whether asking the same again can help. Unknown errors count as passing: retries are bounded.
    fn retry(&self, status: Option<u16>, retry_after: Option<Duration>) -> Retry {
        let again = retry_after.map_or(Retry::Backoff, Retry::After);
        match status.map(|status| retry_for(status, retry_after)) {
            _ if self.is_overflow(status) || self.is(QUOTA) => Retry::Never,
            Some(Retry::Never) if self.is(RATE_LIMITS) || self.is(PASSING) => again,
            Some(retry) => retry,
            None if self.is(LASTING) => Retry::Never,
            None => again,
        }
    }

    /// As the error of an answer that had begun well.
    pub(super) fn into_error(self) -> Error {
        let status = self.status();
        answer::stream_error(self.retry(status, None), self.is_overflow(status), &self.message)
    }
}

/// What an answer without success means.
pub(super) fn refused(refusal: &Refusal) -> Error {
    let read = serde_json::from_slice(&refusal.body).ok().and_then(|value| Problem::read(&value));
    let problem = read.unwrap_or_else(|| Problem { names: Default::default(), message: refusal.excerpt() });
    let status = Some(refusal.status.as_u16());
    Error {
        message: refusal.words(&problem.message),
        retry: problem.retry(status, refusal.retry_after),
        overflow: problem.is_overflow(status),
        images: images::are_refused(refusal.status.as_u16(), &problem.message),
    }
}

/// Texts as they are, numbers and lists (a validator's findings) as JSON.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Array(_) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
