//! Run records as rows: reading them, one or a page.
//!
//! How a run ended is not kept twice: it is read from the `RunEnded` entry that the row points at. Only of one that was
//! set aside, which has none, the row itself says why.

use std::borrow::Cow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql};
use torpor_core::entry::{self, Body, RunTotals};
use torpor_core::outcome::{FailReason, Outcome, Status};
pub(crate) use torpor_core::run::Record;
use torpor_core::run::{Filter, Page};
use torpor_core::webhook::Channel;
use torpor_core::{Position, RunId, SessionKey, Timestamp, store, trace};

use crate::fault::Fault;
use crate::{gates, letters, outbox};

/// Most records on one page.
const MAX_PAGE: usize = 200;

/// A page ends with the record that reaches this many bytes of JSON: what records hold is bounded one by one, and
/// so are many.
pub(crate) const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A page ends when it has left out so many records that cannot be read.
const MAX_SKIPPED: usize = 1_000;

/// A run's row is its time shifted by this, plus a counter within the millisecond.
const ROW_TIME_SHIFT: u32 = 20;

const COLUMNS: &str = "r.run_id, s.tenant, s.session, r.spec, r.status, r.attempts, r.created_ms, r.started_ms, \
                       r.ended_ms, r.version, e.schema, e.body, r.id, r.aside, r.log_from, \
                       r.traceparent, r.tracestate, r.redrive_of, r.redriven";
const JOINS: &str = "JOIN session s ON s.id = r.session \
                     LEFT JOIN entry e ON e.session = r.session AND e.position = r.ended_position";

/// An unsigned number as SQLite keeps it.
pub(crate) fn sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A number of the database, none of which is ever written negative.
pub(crate) fn number(row: &Row<'_>, column: usize) -> Result<u64, Fault> {
    let n: i64 = row.get(column)?;
    u64::try_from(n).map_err(|_| unreadable(format!("a count is {n}, expected 0 or more")))
}

/// As [`number`], of a column that may be empty.
pub(crate) fn maybe(row: &Row<'_>, column: usize) -> Result<Option<u64>, Fault> {
    let n: Option<i64> = row.get(column)?;
    n.map(|_| number(row, column)).transpose()
}

/// A column of JSON text, as it lies in the page cache.
pub(crate) fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8], Fault> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(unreadable(format!("a text column holds {:?}", other.data_type()))),
    }
}

/// A column of text for people, whatever it holds.
pub(crate) fn lossy<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Cow<'r, str>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes),
        other => Cow::Owned(format!("{other:?}")),
    })
}

pub(crate) fn unreadable(what: String) -> Fault {
    store::Error::Unreadable(what).into()
}

/// The first row that a run created at `now` may have.
pub(crate) fn row_at(now: u64) -> i64 {
    sql(now.min(i64::MAX as u64 >> ROW_TIME_SHIFT) << ROW_TIME_SHIFT)
}

/// The record of a run.
pub(crate) fn by_run_id(conn: &Connection, run: &RunId) -> Result<Option<Record>, Fault> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM run r {JOINS} WHERE r.run_id = ?1"))?;
    one(conn, query.query([run.as_str()])?)
}

/// The record in a row.
pub(crate) fn by_row(conn: &Connection, row: i64) -> Result<Option<Record>, Fault> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM run r {JOINS} WHERE r.id = ?1"))?;
    one(conn, query.query([row])?)
}

/// The latest run of a session.
pub(crate) fn latest(conn: &Connection, session: &SessionKey) -> Result<Option<Record>, Fault> {
    let mut query = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM session s JOIN run r ON r.id = s.latest_run AND r.session = s.id \
         LEFT JOIN entry e ON e.session = r.session AND e.position = r.ended_position \
         WHERE s.tenant = ?1 AND s.session = ?2"
    ))?;
    one(conn, query.query([session.tenant(), session.session()])?)
}

fn one(conn: &Connection, mut rows: rusqlite::Rows<'_>) -> Result<Option<Record>, Fault> {
    rows.next()?.map(read).transpose()?.map(|record| whole(conn, record)).transpose()
}

/// A paused run says what it waits for, and one that tells somebody how that stands.
fn whole(conn: &Connection, mut record: Record) -> Result<Record, Fault> {
    if record.status == Status::Paused {
        record.gates = gates::pending(conn, record.run_id.as_str())?;
    }
    for to in record.spec.destinations() {
        let standing = outbox::standing(conn, record.run_id.as_str(), to.channel())?;
        match to.channel() {
            Channel::Webhook => record.webhook = standing,
            Channel::Files => record.files = standing,
        }
    }
    Ok(record)
}

