//! Accepting a run and waiting for it, for every route that starts one.
//!
//! Owns: the one way into the queue, the hand-over to a local worker, and the wait with its bound.
//! Must not know: what the request looked like, or what its answer will.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use torpor_core::observe::Event;
use torpor_core::problem::Code;
use torpor_core::queue::{Enqueued, Expects, Idempotency, NewRun};
use torpor_core::run::Record;
use torpor_core::webhook::State;
use torpor_core::{RunId, SessionKey, store};
use tracing::Instrument as _;

use crate::answer::{is_settled, location, with_run};
use crate::app::App;
use crate::auth::Ring;
use crate::config::Config;
use crate::pages::Pages;
use crate::phase::{Phase, Signal};
use crate::problem::Problem;
use crate::routes::{Recent, sessions};

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(crate) config: Config,
    pub(crate) phase: Signal,
    /// Who may come in.
    pub(crate) ring: Ring,
    /// Turns for large bodies; never closed.
    pub(crate) large_bodies: Semaphore,
    /// Turns for imports; never closed.
    pub(crate) imports: Semaphore,
    /// The queue's counts, as the last scrape read them.
    pub(crate) backlog: Recent,
    /// What followers hold.
    pub(crate) pages: Arc<Pages>,
}

impl Shared {
    pub(crate) fn new(app: App, config: Config) -> Arc<Self> {
        let large_bodies = Semaphore::new(config.large_bodies);
        let ring = Ring::new(Arc::clone(&app.keys), Arc::clone(&app.clock), app.owner.clone(), config.require_keys);
        Arc::new(Self {
            app,
            config,
            phase: Signal::new(),
            ring,
            large_bodies,
            imports: Semaphore::new(sessions::import::AT_ONCE),
            backlog: Recent::default(),
            pages: Arc::default(),
        })
    }
}

/// A run that was accepted, now or by an earlier post of the same key.
pub(crate) struct Ticket {
    pub(crate) run: RunId,
    pub(crate) session: SessionKey,
    version: u64,
    /// The record, if the run had settled already.
    pub(crate) settled: Option<Box<Record>>,
}

impl Ticket {
    /// For whoever waits for a change of this record.
    pub(crate) fn new(record: &Record) -> Self {
        Self { run: record.run_id.clone(), session: record.session.clone(), version: record.version, settled: None }
    }
}

