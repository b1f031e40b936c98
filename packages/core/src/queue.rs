//! Seam: the queue of runs, with leases and epochs.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::envelope::Spec;
use crate::id::{Epoch, RunId, SessionKey, WorkerId};
use crate::log::Head;
use crate::run::Record;
use crate::store;
use crate::trace;

/// A run to be accepted.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id, made by the caller.
    pub run_id: RunId,
    /// Whose and which session.
    pub session: SessionKey,
    /// What is asked.
    pub spec: Spec,
    /// How a repeated post is recognised; `None` never collides.
    pub idempotency: Option<Idempotency>,
    /// What the session must be for this run to be accepted.
    pub expects: Expects,
    /// Not before this instant (store's clock).
    pub not_before: Option<Timestamp>,
    /// Higher goes first; 0 is normal.
    pub priority: i32,
    /// Goes before everything else that waits in its session, and the run that is under way there is cancelled in the
    /// same step.
    pub interrupt: bool,
    /// Claim it for this worker in the same step, if nothing of the session stands before it.
    pub claim_for: Option<WorkerId>,
    /// The trace that it belongs to, for ever: whoever works on it, and however often it is posted again.
    pub trace: Option<trace::Context>,
}

/// How a repeated post is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key; unique per tenant.
    pub key: String,
    /// Hash of the canonical body.
    pub body_hash: String,
}

/// What the session must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// It must not exist: this is its first run.
    New,
    /// It must exist: this is a further turn.
    Existing,
    /// It must exist, and no gate of it may be pending.
    Ungated,
}

/// What became of a submit.
#[derive(Debug, Clone)]
pub enum Enqueued {
    /// A new run, waiting to be claimed.
    Created(Box<Record>),
    /// A new run, claimed in the same step as `claim_for` asked.
    Claimed(Box<Lease>),
    /// The same key and body came before: that run.
    Existing(Box<Record>),
    /// The same session and body came before, and the record of that run has expired.
    Expired,
    /// The same key came before with another body, or the session exists and was expected not to.
    Conflict,
    /// The session does not exist and was expected to.
    NoSession,
    /// A gate of the session is pending, and none was expected: the run that waits.
    GatePending(Box<Record>),
    /// The session does not exist, and the hands have not forgotten the last one with its id: ask again later.
    Forgetting,
    /// The queue holds as many runs as it may: ask again later.
    Full,
}

/// The right to work on a run until it expires, at the session's epoch.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The run.
    pub record: Record,
    /// The session's epoch, raised by this claim. Everything the owner does carries it.
    pub epoch: Epoch,
    /// Who owns it.
    pub worker: WorkerId,
    /// Epochs up to here are those of earlier lives of the session's id: what anybody did under one of them was done for
    /// another session.
    pub born: Epoch,
    /// The log's marks at the claim.
    pub head: Head,
    /// Claims since the last progress, this one included.
    pub attempt: u32,
    /// The run is to be cancelled: end it instead of going on.
    pub cancel: bool,
}

impl Lease {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &SessionKey {
        &self.record.session
    }

    /// What a heartbeat names.
    #[must_use]
    pub fn key(&self) -> LeaseKey {
        LeaseKey { run: self.record.run_id.clone(), epoch: self.epoch }
    }
}

/// Names a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    /// The run.
    pub run: RunId,
    /// The epoch of its claim.
    pub epoch: Epoch,
}

/// Why a run is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The owner is going away in good order: claimable at once, no attempt burned.
    HandBack,
    /// It failed for a passing reason: claimable after the delay, the attempt counts.
    Retry {
        /// How long to wait.
        after: Duration,
    },
    /// Nothing is wrong with the run (no free sandbox): claimable after the delay, no attempt burned.
    Wait {
        /// How long to wait.
        after: Duration,
    },
}

/// What became of a cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// There is no such run.
    Unknown,
    /// It had ended already, or ended with this: its record.
    Ended(Box<Record>),
    /// Its owner, or the next one, will end it: its record as it is.
    Asked(Box<Record>),
}

