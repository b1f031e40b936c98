//! Accepting a run: record, queue entry, idempotency key and, if asked, the first claim, in one step.

use rusqlite::{OptionalExtension, params};
use torpor_core::entry::RunTotals;
use torpor_core::envelope::Wishes;
use torpor_core::log::Head;
use torpor_core::outcome::Status;
use torpor_core::queue::{Enqueued, Expects, Lease, NewRun};
use torpor_core::run::Record;
use torpor_core::{Epoch, Position, RunId, Timestamp, WorkerId, store, trace};

use crate::cancel;
use crate::fault::Fault;
use crate::leases::Held;
use crate::outbox::Targets;
use crate::record::{self, number, row_at, sql, unreadable};
use crate::remove;
use crate::writer::Batch;

/// For so long a full queue is taken to be full, in milliseconds: counting a large one takes time.
const RECOUNT_MS: u64 = 200;

/// A run with its parts in their stored form.
pub(crate) struct Accepted {
    new: NewRun,
    spec: String,
    /// What the session keeps, should this be its first run.
    wishes: Option<String>,
}

impl Accepted {
    /// Encodes what can be encoded without the store.
    pub(crate) fn new(new: NewRun) -> Result<Self, store::Error> {
        let failed = |e: serde_json::Error| store::Error::Failed(e.to_string());
        let wishes =
            Some(new.spec.wishes()).filter(|_| new.expects == Expects::New).filter(|w| *w != Wishes::default());
        let wishes = wishes.map(|w| serde_json::to_string(&w)).transpose().map_err(failed)?;
        let spec = serde_json::to_string(&new.spec).map_err(failed)?;
        Ok(Self { new, spec, wishes })
    }

    /// Takes over what the session's first run wished for.
    fn inherit(&mut self, wishes: &str) -> Result<(), Fault> {
        let wishes: Wishes =
            serde_json::from_str(wishes).map_err(|e| unreadable(format!("wishes of {:?}: {e}", self.new.session)))?;
        self.new.spec.inherit(&wishes);
        self.spec = serde_json::to_string(&self.new.spec).map_err(|e| store::Error::Failed(e.to_string()))?;
        Ok(())
    }
}

/// A session as it was before this run.
struct Before {
    id: i64,
    head: Head,
    /// Epochs up to here are of earlier sessions with its name.
    born: Epoch,
    /// The run whose turn it is.
    front: Option<String>,
    /// That run waits for a person.
    gated: bool,
    first_run: Option<String>,
    first_hash: Option<String>,
    wishes: Option<String>,
}

/// Where the new run stands in its session and in time.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Claimed,
    Ready,
    Delayed,
    Blocked,
}

/// Accepts a run.
pub(crate) fn enqueue(b: &mut Batch<'_>, mut accepted: Accepted) -> Result<Enqueued, Fault> {
    if let Some(answer) = earlier_post(b, &accepted.new)? {
        return Ok(answer);
    }
    let before = session_before(b, &accepted.new)?;
    match (&before, accepted.new.expects) {
        (Some(before), Expects::New) => return first_post(b, &accepted.new, before),
        (None, Expects::Existing | Expects::Ungated) => return Ok(Enqueued::NoSession),
        (Some(Before { front: Some(front), gated: true, .. }), Expects::Ungated) => {
            let record = record_of(b, front)?.ok_or_else(|| unreadable(format!("run {front} has no session")))?;
            return Ok(Enqueued::GatePending(Box::new(record)));
        }
        _ => {}
    }
    if before.is_none() && remove::is_forgetting(b.conn, &accepted.new.session)? {
        return Ok(Enqueued::Forgetting);
    }
    if !has_room(b)? {
        return Ok(Enqueued::Full);
    }
    if let Some(wishes) = before.as_ref().and_then(|b| b.wishes.as_deref()) {
        accepted.inherit(wishes)?;
    }
    let Accepted { new, spec, wishes } = accepted;
    if is_known(b, &new.run_id)? {
        return Err(store::Error::Failed(format!("the run id {} is taken", new.run_id)).into());
    }

    let now = b.now();
    let due = new.not_before.map_or(0, |t| t.0);
    let place = match (&before, &new.claim_for) {
        (Some(Before { front: Some(_), .. }), _) => Place::Blocked,
        _ if due > now => Place::Delayed,
        (_, Some(_)) => Place::Claimed,
        (_, None) => Place::Ready,
    };
    let row = row_at(now).max(b.state.last_row.saturating_add(1));
    let interrupted = before.as_ref().and_then(|b| b.front.as_deref()).filter(|_| new.interrupt).and_then(RunId::parse);
    let (session, head, born) = write_session(b, &new, wishes, before, row, place)?;
    let log_from = (place == Place::Claimed).then(|| head.position.next());
    write_run(b, &new, &spec, (session, row), now, log_from)?;
    b.conn
        .prepare_cached(
            "INSERT INTO queue (run, session, priority, state, due_ms, worker, urgent) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            row,
            session,
            new.priority,
            place.state(),
            sql(due),
            new.claim_for.as_ref().filter(|_| place == Place::Claimed).map(WorkerId::as_str),
            new.interrupt
        ])?;
    b.state.last_row = row;
    if let Some(run) = interrupted {
        cancel::cancel(b, &run)?;
    }

    let claimed = place == Place::Claimed;
    let record = Record {
        run_id: new.run_id,
        session: new.session,
        spec: new.spec,
        status: if claimed { Status::Running } else { Status::Queued },
        outcome: None,
        spent: RunTotals::default(),
        attempts: u32::from(claimed),
        created_at: Timestamp(now),
        started_at: claimed.then_some(Timestamp(now)),
        ended_at: None,
        log_from,
        trace: new.trace,
        gates: Vec::new(),
        webhook: None,
        files: None,
        redrive_of: None,
        redriven_as: None,
        version: 1,
    };
    match (place, new.claim_for) {
        (Place::Claimed, Some(worker)) => {
            let until = now.saturating_add(b.state.lease_ms);
            let held = Held { row, session, epoch: head.epoch, worker: worker.clone(), until };
            b.state.leases.put(record.run_id.clone(), held);
            return Ok(Enqueued::Claimed(Box::new(Lease {
                record,
                epoch: head.epoch,
                born,
                worker,
                head,
                attempt: 1,
                cancel: false,
            })));
        }
        (Place::Ready, _) => b.ready(),
        (Place::Delayed, _) => b.delayed(due),
        _ => {}
    }
    Ok(Enqueued::Created(Box::new(record)))
}

