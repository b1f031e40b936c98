//! The wiring: store, models, sandbox, worker and server of one process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::watch;
use torpor_core::clock::{Clock, SystemClock};
use torpor_core::id::WorkerId;
use torpor_core::key::{KeyStore, Rate, Record, Scopes, Secret, Wish};
use torpor_core::live::Hub;
use torpor_core::queue::Lease;
use torpor_core::sandbox::SandboxTransport;
use torpor_core::schedule::ScheduleStore;
use torpor_schedule::{Schedule, Scheduler};
use torpor_server::Intake;
use torpor_worker::{Claims, Deliveries, Worker};

use crate::cli::Error;
use crate::config::{Config, Confinement, SandboxKind};
use crate::keys_file::WithFile;
use crate::schedule_files::Files;
use crate::stores::{Role, Stores, failed};
use crate::watching::Watching;
use crate::webhooks;

mod published;
mod sweeper;
mod volume;

pub(crate) use published::{Published, published};

/// How long a worker has nothing to do before it ends: so much longer than a lease, that what a worker that died left is
/// claimable before.
const IDLE: Duration = Duration::from_secs(2);

/// Connections for probes at once.
const PROBES: usize = 64;

/// Everything that one process runs.
pub(crate) struct Runtime {
    owner_secret: Secret,
    sweeper: sweeper::Sweeper,
    worker: Worker,
    webhooks: Deliveries,
    /// Work with the shared volume, if there is one.
    files: Option<volume::Files>,
    config: torpor_worker::Config,
    app: torpor_server::App,
    server: torpor_server::Config,
    data_dir: PathBuf,
    watching: Watching,
}

impl Runtime {
    /// Opens the store and puts the parts together. Nothing is connected to yet: models and hands come up with the
    /// first call that needs them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the store cannot be had, or commands cannot be confined on this machine.
    pub(crate) async fn open(config: &Config, role: Role) -> Result<Self, Error> {
        let claims = if role == Role::Worker { Claims::All } else { config.worker.claims };
        let work = torpor_worker::Config { claims, ..config.worker };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let watching = Watching::start(config, &*clock)
            .map_err(|e| Error::Other(anyhow::anyhow!("spans for a collector: {e}")))?;
        let observer = watching.observer.clone();
        let stores = Stores::open(config, role, clock.clone(), observer.clone()).await?;
        let models = torpor_model::Models::new(&config.models).map_err(|e| Error::Usage(setting(&e)))?;
        let sandbox = sandbox(config, &stores.id)?;
        let live = stores.relay.clone().map_or_else(Hub::default, Hub::relayed);
        let shared = volume::shared(config);
        let deps = torpor_harness::Deps {
            log: stores.log.clone(),
            volume: shared.clone(),
            live: live.clone(),
            models: Arc::new(models),
            sandboxes: sandbox.clone().map(|s| s as Arc<dyn SandboxTransport>),
            observer: observer.clone(),
            clock: clock.clone(),
            settings: Arc::new(config.harness.clone()),
        };
        let deliver = webhooks::sender(config, clock.clone())?;
        let worker = Worker::new(deps, stores.queue.clone(), WorkerId::generate(&host_name()), work);
        let (owner_secret, owner) = Record::issue(owners_wish(), clock.now());
        let check = |s: &Arc<_>| Arc::new(SandboxCheck(Arc::clone(s))) as Arc<dyn torpor_server::Check>;
        let checks = sandbox.iter().map(check).collect();
        let mut app = torpor_server::App {
            queue: stores.queue.clone(),
            log: stores.log.clone(),
            gates: stores.gates.clone(),
            sessions: stores.sessions.clone(),
            letters: stores.letters.clone(),
            live,
            runs: stores.runs.clone(),
            keys: keys(config, stores.keys.clone())?,
            owner: Some(owner),
            settings: Arc::new(config.harness.clone()),
            sandbox: sandbox.clone().map(|s| s as Arc<dyn SandboxTransport>),
            webhooks: Some(deliver.clone()),
            schedules: None,
            volume: shared,
            local: Some(Arc::new(InProcess(worker.clone()))),
            checks,
            observer,
            metrics: Some(watching.counted.clone()),
            clock: clock.clone(),
        };
        let files = volume::Files::new(config, &app, &stores);
        if let Some(path) = config.schedules.as_deref().filter(|_| role == Role::Server) {
            app.schedules = Some(scheduler(path, &app, stores.schedules, worker.id())?);
        }
        let sweeper = sweeper::Sweeper {
            runs: stores.runs,
            sessions: stores.sessions,
            hands: sandbox.map(|s| s as Arc<dyn SandboxTransport>),
            clock,
            result_ttl: config.result_ttl,
            session_ttl: config.session_ttl,
        };
        Ok(Self {
            owner_secret,
            sweeper,
            worker,
            webhooks: Deliveries::webhooks(stores.outbox, deliver, app.clock.clone(), app.observer.clone()),
            files,
            config: work,
            app,
            server: config.server.clone(),
            data_dir: config.data_dir.clone(),
            watching,
        })
    }

