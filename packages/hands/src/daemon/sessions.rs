//! All sessions of a daemon.
//!
//! Owns: finding and loading sessions, forgetting those that rest, and what they share. Must not know: connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, Semaphore};
use torpor_exec_channel::message::{Code, Hands, Refused};

use super::reserve::Reserve;
use super::session::Session;
use super::usage;
use crate::cgroup::{Home, Leaf};
use crate::domain::tree;
use crate::level::Level;
use crate::settings::Settings;

/// Calls that run at once; more wait for their turn.
const MAX_RUNNING: usize = 256;
/// Calls of one session that run at once, so that none can take all turns.
pub(super) const MAX_RUNNING_OF_SESSION: usize = 64;
/// Sessions kept in memory.
const MAX_SESSIONS: usize = 100_000;
/// A domain without calls and without processes stays this long.
const REST: Duration = Duration::from_secs(60);
/// Domains beyond which they stay only this long.
const MAX_RESTING: usize = 32;
const REST_WHEN_CROWDED: Duration = Duration::from_secs(2);
/// A session that nobody has used for so long is read from disk again when it is needed.
const FORGET_AFTER: Duration = Duration::from_secs(900);

/// What all sessions share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) level: Level,
    pub(super) incarnation: String,
    pub(super) turns: Semaphore,
    pub(super) reserve: Reserve,
    /// Where the control groups of domains are, or why there are none.
    pub(super) groups: Result<Home, String>,
}

impl Shared {
    /// A control group for a domain that is about to start.
    pub(super) fn group(&self) -> Result<Option<Leaf>, String> {
        let Ok(home) = &self.groups else { return Ok(None) };
        let name = uuid::Uuid::new_v4().simple().to_string();
        let limits = &self.settings.limits;
        let leaf = home.leaf(&name, limits.memory, limits.processes);
        leaf.map(Some).map_err(|e| format!("no control group could be made: {e}"))
    }

    /// What a session may use, for people.
    fn limits(&self) -> String {
        let limits = &self.settings.limits;
        let (memory, disk, processes) = (limits.memory >> 20, limits.disk >> 20, limits.processes);
        match &self.groups {
            Ok(_) => format!("memory {memory} MiB and {processes} processes by control group, disk {disk} MiB watched"),
            Err(why) => format!(
                "memory {memory} MiB and disk {disk} MiB watched, {processes} processes by rlimit (no control group: {why})"
            ),
        }
    }
}

/// See the module's page.
pub(super) struct Sessions {
    shared: Arc<Shared>,
    known: Mutex<HashMap<String, Arc<Session>>>,
    running: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    asked: String,
    replaced: Notify,
}

impl Sessions {
    /// `asked` is the digest of the settings as they were given.
    pub(super) fn new(settings: Settings, level: Level, asked: String, groups: Result<Home, String>) -> Arc<Self> {
        let incarnation = uuid::Uuid::new_v4().simple().to_string();
        let (turns, reserve) = (Semaphore::new(MAX_RUNNING), Reserve::new(&settings.state));
        let shared = Arc::new(Shared { settings, level, incarnation, turns, reserve, groups });
        let (running, connections) = (Arc::default(), Arc::default());
        Arc::new(Self { shared, known: Mutex::default(), running, connections, asked, replaced: Notify::new() })
    }

    /// How many brains are attached.
    pub(super) fn connections(&self) -> Arc<AtomicUsize> {
        self.connections.clone()
    }

    /// Whether a brain that expects these settings is in the right place. If not, and nobody else is here, the daemon
    /// makes room for one that has them.
    pub(super) fn expected(&self, settings: Option<&str>) -> Result<(), Refused> {
        if settings.is_none_or(|s| s == self.asked) { Ok(()) } else { Err(self.make_room("have other settings")) }
    }

    /// What a brain is told that speaks another version: after an upgrade it finds the hands of the build before. Those
    /// that a brain starts make room; those that are there by themselves cannot be replaced from here.
    pub(super) fn other_version(&self, what: String) -> Refused {
        if self.shared.settings.exit_when_idle {
            return self.make_room(&format!("are of another version ({what})"));
        }
        Refused { code: Code::Version, message: what, current: None }
    }

    /// Leaves if nobody else is here, and says so.
    fn make_room(&self, why: &str) -> Refused {
        let pid = std::process::id();
        let idle = !self.busy() && self.connections.load(Ordering::Relaxed) <= 1;
        let message = if idle && self.shared.settings.exit_when_idle {
            self.replaced.notify_one();
            format!("the hands (pid {pid}) {why} and make room")
        } else {
            format!("the hands (pid {pid}) {why} and are in use: wait until they are idle, or end them")
        };
        Refused { code: Code::Busy, message, current: None }
    }

    /// Waits until this daemon is to make room for another one. Cancellation safe.
    pub(super) async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// What hello says.
    pub(super) fn hands(&self) -> Hands {
        Hands {
            incarnation: self.shared.incarnation.clone(),
            level: self.shared.level.to_string(),
            limits: self.shared.limits(),
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
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Ends what nobody waits for, and forgets what rests.
    pub(super) async fn sweep(&self) {
        let all: Vec<_> = self.known.lock().await.values().cloned().collect();
        let domains = all.iter().filter(|s| s.has_domain()).count();
        let rest = if domains > MAX_RESTING { REST_WHEN_CROWDED } else { REST };
        for session in all {
            session.sweep(rest).await;
        }
        // Whoever holds a session has a second reference to it.
        self.known.lock().await.retain(|_, s| Arc::strong_count(s) > 1 || s.rested() < FORGET_AFTER);
    }

    /// Sessions that have a domain, with the process below which it is.
    async fn at_work(&self) -> Vec<(Arc<Session>, i32)> {
        let all: Vec<_> = self.known.lock().await.values().cloned().collect();
        all.into_iter().filter_map(|s| s.domain_process().map(|pid| (s, pid))).collect()
    }

    /// Holds sessions to their limit on memory, unless the kernel does.
    pub(super) async fn watch_memory(&self) {
        if self.shared.groups.is_ok() {
            return;
        }
        let all = self.at_work().await;
        if all.is_empty() {
            return;
        }
        let (roots, most) = (all.iter().map(|(_, pid)| *pid).collect::<Vec<_>>(), self.shared.settings.limits.memory);
        let look = move || -> Vec<u64> {
            let sum = |of: &Vec<(i32, u64)>| of.iter().map(|(_, bytes)| bytes).sum::<u64>();
            // What processes share is counted once only where it matters: that takes long.
            let exact = |of: Vec<(i32, u64)>| if sum(&of) > most { usage::memory(&of) } else { sum(&of) };
            tree::resident(&roots).into_iter().map(exact).collect()
        };
        let held = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        for ((session, _), held) in all.iter().zip(held) {
            session.watch_memory(held);
        }
    }

    /// Holds sessions to their limits on disk, one after the other: a large folder takes its time.
    pub(super) async fn watch_disk(&self) {
        for (session, _) in self.at_work().await {
            session.watch_disk().await;
        }
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
