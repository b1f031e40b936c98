//! Callers that wait for a change of a run's record. The writer hands the changed record to all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use torpor_core::RunId;
use torpor_core::run::Record;

type Latest = Option<Arc<Record>>;

/// Who waits for which run.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    by_run: Mutex<HashMap<RunId, watch::Sender<Latest>>>,
}

impl Waiters {
    /// Changes committed from now on are seen by the subscription.
    pub(crate) fn subscribe(self: &Arc<Self>, run: &RunId) -> Subscription {
        let latest = self.lock().entry(run.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Subscription { waiters: Arc::clone(self), run: run.clone(), latest: Some(latest) }
    }

    /// Whether anyone waits for this run.
    pub(crate) fn any(&self, run: &RunId) -> bool {
        self.lock().contains_key(run)
    }

    /// Hands a changed record to everyone who waits for it.
    pub(crate) fn publish(&self, record: Record) {
        if let Some(sender) = self.lock().get(&record.run_id) {
            sender.send_replace(Some(Arc::new(record)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<Latest>>> {
        self.by_run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's view of one run.
pub(crate) struct Subscription {
    waiters: Arc<Waiters>,
    run: RunId,
    latest: Option<watch::Receiver<Latest>>,
}

impl Subscription {
    /// The first record with a version above `seen`. Never returns without one; cancellation safe.
    pub(crate) async fn newer_than(&mut self, seen: u64) -> Arc<Record> {
        if let Some(latest) = &mut self.latest {
            let newer = latest.wait_for(|r| r.as_ref().is_some_and(|r| r.version > seen)).await;
            if let Ok(found) = newer
                && let Some(record) = found.as_ref()
            {
                return Arc::clone(record);
            }
        }
        std::future::pending().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.latest = None;
        let mut by_run = self.waiters.lock();
        if by_run.get(&self.run).is_some_and(|sender| sender.receiver_count() == 0) {
            by_run.remove(&self.run);
        }
    }
}
