//! The wiring: store, models, sandbox, worker and server of one process.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::watch;
use torpor_core::clock::{Clock, SystemClock};
use torpor_core::id::WorkerId;
use torpor_core::live::Hub;
use torpor_core::queue::Lease;
use torpor_core::run::RunStore;
use torpor_core::sandbox::SandboxTransport;
use torpor_core::store;
use torpor_harness::Deps;
use torpor_store_embedded::Store;
use torpor_worker::Worker;

use crate::cli::Error;
use crate::config::{Config, Confinement, SandboxKind};

/// How often expired records are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Everything that one process runs.
pub(crate) struct Runtime {
    store: Arc<Store>,
    worker: Worker,
    app: torpor_server::App,
    server: torpor_server::Config,
    data_dir: PathBuf,
}

impl Runtime {
    /// Opens the store and puts the parts together. Nothing is connected to yet: models and hands come up with the
    /// first call that needs them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the data folder is in use, or commands cannot be confined on this machine.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = torpor_store_embedded::Options {
            lease: config.worker.lease,
            result_ttl: config.result_ttl,
            clock: clock.clone(),
        };
        let store = Arc::new(Store::open(&config.data_dir, options).map_err(|e| not_opened(&e))?);
        let models = torpor_model::Models::new(&config.models).context("model settings")?;
        let sandbox = sandbox(config, store.id())?;
        let live = Hub::default();
        let deps = Deps {
            log: store.clone(),
            live: live.clone(),
            models: Arc::new(models),
            sandboxes: sandbox.clone().map(|s| s as Arc<dyn SandboxTransport>),
            clock: clock.clone(),
            settings: Arc::new(config.harness.clone()),
        };
        let worker = Worker::new(deps, store.clone(), WorkerId::generate(&host_name()), config.worker);
        let check = |s: &Arc<_>| Arc::new(SandboxCheck(Arc::clone(s))) as Arc<dyn torpor_server::Check>;
        let checks = sandbox.iter().map(check).collect();
        let app = torpor_server::App {
            queue: store.clone(),
            log: store.clone(),
            live,
            runs: store.clone(),
            keys: store.clone(),
            owner: None,
            settings: Arc::new(config.harness.clone()),
            sandbox: sandbox.clone().map(|s| s as Arc<dyn SandboxTransport>),
            local: Some(Arc::new(InProcess(worker.clone()))),
            checks,
            clock,
        };
        Ok(Self { store, worker, app, server: config.server.clone(), data_dir: config.data_dir.clone() })
    }

    /// Lets clients on this machine find the server by its data folder, for as long as the answer lives.
    pub(crate) fn publish(&self, address: SocketAddr) -> Published {
        Published::write(&self.data_dir, address)
    }

    /// Serves until `shutdown`, then drains: the server lets its requests finish and the worker its leaves.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (tell, told) = watch::channel(());
        let until_told = |mut told: watch::Receiver<()>| async move {
            let _ = told.changed().await;
        };
        let sweeper = tokio::spawn(sweep(self.store.clone()));
        let server = torpor_server::serve(listener, self.app, self.server, until_told(told.clone()));
        let worker = self.worker.run(until_told(told));
        let stop = async {
            shutdown.await;
            let _ = tell.send(());
        };
        let (served, (), ()) = tokio::join!(server, worker, stop);
        sweeper.abort();
        served.context("the HTTP server failed")
    }
}

async fn sweep(store: Arc<Store>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        match store.sweep().await {
            Ok(0) => {}
            Ok(n) => tracing::info!(records = n, "expired records were removed"),
            Err(e) => tracing::warn!(error = %e, "sweep failed"),
        }
    }
}

/// The sandbox that the configuration asks for. Its folder is named after the store: call ids mean something only
/// together with the log that gave them out, so a new store never meets the journals of an old one.
pub(crate) fn sandbox(config: &Config, store_id: &str) -> Result<Option<Arc<torpor_sandbox_local::Local>>, Error> {
    if config.sandbox == SandboxKind::None {
        return Ok(None);
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let local = torpor_sandbox_local::Config {
        allow: match config.confinement {
            Confinement::Full => torpor_hands::Level::Full,
            Confinement::Reduced => torpor_hands::Level::Reduced,
            Confinement::Unconfined => torpor_hands::Level::Unconfined,
        },
        workspace_roots: config.workspace_roots.clone(),
        readable: config.sandbox_readable.clone(),
        network: config.sandbox_network,
        orphan: config.orphan,
        path: config.sandbox_path.clone(),
        ..torpor_sandbox_local::Config::new(config.data_dir.join("hands").join(store_id), program)
    };
    match torpor_sandbox_local::Local::new(local) {
        Ok(local) => Ok(Some(Arc::new(local))),
        Err(e) => Err(Error::Unavailable(e.to_string())),
    }
}

fn not_opened(e: &store::Error) -> Error {
    if e.is_retryable() {
        Error::Unavailable(format!("{e}; wait for it, or start `torpor serve` once and let all clients use it"))
    } else {
        Error::Other(anyhow::anyhow!("{e}"))
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

struct InProcess(Worker);

impl torpor_server::LocalWorker for InProcess {
    fn id(&self) -> WorkerId {
        self.0.id().clone()
    }

    fn reserve(&self) -> Option<Box<dyn torpor_server::Room>> {
        self.0.reserve().map(|room| Box::new(RoomHere(room)) as Box<dyn torpor_server::Room>)
    }
}

struct RoomHere(torpor_worker::Room);

impl torpor_server::Room for RoomHere {
    fn take(self: Box<Self>, lease: Lease) {
        self.0.take(lease);
    }
}

struct SandboxCheck(Arc<torpor_sandbox_local::Local>);

#[async_trait]
impl torpor_server::Check for SandboxCheck {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    async fn check(&self) -> Result<String, String> {
        // The probe's line names paths and processes: that is for the doctor, not for whoever asks over HTTP.
        self.0.probe().await.map(|_| format!("local, level {}", self.0.level())).map_err(|e| {
            tracing::warn!(error = %e, "the sandbox is not ready");
            "the local hands do not answer".to_owned()
        })
    }
}

/// Where a running server can be found by the commands that share its data folder: a file beside the store.
pub(crate) struct Published(PathBuf);

const ADDRESS_FILE: &str = "serve.json";

impl Published {
    fn write(data_dir: &Path, address: SocketAddr) -> Self {
        let path = data_dir.join(ADDRESS_FILE);
        let json = serde_json::json!({"url": format!("http://{address}"), "pid": std::process::id()});
        let mut options = std::fs::OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(json.to_string().as_bytes()));
        if let Err(e) = written {
            tracing::warn!(error = %e, "clients on this machine will not find this server by itself");
        }
        Self(path)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The address of the server that holds this data folder right now. An address whose process does not hold the store
/// is not trusted: after a crash its port may be somebody else's.
pub(crate) fn published_address(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join(ADDRESS_FILE)).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let holder = torpor_store_embedded::holder(data_dir).map(u64::from)?;
    (json["pid"].as_u64() == Some(holder)).then(|| json["url"].as_str().map(str::to_owned))?
}
