//! Settings of the model providers, as plain values.
//!
//! Owns: defaults, limits and the checks that can be made before any call. Must not know: where the values come from
//! (no environment, no files).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::window::Limits;

/// Where the Anthropic API is when no other base URL is set.
pub const ANTHROPIC_BASE_URL: &str = "https://api.anthropic.com";
/// Where the OpenAI API is when no other base URL is set.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com";

/// Everything the crate can be told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The Anthropic Messages API.
    pub anthropic: Anthropic,
    /// The OpenAI Chat Completions API, and everything that speaks it.
    pub openai: Openai,
    /// What operators know about their models, by model id or `provider/id`. Goes before what is known here.
    pub models: BTreeMap<String, Limits>,
    /// Connections and limits, the same for every provider.
    pub http: Http,
}

/// Settings of the Anthropic Messages API.
#[derive(Debug, Clone, Default)]
pub struct Anthropic {
    /// Sent as `x-api-key`.
    pub api_key: Option<Secret>,
    /// Sent as a bearer token, in place of the key. For gateways.
    pub auth_token: Option<Secret>,
    /// Another base URL; with or without `/v1` or `/` at its end.
    pub base_url: Option<String>,
    /// Whether to mark what the provider should cache.
    pub cache_marks: CacheMarks,
    /// Output limit of every call, in tokens; `None`: what the model is known to allow.
    pub max_output_tokens: Option<u32>,
}

/// Settings of the OpenAI Chat Completions API.
#[derive(Debug, Clone)]
pub struct Openai {
    /// Sent as a bearer token. Another base URL than the provider's own may do without.
    pub api_key: Option<Secret>,
    /// Another base URL; with or without `/v1` or `/` at its end.
    pub base_url: Option<String>,
    /// Whether to ask for token counts at the end of a stream. Few servers refuse to be asked; without it budgets in
    /// tokens see nothing.
    pub include_usage: bool,
    /// Output limit of every call, in tokens; `None`: what was declared for the model, else the server's own.
    pub max_output_tokens: Option<u32>,
    /// The field that carries the output limit.
    pub token_field: TokenField,
}

impl Default for Openai {
    fn default() -> Self {
        Self {
            api_key: None,
            base_url: None,
            include_usage: true,
            max_output_tokens: None,
            token_field: TokenField::Auto,
        }
    }
}

/// The field that carries the output limit of a Chat Completions request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenField {
    /// `max_completion_tokens` for the provider itself, whose newer models refuse the other; `max_tokens` elsewhere,
    /// since not every server knows the newer name.
    #[default]
    Auto,
    /// `max_tokens`.
    MaxTokens,
    /// `max_completion_tokens`.
    MaxCompletionTokens,
}

/// Whether cache marks are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMarks {
    /// To the provider itself yes; to another base URL or with a bearer token no, since gateways refuse them.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Connections and limits.
#[derive(Debug, Clone)]
pub struct Http {
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// How long the provider may stay silent: before its answer begins, and between any two pieces of it.
    pub idle_timeout: Duration,
    /// The longest wait a provider can ask for; what goes beyond is cut down to this.
    pub max_retry_after: Duration,
    /// Largest single event of a stream, in bytes.
    pub max_event_bytes: usize,
    /// Largest answer, in bytes as they come over the wire.
    pub max_answer_bytes: usize,
    /// Whether `HTTPS_PROXY` and its like are followed.
    pub system_proxy: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            max_retry_after: Duration::from_secs(120),
            max_event_bytes: 8 << 20,
            max_answer_bytes: 64 << 20,
            system_proxy: false,
        }
    }
}

/// A credential. Its `Debug` form shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// As a header value that is never indexed by compression or shown by `Debug`.
    pub(crate) fn header(&self, setting: &'static str, prefix: &str) -> Result<HeaderValue, Error> {
        let blank = self.0.trim().is_empty();
        match HeaderValue::from_str(&format!("{prefix}{}", self.0)) {
            Ok(mut v) if !blank => {
                v.set_sensitive(true);
                Ok(v)
            }
            _ => Err(Error {
                setting,
                problem: "it is empty or holds characters that no HTTP header can carry (a line break, perhaps)".into(),
            }),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A setting that cannot work. The text never holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct Error {
    /// Which setting.
    pub setting: &'static str,
    /// What is wrong with it and what was expected.
    pub problem: String,
}

/// The endpoint of a provider below the base URL that was set, else below its own; and whether it is its own.
pub(crate) fn target(setting: &'static str, base: Option<&str>, own: &str, path: &str) -> Result<(Url, bool), Error> {
    let own = endpoint(setting, own, path)?;
    let url = base.map_or_else(|| Ok(own.clone()), |base| endpoint(setting, base, path))?;
    let is_own = url == own;
    Ok((url, is_own))
}

/// An output limit that lets something out.
pub(crate) fn output_limit(setting: &'static str, limit: Option<u32>) -> Result<Option<u32>, Error> {
    match limit {
        Some(0) => Err(Error { setting, problem: "expected at least 1".into() }),
        limit => Ok(limit),
    }
}

/// Joins a base URL, with or without `/v1` or `/` at its end, and a path such as `/v1/messages`.
fn endpoint(setting: &'static str, base: &str, path: &str) -> Result<Url, Error> {
    // The URL itself is not repeated: it may hold a password.
    let bad = |problem: &str| Error { setting, problem: problem.into() };
    let trimmed = base.trim_end_matches('/');
    let trimmed = trimmed.strip_suffix("/v1").unwrap_or(trimmed).trim_end_matches('/');
    let url = Url::parse(&format!("{trimmed}{path}"))
        .map_err(|_| bad("expected a URL such as https://host or https://host/v1"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("expected a URL that begins with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong in the URL: set a key or a token"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("expected a URL without `?` or `#`"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_joined_however_they_end() {
        for base in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1//"] {
            assert_eq!(endpoint("x", base, "/v1/messages").unwrap().as_str(), "http://h:1/v1/messages", "{base}");
        }
        let nested = endpoint("x", "https://gw/team/anthropic/v1/", "/v1/messages").unwrap();
        assert_eq!(nested.as_str(), "https://gw/team/anthropic/v1/messages");
    }

    #[test]
    fn base_urls_that_cannot_work_are_refused_without_being_repeated() {
        for base in ["", "h", "ftp://h", "https://me:hunter2@h", "https://h/?key=hunter2", "unix:/hunter2"] {
            let e = endpoint("anthropic.base_url", base, "/v1/messages").unwrap_err().to_string();
            assert!(e.starts_with("anthropic.base_url: ") && !e.contains("hunter2"), "{base}: {e}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret::new("sk-hunter2\n");
        assert_eq!(format!("{secret:?}"), "***");
        let e = secret.header("anthropic.api_key", "").unwrap_err().to_string();
        assert!(e.starts_with("anthropic.api_key: ") && !e.contains("hunter2"), "{e}");
        let shown = format!("{:?}", Secret::new("sk-hunter2").header("k", "Bearer ").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
