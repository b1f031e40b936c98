//! Gates: pauses of a run for a person's verdict, and the seam through which verdicts come.
//!
//! A gate is two entries of the session's log: what is asked, and what was decided. While one is pending the run is
//! *parked*: nobody owns it, nothing of it runs, and it costs a row in the store.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{Position, RunId, SessionKey};
use crate::run::Record;
use crate::store;

/// Most characters of what a person says with a verdict.
pub const MAX_FEEDBACK_CHARS: usize = 16_384;

/// A rule of a run: calls that need a person's approval before they run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The tool's name, or `*` for every tool that runs in the sandbox.
    pub tool: String,
    /// What the call's main argument must match: a regular expression that is searched for or, where it is none, a
    /// glob over the whole. `None` matches every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What it is about.
    pub summary: String,
    /// What happens if they approve.
    pub proposed_action: String,
    /// The exact call that waits; `None` when the model asked by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<HeldCall>,
}

/// A call that waits for approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldCall {
    /// Tool name.
    pub tool: String,
    /// Its arguments.
    pub input: Value,
}

/// What a person can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on.
    Approve,
    /// Do not do this; go on without it.
    Reject,
    /// End the run.
    Abort,
}

impl Action {
    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Abort => "abort",
        }
    }

    /// The action with this wire name.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Approve, Self::Reject, Self::Abort].into_iter().find(|a| a.as_str() == s)
    }
}

/// What was decided about a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The verdict.
    pub action: Action,
    /// What was said with it; the model reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
    /// Who decided, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// Nobody decided in time: this is the default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

impl Decision {
    /// A verdict without words.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self { action, feedback: None, approver: None, expired: false }
    }

    /// What becomes of a gate that nobody decided about in time.
    #[must_use]
    pub fn expiry() -> Self {
        let feedback = Some("Nobody decided in time.".to_owned());
        Self { feedback, expired: true, ..Self::new(Action::Reject) }
    }
}

/// A gate that waits for its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Its number within the session, from 0.
    pub gate: u64,
    /// What is asked.
    pub question: Question,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// When the default verdict falls; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A gate as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The run that waits, or waited.
    pub run: RunId,
    /// Its session.
    pub session: SessionKey,
    /// The gate.
    pub gate: Pending,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its verdict.
    Pending,
    /// It was decided then.
    Decided(Decision, Timestamp),
    /// Its run ended, or is being ended, without a verdict.
    Closed,
}

/// Which gates to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this run's.
    pub run: Option<RunId>,
    /// `true` lists pending gates only, `false` only others, `None` all.
    pub pending: Option<bool>,
    /// At most so many (1–200).
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of gates.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The gates.
    pub gates: Vec<Listed>,
    /// Where the next page begins; `None` at the end. Opaque.
    pub next: Option<String>,
}

/// A verdict on its way to a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decide {
    /// The run.
    pub run: RunId,
    /// Which gate of its session; `None` means the only one that is pending.
    pub gate: Option<u64>,
    /// The verdict.
    pub decision: Decision,
}

/// What became of a verdict.
#[derive(Debug, Clone, PartialEq)]
pub enum Decided {
    /// It stands, in the log, where the entry is. The run goes on once no gate of it is pending.
    Recorded {
        /// The gate.
        gate: u64,
        /// Where the verdict stands in the log.
        position: Position,
        /// The run as it is now.
        record: Box<Record>,
    },
    /// The same verdict was there before; nothing happened.
    Repeated {
        /// The gate.
        gate: u64,
        /// The run as it is now.
        record: Box<Record>,
    },
    /// Another verdict was there before.
    Conflict {
        /// The gate.
        gate: u64,
        /// The verdict that stands.
        earlier: Decision,
    },
    /// The run ended, or is being ended: the gate takes no verdict any more.
    Closed,
    /// Several gates are pending, and none was named.
    Several(Vec<u64>),
    /// There is no such run, or it has no such gate.
    Unknown,
}

/// Where verdicts are recorded.
///
/// Promises, each a case of the conformance suite:
/// - An append whose last bodies are [`GateRequested`](crate::entry::Body::GateRequested) parks the run in the same
///   atomic step: its status is `paused`, its lease is released, its gates are pending. The next runs of the session
///   keep waiting. A run that was to be cancelled meanwhile is claimable instead, for somebody to end it.
/// - A verdict is one atomic step: the entry [`GateDecided`](crate::entry::Body::GateDecided) at the log's head, the
///   gate no longer pending and, when none of the run is left, the run claimable. **When `decide` returns, all of that
///   is durable.** Of any number of verdicts on one gate, one stands; so also between a verdict, the gate's expiry and
///   a cancel.
/// - A gate that expires is decided by the store itself, by its own clock, as [`Decision::expiry`] says, no later than
///   the next claim after it.
/// - A `pending` gate outlives every time limit of records. A gate goes with the record of its run.
#[async_trait]
pub trait GateStore: Send + Sync + 'static {
    /// Records a verdict. Cancellation: whether it stands is unknown; repeat it.
    async fn decide(&self, decide: Decide) -> Result<Decided, store::Error>;

    /// One page of gates. A cursor that this store did not make is [`store::Error::Failed`].
    async fn gates(&self, filter: &Filter) -> Result<Page, store::Error>;
}
