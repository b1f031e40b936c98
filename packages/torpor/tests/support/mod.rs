//! The real binary as a real process, the model server as its model, and a folder that both may look at.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper module: each test file uses its part"
)]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use torpor_testkit::model_server::{ModelServer, script};
use torpor_testkit::redis;

pub mod fleet;
pub mod follow;
pub mod probe;
pub mod shared;
pub mod terminal;
pub mod work;

/// Longest that anything here may take; a test that needs it has failed.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// One data folder, one project folder, one model; servers come and go.
pub struct World {
    dir: TempDir,
    pub model: ModelServer,
    http: reqwest::Client,
    env: Vec<(String, String)>,
    redis: Option<Arc<redis::Server>>,
}

pub struct Server {
    child: Child,
    pub url: String,
    http: reqwest::Client,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl World {
    /// A world on the store that is tested: the embedded one, or with `TORPOR_TEST_STORE=redis` the shared one.
    pub async fn new() -> Self {
        let mut world = Self::embedded().await;
        if std::env::var_os("TORPOR_TEST_STORE").is_some_and(|store| store == "redis") {
            assert!(world.share().is_some(), "TORPOR_TEST_STORE=redis needs a redis-server");
        }
        world
    }

    /// A world on the embedded store, for what only that can be asked.
    pub async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        let http = torpor_model::http_client(&torpor_model::config::Http::default()).unwrap();
        Self { dir, model: ModelServer::start().await, http, env: Vec::new(), redis: None }
    }

    /// One more variable for every server from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project").canonicalize().unwrap()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.project().join(name)
    }

    /// How often `word` stands in a file of the project.
    pub fn count(&self, name: &str, word: &str) -> usize {
        std::fs::read_to_string(self.file(name)).unwrap_or_default().matches(word).count()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("PORT", "0")
            .env("TORPOR_DATA_DIR", self.data())
            .env("TORPOR_WORKSPACE_ROOTS", self.project())
            .env("TORPOR_SANDBOX_LEVEL", "reduced")
            .env("TORPOR_ORPHAN_SECONDS", "5")
            .env("ANTHROPIC_API_KEY", "sk-canary-key")
            .env("ANTHROPIC_BASE_URL", self.model.base_url())
            .envs(self.env.iter().cloned())
            .kill_on_drop(true);
        command
    }

    /// Runs the binary to its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        tokio::time::timeout(LIMIT, self.command().args(args).output()).await.unwrap().unwrap()
    }

    pub async fn serve(&self) -> Server {
        let mut command = self.command();
        command.arg("serve");
        self.start(command).await
    }

    /// A server that is not killed when it writes beyond a limit on the size of files: the write fails instead.
    pub async fn serve_ignoring_file_size(&self) -> Server {
        let usual = self.command();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve"]).arg(usual.as_std().get_program()).env_clear();
        command.envs(usual.as_std().get_envs().filter_map(|(name, value)| Some((name, value?)))).kill_on_drop(true);
        self.start(command).await
    }

    async fn start(&self, mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(self.log_file()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let line = tokio::time::timeout(LIMIT, BufReader::new(out).lines().next_line()).await.unwrap().unwrap();
        let url = line.as_deref().and_then(|l| l.strip_prefix("torpor is listening on ")).map(str::to_owned);
        Server { child, url: url.unwrap_or_else(|| panic!("no server: {}", self.log())), http: self.http.clone() }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// One number out of the store, read beside the running server as an operator would.
    pub fn sqlite(&self, query: &str) -> i64 {
        let db = rusqlite::Connection::open(self.data().join("store.db")).unwrap();
        db.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// `kill -9` of the hands, found as the process that holds their socket.
    pub fn kill_hands(&self) {
        if let Some(hands) = self.hands() {
            hands.signal(rustix::process::Signal::KILL);
        }
    }

    /// An envelope with a prompt that carries the model's script.
    pub fn prompt(&self, script: &str) -> Value {
        json!({"prompt": format!("go [[s:{script}]]"), "workspaceRef": self.project()})
    }
}

/// A script step that calls a tool.
pub fn script_tool(name: &str, input: &Value) -> String {
    format!("tool.{name}={}", script::encode(&input.to_string()))
}

/// A script step that runs `command` with the bash tool.
pub fn bash(command: &str) -> String {
    format!("bash={}", script::encode(command))
}

impl Server {
    pub async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(LIMIT);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, headers, body }
    }

    /// A request with whatever is unusual about it.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// An answer whose body is read as it comes.
    pub async fn stream(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(reqwest::Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(reqwest::Method::POST, path, Some(body)).await
    }

    /// Submits asynchronously; answers the run's id.
    pub async fn submit(&self, mut envelope: Value) -> String {
        envelope["async"] = json!(true);
        let answer = self.post("/runs", &envelope).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["runId"].as_str().unwrap().to_owned()
    }

    /// Waits until the run has ended.
    pub async fn ended(&self, run: &str) -> Value {
        until("the run to end", async || {
            let record = self.get(&format!("/runs/{run}")).await.body;
            (!matches!(record["status"].as_str(), Some("queued" | "running"))).then_some(record)
        })
        .await
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; the exit code and how long it took.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        self.process().signal(rustix::process::Signal::TERM);
        self.exit().await
    }

    /// Waits for the end of the process; its exit code and how long it took.
    pub async fn exit(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        (status.code(), begun.elapsed())
    }
}

/// Looks until `found` finds something. For what only another process can tell; everything else is awaited.
pub async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(t) = found().await {
            return t;
        }
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn until_file(path: &Path) {
    until(&path.display().to_string(), async || path.exists().then_some(())).await;
}
