//! Requests in the Chat Completions format.
//!
//! Owns: what a conversation looks like on this wire. Pure; the same request always makes the same bytes, and a longer
//! conversation begins with the bytes of the shorter one: the caches of providers and servers live on that.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;
use torpor_core::message::{Assistant, Block, Content, ToolResult};
use torpor_core::model::{Error, Message, Request, Retry};

use super::PROVIDER;
use crate::pending::{NOT_RUN, Uses, visible};

/// How a failed tool call begins; the wire has no other place for it.
const ERROR_MARK: &str = "[error] ";
/// What stands for a result without any visible character; some servers refuse those.
const NO_OUTPUT: &str = "(no output)";
/// Between user messages that nothing separates. They become one: the templates of many models insist that roles
/// alternate.
const PARAGRAPH: &str = "\n\n";

/// What is said beside the conversation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) include_usage: bool,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Function<'a, Spec<'a>>>,
    messages: Vec<Turn<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// A tool, or a call of one.
#[derive(Serialize)]
struct Function<'a, F> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    r#type: &'static str,
    function: F,
    /// What the provider had beside it.
    #[serde(flatten)]
    extra: Fields<'a>,
}

/// Fields as the provider sent them.
type Fields<'a> = BTreeMap<&'a str, &'a Value>;

#[derive(Serialize)]
struct Spec<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

#[derive(Serialize)]
struct Invocation<'a> {
    name: &'a str,
    /// JSON as text.
    arguments: String,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Turn<'a> {
    System {
        content: &'a str,
    },
    User {
        content: Said<'a>,
    },
    Assistant {
        /// `null` beside calls, as the provider itself writes it.
        content: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Function<'a, Invocation<'a>>>,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    Tool {
        tool_call_id: &'a str,
        content: Cow<'a, str>,
    },
}

/// What a user message says: parts only where there is more than text, since not every server knows the other form.
#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

impl<'a> Said<'a> {
    /// Adds a paragraph.
    fn push(&mut self, text: &'a str) {
        match self {
            Self::Text(said) => {
                let said = said.to_mut();
                said.push_str(PARAGRAPH);
                said.push_str(text);
            }
            Self::Parts(parts) => parts.push(Part::Text { text: text.into() }),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: Url<'a> },
}

#[derive(Serialize)]
struct Url<'a> {
    url: DataUrl<'a>,
}

/// A picture that travels in its own address.
struct DataUrl<'a> {
    media_type: &'a str,
    data: &'a str,
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("data:{};base64,{}", self.media_type, self.data))
    }
}

/// Encodes a request.
pub(super) fn body(request: &Request<'_>, options: &Options) -> Result<Bytes, Error> {
    let tools = request.tools.iter().map(|t| Function {
        id: None,
        r#type: "function",
        function: Spec { name: t.name, description: t.description, parameters: &t.schema },
        extra: Fields::new(),
    });
    let body = Body {
        model: &request.model.model,
        stream: true,
        stream_options: options.include_usage.then_some(StreamOptions { include_usage: true }),
        max_tokens: options.max_tokens,
        max_completion_tokens: options.max_completion_tokens,
        tools: tools.collect(),
        messages: turns(request)?,
    };
    let bytes = serde_json::to_vec(&body);
    Ok(bytes.map_err(|e| Error::new(Retry::Never, format!("the request cannot be encoded: {e}")))?.into())
}

fn turns<'a>(request: &Request<'a>) -> Result<Vec<Turn<'a>>, Error> {
    let mut turns = Vec::new();
    if !request.system.trim().is_empty() {
        turns.push(Turn::System { content: request.system });
    }
    let mut uses = Uses::default();
    for message in request.messages {
        let results: &[_] = if let Message::Tools(results) = message { results } else { &[] };
        let mut pictures = Vec::new();
        for (id, r) in uses.answer(results)? {
            turns.push(result(id, r));
            pictures.extend(r.into_iter().flat_map(|r| images(id, r)));
        }
        if !pictures.is_empty() {
            turns.push(Turn::User { content: Said::Parts(pictures) });
        }
        match message {
            Message::User(text) => match turns.last_mut() {
                Some(Turn::User { content }) => content.push(visible(text)),
                _ => turns.push(Turn::User { content: Said::Text(visible(text).into()) }),
            },
            Message::Assistant(answer) => {
                uses.ask(answer);
                turns.extend(assistant(answer));
            }
            Message::Tools(_) => {}
        }
    }
    turns.extend(uses.answer(&[])?.map(|(id, r)| result(id, r)));
    Ok(turns)
}

fn result<'a>(tool_call_id: &'a str, result: Option<&ToolResult>) -> Turn<'a> {
    let (text, is_error) = result.map_or_else(|| (NOT_RUN.into(), true), |r| (r.as_text(), r.is_error));
    let text = if text.trim().is_empty() { NO_OUTPUT.into() } else { text };
    let content = if is_error { format!("{ERROR_MARK}{text}") } else { text };
    Turn::Tool { tool_call_id, content: content.into() }
}

/// The pictures of a result, each named by its call. A tool message carries text only, so they follow all of the
/// turn's tool messages in one of the user's.
fn images<'a>(tool_call_id: &'a str, result: &'a ToolResult) -> impl Iterator<Item = Part<'a>> {
    let pictures = result.content.iter().filter_map(|part| match part {
        Content::Image { media_type, data } => Some(DataUrl { media_type, data }),
        Content::Text { .. } => None,
    });
    pictures.flat_map(move |url| {
        let text = format!("[image of tool call {tool_call_id}]").into();
        [Part::Text { text }, Part::ImageUrl { image_url: Url { url } }]
    })
}

/// An answer of the model; `None` for one that has nothing that can be sent: neither text nor call.
fn assistant(answer: &Assistant) -> Option<Turn<'_>> {
    let own = || {
        answer.blocks.iter().filter_map(|b| match b {
            Block::Opaque { provider, value: Value::Object(fields) } if provider == PROVIDER => Some(fields),
            _ => None,
        })
    };
    let own_call = |id: &str| {
        let calls = own().filter_map(|fields| fields.get("tool_calls")?.as_array()).flatten();
        calls.filter_map(Value::as_object).find(|call| call.get("id").and_then(Value::as_str) == Some(id))
    };
    let tool_calls: Vec<_> = (answer.blocks.iter())
        .filter_map(|b| match b {
            Block::ToolUse { id, name, input } => Some(Function {
                id: Some(id),
                r#type: "function",
                function: Invocation { name, arguments: input.to_string() },
                extra: fields(own_call(id).into_iter(), &["id", "type", "function"]),
            }),
            _ => None,
        })
        .collect();
    let mut texts = answer.blocks.iter().filter_map(|b| match b {
        Block::Text { text } if !text.trim().is_empty() => Some(text.as_str()),
        _ => None,
    });
    let content = match (texts.next(), texts.next()) {
        (None, _) if tool_calls.is_empty() => return None,
        (None, _) => None,
        (Some(only), None) => Some(only.into()),
        (Some(_), Some(_)) => Some(answer.text().into()),
    };
    Some(Turn::Assistant { content, tool_calls, extra: fields(own(), &["role", "content", "tool_calls"]) })
}

/// The fields of some objects, without those that are written from elsewhere.
fn fields<'a>(of: impl Iterator<Item = &'a serde_json::Map<String, Value>>, without: &[&str]) -> Fields<'a> {
    of.flatten().map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !without.contains(key)).collect()
}

#[cfg(test)]
mod tests;
