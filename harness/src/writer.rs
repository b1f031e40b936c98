//! The one way a leaf writes: stage entries, commit them as one append.
//!
//! Staging folds an entry into the state at once, so that the leaf decides on what it has just staged; the entries
//! become durable at the next commit. **No effect may start while anything is staged**: whoever starts one commits
//! first. A leaf whose commit fails stops, so a state that ran ahead of the log is never acted on.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::clock::Clock;
use torpor_core::entry::Body;
use torpor_core::id::{Epoch, Position, SessionKey};
use torpor_core::log::{Append, AppendError, SessionLog};
use torpor_core::store;

use crate::state::State;

/// Waits between attempts while the store is away.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why a leaf can write no more. In each case it must stop and touch nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Stopped {
    /// The session has a newer owner.
    #[error("overtaken: {0}")]
    Fenced(String),
    /// The store did not come back in time, or cannot hold what was written.
    #[error(transparent)]
    Store(store::Error),
}

/// Writes for one leaf at one epoch, and holds the state that the log gives it.
pub(crate) struct Writer {
    log: Arc<dyn SessionLog>,
    clock: Arc<dyn Clock>,
    session: SessionKey,
    epoch: Epoch,
    /// Position of the last durable entry.
    head: Position,
    staged: Vec<Body>,
    patience: Duration,
    /// The state, staged entries included.
    pub(crate) state: State,
}

impl Writer {
    pub(crate) fn new(
        log: Arc<dyn SessionLog>,
        clock: Arc<dyn Clock>,
        (session, epoch): (SessionKey, Epoch),
        head: Position,
        state: State,
        patience: Duration,
    ) -> Self {
        Self { log, clock, session, epoch, head, staged: Vec::new(), patience, state }
    }

    /// The epoch under which this leaf writes.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Adds an entry to the next commit and folds it; answers the position that it will have.
    pub(crate) fn stage(&mut self, body: Body) -> Position {
        let position = Position(self.head.0 + self.staged.len() as u64 + 1);
        self.state.apply(position, self.clock.now(), &body);
        self.staged.push(body);
        position
    }

    /// Makes what is staged durable, as one append. A store that is away is waited for, with the same write id, so
    /// that a lost reply does not make a second entry.
    ///
    /// Not cancellation safe: never raced against anything.
    pub(crate) async fn commit(&mut self) -> Result<(), Stopped> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let append = Append {
            session: self.session.clone(),
            epoch: self.epoch,
            after: self.head,
            write_id: uuid::Uuid::new_v4(),
            at: self.clock.now(),
            bodies: std::mem::take(&mut self.staged),
        };
        self.head = Position(self.head.0 + append.bodies.len() as u64);
        let mut patience = Patience::new(&*self.clock, self.patience);
        loop {
            match self.log.append(append.clone()).await {
                Ok(_) => return Ok(()),
                Err(AppendError::Store(e)) => patience.wait(e).await.map_err(Stopped::Store)?,
                Err(e @ (AppendError::Fenced { .. } | AppendError::Conflict { .. })) => {
                    return Err(Stopped::Fenced(e.to_string()));
                }
            }
        }
    }
}

/// Waiting for a store that is away: with backoff, and not for ever.
pub(crate) struct Patience<'a> {
    clock: &'a dyn Clock,
    left: Duration,
    next: Duration,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(clock: &'a dyn Clock, most: Duration) -> Self {
        Self { clock, left: most, next: FIRST_WAIT }
    }

    /// Waits before the call that met `error` is repeated; the error comes back when it is lasting or patience is
    /// at its end.
    pub(crate) async fn wait(&mut self, error: store::Error) -> Result<(), store::Error> {
        if !error.is_retryable() || self.left.is_zero() {
            return Err(error);
        }
        tracing::warn!(%error, "the store is away; waiting");
        let wait = self.next.min(self.left);
        self.clock.sleep(wait).await;
        self.left -= wait;
        self.next = (self.next * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
