//! Callers that wait: for a change of a run's record, which the writer hands to all of them, or for a log to grow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use torpor_core::run::Record;
use torpor_core::{RunId, SessionKey};

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

/// Callers that wait for a session's log to grow.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    heads: Mutex<HashMap<SessionKey, watch::Sender<u64>>>,
}

impl Readers {
    /// Appends committed from now on are seen by the subscription.
    pub(crate) fn subscribe(self: &Arc<Self>, session: &SessionKey) -> Growth {
        let head = self.lock().entry(session.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Growth { readers: Arc::clone(self), session: session.clone(), head: Some(head) }
    }

    /// A session's log has this head now.
    pub(crate) fn publish(&self, session: &SessionKey, head: u64) {
        if let Some(sender) = self.lock().get(session) {
            sender.send_if_modified(|known| head > std::mem::replace(known, head.max(*known)));
        }
    }

    /// A session is gone: what was known of its log says nothing about a later one with its name.
    pub(crate) fn forget(&self, session: &SessionKey) {
        self.lock().remove(session);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, watch::Sender<u64>>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's view of one log.
pub(crate) struct Growth {
    readers: Arc<Readers>,
    session: SessionKey,
    head: Option<watch::Receiver<u64>>,
}

impl Growth {
    /// The first head beyond `after`. Never returns without one; cancellation safe.
    pub(crate) async fn beyond(&mut self, after: u64) -> u64 {
        if let Some(head) = &mut self.head
            && let Ok(found) = head.wait_for(|h| *h > after).await
        {
            return *found;
        }
        std::future::pending().await
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.head = None;
        let mut heads = self.readers.lock();
        if heads.get(&self.session).is_some_and(|sender| sender.receiver_count() == 0) {
            heads.remove(&self.session);
        }
    }
}