    /// Lets clients on this machine find the server by its data folder, for as long as the answer lives.
    pub(crate) fn publish(&self, address: SocketAddr) -> Published {
        Published::write(&self.data_dir, address, &self.owner_secret)
    }

    /// The key of whoever started this process. It dies with it.
    pub(crate) fn owner_key(&self) -> &str {
        self.owner_secret.expose()
    }

    /// Refuses to be reached from other machines while nobody would be asked for a key.
    pub(crate) async fn check_exposure(&self, config: &Config) -> Result<(), Error> {
        let ip = config.bind.ip();
        if ip.is_loopback() {
            return Ok(());
        }
        let keys = self.app.keys.keys(None).await.map_err(|e| failed(&e))?;
        let now = self.app.clock.now();
        if keys.is_some_and(|all| all.keys.iter().any(|key| key.is_live(now))) {
            return Ok(());
        }
        if config.insecure_no_auth {
            tracing::warn!(%ip, "anybody who reaches this address may run commands: there are no API keys");
            return Ok(());
        }
        Err(Error::Usage(format!(
            "TORPOR_BIND: {ip} is not loopback and there is no API key that works: anybody who reaches this address \
             could run commands; make a key with `torpor keys create`, name a file of keys with TORPOR_API_KEYS_FILE, \
             bind to 127.0.0.1, or give --insecure-no-auth if something in front of it authenticates"
        )))
    }

    /// Serves until `shutdown`, then drains: the server lets its requests finish and the worker its leaves.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (tell, told) = watch::channel(());
        let sweeper = tokio::spawn(self.sweeper.run());
        let live = self.app.live.clone();
        let pump = tokio::spawn(async move { live.pump().await });
        let (schedules, claims) = (self.app.schedules.clone(), self.config.claims);
        let (tell_files, told_files) = watch::channel(());
        let server = torpor_server::serve(listener, self.app, self.server, until_told(&told));
        let worker = async {
            self.worker.run(until_told(&told)).await;
            let _ = tell_files.send(()); // what has ended by now is still written
        };
        let files = async {
            if let Some(files) = self.files {
                files.run(claims, until_told(&told_files), self.config.drain).await;
            }
        };
        let webhooks = async {
            // Webhooks are sent by whoever claims the work that nobody waits for.
            if claims == Claims::All {
                self.webhooks.run(until_told(&told), self.config.drain).await;
            }
        };
        let schedules = async {
            if let Some(scheduler) = schedules {
                scheduler.run(until_told(&told)).await;
            }
        };
        let stop = async {
            shutdown.await;
            let _ = tell.send(());
        };
        let (served, (), (), (), (), ()) = tokio::join!(server, worker, files, webhooks, schedules, stop);
        sweeper.abort();
        pump.abort();
        self.watching.end().await;
        served.context("the HTTP server failed")
    }

    /// Works until `shutdown`, or unless `forever` until there was nothing to do for long enough, then drains. Probes are
    /// answered to the last.
    pub(crate) async fn work(
        self,
        probes: Option<TcpListener>,
        forever: bool,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<Worked> {
        let (tell, told) = watch::channel(());
        let (tell_probes, told_probes) = watch::channel(());
        let sweeper = tokio::spawn(self.sweeper.run());
        let idle_after = self.config.lease + IDLE;
        let (tell_files, told_files) = watch::channel(());
        let deliveries: Vec<_> =
            [&self.webhooks].into_iter().chain(self.files.as_ref().map(|files| &files.deliveries)).collect();
        let stop = async {
            let idle = tokio::select! {
                () = shutdown => None,
                () = self.worker.idle(&deliveries, idle_after), if !forever => Some(idle_after),
            };
            let _ = tell.send(());
            idle
        };
        let work = async {
            let worker = async {
                self.worker.run(until_told(&told)).await;
                let _ = tell_files.send(());
            };
            let files = async {
                if let Some(files) = self.files.clone() {
                    files.run(Claims::All, until_told(&told_files), self.config.drain).await;
                }
            };
            let webhooks = self.webhooks.run(until_told(&told), self.config.drain);
            let ((), (), (), idle) = tokio::join!(worker, files, webhooks, stop);
            let _ = tell_probes.send(());
            idle
        };
        let near = probes.as_ref().and_then(|l| l.local_addr().ok()).is_some_and(|address| address.ip().is_loopback());
        let local_only = self.server.local_only && near;
        let server =
            torpor_server::Config { max_connections: PROBES, drain: Duration::ZERO, local_only, ..self.server };
        let probes = async {
            match probes {
                Some(listener) => {
                    torpor_server::serve_probes(listener, self.app, server, until_told(&told_probes)).await
                }
                None => Ok(()),
            }
        };
        let (idle, probed) = tokio::join!(work, probes);
        sweeper.abort();
        self.watching.end().await;
        probed.context("the HTTP server for probes failed")?;
        Ok(Worked { idle, runs: self.worker.begun(), webhooks: self.webhooks.begun() })
    }

    /// The id under which this process claims.
    pub(crate) fn worker_id(&self) -> &WorkerId {
        self.worker.id()
    }
}

