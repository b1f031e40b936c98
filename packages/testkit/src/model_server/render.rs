//! Answers as they go over the wire, in the format that was asked in.
//!
//! Owns: which formats there are, what an answer consists of, and where a format breaks. The formats are submodules.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::script::ToolCall;

mod anthropic;
mod openai;

/// Bytes of text in one event.
const PIECE: usize = 1_024;
/// The signature of everything that was thought.
const SIGNATURE: &str = "c2lnbmVkIGJ5IHRoZSBtb2RlbCBzZXJ2ZXI=";
/// What is thought.
const THINKING: &str = "Let me think about this.";

/// What to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) thinking: bool,
    pub(crate) text: Option<String>,
    pub(crate) calls: Vec<ToolCall>,
    /// Whether all calls have one id.
    pub(crate) same_id: bool,
    /// In the words of the Messages format.
    pub(crate) stop: &'static str,
    pub(crate) usage: Option<(u64, u64)>,
}

/// Who says it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) model: String,
    /// Whether a stream ends with what it cost; only Chat Completions leaves a choice.
    pub(crate) usage: bool,
}

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// `/v1/messages`.
    Anthropic,
    /// `/v1/chat/completions`.
    Openai,
}

impl Content {
    /// The calls with the numbers that their ids are made of.
    fn numbered(&self) -> impl Iterator<Item = (usize, &ToolCall)> {
        self.calls.iter().enumerate().map(|(n, call)| (if self.same_id { 0 } else { n }, call))
    }
}

impl Wire {
    /// The format of a path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let wires = [("/v1/messages", Self::Anthropic), ("/v1/chat/completions", Self::Openai)];
        wires.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, wire)| wire)
    }

    /// What stands in a request body once for each tool result.
    pub(crate) fn result_mark(self) -> &'static str {
        match self {
            Self::Anthropic => "\"tool_result\"",
            Self::Openai => "\"role\":\"tool\"",
        }
    }

    /// The answer in one piece.
    pub(crate) fn whole(self, head: &Head, content: &Content) -> String {
        match self {
            Self::Anthropic => anthropic::whole(head, content),
            Self::Openai => openai::whole(head, content),
        }
    }

    /// The answer as events, each with its blank line.
    pub(crate) fn stream(self, head: &Head, content: &Content) -> Vec<String> {
        match self {
            Self::Anthropic => anthropic::stream(head, content),
            Self::Openai => openai::stream(head, content),
        }
    }

    /// How many events of a stream come before its first piece of text.
    pub(crate) fn events_before_text(self) -> usize {
        match self {
            Self::Anthropic => 2,
            Self::Openai => 1,
        }
    }

    /// A whole answer without what makes it whole.
    pub(crate) fn without_end(self, head: &Head, content: &Content) -> String {
        let mut events = self.stream(head, content);
        match self {
            Self::Anthropic => drop(events.pop()),
            Self::Openai => events.retain(|e| !e.contains("\"finish_reason\":\"") && !e.contains("\"usage\":{")),
        }
        events.concat()
    }

    /// An answer that calls `bash` with these arguments, which may be anything.
    pub(crate) fn with_arguments(self, head: &Head, arguments: &str) -> String {
        let call = ToolCall { name: "bash".into(), input: json!({}) };
        let content = Content { calls: vec![call], stop: "tool_use", ..Content::default() };
        self.stream(head, &content).concat().replace(&quoted("{}"), &quoted(arguments))
    }

    /// An error object.
    pub(crate) fn error(self, status: u16, message: &str) -> String {
        match self {
            Self::Anthropic => anthropic::error(status, message),
            Self::Openai => openai::error(status, "", message),
        }
    }

    /// The error of a conversation that is too long.
    pub(crate) fn overflow(self) -> String {
        match self {
            Self::Anthropic => anthropic::error(400, "prompt is too long: 250000 tokens > 200000 maximum"),
            Self::Openai => openai::error(
                400,
                "context_length_exceeded",
                "This model's maximum context length is 200000 tokens, your messages resulted in 250000 tokens",
            ),
        }
    }

    /// An error within a stream.
    pub(crate) fn error_event(self, status: u16, message: &str) -> String {
        let error = self.error(status, message);
        match self {
            Self::Anthropic => format!("event: error\ndata: {error}\n\n"),
            Self::Openai => format!("data: {error}\n\n"),
        }
    }
}

/// Text in pieces; one that ends inside a character loses it.
fn pieces(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.as_bytes().chunks(PIECE).map(String::from_utf8_lossy)
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
