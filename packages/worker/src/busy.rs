//! What is under way in this process, and when there has been nothing to do for long enough.
//!
//! Owns: counting what is under way, and what counts as idle. Must not know: what the work is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use torpor_core::queue::Backlog;
use torpor_core::{Clock, store};

/// How often the queue is asked while nothing is under way: at least so many times within the wait, and so often.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_secs(1);
/// A queue that does not answer within this is away.
const ANSWER: Duration = Duration::from_secs(2);

/// Counts what is under way. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Busy(Arc<watch::Sender<Count>>);

#[derive(Debug, Default)]
struct Count {
    now: usize,
    begun: u64,
}

/// One piece of work, for as long as it is under way.
#[derive(Debug)]
pub(crate) struct Work(Busy);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Count::default())))
    }
}

impl Busy {
    /// Something begins; it ends when the answer is dropped.
    pub(crate) fn begin(&self) -> Work {
        self.0.send_modify(|count| count.begun += 1);
        self.tidy()
    }

    /// As [`Busy::begin`], for what is no work of its own but is to be waited for.
    pub(crate) fn tidy(&self) -> Work {
        self.0.send_modify(|count| count.now += 1);
        Work(self.clone())
    }

    /// How much has begun so far.
    pub(crate) fn begun(&self) -> u64 {
        self.0.borrow().begun
    }

    /// Waits until nothing is under way. Cancellation safe.
    pub(crate) async fn none(&self) {
        // The sender lives in `self`, so the channel cannot close before this returns.
        let _ = self.0.subscribe().wait_for(|count| count.now == 0).await;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.now -= 1);
    }
}

/// Waits until there was nothing to do for `long`: nothing was under way, nothing began, and the queue, when it was asked
/// for its counts, said all the while that nothing can be claimed. Time in which it does not answer counts for nothing:
/// there may be work. Cancellation safe.
///
/// Deliveries are not asked for: whoever sends takes all that are due at once, and then they are under way.
pub(crate) async fn idle<A>(counts: impl Fn() -> A, clock: &dyn Clock, work: &[&Busy], long: Duration)
where
    A: Future<Output = Result<Backlog, store::Error>>,
{
    let look = (long / LOOKS).min(LOOK);
    // Since when, and what had begun until then.
    let mut since = None;
    loop {
        for busy in work {
            busy.none().await;
        }
        let begun: u64 = work.iter().map(|busy| busy.begun()).sum();
        let answer = tokio::select! {
            answer = counts() => answer.ok(),
            () = clock.sleep(ANSWER) => None,
        };
        let now = clock.now();
        let before = since.filter(|(_, before)| *before == begun);
        since = answer.filter(|backlog| backlog.ready == 0).map(|_| before.unwrap_or((now, begun)));
        let left = since.map_or(look, |(at, _)| long.saturating_sub(now.since(at)));
        if left.is_zero() {
            return;
        }
        clock.sleep(left.min(look)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures::FutureExt as _;
    use futures::future::Either;
    use torpor_testkit::clock::ManualClock;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);
    const STEP: u64 = 100;

    /// What the queue says from some moment on.
    #[derive(Clone, Copy)]
    enum Says {
        Ready(u64),
        Away,
        Nothing,
    }

    /// When it is idle, in milliseconds, while `happens` is told of every step.
    fn idle_after(mut happens: impl FnMut(u64, &Busy) -> Says) -> u64 {
        let (clock, busy, other) = (ManualClock::default(), Busy::default(), Busy::default());
        let says = RefCell::new(happens(0, &busy));
        let counts = || match *says.borrow() {
            Says::Ready(ready) => Either::Left(ready_with(ready)),
            Says::Away => Either::Left(ready(Err(store::Error::Unavailable("gone".into())))),
            Says::Nothing => Either::Right(pending()),
        };
        let work = [&busy, &other];
        let mut idling = pin!(idle(counts, &clock, &work, LONG));
        for at in (0..120_000).step_by(100) {
            *says.borrow_mut() = happens(at, &busy);
            if idling.as_mut().now_or_never().is_some() {
                return at;
            }
            clock.advance(Duration::from_millis(STEP));
        }
        panic!("never idle");
    }

    fn ready_with(ready: u64) -> std::future::Ready<Result<Backlog, store::Error>> {
        // Whatever else there is does not count.
        let rest = Backlog { waiting: 7, leased: 7, paused: 7, dead: 7, webhooks: 7, ..Backlog::default() };
        std::future::ready(Ok(Backlog { ready, ..rest }))
    }

    #[test]
    fn nothing_to_do_for_long_enough_is_idle() {
        assert_eq!(idle_after(|_, _| Says::Ready(0)), 5_000);
    }

    #[test]
    fn what_can_be_claimed_begins_the_wait_anew() {
        let at = idle_after(|at, _| Says::Ready(u64::from(at == 0 || (3_000..3_500).contains(&at))));
        assert!((8_000..=9_100).contains(&at), "{at}");
    }

    #[test]
    fn what_is_under_way_or_came_and_went_begins_the_wait_anew() {
        let mut work = None;
        let at = idle_after(|at, busy| {
            if at == 4_000 {
                work = Some(busy.begin());
            }
            if at == 60_000 {
                work = None;
            }
            Says::Ready(0)
        });
        assert!((65_000..=66_100).contains(&at), "{at}");
        let mut seen = 0;
        let at = idle_after(|at, busy| {
            if at == 4_100 {
                drop(busy.begin());
                seen = busy.begun();
            }
            Says::Ready(0)
        });
        assert!((9_100..=10_100).contains(&at), "{at}");
        assert_eq!(seen, 1);
    }

    #[test]
    fn an_outage_counts_for_nothing() {
        for says in [Says::Away, Says::Nothing] {
            let at = idle_after(|at, _| if (2_000..40_000).contains(&at) { says } else { Says::Ready(0) });
            assert!((45_000..=47_100).contains(&at), "{at}");
        }
    }
}
