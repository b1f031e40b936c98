//! API keys from a file: for operators who keep them in their deployment (a mounted Kubernetes Secret) and not in the
//! store. The file holds digests, so that whoever reads it cannot call.
//!
//! Owns: its format. Must not know: who asks for keys.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use toml::{Table, Value};
use torpor_core::key::{
    Changed, Digest, Id, Inserted, KeyStore, MAX_KEYS, Previous, Rate, Record, Rotation, Scopes, Snapshot, Wish,
};
use torpor_core::{Timestamp, store};

use crate::watched_file::WatchedFile;

/// Why a key of the file cannot be changed over HTTP or by `torpor keys`.
const FIXED: &str = "it comes from the keys file; change it there";

/// The keys of a store, with those of a file before them.
pub(crate) struct WithFile {
    file: WatchedFile<Vec<Record>>,
    store: Arc<dyn KeyStore>,
}

impl WithFile {
    /// Reads the file.
    ///
    /// # Errors
    /// One line that names the file, the key and the field that is wrong.
    pub(crate) fn open(path: &Path, store: Arc<dyn KeyStore>) -> Result<Self, String> {
        Ok(Self { file: WatchedFile::open("keys file", path, parse)?, store })
    }

    fn has(&self, id: &Id) -> bool {
        self.file.look().said.iter().any(|key| key.id == *id)
    }
}

#[async_trait]
impl KeyStore for WithFile {
    async fn insert(&self, key: Record) -> Result<Inserted, store::Error> {
        if self.has(&key.id) { Ok(Inserted::Taken) } else { self.store.insert(key).await }
    }

    async fn keys(&self, seen: Option<&str>) -> Result<Option<Snapshot>, store::Error> {
        let file = self.file.look();
        let same = seen.and_then(|s| s.split_once('/')).filter(|(times, _)| *times == file.times.to_string());
        let stored = match same {
            Some((_, seen)) => self.store.keys(Some(seen)).await?,
            None => self.store.keys(None).await?,
        };
        Ok(stored.map(|stored| {
            let mut keys = file.said.to_vec();
            keys.extend(stored.keys.into_iter().filter(|key| !file.said.iter().any(|f| f.id == key.id)));
            Snapshot { version: format!("{}/{}", file.times, stored.version), keys }
        }))
    }

    async fn rotate(&self, id: &Id, rotation: Rotation) -> Result<Changed, store::Error> {
        if self.has(id) { Ok(Changed::Refused(FIXED)) } else { self.store.rotate(id, rotation).await }
    }

    async fn revoke(&self, id: &Id, at: Timestamp) -> Result<Changed, store::Error> {
        if self.has(id) { Ok(Changed::Refused(FIXED)) } else { self.store.revoke(id, at).await }
    }
}

