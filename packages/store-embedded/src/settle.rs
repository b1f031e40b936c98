//! How a run leaves the queue: by its last entry, or because this build cannot read it.
//!
//! Either way record, queue entry, lease and the session's next run change in one step.

use rusqlite::{OptionalExtension, params};
use torpor_core::outcome::Status;
use torpor_core::webhook::Kind;
use torpor_core::{Position, RunId};

use crate::fault::Fault;
use crate::outbox::{About, News, Targets};
use crate::record::{lossy, sql};
use crate::writer::Batch;
use crate::{gates, letters, outbox};

/// Most of what is wrong with a run that its dead letter quotes, in characters: it may quote the run.
const MAX_REASON_CHARS: usize = 500;

/// A run ended with the entry at this position.
pub(crate) fn ended(b: &mut Batch<'_>, session: i64, run: &RunId, status: Status, at: Position) -> Result<(), Fault> {
    let about = b
        .conn
        .prepare_cached("SELECT id, webhook, files FROM run WHERE run_id = ?1")?
        .query_row([run.as_str()], |r| Ok(About { row: r.get(0)?, run, targets: Targets::of(r, 1)? }))?;
    let row = about.row;
    b.conn
        .prepare_cached(
            "UPDATE run SET status = ?2, ended_ms = ?3, ended_position = ?4, version = version + 1 WHERE id = ?1",
        )?
        .execute(params![row, status.as_str(), sql(b.now()), sql(at.0)])?;
    gates::close(b.conn, run.as_str())?;
    hand_on(b, session, row)?;
    outbox::post(b, &about, &News { kind: Kind::Ended, status, gate: None, ended_at: Some(at) })?;
    gone(b, run);
    Ok(())
}

/// A run cannot be read: it fails without an entry (its log may be what is unreadable), and its row says why, as
/// does its dead letter. Nothing is lost: a build that can read it shows it as failed.
pub(crate) fn set_aside(b: &mut Batch<'_>, session: i64, row: i64, why: &str) -> Result<(), Fault> {
    let why: String = why.chars().take(MAX_REASON_CHARS).collect();
    let reason = format!("its stored form cannot be read by this build: {why}");
    let found = b
        .conn
        .prepare_cached(
            "UPDATE run SET status = ?2, ended_ms = ?3, aside = ?4, redriven = NULL, version = version + 1 \
             WHERE id = ?1 RETURNING run_id, webhook, files",
        )?
        .query_row(params![row, Status::Failed.as_str(), sql(b.now()), reason], |r| {
            Ok((lossy(r, 0)?.into_owned(), Targets::of(r, 1)?))
        })
        .optional()?;
    let (run, targets) = found.unzip();
    tracing::error!(run = run.as_deref().unwrap_or("unknown"), row, reason, "set a run aside as a dead letter");
    if let Some(run) = &run {
        letters::note(b, run, &reason)?;
    }
    hand_on(b, session, row)?;
    if let Some(run) = run.as_deref().and_then(RunId::parse) {
        let about = About { row, run: &run, targets: targets.unwrap_or_default() };
        outbox::post(b, &about, &News { kind: Kind::Ended, status: Status::Failed, gate: None, ended_at: None })?;
        gone(b, &run);
    }
    Ok(())
}

/// The run at the front of the session leaves the queue; the next one takes its place.
pub(crate) fn hand_on(b: &mut Batch<'_>, session: i64, row: i64) -> Result<(), Fault> {
    let now = b.now();
    b.conn.prepare_cached("DELETE FROM queue WHERE run = ?1")?.execute([row])?;
    let next: Option<(i64, i64, String)> = b
        .conn
        .prepare_cached(
            "SELECT q.run, q.due_ms, r.run_id FROM queue q JOIN run r ON r.id = q.run \
             WHERE q.session = ?1 AND q.state = 'blocked' ORDER BY q.urgent DESC, q.run LIMIT 1",
        )?
        .query_row([session], |r| Ok((r.get(0)?, r.get(1)?, lossy(r, 2)?.into_owned())))
        .optional()?;
    b.conn
        .prepare_cached("UPDATE session SET owned = 0, front_run = ?2 WHERE id = ?1")?
        .execute(params![session, next.as_ref().map(|(_, _, id)| id)])?;
    let Some((next, due, _)) = next else { return Ok(()) };
    let due = u64::try_from(due).unwrap_or(0);
    let state = if due > now { "delayed" } else { "ready" };
    b.conn.prepare_cached("UPDATE queue SET state = ?2 WHERE run = ?1")?.execute(params![next, state])?;
    if due > now {
        b.delayed(due);
    } else {
        b.ready();
    }
    Ok(())
}

fn gone(b: &mut Batch<'_>, run: &RunId) {
    if let Some(held) = b.state.leases.of(run).cloned() {
        b.over(run, held);
    }
    b.changed(run);
}
