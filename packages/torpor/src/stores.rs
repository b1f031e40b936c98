//! The store that the configuration asks for, as the seams that everything else sees.
//!
//! Owns: which store that is, and how it is opened. Must not know: what is done with it.

use std::sync::Arc;

use torpor_core::dead_letter::LetterStore;
use torpor_core::gate::GateStore;
use torpor_core::key::KeyStore;
use torpor_core::log::SessionLog;
use torpor_core::observe::Observer;
use torpor_core::queue::WorkQueue;
use torpor_core::run::RunStore;
use torpor_core::session::SessionStore;
use torpor_core::webhook::Outbox;
use torpor_core::{Clock, store};

use crate::cli::Error;
use crate::config::Config;

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
    pub(crate) keys: Arc<dyn KeyStore>,
    /// Which store it is. What is kept elsewhere for one (journals of hands) means nothing to another.
    pub(crate) id: String,
}

impl Stores {
    /// Opens the store. Asynchronous for the stores that are connected to.
    ///
    /// # Errors
    /// [`store::Error::Unavailable`] when it cannot be had now: the data folder is in use, for instance.
    pub(crate) async fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, store::Error> {
        let options = torpor_store_embedded::Options {
            lease: config.worker.lease,
            result_ttl: config.result_ttl,
            dead_letter_ttl: config.dead_letter_ttl,
            max_dead_letters: config.max_dead_letters,
            max_queued: config.max_queued,
            clock,
            observer,
        };
        let store = torpor_store_embedded::Store::open(&config.data_dir, options)?;
        let id = store.id().to_owned();
        Ok(Self::of(store, id))
    }

    fn of<S>(store: S, id: String) -> Self
    where
        S: SessionLog + WorkQueue + RunStore + GateStore + SessionStore + LetterStore + Outbox + KeyStore,
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
            keys: store,
            id,
        }
    }
}

/// What a store that cannot be used means for a command that may be used beside others of its kind.
pub(crate) fn not_opened(e: &store::Error) -> Error {
    refused(e, "wait for it, or start `torpor serve` once and let all clients use it")
}

/// What a store that cannot be used means for a worker.
pub(crate) fn not_shared(e: &store::Error) -> Error {
    refused(e, "let the `torpor serve` that has it do the work, or set REDIS_URL, which several processes can share")
}

fn refused(e: &store::Error, remedy: &str) -> Error {
    if e.is_retryable() { Error::Unavailable(format!("{e}; {remedy}")) } else { Error::Other(anyhow::anyhow!("{e}")) }
}
