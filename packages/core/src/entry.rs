//! The entries of a session's log. Everything that must last is one of these.
//!
//! A process reads its own [`SCHEMA`] and the one before, and refuses newer ones by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::envelope::Item;
use crate::gate::{Decision, Question};
use crate::id::{Epoch, Position, RunId, WorkerId};
use crate::message::{Assistant, ToolResult, Usage};
use crate::outcome::Outcome;
use crate::price::Usd;
use crate::sandbox;

/// The schema version this build writes. 2: results of tools may hold images, and there are gates.
pub const SCHEMA: u16 = 2;

/// The oldest schema version this build reads.
pub const OLDEST_SCHEMA: u16 = 1;

/// An entry as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its place; gapless from 1.
    pub position: Position,
    /// When its writer wrote it.
    pub at: Timestamp,
    /// The epoch under which it was written.
    pub epoch: Epoch,
    /// What happened.
    pub body: Body,
}

/// What happened. Each intent (`…Requested`) has at most one outcome, which names it by position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Body {
    /// A run begins: the user message that starts it.
    #[serde(rename_all = "camelCase")]
    RunStarted {
        /// The run.
        run: RunId,
        /// The user message, as the model sees it.
        prompt: String,
        /// `provider/model`.
        model: String,
        /// Working directory that the model is told; `None` when it is offered no sandbox tool.
        workdir: Option<String>,
        /// Names of the tools that the model is offered, in order.
        tools: Vec<String>,
        /// What is reviewed, where the envelope left it to a file to say: what is done from here on is what the file said
        /// then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        item: Option<Item>,
    },
    /// Another brain goes on with the run.
    #[serde(rename_all = "camelCase")]
    Takeover {
        /// The run.
        run: RunId,
        /// Who goes on.
        worker: WorkerId,
    },
    /// Intent: the model is about to be called.
    #[serde(rename_all = "camelCase")]
    ModelRequested {
        /// The run.
        run: RunId,
        /// SHA-256 of the request's bytes, hexadecimal.
        fingerprint: String,
        /// Estimated input tokens; what a call that was cut off counts as spent.
        estimate: u64,
        /// What these cost at the price of that moment, in nano-dollars; `None` where no price is known.
        #[serde(rename = "costNanoUsd", default, skip_serializing_if = "Option::is_none")]
        cost: Option<Usd>,
    },
    /// Outcome of the latest `ModelRequested`: the whole answer.
    #[serde(rename_all = "camelCase")]
    ModelAnswered {
        /// The run.
        run: RunId,
        /// The answer.
        message: Assistant,
        /// Requests that were sent until it came, the good one included.
        attempts: u32,
        /// What it cost at the price of that moment, in nano-dollars; `None` where no price is known, or nobody counted.
        #[serde(rename = "costNanoUsd", default, skip_serializing_if = "Option::is_none")]
        cost: Option<Usd>,
    },
    /// Intent: the model is about to be asked for a summary of what is no longer sent. Its outcome is the next
    /// `Checkpoint`.
    #[serde(rename_all = "camelCase")]
    SummaryRequested {
        /// The run.
        run: RunId,
        /// SHA-256 of the request's bytes, hexadecimal.
        fingerprint: String,
        /// Estimated input tokens; what a call that was cut off counts as spent.
        estimate: u64,
        /// See [`Body::ModelRequested`].
        #[serde(rename = "costNanoUsd", default, skip_serializing_if = "Option::is_none")]
        cost: Option<Usd>,
    },
    /// Intent: the hands are about to hear of a call. Its position is the call's id.
    #[serde(rename_all = "camelCase")]
    ToolRequested {
        /// The run.
        run: RunId,
        /// The model's id of the use.
        tool_use: String,
        /// Tool name.
        name: String,
        /// Arguments that passed the tool's schema.
        input: Value,
        /// Where it is to run; `None` for a session tool.
        sandbox: Option<sandbox::Identity>,
    },
    /// Outcome of a tool use.
    #[serde(rename_all = "camelCase")]
    ToolEnded {
        /// The run.
        run: RunId,
        /// The model's id of the use.
        tool_use: String,
        /// Position of the intent; `None` when the call was refused before any intent was written.
        call: Option<Position>,
        /// How it ended.
        ending: ToolEnding,
        /// What the model is told.
        result: ToolResult,
    },
    /// A person is asked, before a call runs or because the model asked for it. Stands at the end of its append, which
    /// parks the run.
    #[serde(rename_all = "camelCase")]
    GateRequested {
        /// The run.
        run: RunId,
        /// The gate's number within the session, from 0.
        gate: u64,
        /// The model's id of the use that waits.
        tool_use: String,
        /// What is asked.
        question: Question,
        /// When the default verdict falls; `None` for never.
        expires_at: Option<Timestamp>,
    },
    /// A gate has its verdict. Written by the store, in the step that takes the verdict.
    #[serde(rename_all = "camelCase")]
    GateDecided {
        /// The run.
        run: RunId,
        /// The gate.
        gate: u64,
        /// The verdict.
        #[serde(flatten)]
        decision: Decision,
    },
    /// The model stopped without the result that the run must end with, and is told so.
    #[serde(rename_all = "camelCase")]
    Reminded {
        /// The run.
        run: RunId,
        /// The user message, as the model sees it.
        text: String,
    },
    /// Everything before `keep_from` is stood for by `summary`. Resume reads from `keep_from`.
    #[serde(rename_all = "camelCase")]
    Checkpoint {
        /// What the model is told about the part that is no longer sent.
        summary: String,
        /// First entry that is still sent.
        keep_from: Position,
        /// The run that was under way: what a resuming brain could otherwise only read before `keep_from`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        open_run: Option<OpenRun>,
    },
    /// A run ended. Appending this also settles its record and its queue entry, in the same atomic step.
    #[serde(rename_all = "camelCase")]
    RunEnded {
        /// The run.
        run: RunId,
        /// How.
        outcome: Outcome,
        /// What it spent.
        spent: RunTotals,
    },
}

