//! The session log: appending, and what an append does beside the log; opening it.

use rusqlite::{Connection, OptionalExtension, params};
use torpor_core::entry::{self, Body, Entry, SCHEMA};
use torpor_core::log::{Append, AppendError, Head, Opened};
use torpor_core::outcome::Status;
use torpor_core::session::Mark;
use torpor_core::{Epoch, Position, RunId, SessionKey, store};

use crate::fault::Fault;
use crate::gates::{self, Requested};
use crate::history::{self, Most};
use crate::record::{maybe, number, sql};
use crate::settle;
use crate::writer::Batch;

/// Largest append, in bytes of its bodies together.
pub(crate) const MAX_APPEND_BYTES: usize = 256 * 1024 * 1024;

/// An append with its bodies in their stored form.
pub(crate) struct Encoded {
    append: Append,
    bodies: Vec<String>,
}

impl Encoded {
    /// Encodes and checks what can be checked without the store.
    pub(crate) fn new(append: Append) -> Result<Self, store::Error> {
        if append.bodies.is_empty() {
            return Err(store::Error::Failed("an append must carry at least one entry".to_owned()));
        }
        let mut bodies = Vec::with_capacity(append.bodies.len());
        let mut bytes = 0;
        for body in &append.bodies {
            let json = entry::encode(body).map_err(|e| store::Error::Failed(e.to_string()))?;
            bytes += json.len();
            bodies.push(String::from_utf8(json).map_err(|e| store::Error::Failed(e.to_string()))?);
        }
        if bytes > MAX_APPEND_BYTES {
            return Err(store::Error::Failed(format!(
                "an append must be at most {MAX_APPEND_BYTES} bytes, got {bytes}"
            )));
        }
        Ok(Self { append, bodies })
    }
}

/// What an append needs to know of its session.
struct Session {
    id: i64,
    head: Position,
    epoch: Epoch,
    resume_from: Position,
    next_gate: u64,
    front: Option<String>,
    owned: bool,
    progressed: bool,
    handed: bool,
    forked_at: Option<u64>,
}

/// What a batch of entries does beside being stored.
struct Effects<'a> {
    resume_from: Position,
    progressed: bool,
    /// From here on, hands may know the session.
    handed: bool,
    marks: Vec<Mark>,
    ended: Option<(&'a RunId, Status, Position)>,
    /// The gates at the end of the batch, and their run.
    parked: Option<(&'a RunId, Vec<Requested<'a>>)>,
}

impl Effects<'_> {
    fn mark(&mut self, position: u64, next_gate: u64) {
        self.marks.push(Mark { position: Position(position), resume_from: self.resume_from, next_gate });
    }
}

/// Appends; the refusal is the inner result, because nothing has to be undone for it.
pub(crate) fn append(b: &mut Batch<'_>, encoded: &Encoded) -> Result<Result<Position, AppendError>, Fault> {
    let Encoded { append, bodies } = encoded;
    let fenced = |current| Ok(Err(AppendError::Fenced { mine: append.epoch, current }));
    let Some(session) = session(b.conn, &append.session)? else {
        return fenced(Epoch(0));
    };
    if append.epoch != session.epoch {
        return fenced(session.epoch);
    }
    if append.after != session.head {
        return Ok(if is_repeated(b.conn, &session, append)? {
            Ok(Position(append.after.0.saturating_add(append.bodies.len() as u64)))
        } else if session.owned {
            Err(AppendError::Conflict { head: session.head, after: append.after })
        } else {
            Err(AppendError::Fenced { mine: append.epoch, current: session.epoch })
        });
    }
    if !session.owned {
        return fenced(session.epoch); // given back or ended since: nobody may write
    }
    let effects = match effects(append, &session) {
        Ok(effects) => effects,
        Err(wrong) => return Ok(Err(store::Error::Failed(wrong).into())),
    };

    store_entries(b.conn, &session, append, bodies)?;
    let head = Position(session.head.0 + bodies.len() as u64);
    b.conn
        .prepare_cached(
            "UPDATE session SET head = ?2, resume_from = ?3, progressed = ?4, handed = ?5, updated_ms = ?6 \
             WHERE id = ?1",
        )?
        .execute(params![
            session.id,
            sql(head.0),
            sql(effects.resume_from.0),
            effects.progressed,
            effects.handed,
            sql(b.now())
        ])?;
    history::note(b.conn, session.id, &effects.marks)?;
    if let Some((run, status, position)) = effects.ended {
        settle::ended(b, session.id, run, status, position)?;
    }
    if let Some((run, requested)) = effects.parked {
        b.conn
            .prepare_cached("UPDATE session SET next_gate = next_gate + ?2 WHERE id = ?1")?
            .execute(params![session.id, sql(requested.len() as u64)])?;
        gates::park(b, session.id, run, &requested, append.at)?;
    }
    b.grown(&append.session, head.0);
    Ok(Ok(head))
}

