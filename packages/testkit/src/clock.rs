//! A clock that only moves when a test says so.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use torpor_core::{Clock, Timestamp};

/// Virtual time: `now` stands still until [`ManualClock::advance`], and `sleep` waits for that.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now: watch::Sender::new(now) }
    }

    /// Moves time forward and wakes whoever slept until then.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now = now.after(by));
    }

    /// Sets the time, forwards or back.
    pub fn set(&self, now: Timestamp) {
        self.now.send_replace(now);
    }
}

impl Default for ManualClock {
    /// An instant of 2026, so that a number of milliseconds near zero stands out as a mistake.
    fn default() -> Self {
        Self::at(Timestamp(1_790_000_000_000))
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    async fn sleep(&self, d: Duration) {
        let mut now = self.now.subscribe();
        let until = now.borrow_and_update().after(d);
        if now.wait_for(|now| *now >= until).await.is_err() {
            std::future::pending::<()>().await; // a clock that is gone never moves again
        }
    }
}
