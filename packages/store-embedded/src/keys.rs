//! API keys: a small table of their own, and a version that every change raises.

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use torpor_core::key::{
    Changed, Digest, Id, Inserted, KEEP_DEAD, KeyStore, MAX_KEYS, MAX_KEYS_PER_TENANT, Previous, Rate, Record,
    Rotation, Scopes, Snapshot,
};
use torpor_core::{Timestamp, store};

use crate::Store;
use crate::fault::Fault;
use crate::record::{sql, unreadable};
use crate::writer::Batch;

const COLUMNS: &str = "id, tenant, name, scopes, rate_per_second, rate_burst, created_ms, expires_ms, revoked_ms, \
                       rotated_ms, sha256, previous_sha256, previous_until_ms";

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: Record) -> Result<Inserted, store::Error> {
        self.writer.write(move |b| insert(b, &key)).await
    }

    async fn keys(&self, seen: Option<&str>) -> Result<Option<Snapshot>, store::Error> {
        let seen = seen.map(str::to_owned);
        self.readers.read(move |conn| snapshot(conn, seen.as_deref())).await
    }

    async fn rotate(&self, id: &Id, rotation: Rotation) -> Result<Changed, store::Error> {
        let id = id.clone();
        self.writer.write(move |b| rotate(b, &id, &rotation)).await
    }

    async fn revoke(&self, id: &Id, at: Timestamp) -> Result<Changed, store::Error> {
        let id = id.clone();
        self.writer.write(move |b| revoke(b, &id, at)).await
    }
}

fn insert(b: &mut Batch<'_>, key: &Record) -> Result<Inserted, Fault> {
    if find(b.conn, &key.id)?.is_some() {
        return Ok(Inserted::Taken);
    }
    let dead_by = key.created_at.0.saturating_sub(u64::try_from(KEEP_DEAD.as_millis()).unwrap_or(u64::MAX));
    b.conn
        .prepare_cached("DELETE FROM api_key WHERE min(ifnull(revoked_ms, ?2), ifnull(expires_ms, ?2)) < ?1")?
        .execute(params![sql(dead_by), i64::MAX])?;
    let (all, of_tenant): (isize, isize) = b
        .conn
        .prepare_cached("SELECT count(*), ifnull(sum(tenant IS ?1), 0) FROM api_key")?
        .query_row([&key.tenant], |r| Ok((r.get(0)?, r.get(1)?)))?;
    if all.unsigned_abs() >= MAX_KEYS || of_tenant.unsigned_abs() >= MAX_KEYS_PER_TENANT {
        return Ok(Inserted::Full);
    }
    let ms = |t: Option<Timestamp>| t.map(|t| sql(t.0));
    b.conn
        .prepare_cached(&format!(
            "INSERT INTO api_key ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
        ))?
        .execute(params![
            key.id.as_str(),
            key.tenant,
            key.name,
            key.scopes.names().collect::<Vec<_>>().join(" "),
            key.rate.map(|r| r.per_second),
            key.rate.map(|r| r.burst),
            sql(key.created_at.0),
            ms(key.expires_at),
            ms(key.revoked_at),
            ms(key.rotated_at),
            key.digest.to_hex(),
            key.previous.as_ref().map(|p| p.digest.to_hex()),
            key.previous.as_ref().map(|p| sql(p.until.0)),
        ])?;
    changed(b)?;
    Ok(Inserted::Created)
}

fn rotate(b: &mut Batch<'_>, id: &Id, rotation: &Rotation) -> Result<Changed, Fault> {
    let Some(key) = find(b.conn, id)? else { return Ok(Changed::Unknown) };
    if key.revoked_at.is_some() {
        return Ok(Changed::Refused("it was revoked; make a new one"));
    }
    let overlap = rotation.overlap_until > rotation.at;
    let previous = overlap.then(|| (key.digest.to_hex(), sql(rotation.overlap_until.0))).unzip();
    b.conn
        .prepare_cached(
            "UPDATE api_key SET sha256 = ?2, rotated_ms = ?3, previous_sha256 = ?4, previous_until_ms = ?5 WHERE id = ?1",
        )?
        .execute(params![id.as_str(), rotation.digest.to_hex(), sql(rotation.at.0), previous.0, previous.1])?;
    done(b, id)
}

