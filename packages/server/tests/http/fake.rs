//! A store and a worker in memory, as small as the seams allow: what a run does is said by its prompt.
//!
//! `wait…` runs until it is released, `fail…` fails, `panic…` makes the store panic at submit; anything else is
//! answered with `echo: <prompt>`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;
use torpor_core::entry::Entry;
use torpor_core::entry::RunTotals;
use torpor_core::envelope::Work;
use torpor_core::gate::{self, Decide, Decided, GateStore};
use torpor_core::log::{Append, AppendError, Head, Opened, SessionLog};
use torpor_core::message::Usage;
use torpor_core::outcome::{FailReason, Finding, Outcome, Status, Verdict};
use torpor_core::queue::{Backlog, Cancelled, Enqueued, Expects, Lease, LeaseKey, NewRun, Release, WorkQueue};
use torpor_core::run::{Filter, Page, Record, RunStore};
use torpor_core::{Epoch, Position, RunId, SessionKey, SystemClock, Timestamp, WorkerId, model, store};
use torpor_harness::Settings;
use torpor_server::{App, Check, LocalWorker, Room};
use torpor_testkit::fakes::{FakeHands, FakeKeys, FakeSandbox};

use crate::client::PATIENCE;

mod letters;
mod sessions;

/// When every run of the fake was accepted, plus its number in milliseconds.
pub(crate) const EPOCH: Timestamp = Timestamp(1_795_132_800_000);

#[derive(Default)]
struct Inner {
    runs: Vec<Record>,
    keys: HashMap<(String, String), (String, RunId)>,
    waits: HashMap<RunId, bool>,
}

pub(crate) struct Fake {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    pub(crate) keys: Arc<FakeKeys>,
    /// Makes every call fail.
    pub(crate) down: AtomicBool,
    /// Makes `enqueue` take until it is set back.
    pub(crate) slow: watch::Sender<bool>,
    /// Whether the local worker has room.
    pub(crate) room: AtomicBool,
    /// Leases handed to the local worker.
    pub(crate) taken: AtomicUsize,
}

/// A page of metrics that says what it was given.
struct Counts;

