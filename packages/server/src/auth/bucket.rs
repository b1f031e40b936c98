//! How often something may happen: a token bucket without a lock.
//!
//! Owns: the arithmetic. Must not know: whose bucket it is.
//!
//! One number is kept: the instant at which the bucket is full again. A call moves it by the time that one token takes
//! to refill, and is refused if that would put it further away than a whole bucket takes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use torpor_core::Timestamp;
use torpor_core::key::Rate;

const SECOND: u64 = 1_000_000_000;

/// A bucket, full at first.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Nanoseconds since the epoch.
    full_at: AtomicU64,
}

/// What became of an attempt to take a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) allowed: bool,
    /// Tokens in a full bucket.
    pub(crate) limit: u32,
    /// Tokens that are left.
    pub(crate) remaining: u32,
    /// Until it is full again, rounded up.
    pub(crate) reset_seconds: u32,
    /// Until there is a token again, rounded up; at least 1.
    pub(crate) retry_seconds: u32,
}

impl Bucket {
    /// A bucket that goes on from this one.
    pub(crate) fn continued(&self) -> Self {
        Self { full_at: AtomicU64::new(self.full_at.load(Relaxed)) }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&self, rate: Rate, now: Timestamp) -> Taken {
        let now = now.0.saturating_mul(1_000_000);
        let one = SECOND / u64::from(rate.per_second.max(1));
        let whole = one * u64::from(rate.burst);
        // A clock that was set back must not leave the bucket empty for as long as that.
        let lag = |full_at: u64| full_at.saturating_sub(now).min(whole);
        let mut allowed = false;
        let before = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let after = lag(full_at) + one;
            allowed = after <= whole;
            let next = now + if allowed { after } else { lag(full_at) };
            (next != full_at).then_some(next)
        });
        let lag = lag(before.unwrap_or_else(|same| same)) + if allowed { one } else { 0 };
        let seconds = |ns: u64| u32::try_from(ns.div_ceil(SECOND)).unwrap_or(u32::MAX);
        Taken {
            allowed,
            limit: rate.burst,
            remaining: u32::try_from((whole - lag) / one).unwrap_or(0),
            reset_seconds: seconds(lag),
            retry_seconds: seconds((lag + one).saturating_sub(whole)).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp(START + ms)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(2, 3).unwrap());
        // When; then: allowed, remaining, seconds until it is full, seconds until there is one.
        for (ms, allowed, remaining, reset) in [
            (0, true, 2, 1),
            (0, true, 1, 1),
            (0, true, 0, 2),
            (0, false, 0, 2),
            (499, false, 0, 2),
            (500, true, 0, 2),
            (999, false, 0, 2),
            (10_000, true, 2, 1),
        ] {
            let taken = bucket.take(rate, at(ms));
            let got = (taken.allowed, taken.remaining, taken.reset_seconds);
            assert_eq!(got, (allowed, remaining, reset), "at {ms} ms: {taken:?}");
            assert_eq!((taken.limit, taken.retry_seconds), (3, 1));
        }
    }

    #[test]
    fn a_slow_rate_says_how_long() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, 1).unwrap());
        assert!(bucket.take(rate, at(0)).allowed);
        let refused = bucket.take(rate, at(0));
        assert_eq!((refused.allowed, refused.retry_seconds, refused.reset_seconds), (false, 1, 1));
    }

    #[test]
    fn a_clock_that_is_set_back_costs_one_bucket_at_most() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, 2).unwrap());
        bucket.take(rate, at(0));
        let hour = 3_600_000;
        assert!(!bucket.take(rate, Timestamp(START - hour)).allowed);
        assert!(!bucket.take(rate, Timestamp(START - hour + 500)).allowed);
        let mut tokens = 0;
        for s in 1..=10 {
            tokens += u32::from(bucket.take(rate, Timestamp(START - hour + s * 1_000)).allowed);
        }
        assert!(tokens <= 10, "{tokens}");
    }

    #[test]
    fn many_at_once_never_take_more_than_there_is() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, 100).unwrap());
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..100).filter(|_| bucket.take(rate, at(0)).allowed).count())).collect();
            takers.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }
}
