//! Leases: claiming, keeping, giving back; and counting what is there.

use rusqlite::{Row, params};
use torpor_core::log::Head;
use torpor_core::outcome::Status;
use torpor_core::queue::{Backlog, Lease, LeaseKey, Release};
use torpor_core::webhook::Channel;
use torpor_core::{Epoch, Position, Timestamp, WorkerId};

use crate::fault::Fault;
use crate::leases::Held;
use crate::record::{self, number, sql, unreadable};
use crate::settle;
use crate::writer::{Batch, first_delayed};
use crate::{gates, outbox};

/// Most runs that one claim answers.
pub(crate) const MAX_CLAIM: usize = 256;

/// Runs that one claim sets aside before it answers, so that a long row of them delays nobody else's command.
const MAX_SET_ASIDE: usize = 256;

/// What a claim found.
pub(crate) struct Claimed {
    pub(crate) leases: Vec<Lease>,
    /// There may be more: someone else should look.
    pub(crate) more: bool,
}

/// Claims up to `max` runs that are claimable now. Those that cannot be read are set aside.
pub(crate) fn claim(b: &mut Batch<'_>, worker: &WorkerId, max: usize) -> Result<Claimed, Fault> {
    let now = b.now();
    let max = max.min(MAX_CLAIM);
    offer_what_is_due(b, now)?;
    let (mut leases, mut set_aside) = (Vec::new(), 0);
    let more = loop {
        let found = claimable(b, max - leases.len())?;
        let more = leases.len() + found.len() >= max;
        let before = set_aside;
        for Claimable { row, session, marks } in found {
            match marks.and_then(|marks| take(b, worker, row, session, marks, now)).map_err(Fault::unreadable) {
                Ok(lease) => leases.push(lease),
                Err(Ok(why)) => {
                    settle::set_aside(b, session, row, &why)?;
                    set_aside += 1;
                }
                Err(Err(fault)) => return Err(fault),
            }
        }
        if set_aside == before {
            break more;
        }
        if set_aside >= MAX_SET_ASIDE {
            break true;
        }
    };
    if leases.is_empty() {
        b.recheck_due();
    }
    Ok(Claimed { leases, more })
}

/// A run at the head of the queue, with the marks of its session.
struct Claimable {
    row: i64,
    session: i64,
    marks: Result<Marks, Fault>,
}

/// What a claim needs to know of the session.
struct Marks {
    head: Head,
    born: Epoch,
    progressed: bool,
}

fn claimable(b: &Batch<'_>, max: usize) -> Result<Vec<Claimable>, Fault> {
    let mut query = b.conn.prepare_cached(
        "SELECT q.run, q.session, s.epoch, s.head, s.resume_from, s.progressed, \
         s.next_gate, s.born \
         FROM queue q CROSS JOIN session s ON s.id = q.session \
         WHERE q.state = 'ready' ORDER BY q.priority DESC, q.run LIMIT ?1",
    )?;
    let mut rows = query.query([sql(max as u64)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Claimable { row: row.get(0)?, session: row.get(1)?, marks: marks(row) });
    }
    Ok(found)
}

fn marks(row: &Row<'_>) -> Result<Marks, Fault> {
    let head = Head {
        epoch: Epoch(number(row, 2)?),
        position: Position(number(row, 3)?),
        resume_from: Position(number(row, 4)?),
        next_gate: number(row, 6)?,
    };
    Ok(Marks { head, born: Epoch(number(row, 7)?), progressed: row.get(5)? })
}

/// Delayed runs whose time has come and runs whose lease has expired are ready.
fn offer_what_is_due(b: &mut Batch<'_>, now: u64) -> Result<(), Fault> {
    if b.state.delayed.is_some_and(|due| due <= now) {
        b.conn
            .prepare_cached("UPDATE queue SET state = 'ready' WHERE state = 'delayed' AND due_ms <= ?1")?
            .execute([sql(now)])?;
        gates::expire(b, now)?;
        b.state.delayed = first_delayed(b.conn)?;
    }
    for (run, held) in b.state.leases.expired(now) {
        let offered = b
            .conn
            .prepare_cached("UPDATE queue SET state = 'ready' WHERE run = ?1 AND state = 'leased'")?
            .execute([held.row])?;
        if offered == 1 {
            b.offered(held);
        } else {
            b.over(&run, held); // left by a commit that failed
        }
    }
    Ok(())
}

