//! Gates: parking a run, taking verdicts, and the verdict that falls when nobody decides.

use rusqlite::{Connection, OptionalExtension, Row, params};
use torpor_core::entry::{self, Body, SCHEMA};
use torpor_core::gate::{Action, Decide, Decided, Decision, Filter, Listed, Page, Pending, Question, Standing};
use torpor_core::outcome::Status;
use torpor_core::webhook::Kind;
use torpor_core::{Position, RunId, SessionKey, Timestamp, store};

use crate::fault::Fault;
use crate::outbox::{self, About, News, Targets};
use crate::record::{self, MAX_PAGE_BYTES, lossy, number, parse_cursor, sql, text, unreadable};
use crate::writer::Batch;

/// Most gates on one page.
const MAX_PAGE: usize = 200;

/// Gates that one step decides because their time is over, so that a flood of them delays nobody.
const MAX_EXPIRED: u32 = 256;

/// A gate that an append asks for.
pub(crate) struct Requested<'a> {
    pub(crate) gate: u64,
    pub(crate) question: &'a Question,
    pub(crate) expires_at: Option<Timestamp>,
}

/// The run at the front of `session` waits for people from now on.
pub(crate) fn park(
    b: &mut Batch<'_>,
    session: i64,
    run: &RunId,
    gates: &[Requested<'_>],
    at: Timestamp,
) -> Result<(), Fault> {
    let (about, cancel) = b
        .conn
        .prepare_cached("SELECT id, webhook, files, cancel FROM run WHERE run_id = ?1")?
        .query_row([run.as_str()], |r| {
            Ok((About { row: r.get(0)?, run, targets: Targets::of(r, 1)? }, r.get::<_, bool>(3)?))
        })?;
    let row = about.row;
    // One that is to be cancelled must not wait: whoever claims it ends it.
    let (queue, status, gate) =
        if cancel { ("ready", Status::Queued, "closed") } else { ("paused", Status::Paused, "pending") };
    b.conn
        .prepare_cached("UPDATE queue SET state = ?2, worker = NULL, due_ms = 0 WHERE run = ?1")?
        .execute(params![row, queue])?;
    b.conn
        .prepare_cached("UPDATE run SET status = ?2, version = version + 1 WHERE id = ?1")?
        .execute(params![row, status.as_str()])?;
    b.conn.prepare_cached("UPDATE session SET owned = 0 WHERE id = ?1")?.execute([session])?;
    let mut insert = b.conn.prepare_cached(
        "INSERT INTO gate (session, gate, run, state, question, requested_ms, expires_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for it in gates {
        let question = serde_json::to_string(it.question).map_err(|e| store::Error::Failed(e.to_string()))?;
        let expires = it.expires_at.map(|t| sql(t.0));
        insert.execute(params![session, sql(it.gate), run.as_str(), gate, question, sql(at.0), expires])?;
        if let Some(due) = it.expires_at.filter(|_| !cancel) {
            b.delayed(due.0);
        }
    }
    if cancel {
        b.ready();
    } else {
        let gate = gates.first().map(|g| g.gate);
        outbox::post(b, &about, &News { kind: Kind::Paused, status, gate, ended_at: None })?;
    }
    if let Some(held) = b.state.leases.of(run).cloned() {
        b.over(run, held);
    }
    b.changed(run);
    Ok(())
}

/// No gate of the run takes a verdict any more.
pub(crate) fn close(conn: &Connection, run: &str) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE gate SET state = 'closed' WHERE run = ?1 AND state = 'pending'")?.execute([run])?;
    Ok(())
}

/// Forgets the gates of a run whose record goes; what was asked and decided stays in the log.
pub(crate) fn forget(conn: &Connection, run: &str) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM gate WHERE run = ?1")?.execute([run])?;
    Ok(())
}

/// Where a gate stands.
struct Found {
    gate: u64,
    standing: Standing,
}

/// Records a verdict, or says why not.
pub(crate) fn decide(b: &mut Batch<'_>, it: Decide) -> Result<Decided, Fault> {
    let Decide { run, gate, decision } = it;
    let gates = of_run(b.conn, &run)?;
    let pending: Vec<u64> = gates.iter().filter(|g| g.standing == Standing::Pending).map(|g| g.gate).collect();
    let named = match (gate, &pending[..]) {
        (Some(gate), _) => gates.iter().find(|g| g.gate == gate),
        (None, [one]) => gates.iter().find(|g| g.gate == *one),
        (None, [_, _, ..]) => return Ok(Decided::Several(pending)),
        // What was decided last: is this the same again? An abort closed those that were asked after it.
        (None, []) => gates.iter().rfind(|g| is_abort(&g.standing)).or_else(|| gates.last()),
    };
    let Some(named) = named else { return Ok(Decided::Unknown) };
    let gate = named.gate;
    match &named.standing {
        Standing::Closed => Ok(Decided::Closed),
        Standing::Decided(earlier, _) if earlier.action == decision.action => {
            Ok(Decided::Repeated { gate, record: Box::new(record_of(b, &run)?) })
        }
        Standing::Decided(earlier, _) => Ok(Decided::Conflict { gate, earlier: earlier.clone() }),
        Standing::Pending => {
            let position = settle(b, &run, gate, &decision)?;
            Ok(Decided::Recorded { gate, position, record: Box::new(record_of(b, &run)?) })
        }
    }
}

