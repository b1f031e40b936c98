//! Seam: API keys. Who may call, for which tenant, to do what, how often, and until when.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::id::{InvalidId, check_id};
use crate::store;

mod scope;
mod secret;

pub use scope::{Scope, Scopes};
pub use secret::{Digest, Id, Presented, Secret};

/// Most keys that a store keeps: all of them are held in memory by whoever verifies.
pub const MAX_KEYS: usize = 10_000;

/// Most keys of one tenant, so that no tenant takes the others' room. Keys for every tenant count as one more tenant.
pub const MAX_KEYS_PER_TENANT: usize = 200;

/// How long a key that no longer works stays listed at least.
pub const KEEP_DEAD: Duration = Duration::from_secs(90 * 86_400);

/// How often a key may be used: a bucket of `burst` calls that refills at `per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a second in the long run; 1 to [`Rate::MAX`].
    pub per_second: u32,
    /// Calls at once after a pause; 1 to [`Rate::MAX`].
    pub burst: u32,
}

impl Rate {
    /// The largest value of either number.
    pub const MAX: u32 = 1_000_000;

    /// Checks both numbers.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let ok = |n| (1..=Self::MAX).contains(&n);
        (ok(per_second) && ok(burst)).then_some(Self { per_second, burst })
    }
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The tenant that it belongs to; `None` for every tenant, which is for operators.
    pub tenant: Option<String>,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// How often; `None` for the server's usual rate.
    pub rate: Option<Rate>,
    /// Until when; `None` for no end.
    pub expires_at: Option<Timestamp>,
}

impl Wish {
    /// Checks the ids.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, InvalidId)> {
        check_id(&self.name).map_err(|e| ("name", e))?;
        self.tenant.as_deref().map_or(Ok(()), check_id).map_err(|e| ("tenant", e))
    }
}

/// The secret before the current one, while both work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// Its digest.
    pub digest: Digest,
    /// It works until then.
    pub until: Timestamp,
}

/// One key as it is kept: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name in the secret, in lists and in logs. Not a secret.
    pub id: Id,
    /// The tenant that it belongs to; `None` for every tenant.
    pub tenant: Option<String>,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// How often; `None` for the server's usual rate.
    pub rate: Option<Rate>,
    /// When it was made.
    pub created_at: Timestamp,
    /// It works until then.
    pub expires_at: Option<Timestamp>,
    /// It was ended for good then.
    pub revoked_at: Option<Timestamp>,
    /// When it last got a new secret.
    pub rotated_at: Option<Timestamp>,
    /// The digest of its current secret.
    pub digest: Digest,
    /// The secret before, during an overlap.
    pub previous: Option<Previous>,
}

/// Why a key that is known does not open anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dead {
    /// The secret is not the key's. Nobody is told more than that.
    Wrong,
    /// The secret was the key's, and the key or the overlap has ended.
    Expired,
    /// The secret is the key's, and the key was revoked.
    Revoked,
}

impl Record {
    /// A new key with its secret, which exists nowhere else.
    #[must_use]
    pub fn issue(wish: Wish, now: Timestamp) -> (Secret, Self) {
        let id = Id::generate();
        let secret = Secret::generate(&id);
        let record = Self {
            digest: secret.digest(),
            id,
            tenant: wish.tenant,
            name: wish.name,
            scopes: wish.scopes,
            rate: wish.rate,
            created_at: now,
            expires_at: wish.expires_at,
            revoked_at: None,
            rotated_at: None,
            previous: None,
        };
        (secret, record)
    }

    /// Whether whoever showed the secret with this digest may come in. Takes the same time for every wrong secret.
    ///
    /// # Errors
    /// [`Dead`] says why not.
    pub fn admits(&self, shown: &Digest, now: Timestamp) -> Result<(), Dead> {
        let current = self.digest == *shown;
        let previous = self.previous.as_ref().filter(|p| p.digest == *shown);
        if !current && previous.is_none() {
            return Err(Dead::Wrong);
        }
        if self.revoked_at.is_some() {
            return Err(Dead::Revoked);
        }
        if !self.is_live(now) || (!current && previous.is_some_and(|p| p.until <= now)) {
            return Err(Dead::Expired);
        }
        Ok(())
    }

