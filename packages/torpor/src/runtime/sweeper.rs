//! What is done from time to time: expired records go, idle sessions go, and the sandbox forgets those that are gone.
//!
//! Owns: when, and that a failure is tried again. Must not know: how anything is removed.

use std::sync::Arc;
use std::time::Duration;

use torpor_core::clock::Clock;
use torpor_core::run::RunStore;
use torpor_core::sandbox::{self, SandboxTransport};
use torpor_core::session::SessionStore;
use torpor_harness::NotForgotten;

/// How often expired records and idle sessions are looked for: four times in their lifetime, within these bounds.
const SWEEP_OFTEN: Duration = Duration::from_secs(1);
const SWEEP_SELDOM: Duration = Duration::from_secs(60);

/// How often a sandbox that has not forgotten a session is asked again.
const FORGET_EVERY: Duration = Duration::from_secs(5);

/// Idle sessions that are removed in one step, so that a long sweep delays nobody.
const IDLE_BATCH: usize = 100;

/// Sessions that the sandbox is asked to forget before everything is looked at anew.
const FORGET_BATCH: usize = 100;

/// Sweeps one store.
pub(super) struct Sweeper {
    pub(super) runs: Arc<dyn RunStore>,
    pub(super) sessions: Arc<dyn SessionStore>,
    pub(super) hands: Option<Arc<dyn SandboxTransport>>,
    pub(super) clock: Arc<dyn Clock>,
    /// How long records are kept.
    pub(super) result_ttl: Duration,
    /// Sessions that were idle for longer are removed; `None` keeps them.
    pub(super) session_ttl: Option<Duration>,
}

impl Sweeper {
    /// Sweeps until it is dropped. The first time at once: what the process before left is tried again.
    pub(super) async fn run(self) {
        let every = self.session_ttl.map_or(self.result_ttl, |ttl| ttl.min(self.result_ttl)) / 4;
        let every = every.clamp(SWEEP_OFTEN, SWEEP_SELDOM);
        let mut swept = None;
        loop {
            let now = self.clock.now();
            if swept.is_none_or(|at| now.since(at) >= every) {
                self.sweep().await;
                swept = Some(now);
            }
            let more = self.forget().await;
            if !more {
                self.clock.sleep(every.min(FORGET_EVERY)).await;
            }
        }
    }

    async fn sweep(&self) {
        match self.runs.sweep().await {
            Ok(0) => {}
            Ok(n) => tracing::info!(records = n, "expired records were removed"),
            Err(e) => tracing::warn!(error = %e, "sweep failed"),
        }
        let Some(ttl) = self.session_ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()) else { return };
        let Some(since) = self.clock.now().0.checked_sub(ttl).map(torpor_core::Timestamp) else { return };
        loop {
            match self.sessions.remove_idle(since, IDLE_BATCH).await {
                Ok(0) => return,
                Ok(n) => tracing::info!(sessions = n, "idle sessions were removed"),
                Err(e) => {
                    return tracing::warn!(error = %e, "idle sessions could not be removed; the next sweep tries again");
                }
            }
        }
    }

    /// Has the sandbox forget what is gone; `true` if there may be more at once.
    async fn forget(&self) -> bool {
        let Some(hands) = &self.hands else { return false };
        let all = match self.sessions.to_forget(FORGET_BATCH).await {
            Ok(all) => all,
            Err(e) => {
                tracing::warn!(error = %e, "what the sandbox is to forget cannot be read");
                return false;
            }
        };
        let mut forgotten = 0;
        for what in &all {
            match torpor_harness::forget(&*self.sessions, &**hands, what).await {
                Ok(_) => forgotten += 1,
                Err(e) => {
                    let session = what.session.digest();
                    tracing::warn!(session, error = %e, "the sandbox has not forgotten a removed session yet");
                    if !matches!(e, NotForgotten::Sandbox(sandbox::Error::Fenced { .. } | sandbox::Error::Refused(_))) {
                        return false; // it says nothing about this session alone
                    }
                }
            }
        }
        forgotten == FORGET_BATCH
    }
}
