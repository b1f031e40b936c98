//! Requests in the Anthropic Messages format.
//!
//! Owns: what a conversation looks like on this wire. Pure; the same request always makes the same bytes, and,
//! cache marks aside, a longer conversation begins with the bytes of the shorter one: the provider's cache lives on that.

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use torpor_core::message::{Assistant, Block, Content, StopReason, ToolResult};
use torpor_core::model::{Error, Message, Request, Retry};

use super::PROVIDER;
use crate::pending::{NOT_RUN, Uses, visible};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<System<'a>>,
    messages: Vec<Turn<'a>>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<Mark>,
}

/// The system prompt: the plain form where no mark is needed, since not every gateway knows the other.
#[derive(Serialize)]
#[serde(untagged)]
enum System<'a> {
    Plain(&'a str),
    Marked([Part<'a>; 1]),
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<Mark>,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: &'a Value,
    },
    Image {
        source: Source<'a>,
    },
    ToolResult {
        tool_use_id: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        content: Vec<Self>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<Mark>,
    },
    #[serde(untagged)]
    Verbatim(&'a Value),
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "base64")]
struct Source<'a> {
    media_type: &'a str,
    data: &'a str,
}

#[derive(Serialize, Clone, Copy)]
#[serde(tag = "type", rename = "ephemeral")]
struct Mark {}

/// Encodes a request.
pub(super) fn body(request: &Request<'_>, max_tokens: u32, marks: bool) -> Result<Bytes, Error> {
    let mark = marks.then_some(Mark {});
    let last = request.tools.len().saturating_sub(1);
    let tools: Vec<Tool<'_>> = (request.tools.iter().enumerate())
        .map(|(i, t)| Tool {
            name: t.name,
            description: t.description,
            input_schema: &t.schema,
            cache_control: mark.filter(|_| i == last),
        })
        .collect();
    let system = match request.system {
        blank if blank.trim().is_empty() => None,
        text if marks => Some(System::Marked([Part::Text { text, cache_control: mark }])),
        text => Some(System::Plain(text)),
    };
    let mut messages = turns(request.messages)?;
    if marks {
        mark_latest(&mut messages);
    }
    let body = Body {
        model: &request.model.model,
        max_tokens,
        stream: true,
        tools: (!tools.is_empty()).then_some(tools),
        system,
        messages,
    };
    let bytes = serde_json::to_vec(&body);
    Ok(bytes.map_err(|e| Error::new(Retry::Never, format!("the request cannot be encoded: {e}")))?.into())
}

/// Marks the ends of the two latest user turns: the one before holds what the last call wrote to the cache, the last
/// one what this call adds. With the tools and the system prompt that makes the four marks a request may have.
fn mark_latest(turns: &mut [Turn<'_>]) {
    for turn in turns.iter_mut().rev().filter(|t| t.role == "user").take(2) {
        if let Some(Part::Text { cache_control, .. } | Part::ToolResult { cache_control, .. }) = turn.content.last_mut()
        {
            *cache_control = Some(Mark {});
        }
    }
}

/// Turns alternate on this wire, so neighbours of one role become one turn; every tool use is answered in the turn
/// right after it.
fn turns(messages: &[Message]) -> Result<Vec<Turn<'_>>, Error> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    let mut uses = Uses::default();
    for message in messages {
        let (role, content) = match message {
            Message::User(text) => {
                let mut content = results(uses.answer(&[])?);
                content.push(Part::Text { text: visible(text), cache_control: None });
                ("user", content)
            }
            Message::Tools(of) => ("user", results(uses.answer(of)?)),
            Message::Assistant(answer) => {
                append(&mut turns, "user", results(uses.answer(&[])?));
                uses.ask(answer);
                ("assistant", parts(answer))
            }
        };
        append(&mut turns, role, content);
    }
    append(&mut turns, "user", results(uses.answer(&[])?));
    Ok(turns)
}

fn append<'a>(turns: &mut Vec<Turn<'a>>, role: &'static str, content: Vec<Part<'a>>) {
    match turns.last_mut() {
        _ if content.is_empty() => {}
        Some(turn) if turn.role == role => turn.content.extend(content),
        _ => turns.push(Turn { role, content }),
    }
}

/// The answers as parts of a turn.
fn results<'a>(of: impl Iterator<Item = (&'a str, Option<&'a ToolResult>)>) -> Vec<Part<'a>> {
    of.map(|(id, r)| result(id, r)).collect()
}

fn result<'a>(tool_use_id: &'a str, result: Option<&'a ToolResult>) -> Part<'a> {
    let text = |text| Part::Text { text, cache_control: None };
    let (content, is_error) = match result {
        Some(r) => {
            let parts = r.content.iter().filter_map(|part| match part {
                Content::Text { text } if text.trim().is_empty() => None,
                Content::Text { text: t } => Some(text(t)),
                // The API takes nothing but text for a failure.
                Content::Image { .. } if r.is_error => None,
                Content::Image { media_type, data } => Some(Part::Image { source: Source { media_type, data } }),
            });
            (parts.collect(), r.is_error)
        }
        None => (vec![text(NOT_RUN)], true),
    };
    Part::ToolResult { tool_use_id, content, is_error, cache_control: None }
}

fn parts(answer: &Assistant) -> Vec<Part<'_>> {
    // Thinking that the output limit cut off was never signed, and the API refuses it for the rest of the session.
    let cut = answer.stop == StopReason::MaxTokens;
    answer.blocks.iter().filter(|b| !(cut && is_unsigned_thinking(b))).filter_map(part).collect()
}

fn is_unsigned_thinking(block: &Block) -> bool {
    match block {
        Block::Opaque { value, .. } => {
            value["type"] == "thinking" && value["signature"].as_str().unwrap_or_default().is_empty()
        }
        _ => false,
    }
}

fn part(block: &Block) -> Option<Part<'_>> {
    match block {
        // The API sends blank texts but refuses to be sent them.
        Block::Text { text } if text.trim().is_empty() => None,
        Block::Text { text } => Some(Part::Text { text, cache_control: None }),
        Block::ToolUse { id, name, input } => Some(Part::ToolUse { id, name, input }),
        Block::Opaque { provider, value } => (provider == PROVIDER).then_some(Part::Verbatim(value)),
    }
}

#[cfg(test)]
mod tests;
