//! Cancelling: at once where nobody works on a run, by its owner where somebody does.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{OptionalExtension, params};
use tokio::sync::Notify;
use torpor_core::outcome::Status;
use torpor_core::queue::{Cancelled, LeaseKey};
use torpor_core::webhook::Kind;
use torpor_core::{RunId, WorkerId};

use crate::fault::Fault;
use crate::gates;
use crate::outbox::{self, About, News, Targets};
use crate::record::{self, sql, unreadable};
use crate::settle::hand_on;
use crate::writer::Batch;

/// What the owners of leases are still to be told. In memory: a lease never outlives the process, and the next claim
/// says the same again.
#[derive(Debug, Default)]
pub(crate) struct Told {
    by_worker: Mutex<HashMap<WorkerId, Vec<LeaseKey>>>,
    news: Notify,
}

impl Told {
    pub(crate) fn tell(&self, worker: &WorkerId, key: LeaseKey) {
        let mut all = self.lock();
        let keys = all.entry(worker.clone()).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
        drop(all);
        self.news.notify_waiters();
    }

    /// Waits until this worker is to be told something. Cancellation safe: what is not taken stays.
    pub(crate) async fn next(&self, worker: &WorkerId) -> Vec<LeaseKey> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(keys) = self.lock().remove(worker) {
                return keys;
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Vec<LeaseKey>>> {
        self.by_worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a run stands in the queue.
struct Standing {
    row: i64,
    session: i64,
    state: Option<String>,
    started: bool,
    front: bool,
    targets: Targets,
}

pub(crate) fn cancel(b: &mut Batch<'_>, run: &RunId) -> Result<Cancelled, Fault> {
    let found = b
        .conn
        .prepare_cached(
            "SELECT r.id, r.session, q.state, r.started_ms IS NOT NULL, s.front_run IS r.run_id, r.webhook, r.files \
             FROM run r JOIN session s ON s.id = r.session LEFT JOIN queue q ON q.run = r.id WHERE r.run_id = ?1",
        )?
        .query_row([run.as_str()], |r| {
            Ok(Standing {
                row: r.get(0)?,
                session: r.get(1)?,
                state: r.get(2)?,
                started: r.get(3)?,
                front: r.get(4)?,
                targets: Targets::of(r, 5)?,
            })
        })
        .optional()?;
    let Some(it) = found else { return Ok(Cancelled::Unknown) };
    let ended = match it.state.as_deref() {
        None => true,
        // Behind others of its session nobody may work on it: one that was set aside and driven again can be there.
        Some(state) if it.started && state != "blocked" => {
            if state == "paused" {
                // From here on no verdict counts: there is one outcome, and it is this.
                gates::close(b.conn, run.as_str())?;
                b.conn
                    .prepare_cached("UPDATE run SET status = ?2 WHERE id = ?1")?
                    .execute(params![it.row, Status::Queued.as_str()])?;
            }
            let is_leased = state == "leased";
            ask(b, &it, !is_leased)?;
            if !is_leased {
                b.ready();
            }
            // Also the owner of a lease that has expired: it may come back before anybody claims the run.
            if let Some(held) = b.state.leases.of(run).cloned() {
                b.told(held.worker, LeaseKey { run: run.clone(), epoch: held.epoch });
            }
            false
        }
        Some(_) => {
            end_unstarted(b, &it)?;
            let about = About { row: it.row, run, targets: it.targets };
            let news = News { kind: Kind::Ended, status: Status::Cancelled, gate: None, ended_at: None };
            outbox::post(b, &about, &news)?;
            true
        }
    };
    b.changed(run);
    let record = record::by_row(b.conn, it.row)?.ok_or_else(|| unreadable(format!("run {run} has no session")))?;
    Ok(if ended { Cancelled::Ended(Box::new(record)) } else { Cancelled::Asked(Box::new(record)) })
}

/// Leaves a note for whoever owns the run next; with `now`, that may be anybody at once.
fn ask(b: &Batch<'_>, it: &Standing, now: bool) -> Result<(), Fault> {
    b.conn
        .prepare_cached("UPDATE run SET cancel = 1, version = version + 1 WHERE id = ?1 AND cancel = 0")?
        .execute([it.row])?;
    if now {
        b.conn
            .prepare_cached("UPDATE queue SET state = 'ready', due_ms = ?2 WHERE run = ?1")?
            .execute(params![it.row, sql(b.now())])?;
    }
    Ok(())
}

/// Nobody works on the run: its record alone says how it ended.
fn end_unstarted(b: &mut Batch<'_>, it: &Standing) -> Result<(), Fault> {
    b.conn
        .prepare_cached("UPDATE run SET status = ?2, ended_ms = ?3, version = version + 1 WHERE id = ?1")?
        .execute(params![it.row, Status::Cancelled.as_str(), sql(b.now())])?;
    if it.front {
        return hand_on(b, it.session, it.row);
    }
    b.conn.prepare_cached("DELETE FROM queue WHERE run = ?1")?.execute([it.row])?;
    Ok(())
}
