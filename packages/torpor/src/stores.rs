//! The store that the configuration asks for, as the seams that everything else sees.
//!
//! Owns: which store that is, and how it is opened. Must not know: what is done with it.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::dead_letter::LetterStore;
use torpor_core::gate::GateStore;
use torpor_core::key::KeyStore;
use torpor_core::live::Relay;
use torpor_core::log::SessionLog;
use torpor_core::observe::Observer;
use torpor_core::queue::WorkQueue;
use torpor_core::run::RunStore;
use torpor_core::schedule::ScheduleStore;
use torpor_core::session::SessionStore;
use torpor_core::webhook::Outbox;
use torpor_core::{Clock, store};

use crate::cli::Error;
use crate::config::{Config, Redis};

/// How long a process that stays waits at its start for a store that is away, and how often it tries: both may be started
/// at the same time.
const PATIENCE: Duration = Duration::from_secs(20);
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What the process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It answers requests.
    Server,
    /// It works on what is queued.
    Worker,
    /// It does one thing that somebody waits for.
    Command,
}

/// One store, by its seams. Cheap to clone; clones are one store, which closes with the last of them.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) log: Arc<dyn SessionLog>,
    pub(crate) queue: Arc<dyn WorkQueue>,
    pub(crate) runs: Arc<dyn RunStore>,
    pub(crate) gates: Arc<dyn GateStore>,
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) letters: Arc<dyn LetterStore>,
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) schedules: Arc<dyn ScheduleStore>,
    pub(crate) keys: Arc<dyn KeyStore>,
    /// What carries pieces of answers to other processes, if there are any.
    pub(crate) relay: Option<Arc<dyn Relay>>,
    /// Which store it is. What is kept elsewhere for one (journals of hands) means nothing to another.
    pub(crate) id: String,
}

impl Stores {
    /// Opens the store. One that is shared is waited for, unless somebody waits for this process.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be had now: it is away, or the data folder is in use.
    pub(crate) async fn open(
        config: &Config,
        role: Role,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        match &config.redis {
            Some(redis) => connect(config, redis, role, &*clock, observer).await,
            None => open_here(config, role, clock, observer),
        }
    }

    fn of<S>(store: S, id: String) -> Self
    where
        S: SessionLog
            + WorkQueue
            + RunStore
            + GateStore
            + SessionStore
            + LetterStore
            + Outbox
            + ScheduleStore
            + KeyStore,
    {
        let store = Arc::new(store);
        Self {
            log: store.clone(),
            queue: store.clone(),
            runs: store.clone(),
            gates: store.clone(),
            sessions: store.clone(),
            letters: store.clone(),
            outbox: store.clone(),
            schedules: store.clone(),
            keys: store,
            relay: None,
            id,
        }
    }
}

/// Opens the embedded store.
fn open_here(config: &Config, role: Role, clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Result<Stores, Error> {
    let options = torpor_store_embedded::Options {
        lease: config.worker.lease,
        result_ttl: config.result_ttl,
        dead_letter_ttl: config.dead_letter_ttl,
        max_dead_letters: config.max_dead_letters,
        max_queued: config.max_queued,
        clock,
        observer,
    };
    let remedy = match role {
        Role::Server | Role::Command => "wait for it, or start `torpor serve` once and let all clients use it",
        Role::Worker => {
            "let the `torpor serve` that has it do the work, or set REDIS_URL, which several processes can share"
        }
    };
    match torpor_store_embedded::Store::open(&config.data_dir, options) {
        Ok(store) => {
            let id = store.id().to_owned();
            Ok(Stores::of(store, id))
        }
        Err(e) if e.is_retryable() => Err(Error::Unavailable(format!("{e}; {remedy}"))),
        Err(e) => Err(Error::Other(anyhow::anyhow!("{e}"))),
    }
}

/// Connects to the shared store.
async fn connect(
    config: &Config,
    redis: &Redis,
    role: Role,
    clock: &dyn Clock,
    observer: Arc<dyn Observer>,
) -> Result<Stores, Error> {
    let options = torpor_store_redis::Options {
        prefix: redis.prefix.clone(),
        shards: redis.shards,
        lease: config.worker.lease,
        result_ttl: config.result_ttl,
        dead_letter_ttl: config.dead_letter_ttl,
        max_dead_letters: config.max_dead_letters,
        max_queued: config.max_queued,
        durability: redis.durability,
        tls: redis.tls.clone(),
        observer,
        ..torpor_store_redis::Options::default()
    };
    let (begun, address) = (clock.now(), &redis.address);
    let patience = if role == Role::Command { Duration::ZERO } else { PATIENCE };
    loop {
        match torpor_store_redis::Store::connect(address, options.clone()).await {
            Ok(store) => {
                let (id, relay) = (store.id().to_owned(), store.relay());
                return Ok(Stores { relay: Some(relay), ..Stores::of(store, id) });
            }
            Err(e) => {
                let left = patience.saturating_sub(clock.now().since(begun));
                if !e.is_retryable() {
                    return Err(Error::Other(anyhow::anyhow!("REDIS_URL ({address}): {e}")));
                }
                if left.is_zero() {
                    let hint = "is it running there, and does the network lead to it?";
                    return Err(Error::Unavailable(format!("REDIS_URL ({address}): {e}; {hint}")));
                }
                tracing::warn!(%address, error = %e, "the store does not answer; trying on for {} s", left.as_secs());
                clock.sleep(TRY_EVERY.min(left)).await;
            }
        }
    }
}

/// What a store that does not answer means for a command.
pub(crate) fn failed(e: &store::Error) -> Error {
    if e.is_retryable() { Error::Unavailable(e.to_string()) } else { Error::Other(anyhow::anyhow!("{e}")) }
}
