//! The leaves that run in this process right now: how many fit, how to stop them, and when all are gone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use torpor_core::queue::LeaseKey;
use torpor_harness::{Stop, StopHandle};

use crate::busy::{Busy, Work};

/// Cancels that may wait for their leases; such a lease is at most an instant away.
const MAX_EARLY_CANCELS: usize = 1_024;

pub(crate) struct Active {
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    busy: Busy,
}

struct Inner {
    leaves: HashMap<LeaseKey, StopHandle>,
    /// Cancels that came before their lease did.
    early_cancels: HashSet<LeaseKey>,
    closed: bool,
}

/// Room for one leaf, kept until it is used or dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// A leaf's place among the active ones; leaving is dropping it.
pub(crate) struct Slot {
    key: LeaseKey,
    shared: Arc<Shared>,
    _place: Place,
    _work: Work,
}

impl Active {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let inner = Mutex::new(Inner { leaves: HashMap::new(), early_cancels: HashSet::new(), closed: false });
        Self { room: Arc::new(Semaphore::new(limit)), shared: Arc::new(Shared { inner, busy: Busy::default() }) }
    }

    /// Room for a leaf, if there is any now. None while draining.
    pub(crate) fn reserve(&self) -> Option<Place> {
        if self.shared.lock().closed {
            return None;
        }
        self.room.clone().try_acquire_owned().ok()
    }

    /// Waits until a leaf fits, and takes room for up to `most`. Cancellation safe.
    pub(crate) async fn wait_for_room(&self, most: usize) -> Vec<Place> {
        // The semaphore is never closed, so waiting cannot fail.
        let first = self.room.clone().acquire_owned().await.ok();
        let more = std::iter::from_fn(|| self.room.clone().try_acquire_owned().ok());
        first.into_iter().chain(more).take(most).collect()
    }

    /// A place for a leaf, with its stop signal; `None` when closed or when this very lease already runs here.
    pub(crate) fn enter(&self, key: &LeaseKey, place: Place) -> Option<(Slot, Stop)> {
        let mut inner = self.shared.lock();
        if inner.closed || inner.leaves.contains_key(key) {
            return None;
        }
        let (handle, stop) = Stop::new();
        if inner.early_cancels.remove(key) {
            handle.cancel();
        }
        inner.leaves.insert(key.clone(), handle);
        let _work = self.shared.busy.begin();
        Some((Slot { key: key.clone(), shared: self.shared.clone(), _place: place, _work }, stop))
    }

    /// The leaves that run, and what else keeps a lease.
    pub(crate) fn busy(&self) -> &Busy {
        &self.shared.busy
    }

    pub(crate) fn keys(&self) -> Vec<LeaseKey> {
        self.shared.lock().leaves.keys().cloned().collect()
    }

    /// No leaf enters any more.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    pub(crate) fn hand_back_all(&self) {
        self.shared.lock().leaves.values().for_each(StopHandle::hand_back);
    }

    /// Cancels a leaf, also one whose lease is still on its way here.
    pub(crate) fn cancel(&self, key: &LeaseKey) {
        let mut inner = self.shared.lock();
        match inner.leaves.get(key) {
            Some(handle) => handle.cancel(),
            None if inner.early_cancels.len() < MAX_EARLY_CANCELS => {
                inner.early_cancels.insert(key.clone());
            }
            None => {} // the next claim says it again
        }
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
        self.shared.lock().leaves.remove(&self.key);
    }
}