/// Claims one run. Reads before it writes: of a run that cannot be read, nothing is changed.
fn take(
    b: &mut Batch<'_>,
    worker: &WorkerId,
    row: i64,
    session: i64,
    Marks { mut head, born, progressed }: Marks,
    now: u64,
) -> Result<Lease, Fault> {
    let mut record = record::by_row(b.conn, row)?.ok_or_else(|| unreadable(format!("run row {row} is missing")))?;
    record.status = Status::Running;
    // Attempts are counted since the last progress: an owner that got somewhere starts the count again.
    record.attempts = if progressed { 1 } else { record.attempts.saturating_add(1) };
    let started = *record.started_at.get_or_insert(Timestamp(now));
    let log_from = *record.log_from.get_or_insert_with(|| head.position.next());
    record.version += 1;
    let epoch = Epoch(head.epoch.0 + 1);
    head.epoch = epoch;
    b.conn
        .prepare_cached("UPDATE queue SET state = 'leased', worker = ?2 WHERE run = ?1")?
        .execute(params![row, worker.as_str()])?;
    b.conn
        .prepare_cached("UPDATE session SET epoch = ?2, owned = 1, progressed = 0 WHERE id = ?1")?
        .execute(params![session, sql(epoch.0)])?;
    b.conn
        .prepare_cached(
            "UPDATE run SET status = ?2, attempts = ?3, started_ms = ?4, version = ?5, log_from = ?6 WHERE id = ?1",
        )?
        .execute(params![
            row,
            record.status.as_str(),
            record.attempts,
            sql(started.0),
            sql(record.version),
            sql(log_from.0)
        ])?;
    let cancel: bool = b.conn.prepare_cached("SELECT cancel FROM run WHERE id = ?1")?.query_row([row], |r| r.get(0))?;
    let until = now.saturating_add(b.state.lease_ms);
    b.state.leases.put(record.run_id.clone(), Held { row, session, epoch, worker: worker.clone(), until });
    b.changed(&record.run_id);
    Ok(Lease { attempt: record.attempts, record, epoch, born, worker: worker.clone(), head, cancel })
}

/// Extends leases; answers those that are lost.
pub(crate) fn heartbeat(b: &mut Batch<'_>, worker: &WorkerId, keys: &[LeaseKey]) -> Result<Vec<LeaseKey>, Fault> {
    let now = b.now();
    let until = now.saturating_add(b.state.lease_ms);
    let mut lost = Vec::new();
    for key in keys {
        let Some(held) = b.state.leases.get(key).filter(|held| held.worker == *worker).cloned() else {
            lost.push(key.clone());
            continue;
        };
        // A live lease is extended in memory. One that may have been offered again must leave the queue first.
        let live = held.until > now && b.state.leases.is_waiting(&held);
        if live || revive(b, &held)? {
            b.state.leases.put(key.run.clone(), Held { until, ..held });
        } else {
            lost.push(key.clone());
        }
    }
    Ok(lost)
}

fn revive(b: &Batch<'_>, held: &Held) -> Result<bool, Fault> {
    let revived = b
        .conn
        .prepare_cached(
            "UPDATE queue SET state = 'leased' WHERE run = ?1 AND state IN ('ready', 'leased') \
             AND EXISTS (SELECT 1 FROM session WHERE id = ?2 AND epoch = ?3 AND owned = 1)",
        )?
        .execute(params![held.row, held.session, sql(held.epoch.0)])?;
    Ok(revived == 1)
}

