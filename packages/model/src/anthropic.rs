//! The Anthropic Messages API as a wire format.
//!
//! Owns: headers, authentication, the meaning of its errors; encoding and decoding are its submodules.
//! Must not know: sockets, retries, other providers.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use torpor_core::message::Assistant;
use torpor_core::model::{Error, Request, Retry};

use crate::answer;
use crate::config::{self, ANTHROPIC_BASE_URL, CacheMarks};
use crate::images;
use crate::remote::{Decode, Wire};
use crate::transport::{self, Call, Refusal, retry_for};
use crate::window;

mod decode;
mod encode;

/// The provider's name, as in `anthropic/<model>`.
pub(crate) const PROVIDER: &str = "anthropic";
/// The version of the wire format.
const VERSION: &str = "2023-06-01";
/// Output limit for models that nobody has said anything about. Every current model of this provider allows it.
const DEFAULT_MAX_OUTPUT: u32 = 32_000;

/// The wire format with its settings.
pub(crate) struct Anthropic {
    url: Url,
    headers: HeaderMap,
    has_credential: bool,
    cache_marks: bool,
    max_output_tokens: Option<u32>,
}

impl Anthropic {
    pub(crate) fn new(config: &config::Anthropic) -> Result<Self, config::Error> {
        let path = "/v1/messages";
        let (url, own) = config::target("anthropic.base_url", config.base_url.as_deref(), ANTHROPIC_BASE_URL, path)?;
        let mut headers = transport::headers();
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static(VERSION));
        if let Some(token) = &config.auth_token {
            headers.insert(AUTHORIZATION, token.header("anthropic.auth_token", "Bearer ")?);
        } else if let Some(key) = &config.api_key {
            headers.insert(HeaderName::from_static("x-api-key"), key.header("anthropic.api_key", "")?);
        }
        let cache_marks = match config.cache_marks {
            CacheMarks::On => true,
            CacheMarks::Off => false,
            CacheMarks::Auto => own && config.auth_token.is_none(),
        };
        Ok(Self {
            // Some gateways want no credential at all; the provider itself always does.
            has_credential: config.auth_token.is_some() || config.api_key.is_some() || !own,
            url,
            headers,
            cache_marks,
            max_output_tokens: config::output_limit("anthropic.max_output_tokens", config.max_output_tokens)?,
        })
    }
}

impl Wire for Anthropic {
    fn encode(&self, request: &Request<'_>, declared_output: Option<u32>) -> Result<Bytes, Error> {
        if !self.has_credential {
            return Err(Error::new(Retry::Never, "no credential for the Anthropic API: set an API key or a token"));
        }
        // This wire insists on a limit.
        let max_tokens = window::cap(self.max_output_tokens, declared_output)
            .or_else(|| window::family(&request.model.model).map(|l| l.max_output))
            .unwrap_or(DEFAULT_MAX_OUTPUT);
        encode::body(request, max_tokens, self.cache_marks)
    }

    fn call(&self, body: Bytes) -> Call {
        Call { url: self.url.clone(), headers: self.headers.clone(), body }
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::new(decode::Answer::default())
    }

    fn decode_whole(&self, body: &[u8]) -> Result<Assistant, Error> {
        decode::whole(body)
    }

    fn refusal(&self, refusal: &Refusal) -> Error {
        let Refusal { status, body, retry_after } = refusal;
        let problem =
            Problem::parse(body).unwrap_or_else(|| Problem { kind: String::new(), message: refusal.excerpt() });
        // Rate limits speak of long contexts too, so the words count only where the request itself is at fault.
        let overflow = match status.as_u16() {
            400 | 422 => problem.is_overflow(),
            status => status == 413,
        };
        Error {
            message: refusal.words(&problem.message),
            // A gateway that forgot the status still tells by the error's name.
            retry: match retry_for(status.as_u16(), *retry_after) {
                Retry::Never if problem.is_passing() => problem.retry(*retry_after),
                retry => retry,
            },
            overflow,
            images: images::are_refused(status.as_u16(), &problem.message),
        }
    }
}

/// An error object, as an answer of its own or as an event in a stream.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

impl Problem {
    /// Reads `{"type":"error","error":{…}}`; gateways that write `{"error":"…"}` or `{"message":"…"}` are understood.
    fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Inner {
            Object(Problem),
            Text(String),
        }
        #[derive(Deserialize)]
        struct Outer {
            error: Option<Inner>,
            message: Option<String>,
        }
        let outer: Outer = serde_json::from_slice(body).ok()?;
        match outer {
            Outer { error: Some(Inner::Object(problem)), .. } => Some(problem),
            Outer { error: Some(Inner::Text(message)), .. } | Outer { message: Some(message), .. } => {
                Some(Self { kind: String::new(), message })
            }
            Outer { .. } => None,
        }
    }

    /// Whether the trouble passes by itself, whatever the status says.
    fn is_passing(&self) -> bool {
        matches!(self.kind.as_str(), "overloaded_error" | "rate_limit_error" | "timeout_error")
    }

    /// Whether asking the same again can help. Unknown kinds count as passing: retries are bounded.
    fn is_lasting(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "invalid_request_error"
                | "authentication_error"
                | "permission_error"
                | "not_found_error"
                | "billing_error"
                | "request_too_large"
        )
    }

    fn retry(&self, retry_after: Option<Duration>) -> Retry {
        if self.is_lasting() { Retry::Never } else { retry_after.map_or(Retry::Backoff, Retry::After) }
    }

    /// Whether the request does not fit the context window. The API has no code for it, only words.
    fn is_overflow(&self) -> bool {
        let text = self.message.to_ascii_lowercase();
        self.kind == "request_too_large"
            || ["prompt is too long", "exceed context limit", "context window", "context length"]
                .iter()
                .any(|words| text.contains(words))
    }

    /// As the error of a stream that had begun well.
    pub(crate) fn into_error(self) -> Error {
        let overflow = self.is_lasting() && self.is_overflow();
        answer::stream_error(self.retry(None), overflow, format_args!("{}: {}", self.kind, self.message))
    }
}

#[cfg(test)]
mod tests;