/// How a tool call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolEnding {
    /// It ran; the result may still be an error that the tool reports.
    Finished,
    /// It was refused before anything happened.
    Refused,
    /// The sandbox was lost; whether it had an effect is not known.
    SandboxLost,
}

/// A run in the middle of which a checkpoint was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenRun {
    /// The run.
    pub run: RunId,
    /// When it started.
    pub started_at: Timestamp,
    /// See [`Body::RunStarted`].
    pub model: String,
    /// See [`Body::RunStarted`].
    pub workdir: Option<String>,
    /// See [`Body::RunStarted`].
    pub tools: Vec<String>,
    /// See [`Body::RunStarted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// What it had spent when the checkpoint was made, the summary included.
    pub spent: RunTotals,
    /// Whether it had offered a verdict that was refused.
    #[serde(default)]
    pub refused_verdict: bool,
    /// Whether the last verdict that the model had asked for was an approval.
    #[serde(default)]
    pub approved: bool,
    /// How long it had been parked, in milliseconds: time that counts against no limit.
    #[serde(default)]
    pub parked_ms: u64,
    /// What had become of its results.
    #[serde(default)]
    pub submissions: Submissions,
}

/// What became of the results that a run's model has offered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Submissions {
    /// Those that did not fit.
    pub refused: u32,
    /// What was wrong with the last of these.
    pub problem: Option<String>,
    /// Whether the model was told that a result is due.
    pub reminded: bool,
}

/// What a run has spent so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunTotals {
    /// Model calls, those cut off by a crash included.
    pub turns: u32,
    /// Tokens.
    pub usage: Usage,
    /// What the calls with a price cost, in nano-dollars; `None` as long as there was none.
    #[serde(rename = "costNanoUsd", skip_serializing_if = "Option::is_none")]
    pub priced: Option<Usd>,
    /// Calls that nobody can say the cost of.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl RunTotals {
    /// Counts the cost of one more call.
    pub fn charge(&mut self, cost: Option<Usd>) {
        match cost {
            Some(cost) => *self.priced.get_or_insert_default() += cost,
            None => self.unpriced = self.unpriced.saturating_add(1),
        }
    }

    /// What all calls cost; `None` where that cannot be said.
    #[must_use]
    pub fn cost(&self) -> Option<Usd> {
        self.priced.filter(|_| self.unpriced == 0)
    }
}

impl Body {
    /// The run that this entry belongs to; `None` for entries of the session as a whole.
    #[must_use]
    pub fn run(&self) -> Option<&RunId> {
        match self {
            Self::RunStarted { run, .. }
            | Self::Takeover { run, .. }
            | Self::ModelRequested { run, .. }
            | Self::ModelAnswered { run, .. }
            | Self::SummaryRequested { run, .. }
            | Self::ToolRequested { run, .. }
            | Self::ToolEnded { run, .. }
            | Self::GateRequested { run, .. }
            | Self::GateDecided { run, .. }
            | Self::Reminded { run, .. }
            | Self::RunEnded { run, .. } => Some(run),
            Self::Checkpoint { .. } => None,
        }
    }

    /// Whether this entry is work that a later attempt need not repeat. Attempts are counted since the last of
    /// these, so that a long run survives any number of evictions while a poison one does not.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::ModelAnswered { .. } | Self::ToolEnded { .. } | Self::GateRequested { .. } | Self::Checkpoint { .. }
        )
    }
}

/// Why a stored entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build.
    #[error("log entry has schema {found}, this build reads {OLDEST_SCHEMA} to {SCHEMA}: upgrade this process first")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// Older than this build reads.
    #[error("log entry has schema {found}, this build reads {OLDEST_SCHEMA} to {SCHEMA}")]
    TooOld {
        /// The version found.
        found: u16,
    },
    /// Not an entry at all.
    #[error("log entry is damaged: {0}")]
    Damaged(String),
}

/// The stored form of a body: JSON, with the schema version kept beside it by the store.
///
/// # Errors
/// [`DecodeError::Damaged`] if serialisation fails, which no value of [`Body`] should cause.
pub fn encode(body: &Body) -> Result<Vec<u8>, DecodeError> {
    serde_json::to_vec(body).map_err(|e| DecodeError::Damaged(e.to_string()))
}

/// Reads the stored form back.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(schema: u16, bytes: &[u8]) -> Result<Body, DecodeError> {
    if schema > SCHEMA {
        return Err(DecodeError::Newer { found: schema });
    }
    if schema < OLDEST_SCHEMA {
        return Err(DecodeError::TooOld { found: schema });
    }
    serde_json::from_slice(bytes).map_err(|e| DecodeError::Damaged(e.to_string()))
}