/// Gives a run back; `false` when the lease is no longer held.
pub(crate) fn release(b: &mut Batch<'_>, key: &LeaseKey, why: Release) -> Result<bool, Fault> {
    let Some(held) = b.state.leases.get(key).cloned() else { return Ok(false) };
    let disowned = b
        .conn
        .prepare_cached("UPDATE session SET owned = 0 WHERE id = ?1 AND epoch = ?2 AND owned = 1")?
        .execute(params![held.session, sql(held.epoch.0)])?;
    if disowned == 0 {
        return Ok(false);
    }
    let now = b.now();
    let (after, burned) = match why {
        Release::HandBack => (std::time::Duration::ZERO, false),
        Release::Retry { after } => (after, true),
        Release::Wait { after } => (after, false),
    };
    let due = Timestamp(now).after(after).0;
    let state = if due > now { "delayed" } else { "ready" };
    b.conn
        .prepare_cached("UPDATE queue SET state = ?2, due_ms = ?3, worker = NULL WHERE run = ?1")?
        .execute(params![held.row, state, sql(due)])?;
    b.conn
        .prepare_cached(
            "UPDATE run SET status = ?2, attempts = max(attempts - ?3, 0), version = version + 1 WHERE id = ?1",
        )?
        .execute(params![held.row, Status::Queued.as_str(), u32::from(!burned)])?;
    if due > now {
        b.delayed(due);
    } else {
        b.ready();
    }
    b.over(&key.run, held);
    b.changed(&key.run);
    Ok(true)
}

/// Counts, each run once.
pub(crate) fn backlog(b: &Batch<'_>) -> Result<Backlog, Fault> {
    let now = b.now();
    let count = |query: &str| -> Result<u64, Fault> {
        let n: i64 = b.conn.prepare_cached(query)?.query_row([], |r| r.get(0))?;
        Ok(u64::try_from(n).unwrap_or(0))
    };
    let due: i64 = b
        .conn
        .prepare_cached("SELECT count(*) FROM queue WHERE state = 'delayed' AND due_ms <= ?1")?
        .query_row([sql(now)], |r| r.get(0))?;
    let due = u64::try_from(due).unwrap_or(0);
    let (leased, expired) = b.state.leases.count(now);
    let decided = gates::due(b.conn, now)?;
    Ok(Backlog {
        ready: count("SELECT count(*) FROM queue WHERE state = 'ready'")? + due + expired + decided,
        waiting: count("SELECT count(*) FROM queue WHERE state = 'delayed'")? - due
            + count("SELECT count(*) FROM queue WHERE state = 'blocked'")?,
        leased,
        paused: count("SELECT count(*) FROM queue WHERE state = 'paused'")?.saturating_sub(decided),
        // One that is noted but not yet ended is still counted where it stands.
        dead: count(
            "SELECT count(*) FROM dead_letter d WHERE NOT EXISTS \
             (SELECT 1 FROM run r JOIN queue q ON q.run = r.id WHERE r.run_id = d.run_id)",
        )?,
        webhooks: outbox::due(b.conn, Channel::Webhook, now)?,
        files: outbox::due(b.conn, Channel::Files, now)?,
    })
}

/// Removes up to `limit` records that ended at or before `ended_by`, with their keys, gates and dead letters; their
/// sessions and logs stay, and so do those whose dead letter is of after `dead_by`.
pub(crate) fn sweep(b: &Batch<'_>, ended_by: Timestamp, dead_by: Timestamp, limit: u32) -> Result<u64, Fault> {
    let mut gone = b.conn.prepare_cached(
        "DELETE FROM run WHERE id IN (SELECT id FROM run WHERE ended_ms IS NOT NULL AND ended_ms <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM dead_letter d WHERE d.run_id = run.run_id AND d.at_ms > ?3) \
         ORDER BY ended_ms LIMIT ?2) RETURNING run_id",
    )?;
    let gone: Vec<String> =
        gone.query_map(params![sql(ended_by.0), limit, sql(dead_by.0)], |r| r.get(0))?.collect::<Result<_, _>>()?;
    for run in &gone {
        b.conn.prepare_cached("DELETE FROM dead_letter WHERE run_id = ?1")?.execute([run])?;
        outbox::forget(b.conn, run)?;
        gates::forget(b.conn, run)?;
    }
    Ok(gone.len() as u64)
}
