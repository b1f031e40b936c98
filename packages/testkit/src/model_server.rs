//! A model provider for tests and load: Anthropic Messages and OpenAI Chat Completions over real HTTP on loopback, with
//! scripted answers and every fault a provider or a network has shown.
//!
//! Owns: the server, its counters and what it recorded. Must not know: the client under test.
//!
//! What is answered is written in the prompt, so that one server serves any number of tests at once: the last marker
//! `[[s:SCRIPT]]` of the request body counts, then a path prefix `/s/SCRIPT/v1/…`, then the default. The
//! language is described in [`script`]. `GET /health`, `/__stats`, `/__gaps`, `POST /__reset` and
//! `POST /__release/NAME` serve tests that run it as a process of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod answer;
mod record;
mod render;
pub mod script;
mod serve;

pub use record::{Recorded, Stats};

/// How many requests are kept when nothing else is said.
const DEFAULT_RECORD: usize = 1_000;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Wait before the first byte of every answer, unless the script has its own.
    pub delay: Duration,
    /// The script for requests that name none.
    pub default_script: String,
    /// How many requests are kept with headers and body; the oldest go first. 0 for load tests.
    pub record: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            delay: Duration::ZERO,
            default_script: "text".into(),
            record: DEFAULT_RECORD,
        }
    }
}

/// A running server. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct ModelServer {
    addr: SocketAddr,
    state: Arc<serve::State>,
    task: JoinHandle<()>,
}

impl ModelServer {
    /// Starts a server on a free loopback port.
    ///
    /// # Panics
    /// When no port can be had: a test cannot go on without it.
    #[allow(clippy::expect_used)] // for tests only; the binary uses `start_with`
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await.expect("a free loopback port")
    }

    /// Starts a server.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start_with(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(options.bind).await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(serve::State::new(options));
        let task = tokio::spawn(serve::run(listener, state.clone()));
        Ok(Self { addr, state, task })
    }

    /// The base URL, without a path.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A base URL that chooses the script whatever the prompt says.
    #[must_use]
    pub fn script_url(&self, script: &str) -> String {
        let escape = |b: u8| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        };
        format!("http://{}/s/{}", self.addr, script.bytes().map(escape).collect::<String>())
    }

    /// Model requests that have arrived so far, answered or not.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state.record.stats().requests
    }

    /// Waits until `count` model requests have arrived in all. Cancellation safe; has no timeout of its own.
    pub async fn wait_for_requests(&self, count: u64) {
        self.state.record.wait_for_requests(count).await;
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.record.stats()
    }

    /// The requests that were kept, oldest first.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.state.record.kept()
    }

    /// Milliseconds between the end of one answer and the arrival of the next request. With one request at a time
    /// that is the client's own time per step.
    #[must_use]
    pub fn gaps(&self) -> Vec<f64> {
        self.state.record.gaps()
    }

    /// Lets every present and future `hold=NAME` step go on.
    pub fn release(&self, name: &str) {
        self.state.release(name);
    }

    /// Sets counters, recorded requests, retries and holds back to the start.
    pub fn reset(&self) {
        self.state.reset();
    }

    /// Serves until the process ends.
    pub async fn forever(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
