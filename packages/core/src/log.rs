//! Seam: the append-only log of a session.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::entry::{Body, Entry};
use crate::id::{Epoch, Position, SessionKey};
use crate::store;

/// What is kept beside a log so that opening it never reads the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Position of the last entry; 0 when there is none.
    pub position: Position,
    /// The current epoch.
    pub epoch: Epoch,
    /// First entry that a resuming brain reads: the latest checkpoint's `keep_from`, or 1.
    pub resume_from: Position,
    /// The number of the session's next gate.
    pub next_gate: u64,
}

/// A session as a resuming brain sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The marks beside the log.
    pub head: Head,
    /// Every entry from `head.resume_from` to `head.position`.
    pub tail: Vec<Entry>,
}

/// One atomic append.
#[derive(Debug, Clone)]
pub struct Append {
    /// The session.
    pub session: SessionKey,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// Where the writer believes the head to be.
    pub after: Position,
    /// Unique to this append; a repeated append with the same id is the same append.
    pub write_id: uuid::Uuid,
    /// When the writer wrote.
    pub at: Timestamp,
    /// What happened, in order. Never empty.
    pub bodies: Vec<Body>,
}

/// Why an append was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The session has a newer owner: the caller must stop at once and touch nothing.
    #[error("this writer's epoch {mine} was overtaken by epoch {current}")]
    Fenced {
        /// The writer's epoch.
        mine: Epoch,
        /// The session's.
        current: Epoch,
    },
    /// The head is not where the writer believed, though the epoch is current: a bug in the writer.
    #[error("the log's head is {head}, not {after}")]
    Conflict {
        /// Where the head is.
        head: Position,
        /// Where the writer believed it to be.
        after: Position,
    },
    /// The store could not answer. Whether the batch was stored is not known; repeat with the same `write_id`.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The append-only log of a session. One writer at a time; readers at any time.
///
/// Promises, each a case of the conformance suite:
/// - `append` is atomic: all of the batch or nothing, at `after + 1`, `after + 2`, … with no gap.
/// - **When `append` returns `Ok`, the batch is durable**: it survives `kill -9` of this process, and of the store
///   as far as the store's own durability setting says.
/// - An append with an epoch other than the session's is refused as [`AppendError::Fenced`] and changes nothing.
/// - An append whose `write_id` is already stored at `after + 1` under the same epoch answers `Ok` again and
///   stores nothing (the first reply was lost).
/// - In the same atomic step, a [`Body::Checkpoint`] moves `resume_from`, and a [`Body::RunEnded`] settles the run:
///   its record gets status, outcome, totals and end time, its queue entry is gone, its lease is released, and the
///   next run of the session becomes claimable. This is the queue's *ack*: there is no other, and so no instant at
///   which a run has ended but may be claimed again.
/// - `open` reads as much for a session of 100,000 entries as for one of 100 with the same tail.
///
/// Cancellation: dropping an `append` future leaves it unknown whether the batch was stored; nothing is torn.
#[async_trait]
pub trait SessionLog: Send + Sync + 'static {
    /// Appends a batch; answers the position of its last entry.
    async fn append(&self, append: Append) -> Result<Position, AppendError>;

    /// The marks and the tail; `None` for a session that has never been submitted to.
    async fn open(&self, session: &SessionKey) -> Result<Option<Opened>, store::Error>;

    /// Waits until the log's head is beyond `after` or `max` has passed, then answers the head as it is; 0 for a session
    /// that does not exist. Cancellation safe.
    async fn wait_beyond(&self, session: &SessionKey, after: Position, max: Duration)
    -> Result<Position, store::Error>;

    /// Up to `limit` entries from `from` on, in order. Fewer when they are large, so that a page is never much more than
    /// the largest of its entries; none only where there is none.
    async fn read(&self, session: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error>;
}
