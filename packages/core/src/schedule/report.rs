//! What became of a fire.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::RunId;

/// Most runs of a fire that its report names; the others are counted, and are found by their sessions.
pub const KEEP_RUNS: usize = 20;
/// Most refusals of a fire that its report names; the others are counted.
pub const KEEP_REFUSALS: usize = 5;
/// Longest explanation of a refusal that is kept, in characters.
const MAX_DETAIL: usize = 300;

/// What became of the items of a fire. It stays small, however many they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When all had been posted.
    pub at: Timestamp,
    /// Items whose run is accepted, or was there already.
    pub accepted: u32,
    /// Items that were refused.
    pub refused: u32,
    /// The first runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Accepted>,
    /// The first refusals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// An item with its run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The item's name.
    pub item: String,
    /// Its run; absent where the run has been, and its record has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// An item that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The item's name.
    pub item: String,
    /// The stable code.
    pub code: String,
    /// What was wrong.
    pub detail: String,
}

impl Report {
    /// Counts an item whose run is accepted.
    pub fn accepted(&mut self, item: &str, run: Option<RunId>) {
        self.accepted = self.accepted.saturating_add(1);
        if self.runs.len() < KEEP_RUNS {
            self.runs.push(Accepted { item: item.to_owned(), run });
        }
    }

    /// Counts an item that was refused.
    pub fn refused(&mut self, item: &str, code: &str, detail: &str) {
        self.refused = self.refused.saturating_add(1);
        if self.refusals.len() < KEEP_REFUSALS {
            let detail = detail.chars().take(MAX_DETAIL).collect();
            self.refusals.push(Refusal { item: item.to_owned(), code: code.to_owned(), detail });
        }
    }
}
