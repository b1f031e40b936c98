//! API keys: a hash in the first shard, and a version that every change replaces.
//!
//! What becomes of a key is decided here and stored only if nobody changed anything meanwhile: changes are rare and made
//! by people. The version is random, so that a store which lost its latest writes (a replica that was promoted) never
//! shows an old version's name over other keys.

use async_trait::async_trait;
use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};
use torpor_core::key::{
    Changed, Digest, Id, Inserted, KEEP_DEAD, KeyStore, MAX_KEYS, MAX_KEYS_PER_TENANT, Previous, Rate, Record,
    Rotation, Scopes, Snapshot,
};
use torpor_core::{Timestamp, store};

use crate::Store;
use crate::link::Lane;
use crate::script::{Args, Script, script};

/// How often a change is tried again because somebody else changed something in between.
const MAX_RACES: usize = 100;

static KEYS: Script = script!("keys", []);
static KEY: Script = script!("key", []);
static KEEP_KEY: Script = script!("keep_key", []);

/// A key as it is stored. A field that is not known is a newer build's, and may restrict the key: it is not passed over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    name: String,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<(u32, u32)>,
    created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_ms: Option<u64>,
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(String, u64)>,
}

impl From<&Record> for Kept {
    fn from(key: &Record) -> Self {
        Self {
            id: key.id.to_string(),
            tenant: key.tenant.clone(),
            name: key.name.clone(),
            scopes: key.scopes.names().map(str::to_owned).collect(),
            rate: key.rate.map(|rate| (rate.per_second, rate.burst)),
            created_ms: key.created_at.0,
            expires_ms: key.expires_at.map(|at| at.0),
            revoked_ms: key.revoked_at.map(|at| at.0),
            rotated_ms: key.rotated_at.map(|at| at.0),
            sha256: key.digest.to_hex(),
            previous: key.previous.as_ref().map(|it| (it.digest.to_hex(), it.until.0)),
        }
    }
}

/// A key that cannot be read is an error, not a missing key: a list without it might be empty, and no keys means that
/// everybody may come in.
fn read(json: &[u8]) -> Result<Record, store::Error> {
    let unreadable = |what: &str| store::Error::Unreadable(format!("an API key's {what} cannot be read"));
    // The reader's own message would quote what it read.
    let kept: Kept = serde_json::from_slice(json).map_err(|_| unreadable("stored form"))?;
    let digest = |text: &str| Digest::parse(text).ok_or_else(|| unreadable("digest"));
    let rate = kept.rate.map(|(per_second, burst)| Rate::new(per_second, burst).ok_or_else(|| unreadable("rate")));
    let previous = kept
        .previous
        .map(|(hex, until)| Ok::<_, store::Error>(Previous { digest: digest(&hex)?, until: Timestamp(until) }));
    Ok(Record {
        id: Id::parse(&kept.id).ok_or_else(|| unreadable("id"))?,
        tenant: kept.tenant,
        name: kept.name,
        scopes: Scopes::parse(kept.scopes.iter().map(String::as_str)).map_err(|_| unreadable("scopes"))?,
        rate: rate.transpose()?,
        created_at: Timestamp(kept.created_ms),
        expires_at: kept.expires_ms.map(Timestamp),
        revoked_at: kept.revoked_ms.map(Timestamp),
        rotated_at: kept.rotated_ms.map(Timestamp),
        digest: digest(&kept.sha256)?,
        previous: previous.transpose()?,
    })
}

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: Record) -> Result<Inserted, store::Error> {
        for _ in 0..MAX_RACES {
            let all = self.snapshot().await?;
            if let Some(other) = all.keys.iter().find(|other| other.id == key.id) {
                // The very same one is this very call, sent a second time by the connection.
                return Ok(if *other == key { Inserted::Created } else { Inserted::Taken });
            }
            let keep = u64::try_from(KEEP_DEAD.as_millis()).unwrap_or(u64::MAX);
            let dead_by = Timestamp(key.created_at.0.saturating_sub(keep));
            let ended = |key: &Record| key.revoked_at.into_iter().chain(key.expires_at).min();
            let (gone, left): (Vec<_>, Vec<_>) =
                all.keys.iter().partition(|key| ended(key).is_some_and(|end| end < dead_by));
            let of_tenant = left.iter().filter(|other| other.tenant == key.tenant).count();
            if left.len() >= MAX_KEYS || of_tenant >= MAX_KEYS_PER_TENANT {
                return Ok(Inserted::Full);
            }
            if self.keep(&all.version, &key, gone.iter().map(|key| &key.id)).await? {
                return Ok(Inserted::Created);
            }
        }
        Err(raced())
    }

    async fn keys(&self, seen: Option<&str>) -> Result<Option<Snapshot>, store::Error> {
        if let Some(seen) = seen {
            let mut ask = Cmd::new();
            ask.arg("HGET").arg(format!("{}meta", self.shards.prefix(self.shards.first()))).arg("keys");
            let now = match self.link.send(Lane::Control, &ask).await.map_err(crate::link::Failure::fault)? {
                Value::Nil => Vec::new(),
                Value::BulkString(version) => version,
                _ => return Err(store::Error::Unreadable("the version of the API keys".to_owned())),
            };
            if now == seen.as_bytes() {
                return Ok(None);
            }
        }
        self.snapshot().await.map(Some)
    }

    async fn rotate(&self, id: &Id, rotation: Rotation) -> Result<Changed, store::Error> {
        self.change(id, |key| {
            if key.revoked_at.is_some() {
                return Err("it was revoked; make a new one");
            }
            if key.digest == rotation.digest {
                return Ok(()); // this very call, sent a second time by the connection
            }
            let before = std::mem::replace(&mut key.digest, rotation.digest.clone());
            let overlap = rotation.overlap_until > rotation.at;
            key.previous = overlap.then_some(Previous { digest: before, until: rotation.overlap_until });
            key.rotated_at = Some(rotation.at);
            Ok(())
        })
        .await
    }

    async fn revoke(&self, id: &Id, at: Timestamp) -> Result<Changed, store::Error> {
        self.change(id, |key| {
            key.revoked_at.get_or_insert(at);
            Ok(())
        })
        .await
    }
}

