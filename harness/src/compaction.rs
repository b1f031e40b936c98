//! Compaction: before the conversation outgrows the model's window, what is old is replaced by a summary.
//!
//! The summary and the place from which the conversation goes on verbatim are one entry, a checkpoint; resume reads
//! from there. The cut is never between a call and its result. The log itself keeps everything.

use torpor_core::entry::{Body, OpenRun};
use torpor_core::message::{Block, Content, IMAGE_TOKENS, ToolResult};
use torpor_core::model::{Message, Prepared};
use torpor_core::outcome::{FailReason, Outcome};

use crate::leaf::{Leaf, Step};
use crate::model_step::Called;
use crate::prompt;
use crate::writer::Stopped;

/// What stays verbatim, in estimated tokens; never more than [`KEEP_SHARE`] of the window.
const KEEP_TOKENS: u64 = 20_000;
/// One part in so many of the window may stay verbatim.
const KEEP_SHARE: u64 = 4;
/// One part in so many of the window is kept free, because estimates err.
const MARGIN_SHARE: u64 = 16;

impl Leaf<'_> {
    /// Whether a request should not be sent as it is.
    pub(crate) fn is_too_long(&self, prepared: &Prepared) -> bool {
        let expected = prepared.estimate.max(self.state().expected_context());
        expected.saturating_add(prepared.room / MARGIN_SHARE) > prepared.room
    }

    /// Replaces the older part of the conversation by a summary. Answers `false` if there is nothing left to replace.
    ///
    /// A summary is a model call like any other: intent first, counted, within the budget.
    pub(crate) async fn compact(&mut self, room: u64) -> Result<Compacted, Stopped> {
        // Whatever the window is said to be, at least half goes: it was too long.
        let all: u64 = self.state().messages.iter().map(weight).sum();
        let keep = KEEP_TOKENS.min(room / KEEP_SHARE).min(all / 2);
        let Some(cut) = self.state().cut(keep) else { return Ok(Compacted::Nothing) };
        let (left_out, old) = newest(&self.state().messages[..cut.index], room / 4 * 3);
        let mut messages = Vec::with_capacity(old.len() + 2);
        if left_out {
            messages.push(Message::User(prompt::LEFT_OUT.to_owned()));
        }
        messages.extend(without_images(old, prompt::IMAGE_IN_SUMMARY));
        messages.push(Message::User(prompt::SUMMARISE.to_owned()));
        let prepared = match self.prepare(&messages) {
            Ok(prepared) => prepared,
            Err(message) => return self.no_summary(message).await,
        };
        let (fingerprint, estimate, cost) = self.intent(&prepared);
        self.writer.stage(Body::SummaryRequested { run: self.run(), fingerprint, estimate, cost });
        self.writer.commit().await?;
        let (answer, cost) = match self.call_model(&prepared, None).await {
            Called::Answered { message, cost, .. } => (message, cost),
            Called::TooLong(message) | Called::ImagesRefused(message) | Called::Failed(message) => {
                return self.no_summary(message).await;
            }
            Called::Interrupted(why) => return Ok(Compacted::Ended(self.interrupted(why).await.map(Some))),
        };
        let mut spent = self.state().spent.clone();
        spent.usage += answer.usage;
        spent.charge(cost);
        let open_run = self.state().started.clone().map(|s| OpenRun {
            run: self.run(),
            started_at: s.at,
            model: s.model,
            workdir: s.workdir,
            tools: s.tools,
            item: s.item,
            spent,
            refused_verdict: self.state().refused_verdict,
            approved: self.state().approved,
            submissions: self.state().submissions.clone(),
            parked_ms: u64::try_from(self.state().parked.as_millis()).unwrap_or(u64::MAX),
        });
        let summary = prompt::summary(answer.text().trim());
        tracing::info!(run = %self.run(), messages = cut.index, "the conversation was summarised");
        self.writer.stage(Body::Checkpoint { summary, keep_from: cut.position, open_run });
        Ok(Compacted::Done)
    }

    async fn no_summary(&mut self, message: String) -> Result<Compacted, Stopped> {
        let outcome = Outcome::failed(FailReason::Model, format!("no summary could be made: {message}"));
        Ok(Compacted::Ended(self.end(outcome).await.map(Some)))
    }
}

/// What came of a compaction.
pub(crate) enum Compacted {
    /// The conversation is shorter now.
    Done,
    /// There is nothing that could be replaced.
    Nothing,
    /// The leaf ends with this.
    Ended(Step),
}

/// The newest messages that fit into `tokens`, beginning at a place where a conversation may begin; and whether
/// others were left out. Never empty unless `messages` is.
fn newest(messages: &[Message], tokens: u64) -> (bool, &[Message]) {
    let mut left = tokens;
    let mut start = messages.len();
    for (i, message) in messages.iter().enumerate().rev() {
        let Some(less) = left.checked_sub(weight(message)) else { break };
        left = less;
        if !matches!(message, Message::Tools(_)) {
            start = i;
        }
    }
    let start = if start == messages.len() { last_boundary(messages) } else { start };
    (start > 0, &messages[start..])
}

/// The last place at which a conversation may be cut.
fn last_boundary(messages: &[Message]) -> usize {
    messages.iter().rposition(|m| !matches!(m, Message::Tools(_))).unwrap_or(0)
}

/// The same messages with `note` in the place of every picture.
pub(crate) fn without_images(messages: &[Message], note: &str) -> Vec<Message> {
    messages.iter().map(|m| m.replace_images(note, || false)).collect()
}

/// Estimated tokens of a message: a fixed number for a picture, else by the rule of thumb of four bytes a token.
pub(crate) fn weight(message: &Message) -> u64 {
    let bytes = match message {
        Message::User(text) => text.len(),
        Message::Assistant(answer) => answer.blocks.iter().map(block_bytes).sum(),
        Message::Tools(results) => results.iter().map(|(id, r)| id.len() + result_bytes(r)).sum(),
    };
    bytes as u64 / 4 + message.images().count() as u64 * IMAGE_TOKENS + 1
}

fn block_bytes(block: &Block) -> usize {
    match block {
        Block::Text { text } => text.len(),
        Block::ToolUse { name, input, .. } => name.len() + input.to_string().len(),
        Block::Opaque { value, .. } => value.to_string().len(),
    }
}

fn result_bytes(result: &ToolResult) -> usize {
    result.content.iter().filter_map(Content::as_text).map(str::len).sum()
}