fn is_abort(standing: &Standing) -> bool {
    matches!(standing, Standing::Decided(decision, _) if decision.action == Action::Abort)
}

fn record_of(b: &Batch<'_>, run: &RunId) -> Result<record::Record, Fault> {
    record::by_run_id(b.conn, run)?.ok_or_else(|| unreadable(format!("run {run} has no session")))
}

/// The verdict becomes an entry, the gate is decided, and a run without pending gates is claimable.
fn settle(b: &mut Batch<'_>, run: &RunId, gate: u64, decision: &Decision) -> Result<Position, Fault> {
    let now = b.now();
    let (session, head, epoch, tenant, id, about): (i64, i64, i64, String, String, _) = b
        .conn
        .prepare_cached(
            "SELECT s.id, s.head, s.epoch, s.tenant, s.session, r.id, r.webhook, r.files \
             FROM run r JOIN session s ON s.id = r.session WHERE r.run_id = ?1",
        )?
        .query_row([run.as_str()], |r| {
            let about = About { row: r.get(5)?, run, targets: Targets::of(r, 6)? };
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, about))
        })
        .optional()?
        .ok_or_else(|| unreadable(format!("run {run} has no session")))?;
    let row = about.row;
    // Before anything is written: what cannot be read leaves no half of a verdict.
    let key = SessionKey::new(&tenant, &id).map_err(|e| unreadable(format!("session: {e}")))?;
    let body = Body::GateDecided { run: run.clone(), gate, decision: decision.clone() };
    let body = entry::encode(&body)?;
    let body = String::from_utf8(body).map_err(|e| store::Error::Failed(e.to_string()))?;
    b.conn
        .prepare_cached(
            "INSERT INTO entry (session, position, epoch, at_ms, schema, write_id, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6)",
        )?
        .execute(params![session, head + 1, epoch, sql(now), SCHEMA, body])?;
    b.conn
        .prepare_cached("UPDATE session SET head = head + 1, updated_ms = ?2 WHERE id = ?1")?
        .execute(params![session, sql(now)])?;
    let stored = serde_json::to_string(decision).map_err(|e| store::Error::Failed(e.to_string()))?;
    b.conn
        .prepare_cached(
            "UPDATE gate SET state = 'decided', decision = ?3, decided_ms = ?4 WHERE session = ?1 AND gate = ?2",
        )?
        .execute(params![session, sql(gate), stored, sql(now)])?;
    // An abort ends the run whatever else was asked.
    if decision.action == Action::Abort {
        close(b.conn, run.as_str())?;
    }
    let waits = b
        .conn
        .prepare_cached("SELECT 1 FROM gate WHERE session = ?1 AND state = 'pending' LIMIT 1")?
        .exists([session])?;
    let status = if waits { Status::Paused } else { Status::Queued };
    if !waits {
        b.conn.prepare_cached("UPDATE queue SET state = 'ready', due_ms = 0 WHERE run = ?1")?.execute([row])?;
        b.ready();
    }
    b.conn
        .prepare_cached("UPDATE run SET status = ?2, version = version + 1 WHERE id = ?1")?
        .execute(params![row, status.as_str()])?;
    outbox::post(b, &about, &News { kind: Kind::Decided, status, gate: Some(gate), ended_at: None })?;
    let head = number_of(head).saturating_add(1);
    b.grown(&key, head);
    b.changed(run);
    Ok(Position(head))
}

