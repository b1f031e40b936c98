//! Where the entries of a session are kept: its own under its row, those that a fork shares under the rows of others.
//!
//! Owns: reading entries in order wherever they are, and the marks by which a fork finds where resume begins. Must not
//! know: who appends, forks or removes.

use rusqlite::{Connection, OptionalExtension, Row, params};
use torpor_core::entry::{self, Entry};
use torpor_core::session::{Mark, Stored};
use torpor_core::{Epoch, Position, Timestamp};

use crate::fault::Fault;
use crate::record::{number, sql, text};

/// Most entries that one read answers.
const MAX_READ: usize = 10_000;

/// Bytes of entries after which a read ends; it always holds one entry, however large. With few reading threads this
/// bounds what readers take, whoever asks.
const MAX_READ_BYTES: usize = 256 << 10;

/// How much one read answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    entries: usize,
    bytes: usize,
}

impl Most {
    /// Everything that was asked for.
    pub(crate) const ALL: Self = Self { entries: usize::MAX, bytes: usize::MAX };

    /// A page.
    pub(crate) fn page(limit: usize) -> Self {
        Self { entries: limit.min(MAX_READ), bytes: MAX_READ_BYTES }
    }
}

/// Positions above `above` up to `upto`, kept under the row `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) above: u64,
    pub(crate) upto: u64,
    pub(crate) source: i64,
}

/// The parts of a history that a session shares with others, in order.
pub(crate) fn shared(conn: &Connection, session: i64) -> Result<Vec<Part>, Fault> {
    let mut query =
        conn.prepare_cached("SELECT above, upto, source FROM ancestry WHERE session = ?1 ORDER BY above")?;
    let mut rows = query.query([session])?;
    let mut parts = Vec::new();
    while let Some(row) = rows.next()? {
        parts.push(Part { above: number(row, 0)?, upto: number(row, 1)?, source: row.get(2)? });
    }
    Ok(parts)
}

/// All parts of the history of a session with this row that was forked there, if it was; cut off after `upto`.
pub(crate) fn parts(conn: &Connection, row: i64, forked_at: Option<u64>, upto: u64) -> Result<Vec<Part>, Fault> {
    // A session that is no fork, as most are, costs no query.
    let mut parts = if forked_at.is_some() { shared(conn, row)? } else { Vec::new() };
    parts.push(Part { above: forked_at.unwrap_or(0), upto: u64::MAX, source: row });
    parts.retain(|part| part.above < upto);
    if let Some(last) = parts.last_mut() {
        last.upto = last.upto.min(upto);
    }
    Ok(parts)
}

/// Entries from `from` to `to` of the session with this row that was forked there, if it was.
pub(crate) fn read<T>(
    conn: &Connection,
    (row, forked_at): (i64, Option<u64>),
    from: Position,
    to: Position,
    most: Most,
    map: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let (mut found, mut taken) = (Vec::new(), 0_usize);
    for part in parts(conn, row, forked_at, to.0)?.into_iter().filter(|part| part.upto >= from.0) {
        let mut query = conn.prepare_cached(
            "SELECT position, at_ms, epoch, schema, body FROM entry \
             WHERE session = ?1 AND position BETWEEN ?2 AND ?3 ORDER BY position LIMIT ?4",
        )?;
        let first = from.0.max(part.above.saturating_add(1));
        let left = sql((most.entries - found.len()) as u64);
        let mut rows = query.query(params![part.source, sql(first), sql(part.upto), left])?;
        while let Some(row) = rows.next()? {
            taken = taken.saturating_add(text(row, 4)?.len());
            found.push(map(row)?);
            if taken >= most.bytes {
                return Ok(found);
            }
        }
        if found.len() >= most.entries {
            break;
        }
    }
    Ok(found)
}

/// An entry, for [`read`].
pub(crate) fn entry(row: &Row<'_>) -> Result<Entry, Fault> {
    Ok(Entry {
        position: Position(number(row, 0)?),
        at: Timestamp(number(row, 1)?),
        epoch: Epoch(number(row, 2)?),
        body: entry::decode(row.get(3)?, text(row, 4)?)?,
    })
}

/// An entry as it is stored, for [`read`].
pub(crate) fn stored(row: &Row<'_>) -> Result<Stored, Fault> {
    Ok(Stored {
        position: Position(number(row, 0)?),
        at: Timestamp(number(row, 1)?),
        epoch: Epoch(number(row, 2)?),
        schema: row.get(3)?,
        body: row.get(4)?,
    })
}

/// Keeps marks, for forks to come.
pub(crate) fn note(conn: &Connection, row: i64, marks: &[Mark]) -> Result<(), Fault> {
    for mark in marks {
        conn.prepare_cached("INSERT INTO mark (session, position, resume_from, next_gate) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![row, sql(mark.position.0), sql(mark.resume_from.0), sql(mark.next_gate)])?;
    }
    Ok(())
}

/// Where resume begins and the number of the next gate, in a log of just these parts.
pub(crate) fn mark(conn: &Connection, parts: &[Part]) -> Result<(u64, u64), Fault> {
    for part in parts.iter().rev() {
        let found: Option<(i64, i64)> = conn
            .prepare_cached(
                "SELECT resume_from, next_gate FROM mark WHERE session = ?1 AND position <= ?2 \
                 ORDER BY position DESC LIMIT 1",
            )?
            .query_row(params![part.source, sql(part.upto)], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        if let Some((resume_from, next_gate)) = found {
            let number = |n| u64::try_from(n).unwrap_or(0);
            return Ok((number(resume_from).max(1), number(next_gate)));
        }
    }
    Ok((1, 0))
}
