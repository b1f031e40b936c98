//! Removing sessions: what nobody else needs is gone in one step, and swept up little by little.
//!
//! The step takes away every row by which something could be found. Entries lie where they are until the collector
//! comes by: removing a long log must not hold up everybody else's commits.

use rusqlite::{Connection, OptionalExtension, params};
use torpor_core::session::{Removal, Removed, ToForget};
use torpor_core::{Epoch, RunId, SessionKey, Timestamp};

use crate::fault::Fault;
use crate::history::{self, Part};
use crate::import::Staged;
use crate::outbox;
use crate::record::{lossy, maybe, number, sql, unreadable};
use crate::writer::Batch;

/// Entries that one step of the collector removes.
const COLLECT: usize = 200;

/// Most sessions that one call answers.
const MAX_TO_FORGET: usize = 1_000;

/// What a removal needs to know.
struct Session {
    row: i64,
    key: SessionKey,
    head: u64,
    epoch: u64,
    front: Option<String>,
    handed: bool,
    forked_at: Option<u64>,
}

const COLUMNS: &str = "SELECT id, tenant, session, head, epoch, front_run, handed, forked_at FROM session";

fn read(row: &rusqlite::Row<'_>) -> Result<Session, Fault> {
    let (tenant, session): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(Session {
        row: row.get(0)?,
        key: SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?,
        head: number(row, 3)?,
        epoch: number(row, 4)?,
        front: row.get(5)?,
        handed: row.get(6)?,
        forked_at: maybe(row, 7)?,
    })
}

/// Removes a session, or says why not.
pub(crate) fn remove(b: &mut Batch<'_>, key: &SessionKey) -> Result<Removal, Fault> {
    let session = {
        let mut query = b.conn.prepare_cached(&format!("{COLUMNS} WHERE tenant = ?1 AND session = ?2"))?;
        let mut rows = query.query([key.tenant(), key.session()])?;
        rows.next()?.map(read).transpose()?
    };
    let Some(session) = session else { return Ok(Removal::Unknown) };
    if let Some(front) = &session.front {
        let run = RunId::parse(front).ok_or_else(|| unreadable(format!("{front:?} is not a run id")))?;
        return Ok(Removal::Busy(run));
    }
    drop_rows(b, &session).map(Removal::Removed)
}

