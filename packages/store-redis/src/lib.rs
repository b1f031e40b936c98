//! The shared store: session log, queue, leases and run records on Redis, for any number of processes at once.
//!
//! Owns: everything it keeps in Redis, and its connections. Must not know: HTTP, models, tools, or what a run does.
//!
//! Every change is one script (`lua/`), sent by content hash over two pipelined connections (`link`). What waits, waits for
//! hints: wake-ups of claims (`wake`) and published news (`news`); the keys are the truth, and whoever waits looks again by itself.
//! The layout of the keys is described in docs/specs/2026-11-20-redis-store.md.

mod address;
mod append;
mod claim;
mod durable;
mod enqueue;
mod entries;
mod gates;
mod import;
mod keys;
mod letters;
mod link;
mod live;
mod log;
mod news;
mod outbox;
mod pages;
mod queue;
mod record;
mod reply;
mod runs;
mod schedules;
mod script;
mod sessions;
mod shard;
mod tls;
mod wake;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use torpor_core::observe::{Nobody, Observer};
use torpor_core::{Clock, SystemClock, Timestamp, store};

pub use crate::address::{Address, InvalidAddress};
pub use crate::durable::Durability;
use crate::durable::Synced;
use crate::link::Link;
use crate::news::News;
use crate::shard::Shards;
pub use crate::tls::{InvalidTls, Tls};
use crate::wake::Wake;

/// What can be chosen about a store.
#[derive(Clone)]
pub struct Options {
    /// Begins every key; `torpor` by default.
    pub prefix: String,
    /// Into how many shards a new store is divided; 1 by default. A store that exists keeps its number, and refuses another.
    pub shards: u16,
    /// How long a claim lasts without a heartbeat; 3 s by default.
    pub lease: Duration,
    /// How long a terminal record is kept from its end; 24 h by default.
    pub result_ttl: Duration,
    /// How long a dead letter is kept, and its run's record with it; 7 days by default.
    pub dead_letter_ttl: Duration,
    /// Most dead letters that are kept in each shard; 10,000 by default.
    pub max_dead_letters: u64,
    /// Most runs that may be queued, running or paused at once, in each shard; 1,000,000 by default.
    pub max_queued: u64,
    /// How long one call may take before the store counts as away, and an intent may wait to be durable; 5 s by default.
    pub timeout: Duration,
    /// What an append that holds an intent waits for; nothing by default.
    pub durability: Durability,
    /// Who vouches for a `rediss://` server; by default whom the system trusts.
    pub tls: Tls,
    /// The store's clock for tests; `None` is the server's.
    pub clock: Option<Arc<dyn Clock>>,
    /// Who is told of commits; nobody by default.
    pub observer: Arc<dyn Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: "torpor".to_owned(),
            shards: 1,
            lease: Duration::from_secs(3),
            result_ttl: Duration::from_secs(86_400),
            dead_letter_ttl: Duration::from_secs(7 * 86_400),
            max_dead_letters: 10_000,
            max_queued: 1_000_000,
            timeout: Duration::from_secs(5),
            durability: Durability::Off,
            tls: Tls::default(),
            clock: None,
            observer: Arc::new(Nobody),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("prefix", &self.prefix)
            .field("shards", &self.shards)
            .field("lease", &self.lease)
            .field("result_ttl", &self.result_ttl)
            .field("dead_letter_ttl", &self.dead_letter_ttl)
            .field("max_dead_letters", &self.max_dead_letters)
            .field("max_queued", &self.max_queued)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

/// The store. Dropping it closes its connections.
pub struct Store {
    pub(crate) link: Arc<Link>,
    pub(crate) shards: Shards,
    pub(crate) wake: Wake,
    pub(crate) news: News,
    pub(crate) synced: Option<Synced>,
    pub(crate) options: Options,
    /// What local waits are measured with; the same as the store's clock in tests.
    pub(crate) clock: Arc<dyn Clock>,
    id: String,
    /// At which shard the next claim looks first.
    pub(crate) turn: AtomicUsize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Connects, and makes the store if there is none under the prefix. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// - [`store::Error::Unavailable`] when the server cannot be reached now.
    /// - [`store::Error::Unreadable`] when the store is of a newer layout.
    /// - [`store::Error::Failed`] when the server is too old, refuses the credentials, or the store has another number
    ///   of shards.
    pub async fn connect(address: &Address, options: Options) -> Result<Self, store::Error> {
        let link = Arc::new(Link::new(address.clone(), options.tls.clone(), options.timeout));
        link.is_single().await?;
        tokio::spawn(Link::look_after(Arc::downgrade(&link)));
        let shards = Shards::new(&options.prefix, options.shards);
        let id = shard::found(&link, &shards, &options).await?;
        let wake = Wake::start(&link, &shards);
        let news = News::start(&link);
        let synced = match options.durability {
            Durability::Off => None,
            Durability::Synced { replicas } => Some(Synced::start(&link, &shards, replicas, options.timeout)),
        };
        let clock = options.clock.clone().unwrap_or_else(|| Arc::new(SystemClock));
        Ok(Self { link, shards, wake, news, synced, options, clock, id, turn: AtomicUsize::new(0) })
    }

    /// Which store this is: a random id that was made with it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The time that scripts are given: none but in tests, where the server's clock is not the store's.
    pub(crate) fn script_time(&self) -> Option<Timestamp> {
        self.options.clock.as_ref().map(|clock| clock.now())
    }
}