fn session(conn: &Connection, key: &SessionKey) -> Result<Option<Session>, Fault> {
    let mut query = conn.prepare_cached(
        "SELECT id, head, epoch, resume_from, front_run, owned, progressed, next_gate, handed, \
         forked_at FROM session \
         WHERE tenant = ?1 AND session = ?2",
    )?;
    let mut rows = query.query([key.tenant(), key.session()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Session {
        id: row.get(0)?,
        head: Position(number(row, 1)?),
        epoch: Epoch(number(row, 2)?),
        resume_from: Position(number(row, 3)?),
        front: row.get(4)?,
        owned: row.get(5)?,
        progressed: row.get(6)?,
        next_gate: number(row, 7)?,
        handed: row.get(8)?,
        forked_at: maybe(row, 9)?,
    }))
}

/// Whether this very append is already stored: its reply was lost and its writer asks again.
fn is_repeated(conn: &Connection, session: &Session, append: &Append) -> Result<bool, Fault> {
    let stored: Option<(Option<String>, i64)> = conn
        .prepare_cached("SELECT write_id, epoch FROM entry WHERE session = ?1 AND position = ?2")?
        .query_row(params![session.id, sql(append.after.0.saturating_add(1))], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    Ok(stored == Some((Some(append.write_id.to_string()), sql(append.epoch.0))))
}

/// What the batch does to session and run, or what is wrong with it.
fn effects<'a>(append: &'a Append, session: &Session) -> Result<Effects<'a>, String> {
    let mut effects = Effects {
        resume_from: session.resume_from,
        progressed: session.progressed,
        handed: session.handed,
        marks: Vec::new(),
        ended: None,
        parked: None,
    };
    for (body, position) in append.bodies.iter().zip(append.after.0 + 1..) {
        if let Some(run) = body.run() {
            if session.front.as_deref() != Some(run.as_str()) {
                let owned = session.front.as_deref().unwrap_or("none");
                return Err(format!("an entry names run {run}, but the lease is for {owned}"));
            }
            if effects.ended.is_some() {
                return Err(format!("an entry of run {run} follows its end"));
            }
        }
        effects.progressed |= body.is_progress();
        if effects.parked.is_some() && !matches!(body, Body::GateRequested { .. }) {
            return Err("an entry follows a gate: a gate parks the run".to_owned());
        }
        match body {
            Body::Checkpoint { keep_from, .. } => {
                // The checkpoint itself must be among what a resuming brain reads.
                if keep_from.0 == 0 || keep_from.0 > position {
                    return Err(format!("a checkpoint at {position} must keep from 1 to {position}, got {keep_from}"));
                }
                effects.resume_from = *keep_from;
                effects.mark(position, session.next_gate);
            }
            Body::RunStarted { workdir, .. } => effects.handed |= workdir.is_some(),
            Body::RunEnded { run, outcome, .. } => {
                effects.ended = Some((run, outcome.status(), Position(position)));
            }
            Body::GateRequested { run, gate, question, expires_at, .. } => {
                let requested = &mut effects.parked.get_or_insert_with(|| (run, Vec::new())).1;
                let next = session.next_gate + requested.len() as u64;
                if *gate != next {
                    return Err(format!("a gate has the number {gate}, the session's next is {next}"));
                }
                requested.push(Requested { gate: *gate, question, expires_at: *expires_at });
                effects.mark(position, next + 1);
            }
            Body::GateDecided { .. } => return Err("verdicts are written by the store".to_owned()),
            _ => {}
        }
    }
    Ok(effects)
}

fn store_entries(conn: &Connection, session: &Session, append: &Append, bodies: &[String]) -> Result<(), Fault> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO entry (session, position, epoch, at_ms, schema, write_id, body) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut write_id = Some(append.write_id.to_string());
    for (body, position) in bodies.iter().zip(append.after.0 + 1..) {
        let (epoch, at) = (sql(append.epoch.0), sql(append.at.0));
        insert.execute(params![session.id, sql(position), epoch, at, SCHEMA, write_id.take(), body])?;
    }
    Ok(())
}

/// The marks and the tail of a session.
pub(crate) fn open(conn: &Connection, key: &SessionKey) -> Result<Option<Opened>, Fault> {
    let Some(session) = session(conn, key)? else { return Ok(None) };
    let Session { id, head, epoch, resume_from, next_gate, forked_at, .. } = session;
    // Entries are never changed, so the head read first bounds a tail that is consistent with it.
    let tail = history::read(conn, (id, forked_at), resume_from, head, Most::ALL, history::entry)?;
    Ok(Some(Opened { head: Head { position: head, epoch, resume_from, next_gate }, tail }))
}

/// The position of the last entry; 0 where there is none.
pub(crate) fn head(conn: &Connection, key: &SessionKey) -> Result<Position, Fault> {
    Ok(session(conn, key)?.map_or(Position(0), |s| s.head))
}

/// Up to `limit` entries from `from` on, fewer when they are large.
pub(crate) fn read(conn: &Connection, key: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, Fault> {
    let Some(Session { id, head, forked_at, .. }) = session(conn, key)? else { return Ok(Vec::new()) };
    history::read(conn, (id, forked_at), from, head, Most::page(limit), history::entry)
}