/// Queue counts. A run is in exactly one of those of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Claimable now, those with expired leases included.
    pub ready: u64,
    /// Waiting for their time, or for an earlier run of their session.
    pub waiting: u64,
    /// Owned under a live lease.
    pub leased: u64,
    /// Waiting for a person.
    pub paused: u64,
    /// Dead letters kept.
    pub dead: u64,
    /// Webhooks to be sent now, those that are being sent included. They are no runs, but work all the same: whoever
    /// wakes workers counts them.
    pub webhooks: u64,
    /// The same of orders to write files.
    pub files: u64,
}

/// At-least-once delivery of runs; at most one live lease per session.
///
/// Promises:
/// - `enqueue` is one atomic step over record, queue entry, idempotency key and (with `claim_for`) lease; **when it
///   returns, all of that is durable**. Any number of parallel submits of one key make one run.
/// - A submit of a session that exists (`Expects::New`) is recognised by its body as well, whatever key it carries: the
///   same body as the session's first run is that run, or [`Enqueued::Expired`] once its record is gone; another body
///   is a conflict.
/// - A further run (`Expects::Existing`) inherits what the session's first run wished for
///   ([`Spec::inherit`](crate::envelope::Spec::inherit)).
/// - A run whose stored form cannot be read (damaged, or of a newer build) stops nobody: a claim sets it aside among
///   the dead letters and goes on; a list leaves it out.
/// - A queue is bounded: one run more than it may hold is [`Enqueued::Full`], whatever session it is for. What came before
///   is recognised all the same.
/// - Runs of one session are claimed strictly one after the other, in the order they were accepted; one that
///   interrupts goes before those that wait.
/// - Among claimable runs: higher priority first, then oldest.
/// - A claim raises the session's epoch, by which every earlier owner is fenced.
/// - A lease ends when the store's clock passes its time without a heartbeat; only then can another claim succeed.
///   A heartbeat revives an expired lease as long as nobody claimed in between (epoch unchanged).
/// - The ack is the append of `RunEnded` (see [`crate::log::SessionLog`]).
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Accepts a run. Cancellation: whether it was accepted is unknown; repeat with the same idempotency key.
    async fn enqueue(&self, new: NewRun) -> Result<Enqueued, store::Error>;

    /// Claims up to `max` runs, waiting up to `wait` for the first. Empty when none came. Cancellation safe in
    /// that a claim that was made but not received expires by its lease.
    async fn claim(&self, worker: &WorkerId, max: usize, wait: Duration) -> Result<Vec<Lease>, store::Error>;

    /// Extends these leases; answers those that are lost (another owner, ended, or unknown).
    async fn heartbeat(&self, worker: &WorkerId, leases: &[LeaseKey]) -> Result<Vec<LeaseKey>, store::Error>;

    /// Gives a run back. A lease that is no longer held is left alone: answers `false`.
    async fn release(&self, lease: &LeaseKey, why: Release) -> Result<bool, store::Error>;

    /// Asks for a run to be ended as `cancelled`. A run that never started ends at once, without an entry, and so does one
    /// that waits behind others of its session; any other is ended by its owner, or becomes claimable at once for somebody
    /// to end it. Durable when it returns; idempotent.
    async fn cancel(&self, run: &RunId) -> Result<Cancelled, store::Error>;

    /// Waits up to `wait` for leases of this worker whose runs are to be cancelled. Each is told at least once while
    /// the lease lives; what was told and not received comes back as [`Lease::cancel`] at the next claim. Cancellation
    /// safe in that sense.
    async fn to_cancel(&self, worker: &WorkerId, wait: Duration) -> Result<Vec<LeaseKey>, store::Error>;

    /// Notes that a run was given up, beside its terminal entry. Idempotent. What becomes of such runs:
    /// [`dead_letter`](crate::dead_letter).
    async fn dead_letter(&self, run: &RunId, reason: &str) -> Result<(), store::Error>;

    /// Counts, by the store's clock.
    async fn backlog(&self) -> Result<Backlog, store::Error>;
}
