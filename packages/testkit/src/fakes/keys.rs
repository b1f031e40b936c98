//! Keys in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use torpor_core::key::{
    Changed, Id, Inserted, KEEP_DEAD, KeyStore, MAX_KEYS_PER_TENANT, Previous, Record, Rotation, Secret, Snapshot, Wish,
};
use torpor_core::{Timestamp, store};

/// A [`KeyStore`] that forgets everything with its process.
#[derive(Debug, Default)]
pub struct FakeKeys(Mutex<(u64, Vec<Record>)>);

impl FakeKeys {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Keeps a key and answers its secret.
    ///
    /// # Panics
    /// When the tenant has no room for it.
    pub fn make(&self, wish: Wish, at: Timestamp) -> (Secret, Record) {
        let (secret, record) = Record::issue(wish, at);
        assert_eq!(self.put(record.clone()), Inserted::Created);
        (secret, record)
    }

    fn put(&self, key: Record) -> Inserted {
        let mut it = self.lock();
        if it.1.iter().any(|k| k.id == key.id) {
            return Inserted::Taken;
        }
        let dead_by = key.created_at.0.saturating_sub(u64::try_from(KEEP_DEAD.as_millis()).unwrap_or(u64::MAX));
        it.1.retain(|k| [k.revoked_at, k.expires_at].into_iter().flatten().all(|end| end.0 >= dead_by));
        if it.1.iter().filter(|k| k.tenant == key.tenant).count() >= MAX_KEYS_PER_TENANT {
            return Inserted::Full;
        }
        it.1.push(key);
        it.1.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        it.0 += 1;
        Inserted::Created
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Record) -> Result<(), &'static str>) -> Changed {
        let mut it = self.lock();
        let Some(key) = it.1.iter_mut().find(|k| k.id == *id) else { return Changed::Unknown };
        if let Err(why) = change(key) {
            return Changed::Refused(why);
        }
        let key = Box::new(key.clone());
        it.0 += 1;
        Changed::Done(key)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Record>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyStore for FakeKeys {
    async fn insert(&self, key: Record) -> Result<Inserted, store::Error> {
        Ok(self.put(key))
    }

    async fn keys(&self, seen: Option<&str>) -> Result<Option<Snapshot>, store::Error> {
        let it = self.lock();
        let version = it.0.to_string();
        Ok((seen != Some(&*version)).then(|| Snapshot { version, keys: it.1.clone() }))
    }

    async fn rotate(&self, id: &Id, rotation: Rotation) -> Result<Changed, store::Error> {
        Ok(self.change(id, |key| {
            if key.revoked_at.is_some() {
                return Err("it was revoked");
            }
            let old = std::mem::replace(&mut key.digest, rotation.digest);
            key.rotated_at = Some(rotation.at);
            let until = rotation.overlap_until;
            key.previous = (until > rotation.at).then_some(Previous { digest: old, until });
            Ok(())
        }))
    }

    async fn revoke(&self, id: &Id, at: Timestamp) -> Result<Changed, store::Error> {
        Ok(self.change(id, |key| {
            key.revoked_at.get_or_insert(at);
            Ok(())
        }))
    }
}
