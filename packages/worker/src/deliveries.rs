//! The loop that sends the messages of a channel: claim, send, note.
//!
//! Owns: how many are sent at once, the schedule of repeats, when one is given up. Must not know: how one is sent or
//! signed, what it says, or what is written to a file.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use torpor_core::Clock;
use torpor_core::observe::{Event, Observer, Posted};
use torpor_core::webhook::{Channel, Claimed, Deliver, Failed, Failure, Noted, Outbox};

use crate::LAST_CLAIM;
use crate::busy::Busy;

/// Seconds to wait before the attempts after the first, with up to a quarter of jitter on top: ten attempts in about 16
/// hours, so that a receiver may be away for a night.
const WEBHOOK_PAUSES: &[u64] = &[5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800];
/// The same for files: somebody may stand there and wait, and a volume that is away for a moment is usual; 20 attempts in
/// about a day.
const FILE_PAUSES: &[u64] =
    &[1, 1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1_800, 1_800, 3_600, 7_200, 14_400, 14_400, 14_400, 21_600];
/// Longest wait that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(4 * 60 * 60);
/// Messages that are sent at once.
const CONCURRENCY: usize = 64;
/// Bound of one attempt, whatever the sender's own is.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long a claim lasts: an attempt, and time to note what became of it.
const CLAIM: Duration = Duration::from_secs(40);
/// One claim waits at most so long.
const CLAIM_SLICE: Duration = Duration::from_secs(30);
/// Waits while the store is away, and how often a note is tried: without one the message is sent again.
const STORE_AWAY: Duration = Duration::from_millis(500);
const NOTE_TRIES: usize = 5;

/// What is particular to a channel.
#[derive(Debug, Clone, Copy)]
struct Plan {
    channel: Channel,
    pauses: &'static [u64],
}

const WEBHOOKS: Plan = Plan { channel: Channel::Webhook, pauses: WEBHOOK_PAUSES };
const FILES: Plan = Plan { channel: Channel::Files, pauses: FILE_PAUSES };

/// Sends what the outbox holds for one channel.
#[derive(Clone)]
pub struct Deliveries {
    plan: Plan,
    outbox: Arc<dyn Outbox>,
    deliver: Arc<dyn Deliver>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    sending: Busy,
}

impl Deliveries {
    /// Sends webhooks from this outbox, with this sender, and tells this observer of attempts. Nothing happens until
    /// [`Deliveries::run`].
    #[must_use]
    pub fn webhooks(
        outbox: Arc<dyn Outbox>,
        deliver: Arc<dyn Deliver>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { plan: WEBHOOKS, outbox, deliver, clock, observer, sending: Busy::default() }
    }

    /// The same for files.
    #[must_use]
    pub fn files(
        outbox: Arc<dyn Outbox>,
        deliver: Arc<dyn Deliver>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { plan: FILES, outbox, deliver, clock, observer, sending: Busy::default() }
    }

