//! Promises of [`KeyStore`].

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use torpor_core::Timestamp;
use torpor_core::key::{
    Changed, Dead, Id, Inserted, KEEP_DEAD, KeyStore, MAX_KEYS_PER_TENANT, Rate, Record, Rotation, Scope, Scopes,
    Secret, Snapshot, Wish,
};

/// A fresh, empty store of keys.
pub struct Keys {
    /// The store.
    pub store: Arc<dyn KeyStore>,
    /// What has to live as long as it.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// The suite of the keys seam: every promise a test. `$fresh` makes fresh [`Keys`].
#[macro_export]
macro_rules! key_conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, keys: [
            keys_come_back_unchanged
            a_taken_id_is_refused
            every_change_is_a_new_version
            rotation_overlaps_with_one_secret_before
            revoking_is_for_good
            unknown_keys_are_unknown
            a_tenant_has_so_many_keys_and_no_more
        ]);
    };
}

const NOW: Timestamp = Timestamp(1_790_000_000_000);

impl Keys {
    async fn all(&self) -> Snapshot {
        self.store.keys(None).await.unwrap().expect("whoever has seen nothing is told")
    }

    async fn insert(&self, wish: Wish) -> (Secret, Record) {
        let (secret, record) = Record::issue(wish, NOW);
        assert_eq!(self.store.insert(record.clone()).await.unwrap(), Inserted::Created);
        (secret, record)
    }

    async fn rotate(&self, id: &Id, at: Timestamp, overlap: Duration) -> (Secret, Changed) {
        let secret = Secret::generate(id);
        let rotation = Rotation { digest: secret.digest(), at, overlap_until: at.after(overlap) };
        let changed = self.store.rotate(id, rotation).await.unwrap();
        (secret, changed)
    }
}

fn wish(tenant: &str) -> Wish {
    Wish {
        tenant: Some(tenant.to_owned()),
        name: "a name".into(),
        scopes: Scopes::of([Scope::RunsRead]),
        rate: None,
        expires_at: None,
    }
}

#[track_caller]
fn done(changed: Changed) -> Record {
    match changed {
        Changed::Done(record) => *record,
        other => panic!("it should have been changed: {other:?}"),
    }
}

/// Every part of a key comes back as it was given.
pub async fn keys_come_back_unchanged(f: Keys) {
    assert!(f.all().await.keys.is_empty());
    let (_, plain) = f.insert(wish("a/b")).await;
    let full = Wish {
        tenant: None,
        name: "ü \"quoted\"".into(),
        scopes: Scopes::all(),
        rate: Rate::new(5, 10),
        expires_at: Some(NOW.after(Duration::from_secs(60))),
    };
    let (_, full) = f.insert(full).await;
    let mut want = vec![plain, full];
    want.sort_by(|a, b| a.id.cmp(&b.id)); // made in the same millisecond
    assert_eq!(f.all().await.keys, want);
}

/// An id is one key's.
pub async fn a_taken_id_is_refused(f: Keys) {
    let (_, record) = f.insert(wish("t")).await;
    let other = Record { name: "other".into(), ..record.clone() };
    assert_eq!(f.store.insert(other).await.unwrap(), Inserted::Taken);
    assert_eq!(f.all().await.keys, [record]);
}

/// Whoever has seen the latest version is told nothing, and every change is a new version.
pub async fn every_change_is_a_new_version(f: Keys) {
    let mut seen = vec![f.all().await.version];
    let (_, record) = f.insert(wish("t")).await;
    seen.push(f.all().await.version);
    f.rotate(&record.id, NOW, Duration::ZERO).await;
    seen.push(f.all().await.version);
    f.store.revoke(&record.id, NOW).await.unwrap();
    seen.push(f.all().await.version);
    let distinct: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "{seen:?}");
    for (i, version) in seen.iter().enumerate() {
        let news = f.store.keys(Some(version)).await.unwrap();
        assert_eq!(news.is_none(), i == seen.len() - 1, "seen {version}");
    }
}

/// A rotation keeps the secret before for the overlap, and no other.
pub async fn rotation_overlaps_with_one_secret_before(f: Keys) {
    let (first, record) = f.insert(wish("t")).await;
    let hour = Duration::from_secs(3600);
    let (second, changed) = f.rotate(&record.id, NOW, hour).await;
    let key = done(changed);
    assert_eq!(key.rotated_at, Some(NOW));
    assert_eq!(f.all().await.keys, std::slice::from_ref(&key));
    for secret in [&first, &second] {
        assert_eq!(key.admits(&secret.digest(), NOW), Ok(()));
    }
    assert_eq!(key.admits(&first.digest(), NOW.after(hour)), Err(Dead::Expired));
    let (third, changed) = f.rotate(&record.id, NOW, hour).await;
    let key = done(changed);
    let admitted = [&first, &second, &third].map(|s| key.admits(&s.digest(), NOW).is_ok());
    assert_eq!(admitted, [false, true, true]);
    let (fourth, changed) = f.rotate(&record.id, NOW, Duration::ZERO).await;
    let key = done(changed);
    let admitted = [&second, &third, &fourth].map(|s| key.admits(&s.digest(), NOW).is_ok());
    assert_eq!(admitted, [false, false, true], "without an overlap only the new one works");
}

/// A revoked key stays revoked since the first time, and takes no new secret.
pub async fn revoking_is_for_good(f: Keys) {
    let (secret, record) = f.insert(wish("t")).await;
    let later = NOW.after(Duration::from_secs(1));
    for at in [NOW, later] {
        let key = done(f.store.revoke(&record.id, at).await.unwrap());
        assert_eq!(key.revoked_at, Some(NOW));
        assert_eq!(key.admits(&secret.digest(), later), Err(Dead::Revoked));
    }
    assert!(matches!(f.rotate(&record.id, later, Duration::ZERO).await.1, Changed::Refused(_)));
    assert_eq!(f.all().await.keys.len(), 1, "it stays listed");
}

/// What is not there is unknown.
pub async fn unknown_keys_are_unknown(f: Keys) {
    let id = Id::generate();
    assert_eq!(f.store.revoke(&id, NOW).await.unwrap(), Changed::Unknown);
    assert_eq!(f.rotate(&id, NOW, Duration::ZERO).await.1, Changed::Unknown);
}

/// A tenant has so many keys and no more, whatever the others have; what has been dead for long makes room.
pub async fn a_tenant_has_so_many_keys_and_no_more(f: Keys) {
    let mut first = None;
    for _ in 0..MAX_KEYS_PER_TENANT {
        let (_, record) = f.insert(wish("greedy")).await;
        first.get_or_insert(record.id);
    }
    let another = |at| Record::issue(wish("greedy"), at).1;
    assert_eq!(f.store.insert(another(NOW)).await.unwrap(), Inserted::Full);
    f.insert(wish("modest")).await;
    f.insert(Wish { tenant: None, ..wish("") }).await;
    f.store.revoke(&first.unwrap(), NOW).await.unwrap();
    assert_eq!(f.store.insert(another(NOW.after(KEEP_DEAD))).await.unwrap(), Inserted::Full);
    let later = NOW.after(KEEP_DEAD + Duration::from_millis(1));
    assert_eq!(f.store.insert(another(later)).await.unwrap(), Inserted::Created);
}