/// What a worker did.
pub(crate) struct Worked {
    /// It ended because there was nothing to do for so long; else because it was told to.
    pub(crate) idle: Option<Duration>,
    /// Runs that it worked on.
    pub(crate) runs: u64,
    /// Attempts at webhooks that it made.
    pub(crate) webhooks: u64,
}

fn until_told(told: &watch::Receiver<()>) -> impl Future<Output = ()> + use<> {
    let mut told = told.clone();
    async move {
        let _ = told.changed().await;
    }
}

/// The keys that the configuration asks for: the store's, and those of a file.
pub(crate) fn keys(config: &Config, store: Arc<dyn KeyStore>) -> Result<Arc<dyn KeyStore>, Error> {
    let Some(file) = &config.api_keys_file else { return Ok(store) };
    let with_file = WithFile::open(file, store).map_err(|e| Error::Usage(format!("TORPOR_API_KEYS_FILE: {e}")))?;
    Ok(Arc::new(with_file))
}

/// What fires the schedules of this file or folder, through the same door as requests.
fn scheduler(
    path: &Path,
    app: &torpor_server::App,
    store: Arc<dyn ScheduleStore>,
    me: &WorkerId,
) -> Result<Scheduler, Error> {
    let intake = Intake::new(app);
    let door = intake.clone();
    let check = move |schedule: &Schedule| schedule.check_with(|body| door.check(body).map_err(|e| e.detail));
    let files = Files::open(path, Box::new(check));
    let named = |e: String| e.lines().map(|line| format!("TORPOR_SCHEDULES: {line}")).collect::<Vec<_>>().join("\n");
    let source = Arc::new(files.map_err(|e| Error::Usage(named(e)))?);
    let clock = app.clock.clone();
    Ok(Scheduler::new(torpor_schedule::Deps {
        store,
        source,
        submit: Arc::new(intake),
        clock,
        by: me.as_str().to_owned(),
    }))
}

/// What whoever can read the data folder may do: everything, as they could with the store itself.
fn owners_wish() -> Wish {
    let rate = Some(Rate { per_second: Rate::MAX, burst: Rate::MAX });
    Wish { tenant: None, name: "owner of the data folder".into(), scopes: Scopes::all(), rate, expires_at: None }
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
        limits: config.sandbox_limits.clone(),
        ..torpor_sandbox_local::Config::new(config.data_dir.join("hands").join(store_id), program)
    };
    match torpor_sandbox_local::Local::new(local) {
        Ok(local) => Ok(Some(Arc::new(local))),
        Err(e) => Err(Error::Unavailable(e.to_string())),
    }
}

/// A model setting that cannot work, by the name under which people set it. The text never holds a credential.
fn setting(e: &torpor_model::config::Error) -> String {
    let name = match e.setting {
        "models" => "TORPOR_MODEL_LIMITS".to_owned(),
        limit if limit.ends_with(".max_output_tokens") => "TORPOR_MODEL_MAX_OUTPUT_TOKENS".to_owned(),
        dotted => dotted.replace('.', "_").to_uppercase(),
    };
    format!("{name}: {}", e.problem)
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
        self.0.walls().await.map_err(|e| {
            tracing::warn!(error = %e, "the sandbox is not ready");
            "the local hands do not answer".to_owned()
        })
    }
}
