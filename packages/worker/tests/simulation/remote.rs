//! The store as one process reaches it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use torpor_core::entry::Entry;
use torpor_core::gate::{self, Decide, Decided, GateStore as _};
use torpor_core::log::{Append, AppendError, Opened, SessionLog};
use torpor_core::queue::{Backlog, Cancelled, Enqueued, Lease, LeaseKey, NewRun, Release, WorkQueue};
use torpor_core::run::RunStore as _;
use torpor_core::{Position, RunId, SessionKey, WorkerId, store};
use torpor_store_embedded::Store;

use crate::net::{Process, Tower, block};

/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(150);

/// See the module's page. Clones are the same process.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) process: Arc<Process>,
    pub(crate) store: Arc<Store>,
    pub(crate) tower: Arc<Tower>,
}

impl Remote {
    /// One step of the store, over the network.
    async fn ask<T: Send + 'static, F: Future<Output = T> + Send>(
        &self,
        what: &str,
        step: impl FnOnce(Arc<Store>) -> F + Send + 'static,
    ) -> Result<T, store::Error> {
        let (store, tower, sky) = (self.store.clone(), self.tower.clone(), self.process.sky.clone());
        let step = move || {
            tower.0.store(sky.now(), Ordering::SeqCst);
            block(async {
                // Its thread tells the news of a step behind its answer: another step is done once that is over.
                store.ping().await.unwrap();
                step(store.clone()).await
            })
        };
        self.process.request(what, step).await
    }

    pub(crate) async fn decide(&self, decide: Decide) -> Result<Decided, store::Error> {
        let what = format!("decide {} {:?}", decide.run, decide.gate);
        self.ask(&what, |s| async move { s.decide(decide).await }).await?
    }

    pub(crate) async fn gates(&self, filter: gate::Filter) -> Result<gate::Page, store::Error> {
        self.ask("gates", |s| async move { s.gates(&filter).await }).await?
    }
}

#[async_trait]
impl SessionLog for Remote {
    async fn append(&self, append: Append) -> Result<Position, AppendError> {
        let kinds: Vec<_> = append.bodies.iter().map(kind).collect();
        let what = format!("append {} @{} {kinds:?}", append.session.session(), append.epoch);
        let (noted, after) = (format!("{} {what}", self.process.name), append.after);
        let sky = self.process.sky.clone();
        let appended = self.ask(&what, move |s| async move {
            let answer = s.append(append).await;
            sky.note(format_args!("{noted} after {after}: {answer:?}"));
            answer
        });
        appended.await?
    }

    async fn open(&self, session: &SessionKey) -> Result<Option<Opened>, store::Error> {
        let key = session.clone();
        self.ask(&format!("open {}", session.session()), |s| async move { s.open(&key).await }).await?
    }

    async fn wait_beyond(&self, session: &SessionKey, after: Position, _: Duration) -> Result<Position, store::Error> {
        let key = session.clone();
        self.ask("wait", move |s| async move { s.wait_beyond(&key, after, Duration::ZERO).await }).await?
    }

    async fn read(&self, session: &SessionKey, from: Position, limit: usize) -> Result<Vec<Entry>, store::Error> {
        let key = session.clone();
        self.ask(&format!("read {}", session.session()), move |s| async move { s.read(&key, from, limit).await })
            .await?
    }
}

#[async_trait]
impl WorkQueue for Remote {
    async fn enqueue(&self, new: NewRun) -> Result<Enqueued, store::Error> {
        self.ask(&format!("enqueue {}", new.run_id), |s| async move { s.enqueue(new).await }).await?
    }

    async fn claim(&self, worker: &WorkerId, max: usize, wait: Duration) -> Result<Vec<Lease>, store::Error> {
        let until = Instant::now() + wait;
        loop {
            let (worker, noted, sky) = (worker.clone(), self.process.name.clone(), self.process.sky.clone());
            let claimed = self.ask("claim", move |s| async move {
                let claimed = s.claim(&worker, max, Duration::ZERO).await;
                for lease in claimed.iter().flatten() {
                    sky.note(format_args!("{noted} claims {} @{}", lease.session().session(), lease.epoch));
                }
                claimed
            });
            let claimed = claimed.await??;
            if !claimed.is_empty() || Instant::now() >= until {
                return Ok(claimed);
            }
            sleep(LOOK).await;
        }
    }

    async fn heartbeat(&self, worker: &WorkerId, leases: &[LeaseKey]) -> Result<Vec<LeaseKey>, store::Error> {
        let (worker, mut leases) = (worker.clone(), leases.to_vec());
        leases.sort_by(|a, b| (&a.run, a.epoch).cmp(&(&b.run, b.epoch))); // they come in no order
        self.ask("heartbeat", |s| async move { s.heartbeat(&worker, &leases).await }).await?
    }

    async fn release(&self, lease: &LeaseKey, why: Release) -> Result<bool, store::Error> {
        let key = lease.clone();
        self.ask(&format!("release {} @{}", lease.run, lease.epoch), move |s| async move { s.release(&key, why).await })
            .await?
    }

    async fn cancel(&self, run: &RunId) -> Result<Cancelled, store::Error> {
        let key = run.clone();
        self.ask(&format!("cancel {run}"), |s| async move { s.cancel(&key).await }).await?
    }

    async fn to_cancel(&self, worker: &WorkerId, wait: Duration) -> Result<Vec<LeaseKey>, store::Error> {
        let until = Instant::now() + wait;
        loop {
            let worker = worker.clone();
            let told = self.ask("to cancel", |s| async move { s.to_cancel(&worker, Duration::ZERO).await }).await??;
            if !told.is_empty() || Instant::now() >= until {
                return Ok(told);
            }
            sleep(LOOK).await;
        }
    }

    async fn dead_letter(&self, run: &RunId, reason: &str) -> Result<(), store::Error> {
        let (run, reason) = (run.clone(), reason.to_owned());
        self.ask("dead letter", |s| async move { s.dead_letter(&run, &reason).await }).await?
    }

    async fn backlog(&self) -> Result<Backlog, store::Error> {
        self.ask("backlog", |s| async move { s.backlog().await }).await?
    }
}

/// The name of an entry in the diary.
fn kind(body: &torpor_core::entry::Body) -> String {
    let text = format!("{body:?}");
    text.split(' ').next().unwrap_or_default().to_owned()
}
