//! Torpor as an operator starts it, with a model server beside it.
//!
//! Owns: starting and ending processes, their folders, and what every row asks of them. Must not know: rows.
//!
//! Everything lives in a temporary folder; every process that was started is killed when its value is dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use torpor_testkit::model_server::script;
use torpor_testkit::redis;

use crate::http::Http;
use crate::process;
use crate::roles;

/// Longest wait for anything that is not itself measured by a bound of its own.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks at what only another process can tell.
const LOOK: Duration = Duration::from_millis(2);

/// What was asked for on the command line.
#[derive(Debug)]
pub(crate) struct Context {
    torpor: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) quick: bool,
    first: bool,
    /// The store of every process, where it is not the embedded one.
    redis: Option<redis::Server>,
    /// Worlds that were made; each has a prefix of its own.
    worlds: AtomicU64,
}

impl Context {
    /// Checks it.
    pub(crate) fn new(
        torpor: Option<PathBuf>,
        dir: Option<PathBuf>,
        quick: bool,
        first: bool,
        redis: bool,
    ) -> anyhow::Result<Self> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("torpor"));
        let torpor = torpor.map_or_else(beside, Ok)?;
        let torpor = torpor
            .canonicalize()
            .with_context(|| format!("{}: build it with `cargo build --release -p torpor`", torpor.display()))?;
        let redis = if redis { Some(redis::Server::start().context("redis-server is not installed")?) } else { None };
        let dir = dir.unwrap_or_else(std::env::temp_dir);
        let ctx = Self { torpor, dir, quick, first, redis, worlds: AtomicU64::new(0) };
        ctx.prefer(std::process::id());
        Ok(ctx)
    }

    /// So many, or a tenth.
    pub(crate) fn n(&self, full: usize) -> usize {
        if self.quick { (full / 10).max(3) } else { full }
    }

    /// The Redis server's process, where there is one.
    pub(crate) fn redis_pid(&self) -> Option<u32> {
        self.redis.as_ref().and_then(redis::Server::pid)
    }

    /// What its data takes, in bytes.
    pub(crate) fn redis_bytes(&self) -> anyhow::Result<f64> {
        let redis = self.redis.as_ref().context("there is no Redis")?;
        let info = redis.ask(&["INFO", "memory"]).map_err(anyhow::Error::msg)?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
        used.context("INFO names no used_memory")
    }

    /// Where runs are kept, for headings.
    pub(crate) fn store(&self) -> String {
        match &self.redis {
            None => "embedded".to_owned(),
            Some(_) => format!("{}, AOF synced each second", redis::version().unwrap_or_default()),
        }
    }

    /// What the program says of itself.
    pub(crate) fn version(&self) -> String {
        let out = std::process::Command::new(&self.torpor).arg("--version").output();
        let text = out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        let mib = std::fs::metadata(&self.torpor).map_or(0.0, |m| m.len() as f64 / f64::from(1 << 20));
        format!("{text} ({mib:.1} MiB)")
    }

    /// Gives a process precedence where that was asked for. Children have it from their parents, but for the hands, who
    /// leave the server's session.
    pub(crate) fn prefer(&self, pid: u32) {
        if self.first {
            process::prefer(pid);
        }
    }

    /// A temporary folder on the disk that is measured.
    pub(crate) fn temp(&self) -> anyhow::Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("torpor-bar-").tempdir_in(&self.dir)?)
    }

    /// The program, in a clean environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.torpor);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).kill_on_drop(true);
        command
    }
}

/// This program again, in a role of its own.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Helper {
    /// Starts it and reads its URL.
    pub(crate) async fn start(role: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["role", role]).stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let address = address(&mut child, "http://").await?;
        Ok(Self { child, address })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// One request to it.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Http::connect(self.address).await?.get(path).await?.json(200)
    }

    /// A model server's counter.
    pub(crate) async fn count(&self, name: &str) -> anyhow::Result<f64> {
        self.get("/__stats").await?[name].as_f64().with_context(|| format!("no counter {name}"))
    }

    /// A model server's gaps in milliseconds.
    pub(crate) async fn gaps(&self) -> anyhow::Result<Vec<f64>> {
        Ok(serde_json::from_value(self.get("/__gaps").await?)?)
    }

    /// Sets a model server's counters back.
    pub(crate) async fn reset(&self) -> anyhow::Result<()> {
        Http::connect(self.address).await?.get("/__reset").await?;
        Ok(())
    }

    /// Lets a model server's held answers go.
    pub(crate) async fn release(&self, name: &str) -> anyhow::Result<()> {
        Http::connect(self.address).await?.get(&format!("/__release/{name}")).await?;
        Ok(())
    }
}

/// Reads the first line of a child's output and the address after `prefix` in it.
async fn address(child: &mut Child, prefix: &str) -> anyhow::Result<SocketAddr> {
    let out = child.stdout.take().context("no pipe")?;
    let line = timeout(PATIENCE, BufReader::new(out).lines().next_line()).await??.context("it said nothing")?;
    let (_, address) = line.split_once(prefix).with_context(|| format!("expected an address, got {line:?}"))?;
    address.trim().parse().with_context(|| format!("expected an address, got {address:?}"))
}

/// One data folder, one project folder, one model; servers come and go.
#[derive(Debug)]
pub(crate) struct World<'a> {
    ctx: &'a Context,
    dir: TempDir,
    pub(crate) model: Helper,
    env: Vec<(&'static str, String)>,
    /// Keeps this world apart from others on the same Redis.
    prefix: String,
}

