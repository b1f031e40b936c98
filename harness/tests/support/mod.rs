//! What the tests of the loop stand on: the embedded store, fake hands, a fake model, a store clock that is turned
//! by hand so that leases lapse when a test says so.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper module: each test file uses its part"
)]

use std::sync::Arc;
use std::time::Duration;

use torpor_core::clock::{SystemClock, Timestamp};
use torpor_core::entry::Entry;
use torpor_core::envelope::{Budget, Item, Spec, Work};
use torpor_core::id::{Position, RunId, SessionKey, WorkerId};
use torpor_core::log::SessionLog;
use torpor_core::model::{ModelClient, Ref};
use torpor_core::queue::{Expects, Lease, NewRun, WorkQueue};
use torpor_core::run::{Record, RunStore};
use torpor_core::sandbox::SandboxTransport;
use torpor_core::volume::Volume;
use torpor_harness::{Deps, LeafEnd, RetryPolicy, Settings, Stop, run_leaf};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::crash::{Fuse, Fused};
use torpor_testkit::fakes::{FakeHands, FakeModel, FakeSandbox, Said};
use torpor_testkit::history::{self, Facts};
use torpor_testkit::sample::{created, first};

pub const LEASE: Duration = Duration::from_secs(3);

pub struct Rig {
    _dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub store: Arc<Store>,
    pub hands: Arc<FakeHands>,
    pub model: Arc<FakeModel>,
    pub deps: Deps,
}

pub fn rig(steps: Vec<Said>) -> Rig {
    rig_with(FakeModel::new(steps))
}

pub fn rig_with(model: Arc<FakeModel>) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let options = Options { lease: LEASE, clock: clock.clone(), ..Options::default() };
    let store = Arc::new(Store::open(dir.path(), options).unwrap());
    let hands = FakeHands::start();
    let mut settings = Settings::new(Ref::parse("fake/model").unwrap());
    settings.retry = RetryPolicy { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(5) };
    let deps = Deps {
        observer: Arc::new(torpor_core::observe::Nobody),
        log: store.clone(),
        models: model.clone(),
        sandboxes: Some(Arc::new(FakeSandbox(hands.clone()))),
        volume: None,
        live: Default::default(),
        clock: Arc::new(SystemClock),
        settings: Arc::new(settings),
    };
    Rig { _dir: dir, clock, store, hands, model, deps }
}

pub fn review() -> Spec {
    let item = Item { item_id: "i1".into(), file: "a.rs".into(), pattern: "unsafe".into(), require_approval: false };
    Spec { work: Work::Review { item }, ..Spec::prompt("") }
}

pub fn with_budget(budget: Budget) -> Spec {
    Spec { budget, ..Spec::prompt("go") }
}

impl Rig {
    /// Accepts a first run of a session of its own.
    pub async fn submit(&self, spec: Spec) -> RunId {
        let run = RunId::generate();
        self.submit_to(run.as_str(), spec, Expects::New).await
    }

    pub async fn submit_to(&self, session: &str, spec: Spec, expects: Expects) -> RunId {
        let new = NewRun { spec, expects, ..first(session) };
        created(self.store.enqueue(new).await.unwrap()).run_id
    }

    pub async fn claim(&self) -> Lease {
        let mut leases = self.store.claim(&WorkerId::generate("t"), 1, Duration::from_secs(5)).await.unwrap();
        leases.pop().expect("something to claim")
    }

    /// As if the owner had died: its lease lapses.
    pub fn lapse(&self) {
        self.clock.advance(LEASE + Duration::from_millis(1));
    }

    pub async fn run(&self, lease: Lease) -> LeafEnd {
        let (_handle, stop) = Stop::new();
        run_leaf(&self.deps, lease, stop).await
    }

    /// Submits, claims, runs, and gives the record.
    pub async fn go(&self, spec: Spec) -> Record {
        let run = self.submit(spec).await;
        let lease = self.claim().await;
        let end = self.run(lease).await;
        assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
        self.record(&run).await
    }

    pub async fn record(&self, run: &RunId) -> Record {
        self.store.get(run).await.unwrap().unwrap()
    }

    pub async fn log(&self, session: &SessionKey) -> Vec<Entry> {
        self.store.read(session, Position(1), 10_000).await.unwrap()
    }

    /// The same parts behind a fuse.
    pub fn fused(&self, fuse: &Arc<Fuse>) -> Deps {
        let log: Arc<dyn SessionLog> = self.deps.log.clone();
        let models: Arc<dyn ModelClient> = self.deps.models.clone();
        let sandboxes: Option<Arc<dyn SandboxTransport>> = self.deps.sandboxes.clone();
        Deps {
            observer: Arc::new(torpor_core::observe::Nobody),
            log: Fused::new(log, fuse),
            models: Fused::new(models, fuse),
            volume: self.deps.volume.clone().map(|v| Fused::new(v, fuse) as Arc<dyn Volume>),
            sandboxes: sandboxes.map(|s| Fused::new(s, fuse) as Arc<dyn SandboxTransport>),
            ..self.deps.clone()
        }
    }
}

/// What must hold of every log, whatever happened.
pub fn check_log(log: &[Entry]) -> Facts {
    history::check(log).unwrap_or_else(|wrong| panic!("{wrong}: {log:#?}"))
}
