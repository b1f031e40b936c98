//! Seam: the model.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::message::{Assistant, Content, ToolResult};
use crate::tool;
use crate::trace;

/// `provider/model`, for instance `anthropic/claude-opus-4-8` or `scripted:/path/to/turns.json`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ref {
    /// The provider's name.
    pub provider: String,
    /// The model's id as the provider knows it.
    pub model: String,
}

impl Ref {
    /// Reads `provider/model` or `scripted:<file>`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(s: &str) -> Result<Self, String> {
        let split = match s.strip_prefix("scripted:") {
            Some(file) => Some(("scripted", file)),
            None => s.split_once('/'),
        };
        match split {
            Some((p, m)) if !p.is_empty() && !m.is_empty() => Ok(Self { provider: p.into(), model: m.into() }),
            _ => Err(format!("expected `provider/model` or `scripted:<file>`, got {s:?}")),
        }
    }
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sep = if self.provider == "scripted" { ':' } else { '/' };
        write!(f, "{}{sep}{}", self.provider, self.model)
    }
}

/// One message of the conversation as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A user message.
    User(String),
    /// An answer of the model, sent back as it came.
    Assistant(Assistant),
    /// Answers to every tool use of the message before, in its order: (tool use id, result).
    Tools(Vec<(String, ToolResult)>),
}

impl Message {
    /// The pictures in it, by the length of their base64, in order.
    pub fn images(&self) -> impl Iterator<Item = usize> {
        let results = if let Self::Tools(results) = self { results.as_slice() } else { &[] };
        results.iter().flat_map(|(_, r)| &r.content).filter_map(|part| match part {
            Content::Image { data, .. } => Some(data.len()),
            Content::Text { .. } => None,
        })
    }

    /// The same with `note` in the place of every picture that `keep`, asked in order, refuses.
    #[must_use]
    pub fn replace_images(&self, note: &str, mut keep: impl FnMut() -> bool) -> Self {
        match self {
            Self::Tools(results) => {
                let results = results.iter().map(|(id, r)| (id.clone(), r.replace_images(note, &mut keep)));
                Self::Tools(results.collect())
            }
            other => other.clone(),
        }
    }
}

/// What to send. Byte-stable: the same value always encodes to the same bytes.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Which model.
    pub model: &'a Ref,
    /// System prompt.
    pub system: &'a str,
    /// Tools on offer, constant for a session.
    pub tools: &'a [&'a tool::Spec],
    /// The conversation so far; ends with a user or tools message.
    pub messages: &'a [Message],
}

/// An encoded request.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which model.
    pub model: Ref,
    /// The request body.
    pub body: Bytes,
    /// SHA-256 of `body`, hexadecimal.
    pub fingerprint: String,
    /// Estimated input tokens.
    pub estimate: u64,
    /// Input tokens that fit beside the answer: the model's context window less its output limit.
    pub room: u64,
    /// The span that this call is; told to the provider beside the body, and no part of the fingerprint.
    pub trace: Option<trace::Context>,
}

/// A piece of an answer while it streams. Never stored; the whole answer is.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// More text.
    Text(String),
    /// More thinking.
    Thinking(String),
}

/// What to do about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// Try again with backoff.
    Backoff,
    /// The provider said when.
    After(Duration),
}

/// Why a model call failed. The message is for people and carries no credential.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What happened.
    pub message: String,
    /// Whether to try again.
    pub retry: Retry,
    /// The request does not fit the model's context window.
    pub overflow: bool,
    /// The provider does not take the pictures of the request: without them it may.
    pub images: bool,
}

impl Error {
    /// An error with its retry decision.
    #[must_use]
    pub fn new(retry: Retry, message: impl Into<String>) -> Self {
        Self { message: message.into(), retry, overflow: false, images: false }
    }
}

/// Calls a model, once. Retries are the caller's matter.
///
/// Promises:
/// - `send` returns `Ok` only for an answer that was received to its proper end and whose tool arguments are
///   complete JSON objects. A cut stream, an HTML page, an empty answer, garbage: errors with `Retry::Backoff`.
/// - A stream that stays silent for the idle timeout is an error, not a wait.
/// - Dropping the future closes the connection.
#[async_trait]
pub trait ModelClient: Send + Sync + 'static {
    /// Encodes a request. Pure; unknown providers and models are refused here.
    ///
    /// # Errors
    /// `Retry::Never`.
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Error>;

    /// Sends it and receives the whole answer, showing pieces to `deltas` as they come.
    async fn send(&self, prepared: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, Error>;
}
