//! Seam: dead letters, for people: which runs were given up and why, and giving one of them another chance.
//!
//! A run becomes a dead letter in one of two ways. One that no build could read was *set aside*: it has no end in any
//! log, and can go back into the queue as what it was. One that failed too often was *given up*: its end is in the log
//! for ever, so its work is posted again as a further run of its session. Why a run is given up is said elsewhere.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::id::{RunId, SessionKey};
use crate::store;
use crate::trace;

/// A run that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The run.
    pub run: RunId,
    /// Whose it is, as it is stored: of a damaged run this may be no id.
    pub tenant: String,
    /// Which session it is of, as it is stored.
    pub session: String,
    /// Why it was given up.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// It was set aside because it could not be read: driven again it is the same run. Otherwise its work becomes a new one.
    pub unread: bool,
}

/// Which dead letters to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// At most so many (1–200).
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Where the next page begins; `None` at the end. Opaque.
    pub next: Option<String>,
}

/// A dead letter that is to be worked on again.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// The run.
    pub run: RunId,
    /// Only if it is this tenant's: another's is unknown.
    pub tenant: Option<String>,
    /// The id of the new run, if there must be one; made by the caller.
    pub new_run: RunId,
    /// The trace that a new run belongs to.
    pub trace: Option<trace::Context>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redriven {
    /// The work is in the queue.
    Queued(Again),
    /// It was driven again before: that run.
    Before(Again),
    /// The run was not given up.
    NotDead,
    /// It is no run: what its dead letter is about has no work that could be done again.
    NoWork,
    /// There is no such run, or not any more.
    Unknown,
    /// The queue holds as many runs as it may: ask again later.
    Full,
}

/// The run that does the work of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// Its id: that of the dead letter, if it was set aside.
    pub run: RunId,
    /// Its session.
    pub session: SessionKey,
}

/// Dead letters.
///
/// Promises, each a case of the conformance suite:
/// - A dead letter is kept, and its run's record with it, for the time of dead letters or of records, whichever is
///   longer. Of more than the store may keep, [`RunStore::sweep`](crate::run::RunStore::sweep) lets the oldest go first;
///   their records then live on like any other.
/// - Driving one again is one atomic step, durable when it returns: the letter is gone and its work is in the queue,
///   behind what waits in its session, with no attempt counted. The record of a run that does another's work names it,
///   and the other way round.
/// - It happens once: whoever asks again is told of the same run.
#[async_trait]
pub trait LetterStore: Send + Sync + 'static {
    /// One page of dead letters of runs that have ended. A cursor that this store did not make is
    /// [`store::Error::Failed`].
    async fn letters(&self, filter: &Filter) -> Result<Page, store::Error>;

    /// Drives a dead letter again. Cancellation: whether it was is unknown; repeat it.
    async fn redrive(&self, redrive: &Redrive) -> Result<Redriven, store::Error>;
}
