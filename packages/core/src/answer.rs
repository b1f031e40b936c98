//! How a run is told to whoever asked for it: one form, over HTTP and in files.
//!
//! Owns: that form. Must not know: where it goes, or how a record was come by.

use serde::Serialize;
use serde_json::Value;

use crate::entry::RunTotals;
use crate::gate::{HeldCall, Pending};
use crate::id::{RunId, SessionKey};
use crate::message::Usage;
use crate::outcome::{FailReason, Outcome, Status, Verdict};
use crate::price::Usd;
use crate::run::Record;

/// A run that has settled.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    /// How it stands.
    #[serde(flatten)]
    pub standing: Standing<'a>,
    /// Its session.
    pub session_id: &'a str,
    /// Its id.
    pub run_id: &'a RunId,
    /// What it spent.
    pub usage: Tokens,
}

impl<'a> Answer<'a> {
    /// As a record says it.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        Self::new(Standing::of(record), &record.session, &record.run_id, &record.spent)
    }

    /// From its parts.
    #[must_use]
    pub fn new(standing: Standing<'a>, session: &'a SessionKey, run: &'a RunId, spent: &RunTotals) -> Self {
        Self { standing, session_id: session.session(), run_id: run, usage: spent.into() }
    }
}

/// Tokens, and what they cost.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// By kind.
    #[serde(flatten)]
    pub usage: Usage,
    /// All of them.
    pub total: u64,
    /// In dollars; absent where nobody can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl From<&RunTotals> for Tokens {
    fn from(spent: &RunTotals) -> Self {
        Self { usage: spent.usage, total: spent.usage.total(), cost_usd: spent.cost().map(Usd::as_number) }
    }
}

/// How a run stands: its status and what its outcome says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing<'a> {
    /// The status.
    pub status: &'static str,
    /// The verdict of a review.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'a Verdict>,
    /// The result of work with an output schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<&'a Value>,
    /// The model's last words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<&'a str>,
    /// Why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<&'a str>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailReason>,
    /// What happened then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// The first pending gate, for clients that know of one only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate_id: Option<u64>,
    /// That gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateShown<'a>>,
    /// All pending gates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateShown<'a>>,
}

impl<'a> Standing<'a> {
    /// As a record says it.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        Self::new(record.status, record.outcome.as_ref(), &record.gates)
    }

    /// From its parts.
    #[must_use]
    pub fn new(status: Status, outcome: Option<&'a Outcome>, gates: &'a [Pending]) -> Self {
        let mut it = Self {
            status: status.as_str(),
            verdict: None,
            result: None,
            response: None,
            stop_reason: None,
            reason: None,
            message: None,
            gate_id: gates.first().map(|g| g.gate),
            gate: gates.first().map(GateShown::of),
            gates: gates.iter().map(GateShown::of).collect(),
        };
        match outcome {
            Some(Outcome::Done { verdict, result, response, stop_reason }) => {
                it.verdict = verdict.as_ref();
                it.result = result.as_ref();
                it.response = response.as_deref();
                it.stop_reason = stop_reason.as_deref();
            }
            Some(Outcome::Failed { reason, message }) => {
                it.reason = Some(*reason);
                it.message = Some(message);
            }
            Some(Outcome::Aborted {} | Outcome::Cancelled {}) | None => {}
        }
        it
    }
}

/// What a person is asked.
#[derive(Debug, Serialize)]
pub struct GateShown<'a> {
    #[serde(rename = "gateId")]
    gate_id: u64,
    summary: &'a str,
    proposed_action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a HeldCall>,
    #[serde(rename = "expiresAt", skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl<'a> GateShown<'a> {
    /// A gate that waits.
    #[must_use]
    pub fn of(gate: &'a Pending) -> Self {
        Self {
            gate_id: gate.gate,
            summary: &gate.question.summary,
            proposed_action: &gate.question.proposed_action,
            call: gate.question.call.as_ref(),
            expires_at: gate.expires_at.map(|t| t.rfc3339()),
        }
    }
}
