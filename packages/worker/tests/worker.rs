//! What a worker does with its leaves: how many, for how long, and what becomes of those that cannot go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::oneshot;
use torpor_core::clock::SystemClock;
use torpor_core::dead_letter::{Filter, LetterStore as _};
use torpor_core::id::{RunId, WorkerId};
use torpor_core::log::SessionLog as _;
use torpor_core::message::Assistant;
use torpor_core::model::{self, Delta, ModelClient, Prepared, Ref, Request};
use torpor_core::outcome::{FailReason, Outcome, Status};
use torpor_core::queue::WorkQueue as _;
use torpor_core::run::{Record, RunStore as _};
use torpor_harness::{Deps, Settings};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::fakes::{FakeHands, FakeModel, FakeSandbox, Said, calls};
use torpor_testkit::sample::{created, first};
use torpor_worker::{Config, Worker};

const LIMIT: Duration = Duration::from_secs(20);

struct Rig {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    hands: Arc<FakeHands>,
    deps: Deps,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

fn rig(models: Arc<dyn ModelClient>, lease: Duration) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), Options { lease, ..Options::default() }).unwrap());
    let hands = FakeHands::start();
    let deps = Deps {
        observer: Arc::new(torpor_core::observe::Nobody),
        log: store.clone(),
        models,
        sandboxes: Some(Arc::new(FakeSandbox(hands.clone()))),
        volume: None,
        live: Default::default(),
        clock: Arc::new(SystemClock),
        settings: Arc::new(Settings::new(Ref::parse("fake/model").unwrap())),
    };
    Rig { _dir: dir, store, hands, deps, stop: None, running: None }
}

fn hang() -> Vec<Said> {
    vec![Ok(calls(&[("bash", json!({"command": "hang"}))]))]
}

impl Rig {
    fn work(&mut self, config: Config) -> Worker {
        let worker = Worker::new(self.deps.clone(), self.store.clone(), WorkerId::generate("w"), config);
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        let shutdown = async {
            let _ = stopped.await;
        };
        let running = worker.clone();
        self.running = Some(tokio::spawn(async move { running.run(shutdown).await }));
        worker
    }

    async fn drained(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(LIMIT, self.running.take().unwrap()).await.unwrap().unwrap();
    }

    async fn submit(&self) -> RunId {
        let new = first(RunId::generate().as_str());
        created(self.store.enqueue(new).await.unwrap()).run_id
    }

    /// The record once `wanted` holds of it.
    async fn until(&self, run: &RunId, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut seen = 0;
        loop {
            let record = self.store.wait(run, seen, LIMIT).await.unwrap().unwrap();
            if wanted(&record) {
                return record;
            }
            assert!(record.version > seen, "nothing happened for {LIMIT:?}: {record:?}");
            seen = record.version;
        }
    }

    async fn commands_begun(&self, n: usize) {
        let begun = async {
            while self.hands.ran().len() < n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, begun).await.unwrap();
    }
}

fn quick(concurrency: usize) -> Config {
    Config { concurrency, lease: Duration::from_millis(300), drain: Duration::ZERO, ..Config::default() }
}

