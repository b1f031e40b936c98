//! Seam: the records of runs, derived from the log and kept for whoever asks.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::entry::RunTotals;
use crate::envelope::Spec;
use crate::gate::Pending;
use crate::id::{Position, RunId, SessionKey};
use crate::outcome::{Outcome, Status};
use crate::store;
use crate::trace;
use crate::webhook;

/// One run, as `GET /runs/{runId}` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its id.
    pub run_id: RunId,
    /// Whose and which session.
    pub session: SessionKey,
    /// What was asked.
    pub spec: Spec,
    /// Where it stands.
    pub status: Status,
    /// How it ended; present exactly when `status` is terminal.
    pub outcome: Option<Outcome>,
    /// What it spent; final when `status` is terminal.
    pub spent: RunTotals,
    /// Claims since the last progress.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was first claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its entries stand in the session's log from here on; absent until it was first claimed.
    pub log_from: Option<Position>,
    /// The trace of the post that made it, with the span that is the run's parent; `None` for a run that nobody traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<trace::Context>,
    /// Its gates that wait for a verdict, by number; none unless `status` is paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Pending>,
    /// How the latest webhook about it stands; `None` while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<webhook::Standing>,
    /// How the latest order to write its files stands; `None` while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<webhook::Standing>,
    /// The run that was given up and whose work this one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<RunId>,
    /// The run that does the work of this one, which was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven_as: Option<RunId>,
    /// Raised by every change of the record.
    pub version: u64,
}

/// What to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this status.
    pub status: Option<Status>,
    /// Only runs created after this.
    pub created_after: Option<Timestamp>,
    /// At most so many (1–200).
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The records.
    pub runs: Vec<Record>,
    /// Where the next page begins; `None` at the end. Opaque.
    pub next: Option<String>,
}

/// Records of runs.
///
/// Promises:
/// - A record exists from the moment `enqueue` returned, and its terminal form from the moment the append of
///   `RunEnded` returned: there is no instant between.
/// - Terminal records live for the store's result TTL from their end, then they are gone. (That of a run that was given up
///   lives as long as its [dead letter](crate::dead_letter), if this is longer.)
/// - `wait` returns as soon as the record's version exceeds `seen`, without polling by the caller.
#[async_trait]
pub trait RunStore: Send + Sync + 'static {
    /// The record of a run.
    async fn get(&self, run: &RunId) -> Result<Option<Record>, store::Error>;

    /// The latest run of a session.
    async fn latest(&self, session: &SessionKey) -> Result<Option<Record>, store::Error>;

    /// One page of runs. A cursor that this store did not make is [`store::Error::Failed`].
    async fn list(&self, filter: &Filter) -> Result<Page, store::Error>;

    /// Waits until the record's version is above `seen` or `max` has passed, then answers the record as it is.
    /// Cancellation safe.
    async fn wait(&self, run: &RunId, seen: u64, max: Duration) -> Result<Option<Record>, store::Error>;

    /// A cheap check that the store answers, for readiness.
    async fn ping(&self) -> Result<(), store::Error>;

    /// Removes terminal records past their TTL; answers how many. Lets dead letters go that are past theirs, or too many.
    async fn sweep(&self) -> Result<u64, store::Error>;
}