/// One page of records, newest first. Those that cannot be read are left out.
pub(crate) fn list(conn: &Connection, filter: &Filter) -> Result<Page, Fault> {
    let limit = filter.limit.clamp(1, MAX_PAGE);
    let before = filter.cursor.as_deref().map(parse_cursor).transpose()?.unwrap_or(i64::MAX);
    let after = filter.created_after.map_or(i64::MIN, |t| row_at(t.0));
    let created = filter.created_after.map_or(-1, |t| sql(t.0));
    let most = sql((limit + 1 + MAX_SKIPPED) as u64);

    let mut wheres = "r.id < ?1 AND r.id >= ?2 AND r.created_ms > ?3".to_owned();
    let mut values: Vec<&dyn ToSql> = vec![&before, &after, &created, &most];
    let mut from = "run r";
    let status = filter.status.map(Status::as_str);
    if let (Some(wanted), Some(name)) = (filter.status, &status) {
        values.push(name);
        wheres += &format!(" AND r.status = ?{}", values.len());
        if wanted.is_terminal() {
            wheres += " AND r.ended_ms IS NOT NULL"; // lets the partial index be used
        } else {
            // Runs that have not ended are few and all in the queue; those that have may be many.
            from = "queue q CROSS JOIN run r ON r.id = q.run";
        }
    }
    if let Some(tenant) = &filter.tenant {
        values.push(tenant);
        wheres += &format!(" AND r.tenant = ?{}", values.len());
    }
    let order = if from == "run r" { "r.id" } else { "q.run" };
    let query = format!("SELECT {COLUMNS} FROM {from} {JOINS} WHERE {wheres} ORDER BY {order} DESC LIMIT ?4");
    let mut query = conn.prepare_cached(&query)?;
    let mut rows = query.query(&*values)?;

    let mut page = Page { runs: Vec::new(), next: None };
    let (mut last, mut bytes) = (0, 0);
    let (mut skipped, mut first_skipped) = (0, None);
    while let Some(row) = rows.next()? {
        if page.runs.len() == limit || bytes >= MAX_PAGE_BYTES || skipped == MAX_SKIPPED {
            page.next = Some(format!("{last:x}"));
            break;
        }
        last = row.get::<_, i64>(12)?;
        match read(row).and_then(|record| whole(conn, record)) {
            Ok(record) => {
                bytes += json_bytes(row)?;
                if !record.gates.is_empty() {
                    bytes += gates::pending_bytes(conn, record.run_id.as_str())?;
                }
                page.runs.push(record);
            }
            Err(fault) => {
                let what = fault.unreadable()?;
                first_skipped.get_or_insert(what);
                skipped += 1;
            }
        }
    }
    if let Some(first) = first_skipped {
        tracing::warn!(runs = skipped, first, "left out of a list what this build cannot read");
    }
    Ok(page)
}

/// What a row holds that may be large.
fn json_bytes(row: &Row<'_>) -> Result<usize, Fault> {
    let outcome = row.get::<_, Option<u16>>(10)?.map(|_| text(row, 11)).transpose()?;
    Ok(text(row, 3)?.len() + outcome.map_or(0, <[u8]>::len))
}

pub(crate) fn parse_cursor(cursor: &str) -> Result<i64, Fault> {
    i64::from_str_radix(cursor, 16)
        .ok()
        .filter(|n| *n >= 0)
        .ok_or_else(|| store::Error::Failed(format!("the cursor {cursor:?} was not made by this store")).into())
}

fn read(row: &Row<'_>) -> Result<Record, Fault> {
    fields(row).map_err(|fault| match (fault.unreadable(), lossy(row, 0)) {
        (Ok(what), Ok(run)) => unreadable(format!("run {run}: {what}")),
        (Ok(what), Err(_)) => unreadable(what),
        (Err(fault), _) => fault,
    })
}

fn fields(row: &Row<'_>) -> Result<Record, Fault> {
    let named = |what: &str, e: &dyn std::fmt::Display| unreadable(format!("{what}: {e}"));
    let (id, tenant, session): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let status: String = row.get(4)?;
    let status = Status::parse(&status).ok_or_else(|| named("status", &format!("{status:?} is not known")))?;
    let (outcome, spent) = match (row.get::<_, Option<u16>>(10)?, row.get::<_, Option<String>>(13)?) {
        (Some(schema), _) => match entry::decode(schema, text(row, 11)?).map_err(|e| named("outcome", &e))? {
            Body::RunEnded { outcome, spent, .. } => (Some(outcome), spent),
            _ => return Err(named("outcome", &"the entry is not a run's end")),
        },
        (None, Some(reason)) => (Some(Outcome::failed(FailReason::DeadLetter, reason)), RunTotals::default()),
        // It was cancelled before it started: nothing of it is in any log.
        (None, None) if status == Status::Cancelled => (Some(Outcome::Cancelled {}), RunTotals::default()),
        (None, None) if status.is_terminal() => return Err(named("outcome", &"its entry is missing")),
        (None, None) => (None, RunTotals::default()),
    };
    let instant = |column| -> Result<Option<Timestamp>, Fault> {
        let ms: Option<i64> = row.get(column)?;
        Ok(ms.map(|ms| Timestamp(u64::try_from(ms).unwrap_or(0))))
    };
    let run_id = RunId::parse(&id).ok_or_else(|| named("id", &"not a run id"))?;
    let (redrive_of, redriven_as) = letters::links(row, 17, 18, &run_id)?;
    Ok(Record {
        run_id,
        session: SessionKey::new(&tenant, &session).map_err(|e| named("session", &e))?,
        spec: serde_json::from_slice(text(row, 3)?).map_err(|e| named("spec", &e))?,
        status,
        outcome,
        spent,
        attempts: row.get(5)?,
        created_at: Timestamp(number(row, 6)?),
        started_at: instant(7)?,
        ended_at: instant(8)?,
        log_from: row.get::<_, Option<i64>>(14)?.map(|n| Position(u64::try_from(n).unwrap_or(0))),
        // A trace that cannot be read is no reason to lose a run.
        trace: match (row.get_ref(15)?, row.get_ref(16)?) {
            (ValueRef::Text(parent), state) => {
                let text = |bytes| std::str::from_utf8(bytes).ok();
                text(parent).and_then(|parent| trace::Context::parse(parent, state.as_str().ok()))
            }
            _ => None,
        },
        version: number(row, 9)?,
        gates: Vec::new(),
        webhook: None,
        files: None,
        redrive_of,
        redriven_as,
    })
}
