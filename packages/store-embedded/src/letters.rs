//! Dead letters: noted, listed, driven again, let go.
//!
//! A run that was set aside goes back into the queue as the row that it is; the work of one that has an end in its log
//! is copied into a new row, as it is stored: it need not be readable for that.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use torpor_core::dead_letter::{Again, Filter, Letter, LetterStore, Page, Redrive, Redriven};
use torpor_core::outcome::Status;
use torpor_core::{RunId, SessionKey, Timestamp, store, trace};

use crate::Store;
use crate::enqueue::has_room;
use crate::fault::Fault;
use crate::record::{lossy, number, parse_cursor, row_at, sql, unreadable};
use crate::writer::Batch;

/// Most dead letters on one page.
const MAX_PAGE: usize = 200;

/// Notes that a run was given up; the first note counts. A run that was removed, or driven again as another, gets none.
pub(crate) fn note(b: &Batch<'_>, run: &str, reason: &str) -> Result<(), Fault> {
    b.conn
        .prepare_cached(
            "INSERT OR IGNORE INTO dead_letter (run_id, reason, at_ms) SELECT run_id, ?2, ?3 FROM run \
             WHERE run_id = ?1 AND (redriven IS NULL OR redriven = run_id)",
        )?
        .execute(params![run, reason, sql(b.now())])?;
    Ok(())
}

/// Lets the oldest go that are more than `most`. Their records go like any other.
pub(crate) fn keep_at_most(b: &Batch<'_>, most: u64) -> Result<(), Fault> {
    let oldest = "SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET ?1";
    let gone =
        b.conn.prepare_cached(&format!("DELETE FROM dead_letter WHERE id <= ({oldest})"))?.execute([sql(most)])?;
    if gone > 0 {
        tracing::warn!(gone, most, "the oldest dead letters went: there were more than may be kept");
    }
    Ok(())
}

fn list(conn: &Connection, filter: &Filter) -> Result<Page, Fault> {
    let limit = filter.limit.clamp(1, MAX_PAGE);
    let before = filter.cursor.as_deref().map(parse_cursor).transpose()?.unwrap_or(i64::MAX);
    let mut query = conn.prepare_cached(
        "SELECT d.id, d.run_id, r.tenant, s.session, d.reason, d.at_ms, r.ended_position IS NULL \
         FROM dead_letter d JOIN run r ON r.run_id = d.run_id JOIN session s ON s.id = r.session \
         WHERE d.id < ?1 AND r.ended_ms IS NOT NULL AND (?3 IS NULL OR r.tenant = ?3) ORDER BY d.id DESC LIMIT ?2",
    )?;
    let mut rows = query.query(params![before, sql(limit as u64 + 1), filter.tenant])?;
    let mut page = Page { letters: Vec::new(), next: None };
    let (mut taken, mut last) = (0, 0);
    while let Some(row) = rows.next()? {
        if taken == limit {
            page.next = Some(format!("{last:x}"));
            break;
        }
        taken += 1;
        last = row.get::<_, i64>(0)?;
        let run = lossy(row, 1)?;
        match RunId::parse(&run) {
            Some(run) => page.letters.push(letter(row, run)?),
            None => tracing::warn!(%run, "left out a dead letter whose run id cannot be read"),
        }
    }
    Ok(page)
}

fn letter(row: &Row<'_>, run: RunId) -> Result<Letter, Fault> {
    Ok(Letter {
        run,
        tenant: lossy(row, 2)?.into_owned(),
        session: lossy(row, 3)?.into_owned(),
        reason: lossy(row, 4)?.into_owned(),
        at: Timestamp(number(row, 5)?),
        unread: row.get(6)?,
    })
}

/// A run that may be a dead letter.
struct Found {
    row: i64,
    session: i64,
    key: SessionKey,
    ended: bool,
    unread: bool,
    redriven: Option<String>,
    letter: bool,
    /// The run whose turn it is in its session.
    front: Option<String>,
}

fn find(conn: &Connection, it: &Redrive) -> Result<Option<Found>, Fault> {
    let mut query = conn.prepare_cached(
        "SELECT r.id, r.session, s.tenant, s.session, r.ended_ms IS NOT NULL, r.ended_position IS NULL, r.redriven, \
         EXISTS (SELECT 1 FROM dead_letter d WHERE d.run_id = r.run_id), s.front_run \
         FROM run r JOIN session s ON s.id = r.session WHERE r.run_id = ?1 AND (?2 IS NULL OR r.tenant = ?2)",
    )?;
    let mut rows = query.query(params![it.run.as_str(), it.tenant])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (tenant, session) = (lossy(row, 2)?, lossy(row, 3)?);
    Ok(Some(Found {
        row: row.get(0)?,
        session: row.get(1)?,
        key: SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?,
        ended: row.get(4)?,
        unread: row.get(5)?,
        redriven: row.get(6)?,
        letter: row.get(7)?,
        front: row.get(8)?,
    }))
}

