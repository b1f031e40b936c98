//! What the scheduler needs of others: where schedules come from, and who takes their items.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use torpor_core::RunId;

use crate::file::Schedule;

/// Schedules by their names.
pub type Schedules = BTreeMap<String, Arc<Schedule>>;

/// What there is to watch at this moment.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The schedules that can be read.
    pub schedules: Arc<Schedules>,
    /// What cannot, each with its place. Where it could be read before, what it said then is among the schedules.
    pub problems: Arc<Vec<String>>,
}

/// Where schedules come from.
pub trait Source: Send + Sync + 'static {
    /// What there is now. Asked every few seconds: it must be cheap where nothing changed.
    fn look(&self) -> Loaded;
}

/// Who takes what a fire posts.
#[async_trait]
pub trait Submit: Send + Sync + 'static {
    /// Takes an envelope as an asynchronous run; its run, or none where the run has been and its record has expired.
    /// Cancellation: whether it was taken is unknown; the same envelope again is the same run.
    async fn submit(&self, envelope: Value) -> Result<Option<RunId>, Refused>;
}

/// An envelope that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} [{code}]")]
pub struct Refused {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// The same envelope may be taken later.
    pub passing: bool,
}
