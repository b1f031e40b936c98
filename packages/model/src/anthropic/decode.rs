//! Answers in the Anthropic Messages format.
//!
//! Owns: how events become one answer, and when that answer is whole. Must not know: where the events come from.
//! An answer that is not whole is an error to retry, never something to act on.

use serde::Deserialize;
use serde_json::{Map, Value};
use torpor_core::message::{Assistant, Block, StopReason, Usage};
use torpor_core::model::{Delta, Error};

use super::{PROVIDER, Problem};
use crate::answer::{self, broken, cut_call, cuts_calls, unknown_stop};
use crate::remote::Decode;
use crate::sse;

/// More blocks than any answer has; keeps a broken server from filling the memory with empty ones.
const MAX_BLOCKS: usize = 4_096;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Started,
    },
    ContentBlockStart {
        index: u64,
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        index: u64,
        delta: Map<String, Value>,
    },
    ContentBlockStop {
        index: u64,
    },
    MessageDelta {
        delta: Stopped,
        #[serde(default)]
        usage: Option<Tokens>,
    },
    MessageStop,
    Error {
        #[serde(default)]
        error: Problem,
    },
    /// `ping`, and what the provider adds one day.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Started {
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Stopped {
    #[serde(default)]
    stop_reason: Option<String>,
}