/// Drives a dead letter again, or says why not.
pub(crate) fn redrive(b: &mut Batch<'_>, it: &Redrive) -> Result<Redriven, Fault> {
    let Some(found) = find(b.conn, it)? else { return Ok(Redriven::Unknown) };
    if !(found.letter && found.ended) {
        let Some(run) = &found.redriven else { return Ok(Redriven::NotDead) };
        let run = RunId::parse(run).ok_or_else(|| unreadable(format!("{run:?} is not a run id")))?;
        return Ok(Redriven::Before(Again { run, session: found.key }));
    }
    if !has_room(b)? {
        return Ok(Redriven::Full);
    }
    let (run, row) = if found.unread { put_back(b, it, &found)? } else { post_again(b, it, &found)? };
    b.conn.prepare_cached("DELETE FROM dead_letter WHERE run_id = ?1")?.execute([it.run.as_str()])?;
    b.conn
        .prepare_cached("UPDATE run SET redriven = ?2, version = version + 1 WHERE id = ?1")?
        .execute(params![found.row, run.as_str()])?;
    b.conn
        .prepare_cached(
            "UPDATE session SET updated_ms = ?2, front_run = coalesce(front_run, ?3), \
             latest_run = max(latest_run, ?4) WHERE id = ?1",
        )?
        .execute(params![found.session, sql(b.now()), run.as_str(), row])?;
    b.conn
        .prepare_cached("INSERT INTO queue (run, session, priority, state, due_ms) VALUES (?1, ?2, 0, ?3, 0)")?
        .execute(params![row, found.session, if found.front.is_some() { "blocked" } else { "ready" }])?;
    if found.front.is_none() {
        b.ready();
    }
    b.changed(&it.run);
    Ok(Redriven::Queued(Again { run, session: found.key }))
}

/// The same run, as if it had just been accepted.
fn put_back(b: &Batch<'_>, it: &Redrive, found: &Found) -> Result<(RunId, i64), Fault> {
    b.conn
        .prepare_cached(
            "UPDATE run SET status = ?2, ended_ms = NULL, aside = NULL, attempts = 0, cancel = 0 WHERE id = ?1",
        )?
        .execute(params![found.row, Status::Queued.as_str()])?;
    Ok((it.run.clone(), found.row))
}

/// A further run with the same work.
fn post_again(b: &mut Batch<'_>, it: &Redrive, found: &Found) -> Result<(RunId, i64), Fault> {
    let known = b.conn.prepare_cached("SELECT 1 FROM run WHERE run_id = ?1")?.exists([it.new_run.as_str()])?;
    if known {
        return Err(store::Error::Failed(format!("the run id {} is taken", it.new_run)).into());
    }
    let now = b.now();
    let row = row_at(now).max(b.state.last_row.saturating_add(1));
    b.conn
        .prepare_cached(
            "INSERT INTO run (id, run_id, session, tenant, status, attempts, version, created_ms, spec, webhook, \
             files, traceparent, tracestate, redrive_of) \
             SELECT ?2, ?3, session, tenant, ?4, 0, 1, ?5, spec, webhook, files, ?6, ?7, run_id \
             FROM run WHERE id = ?1",
        )?
        .execute(params![
            found.row,
            row,
            it.new_run.as_str(),
            Status::Queued.as_str(),
            sql(now),
            it.trace.as_ref().map(trace::Context::traceparent),
            it.trace.as_ref().and_then(trace::Context::tracestate),
        ])?;
    b.state.last_row = row;
    Ok((it.new_run.clone(), row))
}

/// The run whose work a run does, and the one that does its own; itself is not worth saying.
pub(crate) fn links(row: &Row<'_>, of: usize, by: usize, run: &RunId) -> Result<(Option<RunId>, Option<RunId>), Fault> {
    let read = |column| -> Result<Option<RunId>, Fault> {
        let id: Option<String> = row.get(column)?;
        let parsed = |id: String| RunId::parse(&id).ok_or_else(|| unreadable(format!("{id:?} is not a run id")));
        id.map(parsed).transpose()
    };
    Ok((read(of)?, read(by)?.filter(|by| by != run)))
}

#[async_trait]
impl LetterStore for Store {
    async fn letters(&self, filter: &Filter) -> Result<Page, store::Error> {
        let filter = filter.clone();
        self.readers.read(move |conn| list(conn, &filter)).await
    }

    async fn redrive(&self, redrive: &Redrive) -> Result<Redriven, store::Error> {
        let it = redrive.clone();
        self.writer.write(move |b| self::redrive(b, &it)).await
    }
}
