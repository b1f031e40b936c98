//! The brain dies before and after every single step of a multi-tool leaf, with the real hands and the real store; an
//! outside ledger says that each command ran once. And the real hands keep the promises of their seam.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use torpor_core::clock::SystemClock;
use torpor_core::envelope::{Item, Spec, Work};
use torpor_core::id::{RunId, WorkerId};
use torpor_core::log::SessionLog;
use torpor_core::model::{ModelClient, Ref};
use torpor_core::outcome::Outcome;
use torpor_core::queue::{Lease, NewRun, WorkQueue as _};
use torpor_core::run::RunStore as _;
use torpor_core::sandbox::SandboxTransport;
use torpor_hands::Level;
use torpor_harness::{Deps, LeafEnd, Settings, Stop, run_leaf};
use torpor_sandbox_local::{Config, Local};
use torpor_store_embedded::{Options, Store};
use torpor_testkit::clock::ManualClock;
use torpor_testkit::conformance::sandbox::Hands;
use torpor_testkit::crash::{Fuse, Fused};
use torpor_testkit::fakes::{FakeModel, calls};
use torpor_testkit::sample::{created, first};

const LEASE: Duration = Duration::from_secs(3);

/// Local hands with a project folder, both gone when dropped.
struct Place {
    dir: TempDir,
    local: Local,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let config = Config {
        allow: Level::Reduced,
        workspace_roots: vec![project.canonicalize().unwrap()],
        orphan: Duration::from_secs(5),
        ..Config::new(dir.path().join("hands"), PathBuf::from(env!("CARGO_BIN_EXE_torpor")))
    };
    Place { local: Local::new(config).unwrap(), dir }
}

impl Place {
    fn project(&self) -> PathBuf {
        self.dir.path().join("project").canonicalize().unwrap()
    }
}

fn marks(ledger: &Path) -> usize {
    std::fs::read_to_string(ledger).unwrap_or_default().matches('x').count()
}

async fn real_hands() -> Hands {
    let place = place();
    let (ledger, state) = (place.project().join("ledger"), place.dir.path().join("hands"));
    Hands {
        transport: Arc::new(place.local.clone()),
        mark: ("bash".into(), json!({"command": "echo x >> ledger"})),
        linger: ("bash".into(), json!({"command": "echo x >> ledger; sleep 1000"})),
        marks: Box::new(move || marks(&ledger)),
        kill: Box::new(move || Box::pin(kill_daemon(state.clone()))),
        workspace: Some(place.project().to_str().unwrap().to_owned()),
        keep: Box::new(place),
    }
}