fn revoke(b: &mut Batch<'_>, id: &Id, at: Timestamp) -> Result<Changed, Fault> {
    if find(b.conn, id)?.is_none() {
        return Ok(Changed::Unknown);
    }
    b.conn
        .prepare_cached("UPDATE api_key SET revoked_ms = ifnull(revoked_ms, ?2) WHERE id = ?1")?
        .execute(params![id.as_str(), sql(at.0)])?;
    done(b, id)
}

fn done(b: &mut Batch<'_>, id: &Id) -> Result<Changed, Fault> {
    changed(b)?;
    let key = find(b.conn, id)?.ok_or_else(|| unreadable(format!("key {id} is gone")))?;
    Ok(Changed::Done(Box::new(key)))
}

/// Raises the version, in the step that changes something.
fn changed(b: &mut Batch<'_>) -> Result<(), Fault> {
    b.conn
        .prepare_cached(
            "INSERT INTO meta (name, value) VALUES ('keys', '1') ON CONFLICT (name) DO UPDATE SET value = value + 1",
        )?
        .execute([])?;
    Ok(())
}

fn find(conn: &Connection, id: &Id) -> Result<Option<Record>, Fault> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM api_key WHERE id = ?1"))?;
    Ok(statement.query_row([id.as_str()], read).optional()?)
}

/// Version and keys of one instant: the second statement must not see a later commit than the first.
fn snapshot(conn: &Connection, seen: Option<&str>) -> Result<Option<Snapshot>, Fault> {
    let together = conn.unchecked_transaction()?;
    let version: Option<String> = together
        .prepare_cached("SELECT value FROM meta WHERE name = 'keys'")?
        .query_row([], |r| r.get(0))
        .optional()?;
    let version = version.unwrap_or_else(|| "0".to_owned());
    if seen == Some(&*version) {
        return Ok(None);
    }
    let mut statement = together.prepare_cached(&format!("SELECT {COLUMNS} FROM api_key ORDER BY created_ms, id"))?;
    let keys = statement.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Snapshot { version, keys }))
}

/// A row that cannot be read is an error, not a missing key: a list without it might be empty, and no keys means that
/// everybody may come in.
fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let bad = |column: usize, kind: Type, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, kind, format!("an API key's {what} cannot be read").into())
    };
    let at = |column: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(column)?.map(|ms| Timestamp(u64::try_from(ms).unwrap_or(0))))
    };
    let digest = |column: usize, text: &str| Digest::parse(text).ok_or_else(|| bad(column, Type::Text, "digest"));
    let scopes: String = row.get(3)?;
    let rate = match (row.get::<_, Option<u32>>(4)?, row.get::<_, Option<u32>>(5)?) {
        (Some(per_second), Some(burst)) => Some(Rate { per_second, burst }),
        _ => None,
    };
    let previous = match (row.get::<_, Option<String>>(11)?, at(12)?) {
        (Some(text), Some(until)) => Some(Previous { digest: digest(11, &text)?, until }),
        _ => None,
    };
    Ok(Record {
        id: Id::parse(&row.get::<_, String>(0)?).ok_or_else(|| bad(0, Type::Text, "id"))?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        scopes: Scopes::parse(scopes.split_whitespace()).map_err(|_| bad(3, Type::Text, "scopes"))?,
        rate,
        created_at: at(6)?.unwrap_or_default(),
        expires_at: at(7)?,
        revoked_at: at(8)?,
        rotated_at: at(9)?,
        digest: digest(10, &row.get::<_, String>(10)?)?,
        previous,
    })
}
