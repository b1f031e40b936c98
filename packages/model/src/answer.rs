//! What makes an answer one that can be acted on, whatever wire it came over.
//!
//! Owns: the last look at an answer and at the calls in it. Must not know: any wire format.

use serde_json::{Map, Value};
use torpor_core::message::{Assistant, Block, StopReason, Usage};
use torpor_core::model::{Error, Retry};

/// An answer that is not whole: an error to retry, never something to act on.
pub(crate) fn broken(what: impl std::fmt::Display) -> Error {
    Error::new(Retry::Backoff, format!("the model's answer cannot be used: {what}"))
}

/// A reason to stop that this build does not know: nobody can say what it means, and asking again changes nothing.
pub(crate) fn unknown_stop(reason: &str) -> Error {
    Error::new(Retry::Never, format!("the model stopped for a reason that is not known here: {reason:?}"))
}

/// An error that came after a stream had begun well.
pub(crate) fn stream_error(retry: Retry, overflow: bool, what: impl std::fmt::Display) -> Error {
    Error { overflow, ..Error::new(retry, format!("the model's stream ended with an error: {what}")) }
}

/// The arguments of a call, which came as text; `None` where there were none.
pub(crate) fn arguments(text: &str) -> Result<Option<Value>, Error> {
    match text.trim() {
        "" => Ok(None),
        text => serde_json::from_str(text)
            .map(Some)
            .map_err(|e| broken(format!("the arguments of a tool call are no complete JSON: {e}"))),
    }
}

/// Whether an answer that stopped like this may end in the middle of a call. Asking again would end in the same place,
/// so the answer stands as one that was cut short.
pub(crate) fn cuts_calls(stop: StopReason) -> bool {
    matches!(stop, StopReason::MaxTokens | StopReason::Refusal)
}

/// What stands in place of a call that was cut short.
pub(crate) fn cut_call(name: &str, stop: StopReason) -> Block {
    let by = if stop == StopReason::Refusal { "the provider" } else { "the output limit" };
    Block::Text { text: format!("[call of {name} cut off by {by}]") }
}

/// A call that can be carried out.
pub(crate) fn tool_use(id: String, name: String, input: Option<Value>) -> Result<Block, Error> {
    if id.is_empty() || name.is_empty() {
        return Err(broken("a tool call has no id or no name"));
    }
    match input {
        Some(input @ Value::Object(_)) => Ok(Block::ToolUse { id, name, input }),
        None | Some(Value::Null) => Ok(Block::ToolUse { id, name, input: Value::Object(Map::new()) }),
        Some(Value::String(s)) if s.is_empty() => Ok(Block::ToolUse { id, name, input: Value::Object(Map::new()) }),
        Some(_) => Err(broken(format!("the arguments of the call of {name} are no JSON object"))),
    }
}

/// The last look: is it one that can be acted on?
pub(crate) fn whole(mut blocks: Vec<Block>, stop: StopReason, usage: Usage) -> Result<Assistant, Error> {
    // Who refuses an answer refuses the calls in it, also those that were complete by then.
    for block in blocks.iter_mut().filter(|_| stop == StopReason::Refusal) {
        if let Block::ToolUse { name, .. } = block {
            *block = cut_call(name, stop);
        }
    }
    // A refusal may come without a word.
    if blocks.is_empty() && stop != StopReason::Refusal {
        return Err(broken("it holds no content"));
    }
    let mut ids: Vec<&str> = Vec::new();
    for block in &blocks {
        if let Block::ToolUse { id, .. } = block {
            if ids.contains(&id.as_str()) {
                return Err(broken(format!("two tool calls have the id {id:?}")));
            }
            ids.push(id);
        }
    }
    let stop = match (stop, ids.is_empty()) {
        (StopReason::ToolUse, true) => return Err(broken("it stops for a tool call but holds none")),
        // Some gateways do not translate the reason.
        (StopReason::EndTurn, false) => StopReason::ToolUse,
        (stop, _) => stop,
    };
    Ok(Assistant { blocks, stop, usage })
}