/// Reads `[[key]]` tables.
fn parse(text: &str, made: Timestamp) -> Result<Vec<Record>, String> {
    // The parser's own message would quote the line, and a line may hold a secret that was put there by mistake.
    let mut root: Table = text.parse().map_err(|e: toml::de::Error| format!("not TOML: {}", e.message()))?;
    let tables = match root.remove("key") {
        Some(Value::Array(tables)) => tables,
        None => Vec::new(),
        Some(_) => return Err("`key`: expected tables, each begun by [[key]]".into()),
    };
    if let Some(name) = root.keys().next() {
        return Err(format!("`{name}`: is not known; there are [[key]] tables"));
    }
    if tables.len() > MAX_KEYS {
        return Err(format!("has {} keys; there may be {MAX_KEYS}", tables.len()));
    }
    let mut keys: Vec<Record> = Vec::with_capacity(tables.len());
    for (n, table) in tables.into_iter().enumerate() {
        let Value::Table(table) = table else { return Err("`key`: expected tables, each begun by [[key]]".into()) };
        let key = Fields(table).key(made).map_err(|e| format!("key {}: {e}", n + 1))?;
        if keys.iter().any(|k| k.id == key.id) {
            return Err(format!("key {}: `id` {} is there twice", n + 1, key.id));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The fields of one key. No message repeats a value: it may be a secret in the wrong place.
struct Fields(Table);

impl Fields {
    fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let value = self.0.remove(name);
        value.map(|v| read(&v).ok_or_else(|| format!("`{name}`: expected {expected}"))).transpose()
    }

    fn text<T>(&mut self, name: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        self.take(name, expected, |v| v.as_str().and_then(&read))
    }

    fn key(mut self, made: Timestamp) -> Result<Record, String> {
        let missing = |name: &str| format!("`{name}` is missing");
        let (digest, time) = ("64 hexadecimal digits, the SHA-256 of the secret", "an RFC 3339 time in quotes");
        let id = self.text("id", "the 16 hexadecimal digits in the secret", Id::parse)?.ok_or_else(|| missing("id"))?;
        let sha256 = self.text("sha256", digest, Digest::parse)?.ok_or_else(|| missing("sha256"))?;
        let name = self.text("name", "a string", |t| Some(t.to_owned()))?.ok_or_else(|| missing("name"))?;
        let tenant = self.text("tenant", "a string", |t| Some(t.to_owned()))?;
        let every = self.take("every_tenant", "true or false", Value::as_bool)?.unwrap_or(false);
        if every == tenant.is_some() {
            return Err("give either `tenant` or `every_tenant = true`".into());
        }
        let scopes = self.take("scopes", "a list of runs:write, runs:read, gates:decide, admin", |v| {
            let names = v.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
            Scopes::parse(names).ok().filter(|s| !s.is_empty())
        })?;
        let expires_at = self.text("expires_at", time, Timestamp::parse_rfc3339)?;
        let number = |v: &Value| v.as_integer().and_then(|n| u32::try_from(n).ok());
        let per_second = self.take("rate_per_second", "an integer", number)?;
        let burst = self.take("rate_burst", "an integer", number)?;
        let rate = match (per_second, burst) {
            (None, None) => None,
            (Some(per_second), burst) => Some(Rate::new(per_second, burst.unwrap_or(per_second)).ok_or_else(|| {
                format!("`rate_per_second`, `rate_burst`: expected integers from 1 to {}", Rate::MAX)
            })?),
            (None, Some(_)) => return Err("`rate_burst` needs `rate_per_second`".into()),
        };
        let before = self.text("previous_sha256", digest, Digest::parse)?;
        let until = self.text("previous_until", time, Timestamp::parse_rfc3339)?;
        let previous = match (before, until) {
            (Some(digest), Some(until)) => Some(Previous { digest, until }),
            (None, None) => None,
            _ => return Err("`previous_sha256` and `previous_until` go together".into()),
        };
        if let Some(name) = self.0.keys().next() {
            return Err(format!("`{name}`: is not a field of a key"));
        }
        let scopes = scopes.ok_or_else(|| missing("scopes"))?;
        let wish = Wish { tenant, name, scopes, rate, expires_at };
        wish.check().map_err(|(field, why)| format!("`{field}` {why}"))?;
        let Wish { tenant, name, .. } = wish;
        Ok(Record {
            id,
            tenant,
            name,
            scopes,
            rate,
            created_at: made,
            expires_at,
            revoked_at: None,
            rotated_at: None,
            digest: sha256,
            previous,
        })
    }
}

/// A key as the file holds it.
pub(crate) fn entry(key: &Record) -> String {
    // What JSON escapes, TOML reads; control characters are in neither.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let scopes: Vec<_> = key.scopes.names().map(quoted).collect();
    let mut lines = vec![
        "[[key]]".to_owned(),
        format!("id = {}", quoted(key.id.as_str())),
        format!("name = {}", quoted(&key.name)),
        key.tenant.as_ref().map_or_else(|| "every_tenant = true".to_owned(), |t| format!("tenant = {}", quoted(t))),
        format!("scopes = [{}]", scopes.join(", ")),
        format!("sha256 = {}", quoted(&key.digest.to_hex())),
    ];
    if let Some(end) = key.expires_at {
        lines.push(format!("expires_at = {}", quoted(&end.rfc3339())));
    }
    if let Some(rate) = key.rate {
        lines.push(format!("rate_per_second = {}\nrate_burst = {}", rate.per_second, rate.burst));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use torpor_core::key::Scope;

    use super::*;

    const MADE: Timestamp = Timestamp(1_790_000_000_000);

    fn sample() -> Record {
        let wish = Wish {
            tenant: Some("a \"quoted\" tenant".into()),
            name: "ci".into(),
            scopes: Scopes::of([Scope::RunsRead, Scope::GatesDecide]),
            rate: Rate::new(5, 9),
            expires_at: Some(MADE),
        };
        Record::issue(wish, MADE).1
    }

    #[test]
    fn an_entry_is_read_back() {
        let keys = [sample(), Record { tenant: None, rate: None, expires_at: None, ..sample() }];
        let keys = [keys[0].clone(), Record { id: Id::generate(), ..keys[1].clone() }];
        let text = keys.iter().map(entry).collect::<String>();
        assert_eq!(parse(&text, MADE).unwrap(), keys);
        assert_eq!(parse("", MADE).unwrap(), []);
        let rotating = format!(
            "{}previous_sha256 = \"{}\"\nprevious_until = \"2030-01-01T00:00:00Z\"\n",
            entry(&keys[0]),
            keys[1].digest.to_hex()
        );
        assert_eq!(parse(&rotating, MADE).unwrap()[0].previous.as_ref().unwrap().digest, keys[1].digest);
    }

    #[test]
    fn what_is_wrong_is_named_without_its_value() {
        let good = entry(&sample());
        for (from, to, want) in [
            ("id = \"", "id = \"x", "key 1: `id`: expected the 16"),
            ("sha256 = \"", "sha256 = \"canary", "key 1: `sha256`: expected 64"),
            ("runs:read", "runs:canary", "key 1: `scopes`: expected a list"),
            ("tenant = ", "every_tenant = true\ntenant = ", "either `tenant` or"),
            ("name = ", "nom = ", "`name` is missing"),
            ("name = ", "secret = \"canary\"\nname = ", "`secret`: is not a field"),
            ("[[key]]", "[[keys]]", "`keys`: is not known"),
            ("[[key]]", "[[key", "not TOML"),
            ("rate_per_second = 5", "rate_per_second = 0", "`rate_per_second`"),
            ("rate_per_second = 5\n", "", "`rate_burst` needs"),
            ("rate_burst = 9", "previous_sha256 = 1", "`previous_sha256`: expected"),
        ] {
            let said = parse(&good.replacen(from, to, 1), MADE).unwrap_err();
            assert!(said.contains(want) && !said.contains("canary"), "{to}: {said}");
        }
        assert!(parse(&format!("{good}{good}"), MADE).unwrap_err().contains("twice"));
    }
}
