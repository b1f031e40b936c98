//! All sessions of a daemon.
//!
//! Owns: finding and loading sessions, forgetting those that rest, and what they share. Must not know: connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use torpor_exec_channel::message::{Code, Hands, Refused};

use super::session::Session;
use crate::level::Level;
use crate::settings::Settings;

/// Calls that run at once; more wait for their turn.
const MAX_RUNNING: usize = 256;
/// Sessions kept in memory.
const MAX_SESSIONS: usize = 100_000;
/// A session that nobody has used for so long is read from disk again when it is needed.
const FORGET_AFTER: Duration = Duration::from_secs(900);

/// What all sessions share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) level: Level,
    pub(super) incarnation: String,
    pub(super) turns: Arc<Semaphore>,
}

/// See the module's page.
pub(super) struct Sessions {
    shared: Arc<Shared>,
    known: Mutex<HashMap<String, Arc<Session>>>,
    running: Arc<std::sync::atomic::AtomicUsize>,
}

impl Sessions {
    pub(super) fn new(settings: Settings, level: Level) -> Arc<Self> {
        let incarnation = uuid::Uuid::new_v4().simple().to_string();
        let turns = Arc::new(Semaphore::new(MAX_RUNNING));
        let shared = Arc::new(Shared { settings, level, incarnation, turns });
        Arc::new(Self { shared, known: Mutex::default(), running: Arc::default() })
    }

    /// What hello says.
    pub(super) fn hands(&self) -> Hands {
        Hands {
            incarnation: self.shared.incarnation.clone(),
            level: self.shared.level.to_string(),
            pid: std::process::id(),
        }
    }

    /// The session with this digest, from memory or disk, or a new one.
    pub(super) async fn get(&self, digest: &str) -> Result<Arc<Session>, Refused> {
        let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digest.len() != 32 || !digest.bytes().all(plain) {
            let message = format!("session `{}` is no digest of 32 hexadecimal digits", digest.escape_debug());
            return Err(Refused { code: Code::Invalid, message, current: None });
        }
        let mut known = self.known.lock().await;
        if let Some(session) = known.get(digest) {
            return Ok(session.clone());
        }
        if known.len() >= MAX_SESSIONS {
            let message = format!("{MAX_SESSIONS} sessions are in use");
            return Err(Refused { code: Code::Busy, message, current: None });
        }
        let session = Session::load(digest, self.shared.clone(), self.running.clone()).await?;
        known.insert(digest.to_owned(), session.clone());
        Ok(session)
    }

    /// Whether any call runs.
    pub(super) fn busy(&self) -> bool {
        self.running.load(std::sync::atomic::Ordering::Relaxed) > 0
    }

    /// Ends what nobody waits for, and forgets what rests.
    pub(super) async fn sweep(&self) {
        let all: Vec<_> = self.known.lock().await.values().cloned().collect();
        for session in all {
            session.sweep().await;
        }
        // Whoever holds a session has a second reference to it.
        self.known.lock().await.retain(|_, s| Arc::strong_count(s) > 1 || s.rested() < FORGET_AFTER);
    }

    /// Cancels every call and ends every domain.
    pub(super) async fn end_all(&self) {
        let all: Vec<_> = self.known.lock().await.drain().map(|(_, s)| s).collect();
        for session in &all {
            session.cancel_all();
        }
        for session in all {
            session.end().await;
        }
    }
}
