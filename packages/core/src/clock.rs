//! Time as a seam: nothing above reads the system clock, so every test can run on virtual time.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Wall-clock time in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This instant plus `d`, saturating.
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with milliseconds, for people and for wire formats.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(ms) {
            Ok(t) => format!("{t:.3}"),
            Err(_) => format!("{}ms", self.0), // past the year 9999
        }
    }

    /// Reads RFC 3339; `None` for anything else and for times before 1970.
    #[must_use]
    pub fn parse_rfc3339(s: &str) -> Option<Self> {
        let t: jiff::Timestamp = s.parse().ok()?;
        u64::try_from(t.as_millisecond()).ok().map(Self)
    }
}

/// The source of time.
///
/// Durations that matter for correctness (leases) are judged by the store's own clock, never by this one.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The current wall-clock time.
    fn now(&self) -> Timestamp;

    /// Waits for `d`. Cancellation safe: dropping the future only stops the waiting.
    async fn sleep(&self, d: Duration);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that may read it
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    async fn sleep(&self, d: Duration) {
        tokio::time::sleep(d).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_of_known_instants() {
        for (ms, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_173_689_999, "2026-11-20T11:21:29.999Z"),
        ] {
            assert_eq!(Timestamp(ms).rfc3339(), want);
            assert_eq!(Timestamp::parse_rfc3339(want), Some(Timestamp(ms)));
        }
    }
}
