//! Answers in the Chat Completions format.
//!
//! Owns: how chunks become one answer, and when that answer is whole. Must not know: where the chunks come from.
//! An answer that is not whole is an error to retry, never something to act on.

use serde::Deserialize;
use serde_json::{Map, Value};
use torpor_core::message::{Assistant, Block, StopReason, Usage};
use torpor_core::model::{Delta, Error};

use super::PROVIDER;
use super::call::{Calls, grow};
use super::problem::Problem;
use crate::answer::{self, broken, stream_error, unknown_stop};
use crate::remote::Decode;
use crate::sse;

/// The end of a stream.
const DONE: &str = "[DONE]";
/// Where servers put what a model thinks; the first that has something counts.
const THINKING: &[&str] = &["reasoning_content", "reasoning"];
/// Fields that only ever come from the provider: it refuses them, or makes nothing of them, when they are sent back.
const ONE_WAY: &[&str] = &["role", "annotations", "audio"];
/// What stands for an answer of which nothing was left when the output limit struck: all of it went into thinking that
/// the provider does not show. Asking again would end in the same place.
const CUT: &str = "[answer cut off by the output limit]";

/// A piece of an answer, or all of it.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    delta: Option<Map<String, Value>>,
    /// In an answer in one piece; some servers end a stream with it.
    #[serde(default)]
    message: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Option<String>,
}

/// Counts of the whole call so far. The cached part of the input goes by three names.
#[derive(Deserialize)]
struct Tokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    prompt_cache_hit_tokens: Option<u64>,
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<Tokens> for Usage {
    fn from(t: Tokens) -> Self {
        let prompt = t.prompt_tokens.unwrap_or_default();
        let cached = t.prompt_tokens_details.and_then(|d| d.cached_tokens);
        let cached = cached.or(t.prompt_cache_hit_tokens).or(t.cached_tokens).unwrap_or_default().min(prompt);
        Self {
            input: prompt - cached,
            output: t.completion_tokens.unwrap_or_default(),
            cache_read: cached,
            cache_write: 0,
        }
    }
}

/// An answer on its way.
#[derive(Default)]
pub(super) struct Answer {
    begun: bool,
    id: String,
    text: String,
    calls: Calls,
    /// Fields that only the provider understands, to be sent back.
    extra: Map<String, Value>,
    refused: bool,
    stop: Option<String>,
    usage: Usage,
}