impl<'a> World<'a> {
    /// A fresh one.
    pub(crate) async fn new(ctx: &'a Context) -> anyhow::Result<Self> {
        let dir = ctx.temp()?;
        std::fs::create_dir(dir.path().join("project"))?;
        let prefix = format!("bar-{}", ctx.worlds.fetch_add(1, Ordering::Relaxed));
        Ok(Self { ctx, dir, model: Helper::start("model-server").await?, env: Vec::new(), prefix })
    }

    /// One more variable for every server from now on.
    pub(crate) fn env(&mut self, name: &'static str, value: impl Into<String>) {
        self.env.push((name, value.into()));
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The address and prefix of its store, where that is not in the data folder.
    pub(crate) fn redis(&self) -> Option<(String, &str)> {
        Some((self.ctx.redis.as_ref()?.url(), &self.prefix))
    }

    /// A file of the project folder, in which commands may work.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("project").join(name)
    }

    /// An asynchronous run in the project folder whose model follows `script`.
    pub(crate) fn envelope(&self, script: &str) -> String {
        let project = self.dir.path().join("project");
        json!({"prompt": prompt(script), "workspaceRef": project, "async": true}).to_string()
    }

    /// `torpor serve` on this port (0: a free one), not yet started.
    pub(crate) fn command(&self, port: u16) -> anyhow::Result<Command> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"))?;
        let mut command = self.ctx.command();
        command
            .arg("serve")
            .env("HOME", self.dir.path())
            .env("PORT", port.to_string())
            .env("TORPOR_DATA_DIR", self.data())
            .env("TORPOR_WORKSPACE_ROOTS", self.dir.path().join("project"))
            .env("TORPOR_SANDBOX_LEVEL", "reduced")
            .env("TORPOR_ORPHAN_SECONDS", "60")
            .env("ANTHROPIC_API_KEY", "none")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", self.model.address))
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some((url, prefix)) = self.redis() {
            command.env("REDIS_URL", url).env("TORPOR_REDIS_PREFIX", prefix);
        }
        Ok(command)
    }

    /// Starts a server and waits until it listens.
    pub(crate) async fn serve(&self) -> anyhow::Result<Server> {
        let mut child = self.command(0)?.spawn()?;
        match address(&mut child, "http://").await {
            Ok(address) => Ok(Server { child, address }),
            Err(e) => bail!("no server: {e:#}; its log: {}", self.log()),
        }
    }

    /// What the servers logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The hands' state folder: the one that is named after the store.
    pub(crate) fn hands_dir(&self) -> PathBuf {
        let all = self.data().join("hands");
        let found = std::fs::read_dir(&all).ok().and_then(|mut dirs| dirs.find_map(|d| Some(d.ok()?.path())));
        found.unwrap_or(all)
    }

    /// The hands' daemon and everything below it.
    pub(crate) fn hands(&self) -> Vec<u32> {
        hands(&self.hands_dir())
    }

    /// How commands are confined here, as the running hands say.
    pub(crate) async fn level(&self) -> anyhow::Result<String> {
        Ok(roles::hands_client(&self.hands_dir()).hands().await?.level)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.hands().into_iter().for_each(process::kill);
    }
}

/// The daemon of a state folder and everything below it.
pub(crate) fn hands(state: &Path) -> Vec<u32> {
    let state = state.to_string_lossy();
    process::with_words(&["__hands-daemon", &state]).into_iter().flat_map(process::tree).collect()
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// A connection to it.
    pub(crate) async fn http(&self) -> anyhow::Result<Http> {
        Http::connect(self.address).await
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// A prompt that carries the model's script.
pub(crate) fn prompt(script: &str) -> String {
    format!("go [[s:{script}]]")
}

/// The body of a turn; in an existing session, if one is named.
pub(crate) fn turn(script: &str, session: Option<&str>) -> String {
    match session {
        Some(id) => json!({"prompt": prompt(script), "sessionId": id}).to_string(),
        None => json!({"prompt": prompt(script)}).to_string(),
    }
}

/// A step that calls a tool with one argument.
pub(crate) fn step(tool: &str, argument: &str) -> String {
    format!("{tool}={}", script::encode(argument))
}

/// Submits a run and answers its id.
pub(crate) async fn submit(http: &mut Http, envelope: &str) -> anyhow::Result<String> {
    let answer = http.post("/runs", envelope).await?.json(202)?;
    Ok(answer["runId"].as_str().context("no runId")?.to_owned())
}

/// Waits until a run has ended; its record.
pub(crate) async fn ended(http: &mut Http, run: &str) -> anyhow::Result<Value> {
    let path = format!("/runs/{run}");
    until(&format!("the end of {run}"), async || {
        let record = http.get(&path).await?.json(200)?;
        Ok((!matches!(record["status"].as_str(), Some("queued" | "running"))).then_some(record))
    })
    .await
}

/// Whether no run waits or runs.
pub(crate) async fn is_idle(http: &mut Http) -> anyhow::Result<bool> {
    for status in ["queued", "running"] {
        let page = http.get(&format!("/runs?status={status}&limit=1")).await?.json(200)?;
        if page["runs"].as_array().is_none_or(|runs| !runs.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Looks until something is found.
pub(crate) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for {what}");
        }
        sleep(LOOK).await;
    }
}