    /// How many attempts it has begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.sending.begun()
    }

    pub(crate) fn busy(&self) -> &Busy {
        &self.sending
    }

    /// Sends until `shutdown`; then attempts under way may end for `drain`. One that does not is made again by whoever
    /// comes next, under the same id.
    pub async fn run(&self, shutdown: impl Future<Output = ()>, drain: Duration) {
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        let mut sending = JoinSet::new();
        let claiming = async {
            loop {
                let mut free = places_of(&places).await;
                match self.outbox.claim(self.plan.channel, free.len(), CLAIM, CLAIM_SLICE).await {
                    Ok(claimed) => {
                        for claimed in claimed {
                            let (deliveries, kept) = (self.clone(), (free.pop(), self.sending.begin()));
                            sending.spawn(async move {
                                deliveries.one(claimed).await;
                                drop(kept);
                            });
                        }
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "the outbox is away; waiting");
                        self.clock.sleep(STORE_AWAY).await;
                    }
                }
                while sending.try_join_next().is_some() {}
            }
        };
        {
            let mut claiming = pin!(claiming);
            tokio::select! {
                () = &mut claiming => {}
                () = shutdown => {}
            }
            tokio::select! {
                () = claiming => {}
                () = tokio::time::sleep(LAST_CLAIM) => {}
            }
        }
        tokio::select! {
            () = async { while sending.join_next().await.is_some() {} } => {}
            () = self.clock.sleep(drain) => {}
        }
    }

    /// One attempt, and the note of it.
    async fn one(&self, claimed: Claimed) {
        let Claimed { message, attempt } = claimed;
        let began = self.clock.now();
        let result = tokio::select! {
            result = self.deliver.deliver(&message) => result,
            () = self.clock.sleep(ATTEMPT) => Err(Failed::new(Failure::Timeout)),
        };
        let took = self.clock.now().since(began);
        let (id, run, channel) = (&message.id, &message.run, self.plan.channel.as_str());
        let (what, ended) = match result {
            Ok(status) => (Noted::Sent { status }, Posted::Sent),
            Err(Failed { why, status, retry_after, gone }) => {
                match self.plan.pause(attempt, retry_after).filter(|_| !gone) {
                    Some(after) => {
                        tracing::info!(%id, %run, channel, attempt, why = why.as_str(), status, ?after, "a delivery failed");
                        (Noted::Failed { why, status, after }, Posted::Failed)
                    }
                    None => {
                        tracing::warn!(%id, %run, channel, attempt, why = why.as_str(), status, "a delivery was given up");
                        (Noted::GivenUp { why, status }, Posted::GivenUp)
                    }
                }
            }
        };
        self.observer.observe(&match self.plan.channel {
            Channel::Webhook => Event::Webhook { ended, took },
            Channel::Files => Event::Files { ended, took },
        });
        for _ in 0..NOTE_TRIES {
            match self.outbox.note(id, attempt, what).await {
                Ok(_) => return,
                Err(e) => tracing::warn!(%id, error = %e, "an attempt could not be noted"),
            }
            self.clock.sleep(STORE_AWAY).await;
        }
    }
}

/// Waits for room for one, and takes all that there is.
async fn places_of(places: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    // The semaphore is never closed, so waiting cannot fail.
    let first = Arc::clone(places).acquire_owned().await.ok();
    first.into_iter().chain(std::iter::from_fn(|| Arc::clone(places).try_acquire_owned().ok())).collect()
}

impl Plan {
    /// How long to wait after this attempt has failed; `None` when it was the last.
    fn pause(self, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        let base = Duration::from_secs(*self.pauses.get(usize::try_from(attempt).ok()?.checked_sub(1)?)?);
        // The id's random bits serve as the source: this needs spread, not secrecy.
        let spread = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        let wait = base + base / 4 * spread / 255;
        Some(wait.max(asked.unwrap_or_default().min(MAX_RETRY_AFTER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_schedule_and_the_receiver_within_its_bound() {
        for (plan, attempts, hours) in [(WEBHOOKS, 10, 15..24), (FILES, 20, 22..30)] {
            for (attempt, base) in (1..).zip(plan.pauses.iter().copied().map(Duration::from_secs)) {
                let wait = plan.pause(attempt, None).unwrap();
                assert!(wait >= base && wait <= base * 5 / 4, "{attempt}: {wait:?}");
            }
            assert_eq!(plan.pause(attempts, None), None);
            assert_eq!(plan.pause(u32::MAX, Some(Duration::ZERO)), None);
            assert_eq!(plan.pause(1, Some(Duration::from_secs(90))), Some(Duration::from_secs(90)));
            assert_eq!(plan.pause(1, Some(Duration::MAX)), Some(MAX_RETRY_AFTER));
            let all: u64 = plan.pauses.iter().sum();
            assert!(hours.contains(&(all / 3_600)), "{all}");
        }
    }
}
