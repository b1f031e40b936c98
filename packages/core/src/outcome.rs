//! How a run stands and how it ended.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waiting for a worker, for its time, or for the session's turn before it.
    Queued,
    /// Owned by a worker.
    Running,
    /// Waiting for a person.
    Paused,
    /// Ended well.
    Done,
    /// Ended well, with a patch.
    Solved,
    /// Ended badly; the reason says how.
    Failed,
    /// Ended by a verdict at a gate.
    Aborted,
    /// Ended by a cancel call.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a run's life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Paused,
        Self::Done,
        Self::Solved,
        Self::Failed,
        Self::Aborted,
        Self::Cancelled,
    ];

    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Solved => "solved",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this wire name.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == s)
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Paused)
    }
}

/// Why a run failed. Stable names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The model stopped without a verdict.
    NoVerdict,
    /// The model only offered verdicts that do not fit.
    InvalidVerdict,
    /// The model's result does not fit the output schema.
    InvalidOutput,
    /// The inputs cannot be worked on.
    BadInputs,
    /// A turn, token or cost limit was reached.
    Budget,
    /// The time limit was reached.
    Timeout,
    /// The model could not be reached or kept failing.
    Model,
    /// No sandbox could be had.
    NoSandbox,
    /// Given up after repeated attempts without progress.
    DeadLetter,
    /// Anything else; the message says what.
    Error,
}

impl FailReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::NoVerdict,
        Self::InvalidVerdict,
        Self::InvalidOutput,
        Self::BadInputs,
        Self::Budget,
        Self::Timeout,
        Self::Model,
        Self::NoSandbox,
        Self::DeadLetter,
        Self::Error,
    ];

    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoVerdict => "no_verdict",
            Self::InvalidVerdict => "invalid_verdict",
            Self::InvalidOutput => "invalid_output",
            Self::BadInputs => "bad_inputs",
            Self::Budget => "budget",
            Self::Timeout => "timeout",
            Self::Model => "model",
            Self::NoSandbox => "no_sandbox",
            Self::DeadLetter => "dead_letter",
            Self::Error => "error",
        }
    }
}

/// The verdict of a review leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The item that was reviewed.
    pub item_id: String,
    /// What was found.
    pub verdict: Finding,
    /// Why, in the model's words.
    pub reason: String,
}

/// The two possible findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Finding {
    /// The pattern is present and relevant.
    Flagged,
    /// It is not.
    Clear,
}

/// How a run ended. Stored in the terminal log entry; the run record is derived from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// Ended well.
    #[serde(rename_all = "camelCase")]
    Done {
        /// The verdict, for a review.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<Verdict>,
        /// The result, for work with an output schema, which it fits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        /// The model's last words, for free-form work.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response: Option<String>,
        /// Why the model stopped (`end_turn`, `max_tokens`, `refusal`), for free-form work.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
    },
    /// Ended badly.
    Failed {
        /// The stable reason.
        reason: FailReason,
        /// What happened, for a person. Carries no internals.
        message: String,
    },
    /// Ended by a verdict at a gate.
    Aborted {},
    /// Ended by a cancel call.
    Cancelled {},
}

impl Outcome {
    /// A failure with its message.
    #[must_use]
    pub fn failed(reason: FailReason, message: impl Into<String>) -> Self {
        Self::Failed { reason, message: message.into() }
    }

    /// The status that this outcome gives a run.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Done { .. } => Status::Done,
            Self::Failed { .. } => Status::Failed,
            Self::Aborted {} => Status::Aborted,
            Self::Cancelled {} => Status::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_as_they_are_stored() {
        for reason in FailReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