/// Cumulative counts; one that is absent leaves the earlier one as it was.
#[derive(Deserialize, Default)]
struct Tokens {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

impl Tokens {
    fn update(&self, usage: &mut Usage) {
        let set = |to: &mut u64, from: Option<u64>| *to = from.unwrap_or(*to);
        set(&mut usage.input, self.input_tokens);
        set(&mut usage.output, self.output_tokens);
        set(&mut usage.cache_read, self.cache_read_input_tokens);
        set(&mut usage.cache_write, self.cache_creation_input_tokens);
    }
}

/// A block on its way: the object that began it, with every delta worked in.
struct Open {
    index: u64,
    value: Map<String, Value>,
    /// Tool arguments as they come, in pieces of JSON text.
    json: String,
    ended: bool,
}

/// An answer on its way.
#[derive(Default)]
pub(super) struct Answer {
    started: bool,
    ended: bool,
    blocks: Vec<Open>,
    stop: Option<String>,
    usage: Usage,
}

impl Decode for Answer {
    fn event(&mut self, event: &sse::Event, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<bool, Error> {
        let parsed = serde_json::from_str(&event.data);
        match parsed.map_err(|e| broken(format!("event {:?} holds no valid JSON of its kind: {e}", event.name)))? {
            Event::MessageStart { message } if !self.started => {
                self.started = true;
                message.usage.unwrap_or_default().update(&mut self.usage);
            }
            Event::Error { error } => return Err(error.into_error()),
            Event::Other => {}
            Event::MessageStart { .. } => return Err(broken("it starts twice")),
            _ if !self.started => return Err(broken("it does not begin with its start")),
            Event::ContentBlockStart { index, content_block } => self.start(index, content_block, deltas)?,
            Event::ContentBlockDelta { index, delta } => self.open(index)?.add(delta, deltas)?,
            Event::ContentBlockStop { index } => self.open(index)?.ended = true,
            Event::MessageDelta { delta, usage } => {
                if delta.stop_reason.is_some() {
                    self.stop = delta.stop_reason;
                }
                usage.unwrap_or_default().update(&mut self.usage);
            }
            Event::MessageStop => self.ended = true,
        }
        Ok(self.ended)
    }

    fn finish(self: Box<Self>) -> Result<Assistant, Error> {
        if !self.started {
            return Err(broken("it is empty"));
        }
        if !self.ended {
            return Err(broken("it was cut off before its end"));
        }
        let stop = stop_reason(self.stop.as_deref())?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let mut open = self.blocks;
        open.sort_by_key(|b| b.index);
        for block in open {
            blocks.push(block.close(stop)?);
        }
        answer::whole(blocks, stop, self.usage)
    }
}

impl Answer {
    fn start(
        &mut self,
        index: u64,
        value: Map<String, Value>,
        deltas: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<(), Error> {
        if self.blocks.iter().any(|b| b.index == index) || self.blocks.len() >= MAX_BLOCKS {
            return Err(broken(format!("content block {index} starts twice or is one too many")));
        }
        show(&value, deltas);
        self.blocks.push(Open { index, value, json: String::new(), ended: false });
        Ok(())
    }

    fn open(&mut self, index: u64) -> Result<&mut Open, Error> {
        // The latest block is nearly always the one that is meant.
        let found = self.blocks.iter_mut().rev().find(|b| b.index == index && !b.ended);
        found.ok_or_else(|| broken(format!("content block {index} goes on without having started")))
    }
}

impl Open {
    /// Works in a delta. Known and unknown kinds alike add to the fields they name, so that parts of a kind that did
    /// not exist when this was written are kept as well.
    fn add(&mut self, delta: Map<String, Value>, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), Error> {
        show(&delta, deltas);
        for (key, new) in delta {
            match (key.as_str(), new) {
                ("type", _) => {}
                ("partial_json", Value::String(piece)) => self.json.push_str(&piece),
                ("citation", new) => match self.value.entry("citations").or_insert(Value::Null) {
                    Value::Array(all) => all.push(new),
                    empty => *empty = Value::Array(vec![new]),
                },
                // A signature comes whole.
                ("signature", new) => drop(self.value.insert(key, new)),
                (_, new) => match (self.value.get_mut(&key), new) {
                    (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
                    (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
                    (_, new) => drop(self.value.insert(key, new)),
                },
            }
        }
        Ok(())
    }

    fn close(mut self, stop: StopReason) -> Result<Block, Error> {
        match answer::arguments(&self.json) {
            Ok(Some(input)) => drop(self.value.insert("input".into(), input)),
            Ok(None) => {}
            Err(_) if cuts_calls(stop) => {
                return Ok(cut_call(self.value.get("name").and_then(Value::as_str).unwrap_or_default(), stop));
            }
            Err(e) => return Err(e),
        }
        if !self.ended {
            return Err(broken(format!("content block {} has no end", self.index)));
        }
        block(self.value)
    }
}

/// Reads an answer that came in one piece.
pub(super) fn whole(body: &[u8]) -> Result<Assistant, Error> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        error: Option<Problem>,
        #[serde(default)]
        content: Vec<Map<String, Value>>,
        #[serde(default)]
        stop_reason: Option<String>,
        #[serde(default)]
        usage: Tokens,
    }
    let whole: Whole =
        serde_json::from_slice(body).map_err(|e| broken(format!("it is no complete JSON message: {e}")))?;
    match whole {
        Whole { error: Some(problem), .. } => return Err(problem.into_error()),
        Whole { ref kind, .. } if kind != "message" => {
            return Err(broken(format!("it is of type {kind:?}, expected \"message\"")));
        }
        Whole { .. } => {}
    }
    let mut usage = Usage::default();
    whole.usage.update(&mut usage);
    let blocks = whole.content.into_iter().map(block).collect::<Result<_, _>>()?;
    answer::whole(blocks, stop_reason(whole.stop_reason.as_deref())?, usage)
}

fn block(mut value: Map<String, Value>) -> Result<Block, Error> {
    let text = |value: &mut Map<String, Value>, key: &str| match value.remove(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(broken(format!("a content block has no string {key:?}"))),
    };
    match value.get("type").and_then(Value::as_str) {
        // Citations refer to documents that are not sent by this crate; a text that has them stays a text.
        Some("text") => Ok(Block::Text { text: text(&mut value, "text")? }),
        Some("tool_use") => {
            let (id, name) = (text(&mut value, "id")?, text(&mut value, "name")?);
            answer::tool_use(id, name, value.remove("input"))
        }
        Some(_) => Ok(Block::Opaque { provider: PROVIDER.into(), value: Value::Object(value) }),
        None => Err(broken("a content block has no type")),
    }
}

fn stop_reason(reason: Option<&str>) -> Result<StopReason, Error> {
    match reason {
        // `pause_turn` belongs to tools that the provider runs itself; none are offered, so the turn is over.
        Some("end_turn" | "stop_sequence" | "pause_turn") => Ok(StopReason::EndTurn),
        Some("tool_use") => Ok(StopReason::ToolUse),
        Some("max_tokens" | "model_context_window_exceeded") => Ok(StopReason::MaxTokens),
        Some("refusal") => Ok(StopReason::Refusal),
        Some(other) => Err(unknown_stop(other)),
        None => Err(broken("it has no stop reason")),
    }
}

/// Shows text and thinking while they come.
fn show(fields: &Map<String, Value>, deltas: &mut (dyn FnMut(Delta) + Send)) {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    match fields.get("type").and_then(Value::as_str) {
        Some("text" | "text_delta") => text("text").map(Delta::Text),
        Some("thinking" | "thinking_delta") => text("thinking").map(Delta::Thinking),
        _ => None,
    }
    .into_iter()
    .for_each(deltas);
}

#[cfg(test)]
mod tests;
