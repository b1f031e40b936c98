//! What the server is given: the seams it speaks to.
//!
//! Owns: the two small traits that only the server needs. Must not know: who implements them.

use std::sync::Arc;

use async_trait::async_trait;
use torpor_core::dead_letter::LetterStore;
use torpor_core::gate::GateStore;
use torpor_core::key::{self, KeyStore};
use torpor_core::live::Hub;
use torpor_core::log::SessionLog;
use torpor_core::observe::Observer;
use torpor_core::queue::{Backlog, Lease, WorkQueue};
use torpor_core::run::RunStore;
use torpor_core::sandbox::SandboxTransport;
use torpor_core::session::SessionStore;
use torpor_core::volume::Volume;
use torpor_core::webhook::Admit;
use torpor_core::{Clock, WorkerId};
use torpor_schedule::Scheduler;

/// Everything behind the routes.
#[derive(Clone)]
pub struct App {
    /// Where runs are submitted.
    pub queue: Arc<dyn WorkQueue>,
    /// Where their logs are read, for those who follow them.
    pub log: Arc<dyn SessionLog>,
    /// Where gates are listed and decided.
    pub gates: Arc<dyn GateStore>,
    /// Where sessions are listed, forked, removed and moved.
    pub sessions: Arc<dyn SessionStore>,
    /// Where runs that were given up are listed and driven again.
    pub letters: Arc<dyn LetterStore>,
    /// Where pieces of answers show up while they stream.
    pub live: Hub,
    /// Where their records are read.
    pub runs: Arc<dyn RunStore>,
    /// The API keys. While there is none, nobody is asked for one.
    pub keys: Arc<dyn KeyStore>,
    /// A key of whoever started the server, for its own machine; it is in no store, and does not make callers be asked.
    pub owner: Option<key::Record>,
    /// Which models a run may name.
    pub settings: Arc<torpor_harness::Settings>,
    /// Where tools run; without it, work that needs one is refused at submit. Asked, and told to
    /// forget sessions; no tool is ever called from here.
    pub sandbox: Option<Arc<dyn SandboxTransport>>,
    /// Whom a run may ask to be told; without it, runs with a `webhook` are refused.
    pub webhooks: Option<Arc<dyn Admit>>,
    /// What fires schedules; without it there are none.
    pub schedules: Option<Scheduler>,
    /// Where runs may have files; without it, runs with `inputsRef` or `resultRef` are refused. Nothing is read or written
    /// from here.
    pub volume: Option<Arc<dyn Volume>>,
    /// The worker in this process, if there is one.
    pub local: Option<Arc<dyn LocalWorker>>,
    /// What readiness asks, besides the store.
    pub checks: Vec<Arc<dyn Check>>,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// What `/metrics` answers; without it the route answers 404.
    pub metrics: Option<Arc<dyn Scrape>>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
}

/// A worker in the same process: a run that somebody waits for is claimed for it in the step that accepts it.
pub trait LocalWorker: Send + Sync + 'static {
    /// The id that leases are claimed under.
    fn id(&self) -> WorkerId;

    /// Room for one more run, kept until it is used or dropped. `None` when all its slots are taken or it is
    /// draining: then nothing is claimed for it.
    fn reserve(&self) -> Option<Box<dyn Room>>;
}

/// Room for one run at a local worker. Dropping it gives the room back.
pub trait Room: Send {
    /// Takes the lease that was claimed for it. Must not block.
    fn take(self: Box<Self>, lease: Lease);
}

/// What was counted, as text.
pub trait Scrape: Send + Sync + 'static {
    /// The media type of [`Scrape::text`].
    fn content_type(&self) -> &'static str;

    /// All metrics; `backlog` is `None` while the queue does not answer. Must not block.
    fn text(&self, backlog: Option<Backlog>) -> String;
}

/// One dependency that readiness asks.
#[async_trait]
pub trait Check: Send + Sync + 'static {
    /// Its name, as `/readyz` shows it.
    fn name(&self) -> &'static str;

    /// One line that describes the dependency as it is, or why it is not usable. Both are shown to whoever asks:
    /// they carry no connection strings and no secrets. Cancellation safe; cut off after a few seconds.
    async fn check(&self) -> Result<String, String>;
}
