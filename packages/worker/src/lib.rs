//! The drain loop: claim, heartbeat, run, hand back.
//!
//! Owns: how many leaves run at once, the process's one heartbeat, retries and dead letters, drain; and the same for
//! deliveries, which are work like runs.
//! Must not know: what a leaf does, which store or sandbox there is, who submitted a run, or how a webhook is sent.

mod active;
mod busy;
mod deliveries;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use torpor_core::id::WorkerId;
use torpor_core::observe::{self, Event, Level, Present, Span, Work};
use torpor_core::outcome::Outcome;
use torpor_core::queue::{Lease, Release, WorkQueue};
use torpor_core::trace;
use torpor_harness::{Deps, LeafEnd, Stop, give_up, is_exhausted, run_leaf};
use tracing::Instrument as _;

use active::{Active, Place};
pub use deliveries::Deliveries;

/// One claim waits at most so long before it looks whether it should stop.
const CLAIM_SLICE: Duration = Duration::from_secs(5);
/// Waits between claims while the queue is away.
const QUEUE_AWAY: Duration = Duration::from_millis(500);
/// Most runs taken by one claim, so that one process does not empty the queue at a stroke.
const CLAIM_BATCH: usize = 16;
/// How long leaves that were told to hand back may take to reach a safe point.
const HAND_BACK_GRACE: Duration = Duration::from_secs(5);
/// How long a claim that is under way at the end may take. Cut off, it could take leases along that nobody knows of, and
/// whoever comes next would have to wait for their end. One that waits for work is not waited for.
const LAST_CLAIM: Duration = Duration::from_millis(50);
/// Wait of a run whose sandbox was busy.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Waits before a run whose leaf could not reach its log is claimable again: doubled per attempt up to the cap.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);

/// How a worker works.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Leaves that run at once.
    pub concurrency: usize,
    /// The store's lease time; the heartbeat is a third of it.
    pub lease: Duration,
    /// Claims without progress before a run is given up.
    pub max_attempts: u32,
    /// How long running leaves may go on after a shutdown was asked for; then they are handed back.
    pub drain: Duration,
    /// What it claims.
    pub claims: Claims,
}

/// What a worker claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// Whatever is in the queue.
    All,
    /// Nothing: it runs what it is handed ([`Room::take`]).
    Handed,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 256,
            lease: Duration::from_secs(3),
            max_attempts: 5,
            drain: Duration::from_secs(20),
            claims: Claims::All,
        }
    }
}

/// Runs leaves. Cheap to clone; clones are one worker.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

/// Room for one leaf in a worker. Dropping it gives the room back.
pub struct Room {
    worker: Worker,
    place: Place,
}

impl Room {
    /// Runs a lease that was claimed for this worker, in the background. While draining the lease is handed back.
    pub fn take(self, lease: Lease) {
        self.worker.start(lease, self.place);
    }
}

struct Inner {
    deps: Deps,
    queue: Arc<dyn WorkQueue>,
    id: WorkerId,
    config: Config,
    active: Active,
}

impl Worker {
    /// A worker that does nothing until [`Worker::run`].
    #[must_use]
    pub fn new(deps: Deps, queue: Arc<dyn WorkQueue>, id: WorkerId, config: Config) -> Self {
        Self(Arc::new(Inner { deps, queue, id, config, active: Active::new(config.concurrency) }))
    }

    /// The id under which this worker claims.
    #[must_use]
    pub fn id(&self) -> &WorkerId {
        &self.0.id
    }

    /// Room for one more leaf, kept for the caller; `None` when all is taken or while draining.
    #[must_use]
    pub fn reserve(&self) -> Option<Room> {
        self.0.active.reserve().map(|place| Room { worker: self.clone(), place })
    }