/// Counts how many calls are open at once, and lets each end after a moment.
#[derive(Default)]
struct Crowd {
    open: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl ModelClient for Crowd {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, model::Error> {
        let body = bytes::Bytes::from_static(b"{}");
        Ok(Prepared {
            model: request.model.clone(),
            fingerprint: "f".into(),
            body,
            estimate: 1,
            room: u64::MAX,
            trace: None,
        })
    }

    async fn send(&self, _: &Prepared, _: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, model::Error> {
        self.most.fetch_max(self.open.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.open.fetch_sub(1, SeqCst);
        Ok(torpor_testkit::fakes::says("done"))
    }
}

#[tokio::test]
async fn no_more_leaves_run_than_it_may() {
    let crowd = Arc::new(Crowd::default());
    let mut rig = rig(crowd.clone(), Duration::from_secs(3));
    let runs = futures::future::join_all((0..12).map(|_| rig.submit())).await;
    let worker = rig.work(quick(3));
    for run in &runs {
        rig.until(run, |r| r.status.is_terminal()).await;
    }
    assert_eq!(crowd.most.load(SeqCst), 3);
    rig.drained().await;
    assert!(worker.reserve().is_none(), "a drained worker has no room");
}

#[tokio::test]
async fn room_that_was_reserved_is_not_given_away() {
    let rig = rig(FakeModel::new(hang()), Duration::from_secs(3));
    let worker = Worker::new(rig.deps.clone(), rig.store.clone(), WorkerId::generate("w"), quick(2));
    let (first, second) = (worker.reserve().unwrap(), worker.reserve().unwrap());
    assert!(worker.reserve().is_none());
    drop(first);
    assert!(worker.reserve().is_some());
    drop(second);
}

#[tokio::test]
async fn heartbeats_keep_a_lease_for_as_long_as_its_command_runs() {
    let mut rig = rig(FakeModel::new(hang()), Duration::from_millis(300));
    let run = rig.submit().await;
    rig.work(quick(2));
    rig.commands_begun(1).await;
    tokio::time::sleep(Duration::from_millis(1200)).await; // four leases: time itself is what is tested
    let record = rig.until(&run, |_| true).await;
    assert_eq!((record.attempts, rig.hands.ran().len()), (1, 1));
    rig.drained().await;
}

#[tokio::test]
async fn draining_hands_back_and_the_next_worker_goes_on() {
    let mut rig = rig(FakeModel::new(hang()), Duration::from_secs(60));
    let run = rig.submit().await;
    rig.work(quick(2));
    rig.commands_begun(1).await;
    rig.drained().await;
    let record = rig.until(&run, |r| r.status == Status::Queued).await;
    assert_eq!(record.attempts, 0, "a hand-back burns no attempt");
    rig.work(quick(2));
    let record = rig.until(&run, |r| r.status == Status::Running).await;
    assert_eq!(record.attempts, 1);
    rig.drained().await;
    assert_eq!(rig.hands.ran().len(), 1);
}

/// A model client with a bug.
struct Broken;

#[async_trait]
impl ModelClient for Broken {
    fn prepare(&self, _: &Request<'_>) -> Result<Prepared, model::Error> {
        panic!("a bug, on purpose");
    }

    async fn send(&self, _: &Prepared, _: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, model::Error> {
        Err(model::Error::new(model::Retry::Never, "never reached"))
    }
}

#[tokio::test]
async fn a_leaf_that_breaks_every_time_is_given_up_and_stops_nobody() {
    let mut rig = rig(Arc::new(Broken), Duration::from_secs(3));
    let run = rig.submit().await;
    rig.work(Config { max_attempts: 1, ..quick(2) });
    let record = rig.until(&run, |r| r.status.is_terminal()).await;
    let Some(Outcome::Failed { reason, message }) = &record.outcome else { panic!("{record:?}") };
    assert_eq!((*reason, message.as_str()), (FailReason::DeadLetter, "given up after 1 attempts without progress"));
    rig.drained().await;
    let letters = rig.store.letters(&Filter { limit: 10, ..Filter::default() }).await.unwrap().letters;
    assert_eq!(letters.iter().map(|l| &l.run).collect::<Vec<_>>(), [&run]);
    assert_eq!(rig.store.open(&record.session).await.unwrap().unwrap().tail.len(), 1, "only its end");
}

#[tokio::test]
async fn a_cancel_reaches_the_leaf_wherever_it_is() {
    let mut rig = rig(FakeModel::new(hang()), Duration::from_secs(60));
    let run = rig.submit().await;
    rig.work(quick(2));
    rig.commands_begun(1).await;
    rig.store.cancel(&run).await.unwrap();
    let record = rig.until(&run, |r| r.status.is_terminal()).await;
    assert_eq!((record.status, rig.hands.cancelled().len()), (Status::Cancelled, 1));
    rig.drained().await;
}
