//! Where the server is on its way out, told to everyone who waits.
//!
//! Owns: the phases and waiting for them. Must not know: what anybody does about them.

use tokio::sync::watch;

/// The phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Taking requests.
    Serving,
    /// No new connections and no new runs; requests under way go on.
    Draining,
    /// Requests that wait for a run answer 202 now: the run goes on without them.
    Hurrying,
    /// Whatever is left is cut.
    Gone,
}

/// The current phase. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Signal(watch::Sender<Phase>);

impl Signal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }

    pub(crate) fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the server is in `phase` or past it. Cancellation safe.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so the channel cannot close before this returns.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}
