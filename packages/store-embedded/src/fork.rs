//! Forks: a new session that shares the entries of another. Nothing is copied but a row for each part of the history.

use rusqlite::{Connection, OptionalExtension, params};
use torpor_core::envelope::Wishes;
use torpor_core::session::{Fork, Forked, MAX_HISTORY_PARTS};
use torpor_core::{Position, SessionKey, store};

use crate::fault::Fault;
use crate::history;
use crate::record::{maybe, number, sql, unreadable};
use crate::remove;
use crate::writer::Batch;

/// What a fork needs to know of its origin.
struct Origin {
    row: i64,
    head: u64,
    forked_at: Option<u64>,
    wishes: Option<String>,
}

/// Makes a fork, or says why not.
pub(crate) fn fork(b: &mut Batch<'_>, it: &Fork) -> Result<Forked, Fault> {
    let Some(origin) = origin(b.conn, &it.from)? else { return Ok(Forked::Unknown) };
    let made: Option<(Option<i64>, Option<i64>)> = b
        .conn
        .prepare_cached("SELECT parent, forked_at FROM session WHERE tenant = ?1 AND session = ?2")?
        .query_row([it.into.tenant(), it.into.session()], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    if let Some(made) = made {
        let same = made == (Some(origin.row), Some(sql(it.position.0)));
        return Ok(if same { Forked::Existing } else { Forked::Taken });
    }
    if !(1..=origin.head).contains(&it.position.0) {
        return Ok(Forked::OutOfRange(Position(origin.head)));
    }
    if remove::is_forgetting(b.conn, &it.into)? {
        return Ok(Forked::Forgetting);
    }
    let parts = history::parts(b.conn, origin.row, origin.forked_at, it.position.0)?;
    if parts.len() >= MAX_HISTORY_PARTS {
        return Ok(Forked::TooDeep);
    }
    let (resume_from, next_gate) = history::mark(b.conn, &parts)?;
    let row = b.next_session();
    b.conn
        .prepare_cached(
            "INSERT INTO session (id, tenant, session, head, epoch, resume_from, owned, progressed, latest_run, \
             wishes, next_gate, created_ms, updated_ms, parent, parent_id, forked_at, born) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, ?8, ?9, ?9, ?10, ?11, ?4, ?5)",
        )?
        .execute(params![
            row,
            it.into.tenant(),
            it.into.session(),
            sql(it.position.0),
            sql(b.state.epoch_floor),
            sql(resume_from),
            carried(&it.from, origin.wishes.as_deref())?,
            sql(next_gate),
            sql(b.now()),
            origin.row,
            it.from.session()
        ])?;
    for part in parts {
        b.conn
            .prepare_cached("INSERT INTO ancestry (session, above, upto, source) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![row, sql(part.above), sql(part.upto), part.source])?;
    }
    Ok(Forked::Created)
}

fn origin(conn: &Connection, key: &SessionKey) -> Result<Option<Origin>, Fault> {
    let mut query =
        conn.prepare_cached("SELECT id, head, forked_at, wishes FROM session WHERE tenant = ?1 AND session = ?2")?;
    let mut rows = query.query([key.tenant(), key.session()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Origin { row: row.get(0)?, head: number(row, 1)?, forked_at: maybe(row, 2)?, wishes: row.get(3)? }))
}

/// What a session's further runs inherit.
pub(crate) fn wishes(conn: &Connection, key: &SessionKey) -> Result<Option<Wishes>, Fault> {
    let Some(origin) = origin(conn, key)? else { return Ok(None) };
    origin.wishes.map_or_else(|| Ok(Some(Wishes::default())), |text| parse(key, &text).map(Some))
}

/// What goes with a history.
fn carried(key: &SessionKey, wishes: Option<&str>) -> Result<Option<String>, Fault> {
    wishes.map_or(Ok(None), |text| encode(parse(key, text)?))
}

/// Wishes as a session that was not made by a run keeps them.
pub(crate) fn encode(wishes: Wishes) -> Result<Option<String>, Fault> {
    let wishes = wishes.carried();
    let text = (wishes != Wishes::default()).then(|| serde_json::to_string(&wishes)).transpose();
    Ok(text.map_err(|e| store::Error::Failed(e.to_string()))?)
}

fn parse(key: &SessionKey, text: &str) -> Result<Wishes, Fault> {
    serde_json::from_str(text).map_err(|e| unreadable(format!("wishes of {key:?}: {e}")))
}
