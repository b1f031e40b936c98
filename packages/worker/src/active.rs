//! The leaves that run in this process right now: how many fit, how to stop them, and when all are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use torpor_core::queue::LeaseKey;
use torpor_harness::{Stop, StopHandle};

pub(crate) struct Active {
    limit: usize,
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// How many leaves run; for those who wait for a number.
    count: watch::Sender<usize>,
}

struct Inner {
    leaves: HashMap<LeaseKey, StopHandle>,
    closed: bool,
}

/// A leaf's place among the active ones; leaving is dropping it.
pub(crate) struct Slot {
    key: LeaseKey,
    shared: Arc<Shared>,
}

impl Active {
    pub(crate) fn new(limit: usize) -> Self {
        let inner = Mutex::new(Inner { leaves: HashMap::new(), closed: false });
        Self { limit: limit.max(1), shared: Arc::new(Shared { inner, count: watch::Sender::new(0) }) }
    }

    /// A place for a leaf, with its stop signal; `None` when closed or when this very lease already runs here.
    pub(crate) fn enter(&self, key: &LeaseKey) -> Option<(Slot, Stop)> {
        let mut inner = self.shared.lock();
        if inner.closed || inner.leaves.contains_key(key) {
            return None;
        }
        let (handle, stop) = Stop::new();
        inner.leaves.insert(key.clone(), handle);
        self.shared.count.send_replace(inner.leaves.len());
        Some((Slot { key: key.clone(), shared: self.shared.clone() }, stop))
    }

    pub(crate) fn has_room(&self) -> bool {
        let inner = self.shared.lock();
        !inner.closed && inner.leaves.len() < self.limit
    }

    /// Waits until at least one more leaf fits; answers how many do. Cancellation safe.
    pub(crate) async fn wait_for_room(&self) -> usize {
        let mut count = self.shared.count.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let running = count.wait_for(|n| *n < self.limit).await.map_or(0, |n| *n);
        self.limit - running
    }

    /// Waits until no leaf runs. Cancellation safe.
    pub(crate) async fn all_gone(&self) {
        let mut count = self.shared.count.subscribe();
        let _ = count.wait_for(|n| *n == 0).await;
    }

    pub(crate) fn keys(&self) -> Vec<LeaseKey> {
        self.shared.lock().leaves.keys().cloned().collect()
    }

    /// No leaf enters any more.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
    }

    pub(crate) fn hand_back_all(&self) {
        self.shared.lock().leaves.values().for_each(StopHandle::hand_back);
    }

    pub(crate) fn lost(&self, key: &LeaseKey) {
        if let Some(handle) = self.shared.lock().leaves.get(key) {
            handle.lost();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.leaves.remove(&self.key);
        self.shared.count.send_replace(inner.leaves.len());
    }
}
