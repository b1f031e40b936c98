//! A model that reads its answers from a file: for tests, demonstrations and load without a provider.
//!
//! Owns: the request as the script sees it, placeholders, delays. The file's format is its submodule and is described
//! in `docs/specs/2026-11-20-scripted-model.md`. Must not know: HTTP, any real provider.
//!
//! The answer depends on the request alone. Nothing is counted here, so a brain that takes over after a crash gets
//! the very answer that the one before it would have got.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use torpor_core::message::{Assistant, Block, StopReason, Usage};
use torpor_core::model::{Delta, Error, Message, ModelClient, Prepared, Request, Retry};

use crate::redact::Redactor;
use crate::remote::prepared;
use crate::transport::retry_for;

mod file;
mod files;
mod template;

pub use file::{Invalid, check};

/// The provider's name, as in `scripted:<file>`.
pub(crate) const PROVIDER: &str = "scripted";
/// The answer past the end of a script.
const PAST_THE_END: &str = "done";
/// How much of a fingerprint makes an id that no other call of the session has.
const ID_LENGTH: usize = 16;

/// The part of a request that a script can look at, followed by the rest of it: the fingerprint and the size are
/// those of the whole conversation.
#[derive(Serialize)]
struct Body<'a> {
    step: usize,
    prompt: &'a str,
    last_result: Option<String>,
    system: &'a str,
    tools: Vec<&'a str>,
    messages: Vec<Value>,
}

#[derive(Deserialize)]
struct Seen {
    step: usize,
    prompt: String,
    last_result: Option<String>,
}

/// The scripted provider.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    files: files::Cache,
}

#[async_trait]
impl ModelClient for Scripted {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Error> {
        let never = |text: String| Error::new(Retry::Never, text);
        let user = request.messages.iter().rposition(|m| matches!(m, Message::User(_)));
        let (prompt, after) = match user.map(|at| (&request.messages[at], &request.messages[at + 1..])) {
            Some((Message::User(prompt), after)) => (prompt.as_str(), after),
            _ => return Err(never("the conversation holds no user message for the script to answer".into())),
        };
        let last_result = request.messages.iter().rev().find_map(|m| match m {
            Message::Tools(results) => results.last().map(|(_, r)| r.as_text()),
            _ => None,
        });
        let body = Body {
            step: after.iter().filter(|m| matches!(m, Message::Assistant(_))).count(),
            prompt,
            last_result,
            system: request.system,
            tools: request.tools.iter().map(|t| t.name).collect(),
            messages: request.messages.iter().map(plain).collect(),
        };
        let bytes = serde_json::to_vec(&body).map_err(|e| never(format!("the request cannot be encoded: {e}")))?;
        Ok(prepared(request, bytes.into(), u64::MAX)) // a script is never too long
    }

    async fn send(&self, prepared: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, Error> {
        let never = |text: String| Error::new(Retry::Never, Redactor::default().clean(&text));
        let seen: Seen = serde_json::from_slice(&prepared.body)
            .map_err(|e| never(format!("this request was not made for the scripted model: {e}")))?;
        let scripts = self.files.get(&prepared.model.model).await.map_err(|e| never(e.to_string()))?;
        let Some(turn) = scripts.turn(&seen.prompt, seen.step) else {
            deltas(Delta::Text(PAST_THE_END.into()));
            let blocks = vec![Block::Text { text: PAST_THE_END.into() }];
            return Ok(Assistant { usage: usage(prepared, &blocks), blocks, stop: StopReason::EndTurn });
        };
        if !turn.delay.is_zero() {
            tokio::time::sleep(turn.delay).await;
        }
        if let Some(error) = &turn.error {
            let retry = retry_for(error.status, error.retry_after);
            let text = format!("the script answered {}: {}", error.status, error.message);
            return Err(Error { overflow: error.overflow, ..Error::new(retry, text) });
        }
        let fill = template::Values::new(&seen.prompt, seen.last_result.as_deref());
        let mut blocks = Vec::new();
        if let Some(thinking) = &turn.thinking {
            let thinking = fill.text(thinking).map_err(never)?;
            deltas(Delta::Thinking(thinking.clone()));
            let value = json!({"type": "thinking", "thinking": thinking});
            blocks.push(Block::Opaque { provider: PROVIDER.into(), value });
        }
        if let Some(text) = &turn.text {
            let text = fill.text(text).map_err(never)?;
            deltas(Delta::Text(text.clone()));
            blocks.push(Block::Text { text });
        }
        let id = prepared.fingerprint.get(..ID_LENGTH).unwrap_or(&prepared.fingerprint);
        for (n, tool) in turn.tools.iter().enumerate() {
            let input = fill.value(&tool.input).map_err(never)?;
            blocks.push(Block::ToolUse { id: format!("use_{id}_{n}"), name: tool.name.clone(), input });
        }
        let usage = turn.usage.unwrap_or_else(|| usage(prepared, &blocks));
        Ok(Assistant { blocks, stop: turn.stop, usage })
    }
}

fn plain(message: &Message) -> Value {
    match message {
        Message::User(text) => json!({"user": text}),
        Message::Assistant(answer) => json!({"assistant": answer.blocks}),
        Message::Tools(results) => json!({"tools": results}),
    }
}

/// What the answer would have cost, by the same rule as the estimate.
fn usage(prepared: &Prepared, blocks: &[Block]) -> Usage {
    let output = serde_json::to_vec(blocks).map_or(0, |b| b.len() as u64 / 4);
    Usage { input: prepared.estimate, output, ..Usage::default() }
}

#[cfg(test)]
mod tests;