impl torpor_server::Scrape for Counts {
    fn content_type(&self) -> &'static str {
        "text/plain"
    }

    fn text(&self, backlog: Option<Backlog>) -> String {
        format!("{backlog:?}")
    }
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            keys: FakeKeys::new(),
            changed: watch::Sender::new(0),
            down: AtomicBool::new(false),
            slow: watch::Sender::new(false),
            room: AtomicBool::new(true),
            taken: AtomicUsize::new(0),
        })
    }

    pub(crate) fn app(self: &Arc<Self>) -> App {
        App {
            queue: Arc::clone(self) as _,
            log: Arc::clone(self) as _,
            gates: Arc::clone(self) as _,
            sessions: Arc::clone(self) as _,
            letters: Arc::clone(self) as _,
            live: Default::default(),
            runs: Arc::clone(self) as _,
            keys: self.keys.clone(),
            owner: None,
            settings: Arc::new(Settings::new(model::Ref::parse("anthropic/claude-x").unwrap())),
            sandbox: Some(Arc::new(FakeSandbox(FakeHands::start()))),
            webhooks: None,
            schedules: None,
            volume: None,
            local: Some(Arc::new(Local(Arc::clone(self)))),
            checks: Vec::new(),
            observer: Arc::new(torpor_core::observe::Nobody),
            metrics: Some(Arc::new(Counts)),
            clock: Arc::new(SystemClock),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<(), store::Error> {
        if self.down.load(SeqCst) {
            return Err(store::Error::Unavailable("redis://user:secret@host refused the connection".into()));
        }
        Ok(())
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.lock().runs.clone()
    }

    /// Waits until `n` runs were accepted.
    pub(crate) async fn accepted(&self, n: usize) {
        let mut changed = self.changed.subscribe();
        let enough = changed.wait_for(|_| self.lock().runs.len() >= n);
        drop(timeout(PATIENCE, enough).await.expect("no run was accepted"));
    }

    /// Ends every run that waits to be released, and those to come.
    pub(crate) fn release(&self) {
        let waiting: Vec<RunId> = self.lock().waits.drain().map(|(id, _)| id).collect();
        for id in waiting {
            self.finish(&id);
        }
    }

    fn start(&self, id: &RunId) {
        let prompt = {
            let mut inner = self.lock();
            let Some(r) = inner.runs.iter_mut().find(|r| r.run_id == *id) else { return };
            r.status = Status::Running;
            r.started_at = Some(r.created_at.after(Duration::from_millis(1)));
            r.attempts = 1;
            r.version += 1;
            let waits = matches!(&r.spec.work, Work::Prompt { prompt } if prompt.starts_with("wait"));
            if waits {
                inner.waits.insert(id.clone(), true);
            }
            waits
        };
        self.note();
        if !prompt {
            self.finish(id);
        }
    }

    fn finish(&self, id: &RunId) {
        let next = {
            let mut inner = self.lock();
            let Some(r) = inner.runs.iter_mut().find(|r| r.run_id == *id) else { return };
            let outcome = match &r.spec.work {
                Work::Review { item } => Outcome::Done {
                    verdict: Some(Verdict {
                        item_id: item.item_id.clone(),
                        verdict: Finding::Flagged,
                        reason: "seen".into(),
                    }),
                    result: None,
                    response: None,
                    stop_reason: None,
                },
                Work::Inputs { inputs } => {
                    Outcome::failed(FailReason::BadInputs, format!("not read: {}", inputs.path.display()))
                }
                Work::Prompt { prompt } if prompt.starts_with("fail") => {
                    Outcome::failed(FailReason::Model, "the model kept failing")
                }
                Work::Prompt { prompt } => Outcome::Done {
                    verdict: None,
                    result: None,
                    response: Some(format!("echo: {prompt}")),
                    stop_reason: Some("end_turn".into()),
                },
            };
            r.status = outcome.status();
            r.outcome = Some(outcome);
            r.ended_at = Some(r.created_at.after(Duration::from_millis(2)));
            let usage = Usage { input: 10, output: 5, cache_read: 3, cache_write: 2 };
            r.spent = RunTotals { turns: 1, usage, ..RunTotals::default() };
            r.version += 1;
            let session = r.session.clone();
            inner.runs.iter().find(|r| r.session == session && r.status == Status::Queued).map(|r| r.run_id.clone())
        };
        self.note();
        if let Some(next) = next {
            self.start(&next);
        }
    }

    fn note(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

pub(crate) struct Local(Arc<Fake>);

impl LocalWorker for Local {
    fn id(&self) -> WorkerId {
        "local".into()
    }

    fn reserve(&self) -> Option<Box<dyn Room>> {
        self.0.room.load(SeqCst).then(|| Box::new(RoomForOne(Arc::clone(&self.0))) as Box<dyn Room>)
    }
}

struct RoomForOne(Arc<Fake>);

impl Room for RoomForOne {
    fn take(self: Box<Self>, lease: Lease) {
        self.0.taken.fetch_add(1, SeqCst);
        self.0.start(&lease.record.run_id);
    }
}

/// Logs are tested with the real store; here nobody writes one.
#[async_trait]
impl SessionLog for Fake {
    async fn append(&self, append: Append) -> Result<Position, AppendError> {
        Err(AppendError::Fenced { mine: append.epoch, current: Epoch(0) })
    }

    async fn open(&self, _: &SessionKey) -> Result<Option<Opened>, store::Error> {
        Ok(None)
    }

    async fn read(&self, _: &SessionKey, _: Position, _: usize) -> Result<Vec<Entry>, store::Error> {
        Ok(Vec::new())
    }

    async fn wait_beyond(&self, _: &SessionKey, _: Position, max: Duration) -> Result<Position, store::Error> {
        if max.is_zero() {
            return Ok(Position(0));
        }
        std::future::pending().await
    }
}

/// Gates are tested with the real store; here every run has one that was decided before, as it is asked.
#[async_trait]
impl GateStore for Fake {
    async fn decide(&self, decide: Decide) -> Result<Decided, store::Error> {
        let record = self.get(&decide.run).await?;
        Ok(record.map_or(Decided::Unknown, |r| Decided::Repeated { gate: 0, record: Box::new(r) }))
    }

    async fn gates(&self, _: &gate::Filter) -> Result<gate::Page, store::Error> {
        self.up()?;
        Ok(gate::Page { gates: Vec::new(), next: None })
    }
}

#[async_trait]
impl WorkQueue for Fake {
    async fn enqueue(&self, new: NewRun) -> Result<Enqueued, store::Error> {
        self.slow.subscribe().wait_for(|slow| !slow).await.unwrap();
        self.up()?;
        assert!(!matches!(&new.spec.work, Work::Prompt { prompt } if prompt.starts_with("panic")), "told to");
        let (record, claimed) = {
            let mut inner = self.lock();
            let key = new.idempotency.as_ref().map(|i| (new.session.tenant().to_owned(), i.key.clone()));
            if let Some((hash, id)) = key.as_ref().and_then(|k| inner.keys.get(k)) {
                if Some(hash) != new.idempotency.as_ref().map(|i| &i.body_hash) {
                    return Ok(Enqueued::Conflict);
                }
                let record = inner.runs.iter().find(|r| r.run_id == *id).cloned().unwrap();
                return Ok(Enqueued::Existing(Box::new(record)));
            }
            let exists = inner.runs.iter().any(|r| r.session == new.session);
            match new.expects {
                Expects::New if exists => return Ok(Enqueued::Conflict),
                Expects::Existing | Expects::Ungated if !exists => return Ok(Enqueued::NoSession),
                _ => {}
            }
            let busy = inner.runs.iter().any(|r| r.session == new.session && !r.status.is_terminal());
            let record = Record {
                run_id: new.run_id.clone(),
                session: new.session,
                spec: new.spec,
                status: Status::Queued,
                outcome: None,
                spent: RunTotals::default(),
                attempts: 0,
                created_at: EPOCH.after(Duration::from_millis(inner.runs.len() as u64)),
                started_at: None,
                ended_at: None,
                log_from: None,
                trace: new.trace,
                gates: Vec::new(),
                webhook: None,
                files: None,
                redrive_of: None,
                redriven_as: None,
                version: 1,
            };
            if let (Some(key), Some(i)) = (key, new.idempotency) {
                inner.keys.insert(key, (i.body_hash, new.run_id));
            }
            inner.runs.push(record.clone());
            (record, new.claim_for.filter(|_| !busy))
        };
        self.note();
        Ok(match claimed {
            Some(worker) => {
                let lease = Lease {
                    record,
                    epoch: Epoch(1),
                    born: Epoch(0),
                    worker,
                    head: Head::default(),
                    attempt: 1,
                    cancel: false,
                };
                Enqueued::Claimed(Box::new(lease))
            }
            None => Enqueued::Created(Box::new(record)),
        })
    }

    async fn claim(&self, _: &WorkerId, _: usize, _: Duration) -> Result<Vec<Lease>, store::Error> {
        Ok(Vec::new())
    }

    async fn heartbeat(&self, _: &WorkerId, _: &[LeaseKey]) -> Result<Vec<LeaseKey>, store::Error> {
        Ok(Vec::new())
    }

    async fn release(&self, _: &LeaseKey, _: Release) -> Result<bool, store::Error> {
        Ok(false)
    }

    async fn dead_letter(&self, _: &RunId, _: &str) -> Result<(), store::Error> {
        Ok(())
    }

    async fn cancel(&self, run: &RunId) -> Result<Cancelled, store::Error> {
        self.up()?;
        let Some(record) = self.records().into_iter().find(|r| r.run_id == *run) else {
            return Ok(Cancelled::Unknown);
        };
        if record.status.is_terminal() {
            return Ok(Cancelled::Ended(Box::new(record)));
        }
        self.release();
        Ok(Cancelled::Asked(Box::new(record)))
    }

    async fn to_cancel(&self, _: &WorkerId, _: Duration) -> Result<Vec<LeaseKey>, store::Error> {
        std::future::pending().await
    }

    async fn backlog(&self) -> Result<Backlog, store::Error> {
        self.up()?;
        Ok(Backlog::default())
    }
}

#[async_trait]
impl RunStore for Fake {
    async fn get(&self, run: &RunId) -> Result<Option<Record>, store::Error> {
        self.up()?;
        Ok(self.lock().runs.iter().find(|r| r.run_id == *run).cloned())
    }

    async fn latest(&self, session: &SessionKey) -> Result<Option<Record>, store::Error> {
        self.up()?;
        Ok(self.lock().runs.iter().rev().find(|r| r.session == *session).cloned())
    }

    async fn list(&self, filter: &Filter) -> Result<Page, store::Error> {
        self.up()?;
        let before = match filter.cursor.as_deref().map(str::parse::<usize>) {
            Some(Err(_)) => return Err(store::Error::Failed("not a cursor of this store".into())),
            Some(Ok(n)) => n,
            None => usize::MAX,
        };
        let inner = self.lock();
        let mut found = inner.runs.iter().enumerate().rev().filter(|(i, r)| {
            *i < before
                && filter.tenant.as_deref().is_none_or(|t| t == r.session.tenant())
                && filter.status.is_none_or(|s| s == r.status)
                && filter.created_after.is_none_or(|t| r.created_at > t)
        });
        let page: Vec<_> = found.by_ref().take(filter.limit).collect();
        let next = found.next().and_then(|_| page.last()).map(|(i, _)| i.to_string());
        Ok(Page { runs: page.into_iter().map(|(_, r)| r.clone()).collect(), next })
    }

    async fn wait(&self, run: &RunId, seen: u64, max: Duration) -> Result<Option<Record>, store::Error> {
        let mut changed = self.changed.subscribe();
        let newer = changed.wait_for(|_| {
            self.down.load(SeqCst) || self.lock().runs.iter().any(|r| r.run_id == *run && r.version > seen)
        });
        let _ = timeout(max, newer).await;
        self.get(run).await
    }

    async fn ping(&self) -> Result<(), store::Error> {
        self.up()
    }

    async fn sweep(&self) -> Result<u64, store::Error> {
        Ok(0)
    }
}

impl Fake {
    /// Takes the store down, or up again, in front of those who wait.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, SeqCst);
        self.note();
    }
}

/// A dependency that is as it is told to be.
pub(crate) struct Dependency(pub(crate) AtomicBool);

#[async_trait]
impl Check for Dependency {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn check(&self) -> Result<String, String> {
        if self.0.load(SeqCst) { Ok("answers".into()) } else { Err("has no key".into()) }
    }
}