/// The key of a submit. Keys that clients make up and session ids are apart, so that neither can collide with the
/// other.
pub(crate) enum Key<'a> {
    /// From the `Idempotency-Key` header.
    Header(&'a str),
    /// The session id, for the session's first run.
    Session(&'a str),
    /// The claim of a task of the inbox.
    Task(&'a str),
}

impl Key<'_> {
    pub(crate) fn with(self, body_hash: String) -> Idempotency {
        let key = match self {
            Self::Header(key) => format!("key:{key}"),
            Self::Session(id) => format!("session:{id}"),
            Self::Task(claim) => format!("inbox:{claim}"),
        };
        Idempotency { key, body_hash }
    }
}

/// Refuses new work while the server goes away.
pub(crate) fn check_open(shared: &Shared) -> Result<(), Problem> {
    if shared.phase.now() == Phase::Serving { Ok(()) } else { Err(Problem::draining()) }
}

/// Puts a run into the queue. With `now`, it is claimed for the local worker in the same step if that has room.
///
/// Cancellation safe: once this has begun, the run is accepted and handed over whether or not the client stays.
pub(crate) async fn submit(shared: &Arc<Shared>, new: NewRun, now: bool) -> Result<Ticket, Problem> {
    let expects = new.expects;
    let this = Arc::clone(shared);
    let accepted = ToTheEnd::new(async move { accept(&this.app, new, now).await }).await?;
    accepted.ticket(expects)
}

/// What the queue said.
pub(crate) enum Accepted {
    Run(Ticket),
    GatePending(Box<Record>),
    Expired,
    Conflict,
    NoSession,
    Forgetting,
    Full,
}

impl Accepted {
    /// The run, or why there is none.
    pub(crate) fn ticket(self, expects: Expects) -> Result<Ticket, Problem> {
        match self {
            Self::Run(ticket) => Ok(ticket),
            Self::NoSession => Err(Problem::new(
                Code::SessionNotFound,
                "There is no session with this `sessionId`; a turn without one starts a new session.",
            )),
            Self::Forgetting => Err(sessions::forgetting()),
            Self::Full => Err(Problem::queue_full()),
            Self::Expired => Err(Problem::new(
                Code::RunExpired,
                "This very run has been, and its record has expired. Its session still takes turns at `/turn`; to do the \
             work again, send it with a new `sessionId`.",
            )),
            Self::GatePending(record) => {
                let gates: Vec<u64> = record.gates.iter().map(|g| g.gate).collect();
                let detail = format!(
                    "The session waits for a verdict: send it to `{at}/approve`, `/reject` or `/abort`, or leave a message \
                 at `{at}/messages`.",
                    at = location(&record.run_id)
                );
                Err(with_run(Problem::new(Code::GatePending, detail), &record.run_id).with("pending", gates.into()))
            }
            Self::Conflict if expects == Expects::New => Err(Problem::new(
                Code::IdempotencyConflict,
                "This `sessionId` or `Idempotency-Key` was used before with another body. Send the same body to get \
             that run's answer, or use a new one; further turns of a session go to `/turn`.",
            )),
            Self::Conflict => Err(Problem::new(
                Code::IdempotencyConflict,
                "This `Idempotency-Key` was used before with another body. Send the same body to get that run's \
             answer, or use a new key.",
            )),
        }
    }
}

/// Puts a run into the queue. Cancellation: whether it was accepted is unknown.
pub(crate) async fn accept(app: &App, mut new: NewRun, now: bool) -> Result<Accepted, store::Error> {
    let local = app.local.as_ref().filter(|_| now);
    let reserved = local.and_then(|local| local.reserve().map(|room| (local.id(), room)));
    let (id, room) = reserved.unzip();
    new.claim_for = id;
    Ok(match app.queue.enqueue(new).await? {
        Enqueued::Created(record) => {
            app.observer.observe(&Event::Accepted);
            Accepted::Run(Ticket::new(&record))
        }
        Enqueued::Claimed(lease) => {
            app.observer.observe(&Event::Accepted);
            let ticket = Ticket::new(&lease.record);
            match room {
                Some(room) => room.take(*lease),
                None => tracing::error!(run = %ticket.run, "the store claimed a run for nobody; its lease will expire"),
            }
            Accepted::Run(ticket)
        }
        Enqueued::Existing(record) => {
            let mut ticket = Ticket::new(&record);
            ticket.settled = is_settled(&record).then_some(record);
            Accepted::Run(ticket)
        }
        Enqueued::GatePending(record) => Accepted::GatePending(record),
        Enqueued::Expired => Accepted::Expired,
        Enqueued::Conflict => Accepted::Conflict,
        Enqueued::NoSession => Accepted::NoSession,
        Enqueued::Forgetting => Accepted::Forgetting,
        Enqueued::Full => Accepted::Full,
    })
}

/// Waits until the run has settled; `None` when it outlasts the bound, or the server's last seconds.
///
/// Cancellation safe: the run is not affected.
pub(crate) async fn wait(shared: &Shared, ticket: Ticket) -> Result<Option<Box<Record>>, Problem> {
    if ticket.settled.is_some() {
        return Ok(ticket.settled);
    }
    let began = shared.app.clock.now();
    let mut seen = ticket.version;
    loop {
        let left = shared.config.sync_max.saturating_sub(shared.app.clock.now().since(began));
        if left.is_zero() {
            return Ok(None);
        }
        let record = tokio::select! {
            biased;
            record = shared.app.runs.wait(&ticket.run, seen, left) => record,
            () = shared.phase.reached(Phase::Hurrying) => return Ok(None),
        };
        match record {
            Ok(Some(record)) if is_settled(&record) => return Ok(Some(Box::new(record))),
            Ok(Some(record)) => seen = record.version,
            Ok(None) => {
                return Err(Problem::new(Code::RunNotFound, "The run's record expired while it was waited for."));
            }
            Err(e) => return Err(with_run(e.into(), &ticket.run)),
        }
    }
}

/// How long an answer waits for the files that say the same.
const FILES_WAIT: Duration = Duration::from_secs(5);

/// Waits until the files of a run that has settled are written, so that whoever has the answer finds them. Not for ever:
/// that a volume is away is said by the record, and is no reason to keep an answer back.
///
/// Cancellation safe: the files are written whoever waits.
pub(crate) async fn wait_for_files(shared: &Shared, record: &Record) {
    let began = shared.app.clock.now();
    let mut latest = Cow::Borrowed(record);
    while latest.files.as_ref().is_some_and(|it| it.state == State::Pending && it.last_error.is_none()) {
        let left = FILES_WAIT.saturating_sub(shared.app.clock.now().since(began));
        if left.is_zero() {
            return;
        }
        let next = tokio::select! {
            biased;
            next = shared.app.runs.wait(&latest.run_id, latest.version, left) => next,
            () = shared.phase.reached(Phase::Hurrying) => return,
        };
        let Ok(Some(next)) = next else { return };
        latest = Cow::Owned(next);
    }
}

/// A future that goes on in a task of its own when it is dropped before its end. As long as its owner stays, it
/// costs no task.
pub(crate) struct ToTheEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> ToTheEnd<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending }; // polled again after its end
        let ready = future.as_mut().poll(cx);
        if ready.is_ready() {
            self.0 = None;
        }
        ready
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(future.in_current_span());
        }
    }
}