impl Place {
    fn state(self) -> &'static str {
        match self {
            Self::Claimed => "leased",
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Blocked => "blocked",
        }
    }
}

/// The answer, if this key came before.
fn earlier_post(b: &Batch<'_>, new: &NewRun) -> Result<Option<Enqueued>, Fault> {
    let Some(idempotency) = &new.idempotency else { return Ok(None) };
    let found: Option<(String, String)> = b
        .conn
        .prepare_cached("SELECT run_id, body_hash FROM run WHERE tenant = ?1 AND idempotency_key = ?2")?
        .query_row([new.session.tenant(), &idempotency.key], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let Some((run, hash)) = found else { return Ok(None) };
    if hash != idempotency.body_hash {
        return Ok(Some(Enqueued::Conflict));
    }
    let record = record_of(b, &run)?.ok_or_else(|| unreadable(format!("run {run} has no session")))?;
    Ok(Some(Enqueued::Existing(Box::new(record))))
}

/// The answer to a first run whose session exists: the same post again, or another.
fn first_post(b: &Batch<'_>, new: &NewRun, before: &Before) -> Result<Enqueued, Fault> {
    let Before { first_run: Some(first_run), first_hash: Some(first_hash), .. } = before else {
        return Ok(Enqueued::Conflict);
    };
    if new.idempotency.as_ref().is_none_or(|i| i.body_hash != *first_hash) {
        return Ok(Enqueued::Conflict);
    }
    Ok(match record_of(b, first_run)? {
        Some(record) => Enqueued::Existing(Box::new(record)),
        None => Enqueued::Expired,
    })
}

fn record_of(b: &Batch<'_>, run: &str) -> Result<Option<Record>, Fault> {
    let run = RunId::parse(run).ok_or_else(|| unreadable(format!("{run:?} is not a run id")))?;
    record::by_run_id(b.conn, &run)
}

fn session_before(b: &Batch<'_>, new: &NewRun) -> Result<Option<Before>, Fault> {
    let mut query = b.conn.prepare_cached(
        "SELECT id, head, epoch, resume_from, front_run, first_run, first_hash, wishes, next_gate, born, \
         EXISTS (SELECT 1 FROM run r JOIN queue q ON q.run = r.id \
                 WHERE r.run_id = session.front_run AND q.state = 'paused') \
         FROM session WHERE tenant = ?1 AND session = ?2",
    )?;
    let mut rows = query.query([new.session.tenant(), new.session.session()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let head = Head {
        position: Position(number(row, 1)?),
        epoch: Epoch(number(row, 2)?),
        resume_from: Position(number(row, 3)?),
        next_gate: number(row, 8)?,
    };
    Ok(Some(Before {
        id: row.get(0)?,
        head,
        front: row.get(4)?,
        gated: row.get(10)?,
        born: Epoch(number(row, 9)?),
        first_run: row.get(5)?,
        first_hash: row.get(6)?,
        wishes: row.get(7)?,
    }))
}

fn is_known(b: &Batch<'_>, run: &RunId) -> Result<bool, Fault> {
    Ok(b.conn.prepare_cached("SELECT 1 FROM run WHERE run_id = ?1")?.exists([run.as_str()])?)
}

/// Whether one more run may be queued. The queue is counted only when it may be full: what is known is how many there
/// can be at most.
pub(crate) fn has_room(b: &mut Batch<'_>) -> Result<bool, Fault> {
    let now = b.now();
    let queue = &mut b.state.queue;
    if queue.at_most >= queue.max {
        if now < queue.full_until {
            return Ok(false);
        }
        let runs: i64 = b.conn.prepare_cached("SELECT count(*) FROM queue")?.query_row([], |r| r.get(0))?;
        queue.at_most = u64::try_from(runs).unwrap_or(0);
        if queue.at_most >= queue.max {
            queue.full_until = now.saturating_add(RECOUNT_MS);
            return Ok(false);
        }
    }
    queue.at_most += 1;
    Ok(true)
}

/// Makes or changes the session; answers its row, the log's marks after this step, and above what its epochs lie.
fn write_session(
    b: &mut Batch<'_>,
    new: &NewRun,
    wishes: Option<String>,
    before: Option<Before>,
    row: i64,
    place: Place,
) -> Result<(i64, Head, Epoch), Fault> {
    let claimed = place == Place::Claimed;
    let (run, now) = (new.run_id.as_str(), sql(b.now()));
    let Some(Before { id, mut head, born, .. }) = before else {
        let id = b.next_session();
        let born = Epoch(b.state.epoch_floor);
        let epoch = Epoch(born.0 + u64::from(claimed));
        let head = Head { position: Position(0), epoch, resume_from: Position(1), next_gate: 0 };
        b.conn
            .prepare_cached(
                "INSERT INTO session (id, tenant, session, head, epoch, resume_from, front_run, owned, progressed, \
                 latest_run, first_run, first_hash, wishes, created_ms, updated_ms, born) \
                 VALUES (?9, ?1, ?2, 0, ?3, 1, ?4, ?5, 0, ?6, ?4, ?7, ?8, ?10, ?10, ?11)",
            )?
            .execute(params![
                new.session.tenant(),
                new.session.session(),
                sql(head.epoch.0),
                run,
                claimed,
                row,
                new.idempotency.as_ref().map(|i| &i.body_hash),
                wishes,
                id,
                now,
                sql(born.0)
            ])?;
        return Ok((id, head, born));
    };
    match place {
        Place::Blocked => {
            b.conn
                .prepare_cached("UPDATE session SET latest_run = ?2, updated_ms = ?3 WHERE id = ?1")?
                .execute(params![id, row, now])?;
        }
        Place::Ready | Place::Delayed => {
            b.conn
                .prepare_cached("UPDATE session SET latest_run = ?2, updated_ms = ?3, front_run = ?4 WHERE id = ?1")?
                .execute(params![id, row, now, run])?;
        }
        Place::Claimed => {
            head.epoch.0 += 1;
            b.conn
                .prepare_cached(
                    "UPDATE session SET latest_run = ?2, updated_ms = ?3, front_run = ?4, epoch = ?5, owned = 1, \
                     progressed = 0 WHERE id = ?1",
                )?
                .execute(params![id, row, now, run, sql(head.epoch.0)])?;
        }
    }
    Ok((id, head, born))
}

fn write_run(
    b: &Batch<'_>,
    new: &NewRun,
    spec: &str,
    (session, row): (i64, i64),
    now: u64,
    log_from: Option<Position>,
) -> Result<(), Fault> {
    let claimed = log_from.is_some();
    let Targets { webhook, files } = Targets::from_spec(&new.spec)?;
    let status = if claimed { Status::Running } else { Status::Queued };
    b.conn
        .prepare_cached(
            "INSERT INTO run (id, run_id, session, tenant, idempotency_key, body_hash, status, attempts, version, \
             created_ms, started_ms, spec, log_from, traceparent, tracestate, webhook, files) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            row,
            new.run_id.as_str(),
            session,
            new.session.tenant(),
            new.idempotency.as_ref().map(|i| &i.key),
            new.idempotency.as_ref().map(|i| &i.body_hash),
            status.as_str(),
            u32::from(claimed),
            sql(now),
            claimed.then_some(sql(now)),
            spec,
            log_from.map(|p| sql(p.0)),
            new.trace.as_ref().map(trace::Context::traceparent),
            new.trace.as_ref().and_then(trace::Context::tracestate),
            webhook,
            files
        ])?;
    Ok(())
}