impl Decode for Answer {
    fn event(&mut self, event: &sse::Event, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<bool, Error> {
        match event.data.trim() {
            DONE => return Ok(true),
            "" => return Ok(false),
            data => {
                let parsed = serde_json::from_str(data);
                let value = parsed.map_err(|e| broken(format!("an event holds no valid JSON: {e}")))?;
                self.chunk(value, deltas)?;
            }
        }
        Ok(false)
    }

    fn finish(self: Box<Self>) -> Result<Assistant, Error> {
        let this = *self;
        if !this.begun {
            return Err(broken("it is empty"));
        }
        // Not every server says `[DONE]`; a stream that gave a reason to stop and then ended has reached its end.
        let reason = this.stop.ok_or_else(|| broken("it was cut off before its end"))?;
        let stop = if this.refused { StopReason::Refusal } else { stop_reason(&reason)? };
        let (calls, beside_calls) = this.calls.close(&this.id, stop)?;
        let mut extra = this.extra;
        extra.retain(|_, value| !is_blank(value));
        if !beside_calls.is_empty() {
            extra.insert("tool_calls".into(), Value::Array(beside_calls));
        }
        let mut blocks = Vec::new();
        if !extra.is_empty() {
            blocks.push(Block::Opaque { provider: PROVIDER.into(), value: Value::Object(extra) });
        }
        match this.text {
            text if !text.is_empty() => blocks.push(Block::Text { text }),
            _ if !calls.is_empty() => {}
            _ if stop == StopReason::MaxTokens => blocks.push(Block::Text { text: CUT.into() }),
            // Thinking alone is no answer: servers that fail to tell the two apart put all of it there.
            _ => blocks.clear(),
        }
        blocks.extend(calls);
        answer::whole(blocks, stop, this.usage)
    }
}

impl Answer {
    fn chunk(&mut self, value: Value, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<(), Error> {
        if let Some(problem) = Problem::read(&value) {
            return Err(problem.into_error());
        }
        let chunk: Chunk =
            serde_json::from_value(value).map_err(|e| broken(format!("an event is of no known kind: {e}")))?;
        self.begun = true;
        if let Some(id) = chunk.id.filter(|_| self.id.is_empty()) {
            self.id = id;
        }
        if let Some(tokens) = chunk.usage {
            self.usage = tokens.into();
        }
        // One choice was asked for.
        for choice in chunk.choices.into_iter().flatten().filter(|c| c.index.unwrap_or(0) == 0) {
            match (choice.delta, choice.message) {
                (Some(delta), _) => self.take(delta, false, deltas)?,
                (None, Some(message)) => self.take(message, true, deltas)?,
                (None, None) => {}
            }
            // Some servers write an empty reason until there is one.
            if let Some(reason) = choice.finish_reason.filter(|r| !r.is_empty()) {
                self.stop = Some(reason);
            }
        }
        Ok(())
    }

    /// Takes the fields of an assistant message or of a piece of one.
    fn take(
        &mut self,
        fields: Map<String, Value>,
        whole: bool,
        deltas: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<(), Error> {
        let thought = THINKING.iter().find_map(|key| fields.get(*key)?.as_str().filter(|t| !t.is_empty()));
        if let Some(thought) = thought {
            deltas(Delta::Thinking(thought.to_owned()));
        }
        for (key, value) in fields {
            match (key.as_str(), value) {
                (_, Value::Null) => {}
                ("content", Value::String(text)) => self.say(&text, deltas),
                // Parts that are no text (Mistral's thinking) are not asked back.
                ("content", Value::Array(parts)) => {
                    parts.iter().filter_map(|p| p["text"].as_str()).for_each(|text| self.say(text, deltas));
                }
                ("refusal", Value::String(text)) => {
                    self.refused |= !text.is_empty();
                    self.say(&text, deltas);
                }
                ("tool_calls", Value::Array(calls)) => {
                    for (n, call) in (0..).zip(&calls) {
                        let call = call.as_object().ok_or_else(|| broken("a tool call is no object"))?;
                        self.calls.add(call, whole.then_some(n))?;
                    }
                }
                // The form that came before `tool_calls`; some servers still answer in it.
                ("function_call", function) => {
                    self.calls.add(&Map::from_iter([("function".to_owned(), function)]), None)?;
                }
                ("content" | "refusal" | "tool_calls", _) => {
                    return Err(broken(format!("its field {key:?} is of no known kind")));
                }
                (key, _) if ONE_WAY.contains(&key) => {}
                (key, value) => grow(&mut self.extra, key, value),
            }
        }
        Ok(())
    }

    fn say(&mut self, text: &str, deltas: &mut (dyn FnMut(Delta) + Send)) {
        if !text.is_empty() {
            self.text.push_str(text);
            deltas(Delta::Text(text.to_owned()));
        }
    }
}

/// Reads an answer that came in one piece: a stream of one chunk.
pub(super) fn whole(body: &[u8]) -> Result<Assistant, Error> {
    let value = serde_json::from_slice(body).map_err(|e| broken(format!("it is no complete JSON message: {e}")))?;
    let mut answer = Box::new(Answer::default());
    answer.chunk(value, &mut |_| {})?;
    answer.finish()
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn stop_reason(reason: &str) -> Result<StopReason, Error> {
    match reason {
        "stop" | "stop_sequence" | "eos" | "eos_token" | "end_turn" => Ok(StopReason::EndTurn),
        "tool_calls" | "function_call" | "tool_use" => Ok(StopReason::ToolUse),
        "length" | "max_tokens" | "model_length" => Ok(StopReason::MaxTokens),
        "content_filter" | "refusal" => Ok(StopReason::Refusal),
        // What a server says when it failed or gave up on the way.
        "error" | "abort" | "cancelled" | "insufficient_system_resource" => {
            Err(stream_error(torpor_core::model::Retry::Backoff, false, format_args!("the server stopped: {reason}")))
        }
        other => Err(unknown_stop(other)),
    }
}

#[cfg(test)]
mod tests;