    /// Whether its current secret works.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A new secret for a key.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The new secret's digest.
    pub digest: Digest,
    /// When.
    pub at: Timestamp,
    /// Until when the secret before goes on working; `at` or earlier for not at all.
    pub overlap_until: Timestamp,
}

/// What became of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is kept.
    Created,
    /// The store or the tenant has as many as it may have.
    Full,
    /// The id is another key's.
    Taken,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The key as it is now.
    Done(Box<Record>),
    /// No key has this id.
    Unknown,
    /// The key cannot be changed, for this reason.
    Refused(&'static str),
}

/// All keys at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which instant. Opaque; another value for every change.
    pub version: String,
    /// The keys, oldest first. At most [`MAX_KEYS`].
    pub keys: Vec<Record>,
}

/// The keys of a store.
///
/// Promises:
/// - A key or change is durable when its call returned, and in the next [`KeyStore::keys`] of anybody.
/// - No secret is ever handed to it: only digests.
/// - A key that was made stays in the list when it has expired or was revoked, for [`KEEP_DEAD`] at least; and as only an
///   insert removes any, a store that has had a key always has one. (A server without keys lets everybody in: the end of
///   the last key must not open it.)
/// - `rotate` keeps the secret before for the overlap, and only that one: a second rotation within an overlap ends the
///   oldest secret at once. A revoked key cannot be rotated.
/// - `revoke` is for good and idempotent: the first instant stays.
///
/// Cancellation: dropping a call that changes something leaves it unknown whether it did; nothing is torn.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// Keeps a new key.
    async fn insert(&self, key: Record) -> Result<Inserted, store::Error>;

    /// All keys; `None` when nothing has changed since the version `seen`. Cheap then.
    async fn keys(&self, seen: Option<&str>) -> Result<Option<Snapshot>, store::Error>;

    /// Gives a key a new secret.
    async fn rotate(&self, id: &Id, rotation: Rotation) -> Result<Changed, store::Error>;

    /// Ends a key.
    async fn revoke(&self, id: &Id, at: Timestamp) -> Result<Changed, store::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            tenant: Some("t".into()),
            name: "n".into(),
            scopes: Scopes::of([Scope::RunsRead]),
            rate: None,
            expires_at: Some(Timestamp(100)),
        }
    }

    #[test]
    fn a_key_admits_its_secrets_while_they_live() {
        let (old, mut key) = Record::issue(wish(), Timestamp(0));
        let new = Secret::generate(&key.id);
        key.previous = Some(Previous { digest: key.digest.clone(), until: Timestamp(50) });
        key.digest = new.digest();
        let (stranger, _) = Record::issue(wish(), Timestamp(0));
        for (secret, at, want) in [
            (&new, 99, Ok(())),
            (&new, 100, Err(Dead::Expired)),
            (&old, 49, Ok(())),
            (&old, 50, Err(Dead::Expired)),
            (&stranger, 0, Err(Dead::Wrong)),
        ] {
            assert_eq!(key.admits(&secret.digest(), Timestamp(at)), want, "at {at}");
        }
        key.revoked_at = Some(Timestamp(10));
        assert_eq!(key.admits(&new.digest(), Timestamp(10)), Err(Dead::Revoked));
        assert_eq!(key.admits(&stranger.digest(), Timestamp(10)), Err(Dead::Wrong), "strangers learn nothing");
    }

    #[test]
    fn rates_and_names_are_checked() {
        assert!(Rate::new(0, 1).is_none() && Rate::new(1, Rate::MAX + 1).is_none() && Rate::new(1, 1).is_some());
        assert_eq!(wish().check(), Ok(()));
        assert_eq!(Wish { name: String::new(), ..wish() }.check().unwrap_err().0, "name");
        assert_eq!(Wish { tenant: Some("a\n".into()), ..wish() }.check().unwrap_err().0, "tenant");
    }
}