    /// Claims and runs until `shutdown`, then drains: leaves may finish for the configured time, then they are handed
    /// back at a safe point. Running commands go on in their sandbox. Returns when nothing is left.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let beat = tokio::spawn(self.clone().heartbeat());
        let cancels = tokio::spawn(self.clone().hear_cancels());
        let mut claiming = pin!(self.claim_until_closed());
        tokio::select! {
            () = &mut claiming => {}
            () = shutdown => {}
        }
        self.0.active.close();
        tokio::select! {
            () = &mut claiming => {}
            () = tokio::time::sleep(LAST_CLAIM) => {}
        }
        self.drain().await;
        beat.abort();
        cancels.abort();
    }

    /// Waits until there was nothing to do for `long`, neither here nor for `deliveries`, and nothing to claim: what waits
    /// for its time or for a person does not count, and neither does what others work on. Time in which the store does
    /// not answer does not count either. Cancellation safe.
    pub async fn idle(&self, deliveries: &[&Deliveries], long: Duration) {
        let work: Vec<_> = deliveries.iter().map(|d| d.busy()).chain([self.0.active.busy()]).collect();
        busy::idle(|| self.0.queue.backlog(), &*self.0.deps.clock, &work, long).await;
    }

    /// How many runs it has begun to work on.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.0.active.busy().begun()
    }

    async fn claim_until_closed(&self) {
        let inner = &*self.0;
        if inner.config.claims == Claims::Handed {
            return std::future::pending().await;
        }
        while !inner.active.is_closed() {
            let places = inner.active.wait_for_room(CLAIM_BATCH).await;
            match inner.queue.claim(&inner.id, places.len(), CLAIM_SLICE).await {
                Ok(leases) => leases.into_iter().zip(places).for_each(|(lease, place)| self.start(lease, place)),
                Err(e) => {
                    tracing::warn!(error = %e, "the queue is away; waiting");
                    inner.deps.clock.sleep(QUEUE_AWAY).await;
                }
            }
        }
    }

    /// Tells leaves that their runs are to be cancelled. What is missed here is said again at the next claim.
    async fn hear_cancels(self) {
        let inner = &*self.0;
        loop {
            match inner.queue.to_cancel(&inner.id, CLAIM_SLICE).await {
                Ok(keys) => keys.iter().for_each(|key| inner.active.cancel(key)),
                Err(_) => inner.deps.clock.sleep(QUEUE_AWAY).await, // the claiming loop says why
            }
        }
    }

    async fn heartbeat(self) {
        let inner = &*self.0;
        loop {
            inner.deps.clock.sleep(inner.config.lease / 3).await;
            let keys = inner.active.keys();
            if keys.is_empty() {
                continue;
            }
            match inner.queue.heartbeat(&inner.id, &keys).await {
                Ok(lost) => lost.iter().for_each(|key| {
                    inner.deps.observer.observe(&Event::LeaseLost);
                    inner.active.lost(key);
                }),
                // The leases may lapse meanwhile; whoever claims then raises the epoch, which stops our leaves.
                Err(e) => tracing::warn!(error = %e, "heartbeat failed"),
            }
        }
    }

    async fn drain(&self) {
        let inner = &*self.0;
        let (clock, busy) = (&inner.deps.clock, inner.active.busy());
        tokio::select! {
            () = busy.none() => return,
            () = clock.sleep(inner.config.drain) => {}
        }
        inner.active.hand_back_all();
        tokio::select! {
            () = busy.none() => {}
            () = clock.sleep(HAND_BACK_GRACE) => {
                tracing::warn!("some leaves did not reach a safe point in time; their leases will lapse");
            }
        }
    }

    fn start(&self, lease: Lease, place: Place) {
        let worker = self.clone();
        match self.0.active.enter(&lease.key(), place) {
            Some((slot, stop)) => tokio::spawn(async move {
                let lease = traced(lease);
                let observer = &worker.0.deps.observer;
                let _at_work = Present::new(observer.clone(), Level::Leaves);
                let waiting = lease.record.trace.as_ref().map(trace::Context::child);
                observer.observe(&claimed(&lease, waiting.as_ref()));
                let span = span(&lease);
                span.in_scope(|| match took_over(&lease) {
                    true => tracing::info!(attempt = lease.attempt, "took a run over"),
                    false => tracing::debug!(attempt = lease.attempt, "took a run"),
                });
                worker.run_one(lease, stop).instrument(span).await;
                drop(slot);
            }),
            None => {
                let keeping = self.0.active.busy().tidy();
                tokio::spawn(async move {
                    worker.release(&lease, Release::HandBack).await;
                    drop(keeping);
                })
            }
        };
    }

    async fn run_one(&self, lease: Lease, stop: Stop) {
        let inner = &*self.0;
        let attempt = lease.attempt;
        if is_exhausted(&inner.deps, &lease, inner.config.max_attempts).await {
            return self.bury(lease).await;
        }
        // A panic in a leaf is an attempt that failed, not a dead worker.
        let leaf = AssertUnwindSafe(run_leaf(&inner.deps, lease.clone(), stop)).catch_unwind();
        match Box::pin(leaf).await {
            Ok(LeafEnd::Ended(outcome)) => {
                self.tell(&lease, &outcome);
                tracing::info!(status = outcome.status().as_str(), "run ended");
            }
            Ok(LeafEnd::Parked) => tracing::info!("the run waits for a person"),
            Ok(LeafEnd::HandedBack) => self.release(&lease, Release::HandBack).await,
            Ok(LeafEnd::Busy(why)) => {
                tracing::info!(why, "the run has to wait");
                self.release(&lease, Release::Wait { after: BUSY_WAIT }).await;
            }
            Ok(LeafEnd::Fenced) => {}
            Ok(LeafEnd::Store(why)) => {
                tracing::warn!(attempt, why, "attempt failed");
                self.release(&lease, Release::Retry { after: retry_after(attempt) }).await;
            }
            Err(_) => {
                tracing::error!(attempt, "the leaf broke; this is a bug");
                self.release(&lease, Release::Retry { after: retry_after(attempt) }).await;
            }
        }
    }

    /// Gives a run up: its terminal entry first, then the note among the dead letters.
    async fn bury(&self, lease: Lease) {
        let run = lease.record.run_id.clone();
        let reason = format!("given up after {} attempts without progress", lease.attempt.saturating_sub(1));
        tracing::error!(reason, "dead letter");
        let LeafEnd::Ended(outcome) = give_up(&self.0.deps, lease.clone(), reason.clone()).await else { return };
        self.0.deps.observer.observe(&Event::DeadLetter);
        self.tell(&lease, &outcome);
        if let Err(e) = self.0.queue.dead_letter(&run, &reason).await {
            tracing::error!(error = %e, "the dead letter could not be noted; the run's record has the reason");
        }
    }

    fn tell(&self, lease: &Lease, outcome: &Outcome) {
        let deps = &self.0.deps;
        deps.observer.observe(&observe::ended(outcome, lease.record.created_at, deps.clock.now()));
    }

    async fn release(&self, lease: &Lease, why: Release) {
        if let Err(e) = self.0.queue.release(&lease.key(), why).await {
            tracing::warn!(error = %e, "the lease could not be released; it will lapse");
        }
    }
}