fn number_of(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Decides what nobody decided in time. A run that cannot be read holds up no other: it is offered to whoever claims,
/// who sets it aside.
pub(crate) fn expire(b: &mut Batch<'_>, now: u64) -> Result<(), Fault> {
    let due: Vec<(String, i64)> = b
        .conn
        .prepare_cached(
            "SELECT run, gate FROM gate WHERE state = 'pending' AND expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2",
        )?
        .query_map(params![sql(now), MAX_EXPIRED], |r| Ok((lossy(r, 0)?.into_owned(), r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (run, gate) in due {
        let settled = match RunId::parse(&run) {
            Some(run) => settle(b, &run, number_of(gate), &Decision::expiry()).map(drop).map_err(Fault::unreadable),
            None => Err(Ok("its id is none".to_owned())),
        };
        match settled {
            Ok(()) => tracing::info!(run, gate, "a gate expired: its default verdict stands"),
            Err(Ok(why)) => {
                tracing::error!(run, gate, why, "a gate expired whose run cannot be read");
                close(b.conn, &run)?;
                b.conn
                    .prepare_cached(
                        "UPDATE queue SET state = 'ready', due_ms = 0 \
                         WHERE state = 'paused' AND run = (SELECT id FROM run WHERE run_id = ?1)",
                    )?
                    .execute([&run])?;
                b.ready();
            }
            Err(Err(fault)) => return Err(fault),
        }
    }
    Ok(())
}

/// When the first pending gate expires.
pub(crate) fn first_expiry(conn: &Connection) -> Result<Option<u64>, Fault> {
    let due: Option<Option<i64>> = conn
        .prepare_cached("SELECT min(expires_ms) FROM gate WHERE state = 'pending'")?
        .query_row([], |r| r.get(0))
        .optional()?;
    Ok(due.flatten().map(number_of))
}

/// Runs with a pending gate whose time is over.
pub(crate) fn due(conn: &Connection, now: u64) -> Result<u64, Fault> {
    let n: i64 = conn
        .prepare_cached("SELECT count(DISTINCT run) FROM gate WHERE state = 'pending' AND expires_ms <= ?1")?
        .query_row([sql(now)], |r| r.get(0))?;
    Ok(number_of(n))
}

/// The gates of a run, by number.
fn of_run(conn: &Connection, run: &RunId) -> Result<Vec<Found>, Fault> {
    let mut query =
        conn.prepare_cached("SELECT gate, state, decision, decided_ms FROM gate WHERE run = ?1 ORDER BY gate")?;
    let mut rows = query.query([run.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Found { gate: number(row, 0)?, standing: standing(row, 1)? });
    }
    Ok(found)
}

/// Reads `state, decision, decided_ms` from `column` on.
fn standing(row: &Row<'_>, column: usize) -> Result<Standing, Fault> {
    let state: String = row.get(column)?;
    Ok(match state.as_str() {
        "pending" => Standing::Pending,
        "decided" => {
            let decision = serde_json::from_slice(text(row, column + 1)?)
                .map_err(|e| unreadable(format!("a gate's decision: {e}")))?;
            Standing::Decided(decision, Timestamp(number(row, column + 2)?))
        }
        _ => Standing::Closed,
    })
}

/// The gates of a run that wait for their verdict.
pub(crate) fn pending(conn: &Connection, run: &str) -> Result<Vec<Pending>, Fault> {
    let mut query = conn.prepare_cached(
        "SELECT gate, question, requested_ms, expires_ms FROM gate WHERE run = ?1 AND state = 'pending' ORDER BY gate",
    )?;
    let mut rows = query.query([run])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// What the questions of a run's pending gates take, in bytes of JSON.
pub(crate) fn pending_bytes(conn: &Connection, run: &str) -> Result<usize, Fault> {
    let bytes: i64 = conn
        .prepare_cached("SELECT ifnull(sum(octet_length(question)), 0) FROM gate WHERE run = ?1 AND state = 'pending'")?
        .query_row([run], |r| r.get(0))?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Reads `gate, question, requested_ms, expires_ms`.
fn read(row: &Row<'_>) -> Result<Pending, Fault> {
    let expires: Option<i64> = row.get(3)?;
    Ok(Pending {
        gate: number(row, 0)?,
        question: serde_json::from_slice(text(row, 1)?).map_err(|e| unreadable(format!("a gate's question: {e}")))?,
        requested_at: Timestamp(number(row, 2)?),
        expires_at: expires.map(|ms| Timestamp(number_of(ms))),
    })
}

/// One page of gates, newest first.
pub(crate) fn list(conn: &Connection, filter: &Filter) -> Result<Page, Fault> {
    let limit = filter.limit.clamp(1, MAX_PAGE);
    let before = filter.cursor.as_deref().map(parse_cursor).transpose()?.unwrap_or(i64::MAX);
    let run = filter.run.as_ref().map(RunId::as_str);
    let mut query = conn.prepare_cached(
        "SELECT g.gate, g.question, g.requested_ms, g.expires_ms, g.id, g.run, s.tenant, s.session, \
         g.state, g.decision, g.decided_ms FROM gate g JOIN session s ON s.id = g.session \
         WHERE g.id < ?1 AND (?2 IS NULL OR s.tenant = ?2) AND (?3 IS NULL OR g.run = ?3) \
         AND (?4 IS NULL OR (g.state = 'pending') = ?4) ORDER BY g.id DESC LIMIT ?5",
    )?;
    let mut rows = query.query(params![before, filter.tenant, run, filter.pending, sql(limit as u64 + 1)])?;
    let mut page = Page { gates: Vec::new(), next: None };
    let (mut last, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        if page.gates.len() == limit || bytes >= MAX_PAGE_BYTES {
            page.next = Some(format!("{last:x}"));
            break;
        }
        last = row.get(4)?;
        bytes += text(row, 1)?.len();
        let (id, tenant, session): (String, String, String) = (row.get(5)?, row.get(6)?, row.get(7)?);
        page.gates.push(Listed {
            run: RunId::parse(&id).ok_or_else(|| unreadable(format!("{id:?} is not a run id")))?,
            session: SessionKey::new(&tenant, &session).map_err(|e| unreadable(format!("session: {e}")))?,
            gate: read(row)?,
            standing: standing(row, 8)?,
        });
    }
    Ok(page)
}
