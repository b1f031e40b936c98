//! The keys, in memory: so that a request is judged without the store, a wrong credential costs a hash and nothing
//! else, and a flood of them no more than that.
//!
//! Owns: how fresh the keys are, their buckets, and whether the server is locked. Must not know: requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use torpor_core::key::{Id, KeyStore, Presented, Rate, Record};
use torpor_core::{Clock, Timestamp, store};

use super::bucket::{Bucket, Taken};

/// Keys that were read no longer ago than this are believed; so long a revoked key may still work.
const FRESH: Duration = Duration::from_secs(1);

/// How often what a key began is asked whether the key still lives.
const LOOK: Duration = Duration::from_secs(1);

/// How often requests without a key that works are told so; more are told to wait. One bucket for all of them: it has
/// nothing to do with any key's.
const STRANGERS: Rate = Rate { per_second: 100, burst: 1_000 };

/// A key and how often it was used.
pub(super) struct Held {
    pub(super) record: Record,
    pub(super) bucket: Bucket,
}

/// The keys of one instant.
#[derive(Default)]
pub(super) struct Keys {
    version: Option<String>,
    by_id: HashMap<Id, Arc<Held>>,
    /// Whether callers are asked for a key. Once true, true for ever.
    pub(super) locked: bool,
}

impl Keys {
    pub(super) fn find(&self, id: &Id) -> Option<&Arc<Held>> {
        self.by_id.get(id)
    }
}

/// The keys of a server.
pub(crate) struct Ring {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    /// The key of whoever owns the data folder; it locks nothing.
    owner: Option<Arc<Held>>,
    keys: RwLock<Arc<Keys>>,
    /// When the store was last asked, in milliseconds; 0 for never.
    asked_at: AtomicU64,
    asking: Mutex<()>,
    /// How often [`Ring::refresh`] was called.
    changes: AtomicU64,
    strangers: Bucket,
}

impl Ring {
    pub(crate) fn new(store: Arc<dyn KeyStore>, clock: Arc<dyn Clock>, owner: Option<Record>, locked: bool) -> Self {
        Self {
            store,
            clock,
            owner: owner.map(|record| Arc::new(Held { record, bucket: Bucket::default() })),
            keys: RwLock::new(Arc::new(Keys { locked, ..Keys::default() })),
            asked_at: AtomicU64::new(0),
            asking: Mutex::new(()),
            changes: AtomicU64::new(0),
            strangers: Bucket::default(),
        }
    }

    /// The keys as they are, or were within [`FRESH`]. Reads the store at most so often, once for all who wait.
    /// Cancellation safe.
    pub(super) async fn now(&self) -> Result<Arc<Keys>, store::Error> {
        if self.is_fresh() {
            return Ok(self.known());
        }
        let _turn = self.asking.lock().await;
        if self.is_fresh() {
            return Ok(self.known());
        }
        let (known, asking_at, changes) = (self.known(), self.clock.now(), self.changes.load(Acquire));
        if let Some(snapshot) = self.store.keys(known.version.as_deref()).await? {
            let mut by_id = HashMap::with_capacity(snapshot.keys.len() + 1);
            let locked = known.locked || !snapshot.keys.is_empty();
            for record in snapshot.keys {
                let held = match known.find(&record.id) {
                    Some(held) if held.record == record => Arc::clone(held),
                    // The number of its calls stays the key's, whatever else changes.
                    Some(held) => Arc::new(Held { record, bucket: held.bucket.continued() }),
                    None => Arc::new(Held { record, bucket: Bucket::default() }),
                };
                by_id.insert(held.record.id.clone(), held);
            }
            if let Some(owner) = &self.owner {
                by_id.insert(owner.record.id.clone(), Arc::clone(owner));
            }
            let keys = Arc::new(Keys { version: Some(snapshot.version), by_id, locked });
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        // What was read may be from before a change that was made meanwhile.
        if self.changes.load(Acquire) == changes {
            self.asked_at.store(asking_at.0, Release);
        }
        Ok(self.known())
    }

    /// Makes the next request see the latest change.
    pub(crate) fn refresh(&self) {
        self.changes.fetch_add(1, Release);
        self.asked_at.store(0, Release);
    }

    /// Waits until this secret opens nothing any more. Cancellation safe.
    pub(super) async fn ended(&self, shown: &Presented) {
        loop {
            self.clock.sleep(LOOK).await;
            // A store that is away ends nothing: it cannot be asked, and gives nothing out either.
            let Ok(keys) = self.now().await else { continue };
            let key = keys.find(&shown.id);
            if key.is_none_or(|key| key.record.admits(&shown.digest, self.clock.now()).is_err()) {
                return;
            }
        }
    }

    /// Counts a request without a key that works.
    pub(super) fn strangers(&self, now: Timestamp) -> Taken {
        self.strangers.take(STRANGERS, now)
    }

    fn known(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_fresh(&self) -> bool {
        let (now, asked_at) = (self.clock.now(), Timestamp(self.asked_at.load(Acquire)));
        // A clock that was set back makes nothing fresh.
        asked_at <= now && now.since(asked_at) < FRESH
    }
}
