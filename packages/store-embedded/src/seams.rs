//! The seams of the core, in terms of commands for the writer and jobs for the readers.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use torpor_core::entry::Entry;
use torpor_core::gate::{self, Decide, Decided, GateStore};
use torpor_core::log::{Append, AppendError, Opened, SessionLog};
use torpor_core::queue::{Backlog, Cancelled, Enqueued, Lease, LeaseKey, NewRun, Release, WorkQueue};
use torpor_core::run::{Filter, Page, Record, RunStore};
use torpor_core::{Position, RunId, SessionKey, Timestamp, WorkerId, store};

use crate::append::Encoded;
use crate::claim::Claimed;
use crate::enqueue::Accepted;
use crate::{Store, append, cancel, claim, enqueue, gates, letters, record};

/// Records that one commit of a sweep removes, so that a long sweep delays nobody.
const SWEEP_BATCH: u32 = 500;

/// The instant so long before now, if there was one.
fn before(now: Timestamp, ttl: Duration) -> Option<Timestamp> {
    u64::try_from(ttl.as_millis()).ok().and_then(|ttl| now.0.checked_sub(ttl)).map(Timestamp)
}

/// Whoever was woken to look must look, or wake another: dropped in the middle, it passes the wake-up on.
struct Baton<'a>(Option<&'a Notify>);

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        if let Some(ready) = self.0 {
            ready.notify_one();
        }
    }
}

#[async_trait]
impl SessionLog for Store {
    async fn append(&self, append: Append) -> Result<Position, AppendError> {
        let encoded = Encoded::new(append)?;
        self.writer.write(move |b| append::append(b, &encoded)).await?
    }

    async fn open(&self, session: &SessionKey) -> Result<Option<Opened>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| append::open(conn, &session)).await
    }

    async fn wait_beyond(
        &self,
        session: &SessionKey,
        after: Position,
        max: Duration,
    ) -> Result<Position, store::Error> {
        // Subscribing comes before reading, so that no append falls between the two.
        let mut growth = self.signals.readers.subscribe(session);
        let key = session.clone();
        let head = self.readers.read(move |conn| append::head(conn, &key)).await?;
        if head > after {
            return Ok(head);
        }
        tokio::select! {
            head = growth.beyond(after.0) => Ok(Position(head)),
            () = self.clock.sleep(max) => Ok(head),
        }
    }

    async fn read(&self, session: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| append::read(conn, &session, from, limit)).await
    }
}

#[async_trait]
impl WorkQueue for Store {
    async fn enqueue(&self, new: NewRun) -> Result<Enqueued, store::Error> {
        let accepted = Accepted::new(new)?;
        self.writer.write(move |b| enqueue::enqueue(b, accepted)).await
    }

    async fn claim(&self, worker: &WorkerId, max: usize, wait: Duration) -> Result<Vec<Lease>, store::Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = self.clock.now().after(wait);
        let mut due = self.signals.due.subscribe();
        loop {
            // Listening starts before looking, so that nothing that becomes ready in between is missed.
            let mut ready = pin!(self.signals.ready.notified());
            ready.as_mut().enable();
            let mut baton = Baton(Some(&self.signals.ready));
            let worker = worker.clone();
            let Claimed { leases, more } = self.writer.write(move |b| claim::claim(b, &worker, max)).await?;
            if !more {
                baton.0 = None;
            }
            drop(baton);
            if !leases.is_empty() {
                return Ok(leases);
            }
            if more {
                continue; // what it found it had to set aside
            }
            loop {
                let now = self.clock.now();
                if now >= deadline {
                    return Ok(Vec::new());
                }
                let wake = Timestamp(*due.borrow_and_update());
                if wake <= now {
                    break;
                }
                tokio::select! {
                    () = &mut ready => break,
                    _ = due.changed() => {}
                    () = self.clock.sleep(wake.min(deadline).since(now)) => {}
                }
            }
        }
    }

    async fn heartbeat(&self, worker: &WorkerId, leases: &[LeaseKey]) -> Result<Vec<LeaseKey>, store::Error> {
        let (worker, leases) = (worker.clone(), leases.to_vec());
        self.writer.write(move |b| claim::heartbeat(b, &worker, &leases)).await
    }

    async fn release(&self, lease: &LeaseKey, why: Release) -> Result<bool, store::Error> {
        let lease = lease.clone();
        self.writer.write(move |b| claim::release(b, &lease, why)).await
    }

    async fn cancel(&self, run: &RunId) -> Result<Cancelled, store::Error> {
        let run = run.clone();
        self.writer.write(move |b| cancel::cancel(b, &run)).await
    }

    async fn to_cancel(&self, worker: &WorkerId, wait: Duration) -> Result<Vec<LeaseKey>, store::Error> {
        tokio::select! {
            keys = self.signals.told.next(worker) => Ok(keys),
            () = self.clock.sleep(wait) => Ok(Vec::new()),
        }
    }

    async fn dead_letter(&self, run: &RunId, reason: &str) -> Result<(), store::Error> {
        let (run, reason) = (run.clone(), reason.to_owned());
        self.writer.write(move |b| letters::note(b, run.as_str(), &reason)).await
    }

    async fn backlog(&self) -> Result<Backlog, store::Error> {
        self.writer.write(|b| claim::backlog(b)).await
    }
}

#[async_trait]
impl RunStore for Store {
    async fn get(&self, run: &RunId) -> Result<Option<Record>, store::Error> {
        let run = run.clone();
        self.readers.read(move |conn| record::by_run_id(conn, &run)).await
    }

    async fn latest(&self, session: &SessionKey) -> Result<Option<Record>, store::Error> {
        let session = session.clone();
        self.readers.read(move |conn| record::latest(conn, &session)).await
    }

    async fn list(&self, filter: &Filter) -> Result<Page, store::Error> {
        let filter = filter.clone();
        self.readers.read(move |conn| record::list(conn, &filter)).await
    }

    async fn wait(&self, run: &RunId, seen: u64, max: Duration) -> Result<Option<Record>, store::Error> {
        // Subscribing comes before reading, so that no change falls between the two.
        let mut changes = self.signals.waiters.subscribe(run);
        let current = self.get(run).await?;
        if current.as_ref().is_none_or(|r| r.version > seen) {
            return Ok(current);
        }
        tokio::select! {
            record = changes.newer_than(seen) => Ok(Some((*record).clone())),
            () = self.clock.sleep(max) => self.get(run).await,
        }
    }

    async fn ping(&self) -> Result<(), store::Error> {
        self.writer.write(|_| Ok(())).await
    }

    async fn sweep(&self) -> Result<u64, store::Error> {
        let mut removed = 0;
        self.sweep_up().await;
        let most = self.keep.letters;
        self.writer.write(move |b| letters::keep_at_most(b, most)).await?;
        let now = self.clock.now();
        let Some(ended_by) = before(now, self.keep.records) else { return Ok(0) };
        let dead_by = before(now, self.keep.letters_for).unwrap_or_default();
        loop {
            let batch = self.writer.write(move |b| claim::sweep(b, ended_by, dead_by, SWEEP_BATCH)).await?;
            removed += batch;
            if batch < u64::from(SWEEP_BATCH) {
                return Ok(removed);
            }
        }
    }
}

#[async_trait]
impl GateStore for Store {
    async fn decide(&self, decide: Decide) -> Result<Decided, store::Error> {
        self.writer.write(move |b| gates::decide(b, decide)).await
    }

    async fn gates(&self, filter: &gate::Filter) -> Result<gate::Page, store::Error> {
        let filter = filter.clone();
        self.readers.read(move |conn| gates::list(conn, &filter)).await
    }
}