/// A lease whose run is part of a trace: one that nobody traced gets its own.
fn traced(mut lease: Lease) -> Lease {
    lease.record.trace.get_or_insert_with(trace::Context::fresh);
    lease
}

/// The claim as an event. Before the first entry of its run, and the first attempt, nobody had heard of the run since it was
/// accepted.
fn claimed<'a>(lease: &'a Lease, waiting: Option<&'a trace::Context>) -> Event<'a> {
    let record = &lease.record;
    let took_over = took_over(lease);
    let first = !took_over && lease.attempt == 1;
    let waited = record.started_at.filter(|_| first).zip(waiting).map(|(started, context)| {
        let took = started.since(record.created_at);
        Span { context, parent: record.trace.as_ref(), took }
    });
    let work = Work { run: &record.run_id, session: &record.session };
    Event::Claimed { work, waited, took_over }
}

/// A leaf that finds entries of its run in the log takes over from another.
fn took_over(lease: &Lease) -> bool {
    lease.record.log_from.is_some_and(|from| lease.head.position >= from)
}

/// Names the run in every line that is logged on its way.
fn span(lease: &Lease) -> tracing::Span {
    let trace_id = lease.record.trace.as_ref().map(trace::Context::trace_id).map(tracing::field::display);
    tracing::info_span!("run", run = %lease.record.run_id, session = %lease.session().digest(), trace_id)
}

fn retry_after(attempt: u32) -> Duration {
    RETRY_BASE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(RETRY_CAP)
}