/// `kill -9` of the daemon of this state folder; returns when it is gone.
async fn kill_daemon(state: PathBuf) {
    let state = state.canonicalize().unwrap();
    let is_daemon = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(torpor_hands::DAEMON_ARG) && line.contains(state.to_str().unwrap())
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| is_daemon(*pid)).collect::<Vec<i32>>() {
        let handle = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(handle, rustix::process::Signal::KILL).unwrap();
        while is_daemon(pid) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

torpor_testkit::sandbox_conformance!(real_hands);

struct Rig {
    place: Place,
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    deps: Deps,
}

/// Two commands at once, a file, a command that reads it, a verdict. The commands of a session write into its own
/// ledger, named after the session.
fn rig() -> Rig {
    let place = place();
    let clock = Arc::new(ManualClock::default());
    let options = Options { lease: LEASE, clock: clock.clone(), ..Options::default() };
    let store = Arc::new(Store::open(&place.dir.path().join("data"), options).unwrap());
    let model = FakeModel::new(vec![
        Ok(calls(&[
            ("bash", json!({"command": "echo one >> ledger"})),
            ("bash", json!({"command": "echo two >> ledger"})),
            ("write", json!({"path": "script.sh", "content": "echo three >> ledger\n"})),
            ("bash", json!({"command": "sh script.sh; exit 3"})),
        ])),
        Ok(calls(&[("read", json!({"path": "ledger"})), ("edit", edit())])),
        Ok(calls(&[("submit_verdict", json!({"item_id": "i1", "verdict": "CLEAR", "reason": "seen"}))])),
    ]);
    let deps = Deps {
        observer: Arc::new(torpor_core::observe::Nobody),
        log: store.clone(),
        models: model,
        sandboxes: Some(Arc::new(place.local.clone())),
        volume: None,
        live: Default::default(),
        clock: Arc::new(SystemClock),
        settings: Arc::new(Settings::new(Ref::parse("fake/model").unwrap())),
    };
    Rig { place, clock, store, deps }
}

fn edit() -> serde_json::Value {
    json!({"path": "script.sh", "edits": [{"oldText": "three", "newText": "four"}]})
}

impl Rig {
    fn workspace(&self, session: &str) -> PathBuf {
        self.place.project().join(session)
    }

    async fn submit(&self, session: &str) -> RunId {
        std::fs::create_dir(self.workspace(session)).unwrap();
        let item = Item { item_id: "i1".into(), file: "ledger".into(), pattern: "x".into(), require_approval: false };
        let workspace = self.workspace(session).to_str().unwrap().to_owned();
        let spec = Spec { work: Work::Review { item }, workspace_ref: Some(workspace), ..Spec::prompt("") };
        let new = NewRun { spec, ..first(session) };
        created(self.store.enqueue(new).await.unwrap()).run_id
    }

    async fn claim(&self) -> Lease {
        self.store.claim(&WorkerId::generate("t"), 1, Duration::from_secs(10)).await.unwrap().pop().unwrap()
    }

    /// Runs one brain until its fuse blows or the leaf ends; true if it died.
    async fn brain(&self, fuse: &Arc<Fuse>) -> bool {
        let log: Arc<dyn SessionLog> = self.deps.log.clone();
        let models: Arc<dyn ModelClient> = self.deps.models.clone();
        let sandbox: Arc<dyn SandboxTransport> = Arc::new(self.place.local.clone());
        let deps = Deps {
            observer: Arc::new(torpor_core::observe::Nobody),
            log: Fused::new(log, fuse),
            models: Fused::new(models, fuse),
            sandboxes: Some(Fused::new(sandbox, fuse)),
            ..self.deps.clone()
        };
        let lease = self.claim().await;
        let (_handle, stop) = Stop::new();
        tokio::select! {
            biased;
            () = fuse.blown() => true,
            end = run_leaf(&deps, lease, stop) => {
                assert!(matches!(end, LeafEnd::Ended(_)), "{end:?}");
                false
            }
        }
    }

    async fn check(&self, session: &str, run: &RunId, at: u64) {
        let record = self.store.get(run).await.unwrap().unwrap();
        assert!(matches!(record.outcome, Some(Outcome::Done { verdict: Some(_), .. })), "step {at}: {record:?}");
        let ledger = std::fs::read_to_string(self.workspace(session).join("ledger")).unwrap();
        let mut lines: Vec<&str> = ledger.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["one", "three", "two"], "step {at}: each command once");
        let script = std::fs::read_to_string(self.workspace(session).join("script.sh")).unwrap();
        assert_eq!(script, "echo four >> ledger\n", "step {at}: each file change once");
    }
}

#[tokio::test]
async fn a_leaf_with_real_hands_that_dies_at_any_step_ends_the_same() {
    let rig = rig();
    let fuse = Fuse::at(0);
    let run = rig.submit("whole").await;
    assert!(!rig.brain(&fuse).await);
    rig.check("whole", &run, 0).await;
    for at in 1..=fuse.taken() {
        let session = format!("died-at-{at}");
        let run = rig.submit(&session).await;
        assert!(rig.brain(&Fuse::at(at)).await, "step {at}");
        if !rig.store.get(&run).await.unwrap().unwrap().status.is_terminal() {
            rig.clock.advance(LEASE + Duration::from_millis(1));
            assert!(!rig.brain(&Fuse::at(0)).await);
        }
        rig.check(&session, &run, at).await;
    }
}