impl Store {
    async fn snapshot(&self) -> Result<Snapshot, store::Error> {
        let mut answer = self.run(Lane::Data, self.shards.first(), &KEYS, Args::new()).await?;
        let version = answer.text()?;
        let mut stored = answer.list()?;
        let mut keys = Vec::with_capacity(stored.len());
        while stored.len() > 0 {
            keys.push(read(&stored.bytes()?)?);
        }
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(Snapshot { version, keys })
    }

    /// Stores a key unless something changed since `seen`; says whether it did.
    async fn keep<'a>(
        &self,
        seen: &str,
        key: &Record,
        gone: impl Iterator<Item = &'a Id>,
    ) -> Result<bool, store::Error> {
        let json = serde_json::to_vec(&Kept::from(key)).map_err(|e| store::Error::Failed(e.to_string()))?;
        let version = uuid::Uuid::new_v4().simple().to_string();
        let args = Args::new().text(seen).text(version).text(key.id.as_str()).owned(json);
        let args = gone.fold(args, |args, id| args.text(id.as_str()));
        self.run(Lane::Data, self.shards.first(), &KEEP_KEY, args).await?.flag()
    }

    async fn change(
        &self,
        id: &Id,
        change: impl Fn(&mut Record) -> Result<(), &'static str> + Send + Sync,
    ) -> Result<Changed, store::Error> {
        for _ in 0..MAX_RACES {
            let args = Args::new().text(id.as_str());
            let mut answer = self.run(Lane::Data, self.shards.first(), &KEY, args).await?;
            let version = answer.text()?;
            let Some(json) = answer.maybe_bytes()? else { return Ok(Changed::Unknown) };
            let mut key = read(&json)?;
            if let Err(why) = change(&mut key) {
                return Ok(Changed::Refused(why));
            }
            if self.keep(&version, &key, std::iter::empty()).await? {
                return Ok(Changed::Done(Box::new(key)));
            }
        }
        Err(raced())
    }
}

fn raced() -> store::Error {
    store::Error::Unavailable("others keep changing the API keys".to_owned())
}