/// Removes up to `limit` sessions that are idle since then.
pub(crate) fn remove_idle(b: &mut Batch<'_>, rows: &[i64], since: Timestamp) -> Result<u64, Fault> {
    let mut removed = 0;
    for row in rows {
        let session = {
            let mut query = b
                .conn
                .prepare_cached(&format!("{COLUMNS} WHERE id = ?1 AND front_run IS NULL AND updated_ms <= ?2"))?;
            let mut found = query.query(params![row, sql(since.0)])?;
            found.next()?.map(read).transpose()?
        };
        if let Some(session) = session {
            drop_rows(b, &session)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Sessions that may be idle since then; looked for by a reader, because this reads every session.
pub(crate) fn idle(conn: &Connection, since: Timestamp, limit: usize) -> Result<Vec<i64>, Fault> {
    let mut query =
        conn.prepare_cached("SELECT id FROM session WHERE front_run IS NULL AND updated_ms <= ?1 LIMIT ?2")?;
    let rows = query.query_map(params![sql(since.0), sql(limit as u64)], |r| r.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn drop_rows(b: &mut Batch<'_>, it: &Session) -> Result<Removed, Fault> {
    let own = Part { above: it.forked_at.unwrap_or(0), upto: it.head, source: it.row };
    let mut removed = Removed { forget: it.handed.then_some(Epoch(it.epoch + 1)), ..drop_runs(b.conn, it.row)? };
    let shared = if it.forked_at.is_some() { history::shared(b.conn, it.row)? } else { Vec::new() };
    b.conn.prepare_cached("DELETE FROM ancestry WHERE session = ?1")?.execute([it.row])?;
    b.conn.prepare_cached("DELETE FROM session WHERE id = ?1")?.execute([it.row])?;
    let (needed, forks) = discard(b.conn, own)?;
    removed.kept = needed.saturating_sub(own.above);
    removed.kept_for = forks;
    removed.entries = own.upto - own.above - removed.kept;
    // Of a session that is gone itself, only what forks share was left; this may have been the last of them.
    for part in shared {
        let lives = b.conn.prepare_cached("SELECT 1 FROM session WHERE id = ?1")?.exists([part.source])?;
        if !lives {
            let (needed, _) = discard(b.conn, part)?;
            removed.entries += part.upto.saturating_sub(needed.max(part.above));
        }
    }
    keep_above(b, it)?;
    b.removed(&it.key);
    Ok(removed)
}

fn drop_runs(conn: &Connection, session: i64) -> Result<Removed, Fault> {
    let mut query = conn.prepare_cached("DELETE FROM run WHERE session = ?1 RETURNING run_id")?;
    let runs = query.query_map([session], |r| Ok(lossy(r, 0)?.into_owned()))?.collect::<Result<Vec<_>, _>>()?;
    let mut removed = Removed { runs: runs.len() as u64, ..Removed::default() };
    for run in runs {
        let letters = conn.prepare_cached("DELETE FROM dead_letter WHERE run_id = ?1")?.execute([&run])?;
        removed.dead_letters += letters as u64;
        outbox::forget(conn, &run)?;
    }
    removed.gates = conn.prepare_cached("DELETE FROM gate WHERE session = ?1")?.execute([session])? as u64;
    Ok(removed)
}

/// What lies above the last entry that a fork needs is garbage. Answers where that is, and how many forks there are.
fn discard(conn: &Connection, part: Part) -> Result<(u64, u64), Fault> {
    let (needed, forks): (Option<i64>, i64) = conn
        .prepare_cached("SELECT max(upto), count(*) FROM ancestry WHERE source = ?1")?
        .query_row([part.source], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let needed = needed.map_or(0, |n| u64::try_from(n).unwrap_or(0));
    if needed < part.upto {
        conn.prepare_cached(
            "INSERT INTO garbage (source, above) VALUES (?1, ?2) \
             ON CONFLICT (source) DO UPDATE SET above = min(above, excluded.above)",
        )?
        .execute(params![part.source, sql(needed)])?;
    }
    Ok((needed, u64::try_from(forks).unwrap_or(0)))
}

/// Whoever owned the session must never be taken for an owner of a later one, nor its rows for that one's.
fn keep_above(b: &mut Batch<'_>, it: &Session) -> Result<(), Fault> {
    b.state.epoch_floor = b.state.epoch_floor.max(it.epoch + 1);
    let floor = [("epoch", b.state.epoch_floor.to_string()), ("session_row", b.state.last_session.to_string())];
    for (name, value) in floor {
        b.conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?.execute([name, &value])?;
    }
    if it.handed {
        b.conn
            .prepare_cached("INSERT INTO forgetting (tenant, session, epoch) VALUES (?1, ?2, ?3)")?
            .execute(params![it.key.tenant(), it.key.session(), sql(it.epoch + 1)])?;
    }
    Ok(())
}

/// Whether the hands must still forget the last session with this name.
pub(crate) fn is_forgetting(conn: &Connection, key: &SessionKey) -> Result<bool, Fault> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM forgetting WHERE tenant = ?1 AND session = ?2")?
        .exists([key.tenant(), key.session()])?)
}

/// Those that the hands must still forget, the oldest first.
pub(crate) fn to_forget(conn: &Connection, limit: usize) -> Result<Vec<ToForget>, Fault> {
    let mut query = conn.prepare_cached("SELECT tenant, session, epoch FROM forgetting ORDER BY id LIMIT ?1")?;
    let mut rows = query.query([sql(limit.min(MAX_TO_FORGET) as u64)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (tenant, session): (String, String) = (row.get(0)?, row.get(1)?);
        let session = SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?;
        found.push(ToForget { session, epoch: Epoch(number(row, 2)?) });
    }
    Ok(found)
}

/// The hands have forgotten.
pub(crate) fn forgotten(b: &Batch<'_>, it: &ToForget) -> Result<(), Fault> {
    b.conn
        .prepare_cached("DELETE FROM forgetting WHERE tenant = ?1 AND session = ?2 AND epoch = ?3")?
        .execute(params![it.session.tenant(), it.session.session(), sql(it.epoch.0)])?;
    Ok(())
}

/// One step of sweeping up; `false` when nothing is left to be swept.
pub(crate) fn collect(b: &Batch<'_>, staged: &Staged) -> Result<bool, Fault> {
    let found = {
        let mut query = b.conn.prepare_cached("SELECT source, above FROM garbage ORDER BY source")?;
        let mut rows = query.query([])?;
        let mut found = None;
        while let Some(row) = rows.next()? {
            let (source, above): (i64, i64) = (row.get(0)?, row.get(1)?);
            if !staged.has(source) {
                found = Some((source, above));
                break;
            }
        }
        found
    };
    let Some((source, above)) = found else { return Ok(false) };
    let cut: Option<i64> = b
        .conn
        .prepare_cached(
            "SELECT position FROM entry WHERE session = ?1 AND position > ?2 ORDER BY position LIMIT 1 OFFSET ?3",
        )?
        .query_row(params![source, above, sql(COLLECT as u64)], |r| r.get(0))
        .optional()?;
    for table in ["entry", "mark"] {
        b.conn
            .prepare_cached(&format!("DELETE FROM {table} WHERE session = ?1 AND position > ?2 AND position < ?3"))?
            .execute(params![source, above, cut.unwrap_or(i64::MAX)])?;
    }
    if cut.is_none() {
        b.conn.prepare_cached("DELETE FROM garbage WHERE source = ?1")?.execute([source])?;
    }
    Ok(true)
}
