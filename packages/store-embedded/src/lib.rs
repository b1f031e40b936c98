//! The embedded store: session log, queue, leases and run records in one SQLite file.
//!
//! Owns: the data folder and everything in it. One process at a time: whoever opens the folder locks it, so leases
//! of earlier processes are void from the start. Must not know: HTTP, models, tools, or what a run does.
//!
//! One thread writes with group commit (`writer`), a few read (`readers`); nothing here blocks the async runtime. The
//! layout of the file is described in `schema`, and can be read with plain SQL.

mod append;
mod cancel;
mod claim;
mod enqueue;
mod fault;
mod fork;
mod gates;
mod history;
mod import;
mod keys;
mod leases;
mod letters;
mod lock;
mod outbox;
mod readers;
mod record;
mod remove;
mod schedules;
mod schema;
mod seams;
mod sessions;
mod settle;
#[cfg(test)]
mod tests;
mod waiters;
mod writer;

use std::fmt;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use torpor_core::observe::{Nobody, Observer};
use torpor_core::{Clock, SystemClock, store};

use crate::import::Staged;
use crate::lock::Folder;
pub use crate::lock::holder;
use crate::readers::Readers;
use crate::waiters::Waiters;
use crate::writer::{Signals, State, Writer};

/// The database's name in the data folder.
const FILE: &str = "store.db";

/// What can be chosen about a store.
#[derive(Clone)]
pub struct Options {
    /// How long a claim lasts without a heartbeat; 3 s by default.
    pub lease: Duration,
    /// How long a terminal record is kept from its end; 24 h by default.
    pub result_ttl: Duration,
    /// How long a dead letter is kept, and its run's record with it; 7 days by default.
    pub dead_letter_ttl: Duration,
    /// Most dead letters that are kept; 10,000 by default.
    pub max_dead_letters: u64,
    /// Most runs that may be queued, running or paused at once; 1,000,000 by default.
    pub max_queued: u64,
    /// The store's clock; the machine's by default.
    pub clock: Arc<dyn Clock>,
    /// Who is told of commits; nobody by default.
    pub observer: Arc<dyn Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            result_ttl: Duration::from_secs(86_400),
            dead_letter_ttl: Duration::from_secs(7 * 86_400),
            max_dead_letters: 10_000,
            max_queued: 1_000_000,
            clock: Arc::new(SystemClock),
            observer: Arc::new(Nobody),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("lease", &self.lease)
            .field("result_ttl", &self.result_ttl)
            .field("dead_letter_ttl", &self.dead_letter_ttl)
            .field("max_dead_letters", &self.max_dead_letters)
            .field("max_queued", &self.max_queued)
            .finish_non_exhaustive()
    }
}

/// The store. Implements [`SessionLog`](torpor_core::log::SessionLog),
/// [`WorkQueue`](torpor_core::queue::WorkQueue), [`RunStore`](torpor_core::run::RunStore),
/// [`GateStore`](torpor_core::gate::GateStore), [`SessionStore`](torpor_core::session::SessionStore),
/// [`LetterStore`](torpor_core::dead_letter::LetterStore), [`Outbox`](torpor_core::webhook::Outbox) and
/// [`KeyStore`](torpor_core::key::KeyStore).
///
/// Dropping it finishes the commands that were accepted, waits for its threads and releases the folder.
pub struct Store {
    // The order matters: the threads stop before the folder is released.
    writer: Arc<Writer>,
    staged: Arc<Staged>,
    readers: Readers,
    signals: Arc<Signals>,
    clock: Arc<dyn Clock>,
    keep: Keep,
    id: String,
    folder: Arc<Folder>,
}

/// What a sweep leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Records, for so long from their end.
    pub(crate) records: Duration,
    /// So many dead letters.
    pub(crate) letters: u64,
    /// For so long.
    pub(crate) letters_for: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`, creating it if it is missing. Blocks on the disk for a few milliseconds.
    ///
    /// # Errors
    /// - [`store::Error::Unavailable`] when another process holds the folder; it names the folder and the process.
    /// - [`store::Error::Unreadable`] when the database is damaged or of a newer version.
    /// - [`store::Error::Failed`] when the folder cannot be used.
    pub fn open(dir: &Path, options: Options) -> Result<Self, store::Error> {
        let folder = Folder::lock(dir)?;
        let file = dir.join(FILE);
        keep_private(&file)
            .map_err(|e| store::Error::Failed(format!("cannot create the database {}: {e}", file.display())))?;
        let conn = schema::open_writer(&file)?;
        let unreadable = |fault| fault::describe(&format!("cannot read the database {}", file.display()), fault);
        let id = schema::id(&conn).map_err(unreadable)?;
        let state = State::load(&conn, &options).map_err(unreadable)?;
        let readers = Readers::start(&file)?;
        let signals = Arc::new(Signals {
            ready: Notify::new(),
            posted: Notify::new(),
            due: watch::Sender::new(u64::MAX),
            waiters: Arc::new(Waiters::default()),
            readers: Arc::default(),
            told: cancel::Told::default(),
        });
        let keep = Keep {
            records: options.result_ttl,
            letters: options.max_dead_letters,
            letters_for: options.dead_letter_ttl,
        };
        let Options { clock, observer, .. } = options;
        let writer = Writer::start(conn, state, Arc::clone(&signals), observer)?;
        Ok(Self {
            writer: Arc::new(writer),
            staged: Arc::default(),
            readers,
            signals,
            clock,
            keep,
            id,
            folder: Arc::new(folder),
        })
    }

    /// Which store this is: a random id that was made with its file. A folder that is emptied and used again gets
    /// another, so that what was kept elsewhere under the old one is never taken for this store's.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Nobody else reads conversations, however open the folder is. SQLite gives its other files the same rights.
fn keep_private(file: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)?;
    file.set_permissions(Permissions::from_mode(0o600))
}
